"""What to ship, and why."""

import streamlit as st

from dashboard import components, receipts, state
from dashboard.charts import overview
from inference.compare.diff import CHANGED, diff
from inference.compare.verdict import decide
from inference.errors import InputError

selection = state.current()
receipt, task = selection.receipt, selection.task
components.page("Overview", receipt)
components.verdict(decide(receipt, selection.limits), selection.limits)
components.kpis(receipt, task)
components.chart(overview.pareto(receipt, task), "pareto")
left, right = st.columns(2, gap="large")
with left:
    components.chart(overview.speedup(receipt), "speedup")
with right:
    slot = st.container()  # the price is below the chart that it moves, and is needed first
    price = st.number_input(
        "Price of the machine, $ an hour", 0.001, None, 0.10, 0.01, format="%.3f", key="price", bind="query-params"
    )
    with slot:
        components.chart(overview.cost(receipt, price), "cost")

st.subheader("Compare with another measurement", anchor=False)
shelf = receipts.shelf()
others = [name for name in state.names(shelf) if name != selection.name]
other = st.selectbox("Other measurement", others, None, key="other", bind="query-params", placeholder="none")
if other is not None:
    try:
        changes, notes = diff(receipt, state.receipt(other, shelf))
    except InputError as error:
        st.error(components.plain(str(error)))
        st.stop()
    for note in notes:
        st.warning(components.plain(note))
    beyond = sum(change.status == CHANGED for change in changes)
    st.markdown(f"{beyond} of {len(changes)} lines, of figures and of how they were measured, differ beyond noise.")
    st.dataframe(
        [
            {"figure": change.what, "this one": change.before, "the other": change.after, "verdict": change.status}
            for change in changes
        ],
        hide_index=True,
        width="stretch",
    )
