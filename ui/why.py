"""The tab that says why: which words of the text speak for a label, and which against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from inference.assets import FAITHFULNESS
from inference.backends import runtime
from inference.bundle import Bundle
from inference.errors import InferenceError, InputError
from inference.explain.explanation import GRADIENTS, METHOD_TITLES, OCCLUSION, Attribution, Explanation, signed
from inference.explain.faithfulness import FIGURES, find_record, in_words
from inference.models import Models
from ui.render import breakable, message, title

PREDICTED = ""  # the choice that stands for the label that the model gives
SMALL = 0.05  # of the largest attribution: what is below has its figure in the table only
OTHER_RUNTIME = (
    "Integrated gradients need the gradients of PyTorch. Choose PyTorch as the runtime of the answer, or let each word "
    "be left out: that works on every runtime."
)


@dataclass(frozen=True)
class Panel:
    """The widgets of the tab."""

    task: gr.Dropdown
    label: gr.Dropdown
    method: gr.Radio
    found: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """What an explanation depends on beside the text and the runtime, in the order that `explained` takes it."""
        return [self.task, self.label, self.method]


def panel(bundle: Bundle) -> Panel:
    """Draw them."""
    first = next(iter(bundle.tasks))
    methods = [("Leave out one word at a time", OCCLUSION)]
    if "pytorch" in bundle.backends:
        methods.append(("Integrated gradients (PyTorch)", GRADIENTS))
    with gr.Row(elem_id="why-asked"):
        task = gr.Dropdown(list(bundle.tasks), value=first, label="Task", min_width=140, elem_id="why-task")
        label = gr.Dropdown(labels(bundle, first), value=PREDICTED, label="Label", min_width=200, elem_id="why-label")
        method = gr.Radio(methods, value=OCCLUSION, label="Method", min_width=280, elem_id="why-method")
    return Panel(task, label, method, gr.HTML(elem_id="why"))


def labels(bundle: Bundle, task: str) -> list[tuple[str, str]]:
    """The choices of the label of a task, as they are called and as they are given on."""
    return [("the one that the model gives", PREDICTED), *((label, label) for label in bundle.tasks[task].labels)]


def explained(models: Models, text: str, backend: str, task: str, label: str, method: str) -> str:
    """The explanation of one text as HTML.

    Raises:
        InferenceError: there is none for this text.
    """
    if method == GRADIENTS and runtime(backend) != "pytorch":
        return message(InputError(OTHER_RUNTIME))
    found = models.explain(text, backend, task, label or None, method)
    return html(found, _record(models.bundle, found))


def html(found: Explanation, record: Mapping[str, Any] | None = None) -> str:
    """An explanation: the text with its words marked, what to know, every figure, and how far such are to be believed.

    Args:
        record: of the check of this model, backend and method, if there is one.
    """
    given = "" if found.label == found.predicted else f" (the model says {breakable(found.predicted)})"
    # A word of another direction must not turn the sentence that quotes it.
    told = (re.sub("“(.*?)”", r"“<bdi>\1</bdi>”", escape(note)) for note in found.notes)
    notes = "".join(f'<p class="cut"><b>Note:</b> {note}</p>' for note in told)
    return (
        f'<div class="why {escape(found.backend)}"><p class="summary" role="status">Why '
        f'<b>{breakable(found.label)}</b> <span class="figure">{found.score:.4f}</span>{given}: {_sentence(found)}</p>'
        f'<p class="legend"><span class="word for">word <small>+1.2</small></span> speaks for it, '
        f'<span class="word against">word <small>−1.2</small></span> against it; the deepest colour is the largest '
        f"figure in this text.</p>"
        f'<p class="words" dir="auto">{_marked(found)}</p>{notes}'
        f'<details class="table"><summary>Every word as a table</summary>{_table(found)}</details>'
        f'<p class="small">{_about(found)}</p>{_badge(record, found.task)}</div>'
    )


def _sentence(found: Explanation) -> str:
    """The words that count most on either side, in words."""
    ranked = sorted(found.words, key=lambda word: -abs(word.attribution or 0.0))
    most = abs(ranked[0].attribution or 0.0) if ranked else 0.0
    sides = {
        "for": [word for word in ranked if (word.attribution or 0.0) > SMALL * most],
        "against": [word for word in ranked if (word.attribution or 0.0) < -SMALL * most],
    }
    told = [
        f"{side} it most {' and '.join(f'<q><bdi>{escape(word.text)}</bdi></q>' for word in words[:2])}"
        for side, words in sides.items()
        if words
    ]
    return f"{'; '.join(told)}." if told else "no word of the text moves it."


def _marked(found: Explanation) -> str:
    """The text as it was given, word by word."""
    most = max((abs(word.attribution or 0.0) for word in found.words), default=0.0)
    parts, at = [], found.read[0]
    if found.read[0]:
        parts.append(f'<span class="unread">{escape(found.text[: found.read[0]])}</span>')
    for word in found.words:
        parts.append(escape(found.text[at : word.start]) + _word(word, most))
        at = word.end
    parts.append(escape(found.text[at : found.read[1]]))
    if found.read[1] < len(found.text):
        parts.append(f'<span class="unread">{escape(found.text[found.read[1] :])}</span>')
    return "".join(parts)


def _word(word: Attribution, most: float) -> str:
    if word.attribution is None:
        return f'<span class="word untried"><bdi>{escape(word.text)}</bdi></span>'
    weight = abs(word.attribution) / most if most else 0.0
    if weight < SMALL:
        return f"<bdi>{escape(word.text)}</bdi>"
    side = "for" if word.attribution > 0 else "against"
    return (
        f'<span class="word {side}" style="--weight:{weight:.2f}"><bdi>{escape(word.text)}</bdi>'
        f'<small dir="ltr">{signed(word.attribution, 2)}</small></span>'
    )


def _table(found: Explanation) -> str:
    measured = found.method == OCCLUSION
    heads = ["word", "log-odds", *(["probability without it"] if measured else [])]
    rows = []
    for word in found.words:
        cells = ["not tried" if word.attribution is None else signed(word.attribution, 4)]
        if measured:
            cells.append("" if word.without is None else f"{word.without:.4f}")
        rows.append(
            f'<tr><th scope="row"><bdi>{escape(word.text)}</bdi></th>'
            + "".join(f'<td class="figure">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _about(found: Explanation) -> str:
    """What the figures are, and how they came about."""
    what = (
        "A figure is what a word adds to the log-odds of the label, ln(p / (1 − p)): 0.7 doubles the odds, −0.7 halves "
        f"them. {title(found.backend)}, {METHOD_TITLES[found.method]}, {found.seconds * 1000:,.0f} ms."
    )
    if found.convergence_delta is None:
        return f"{what} Each word was left out in turn, and the rest answered anew."
    return (
        f"{what} From padding ({signed(found.baseline_log_odds or 0.0, 2)}) to the text "
        f"({signed(found.log_odds, 2)}) in {found.n_steps} steps; the figures miss the difference by "
        f"{signed(found.convergence_delta, 4)}."
    )


def _badge(record: Mapping[str, Any] | None, task: str) -> str:
    if record is None or task not in record["tasks"]:
        return ""
    good = all(record["tasks"][task][name]["difference"]["low"] > 0 for name in FIGURES)
    mark = "✓ beats random words" if good else "? no better than random words"
    sentences = " ".join(escape(sentence) for sentence in in_words(record, task))
    return f'<p class="small"><span class="badge{" good" if good else ""}">{mark}</span> {sentences}</p>'


def _record(bundle: Bundle, found: Explanation) -> dict[str, Any] | None:
    try:
        return find_record(FAITHFULNESS, bundle, found.backend, found.method)
    except InferenceError:  # a file that somebody damaged is no reason to give no explanation
        return None
