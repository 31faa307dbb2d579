"""Overview."""

import streamlit as st

from dashboard.state import current

choice = current()
st.title("Overview")
