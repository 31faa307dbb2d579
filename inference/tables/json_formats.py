"""JSON tables: an object per line, or an array of objects, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inference.errors import InputError
from inference.tables.cutting import Size, gather, weight
from inference.tables.encoding import read_lines
from inference.tables.json_array import CHUNK_LETTERS, JsonArray
from inference.tables.source import Source
from inference.tables.table import Block, check_column_count, find_text_column

WRITE_RECORDS = 'Write an array of objects, one per row; pandas does with df.to_json(name, orient="records").'


class JsonlTable:
    """A JSONL file: one object per line; blank lines are skipped. Every name in any line is a column."""

    format = "jsonl"

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        self.name = source.name
        self.source = source
        self.remarks: list[str] = []
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
            for number, line in enumerate(read_lines(file, self.name), 1):
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


class JsonTable(JsonlTable):
    """A JSON file: an array of objects, or, if it begins with an object, one object per line."""

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        with source.open_text(newline="\n") as file:
            start = ""
            while not start and (piece := file.read(CHUNK_LETTERS)):
                start = piece.lstrip(" \t\r\n")
        self._is_array = start.startswith("[")
        if start.startswith("{"):
            self._check_lines(source)
        super().__init__(source, text_column, max_columns)

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._is_array:
            yield from super()._records()
            return
        with self.source.open_text(newline="\n") as file:
            for number, (line, row) in enumerate(JsonArray(file, self.name).elements(), 1):
                if not isinstance(row, dict):
                    raise InputError(
                        f"{self.name}, element {number:,} is not a JSON object but {_kind(row)}. {WRITE_RECORDS}"
                    )
                yield line, row

    @staticmethod
    def _check_lines(source: Source) -> None:
        """Raise InputError if the file is a single object: over several lines, or one that holds columns or rows."""
        with source.open_text(newline="\n") as file:
            lines = filter(str.strip, read_lines(file, source.name))
            first = next(lines)
            is_alone = next(lines, None) is None
        try:
            cells = json.loads(first).values()
            is_table = is_alone and bool(cells) and all(isinstance(cell, list | dict) for cell in cells)
        except (ValueError, RecursionError):
            is_table = not first.rstrip().endswith("}")
        if is_table:
            raise InputError(f"{source.name} is a single JSON object. {WRITE_RECORDS}")


def _cells(lines: Sequence[str], columns: Sequence[str]) -> Iterator[list[Any]]:
    return ([row.get(name) for name in columns] for row in map(json.loads, lines))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
