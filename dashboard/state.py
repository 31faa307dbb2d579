"""What the reader has chosen. The choices are widgets of the sidebar and live in the page's address.

`choose` draws them, in main.py alone: widgets of the entry file keep their place in the address on every page.
Pages read `current()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import receipts, served
from dashboard.components import lead_to_measuring, plain
from dashboard.receipts import Shelf
from inference.compare.receipt import Receipt
from inference.compare.verdict import ShipLimits

CHOICE, OWN, WANTED = "_choice", "_own_receipts", "_wanted_receipt"


@dataclass(frozen=True)
class Choice:
    """What every page shows.

    Attributes:
        name: of the receipt, as the list shows it; it may hold anything that a file name can.
        task: one of those that the receipt has labels for.
        limits: what a backend must keep to be shipped.
    """

    name: str
    receipt: Receipt
    task: str
    limits: ShipLimits


def current() -> Choice:
    """The choice of this run. Ends the run with a message where there is no receipt to choose."""
    found: Choice | None = st.session_state.get(CHOICE)
    bundle = served.named()
    if found is None and bundle is not None and names(receipts.shelf()):
        lead_to_measuring(
            "info",
            f"**{plain(bundle.name)}**, the model that is served, has not been measured yet. Measure it, or choose a "
            "receipt of another model in the sidebar.",
            "Measure it",
            "measure_it",
        )
        st.stop()
    if found is None:
        st.info("There is no receipt to show. Make one: `python -m inference compare --out assets/receipts/mine.json`")
        st.stop()
    assert found is not None  # stopped above
    return found


def show(name: str, receipt: Receipt) -> None:
    """Put a receipt that was made in this session on the list and choose it from the next run on.

    It lives in the session and goes with it; nothing is written to disk. Call `st.rerun()` or `st.switch_page` after.
    """
    st.session_state.setdefault(OWN, {})[name] = receipt
    st.session_state[WANTED] = name


def own() -> dict[str, Receipt]:
    """The receipts that were made in this session, by name."""
    found: dict[str, Receipt] = st.session_state.setdefault(OWN, {})
    return found


def names(shelf: Shelf) -> list[str]:
    """Every receipt there is to choose: those of this session, those of the model that is served, the others."""
    files = {name: path for name, path in shelf.files.items() if name not in own()}
    bundle = served.named()
    if bundle is None:
        return [*own(), *files]
    return [*own(), *sorted(files, key=lambda name: not served.is_of(receipts.load(files[name]), bundle))]


def receipt(name: str, shelf: Shelf) -> Receipt:
    """One of `names`.

    Raises:
        InputError: its file has gone or was damaged in the meantime.
    """
    return own()[name] if name in own() else receipts.load(shelf.files[name])


def choose() -> None:
    """Draw the choices and keep what was chosen for `current`."""
    st.session_state[CHOICE] = None
    shelf = receipts.shelf()
    offered = names(shelf)
    for file, message in shelf.broken.items():
        st.warning(f"**{plain(file)}** is not shown. {plain(message)}")
    if not offered:
        return
    if (wanted := st.session_state.pop(WANTED, None)) in offered:
        st.session_state["receipt"] = wanted
    asked = st.query_params.get("receipt")
    if asked is not None and asked not in offered and "receipt" not in st.session_state:
        st.warning(
            f"The address names the receipt **{plain(asked)}**, which is not here: a receipt made in a session goes "
            f"with it. This is **{plain(offered[0])}**."
        )
    with st.sidebar:
        first = 0 if _is_of_served(offered[0], shelf) else None
        name = st.selectbox("Receipt", offered, first, key="receipt", bind="query-params", placeholder="none")
        if name is None:
            return
        found = receipt(name, shelf)
        tasks = list(found["data"]["labels"])
        task = st.selectbox("Task", tasks, key="task", bind="query-params")
        limits = _limits()
    st.session_state[CHOICE] = Choice(name, found, task, limits)


def _is_of_served(name: str, shelf: Shelf) -> bool:
    bundle = served.named()
    return bundle is None or name in own() or served.is_of(receipt(name, shelf), bundle)


def _limits() -> ShipLimits:
    st.markdown("**Ship only what keeps these**")
    drop = st.slider(
        "Accuracy may fall by, pp",
        0.1,
        3.0,
        0.5,
        0.1,
        key="max_drop",
        bind="query-params",
        help="Against the reference, on the same rows. To ship, the whole interval of the fall must be below this.",
    )
    p95 = _limit("p95 at most, ms", "max_p95", 0.1, 1.0)
    size = _limit("Model at most, MB", "max_mb", 0.1, 5.0)
    flips = _limit("Changed labels at most", "max_flips", 0, 1)
    speedup = _limit("Speed-up at least, ×", "min_speedup", 0.1, 0.5)
    return ShipLimits(drop / 100, p95, size, None if flips is None else int(flips), speedup)


def _limit(label: str, key: str, least: float, step: float) -> float | None:
    """A limit that may be left empty."""
    value: float | None = st.number_input(
        label, least, None, None, step, key=key, bind="query-params", placeholder="any"
    )
    return value


HELD = "_texts"


def keep_texts(receipt: Mapping[str, Any], texts: list[str]) -> None:
    """Remember the texts of this receipt's rows. They go with the session."""
    held: dict[str, list[str]] = st.session_state.setdefault(HELD, {})
    held[receipt["checksum"]] = texts


def with_texts(receipt: Receipt) -> Receipt:
    """The receipt, with its texts if this session knows them. Not for download: sharing them was not agreed."""
    texts = st.session_state.get(HELD, {}).get(receipt["checksum"])
    return receipt if texts is None else {**receipt, "data": {**receipt["data"], "texts": texts}}
