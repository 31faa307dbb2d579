"""Method: how each number of the receipt came about."""

import streamlit as st

from dashboard.method import method
from dashboard.parts import plain
from dashboard.state import current

choice = current()
st.title("Method")
st.markdown(f"How the numbers of **{plain(choice.name)}** came about, and what they do not say.")
for section in method(choice.receipt, choice.limits):
    st.subheader(section.heading)
    for paragraph in section.paragraphs:
        st.markdown(plain(paragraph))
    if section.facts:
        st.table(
            [{"what": plain(name), "value": plain(value)} for name, value in section.facts],
            hide_header=True,
            hide_index=True,
            border="horizontal",
        )
