"""The receipts there are: found in folders, read once, the broken ones told apart from the good."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from inference.compare.receipt import Receipt, read_receipt
from inference.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "assets" / "receipts"
KEPT = 100  # receipts held in memory; one of 200,000 rows has some 20 MB as text


@dataclass(frozen=True)
class Shelf:
    """What was found.

    Attributes:
        files: name -> its file, in the order to offer them. A receipt's name is its file's without the ending.
        broken: file name -> what is wrong with it and what to do.
    """

    files: dict[str, Path]
    broken: dict[str, str]


def folders() -> list[Path]:
    """Where receipts are looked for: the recorded ones, and the folder that TRIPTYCH_RECEIPTS names, if it does."""
    extra = os.environ.get("TRIPTYCH_RECEIPTS")
    return [RECORDED, *([Path(extra)] if extra else [])]


def shelf() -> Shelf:
    """Every receipt of these folders. A file that is none does not hide the others.

    In two folders the same name counts twice: the second is called `name (2)`.
    """
    files: dict[str, Path] = {}
    broken: dict[str, str] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                load(path)
            except InputError as error:
                broken[path.name] = str(error).replace(str(path), path.name)
                continue
            name, number = path.stem, 2
            while name in files:
                name, number = f"{path.stem} ({number})", number + 1
            files[name] = path
    return Shelf(files, broken)


def load(path: Path) -> Receipt:
    """The receipt in a file, checked; held in memory until the file changes. Shared: do not alter it.

    Raises:
        InputError: it cannot be read, is damaged, or was made by a newer version.
    """
    try:
        stat = path.stat()
    except OSError:
        return read_receipt(path)  # which says it better
    found: Receipt | str = _read(str(path), stat.st_mtime_ns, stat.st_size)
    if isinstance(found, str):
        raise InputError(found)
    return found


@st.cache_resource(  # type: ignore[untyped-decorator,unused-ignore]
    max_entries=KEPT, show_spinner="Reading the receipt …"
)
def _read(path: str, changed_ns: int, size_bytes: int) -> Receipt | str:
    """The receipt, or what is wrong with it: that too is worth finding out only once."""
    try:
        return read_receipt(path)
    except InputError as error:
        return str(error)
