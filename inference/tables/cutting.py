"""Where a file is cut into blocks, by the file and the settings alone: whoever answers a block gets the same rows.

A block is small in rows and in letters of text, so that it is answered within seconds on a slow machine, and small in
memory, whatever stands in the columns beside the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

BLOCK_ROWS = 1_000  # a second of short texts; enough of them to sort by length
TEXT_LETTERS = 100_000  # of the texts of a block
BLOCK_BYTES = 16_000_000  # of a block in memory, as `weight` counts them
ROW_LETTERS = 6_000_000  # of a row, and of a line: a file without line ends is not taken into memory
LETTER_BYTES = 4  # where one letter of a text is an emoji, each has as many
CELL_BYTES = 64  # of a cell, whatever is in it
CUT = [TEXT_LETTERS, BLOCK_BYTES, ROW_LETTERS]
"""What decides the blocks of a file beside its rows in a block: parts of a run with others are not taken."""

_Piece = TypeVar("_Piece")


class Size(NamedTuple):
    """How large some rows are."""

    rows: int
    text: int
    """Letters in the text column."""
    weight: int
    """Bytes in memory, roughly and never far too low: other versions of Python must find the same."""

    def __add__(self, other: tuple[int, ...]) -> Size:  # type: ignore[override]
        return Size(*(mine + more for mine, more in zip(self, other, strict=True)))

    def fits(self, rows: int) -> bool:
        """Whether so much is a block, where a block has at most so many rows."""
        return self.rows <= rows and self.text <= TEXT_LETTERS and self.weight <= BLOCK_BYTES


def weight(letters: int, columns: int) -> int:
    """The bytes of a row with so many letters in so many columns."""
    return LETTER_BYTES * letters + CELL_BYTES * columns


def gather(pieces: Iterable[tuple[_Piece, Size]], rows: int) -> Iterator[tuple[list[_Piece], int]]:
    """Yield lists of pieces that follow each other and fit into a block, or of one that does not; and their weight."""
    block: list[_Piece] = []
    size = Size(0, 0, 0)
    for piece, more in pieces:
        if block and not (size + more).fits(rows):
            yield block, size.weight
            block, size = [], Size(0, 0, 0)
        block.append(piece)
        size += more
    if block:
        yield block, size.weight
