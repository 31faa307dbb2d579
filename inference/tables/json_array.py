"""The elements of a JSON array, read piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from inference.errors import InputError
from inference.tables.cutting import ROW_LETTERS

CHUNK_LETTERS = 1 << 16
_WHITE = re.compile(r"[ \t\r\n]*")


class JsonArray:
    """A JSON array in a file; at most one of its elements and a chunk are in memory.

    Args:
        file: its first letter that is not white space is the opening bracket.
        name: of the file, for errors.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        """How much of `_text` is done; it is cut off when more is read, and not after every element."""
        self._is_last = False
        """Nothing is left to read."""

    def elements(self) -> Iterator[tuple[str, Any]]:
        """Yield the elements as they are written, on a line each, and their values.

        Raises:
            InputError: an element is not valid JSON or too long, or the file continues after the array.
        """
        self._skip_white()
        self._at += 1  # the opening bracket
        number = 0
        while self._next_sign() != "]":
            if number:
                if self._next_sign() != ",":
                    raise self._invalid(number, "a comma or a bracket is missing after it")
                self._at += 1
            number += 1
            yield self._element(number)
        self._at += 1
        self._skip_white()
        if self._at < len(self._text):
            raise InputError(f"{self._name} continues after the end of its array. Remove the rest.")

    def _element(self, number: int) -> tuple[str, Any]:
        while True:
            start = _WHITE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches everything
            try:
                row, end = self._decoder.raw_decode(self._text, start)
                if end < len(self._text) or self._is_last:  # else it may be a number that goes on
                    break
            except RecursionError:
                raise self._invalid(number, "it is nested too deeply") from None
            except ValueError as error:
                if self._is_last:
                    raise self._invalid(number, str(error).partition(":")[0]) from None
            if len(self._text) - self._at > ROW_LETTERS:
                raise InputError(
                    f"{self._name}, element {number:,} has more than {ROW_LETTERS:,} characters, or is not valid "
                    "JSON. Split or correct it."
                )
            self._read()
        line, self._at = self._text[start:end], end
        return line.replace("\r", " ").replace("\n", " "), row  # a string cannot contain a raw line end

    def _next_sign(self) -> str:
        """Return the next letter that is not white space, "" at the end of the file."""
        self._skip_white()
        return self._text[self._at : self._at + 1]

    def _skip_white(self) -> None:
        while True:
            self._at = _WHITE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._is_last:
                return
            self._read()

    def _read(self) -> None:
        # As much again as is waiting, so that a long element is not parsed once per chunk.
        try:
            piece = self._file.read(max(CHUNK_LETTERS, len(self._text) - self._at))
        except UnicodeError as error:
            raise InputError(f"{self._name} is damaged: {error}. Export it again.") from None
        self._text, self._at, self._is_last = self._text[self._at :] + piece, 0, not piece

    def _invalid(self, number: int, reason: str) -> InputError:
        return InputError(
            f"{self._name}, element {number:,} is not valid JSON: {reason}. Fix the file or export it again."
        )
