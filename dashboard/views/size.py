"""What a backend takes on disk and in memory."""

import streamlit as st

from dashboard import parts
from dashboard.charts import size
from dashboard.state import current

choice = current()
receipt = choice.receipt
parts.page("Size & memory", receipt)
left, right = st.columns(2, gap="large")
with left:
    parts.chart(size.model(receipt, choice.limits.max_size_mb), "model")
    parts.chart(size.libraries(receipt), "libraries")
with right:
    if (types := size.dtypes(receipt)) is not None:
        parts.chart(types, "dtypes")
    parts.chart(size.memory(receipt), "memory")
