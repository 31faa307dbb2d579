"""An uploaded table: refused if reading it would exhaust the memory, and a guess at which column is which."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.formparsers import MultiPartParser

from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables.columns import FORMATS, named, named_text, read_table
from inference.tables.unpacking import MAX_UPLOAD_BYTES, MAX_UPLOAD_COLUMNS, columns_in

MAX_MB = 5  # of the uploader; .streamlit/config.toml says the same to the server
LABEL_NAMES = ("label", "labels", "class", "category", "target", "gold", "y")
TYPES = [ending[1:] for ending in FORMATS]
# By default what is larger than 1 MB takes its way in through a temporary file; the page promises that nothing does.
MultiPartParser.spool_max_size = (MAX_MB + 1) * 2**20


@dataclass(frozen=True)
class Guess:
    """Which columns are meant. A label column of None: those that are named like tasks hold the labels."""

    text_column: str
    label_column: str | None
    task: str | None


def read_upload(name: str, content: bytes) -> dict[str, list[Any]]:
    """The columns of an uploaded file.

    Raises:
        InputError: it is larger than it looks, or it cannot be read.
    """
    ending = Path(name).suffix.lower()
    if ending == ".csv":
        columns = _columns_in_csv(content)
    elif ending == ".jsonl":
        columns = _names_in_jsonl(content)
    else:
        remedy = f"Use the command line: python -m inference compare --data {name}"
        columns = columns_in(name, content, MAX_UPLOAD_BYTES, remedy) if ending == ".parquet" else 0
    if columns > MAX_UPLOAD_COLUMNS:
        raise InputError(f"{name} has more than {MAX_UPLOAD_COLUMNS} columns. Keep the text and the label.")
    found = read_table(name, content)
    if not found or not next(iter(found.values())):
        raise InputError(f"{name} has no rows. It wants a header and a labelled text in every row.")
    return found


def _columns_in_csv(content: bytes) -> int:
    lines = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
    try:
        return len(next(csv.reader(lines), []))
    except csv.Error:
        return 0  # read_table says what is wrong


def _names_in_jsonl(content: bytes) -> int:
    names: set[str] = set()
    for line in content.split(b"\n"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue  # read_table says what is wrong
        if isinstance(found, dict):
            names.update(found)
        if len(names) > MAX_UPLOAD_COLUMNS:
            break
    return len(names)


def guess(columns: Mapping[str, Sequence[Any]], tasks: Mapping[str, Task]) -> Guess:
    """The columns by their names; where those say nothing, the longest cells are the text, and labels those of a "
    "task."""
    text = guess_text(columns)
    others = [name for name in columns if name != text]
    if any(name in tasks for name in others):
        return Guess(text, None, None)
    fits = {name: _fitting_task(columns[name], tasks) for name in others}
    label = named(others, LABEL_NAMES) or next((name for name in others if fits[name]), others[0] if others else text)
    return Guess(text, label, fits.get(label) or (next(iter(tasks)) if tasks else None))


def guess_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """The column that holds the texts, most likely."""
    return named_text(list(columns)) or max(columns, key=lambda name: _length(columns[name]))


def _length(cells: Sequence[Any]) -> float:
    texts = [cell for cell in cells[:200] if isinstance(cell, str)]
    return sum(map(len, texts)) / len(texts) if texts else 0.0


def _fitting_task(cells: Sequence[Any], tasks: Mapping[str, Task]) -> str | None:
    """The task that has most of the labels in this column, of several the one with the fewest labels; None if few fit.

    Not all of them: one label that is misspelt must not make it another task's column.
    """
    given = [text for text in (str(cell).strip() for cell in cells[:2_000]) if text not in ("", "None")]
    fit = {name: sum(text in task.labels for text in given) for name, task in tasks.items()}
    fitting = [name for name, count in fit.items() if count > len(given) / 2]
    return max(fitting, key=lambda name: (fit[name], -len(tasks[name].labels)), default=None)
