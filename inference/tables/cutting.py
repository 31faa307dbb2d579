"""Cut a file into blocks of rows, by the file and the settings alone, so that every process gets the same blocks.

A block has few rows and few letters of text, so that a slow machine answers it within seconds, and it takes little
memory, whatever is in the other columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

BLOCK_ROWS = 1_000  # a second of short texts; enough of them to sort by length
TEXT_LETTERS = 100_000  # of the texts of a block
BLOCK_BYTES = 16_000_000  # of a block in memory, as `weight` estimates them
ROW_LETTERS = 6_000_000  # of a row, and of a line: a file without line ends is not read into memory
LETTER_BYTES = 4  # of every letter of a text that contains an emoji
CELL_BYTES = 64  # overhead of a cell
CUT = [TEXT_LETTERS, BLOCK_BYTES, ROW_LETTERS]
"""What determines the blocks besides their number of rows; a run with other values cannot be resumed."""

_Piece = TypeVar("_Piece")


class Size(NamedTuple):
    """The size of some rows."""

    rows: int
    text: int
    """Letters in the text column."""
    weight: int
    """Approximate bytes in memory, never far too low. The estimate must not depend on the version of Python."""

    def __add__(self, other: tuple[int, ...]) -> Size:  # type: ignore[override]
        return Size(*(mine + more for mine, more in zip(self, other, strict=True)))

    def fits(self, rows: int) -> bool:
        """Whether this fits into a block of at most so many rows."""
        return self.rows <= rows and self.text <= TEXT_LETTERS and self.weight <= BLOCK_BYTES


def weight(letters: int, columns: int) -> int:
    """Return the approximate bytes in memory of so many letters in so many columns."""
    return LETTER_BYTES * letters + CELL_BYTES * columns


def gather(pieces: Iterable[tuple[_Piece, Size]], rows: int) -> Iterator[tuple[list[_Piece], int]]:
    """Yield lists of consecutive pieces that fit into a block, or of a single one that does not, and their weight."""
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
