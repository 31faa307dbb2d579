"""Disagreements: the rows to which a backend gives another label than the reference, in words, and where they are."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import streamlit as st

from dashboard import components, served, why
from dashboard.charts import slices as slice_charts
from dashboard.charts.formatting import many
from dashboard.charts.style import short
from dashboard.components import plain, reader
from dashboard.jobs import explain
from dashboard.state import Selection, columns_of, current, keep_columns, keep_texts, with_texts, with_words
from dashboard.templating import render
from dashboard.upload import MAX_MB, TYPES, guess_text, read_upload
from inference.backends import TITLES
from inference.calls.formatting import digits, joined, percent, points
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
from inference.compare.slices import groups, row_columns, slices
from inference.errors import InferenceError, InputError
from inference.tables.text_formats import as_csv

PAGE_ROWS = 5  # shown at once, each with its text
MAX_CHARS = 600  # of a text; all of it is in the download, and in its explanation
WHY = "_why"
BANDS = {length_name(low, high): (low, high) for low, high in LENGTHS}
COLUMNS = ("row", "kind", "true", "reference", "reference_confidence", "backend", "backend_confidence", "tokens")
MARKS = {BROKEN: "✗ broken", FIXED: "✓ fixed", BOTH_WRONG: "– both wrong", CHANGED: "≠ label changed"}


def page() -> None:
    selection = current()
    components.page("Disagreements", selection.receipt, tables=True)
    with st.container(horizontal=True, gap="medium"):
        backend = components.against(selection.receipt)
        if backend is None:
            title = TITLES[selection.receipt["settings"]["reference"]]
            st.info(f"This measurement is of {title} alone, so there is nothing to disagree with.")
            return
        receipt = rows_of(selection, backend)
    task, reference = selection.task, receipt["settings"]["reference"]
    rows = disagreements(receipt, task, backend)
    draw_counts(receipt, task, backend, rows)
    if rows:
        shown = filtered(rows)
        if not shown:
            st.info("No row matches these filters. Widen them to see some.")
        elif receipt["data"]["texts"] is not None:
            draw_rows(shown, receipt, task, reference, backend)
        if shown and (components.shows_tables() or receipt["data"]["texts"] is None):
            draw_table(shown, TITLES[reference], TITLES[backend])
        if shown:
            offer_download(shown, task, backend)
        draw_slices(receipt, task, backend)
    ask_for_file(receipt)
    components.footer(receipt)


def rows_of(selection: Selection, backend: str) -> Receipt:
    """Return the measurement whose rows are shown: the selected one, or by default another of the model with texts."""
    receipt = with_texts(selection.receipt)
    other = None if receipt["data"]["texts"] is not None else with_words(selection, backend)
    if other is None:
        return receipt
    sources = dict(sorted([(selection.name, receipt), other], key=lambda source: -_row_count(source[1])))
    chosen = st.segmented_control(
        "Rows of",
        list(sources),
        default=other[0],
        required=True,
        format_func=lambda name: plain(f"{short(name, 40)} ({many(_row_count(sources[name]), 'row')})"),
        key="rows_of",
        help=f"{plain(selection.name)} has no texts. {plain(other[0])} is of the same model and has.",
    )
    return sources[chosen]


def _row_count(receipt: Receipt) -> int:
    return len(receipt["data"]["row_numbers"])


def draw_counts(receipt: Receipt, task: str, backend: str, rows: list[Disagreement]) -> None:
    """Draw how many labels differ, and on request whether that could be chance."""
    pair, title = receipt["results"]["paired"][task][backend], TITLES[backend]
    reference, name = TITLES[receipt["settings"]["reference"]], plain(receipt["data"]["name"])
    if not pair["flips"]:
        st.markdown(f"### {plain(components.no_changes(receipt, task, backend))}")
        st.caption(f"The largest difference in a probability is {pair['max_abs_dp']:.1e}.")
    else:
        kinds = [f"{pair[key]:,} {words}" for key, words in KIND_COUNTS.items() if pair[key]]
        st.markdown(
            f"### {title} changes {pair['flips']:,} of {pair['rows']:,} labels of {name} "
            f"({plain(percent(pair['flips'] / pair['rows']))}): {joined(kinds)}\\.",
            help=plain(in_words(pair, reference, title)),
        )
        st.caption(f"Broken: only {reference} is right. Fixed: only {title} is.")
    if unlabelled := sum(row.kind == CHANGED for row in rows):
        st.caption(f"{many(unlabelled, 'more row')} without a right label changed too.".capitalize())


KIND_COUNTS = {"broken": "broken", "fixed": "fixed", "both_wrong": "wrong on both"}


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


def ask_for_file(receipt: Receipt) -> None:
    """Draw an uploader for the measured file: readers who have it see texts, and slices by its columns."""
    name, has_texts = plain(receipt["data"]["name"]), receipt["data"]["texts"] is not None
    if has_texts and columns_of(receipt):
        return
    what = "Slice by the file's other columns" if has_texts else "Show the texts"
    with st.expander(f"{what} (you need {name})"):
        st.markdown(
            "The measurement contains a hash of its file. Upload the same file, byte for byte, to see its texts and "
            f"columns here. It stays in this server's memory for your session; at most {MAX_MB} MB."
        )
        file = st.file_uploader("The measured file", TYPES, max_upload_size=MAX_MB, key="texts_file")
        if file is None:
            return
        try:
            names = list(columns := read_upload(file.name, file.getvalue()))
            column = st.selectbox("Text column", names, names.index(guess_text(columns)), key="texts_column")
            complete = attach_texts(receipt, file.name, file.getvalue(), column)
            if st.button(what):
                keep_texts(receipt, complete["data"]["texts"])
                keep_columns(receipt, row_columns(receipt, file.name, file.getvalue(), column))
                st.rerun()
        except InputError as error:
            st.error(plain(str(error)))


def filtered(rows: list[Disagreement]) -> list[Disagreement]:
    """Draw the filters, which are in the address, and return the rows that match."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kinds = st.pills(
            "Kind",
            KINDS if any(row.kind == CHANGED for row in rows) else KINDS[:-1],
            selection_mode="multi",
            default=[],
            format_func=str.capitalize,
            key="kind",
            bind="query-params",
        )
        more = st.popover("More filters")
    labels = sorted({row.true for row in rows if row.true})
    right = more.selectbox("Right label", labels, None, placeholder="any", key="label", bind="query-params")
    band = more.selectbox("Length", list(BANDS), None, placeholder="any", key="length", bind="query-params")
    low, high = BANDS[band] if band else (0, None)
    return [
        row
        for row in rows
        if (not kinds or row.kind in kinds)
        and right in (None, row.true)
        and low <= row.tokens
        and (high is None or row.tokens <= high)
    ]


def draw_rows(rows: list[Disagreement], receipt: Receipt, task: str, reference: str, backend: str) -> None:
    """Draw some rows with their texts, each with a button per label that explains it on both backends."""
    pages = -(-len(rows) // PAGE_ROWS)
    slot = st.container()  # the pages are below the rows, and the one that is open is needed first
    number = st.pagination(pages, key=f"rows_page_{pages}") if pages > 1 else 1
    can_explain = explains(receipt)
    for row in rows[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]:
        answers = [
            (reference, row.reference, row.reference_confidence),
            (backend, row.backend, row.backend_confidence),
        ]
        text = short(row.text or "", MAX_CHARS)
        with slot.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.html(render("disagreement.html", row=row, text=text, mark=MARKS[row.kind], answers=answers))
                if can_explain:
                    with st.container(horizontal=True, wrap=False, width="content"):
                        ask_why(row, receipt, task, reference, backend)
            draw_why(row, receipt, task, reference, backend)
    if not can_explain:
        st.caption(why_not(receipt))


def explains(receipt: Receipt) -> bool:
    """Return whether the rows can be explained here: single texts, and of the served model."""
    bundle = served.described()
    return bundle is not None and served.is_of(receipt, bundle) and "pair_column" not in receipt["data"]


def why_not(receipt: Receipt) -> str:
    """Say why the rows cannot be explained."""
    if "pair_column" in receipt["data"]:
        return "Pairs of texts are explained on the page, and by `python -m inference explain TEXT --pair TEXT`."
    bundle, what = served.described(), "is of another model than the served one"
    if bundle is not None and served.renamed_labels(receipt, bundle):
        what = "was made before the labels of the served model changed"
    return f"This measurement {what}, so its rows cannot be explained."


def ask_why(row: Disagreement, receipt: Receipt, task: str, reference: str, backend: str) -> None:
    """Draw a button per label of the row."""
    for place, label in enumerate(dict.fromkeys(filter(None, (row.reference, row.backend, row.true)))):
        question = (receipt["checksum"], task, row.row, label, reference, backend)
        if st.button(f"Why {plain(short(label, 40))}?", key=f"why_{row.row}_{place}"):
            st.session_state[WHY] = (question, None)


def draw_why(row: Disagreement, receipt: Receipt, task: str, reference: str, backend: str) -> None:
    """Draw the explanations of the label that was asked for, if it was of this row."""
    asked, answer = st.session_state.get(WHY, ((), None))
    if asked[:3] != (receipt["checksum"], task, row.row) or asked[4:] != (reference, backend):
        return
    if answer is None:
        place = st.empty()

        def draw_known(known: Mapping[str, Any]) -> None:
            with place.container():
                why.draw_known(known, asked[3], reference, backend)

        try:
            draw_known({})
            with st.spinner("Loading each model, then leaving out one word at a time …"):
                answer = explain(row.text or "", task, asked[3], reference, backend, reader(), draw_known)
            place.empty()
            st.session_state[WHY] = (asked, answer)
        except InferenceError as error:
            place.empty()
            st.session_state.pop(WHY)
            st.error(plain(served.shown(error)))
            return
    why.draw(answer, reference, backend)


def draw_table(rows: list[Disagreement], reference: str, backend: str) -> None:
    """Draw the rows, the broken ones on which the backend is most confident first."""
    share = st.column_config.NumberColumn(format="%.4f")
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


def offer_download(rows: list[Disagreement], task: str, backend: str) -> None:
    st.download_button(
        f"Download {many(len(rows), 'row')} as CSV",
        as_csv([asdict(row) for row in rows], COLUMNS if rows[0].text is None else ("text", *COLUMNS)),
        f"disagreements-{task}-{backend}.csv",
        "text/csv",
        help="Cells that look like formulas get a leading '.",
    )


def draw_slices(receipt: Receipt, task: str, backend: str) -> None:
    """Draw the accuracy on parts of the rows, by what the reader chooses."""
    if not receipt["results"]["paired"][task][backend]["flips"]:
        return
    ways = groups(receipt, task, columns_of(receipt))
    st.subheader("Where it changes", anchor=False)
    way = st.pills(
        "Rows by",
        list(ways),
        default=next(iter(ways)),
        required=True,
        format_func=lambda name: plain(short(name, 40)),
        key="slices",
    )
    parts = slices(receipt, task, backend, ways[way])
    components.chart(slice_charts.differences(receipt, backend, way, parts), "slices_chart")
    if spread := slice_charts.accuracies(parts, backend):
        st.markdown(plain(spread))


page()
