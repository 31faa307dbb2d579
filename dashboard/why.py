"""Why a row has another label on another backend: both explanations, word by word, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import components
from dashboard.components import plain
from dashboard.templating import render
from inference.backends import TITLES
from inference.explain.agreement import Agreement, agreement_sentence

MIN_WEIGHT = 0.05  # of the largest attribution: smaller ones are only in the table
ALIKE = 0.8  # Kendall's tau from which two orders of words are called alike


def draw(comparison: Mapping[str, Any], reference: str, backend: str) -> None:
    """Draw both explanations with the words marked, and how far they agree."""
    agreement = Agreement(**comparison["agreements"][backend])
    explanations = {name: comparison["explanations"][name] for name in (reference, backend)}
    label = explanations[reference]["label"]
    st.markdown(
        f"#### {plain(_headline(agreement, label))}", help=plain(agreement_sentence(agreement, reference, backend))
    )
    _draw_sides(explanations, reference, backend)
    for note in explanations[reference]["notes"]:
        st.caption(plain(note))
    st.caption(
        "A figure is the drop in the label's log-odds without the word: + supports the label, − opposes it.",
        help=f"On the command line: `python -m inference explain --compare {reference},{backend}`",
    )
    if components.shows_tables():
        _table(explanations, reference, backend)


def draw_known(known: Mapping[str, Any], label: str, reference: str, backend: str) -> None:
    """Draw what is known before the comparison is complete."""
    st.markdown(f"#### Why {plain(label)}: comparing the words …")
    _draw_sides(known, reference, backend)


def _draw_sides(explanations: Mapping[str, Any], reference: str, backend: str) -> None:
    for column, name in zip(st.columns(2, gap="large"), (reference, backend), strict=True):
        if name in explanations:
            explanation = explanations[name]
            column.html(render("words.html", name=name, explanation=explanation, pieces=_pieces(explanation)))
        else:
            column.caption(f"{TITLES[name]}: loading the model …")


def _headline(agreement: Agreement, label: str) -> str:
    if agreement.tau is not None and agreement.tau >= ALIKE:
        return f"Why {label}: both weigh the words alike."
    return f"Why {label}: they differ most on “{' '.join(agreement.differs_most.split())[:40]}”."


def _pieces(explanation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each word with what stands before it, and its attribution if it is large enough to be marked."""
    text, words = explanation["text"], explanation["words"]
    most = max((abs(word["attribution"] or 0.0) for word in words), default=0.0)
    pieces, end = [], 0
    for word in words:
        value = word["attribution"] or 0.0
        weight = abs(value) / most if most else 0.0
        pieces.append(
            {
                "before": text[end : word["start"]],
                "text": word["text"],
                "value": value if weight >= MIN_WEIGHT else None,
                "weight": round(weight, 2),
            }
        )
        end = word["end"]
    return [*pieces, {"before": text[end:], "text": "", "value": None, "weight": 0.0}]


def _table(explanations: Mapping[str, Mapping[str, Any]], reference: str, backend: str) -> None:
    first, second = (explanations[name]["words"] for name in (reference, backend))
    figure = st.column_config.NumberColumn(format="%+.3f")

    def difference(word: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
        if word["attribution"] is None or other["attribution"] is None:
            return None
        return float(other["attribution"] - word["attribution"])

    st.dataframe(
        [
            {
                "Word": word["text"],
                TITLES[reference]: word["attribution"],
                TITLES[backend]: other["attribution"],
                "Difference": difference(word, other),
            }
            for word, other in zip(first, second, strict=True)
        ],
        hide_index=True,
        width="stretch",
        column_config=dict.fromkeys((TITLES[reference], TITLES[backend], "Difference"), figure),
    )
