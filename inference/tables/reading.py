"""Opening tables: the one reader of `score`, `compare`, training and both upload pages.

A table is read twice, block by block, in memory that does not grow with the file. The first pass counts the rows and
finds what is wrong, so that an error is reported before any text is answered, and not after an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from inference.errors import InputError, MissingDependencyError
from inference.tables.cutting import BLOCK_ROWS, weight
from inference.tables.parquet import ParquetTable
from inference.tables.table import MAX_COLUMNS, NoTextColumn, Source, Table, column_index
from inference.tables.text_formats import CsvTable, JsonlTable, not_utf8
from inference.tables.unpacking import MAX_UPLOAD_BYTES, check_unpacked

FORMATS: dict[str, Callable[[Source, str | None, int], Table]] = {
    ".csv": CsvTable,
    ".jsonl": JsonlTable,
    ".parquet": ParquetTable,
}
"""File extension -> the class that reads it. A further format is one entry here."""
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}  # how such files begin
MAX_UPLOAD_COLUMNS = 500
MAX_COLUMN_BYTES = 4_000_000_000  # of the columns that are read as a whole


def open_table(source: Path | Source, text_column: str | None = None, max_columns: int = MAX_COLUMNS) -> Table:
    """Open a table and read it through once.

    Args:
        source: a file, or bytes in memory.
        text_column: by default the first column named like texts (see `TEXT_NAMES`), or the only column.

    Raises:
        NoTextColumn: the text column cannot be determined.
        InputError: there is no such file or column, or the content does not match the extension; with the line.
        MissingDependencyError: the library for the format is not installed.
    """
    if isinstance(source, Path):
        if not source.is_file():
            raise InputError(f"No file {source}. Name a CSV, JSONL or Parquet file.")
        source = Source(source.name, source)
    extension = Path(source.name).suffix.lower()
    if extension in SPREADSHEETS:
        raise InputError(f"{source.name} is a spreadsheet. Save its sheet as UTF-8 CSV and use that file.")
    if extension not in FORMATS:
        raise InputError(f"{source.name}: unsupported file type. Use .csv, .jsonl or .parquet, uncompressed.")
    with source.open() as file:
        start = file.read(4)
    if tool := next((tool for mark, tool in COMPRESSED.items() if start.startswith(mark)), None):
        raise InputError(f"{source.name} is compressed with {tool}. Unpack it first.")
    try:
        return FORMATS[extension](source, text_column, max_columns)
    except UnicodeDecodeError:
        raise not_utf8(source) from None
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {extension} needs the library {error.name}. Install it: pip install -r requirements.txt"
        ) from None


def open_upload(source: Source, command: str, text_column: str | None = None) -> tuple[Table, NoTextColumn | None]:
    """Open a table that a visitor uploaded, if it takes limited memory.

    Args:
        command: what to run on a larger file, for the error.
        text_column: as in `open_table`.

    Returns:
        The table, and the question to ask if the text column cannot be determined: its `text_column` is then only the
        first that may be one.

    Raises:
        InputError: it is too large or has no rows, and as in `open_table`.
    """
    if Path(source.name).suffix.lower() == ".parquet":
        with source.open() as file:
            content = file.read()
        check_unpacked(source.name, content, MAX_UPLOAD_BYTES, f"Use the command line: {command}")
    question = None
    try:
        table = open_table(source, text_column, MAX_UPLOAD_COLUMNS)
    except NoTextColumn as error:
        choices = unique(error.columns)
        if not choices:
            raise
        table, question = open_table(source, choices[0], MAX_UPLOAD_COLUMNS), error
    if not table.row_count:
        raise InputError(f"{source.name} has no rows. It needs a header and a text in every row.")
    return table, question


def unique(columns: Sequence[str]) -> list[str]:
    """Return the columns that can be chosen by name: neither unnamed nor of the same name as another."""
    return [column for column in columns if column and columns.count(column) == 1]


def read_columns(table: Table, names: Sequence[str], max_rows: int | None = None) -> dict[str, list[Any]]:
    """Return the cells of these columns, of all rows or the first `max_rows`.

    Raises:
        InputError: there is no such column, or the cells take more than `MAX_COLUMN_BYTES` of memory.
    """
    places = {name: column_index(table.name, table.columns, name) for name in names}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    size_bytes = 0
    rows = (cells for block in table.blocks(BLOCK_ROWS) for cells in block.cells())
    for cells in islice(rows, max_rows):
        for name, at in places.items():
            cell = cells[at]
            size_bytes += weight(len(cell) if isinstance(cell, str | bytes | list | dict) else 0, 1)
            columns[name].append(cell)
        if size_bytes > MAX_COLUMN_BYTES:
            raise InputError(
                f"{table.name}: its columns {', '.join(map(repr, names))} take more than "
                f"{MAX_COLUMN_BYTES / 1e9:.0f} GB of memory. Use a part of the file."
            )
    return columns
