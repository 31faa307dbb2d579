"""What a backend takes on disk and in memory."""

import streamlit as st

from dashboard import components
from dashboard.charts import size
from dashboard.state import current
from inference.compare.results import unmeasured

selection = current()
receipt = selection.receipt
components.page("Size", receipt, tables=True)
left, right = st.columns(2, gap="large")
with left:
    components.chart(size.model(receipt, selection.limits.max_size_mb), "model")
    components.chart(size.libraries(receipt), "libraries")
with right:
    if (types := size.dtypes(receipt)) is not None:
        components.chart(types, "dtypes")
    if unmeasured(receipt) is None:
        components.chart(size.memory(receipt), "memory")
components.footer(receipt)
