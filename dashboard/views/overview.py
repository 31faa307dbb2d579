"""What to ship, and why."""

import streamlit as st

from dashboard import components, state
from dashboard.charts import overview
from inference.compare.verdict import decide

selection = state.current()
receipt, task = selection.receipt, selection.task
components.page("Overview", receipt, tables=True)
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
components.footer(receipt)
