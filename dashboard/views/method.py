"""Method: how each number of the receipt came about."""

import streamlit as st

from dashboard import parts
from dashboard.method import method
from dashboard.parts import plain
from dashboard.state import current

choice = current()
parts.page("Method", choice.receipt, "How each number came about, and what it does not say.")
for section in method(choice.receipt, choice.limits):
    st.subheader(section.heading, anchor=False)
    for paragraph in section.paragraphs:
        st.markdown(plain(paragraph))
    if section.facts:
        st.table(
            [{"what": plain(name), "value": plain(value)} for name, value in section.facts],
            hide_header=True,
            hide_index=True,
            border="horizontal",
        )
