"""Disagreements: the rows on which a backend's label is not the reference's."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import streamlit as st

from dashboard import components, served
from dashboard.charts.formatting import many
from dashboard.components import plain, reader
from dashboard.jobs import explain
from dashboard.state import current, keep_texts, with_texts
from dashboard.upload import MAX_MB, TYPES, guess_text, read_upload
from inference.backends import TITLES
from inference.calls.formatting import digits, percent, points
from inference.compare.benchmark import LENGTHS, length_name
from inference.compare.disagreements import (
    BOTH_WRONG,
    BROKEN,
    CHANGED,
    FIXED,
    KINDS,
    Disagreement,
    attach_texts,
    disagreements,
)
from inference.compare.receipt import Receipt
from inference.errors import InferenceError, InputError
from inference.explain.agreement import Agreement, agreement_sentence
from inference.tables.text_formats import as_csv

MAX_WHY = 200  # rows to choose from
WHY = "_why"
BANDS = {length_name(low, high): (low, high) for low, high in LENGTHS}
COLUMNS = ("row", "kind", "true", "reference", "reference_confidence", "backend", "backend_confidence", "tokens")
MARKS = {BROKEN: "✗ broken", FIXED: "✓ fixed", BOTH_WRONG: "– both wrong", CHANGED: "≠ label changed"}


def page() -> None:
    selection = current()
    receipt, task = with_texts(selection.receipt), selection.task
    components.page("Disagreements", receipt)
    reference = receipt["settings"]["reference"]
    others = [name for name in receipt["settings"]["backends"] if name != reference]
    if not others:
        st.info(f"This measurement is of {TITLES[reference]} alone, so there is nothing to disagree with.")
        return
    st.markdown(
        f"Rows of **{plain(task)}** to which a backend gives another label than {TITLES[reference]}. "
        f"*Broken*: only {TITLES[reference]} is right. *Fixed*: only the other is. *Both wrong*: neither."
    )
    backend = st.segmented_control(
        f"{TITLES[reference]} against",
        others,
        default=others[-1],
        required=True,
        format_func=TITLES.__getitem__,
        key="against",
        bind="query-params",
    )
    rows = disagreements(receipt, task, backend)
    draw_counts(receipt["results"]["paired"][task][backend], TITLES[reference], TITLES[backend])
    if not rows:
        return
    if receipt["data"]["texts"] is None:
        ask_for_texts(selection.receipt)
    shown = filtered(rows)
    if not shown:
        st.info("No row matches these filters. Widen them to see some.")
        return
    draw_table(shown, len(rows), TITLES[reference], TITLES[backend])
    has_texts = shown[0].text is not None
    st.download_button(
        f"Download {many(len(shown), 'row')} as CSV",
        as_csv([asdict(row) for row in shown], ("text", *COLUMNS) if has_texts else COLUMNS),
        f"disagreements-{task}-{backend}.csv",
        "text/csv",
        help="Cells that look like formulas get a leading '.",
    )
    if has_texts:
        draw_why(shown, selection.receipt, task, reference, backend)


def draw_counts(pair: Mapping[str, Any], reference: str, backend: str) -> None:
    """Draw how many rows differ, and whether that could be chance."""
    if not pair["flips"]:
        st.success(
            f"{backend} gives each of the {pair['rows']:,} rows the same label as {reference}: there is no "
            f"disagreement to show. The largest difference in a probability is {pair['max_abs_dp']:.1e}."
        )
        share = percent(1 - pair["agreement"]["low"])
        st.caption(f"Of rows like these, at most {share} get another label (95% confidence).")
        return
    with st.container(horizontal=True, gap="small"):
        st.metric("Changed labels", f"{pair['flips']:,} of {pair['rows']:,}", width="content")
        for name, key in (("Broken", "broken"), ("Fixed", "fixed"), ("Both wrong", "both_wrong")):
            st.metric(name, f"{pair[key]:,}", width="content")
    st.markdown(plain(in_words(pair, reference, backend)))


def in_words(pair: Mapping[str, Any], reference: str, backend: str) -> str:
    """Explain the result of the exact McNemar test."""
    broken, fixed, p, change = pair["broken"], pair["fixed"], pair["mcnemar_p"], pair["delta_accuracy"]
    interval = (
        f"The accuracy of {backend} minus that of {reference} is {points(change['value'])}: with 95% confidence above "
        f"{points(change['low'])}, and with 95% confidence below {points(change['high'])}."
    )
    if broken + fixed == 0:
        return f"Neither is right on any of these rows, so accuracy is the same. {interval}"
    often = "practically always" if p > 0.995 else f"in {digits(p * 100, 2)} of 100 cases"
    conclusion = "This is no evidence of a difference, and no proof that there is none."
    if p < 0.05:
        often = f"in only {digits(p * 100, 2)} of 100 cases"
        conclusion = f"{backend} is right {'less' if broken > fixed else 'more'} often."
    return (
        f"{broken} broken and {fixed} fixed: if neither were right more often, a split at least so uneven would occur "
        f"{often} (McNemar's exact test, p = {digits(p, 2)}). {conclusion} {interval}"
    )


def ask_for_texts(receipt: Receipt) -> None:
    """Draw an uploader for the measured file: readers who have it can see the texts."""
    name = plain(receipt["data"]["name"])
    with st.expander(f"Show the texts (they are not in the measurement; you need {name})"):
        st.markdown(
            "The measurement contains row numbers and a hash of the file, but no texts. Upload the same file, byte for "
            f"byte, to see them here. It stays in this server's memory for your session; at most {MAX_MB} MB."
        )
        file = st.file_uploader("The measured file", TYPES, max_upload_size=MAX_MB, key="texts_file")
        if file is None:
            return
        try:
            columns = read_upload(file.name, file.getvalue())
            names = list(columns)
            column = st.selectbox("Text column", names, names.index(guess_text(columns)), key="texts_column")
            complete = attach_texts(receipt, file.name, file.getvalue(), column)
        except InputError as error:
            st.error(plain(str(error)))
            return
        if st.button("Show the texts"):
            keep_texts(receipt, complete["data"]["texts"])
            st.rerun()


def filtered(rows: list[Disagreement]) -> list[Disagreement]:
    """Draw the filters, which are in the address, and return the rows that match."""
    kind, label, length = st.columns([2, 1, 1])
    kinds = kind.pills(
        "Kind", KINDS, selection_mode="multi", default=[], format_func=str.capitalize, key="kind", bind="query-params"
    )
    labels = sorted({row.true for row in rows if row.true})
    right = label.selectbox("Right label", labels, None, placeholder="any", key="label", bind="query-params")
    band = length.selectbox("Length", list(BANDS), None, placeholder="any", key="length", bind="query-params")
    low, high = BANDS[band] if band else (0, None)
    return [
        row
        for row in rows
        if (not kinds or row.kind in kinds)
        and right in (None, row.true)
        and low <= row.tokens
        and (high is None or row.tokens <= high)
    ]


def draw_table(rows: list[Disagreement], total: int, reference: str, backend: str) -> None:
    """Draw the rows, the broken ones on which the backend is most confident first."""
    hint = " Double-click a text to read all of it." if rows[0].text is not None else ""
    st.caption(
        f"{len(rows):,} of {many(total, 'row')}. Broken rows come first, the most confident answers of {backend} at "
        f"the top.{hint}"
    )
    share = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        [
            ({} if row.text is None else {"Text": row.text})
            | {
                "Kind": MARKS[row.kind],
                "Right label": row.true or "",
                reference: row.reference,
                backend: row.backend,
                f"{reference} confidence": row.reference_confidence,
                f"{backend} confidence": row.backend_confidence,
                "Tokens": row.tokens,
                "Row": row.row,
            }
            for row in rows
        ],
        hide_index=True,
        width="stretch",
        column_config={
            "Text": st.column_config.TextColumn(width="large"),
            f"{reference} confidence": share,
            f"{backend} confidence": share,
            "Row": st.column_config.NumberColumn(help="In the file, from 1, without the header", format="%d"),
        },
    )


def draw_why(rows: list[Disagreement], receipt: Receipt, task: str, reference: str, backend: str) -> None:
    """Draw, for a row of the reader's choice, how much each word counts on both backends, and how far they agree."""
    st.subheader("Why", anchor=False)
    bundle = served.described()
    if bundle is None or not served.is_of(receipt, bundle):
        what = "is of another model than the served one"
        if bundle is not None and served.renamed_labels(receipt, bundle):
            what = "was made before the labels of the served model changed"
        st.caption(f"This measurement {what}, so its rows cannot be explained.")
        return
    if "pair_column" in receipt["data"]:
        st.caption("Pairs of texts are explained on the page, and by `python -m inference explain TEXT --pair TEXT`.")
        return
    pick, of, ask = st.columns([4, 2, 1], vertical_alignment="bottom")
    row = pick.selectbox("Row", rows[:MAX_WHY], format_func=_title, key="why_row")
    labels = list(dict.fromkeys([row.reference, row.backend, *([row.true] if row.true else [])]))
    label = of.selectbox("Explain the label", labels, key=f"why_label_{row.row}")
    question = (receipt["checksum"], task, row.row, label, reference, backend)
    if ask.button("Explain", width="stretch", key="why"):
        st.session_state.pop(WHY, None)
        try:
            with st.spinner("Loading the models, then leaving out one word at a time on both …"):
                explanations = explain(row.text or "", task, label, reference, backend, reader())
            st.session_state[WHY] = (question, explanations)
        except InferenceError as error:
            st.error(plain(served.shown(error)))
    asked, explanations = st.session_state.get(WHY, (None, {}))
    if asked == question:
        draw_explanations(explanations, reference, backend)


def _title(row: Disagreement) -> str:
    text = " ".join((row.text or "").split())
    return f"{row.row}: {text[:80]}{'…' if len(text) > 80 else ''}"


def draw_explanations(comparison: Mapping[str, Any], reference: str, backend: str) -> None:
    """Draw both explanations, word by word."""
    first, second = (comparison["explanations"][name] for name in (reference, backend))
    st.markdown(plain(agreement_sentence(Agreement(**comparison["agreements"][backend]), reference, backend)))
    st.markdown(
        plain(
            f"The label {first['label']} has the probability {first['score']:.4f} on {TITLES[reference]} and "
            f"{second['score']:.4f} on {TITLES[backend]}."
        )
    )
    figure = st.column_config.NumberColumn(format="%+.3f")
    st.dataframe(
        [
            {
                "Word": word["text"],
                TITLES[reference]: word["attribution"],
                TITLES[backend]: other["attribution"],
                "Difference": other["attribution"] - word["attribution"],
            }
            for word, other in zip(first["words"], second["words"], strict=True)
        ],
        hide_index=True,
        width="stretch",
        column_config=dict.fromkeys((TITLES[reference], TITLES[backend], "Difference"), figure),
    )
    for note in first["notes"]:
        st.caption(plain(note))
    st.caption(
        "The drop in the label's log-odds when a word is left out: + speaks for the label, − against it. On the "
        f"command line: `python -m inference explain --compare {reference},{backend}`"
    )


page()
