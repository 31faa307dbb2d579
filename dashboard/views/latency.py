"""How long a text takes."""

import streamlit as st

from dashboard import parts
from dashboard.charts import latency, overview
from dashboard.state import current

choice = current()
receipt = choice.receipt
parts.page("Latency", receipt)
parts.chart(latency.percentiles(receipt, choice.limits.max_p95_ms), "percentiles")
parts.chart(overview.speedup(receipt), "speedup")
left, right = st.columns(2, gap="large")
with left:
    parts.chart(latency.distribution(receipt), "distribution")
    parts.chart(latency.stages(receipt), "stages")
with right:
    parts.chart(latency.by_length(receipt), "by_length")
    parts.chart(latency.cold_start(receipt), "cold_start")
parts.chart(latency.batches(receipt), "batches")
for key, one in (("threads", latency.threads(receipt)), ("shapes", latency.shapes(receipt))):
    if one is not None:
        parts.chart(one, key)
if receipt["settings"]["quick"]:
    st.caption("A quick run leaves out other numbers of threads and fixed shapes. Measure without --quick to see them.")
