"""A Parquet file as a table; its row groups are read as they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from inference.errors import InputError
from inference.tables.cutting import Size, gather
from inference.tables.groups import pieces, read_batches
from inference.tables.source import Source
from inference.tables.table import Block, NoTextColumn, Table, find_text_column


class ParquetTable:
    """A Parquet file. Cells keep their types."""

    format = "parquet"

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        self.name = source.name
        self.source = source
        self.remarks: list[str] = []
        with self._open() as file:
            self.schema = file.schema_arrow
            self.row_count: int = file.metadata.num_rows
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            self.unpacked_bytes: int = sum(group.total_byte_size for group in groups)  # equal cells counted once
        self.columns = list(self.schema.names)
        try:
            self.text_column = find_text_column(self.name, self.columns, text_column, max_columns)
        except NoTextColumn as error:
            error.columns = [field.name for field in self.schema if _holds_text(field.type)]
            raise
        kind = self.schema.field(self.text_column).type
        if not _holds_text(kind):
            raise InputError(f"{self.name}: column {self.text_column!r} holds {kind} and not texts. Name another.")

    def blocks(self, size: int, beside: int = 0, scratch: Path | None = None) -> Iterator[Block]:
        import pyarrow

        for batches, block_weight in gather(self._sized(size, beside, scratch), size):
            table = pyarrow.Table.from_batches(batches).combine_chunks()
            try:
                texts = table.column(self.text_column).to_pylist()
            except ValueError as error:
                raise self._damaged(error) from None
            yield Block(texts, partial(_arrow_cells, table), batch=table, weight=block_weight)

    def _sized(self, rows: int, beside: int, scratch: Path | None) -> Iterator[tuple[Any, Size]]:
        import pyarrow

        at = self.columns.index(self.text_column)
        batches = read_batches(self._open, rows, scratch)
        while True:
            try:
                parts = list(pieces(self.name, next(batches), at, rows, beside))
            except StopIteration:
                return
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise self._damaged(error) from None
            yield from parts

    def _open(self) -> Any:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        content = self.source.content
        try:
            # With pyarrow's default buffer the whole file would be read ahead and kept until the last row.
            return ParquetFile(
                pyarrow.BufferReader(content) if isinstance(content, bytes) else content,
                pre_buffer=False,
                buffer_size=1 << 16,
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> InputError:
        message = str(error).strip().partition("\n")[0].rstrip(".")
        return InputError(f"{self.name} cannot be read as Parquet: {message}. Fix the file or export it again.")


def class_names(table: Table) -> dict[str, list[str]]:
    """Return column -> names of its numbered labels, which the library `datasets` writes into a Parquet schema."""
    written = (table.schema.metadata or {}).get(b"huggingface") if isinstance(table, ParquetTable) else None
    try:
        features = json.loads(written)["info"]["features"].items() if written else ()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # metadata of another tool: the numbers themselves are the labels
    names = {column: kind.get("names") for column, kind in features if isinstance(kind, dict) and _is_class(kind)}
    return {column: [str(name) for name in of] for column, of in names.items() if isinstance(of, list) and of}


def _is_class(feature: dict[str, Any]) -> bool:
    """Whether a feature of `datasets` is a label: a structure may have a field called "names"."""
    return bool(feature.get("_type", "ClassLabel") == "ClassLabel")


def _holds_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(is_text(kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view))


def _arrow_cells(table: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)
