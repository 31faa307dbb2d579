"""The dashboard: which of the three runtimes to ship, from recorded receipts."""

import streamlit as st

st.set_page_config(page_title="Triptych: compare", layout="wide")
st.title("Triptych")
