"""What the reader has selected. The widgets are in the sidebar, and their values in the page's address.

Only main.py calls `select`: widgets of the entry file stay in the address on every page. Pages read `current()`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from dashboard import receipts, served
from dashboard.components import lead_to_measuring, plain
from dashboard.receipts import Shelf
from inference.assets import SHOWCASE
from inference.compare.overall import MAX_MEASUREMENTS
from inference.compare.receipt import Receipt
from inference.compare.results import DEFAULT_MAX_DROP
from inference.compare.slices import row_columns
from inference.compare.verdict import MAX_DROP_OFFERED, ShipLimits
from inference.errors import InputError

SELECTION, OWN, NEXT, TEXTS, COLUMNS = "_selection", "_own_receipts", "_next_receipt", "_texts", "_columns"
BROKEN = "_broken"  # names of receipts that `select` warned of


@dataclass(frozen=True)
class Selection:
    """What every page shows.

    Attributes:
        name: of the receipt in the list; it may contain anything that a file name can.
        task: one that the receipt has labels for.
        limits: what a backend must meet to be shipped.
        is_chosen: the reader chose this measurement in the list; one made in this session is selected without that.
    """

    name: str
    receipt: Receipt
    task: str
    limits: ShipLimits
    is_chosen: bool = False


def current() -> Selection:
    """Return the selection, or end this run of the page with a message if there is none."""
    selection: Selection | None = st.session_state.get(SELECTION)
    if selection is not None:
        return selection
    bundle, shelf = served.named(), receipts.shelf()
    if bundle is not None and names(shelf):
        now = served.weights(bundle.files)
        stale = [name for name, files in shelf.models.items() if served.weights(files) == now]
        what, other = "has not been measured yet", "a measurement of another model"
        if stale:
            what, other = "has other labels or settings than when it was measured", f"the measurement {plain(stale[0])}"
        lead_to_measuring(
            "info",
            f"The served model, **{plain(bundle.name)}**, {what}. Measure it, or choose {other} in the sidebar.",
            "Measure it",
            "measure_it",
        )
    else:
        st.info(
            "There are no measurements yet. Make one: `python -m inference compare --out assets/receipts/mine.json`"
        )
    st.stop()
    raise AssertionError("stopped above")


def show(name: str, receipt: Receipt) -> None:
    """Add a receipt of this session to the list and select it from the next run on.

    It lives in the session; nothing is written to disk. Call `st.rerun()` or `st.switch_page` afterwards.
    """
    own()[name] = receipt
    st.session_state[NEXT] = name


def own() -> dict[str, Receipt]:
    """Return the receipts made in this session, by name."""
    mine: dict[str, Receipt] = st.session_state.setdefault(OWN, {})
    return mine


def names(shelf: Shelf) -> list[str]:
    """List the receipts to choose from: those of this session, of the served model, and the others."""
    files = [name for name in shelf.files if name not in own()]
    bundle = served.named()
    if bundle is not None:
        files.sort(key=lambda name: shelf.models[name] != dict(bundle.files))
    return [*own(), *files]


def receipt(name: str, shelf: Shelf) -> Receipt:
    """Return one of `names`, checked.

    Raises:
        InputError: as `receipts.load`.
    """
    return own()[name] if name in own() else receipts.load(shelf.files[name])


def select() -> None:
    """Draw the widgets and store the selection for `current`."""
    st.session_state[SELECTION] = None
    shelf = receipts.shelf()
    offered = names(shelf)
    if (following := st.session_state.pop(NEXT, None)) in offered:
        st.session_state["receipt"] = following
    asked = st.session_state.get("receipt", st.query_params.get("receipt"))
    broken = dict(shelf.broken)
    is_broken: set[str] = set()
    st.session_state[BROKEN] = is_broken
    while (first := _first(asked, offered, shelf)) is not None:
        try:
            receipt(first, shelf)
            break
        except InputError as error:
            broken[shelf.files[first].name] = str(error)
            offered.remove(first)
            is_broken.add(first)
            st.session_state.pop("receipt", None)
    for file, message in broken.items():
        st.warning(f"**{plain(file)}** is not shown. {plain(message)}")
    if not offered:
        return
    if asked is not None and asked not in offered and asked not in shelf.files and "receipt" not in st.session_state:
        st.warning(
            f"The address names the measurement **{plain(asked)}**, which is not here: a measurement made in a session "
            f"ends with it. This is **{plain(offered[0])}**."
        )
    with st.sidebar:
        index = None if first is None else offered.index(first)
        name = st.selectbox("Measurement", offered, index, key="receipt", bind="query-params", placeholder="none")
        if name is None:
            return
        selected = receipt(name, shelf)
        task = st.selectbox("Task", list(selected["data"]["labels"]), key="task", bind="query-params")
        limits = _limits()
    is_chosen = name != names(shelf)[0] and name not in own()
    st.session_state[SELECTION] = Selection(name, selected, task, limits, is_chosen)


def _first(asked: str | None, offered: list[str], shelf: Shelf) -> str | None:
    """Return the receipt that will be shown; None if there is none of the served model, and no other was asked for."""
    if asked in offered:
        return asked
    bundle = served.named()
    if not offered or (
        bundle is not None and offered[0] not in own() and shelf.models[offered[0]] != dict(bundle.files)
    ):
        return None
    return offered[0]


def _limits() -> ShipLimits:
    st.markdown("**Requirements for shipping**")
    drop, p95, size, flips, speedup = (
        draw(key, {"bind": "query-params", "value": DEFAULT_MAX_DROP * 100 if key == "max_drop" else None})
        for key, draw in LIMITS.items()
    )
    return ShipLimits((drop or 0) / 100, p95, size, None if flips is None else int(flips), speedup)


def limits_here() -> None:
    """Draw the limits again, in the page: on a phone the sidebar is closed. A change is one of those in the sidebar."""
    with st.popover("Change the limits"):
        for key, draw in LIMITS.items():
            here = f"{key}_here"
            st.session_state[here] = st.session_state.get(key)
            draw(here, {"value": None, "on_change": partial(_take, key, here)})


def _take(key: str, here: str) -> None:
    st.session_state[key] = st.session_state[here]


def _drop(key: str, options: dict[str, Any]) -> float | None:
    drop: float = st.slider(
        "Largest drop in accuracy, percentage points",
        0.1,
        MAX_DROP_OFFERED * 100,
        step=0.1,
        key=key,
        help="Against the reference, on the same rows. To ship, the whole interval of the drop must be below this.",
        **options,
    )
    return drop


def _number(label: str, minimum: float, step: float) -> Callable[[str, dict[str, Any]], float | None]:
    """Return a function that draws a limit that may be left empty."""

    def draw(key: str, options: dict[str, Any]) -> float | None:
        value: float | None = st.number_input(label, minimum, None, step=step, key=key, placeholder="any", **options)
        return value

    return draw


LIMITS = {
    "max_drop": _drop,
    "max_p95": _number("Slow time (p95) at most, ms", 0.1, 1.0),
    "max_mb": _number("Model at most, MB", 0.1, 5.0),
    "max_flips": _number("Changed labels at most", 0, 1),
    "min_speedup": _number("Speed-up at least, ×", 0.1, 0.5),
}
"""Key in the address -> what draws its field."""


def of_this_model() -> tuple[dict[str, Receipt], ShipLimits]:
    """Return the measurements of the selected one's weights, that one first, and the limits."""
    selection, shelf = current(), receipts.shelf()
    files = served.weights(selection.receipt["model"]["files"])
    measurements = {selection.name: selection.receipt}
    for name in names(shelf):
        of = own()[name]["model"]["files"] if name in own() else shelf.models[name]
        if name in measurements or name in st.session_state[BROKEN] or served.weights(of) != files:
            continue
        if len(measurements) == MAX_MEASUREMENTS:
            st.caption(f"Only the first {MAX_MEASUREMENTS} measurements of this model count here.")
            break
        try:
            measurements[name] = receipt(name, shelf)
        except InputError as error:
            st.warning(f"**{plain(name)}** is left out. {plain(str(error))}")
    return measurements, selection.limits


def keep_texts(receipt: Mapping[str, Any], texts: list[str]) -> None:
    """Remember the texts of this receipt's rows for this session."""
    st.session_state.setdefault(TEXTS, {})[receipt["checksum"]] = texts


def keep_columns(receipt: Mapping[str, Any], columns: Mapping[str, list[str]]) -> None:
    """Remember the other columns of this receipt's rows for this session."""
    st.session_state.setdefault(COLUMNS, {})[receipt["checksum"]] = columns


def columns_of(receipt: Receipt) -> Mapping[str, list[str]]:
    """Return the other columns of the receipt's rows: kept in this session, or those of the showcase."""
    kept: Mapping[str, list[str]] | None = st.session_state.get(COLUMNS, {}).get(receipt["checksum"])
    if kept is not None:
        return kept
    content = SHOWCASE.read_bytes() if SHOWCASE.is_file() else b""
    if receipt["data"]["sha256"] != hashlib.sha256(content).hexdigest():
        return {}
    return row_columns(receipt, SHOWCASE.name, content)


def with_words(selection: Selection, backend: str) -> tuple[str, Receipt] | None:
    """Return another measurement of the same model and task whose texts may be shown, and its name; None without."""
    shelf = receipts.shelf()
    model = selection.receipt["model"]
    for name in names(shelf):
        if name == selection.name or (name in shelf.models and shelf.models[name] != dict(model["files"])):
            continue
        try:
            other = with_texts(receipt(name, shelf))
        except InputError:
            continue
        has_answers = backend in other["settings"]["backends"] and selection.task in other["data"]["labels"]
        if has_answers and other["data"]["texts"] is not None and _is_alike(other, selection.receipt):
            return name, other
    return None


def _is_alike(first: Receipt, second: Receipt) -> bool:
    return all(first["model"][key] == second["model"][key] for key in ("files", "tasks")) and (
        first["settings"]["reference"] == second["settings"]["reference"]
    )


def with_texts(receipt: Receipt) -> Receipt:
    """Return the receipt with its texts if this session has them. Not for download: nobody agreed to share them."""
    texts = st.session_state.get(TEXTS, {}).get(receipt["checksum"])
    return receipt if texts is None else {**receipt, "data": {**receipt["data"], "texts": texts}}
