"""All measurements in one table, and which of two models to ship."""

import streamlit as st

from dashboard import components, receipts, state
from dashboard.charts import leaderboard
from dashboard.components import plain
from inference.compare.candidates import decide_models
from inference.compare.diff import CHANGED, diff
from inference.errors import InputError

ROW_HEIGHT, MAX_HEIGHT = 35, 400  # Streamlit's own, in pixels
MAX_LISTED = 40  # checking a measurement takes up to a second

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

search = st.text_input("Filter", key="filter", bind="query-params", placeholder="model, backend, task, data …")
rows = [
    row
    for row in leaderboard.table(listed)
    if all(word in " ".join(map(str, row.values())).lower() for word in search.lower().split())
]
st.dataframe(
    rows,
    hide_index=True,
    width="stretch",
    height=min(MAX_HEIGHT, ROW_HEIGHT * (len(rows) + 1) + 3),  # known before the table is drawn: nothing moves then
    column_config={
        "accuracy, %": st.column_config.NumberColumn(format="%.1f"),
        "macro-F1": st.column_config.NumberColumn(format="%.3f"),
        "p50, ms": st.column_config.NumberColumn(format="%.2f"),
        "p95, ms": st.column_config.NumberColumn(format="%.2f"),
        "speed-up": st.column_config.NumberColumn(format="%.1f×"),
        "model, MB": st.column_config.NumberColumn(format="%.1f"),
        "rows": st.column_config.NumberColumn(format="localized"),
    },
)
shown = {name: listed[name] for name in dict.fromkeys(str(row["measurement"]) for row in rows)}
alike = {name: receipt for name, receipt in shown.items() if leaderboard.compares(receipt, selection.receipt)}
if any(selection.task in receipt["results"]["accuracy"] for receipt in alike.values()):
    components.chart(leaderboard.pareto(alike, selection.task), "all")

st.subheader("Compare two", anchor=False)
first, second = st.columns(2, gap="large")
a = first.selectbox("In use", list(listed), list(listed).index(selection.name), key="in_use", bind="query-params")
others = [name for name in listed if name != a]
b = second.selectbox("Candidate", others, None, key="candidate", bind="query-params", placeholder="none")
if b is None:
    st.caption("Choose a candidate to see whether it may replace the one in use.")
else:
    try:
        verdict = decide_models(listed[a], listed[b], selection.limits, names=(a, b))
        st.markdown(f"**{plain(verdict.sentence)}**")
        st.markdown("\n".join(f"- {reason.decision}: {plain(reason.text)}" for reason in verdict.reasons))
        for caveat in verdict.caveats:
            st.caption(plain(caveat))
    except InputError as error:
        st.info(plain(str(error)))
    changes, notes = diff(listed[a], listed[b])
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
