"""Opening tables: the one reader of `score`, `compare`, training and both upload pages.

A table is read block by block, in memory that does not grow with the file. A first pass over its rows counts them and
finds what is wrong, so that an error is reported before any text is answered, and not after an hour. Before it, the
bytes of a text file are read to find their encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from inference.errors import InputError, MissingDependencyError
from inference.tables.cutting import BLOCK_ROWS, weight
from inference.tables.encoding import find_encoding
from inference.tables.json_formats import JsonlTable, JsonTable
from inference.tables.parquet import ParquetTable
from inference.tables.sheet import SheetTable
from inference.tables.source import Source
from inference.tables.table import MAX_COLUMNS, NoTextColumn, Table, column_index
from inference.tables.text_formats import CsvTable
from inference.tables.unpacking import MAX_UPLOAD_BYTES, check_unpacked

FORMATS: dict[str, Callable[[Source, str | None, int], Table]] = {
    ".csv": CsvTable,
    ".tsv": CsvTable,
    ".jsonl": JsonlTable,
    ".ndjson": JsonlTable,
    ".json": JsonTable,
    ".parquet": ParquetTable,
    ".xlsx": SheetTable,
    ".xlsm": SheetTable,
}
"""File extension -> the class that reads it. A further format is one entry here."""
EXTENSIONS = (*FORMATS, ".gz")
KNOWN = "Use .csv, .tsv, .jsonl, .json, .parquet or .xlsx"
GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"  # how such files begin
MAX_UPLOAD_SHEET_BYTES = 25_000_000  # unpacked: reading XML takes long
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
            raise InputError(f"No file {source}. Name a CSV, JSONL, JSON, Parquet or .xlsx file.")
        source = Source(source.name, source)
    reader, source = recognize(source)
    is_text = reader not in (ParquetTable, SheetTable)
    if is_text:
        source = replace(source, encoding=find_encoding(source))
    try:
        table = reader(source, text_column, max_columns)
    except UnicodeError as error:
        raise InputError(f"{source.name} is damaged: {error}. Export it again.") from None
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {source.extension} needs the library {error.name}. Install it: pip install -r requirements.txt"
        ) from None
    if is_text and source.encoding != "utf-8-sig":
        name = {"cp1252": "Windows-1252, because it is not UTF-8", "utf-16": "UTF-16", "utf-32": "UTF-32"}
        table.remarks.insert(0, f"read as {name[source.encoding]}")
    return table


def recognize(source: Source) -> tuple[Callable[[Source, str | None, int], Table], Source]:
    """Return the class that reads a source, and the source as it is to be opened.

    Raises:
        InputError: its type is not supported, or its content contradicts its extension.
    """
    with source.open() as file:
        start = file.read(4)
    if start.startswith(GZIP):
        source = replace(source, is_gzip=True)
        with source.open() as file:
            start = file.read(4)
        if start.startswith(GZIP):
            raise InputError(f"{source.name} is packed with gzip twice. Unpack it once.")
    elif source.name.lower().endswith(".gz"):
        raise InputError(f"{source.name} is not a gzip file. Correct its extension.")
    extension = source.extension
    if extension in (".xls", ".ods"):
        raise InputError(f"{source.name}: this kind of spreadsheet is not supported. Save it as .xlsx or UTF-8 CSV.")
    if extension == ".txt":
        raise InputError(f"{source.name}: unsupported file type. {KNOWN}; rename a table saved as text to .tsv.")
    if extension not in FORMATS:
        raise InputError(f"{source.name}: unsupported file type. {KNOWN}; text files may be packed with gzip.")
    reader = FORMATS[extension]
    if source.is_gzip and reader in (ParquetTable, SheetTable):
        raise InputError(f"{source.name} is packed with gzip. Unpack it first.")
    for mark, kind, of_kind in ((ZIP, "a ZIP file or a spreadsheet", SheetTable), (PARQUET, "Parquet", ParquetTable)):
        if start == mark and reader is not of_kind:
            raise InputError(f"{source.name} contains {kind}. Unpack it, or correct its extension.")
    return reader, source


def assumed(table: Table) -> str:
    """Return what was assumed about a file as one sentence, "" if nothing was."""
    sentence = ", ".join(table.remarks)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


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
    is_sheet = FORMATS.get(source.extension) is SheetTable
    source = replace(source, max_bytes=MAX_UPLOAD_SHEET_BYTES if is_sheet else MAX_UPLOAD_BYTES)
    if source.extension == ".parquet":
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
