"""All measurements in one table, and which of two models to ship."""

import streamlit as st

from dashboard import components, receipts, state
from dashboard.charts import leaderboard
from dashboard.charts.formatting import many
from dashboard.charts.leaderboard import CARD
from dashboard.charts.style import short
from dashboard.comparing import compared, incomparable
from dashboard.components import plain
from dashboard.templating import render
from inference.backends import TITLES
from inference.compare.candidates import SIDE_BY_SIDE
from inference.compare.comparable import is_one_model
from inference.compare.diff import CHANGED
from inference.errors import InputError

ROW_HEIGHT, MAX_HEIGHT = 35, 400  # Streamlit's own, in pixels
MAX_LISTED = 40  # checking a measurement takes up to a second


def draw_pair(a: str, b: str) -> None:
    """Draw whether the second measurement's model may replace the first's, and what differs."""
    common = [name for name in listed[a]["settings"]["backends"] if name in listed[b]["settings"]["backends"]]
    backend = None
    if common:
        backend = st.segmented_control(
            "Runtime of both",
            common,
            format_func=TITLES.__getitem__,
            key="runtime_of_both",
            help="None chosen: of two models the one that each would ship; of one model every runtime, with itself.",
        )
    if is_one_model(listed[a], listed[b]):
        st.caption("Both measurements are of one model, so each runtime is compared with itself.")
    verdicts, figures, changes, notes = compared(listed[a], listed[b], selection.limits, backend, (a, b))
    groups = [
        leaderboard.Group(short(task, 80), "in use → candidate", list(lines.items())) for task, lines in figures.items()
    ]
    if groups:
        st.html(render("cards.html", title="Side by side", headings=SIDE_BY_SIDE, groups=groups, scrolls=False))
    for verdict in verdicts:
        st.markdown(f"**{plain(verdict.sentence)}**")
        st.markdown("\n".join(f"- {reason.decision}: {plain(reason.text)}" for reason in verdict.reasons))
    for caveat in dict.fromkeys(caveat for verdict in verdicts for caveat in verdict.caveats):
        st.caption(plain(caveat))
    for note in notes:
        st.caption(plain(note))
    beyond = sum(change.status == CHANGED for change in changes)
    with st.expander(f"{beyond} of {len(changes)} figures and settings differ beyond noise"):
        st.dataframe(
            [
                {"figure": change.what, "in use": change.before, "candidate": change.after, "verdict": change.status}
                for change in changes
            ],
            hide_index=True,
            width="stretch",
        )


selection = state.current()
shelf = receipts.shelf()
names = [selection.name, *(name for name in state.names(shelf) if name != selection.name)]
listed = {}
for name in names[:MAX_LISTED]:
    try:
        listed[name] = state.receipt(name, shelf)
    except InputError as error:
        st.warning(f"**{plain(name)}** is not listed. {plain(str(error))}")
st.header("Leaderboard", anchor=False)
if len(names) > MAX_LISTED:
    st.caption(f"The first {MAX_LISTED} of {len(names)} measurements.")

search = st.text_input("Filter", key="filter", bind="query-params", placeholder="model, runtime, task, data …")
rows = [
    row
    for row in leaderboard.table(listed)
    if all(word in " ".join(map(str, row.values())).lower() for word in search.lower().split())
]
with st.container(key="wide_rows"):
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        placeholder="–",
        height=min(MAX_HEIGHT, ROW_HEIGHT * (len(rows) + 1) + 3),  # known before the table is drawn: nothing moves then
        column_config={
            "accuracy, %": st.column_config.NumberColumn(format="%.1f"),
            "macro-F1": st.column_config.NumberColumn(format="%.3f", help="The mean F1 of all labels, rare or common."),
            "p50, ms": st.column_config.NumberColumn(
                format="%.2f", help="Typical time: half of the texts take no longer."
            ),
            "p95, ms": st.column_config.NumberColumn(format="%.2f", help="Slow time: 95 of 100 texts take no longer."),
            "speed-up": st.column_config.NumberColumn(
                format="%.1f×", help="How many times as fast as the first runtime of the measurement."
            ),
            "model, MB": st.column_config.NumberColumn(format="%.1f", help="The model's files, without libraries."),
            "rows": st.column_config.NumberColumn(format="localized"),
        },
    )
with st.container(key="phone_rows"):  # frame.html shows either
    groups = leaderboard.cards(listed, rows)
    st.html(render("cards.html", title="All measurements", headings=CARD, groups=groups, scrolls=True))
shown = {name: listed[name] for name in dict.fromkeys(str(row["measurement"]) for row in rows)}
alike = {name: receipt for name, receipt in shown.items() if leaderboard.compares(receipt, selection.receipt)}
if any(selection.task in receipt["results"]["accuracy"] for receipt in alike.values()):
    components.chart(leaderboard.pareto(alike, selection.task), "all")

st.subheader("Compare two", anchor=False)
first, second = st.columns(2, gap="small")
a = first.selectbox("In use", list(listed), list(listed).index(selection.name), key="in_use", bind="query-params")
refused = {name: why for name in listed if name != a and (why := incomparable(listed[a], listed[name]))}
others = [name for name in listed if name != a and name not in refused]
asked = st.query_params.get("candidate")
if st.session_state.get("candidate") not in others:
    st.session_state.pop("candidate", None)
b = second.selectbox("Candidate", others, None, key="candidate", bind="query-params", placeholder="none")
if asked in refused:
    st.info(f"**{plain(asked)}** cannot be compared with {plain(a)}. {plain(refused[asked])}")
if b is not None:
    draw_pair(a, b)
elif others:
    st.caption("Choose a candidate to see whether it may replace the one in use.")
else:
    st.caption(
        "No other measurement here can be compared with the one in use. Measure two models on the same rows: "
        "`python -m inference compare --model A --model B --data FILE`"
    )
if refused:
    with st.expander(f"Not offered: {many(len(refused), 'measurement')} that cannot be compared with {plain(a)}"):
        st.markdown("\n".join(f"- **{plain(name)}**: {plain(why)}" for name, why in refused.items()))
