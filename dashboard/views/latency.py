"""How long a text takes."""

import streamlit as st

from dashboard import components
from dashboard.charts import latency, overview
from dashboard.state import current

selection = current()
receipt = selection.receipt
components.page("Latency", receipt)
components.chart(latency.percentiles(receipt, selection.limits.max_p95_ms), "percentiles")
components.chart(overview.speedup(receipt), "speedup")
left, right = st.columns(2, gap="large")
with left:
    components.chart(latency.distribution(receipt), "distribution")
    components.chart(latency.stages(receipt), "stages")
with right:
    components.chart(latency.by_length(receipt), "by_length")
    components.chart(latency.cold_start(receipt), "cold_start")
components.chart(latency.batches(receipt), "batches")
for key, chart in (("threads", latency.threads(receipt)), ("shapes", latency.shapes(receipt))):
    if chart is not None:
        components.chart(chart, key)
if receipt["settings"]["quick"]:
    st.caption("A quick run skips other numbers of threads and fixed shapes. Measure without --quick to see them.")
