"""Texts that a receipt does not hold, kept in the memory of this session for the receipts that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from inference.compare.receipt import Receipt

HELD = "_texts"


def keep_texts(receipt: Mapping[str, Any], texts: list[str]) -> None:
    """Remember the texts of this receipt's rows. They go with the session."""
    held: dict[str, list[str]] = st.session_state.setdefault(HELD, {})
    held[receipt["checksum"]] = texts


def with_texts(receipt: Receipt) -> Receipt:
    """The receipt, with its texts if this session knows them. Not for download: nobody said that others may see "
    "them."""
    texts = st.session_state.get(HELD, {}).get(receipt["checksum"])
    return receipt if texts is None else {**receipt, "data": {**receipt["data"], "texts": texts}}
