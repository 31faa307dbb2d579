"""How long a text takes: typical and slow texts, long texts, the start; the rest is folded."""

import streamlit as st

from dashboard import components
from dashboard.charts import latency
from dashboard.charts.formatting import sentence
from dashboard.components import plain
from dashboard.state import current
from inference.compare.results import unmeasured

selection = current()
receipt = selection.receipt
components.page("Latency", receipt, tables=True)
if (missing := unmeasured(receipt)) is not None:
    components.lead_to_measuring("info", plain(sentence(missing)), "Measure it", "measure_speed")
    components.footer(receipt)
    st.stop()
st.subheader("Typical and slow texts", anchor=False)
components.chart(latency.percentiles(receipt, selection.limits.max_p95_ms), "percentiles", 4)
left, right = st.columns(2, gap="large")
with left:
    st.subheader("Long texts", anchor=False)
    components.chart(latency.by_length(receipt), "by_length", 4)
with right:
    st.subheader("Start and noise", anchor=False)
    components.chart(latency.cold_start(receipt), "cold_start", 4)
    threshold, how = latency.noise(receipt)
    st.markdown(plain(threshold), help=plain(how))
more = st.expander(
    "Every call, parts, batches, threads, fixed shapes", key="more", on_change="rerun", bind="query-params"
)
if more.open:
    with more:
        for key, chart in (
            ("distribution", latency.distribution(receipt)),
            ("stages", latency.stages(receipt)),
            ("batches", latency.batches(receipt)),
            ("threads", latency.threads(receipt)),
            ("shapes", latency.shapes(receipt)),
        ):
            if chart is not None:
                components.chart(chart, key)
        if receipt["settings"]["quick"]:
            st.caption("A quick run leaves out other numbers of threads and fixed shapes. Measure without --quick.")
components.footer(receipt)
