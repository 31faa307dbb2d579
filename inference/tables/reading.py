"""A table in a file, block by block: CSV, JSONL or Parquet, in memory that does not grow with the file.

A file is read twice. The first time counts its rows and finds what is wrong with it: that is told before any text is
answered, and not after an hour. Every cell of a CSV is kept as it is written; "NA" and "null" are texts like others.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

from inference.errors import InputError, MissingDependencyError, shown
from inference.tables.columns import FORMATS, named_text, no_format
from inference.tables.cutting import ROW_LETTERS, Size, gather, weight
from inference.tables.groups import pieces, read_batches

MAX_COLUMNS = 10_000
DELIMITERS = ",;\t"
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}  # how such files begin


@dataclass(frozen=True)
class Block:
    """Rows that follow each other in a file."""

    texts: list[Any]
    """What is in the text column. From JSONL it may be anything; of what is no text only the type is kept."""
    rows: Callable[[], Iterable[Sequence[Any]]]
    """The cells of each row, in the order of the table's columns."""
    lines: Sequence[str] = ()
    """The rows as they are written, from JSONL."""
    batch: Any = None
    """The rows as a pyarrow table, from Parquet."""
    weight: int = 0
    """Bytes in memory, roughly."""


class NoTextColumn(InputError):
    """It cannot be told which column holds the texts.

    Args:
        columns: those of the file.
        doubt: a sentence on what may be wrong with the file, with a space before it, or "".
    """

    def __init__(self, message: str, columns: Sequence[str], doubt: str) -> None:
        super().__init__(message + doubt)
        self.columns = list(columns)
        self.doubt = doubt


class Table(Protocol):
    """A file that was looked through."""

    path: Path
    format: str
    columns: list[str]
    text_column: str
    rows: int

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        """Yield its rows in order, at most so many at a time. The same file gives the same blocks each time.

        Args:
            size: rows of a block; those of large rows have fewer.
            beside: bytes that the answers of a row take.
            scratch: the folder of temporary files, the system's if left out.
        """
        ...


def open_table(path: Path, text_column: str | None = None) -> Table:
    """The table in a file, looked through once.

    Args:
        text_column: left out, the column "text", else the only one, else one with another name that texts have.

    Raises:
        InputError: there is no such file or column, or the file is not what its ending says; naming the line.
        MissingDependencyError: a library that reads its format is not installed.
    """
    if not path.is_file():
        raise InputError(f"No file {path}. A CSV, JSONL or Parquet file is wanted.")
    kinds: dict[str, Callable[[Path, str | None], Table]] = dict(
        zip(FORMATS, (CsvTable, JsonlTable, ParquetTable), strict=True)
    )
    ending = path.suffix.lower()
    if ending not in kinds:
        raise no_format(path.name)
    with path.open("rb") as file:
        start = file.read(4)
    if packed := next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None):
        raise InputError(f"{path.name} is compressed with {packed}. Unpack it first.")
    try:
        return kinds[ending](path, text_column)
    except UnicodeDecodeError:
        raise _no_utf8(path) from None
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {ending} needs the library {error.name}. Install it: pip install -r requirements.txt"
        ) from None


class CsvTable:
    """A CSV file: a header, and cells that are text as written. The separator is that of the header: , ; or tab."""

    format = "csv"

    def __init__(self, path: Path, text_column: str | None) -> None:
        csv.field_size_limit(ROW_LETTERS)
        self.path = path
        with path.open("rb") as file:
            self.bom = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        with self._open() as file:
            self.line_end = "\r\n" if file.readline(ROW_LETTERS).endswith("\r\n") else "\n"
        self.delimiter, self.columns = self._header(text_column)
        self.text_column = find_text_column(path.name, self.columns, text_column, has_header=True)
        self.rows = sum(1 for _ in self._records())

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        at, width = self.columns.index(self.text_column), len(self.columns)
        records = (
            (cells, Size(1, len(cells[at]), weight(sum(map(len, cells)), width) + beside)) for cells in self._records()
        )
        for rows, held in gather(records, size):
            yield Block([cells[at] for cells in rows], partial(iter, rows), weight=held)

    def _header(self, text_column: str | None) -> tuple[str, list[str]]:
        """The separator by which the header has a column of texts, else one by which it has several; and the header."""
        for delimiter in DELIMITERS:
            # No error here: '"id";"text"' is none with a semicolon, and is one with a comma.
            with self._open() as file, contextlib.suppress(InputError):
                _, columns = next(self._parsed(file, delimiter), (0, []))
                if text_column in columns if text_column else named_text(columns):
                    return delimiter, columns
        found = []
        for delimiter in DELIMITERS:
            with self._open() as file, contextlib.suppress(InputError):
                found.append((delimiter, next(self._parsed(file, delimiter), (0, []))[1]))
        if not found:
            with self._open() as file:
                next(self._parsed(file, DELIMITERS[0]))  # says what is wrong
        # "id;description" is no column of texts, but two of which it must be said which: by the comma it is one.
        return found[0] if len(found[0][1]) > 1 else max(found, key=lambda pair: len(pair[1]))

    def _records(self) -> Iterator[list[str]]:
        """The rows without the header; a short one gets empty cells at its end, as an empty line has only such."""
        width = len(self.columns)
        with self._open() as file:
            parsed = self._parsed(file, self.delimiter)
            next(parsed, None)
            for line, cells in parsed:
                if len(cells) > width:
                    raise InputError(
                        f"{self.path.name}, line {line:,}: {len(cells)} cells, and the header has {width}. Put a text "
                        "that holds the separator between quotation marks."
                    )
                yield cells + [""] * (width - len(cells))

    def _parsed(self, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Each record, and the line that it begins on."""
        # Strict: a quotation mark that is never closed would make one cell of all rows that follow it.
        letters = 0  # of the record so far, which may have many lines

        def lines() -> Iterator[str]:
            nonlocal letters
            for text in _lines(file, self.path.name):
                letters += len(text)
                if letters > ROW_LETTERS:
                    raise InputError(
                        f"{self.path.name}, line {line:,}: the row has more than {ROW_LETTERS:,} characters. Split it, "
                        "or close a quotation mark that joins lines."
                    )
                yield text

        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        while True:
            line, letters = reader.line_num + 1, 0
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"{self.path.name}, line {line:,} cannot be read as CSV: {error}. Mend or re-export it."
                ) from None

    def _open(self) -> TextIO:
        return self.path.open(encoding="utf-8-sig", newline="")


class JsonlTable:
    """A JSONL file: an object in each line; lines with nothing in them are no rows."""

    format = "jsonl"

    def __init__(self, path: Path, text_column: str | None) -> None:
        self.path = path
        self.rows = 0
        self.kinds: dict[str, set[type]] = {}
        """Column -> the types of its values, None left out; whole numbers past 64 bits count as texts. Whatever any
        line names is a column."""
        for _, row in self._records():
            self.rows += 1
            for name, value in row.items():
                kinds = self.kinds.setdefault(name, set())
                if value is not None:
                    is_large = type(value) is int and not -(2**63) <= value < 2**63
                    kinds.add(str if is_large else type(value))
            if len(self.kinds) > MAX_COLUMNS:
                raise InputError(f"{path.name}: its lines name more than {MAX_COLUMNS:,} columns.")
        self.columns = list(self.kinds)
        self.text_column = find_text_column(path.name, self.columns, text_column) if self.rows else text_column or ""

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        for records, held in gather(self._sized(beside), size):
            lines = [line for line, _ in records]
            yield Block([text for _, text in records], partial(_cells, lines, self.columns), lines=lines, weight=held)

    def _sized(self, beside: int) -> Iterator[tuple[tuple[str, Any], Size]]:
        """Each line with its text; the other cells take many times what their line does, and are read again."""
        for line, row in self._records():
            text = row.get(self.text_column)
            if text is not None and not isinstance(text, str):
                text = type(text)()  # it gets no answer for its type, however much is in it
            letters = len(text) if isinstance(text, str) else 0
            yield (line, text), Size(1, letters, weight(len(line), len(self.columns)) + beside)

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(_lines(file, self.path.name), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{self.path.name}, line {number:,} is no JSON: {error}. Mend it.") from None
                if not isinstance(row, dict):
                    raise InputError(
                        f"{self.path.name}, line {number:,} is no JSON object but {_kind(row)}. Each line must be one "
                        "object."
                    )
                yield line.strip(), row


class ParquetTable:
    """A Parquet file; its row groups are read as they are needed."""

    format = "parquet"

    def __init__(self, path: Path, text_column: str | None) -> None:
        import pyarrow

        self.path = path
        with self._open() as file:
            self.schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            self.bytes: int = sum(group.total_byte_size for group in groups)  # unpacked, equal cells once
        self.columns = list(self.schema.names)
        self.text_column = find_text_column(path.name, self.columns, text_column)
        held = self.schema.field(self.text_column).type
        held = held.value_type if pyarrow.types.is_dictionary(held) else held
        is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
        if not any(fits(held) for fits in is_text):
            raise InputError(f"{path.name}: column {self.text_column!r} holds {held} and no texts. Name another.")

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        import pyarrow

        for batches, held in gather(self._sized(size, beside, scratch), size):
            yield self._block(pyarrow.Table.from_batches(batches).combine_chunks(), held)

    def _sized(self, rows: int, beside: int, scratch: Path | None) -> Iterator[tuple[Any, Size]]:
        import pyarrow

        at = self.columns.index(self.text_column)
        batches = read_batches(self._open, rows, scratch)
        while True:
            try:
                parts = list(pieces(self.path.name, next(batches), at, rows, beside))
            except StopIteration:
                return
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise self._damaged(error) from None
            yield from parts

    def _block(self, table: Any, held: int) -> Block:
        try:
            texts = table.column(self.text_column).to_pylist()
        except ValueError as error:
            raise self._damaged(error) from None
        return Block(texts, partial(_arrow_cells, table), batch=table, weight=held)

    def _open(self) -> Any:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        try:
            # With the buffer that it has by default the whole file would be read ahead, and kept until the last row.
            return ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 16)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> InputError:
        said = str(error).strip().partition("\n")[0].rstrip(".")
        return InputError(f"{self.path.name} cannot be read as Parquet: {said}. Mend or re-export it.")


def find_text_column(name: str, columns: Sequence[str], wanted: str | None, has_header: bool = False) -> str:
    """The column that is asked for; else the one that is named as texts are, or the only one.

    Raises:
        InputError: it has none, or two of that name.
    """
    found = wanted or named_text(columns) or (columns[0] if len(columns) == 1 else None)
    has = f"it has {', '.join(map(repr, columns[:20]))}{', …' if len(columns) > 20 else ''}"
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"{name} has {len(columns):,} columns; {MAX_COLUMNS:,} are the most.")
    if not columns:
        raise InputError(f"{name} is empty. A header and rows are wanted.")
    if found is None:
        text = next(filter(is_sentence, columns), None) if has_header else None
        lacks = f" If {shortened(text)} is a text, the file lacks a header: give it one." if text else ""
        asked = f"{name}: which column holds the texts? Name it with --text-column; {has}."
        raise NoTextColumn(asked, columns, lacks)
    if found not in columns:
        raise InputError(f"{name} has no column {shown(found)}; {has}.")
    if columns.count(found) > 1:
        raise InputError(f"{name} has {columns.count(found)} columns named {shown(found)}. Rename all but one.")
    return found


def is_sentence(column: str) -> bool:
    """Whether the name of a column reads like a text: a file without a header has such."""
    return len(column.split()) >= 4


def shortened(column: str) -> str:
    """The name of a column in quotation marks, as much of it as a line has room for."""
    return repr(column if len(column) <= 60 else f"{column[:59]}…")


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """Its lines with their ends."""
    number = 0
    while line := file.readline(ROW_LETTERS):
        number += 1
        if len(line) == ROW_LETTERS:
            raise InputError(f"{name}, line {number:,} has more than {ROW_LETTERS:,} characters. Split it.")
        yield line


def _cells(lines: Sequence[str], columns: Sequence[str]) -> Iterator[list[Any]]:
    return ([row.get(name) for name in columns] for row in map(json.loads, lines))


def _arrow_cells(table: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _no_utf8(path: Path) -> InputError:
    """What is said of a file that is not UTF-8: the first line that is not, and why."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(ROW_LETTERS):
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError as error:
                if error.end == len(line) == ROW_LETTERS:  # a character on both sides of the cut
                    continue
                byte, place = error.object[error.start], error.start + 1
                return InputError(
                    f"{path.name}, line {number:,} is not UTF-8 (byte {byte:#04x} at position {place:,}). Save it as "
                    'UTF-8; Excel calls that "CSV UTF-8".'
                )
    return InputError(f"{path.name} is not UTF-8. Save it as UTF-8.")
