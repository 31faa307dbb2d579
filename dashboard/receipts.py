"""The receipts to choose from: listed quickly, and checked in full before one is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import streamlit as st

from dashboard import served
from inference.compare.overall import MAX_MEASUREMENTS
from inference.compare.receipt import Receipt, peek_receipt, read_receipt
from inference.errors import InputError
from inference.jobs import wait_for_jobs

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "assets" / "receipts"
MAX_CACHED = 100  # a receipt of 200,000 rows takes some 20 MB as text


@dataclass(frozen=True)
class Shelf:
    """The receipts in the folders.

    Attributes:
        files: name -> its file, in the order to offer them. A receipt is named after its file.
        models: name -> the files of the measured model and their hashes, as the receipt gives them, unchecked.
        broken: file name -> what is wrong with it and what to do.
    """

    files: dict[str, Path]
    models: dict[str, Mapping[str, Any]]
    broken: dict[str, str]


def folders() -> list[Path]:
    """Return the folders to search: the recorded receipts, and TRIPTYCH_RECEIPTS if set."""
    extra = os.environ.get("TRIPTYCH_RECEIPTS")
    return [RECORDED, *([Path(extra)] if extra else [])]


def shelf() -> Shelf:
    """List every receipt; a broken file does not hide the others.

    Figures are not recomputed here, which takes a second per receipt: `load` does so for the one that is shown. If a
    name is in two folders, the second is called `name (2)`.
    """
    files: dict[str, Path] = {}
    models: dict[str, Mapping[str, Any]] = {}
    broken: dict[str, str] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            model: Mapping[str, Any] | str = _peek(str(path), *_written(path))
            if isinstance(model, str):
                broken[path.name] = model
                continue
            name, number = path.stem, 2
            while name in files:
                name, number = f"{path.stem} ({number})", number + 1
            files[name], models[name] = path, model
    return Shelf(files, models, broken)


def load(path: Path) -> Receipt:
    """Return a receipt, checked in full and cached until its file changes. It is shared: do not alter it.

    Raises:
        InputError: it cannot be read, is damaged, or was made by a newer version. The message has no folder.
    """
    with st.spinner("Checking the measurement …"):  # shown only if it takes a while
        receipt: Receipt | str = _read(str(path), *_written(path))
    if isinstance(receipt, str):
        raise InputError(receipt)
    return receipt


def check_in_background() -> None:
    """Start to check the receipts of the served model, so that the first visitor does not wait for it."""
    Thread(target=_check, name="receipts", daemon=True).start()


def _check() -> None:
    wait_for_jobs()
    listed, bundle = shelf(), served.described()
    weights = served.weights(bundle.files) if bundle else None
    for name in [name for name, files in listed.models.items() if served.weights(files) == weights][:MAX_MEASUREMENTS]:
        wait_for_jobs()
        _read(str(listed.files[name]), *_written(listed.files[name]))


def _written(path: Path) -> tuple[int, int]:
    """Return when the file was changed, in ns, and its bytes: another version of it is read again."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@st.cache_resource(max_entries=MAX_CACHED, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _read(path: str, changed_ns: int, size_bytes: int) -> Receipt | str:
    """Return the receipt, or what is wrong with it, which is cached too."""
    try:
        return read_receipt(path)
    except InputError as error:
        return str(error).replace(path, Path(path).name)


@st.cache_resource(max_entries=MAX_CACHED, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _peek(path: str, changed_ns: int, size_bytes: int) -> Mapping[str, Any] | str:
    """Return the hashes of the measured model's files, or what is wrong with the receipt."""
    try:
        return dict(peek_receipt(path)["model"]["files"])
    except (LookupError, TypeError, ValueError):
        return {}  # `_read` says what is wrong
    except InputError as error:
        return str(error).replace(path, Path(path).name)
