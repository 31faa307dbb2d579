"""The encoding of a text file: UTF-8, what its byte-order mark says, or else Windows-1252 if that is plausible."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TextIO

from inference.errors import InputError
from inference.tables.cutting import ROW_LETTERS
from inference.tables.table import Source

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order mark -> encoding; that of UTF-32 begins like that of UTF-16."""
CHUNK_BYTES = 1 << 20
MAX_FOREIGN = 0.2  # of the words that have letters outside ASCII may have no other: in Greek or Chinese most do
_WORDS = re.compile(rb"[A-Za-z\x81-\x84\x86-\x90\x98-\x9f\xa1-\xaa\xac-\xba\xbc-\xff]+")  # not quotes, dots and dashes
_ASCII_LETTER = re.compile(rb"[A-Za-z]")


def find_encoding(source: Source) -> str:
    """Return the encoding of a text file.

    Raises:
        InputError: it is neither UTF-8, nor marked as UTF-16 or UTF-32, nor plausible as Windows-1252; with the line.
    """
    with source.open() as file:
        start = file.read(4096)
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    if len(start) >= 4 and not (any(start[:20:2]) and any(start[1:20:2])):
        raise InputError(f"{source.name} seems to be UTF-16 without a byte-order mark. Save it as UTF-8.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in _chunks(source):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        if not _is_windows(source):
            raise _not_utf8(source) from None
        return "cp1252"
    return "utf-8-sig"


def read_lines(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines with their ends.

    Raises:
        InputError: a line is too long, or has bytes that are not in the encoding.
    """
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(ROW_LETTERS)
        except UnicodeError as error:
            raise InputError(f"{name} is damaged near line {number:,}: {error}. Export it again.") from None
        if not line:
            return
        if len(line) == ROW_LETTERS:
            raise InputError(f"{name}, line {number:,} has more than {ROW_LETTERS:,} characters. Split it.")
        yield line


def _is_windows(source: Source) -> bool:
    """Whether text that is not UTF-8 is plausible as Windows-1252, and not broken UTF-8 or another alphabet."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    valid = invalid = words = foreign_words = 0
    for chunk in _chunks(source):
        foreign = [letter for letter in decoder.decode(chunk) if letter > "\x7f"]
        escaped = sum("\udc80" <= letter <= "\udcff" for letter in foreign)
        valid, invalid = valid + len(foreign) - escaped, invalid + escaped
        for word in _WORDS.finditer(chunk):
            words += not word[0].isascii()
            foreign_words += len(word[0]) > 1 and not _ASCII_LETTER.search(word[0])
        try:
            chunk.decode("cp1252")
        except UnicodeDecodeError:
            return False
    return 10 * valid <= invalid and foreign_words <= MAX_FOREIGN * words


def _chunks(source: Source) -> Iterator[bytes]:
    with source.open() as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _not_utf8(source: Source) -> InputError:
    """Return the error for a file that is not UTF-8: its first such line, and why."""
    with source.open() as file:
        number = 0
        while line := file.readline(ROW_LETTERS):
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError as error:
                if error.end == len(line) == ROW_LETTERS:  # a character that the limit cuts in two
                    continue
                byte, place = error.object[error.start], error.start + 1
                return InputError(
                    f"{source.name}, line {number:,} is not UTF-8 (byte {byte:#04x} at position {place:,}), and not "
                    'plausible as Windows-1252. Save it as UTF-8; Excel calls that "CSV UTF-8".'
                )
    return InputError(f"{source.name} is not UTF-8. Save it as UTF-8.")
