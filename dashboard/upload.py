"""An uploaded table: rejected if reading it would exhaust the memory, and a guess at which column is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.formparsers import MultiPartParser

from inference.compare.labels import GUESS_ROWS, fitting_tasks, spellings
from inference.formats.bundle import Task
from inference.tables.parquet import class_names
from inference.tables.reading import EXTENSIONS, open_upload, read_columns, unique
from inference.tables.source import Source
from inference.tables.table import LABEL_NAMES, TEXT_NAMES, find_column

MAX_MB = 5  # of the uploader; .streamlit/config.toml says the same to the server
TYPES = [extension[1:] for extension in EXTENSIONS]
# By default an upload above 1 MB goes through a temporary file; the page promises that nothing is written to disk.
MultiPartParser.spool_max_size = (MAX_MB + 1) * 2**20


@dataclass(frozen=True)
class Guess:
    """Which columns are probably meant; without a label column, those named like tasks hold the labels."""

    text_column: str
    label_column: str | None
    task: str | None
    """None if no task fits, or several equally well."""


def read_upload(name: str, content: bytes) -> dict[str, list[Any]]:
    """Return the columns of an uploaded file with their first rows.

    Raises:
        InputError: it is too large to be read here, or cannot be read.
    """
    table, _ = open_upload(Source(name, content), f"python -m inference compare --data {name}")
    columns = read_columns(table, unique(table.columns), GUESS_ROWS)
    names = {column: of for column, of in class_names(table).items() if column in columns}
    return columns | {column: spellings(name, column, columns[column], of) for column, of in names.items()}


def guess(columns: Mapping[str, Sequence[Any]], tasks: Mapping[str, Task]) -> Guess:
    """Guess the columns by their names, else by their cells: the longest are the texts, and labels those of a task."""
    text = guess_text(columns)
    others = [name for name in columns if name != text]
    if any(name in tasks for name in others):
        return Guess(text, None, None)
    fits = {name: fitting_tasks(name, columns[name], tasks) for name in others}
    label = find_column(others, LABEL_NAMES)
    label = label or next((name for name in others if fits[name]), others[0] if others else text)
    best = list(tasks) if len(tasks) == 1 else fits.get(label, [])
    return Guess(text, label, best[0] if len(best) == 1 else None)


def guess_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return the column that most likely holds the texts."""
    return find_column(list(columns), TEXT_NAMES) or max(columns, key=lambda name: _mean_length(columns[name]))


def _mean_length(cells: Sequence[Any]) -> float:
    texts = [cell for cell in cells[:200] if isinstance(cell, str)]
    return sum(map(len, texts)) / len(texts) if texts else 0.0
