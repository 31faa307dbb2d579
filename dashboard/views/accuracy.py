"""How often each backend is right, and what it changes against the reference."""

import streamlit as st

from dashboard import components
from dashboard.charts import accuracy, labels
from dashboard.charts import slices as slice_charts
from dashboard.components import plain
from dashboard.state import current
from inference.compare.slices import LABEL, groups, slices

selection = current()
receipt, task = selection.receipt, selection.task
components.page(f"Accuracy: {task}", receipt, tables=True)
left, right = st.columns(2, gap="large")
paired = accuracy.differences(receipt, task, selection.limits.max_drop)
if paired is not None:
    with left:
        components.chart(paired, "differences")
with right if paired is not None else left:
    components.chart(accuracy.scores(receipt, task), "accuracy")
backend = components.against(receipt)
if backend is not None and not receipt["results"]["paired"][task][backend]["flips"]:
    st.success(plain(components.no_changes(receipt, task, backend)))
elif backend is not None:
    left, right = st.columns(2, gap="large")
    with left:
        components.chart(labels.changes(receipt, task, backend), "changes")
    with right:
        parts = slices(receipt, task, backend, groups(receipt, task)[LABEL])
        components.chart(slice_charts.differences(receipt, backend, LABEL, parts), "by_label")
more = st.expander(
    "Macro-F1, confidence, uncertain answers, all mistakes", key="more", on_change="rerun", bind="query-params"
)
if more.open:
    with more:
        left, right = st.columns(2, gap="large")
        with left:
            components.chart(accuracy.scores(receipt, task, "macro_f1"), "macro_f1")
            name = backend or receipt["settings"]["reference"]
            components.chart(labels.confusion(receipt, task, name), "confusion")
        with right:
            components.chart(accuracy.reliability(receipt, task), "reliability")
            slot = st.container()  # the slider is below the chart that it moves, and its value is needed first
            own = round(receipt["model"]["tasks"][task]["threshold"], 2)
            threshold = st.slider(
                "Answer only from this confidence", 0.0, 1.0, own, 0.01, key="threshold", bind="query-params",
                help=f"The model's own threshold for this task is {own:.2f}.",
            )  # fmt: skip
            with slot:
                components.chart(accuracy.coverage(receipt, task, threshold), "coverage")
        if components.shows_tables():
            st.markdown("### Precision, recall and F1 of each label")
            st.dataframe(labels.scores(receipt, task), hide_index=True, width="stretch")
components.footer(receipt)
