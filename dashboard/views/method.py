"""Method: how each number was measured."""

import streamlit as st

from dashboard import components
from dashboard.components import plain
from dashboard.method import method
from dashboard.report_page import report
from dashboard.state import current

selection = current()
components.page("Method", selection.receipt, "How each number was measured, and what it does not say.")
st.download_button(
    "Download a report",
    lambda: report([selection.receipt], selection.limits),
    f"{selection.name}-report.html",
    "text/html",
    help="One file with verdict, charts, disagreements and this method. It needs no network and prints well.",
)
for number, section in enumerate(method(selection.receipt, selection.limits)):
    with st.expander(section.heading, expanded=number == 0):
        for paragraph in section.paragraphs:
            st.markdown(plain(paragraph))
        if section.facts:
            st.table(
                [{"what": plain(name), "value": plain(value)} for name, value in section.facts],
                hide_header=True,
                hide_index=True,
                border="horizontal",
            )
components.footer(selection.receipt)
