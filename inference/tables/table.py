"""What every table has, whatever its format: named columns, one of them the texts, and rows in blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inference.errors import InputError, shown
from inference.tables.source import Source

MAX_COLUMNS = 10_000
TEXT_NAMES = (
    "text",
    "texts",
    "sentence",
    "sentences",
    "utterance",
    "message",
    "review",
    "review text",
    "review body",
    "comment",
    "comment text",
    "tweet",
    "content",
    "body",
    "document",
    "post",
    "feedback",
    "query",
    "input",
    "headline",
    "title",
)
"""Names of columns that hold texts, the likeliest first; case, spaces, hyphens and underscores do not matter."""
LABEL_NAMES = ("label", "labels", "class", "category", "target", "gold", "y")
"""Names of columns that hold labels, in the same way."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    texts: list[Any]
    """The text column. JSONL may hold anything there; of a value that is not a string only the type is kept."""
    cells: Callable[[], Iterable[Sequence[Any]]]
    """The cells of each row, in the order of the table's columns."""
    lines: Sequence[str] = ()
    """JSONL: the rows as they are written."""
    batch: Any = None
    """Parquet: the rows as a pyarrow table."""
    weight: int = 0
    """Approximate bytes in memory."""


class Table(Protocol):
    """A table that was read once from start to end, so that its rows are counted and valid."""

    source: Source
    name: str
    format: str
    columns: list[str]
    text_column: str
    row_count: int
    remarks: list[str]
    """What was assumed about the file, such as "separated by semicolons"."""

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        """Yield the rows in order. The same file gives the same blocks each time.

        Args:
            size: maximum rows of a block; blocks of large rows have fewer.
            beside: bytes that the answers of a row take.
            scratch: the folder of temporary files, the system's by default.
        """
        ...


class NoTextColumn(InputError):
    """No column is named like texts, and there are several.

    Args:
        columns: the columns of the file.
        hint: a sentence about what may be wrong with the file, preceded by a space, or "".
    """

    def __init__(self, message: str, columns: Sequence[str], hint: str) -> None:
        super().__init__(message + hint)
        self.columns = list(columns)
        self.hint = hint


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column that has the first of these names, ignoring case, spaces, hyphens and underscores, or None."""
    by_name = {_folded(column): column for column in reversed(columns)}
    return next((by_name[_folded(name)] for name in names if _folded(name) in by_name), None)


def _folded(column: str) -> str:
    return re.sub(r"[\s_-]+", "", column).lower()


def find_text_column(
    name: str, columns: Sequence[str], text_column: str | None, max_columns: int, has_header: bool = False
) -> str:
    """Return `text_column`, or by default the column named like texts, or the only one.

    Raises:
        NoTextColumn: none is named like texts, and there are several.
        InputError: there are no columns or too many, or not exactly one with that name.
    """
    check_column_count(name, len(columns), max_columns)
    if not columns:
        raise InputError(f"{name} is empty. It needs a header and rows.")
    column = text_column or find_column(columns, TEXT_NAMES) or (columns[0] if len(columns) == 1 else None)
    if column is None:
        sentence = next(filter(is_sentence, columns), None) if has_header else None
        hint = f" If {shortened(sentence)} is a text, the file has no header: add one." if sentence else ""
        question = f"{name}: which column holds the texts? Name it with --text-column; {listed(columns)}."
        raise NoTextColumn(question, columns, hint)
    column_index(name, columns, column)
    return column


def column_index(name: str, columns: Sequence[str], column: str) -> int:
    """Return the position of a column.

    Raises:
        InputError: the table has no column of that name, or several.
    """
    if column not in columns:
        raise InputError(f"{name} has no column {shown(column)}; {listed(columns)}.")
    if (count := columns.count(column)) > 1:
        raise InputError(f"{name} has {count} columns named {shown(column)}. Rename all but one.")
    return columns.index(column)


def pair_index(table: Table, pair_column: str) -> int:
    """Return the position of the column of the second texts.

    Raises:
        InputError: as `column_index`, or it is the column of the first texts.
    """
    index = column_index(table.name, table.columns, pair_column)
    if pair_column == table.text_column:
        raise InputError(
            f"{table.name}: both texts of every pair would come from the column {shown(pair_column)}. Name a column "
            "for each."
        )
    return index


def check_column_count(name: str, count: int, max_columns: int) -> None:
    """Raise InputError if a table has too many columns."""
    if count > max_columns:
        raise InputError(f"{name} has more than {max_columns:,} columns. Remove those that are not needed.")


def listed(columns: Sequence[str]) -> str:
    """Return "it has 'id', 'text'", with at most 20 columns."""
    return f"it has {', '.join(map(shortened, columns[:20])) or 'none'}{', …' if len(columns) > 20 else ''}"


def is_sentence(column: str) -> bool:
    """Whether a column name reads like a text, as the first line of a file without a header does."""
    return len(column.split()) >= 4


def shortened(column: str) -> str:
    """Return a column name in quotation marks, cut to fit in a line."""
    return repr(column if len(column) <= 60 else f"{column[:59]}…")
