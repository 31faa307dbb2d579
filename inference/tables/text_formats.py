"""CSV and JSONL: reading them block by block, and cells that a spreadsheet opens without running them.

Every cell of a CSV is kept as it is written: "NA" and "null" are texts like any other.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from inference.errors import InputError
from inference.tables.cutting import ROW_LETTERS, Size, gather, weight
from inference.tables.table import TEXT_NAMES, Block, Source, check_column_count, find_column, find_text_column

DELIMITERS = ",;\t"
# What Excel, LibreOffice or Google Sheets may take for a formula (OWASP, "CSV Injection"): a cell that begins with one
# of these signs, also in the full width of East Asian fonts, also after white space and characters without a width.
_BLANK = r"[\s\x00-\x1f\x7f\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
_FORMULA = re.compile(_BLANK + r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class CsvTable:
    """A CSV file with a header, separated by comma, semicolon or tab; its cells are the text as written."""

    format = "csv"

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        csv.field_size_limit(ROW_LETTERS)
        self.name = source.name
        self.source = source
        with source.open() as file:
            self.bom = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        with self._open() as file:
            self.line_end = "\r\n" if file.readline(ROW_LETTERS).endswith("\r\n") else "\n"
        self.delimiter, self.columns = self._header(text_column)
        self.text_column = find_text_column(self.name, self.columns, text_column, max_columns, has_header=True)
        self.row_count = sum(1 for _ in self._records())

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        at, width = self.columns.index(self.text_column), len(self.columns)
        records = (
            (cells, Size(1, len(cells[at]), weight(sum(map(len, cells)), width) + beside)) for cells in self._records()
        )
        for rows, block_weight in gather(records, size):
            yield Block([cells[at] for cells in rows], partial(iter, rows), weight=block_weight)

    def _header(self, text_column: str | None) -> tuple[str, list[str]]:
        """Return the separator that gives a text column, or else several columns; and the columns."""
        headers: dict[str, list[str]] = {}
        for delimiter in DELIMITERS:
            # '"id";"text"' is an error with a comma, and none with a semicolon.
            with self._open() as file, contextlib.suppress(InputError):
                headers[delimiter] = next(self._parsed(file, delimiter), (0, []))[1]
        if not headers:
            with self._open() as file:
                next(self._parsed(file, DELIMITERS[0]))  # raises what is wrong
        for delimiter, columns in headers.items():
            if text_column in columns if text_column else find_column(columns, TEXT_NAMES):
                return delimiter, columns
        # "id;description" is not one column of texts but two, and the user must choose.
        first, *_ = headers.items()
        return first if len(first[1]) > 1 else max(headers.items(), key=lambda header: len(header[1]))

    def _records(self) -> Iterator[list[str]]:
        """Yield the rows after the header; short rows and empty lines are filled up with empty cells."""
        width = len(self.columns)
        with self._open() as file:
            parsed = self._parsed(file, self.delimiter)
            next(parsed, None)
            for line, cells in parsed:
                if len(cells) > width:
                    raise InputError(
                        f"{self.name}, line {line:,}: {len(cells)} cells, and the header has {width}. Put a text that "
                        "contains the separator between quotation marks."
                    )
                yield cells + [""] * (width - len(cells))

    def _parsed(self, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each record with the line that it begins on."""
        letters = 0  # of the record so far, which may have many lines

        def lines() -> Iterator[str]:
            nonlocal letters
            for text in _lines(file, self.name):
                letters += len(text)
                if letters > ROW_LETTERS:
                    raise InputError(
                        f"{self.name}, line {line:,}: the row has more than {ROW_LETTERS:,} characters. Split it, or "
                        "close a quotation mark that joins lines."
                    )
                yield text

        # Strict, because a quotation mark that is never closed would join all rows after it into one cell.
        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        while True:
            line, letters = reader.line_num + 1, 0
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"{self.name}, line {line:,} cannot be read as CSV: {error}. Fix the file or export it again."
                ) from None

    def _open(self) -> TextIO:
        return self.source.open_text(newline="")


class JsonlTable:
    """A JSONL file: one object per line; blank lines are skipped. Every name in any line is a column."""

    format = "jsonl"

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        self.name = source.name
        self.source = source
        self.row_count = 0
        self.kinds: dict[str, set[type]] = {}
        """Column -> the types of its values, None excluded; integers beyond 64 bits count as strings."""
        for _, row in self._records():
            self.row_count += 1
            for name, value in row.items():
                kinds = self.kinds.setdefault(name, set())
                if value is not None:
                    is_large = type(value) is int and not -(2**63) <= value < 2**63
                    kinds.add(str if is_large else type(value))
            check_column_count(self.name, len(self.kinds), max_columns)
        self.columns = list(self.kinds)
        self.text_column = text_column or ""
        if self.row_count:
            self.text_column = find_text_column(self.name, self.columns, text_column, max_columns)

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        for records, block_weight in gather(self._sized(beside), size):
            lines = [line for line, _ in records]
            cells = partial(_cells, lines, self.columns)
            yield Block([text for _, text in records], cells, lines=lines, weight=block_weight)

    def _sized(self, beside: int) -> Iterator[tuple[tuple[str, Any], Size]]:
        """Yield each line with its text. Parsed cells take many times the memory of the line, so they are dropped."""
        for line, row in self._records():
            text = row.get(self.text_column)
            if text is not None and not isinstance(text, str):
                text = type(text)()  # the type is enough to refuse it, and the value may be large
            letters = len(text) if isinstance(text, str) else 0
            yield (line, text), Size(1, letters, weight(len(line), len(self.columns)) + beside)

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.source.open_text(newline="\n") as file:
            for number, line in enumerate(_lines(file, self.name), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{self.name}, line {number:,} is not valid JSON: {error}. Fix the file or export it again."
                    ) from None
                if not isinstance(row, dict):
                    raise InputError(
                        f"{self.name}, line {number:,} is not a JSON object but {_kind(row)}. Write one object per "
                        "line."
                    )
                yield line.strip(), row


def not_utf8(source: Source) -> InputError:
    """Return the error for a file that is not UTF-8: its first such line, and why."""
    with source.open() as file:
        number = 0
        while line := file.readline(ROW_LETTERS):
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError as error:
                if error.end == len(line) == ROW_LETTERS:  # a character that the limit cuts in two
                    continue
                byte, place = error.object[error.start], error.start + 1
                return InputError(
                    f"{source.name}, line {number:,} is not UTF-8 (byte {byte:#04x} at position {place:,}). Save it as "
                    'UTF-8; Excel calls that "CSV UTF-8".'
                )
    return InputError(f"{source.name} is not UTF-8. Save it as UTF-8.")


def harmless(text: str) -> str:
    """Return the text, with a leading ' if a spreadsheet would run it as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def is_number(text: str) -> bool:
    """Whether this is a number as programs write it, such as "-5", which no spreadsheet runs."""
    return _NUMBER.fullmatch(text) is not None


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """Return CSV in UTF-8 with the byte-order mark that Excel needs, and no cell that runs as a formula."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    cells = ([row[column] for column in columns] for row in rows)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in cells)
    return out.getvalue().encode("utf-8-sig")


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines with their ends."""
    number = 0
    while line := file.readline(ROW_LETTERS):
        number += 1
        if len(line) == ROW_LETTERS:
            raise InputError(f"{name}, line {number:,} has more than {ROW_LETTERS:,} characters. Split it.")
        yield line


def _cells(lines: Sequence[str], columns: Sequence[str]) -> Iterator[list[Any]]:
    return ([row.get(name) for name in columns] for row in map(json.loads, lines))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
