"""Write the rows of a block and their answers as CSV, JSONL or Parquet, and join such parts to a file.

A JSONL line is written as it was, without surrounding white space, with the answers before its last brace. Parquet
keeps its types. CSV has only text: nested values are written as JSON, and cells that a spreadsheet would run as a
formula get a leading ', unless they are numbers.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from inference.errors import InputError, MissingDependencyError, shown
from inference.score.annotate import DIGITS, FLAG, NUMBER, TEXT
from inference.tables.json_formats import JsonlTable
from inference.tables.parquet import ParquetTable
from inference.tables.table import Block, Table
from inference.tables.text_formats import CsvTable, harmless, is_number

FORMATS = ("csv", "jsonl", "parquet")
GROUP_BYTES = 64_000_000  # in memory, of a Parquet row group that parts are joined to
GROUP_ROWS = 100_000

Added = Mapping[str, Sequence[Any]]
"""Column -> its value in each row."""


class Writer(Protocol):
    """Turns rows into bytes."""

    def part(self, block: Block, added: Added) -> bytes:
        """Return the rows of a block with their answers. Equal rows and answers give equal bytes."""
        ...

    def join(self, parts: Iterable[Path], out: BinaryIO) -> None:
        """Write the file from these parts, in this order."""
        ...


def open_writer(format: str, table: Table, kinds: Mapping[str, str]) -> Writer:
    """Return the writer for the rows of this table.

    Args:
        kinds: added column -> its kind.

    Raises:
        InputError: the format cannot hold such rows.
        MissingDependencyError: the library for the format is not installed.
    """
    if format not in FORMATS:
        raise InputError(f"Unknown format {shown(format)}. Known: {', '.join(FORMATS)}.")
    if format != table.format and len(set(table.columns)) < len(table.columns):
        twice = next(name for name in table.columns if table.columns.count(name) > 1)
        raise InputError(f"{table.name} has two columns {twice!r}, which {format} cannot hold. Rename one.")
    if format == "csv":
        return _Writing(_CsvWriter(table, kinds), format, table)
    if format == "jsonl":
        return _Writing(_JsonlWriter(table), format, table)
    try:
        return _Writing(_ParquetWriter(table, kinds), format, table)
    except ImportError as error:
        raise MissingDependencyError(
            f"Writing Parquet needs the library {error.name}. Install it: pip install -r requirements.txt"
        ) from None


class _Writing:
    """A writer that reports values that its format cannot hold in one line."""

    def __init__(self, writer: Writer, format: str, table: Table) -> None:
        self._writer = writer
        self._format = format
        self._table = table

    def part(self, block: Block, added: Added) -> bytes:
        with self._in_one_line():
            return self._writer.part(block, added)

    def join(self, parts: Iterable[Path], out: BinaryIO) -> None:
        with self._in_one_line():
            self._writer.join(parts, out)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        arrow = sys.modules.get("pyarrow")  # None unless it was imported
        # A cell of JSONL may be nested too deeply to be written again: RecursionError.
        errors = (OverflowError, ValueError, RecursionError, *([arrow.ArrowException] if arrow else []))
        try:
            yield
        except errors as error:
            if isinstance(error, InputError):
                raise
            message = str(error).strip().partition("\n")[0].rstrip(".")
            raise InputError(
                f"{self._table.name} has a value that cannot be written as {self._format}: {message}. Correct "
                f"it, or keep the format of the file: --format {self._table.format}."
            ) from None


class _CsvWriter:
    def __init__(self, table: Table, kinds: Mapping[str, str]) -> None:
        self._delimiter, self._line_end, self._bom = ",", "\n", ""
        if isinstance(table, CsvTable):
            self._delimiter, self._line_end = table.delimiter, table.line_end
            self._bom = "\ufeff" if table.bom else ""
        self._header = [*table.columns, *kinds]
        self._kinds = kinds

    def part(self, block: Block, added: Added) -> bytes:
        answers = [_written(added[name], kind) for name, kind in self._kinds.items()]
        rows = zip(block.cells(), zip(*answers, strict=True), strict=True)
        return self._bytes([_safe(cell) for cell in chain(map(as_text, cells), more)] for cells, more in rows)

    def join(self, parts: Iterable[Path], out: BinaryIO) -> None:
        out.write(self._bom.encode() + self._bytes([[_safe(name) for name in self._header]]))
        _copy(parts, out)

    def _bytes(self, rows: Iterable[list[str]]) -> bytes:
        lines = _Lines(self._line_end)
        # With this line end the writer quotes cells that hold \r or \n; with "\n" it does not quote a lone \r.
        csv.writer(lines, delimiter=self._delimiter, lineterminator="\r\n").writerows(rows)
        return _whole("".join(lines.written)).encode()


class _Lines:
    """A file for csv.writer, which writes one row at a time: replaces the line ends."""

    def __init__(self, line_end: str) -> None:
        self.written: list[str] = []
        self._line_end = line_end

    def write(self, line: str) -> None:
        self.written.append(line[:-2] + self._line_end)


class _JsonlWriter:
    def __init__(self, table: Table) -> None:
        self._columns = table.columns
        self._is_jsonl = isinstance(table, JsonlTable)

    def part(self, block: Block, added: Added) -> bytes:
        lines = []
        answers = (dict(zip(added, values, strict=True)) for values in zip(*added.values(), strict=True))
        if self._is_jsonl:
            for line, answer in zip(block.lines, answers, strict=True):
                start = line[:-1].rstrip()
                lines.append(f"{start}{'' if start == '{' else ', '}{_json(answer)[1:]}\n")
        else:
            for cells, answer in zip(block.cells(), answers, strict=True):
                row = dict(zip(self._columns, map(_finite, cells), strict=True))
                lines.append(_json(row | answer) + "\n")
        return "".join(lines).encode()

    def join(self, parts: Iterable[Path], out: BinaryIO) -> None:
        _copy(parts, out)


class _ParquetWriter:
    def __init__(self, table: Table, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._schema = schema_of(table, kinds)
        self._width = len(table.columns)

    def part(self, block: Block, added: Added) -> bytes:
        import pyarrow.parquet

        table = block.batch if block.batch is not None else self._table(list(block.cells()))
        out = io.BytesIO()
        pyarrow.parquet.write_table(with_answers(table, added, self._kinds), out)
        return out.getvalue()

    def join(self, parts: Iterable[Path], out: BinaryIO) -> None:
        # Not read_table, which refuses two columns of one name.
        write_groups(map(_read, parts), self._schema, out)

    def _table(self, rows: list[Sequence[Any]]) -> Any:
        import pyarrow

        columns = []
        fields = [self._schema.field(at) for at in range(self._width)]
        for at, field in enumerate(fields):
            cells = [row[at] for row in rows]
            if pyarrow.types.is_string(field.type):
                cells = [None if cell is None else _whole(as_text(cell)) for cell in cells]
            columns.append(pyarrow.array(cells, field.type))
        return pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(fields))


def schema_of(table: Table, kinds: Mapping[str, str]) -> Any:
    """Return the pyarrow schema of a table and its added columns: Parquet's own types, else types that fit."""
    import pyarrow

    if isinstance(table, ParquetTable):
        given = table.schema
    else:
        kinds_of = table.kinds if isinstance(table, JsonlTable) else {}
        given = pyarrow.schema([(_whole(name), _arrow_type(kinds_of.get(name, {str}))) for name in table.columns])
    return pyarrow.schema([*given, *_added_fields(kinds)], metadata=given.metadata)


def with_answers(table: Any, added: Added, kinds: Mapping[str, str]) -> Any:
    """Return a pyarrow table with the added columns after its own."""
    import pyarrow

    for field in _added_fields(kinds):
        table = table.append_column(field, pyarrow.array(added[field.name], field.type))
    return table


def write_groups(tables: Iterable[Any], schema: Any, out: BinaryIO) -> None:
    """Write pyarrow tables as one Parquet file, several to a row group."""
    import pyarrow
    import pyarrow.parquet

    group: list[Any] = []
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for table in tables:
            group.append(table.cast(schema))
            if sum(part.nbytes for part in group) > GROUP_BYTES or sum(map(len, group)) >= GROUP_ROWS:
                writer.write_table(pyarrow.concat_tables(group))
                group = []
        if group:
            writer.write_table(pyarrow.concat_tables(group))


def as_text(value: Any) -> str:
    """Return a cell as CSV holds it: None as "", other values as JSON or as Python writes them."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | dict):
        try:
            return _json(value)
        except ValueError:  # it holds NaN or infinity, and must be copied
            return _json(_finite(value))
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _safe(cell: str) -> str:
    return cell if is_number(cell) else harmless(cell)


def _written(values: Sequence[Any], kind: str) -> list[str]:
    if kind == NUMBER:
        return ["" if value is None else f"{value:.{DIGITS}f}" for value in values]
    if kind == FLAG:
        return ["" if value is None else str(value).lower() for value in values]
    return ["" if value is None else value for value in values]


def _json(value: Any) -> str:
    """Return JSON on one line, with escapes if a text holds a lone surrogate, which UTF-8 cannot encode."""
    line = json.dumps(value, ensure_ascii=False, default=as_text, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=as_text, allow_nan=False)
    return line


def _finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which JSON lacks, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _whole(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _added_fields(kinds: Mapping[str, str]) -> list[Any]:
    import pyarrow

    types = {TEXT: pyarrow.string(), NUMBER: pyarrow.float64(), FLAG: pyarrow.bool_()}
    return [pyarrow.field(name, types[kind]) for name, kind in kinds.items()]


def _arrow_type(kinds: set[type]) -> Any:
    """Return the type of a column of JSON values; values of several types or nested ones become text, in JSON."""
    import pyarrow

    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {int}:
        return pyarrow.int64()
    if kinds in ({float}, {int, float}):
        return pyarrow.float64()
    return pyarrow.string()


def _read(part: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(part) as file:
        return file.read()


def _copy(parts: Iterable[Path], out: BinaryIO) -> None:
    for path in parts:
        with path.open("rb") as file:
            shutil.copyfileobj(file, out)
