"""Read a Parquet file a few rows at a time, in memory that grows neither with its row groups nor with its columns.

Reading a row unpacks a page of each column, and a page of large cells may be a whole column of a row group. So a large
row group is read some columns at a time into unnamed temporary files, which are then read side by side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inference.errors import InferenceError, InputError
from inference.tables.cutting import ROW_LETTERS, Size, weight
from inference.tables.unpacking import unpacked

SPAN_BYTES = 64_000_000  # of the columns that are read together, unpacked; a single one may exceed it
SPAN_COLUMNS = 500  # that are read together, because each takes a buffer
READ_ROWS = 16  # at a time, because equal cells are stored once in Parquet and many times in memory
READ_BYTES = 4_000_000


def read_batches(open_file: Callable[[], Any], rows: int, scratch: Path | None) -> Iterator[Any]:
    """Yield the rows of a file in order as small pyarrow record batches, never across row groups.

    Args:
        open_file: opens the file as `pyarrow.parquet.ParquetFile`.
        rows: of a block, which is a multiple of the rows of a batch.
        scratch: the folder of temporary files, the system's by default.

    Raises:
        InferenceError: the temporary files cannot be written.
    """
    with open_file() as file:
        leaves = [_leaves(field.type) for field in file.schema_arrow]
        for group in range(file.metadata.num_row_groups):
            about = file.metadata.row_group(group)
            if not about.num_rows:
                continue
            spans = _spans([about.column(at).total_uncompressed_size for at in range(about.num_columns)], leaves)
            limit = min(rows, READ_ROWS, max(1, READ_BYTES * about.num_rows // max(1, about.total_byte_size)))
            size = next(number for number in range(limit, 0, -1) if rows % number == 0)
            if len(spans) == 1:
                yield from file.reader.iter_batches(size, row_groups=[group], use_threads=False)
            else:
                yield from _side_by_side(open_file, group, spans, size, scratch, file.schema_arrow)


def pieces(name: str, batch: Any, at: int, rows: int, beside: int) -> Iterator[tuple[Any, Size]]:
    """Yield a record batch with its size, halved until each piece fits into a block.

    Args:
        name: of the file, for errors.
        at: position of the text column.
        rows: of a block.
        beside: bytes that the answers of a row take.

    Raises:
        InputError: a row is too large.
    """
    content = sum(map(unpacked, batch.columns))
    memory = weight(content, 0) + len(batch) * (weight(0, batch.num_columns) + beside)
    size = Size(len(batch), unpacked(batch.column(at)), memory)
    if len(batch) > 1 and not size.fits(rows):
        half = len(batch) // 2
        yield from pieces(name, batch.slice(0, half), at, rows, beside)
        yield from pieces(name, batch.slice(half), at, rows, beside)
    elif len(batch) == 1 and content > ROW_LETTERS:
        raise InputError(f"{name} has a row of {content:,} bytes; the maximum is {ROW_LETTERS:,}. Split it.")
    else:
        yield batch, size


def _spans(sizes: list[int], leaves: list[int]) -> list[range]:
    """Return ranges of stored columns that are read together.

    Args:
        sizes: bytes of each stored column.
        leaves: number of stored columns of each column of the table; these stay together.
    """
    spans = [range(0)]
    for count in leaves:
        start, stop = spans[-1].start, spans[-1].stop + count
        if len(spans[-1]) and (sum(sizes[start:stop]) > SPAN_BYTES or stop - start > SPAN_COLUMNS):
            start = spans[-1].stop
            spans.append(range(start, stop))
        else:
            spans[-1] = range(start, stop)
    return spans


def _side_by_side(
    open_file: Callable[[], Any], group: int, spans: list[range], size: int, scratch: Path | None, schema: Any
) -> Iterator[Any]:
    import pyarrow

    with ExitStack() as stack:
        streams = []
        for span in spans:
            try:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            except OSError as error:
                raise _disk_full(error) from None
            with open_file() as file:
                batches = file.reader.iter_batches(
                    size, row_groups=[group], column_indices=list(span), use_threads=False
                )
                _store(batches, spool)
            pyarrow.default_memory_pool().release_unused()
            spool.seek(0)
            streams.append(stack.enter_context(pyarrow.ipc.open_stream(spool)))
        for batches in zip(*streams, strict=True):
            columns = [column for batch in batches for column in batch.columns]
            yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)


def _store(batches: Iterator[Any], spool: Any) -> None:
    import pyarrow

    writer: Any = None
    for batch in batches:
        try:
            writer = writer or pyarrow.ipc.new_stream(spool, batch.schema)
            writer.write_batch(batch)
        except OSError as error:
            raise _disk_full(error) from None
    writer.close()


def _leaves(kind: Any) -> int:
    """Return the number of columns in which Parquet stores a column of this type."""
    from pyarrow import types

    if hasattr(kind, "storage_type"):
        return _leaves(kind.storage_type)
    if types.is_dictionary(kind):
        return _leaves(kind.value_type)
    if types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if types.is_struct(kind):
        return sum(_leaves(kind.field(at).type) for at in range(kind.num_fields))
    return _leaves(kind.value_type) if types.is_nested(kind) else 1


def _disk_full(error: OSError) -> InferenceError:
    return InferenceError(
        f"Cannot write a temporary file: {error.strerror or error}. Free some disk space; the same command then "
        "continues where it stopped."
    )
