"""Parts that pages share. What came from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.charts.look import Chart

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$^=&\"'])")


def plain(text: str) -> str:
    """Any text as Streamlit's markdown shows it letter by letter: no link, no HTML, no formula, no icon."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    # `:red[x]`, `:smile:` and `:material/x:` are read even where the colon is escaped; a zero-width space ends that.
    return re.sub(r":(?=\S)", ":\u200b", escaped)


def chart(one: Chart, key: str) -> None:
    """The takeaway, the picture with its alt text, the note, and the table behind it."""
    st.markdown(f"##### {plain(one.takeaway)}")
    st.plotly_chart(one.figure, width="stretch", key=key, alt=one.alt, config={"displayModeBar": False})
    if one.note:
        st.caption(plain(one.note))
    with st.expander("Table"):
        st.dataframe(one.table, hide_index=True, width="stretch")


def provenance(receipt: Mapping[str, Any]) -> None:
    """One line: where, when and on what the numbers were taken."""


def cpu_banner(receipt: Mapping[str, Any]) -> None:
    """A warning, and the way to measure here, where the receipt comes from another processor than this one."""
