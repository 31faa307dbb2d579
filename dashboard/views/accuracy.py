"""How often each backend is right, and whether the difference matters."""

import streamlit as st

from dashboard import components
from dashboard.charts import accuracy, labels
from dashboard.state import current

selection = current()
receipt, task = selection.receipt, selection.task
backends = receipt["settings"]["backends"]
components.page("Accuracy", receipt, f"Task: {task}")
left, right = st.columns(2, gap="large")
with left:
    components.chart(accuracy.scores(receipt, task), "accuracy")
with right:
    components.chart(accuracy.scores(receipt, task, "macro_f1"), "macro_f1")
paired = accuracy.differences(receipt, task, selection.limits.max_drop)
if paired is not None:
    components.chart(paired, "differences")
components.chart(labels.per_class(receipt, task), "per_class")
for column, name in zip(st.columns(len(backends)), backends, strict=True):
    with column:
        components.chart(labels.confusion(receipt, task, name), f"confusion_{name}")
left, right = st.columns(2, gap="large")
with left:
    components.chart(accuracy.reliability(receipt, task), "reliability")
with right:
    slot = st.container()  # the slider is below the chart that it moves, and its value is needed first
    own = round(receipt["model"]["tasks"][task]["threshold"], 2)
    threshold = st.slider(
        "Answer only from this confidence", 0.0, 1.0, own, 0.01, key="threshold", bind="query-params",
        help=f"The model's own threshold for this task is {own:.2f}.",
    )  # fmt: skip
    with slot:
        components.chart(accuracy.coverage(receipt, task, threshold), "coverage")
