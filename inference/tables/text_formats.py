"""CSV and spreadsheets: reading them block by block, and cells that a spreadsheet opens without running them.

Every cell of a CSV is kept as it is written: "NA" and "null" are texts like any other.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from inference.errors import InputError
from inference.tables.cutting import ROW_LETTERS, Size, gather, weight
from inference.tables.encoding import read_lines
from inference.tables.source import Source
from inference.tables.table import TEXT_NAMES, Block, check_column_count, find_column, find_text_column, shortened

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR = re.compile(r"sep=([,;\t|]?)[,;\t|\s]*", re.IGNORECASE)
# What Excel, LibreOffice or Google Sheets may take for a formula (OWASP, "CSV Injection"): a cell that begins with one
# of these signs, also in the full width of East Asian fonts, also after white space and characters without a width.
_BLANK = r"[\s\x00-\x1f\x7f\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
_FORMULA = re.compile(_BLANK + r"[=+\-@\t\r\n＝＋－＠]")
ESCAPED = "formula_escaped"
"""A column that says "yes" in rows where a ' was put before each cell that looks like a formula (ui/corrections.js)."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class CsvTable:
    """A CSV file with a header, separated by comma, semicolon, tab or bar; its cells are the text as written."""

    format = "csv"
    delimiter = ","
    line_end = "\n"
    too_wide = "Put a text that contains the separator between quotation marks."
    """The remedy for a row with more cells than the header."""
    unit = "line"
    """What messages count."""

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        csv.field_size_limit(ROW_LETTERS)
        self.name = source.name
        self.source = source
        self.remarks: list[str] = []
        self.bom = False
        """Whether Excel made it, or would need a byte-order mark to read what is written from it."""
        columns = self._header(text_column)
        self.columns, self.row_count = self._measured(columns, max_columns)
        self.text_column = find_text_column(self.name, self.columns, text_column, max_columns, has_header=True)
        if ESCAPED in self.columns:
            self.remarks.append("cells that look like formulas are read without the ' before them")
        if twice := next((name for name in self.columns if name and self.columns.count(name) > 1), None):
            self.remarks.append(f"{self.columns.count(twice)} columns are named {shortened(twice)}")

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        at, width = self.columns.index(self.text_column), len(self.columns)
        records = (
            (cells, Size(1, len(cells[at]), weight(sum(map(len, cells)), width) + beside)) for cells in self._records()
        )
        for rows, block_weight in gather(records, size):
            yield Block([cells[at] for cells in rows], partial(iter, rows), weight=block_weight)

    def _header(self, text_column: str | None) -> list[str]:
        """Find the separator that gives a text column, or else several columns; return the columns."""
        with self.source.open() as file:
            self.bom = self.source.encoding != "utf-8-sig" or file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        with self._open() as file:
            first = file.readline(ROW_LETTERS)
        self.line_end = "\r\n" if first.endswith("\r\n") else "\n"
        delimiters = "".join(DELIMITERS)
        if named := _SEPARATOR.fullmatch(first):  # Excel's own first line
            delimiters = named[1] or delimiters
        elif re.match("sep=.?\\s*$", first, re.IGNORECASE):
            raise InputError(f"{self.name} is separated by {first[4:5]!r}. Use commas, semicolons, tabs or bars.")
        elif self.source.extension == ".tsv":
            delimiters = "\t" + delimiters.replace("\t", "")
        headers: dict[str, list[str]] = {}
        for delimiter in delimiters:
            # '"id";"text"' is an error with a comma, and none with a semicolon.
            with contextlib.suppress(InputError):
                headers[delimiter] = next(self._parsed(delimiter), (0, []))[1]
        if not headers:
            next(self._parsed(delimiters[0]))  # raises what is wrong
        self.delimiter, columns = self._likeliest(headers, text_column)
        if self.delimiter != delimiters[0]:
            self.remarks.append(f"separated by {DELIMITERS[self.delimiter]}")
        return columns

    @staticmethod
    def _likeliest(headers: dict[str, list[str]], text_column: str | None) -> tuple[str, list[str]]:
        for delimiter, columns in headers.items():
            if text_column in columns if text_column else find_column(columns, TEXT_NAMES):
                return delimiter, columns
        # "id;description" is not one column of texts but two, and the user must choose.
        first, *_ = headers.items()
        return first if len(first[1]) > 1 else max(headers.items(), key=lambda header: len(header[1]))

    def _measured(self, columns: list[str], max_columns: int) -> tuple[list[str], int]:
        """Read all rows; return the columns, without unnamed ones at the end that are empty, and the number of rows."""
        check_column_count(self.name, len(columns), max_columns)
        self.columns = columns
        named = used = max((at for at, name in enumerate(columns, 1) if name.strip()), default=0)
        count = 0
        for cells in self._records():
            count += 1
            if used < len(columns):
                used = max([used, *(at for at in range(used + 1, len(columns) + 1) if cells[at - 1].strip())])
        is_unnamed = named > 0 and used < len(columns)
        if is_unnamed or self._has_spare_cells:
            self.remarks.append("empty cells at the end of rows are ignored")
        return columns[:used] if is_unnamed else columns, count

    def _records(self) -> Iterator[list[str]]:
        """Yield the rows after the header; short rows and empty lines are filled up with empty cells."""
        width = len(self.columns)
        parsed = self._parsed(self.delimiter)
        next(parsed, None)
        escaped = self.columns.index(ESCAPED) if ESCAPED in self.columns else None
        for line, cells in parsed:
            if len(cells) > width:
                if any(cell.strip() for cell in cells[width:]):
                    raise InputError(
                        f"{self.name}, {self.unit} {line:,}: {len(cells)} cells, and the header has {width}. "
                        f"{self.too_wide}"
                    )
                self._has_spare_cells = True
                cells = cells[:width]
            if escaped is not None and cells[escaped : escaped + 1] == ["yes"]:
                cells = [_unescaped(cell) for cell in cells]
            yield cells + [""] * (width - len(cells))

    _has_spare_cells = False

    def _parsed(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each record with the line that it begins on, from the header on."""
        letters = 0  # of the record so far, which may have many lines

        def lines(file: TextIO) -> Iterator[str]:
            nonlocal letters
            for text in read_lines(file, self.name):
                letters += len(text)
                if letters > ROW_LETTERS:
                    raise InputError(
                        f"{self.name}, line {line:,}: the row has more than {ROW_LETTERS:,} characters. Split it, or "
                        "close a quotation mark that joins lines."
                    )
                yield text

        with self._open() as file:
            # Strict, because a quotation mark that is never closed would join all rows after it into one cell.
            reader = csv.reader(lines(file), delimiter=delimiter, strict=True)
            is_header = True
            while True:
                line, letters = reader.line_num + 1, 0
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise InputError(
                        f"{self.name}, line {line:,} cannot be read as CSV: {error}. Fix the file or export it again."
                    ) from None
                if is_header and (not any(map(str.strip, cells)) or _SEPARATOR.fullmatch("".join(cells))):
                    continue  # empty lines, and Excel's "sep=;"
                is_header = False
                yield line, cells

    def _open(self) -> TextIO:
        return self.source.open_text(newline="")


def harmless(text: str) -> str:
    """Return the text, with a leading ' if a spreadsheet would run it as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell.lstrip("'")) else cell


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
