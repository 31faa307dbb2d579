"""Two measurements compared, once for each pair: bootstraps take a second, and Streamlit runs a page on every click."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from dashboard.charts.formatting import Receipt
from inference.compare.candidates import ModelVerdict, check_comparable, decide_pair, side_by_side
from inference.compare.diff import Change, diff
from inference.compare.verdict import ShipLimits
from inference.errors import InputError

MAX_CACHED = 2_000  # texts of a line or two
MAX_CACHED_PAIRS = 50


class Comparison(NamedTuple):
    """The verdicts, the figures side by side as `side_by_side` returns them, and what differs."""

    verdicts: list[ModelVerdict]
    figures: dict[str, dict[str, list[str]]]
    changes: list[Change]
    notes: list[str]


def incomparable(first: Receipt, second: Receipt) -> str | None:
    """Return why two measurements cannot be compared; None if they can."""
    why: str | None = _incomparable(first["checksum"], second["checksum"], first, second)
    return why


@st.cache_resource(max_entries=MAX_CACHED, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _incomparable(first: str, second: str, _first: Receipt, _second: Receipt) -> str | None:
    try:
        check_comparable(_first, _second)
    except InputError as error:
        return str(error)
    return None


def compared(
    first: Receipt, second: Receipt, limits: ShipLimits, backend: str | None, names: tuple[str, str]
) -> Comparison:
    """Return the comparison of two measurements that can be compared; see `decide_pair` for the arguments."""
    checksums = first["checksum"], second["checksum"]
    comparison: Comparison = _compared(*checksums, limits, backend, names, first, second)
    return comparison


@st.cache_resource(max_entries=MAX_CACHED_PAIRS, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _compared(
    first: str,
    second: str,
    limits: ShipLimits,
    backend: str | None,
    names: tuple[str, str],
    _first: Receipt,
    _second: Receipt,
) -> Comparison:
    verdicts = decide_pair(_first, _second, limits, backend, names)
    return Comparison(verdicts, side_by_side(_first, _second), *diff(_first, _second))
