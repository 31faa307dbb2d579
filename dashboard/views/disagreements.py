"""Disagreements: the rows on which a backend's label is not the reference's."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import streamlit as st

from dashboard import components, served
from dashboard.charts.formatting import digits, many, percent, points
from dashboard.components import plain, reader
from dashboard.jobs import explain
from dashboard.state import current, keep_texts, with_texts
from dashboard.upload import MAX_MB, TYPES, guess_text, read_upload
from inference.backends import TITLES
from inference.compare.benchmark import LENGTHS, length_name
from inference.compare.disagreements import BOTH_WRONG, BROKEN, FIXED, KINDS, Disagreement, attach_texts, disagreements
from inference.compare.receipt import Receipt
from inference.errors import InferenceError, InputError
from inference.explain.agreement import Agreement, agreement_sentence
from inference.tables.spreadsheet import as_csv

MOST_WHY = 200  # rows to choose from; more than anybody reads
WHY = "_why"
BANDS = {length_name(low, high): (low, high) for low, high in LENGTHS}
COLUMNS = ("row", "kind", "true", "reference", "reference_confidence", "backend", "backend_confidence", "tokens")


def page() -> None:
    selection = current()
    receipt = with_texts(selection.receipt)
    components.page("Disagreements", receipt)
    reference = receipt["settings"]["reference"]
    others = [name for name in receipt["settings"]["backends"] if name != reference]
    if not others:
        st.info(f"This receipt has {TITLES[reference]} alone, so there is nothing that it could disagree with.")
        return
    st.markdown(
        f"Rows of **{plain(selection.task)}** to which a backend gives another label than {TITLES[reference]}. "
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
    found = disagreements(receipt, selection.task, backend)
    pair = receipt["results"]["paired"][selection.task][backend]
    counts(pair, TITLES[reference], TITLES[backend])
    if not found:
        return
    if receipt["data"]["texts"] is None:
        ask_for_texts(selection.receipt)
    shown = filtered(found)
    if not shown:
        st.info("No row is left by these filters. Widen them to see some.")
        return
    show(shown, len(found), TITLES[reference], TITLES[backend])
    name = f"disagreements-{selection.task}-{backend}.csv"
    columns = COLUMNS if shown[0].text is None else ("text", *COLUMNS)
    st.download_button(
        f"Download {many(len(shown), 'row')} as CSV",
        as_csv([asdict(one) for one in shown], columns),
        name,
        "text/csv",
        help="A cell that a spreadsheet would take for a formula has a ' before it.",
    )
    if shown[0].text is not None:
        why(shown, selection.receipt, selection.task, reference, backend)


def counts(pair: Mapping[str, Any], reference: str, backend: str) -> None:
    """How many there are, and whether so many could be luck."""
    if not pair["flips"]:
        st.success(
            f"{backend} gives each of the {pair['rows']:,} rows the label that {reference} gives it: there is no "
            f"disagreement to show. The largest difference in a probability is {pair['max_abs_dp']:.1e}."
        )
        most = 1 - pair["agreement"]["low"]
        st.caption(f"Of rows like these, at most {percent(most)} get another label (95 % certainty).")
        return
    with st.container(horizontal=True, gap="small"):
        st.metric("Other label", f"{pair['flips']:,} of {pair['rows']:,}", width="content")
        for name, key in (("Broken", "broken"), ("Fixed", "fixed"), ("Both wrong", "both_wrong")):
            st.metric(name, f"{pair[key]:,}", width="content")
    st.markdown(plain(in_words(pair, reference, backend)))


def in_words(pair: Mapping[str, Any], reference: str, backend: str) -> str:
    """What the exact McNemar test says, and what it does not."""
    broken, fixed, p, change = pair["broken"], pair["fixed"], pair["mcnemar_p"], pair["delta_accuracy"]
    interval = (
        f"The accuracy of {backend} minus that of {reference} is {points(change['value'])}, with 95 % certainty above "
        f"{points(change['low'])} and with as much below {points(change['high'])}."
    )
    if broken + fixed == 0:
        return f"Where the labels differ neither is right, so accuracy is the same. {interval}"
    split = f"{broken} broken and {fixed} fixed"
    if p < 0.05:
        worse = "less" if broken > fixed else "more"
        return (
            f"{split}: if neither were right more often, a split at least so uneven would come up in only "
            f"{digits(p * 100, 2)} of 100 cases (McNemar's exact test, p = {digits(p, 2)}). {backend} is right {worse} "
            f"often. {interval}"
        )
    often = "practically always" if p > 0.995 else f"in {digits(p * 100, 2)} of 100 cases"
    return (
        f"{split}: if neither were right more often, a split at least so uneven would come up {often} (McNemar's exact "
        f"test, p = {digits(p, 2)}). That is no sign of a difference, and no proof that there is none. {interval}"
    )


def ask_for_texts(receipt: Receipt) -> None:
    """The receipt holds none; whoever has the file can see them here."""
    data = receipt["data"]
    with st.expander(f"Show the texts (they are not in the receipt; you need {plain(data['name'])})"):
        st.markdown(
            f"The receipt holds row numbers and a hash of the file, no texts. With the same file, byte for byte, the "
            f"texts appear here. It stays in the memory of this server for your session; {MAX_MB} MB at most."
        )
        file = st.file_uploader("The file that was measured", TYPES, max_upload_size=MAX_MB, key="texts_file")
        if file is None:
            return
        try:
            columns = read_upload(file.name, file.getvalue())
            names = list(columns)
            column = st.selectbox("Text column", names, names.index(guess_text(columns)), key="texts_column")
            held = attach_texts(receipt, file.name, file.getvalue(), column)
        except InputError as error:
            st.error(plain(str(error)))
            return
        if st.button("Show the texts"):
            keep_texts(receipt, held["data"]["texts"])
            st.rerun()


def filtered(found: list[Disagreement]) -> list[Disagreement]:
    """Those that the filters leave. The filters are in the address."""
    kind, label, length = st.columns([2, 1, 1])
    kinds = kind.pills(
        "Kind", KINDS, selection_mode="multi", default=[], format_func=str.capitalize, key="kind", bind="query-params"
    )
    labels = sorted({one.true for one in found})
    wanted = label.selectbox("Right label", labels, None, placeholder="any", key="label", bind="query-params")
    band = length.selectbox("Length", list(BANDS), None, placeholder="any", key="length", bind="query-params")
    low, high = BANDS[band] if band else (0, None)
    return [
        one
        for one in found
        if (not kinds or one.kind in kinds)
        and wanted in (None, one.true)
        and low <= one.tokens
        and (high is None or one.tokens <= high)
    ]


def show(shown: list[Disagreement], total: int, reference: str, backend: str) -> None:
    """The table: the broken rows of which the backend was surest first."""
    whole = " A double click shows a text whole." if shown[0].text is not None else ""
    st.caption(f"{len(shown):,} of {many(total, 'row')}. Broken rows of which {backend} is surest come first.{whole}")
    # The table's own download would write formulas as they are; the button below it does not.
    st.html('<style>.st-key-differing button[aria-label="Download as CSV"] { display: none; }</style>')
    marks = {BROKEN: "✗ broken", FIXED: "✓ fixed", BOTH_WRONG: "– both wrong"}
    st.container(key="differing").dataframe(
        [
            ({} if one.text is None else {"Text": one.text})
            | {
                "Kind": marks[one.kind],
                "Right label": one.true,
                reference: one.reference,
                backend: one.backend,
                f"{reference} sure": one.reference_confidence,
                f"{backend} sure": one.backend_confidence,
                "Tokens": one.tokens,
                "Row": one.row,
            }
            for one in shown
        ],
        hide_index=True,
        width="stretch",
        column_config={
            "Text": st.column_config.TextColumn(width="large"),
            f"{reference} sure": st.column_config.NumberColumn(format="percent"),
            f"{backend} sure": st.column_config.NumberColumn(format="percent"),
            "Row": st.column_config.NumberColumn(help="Of the file, from 1, the header not counted", format="%d"),
        },
    )


def why(shown: list[Disagreement], receipt: Receipt, task: str, reference: str, backend: str) -> None:
    """For a row that the reader chooses: what each word does to a label on both backends, and how far they agree."""
    st.subheader("Why", anchor=False)
    bundle = served.described()
    if bundle is None or not served.is_of(receipt, bundle):
        st.caption("This receipt is of another model than the one that is served, so its rows cannot be explained.")
        return
    pick, of, ask = st.columns([4, 2, 1], vertical_alignment="bottom")
    one = pick.selectbox("Row", shown[:MOST_WHY], format_func=_row, key="why_row")
    label = of.selectbox(
        "What speaks for", list(dict.fromkeys([one.reference, one.backend, one.true])), key=f"why_label_{one.row}"
    )
    asked = (receipt["checksum"], task, one.row, label, reference, backend)
    if ask.button("Why", width="stretch", key="why"):
        st.session_state.pop(WHY, None)
        try:
            with st.spinner("Leaving out one word at a time, on both. The models are opened first."):
                st.session_state[WHY] = (asked, explain(one.text or "", task, label, reference, backend, reader()))
        except InferenceError as error:
            st.error(plain(served.shown(error)))
    held = st.session_state.get(WHY)
    if held is not None and held[0] == asked:
        because(held[1], reference, backend)


def _row(one: Disagreement) -> str:
    text = " ".join((one.text or "").split())
    return f"{one.row}: {text[:80]}{'…' if len(text) > 80 else ''}"


def because(found: Mapping[str, Any], reference: str, backend: str) -> None:
    """Both explanations, word by word."""
    first, second = (found["explanations"][name] for name in (reference, backend))
    st.markdown(plain(agreement_sentence(Agreement(**found["agreements"][backend]), reference, backend)))
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
                "Word": one["text"],
                TITLES[reference]: one["attribution"],
                TITLES[backend]: two["attribution"],
                "Difference": two["attribution"] - one["attribution"],
            }
            for one, two in zip(first["words"], second["words"], strict=True)
        ],
        hide_index=True,
        width="stretch",
        column_config=dict.fromkeys((TITLES[reference], TITLES[backend], "Difference"), figure),
    )
    for note in first["notes"]:
        st.caption(plain(note))
    st.caption(
        "What the log-odds of the label lose when a word is left out: + speaks for it, − against it. On the command "
        f"line: `python -m inference explain --compare {reference},{backend}`"
    )


page()
