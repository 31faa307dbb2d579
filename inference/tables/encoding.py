"""The encoding of a text file: UTF-8, what its byte-order mark says, or else Windows-1252 if that is plausible."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from inference.errors import InputError
from inference.tables.cutting import ROW_LETTERS
from inference.tables.source import Source

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
# What letters of DOS, of Macintosh and of Eastern Europe become within words: quotation marks, signs, capitals.
_STRANGE = re.compile(
    "(?<=[a-z])(?:[‚„ˆ‹]|[†‡‰›˜‘“”\xa1-\xac\xaf-\xb3\xb5\xb6\xb8-\xbf](?=[a-z\xdf-\xff])|[ŠŒŽŸÀ-Þ](?=[a-z]))"
)
MAX_STRANGE = 0.1  # of the words with letters outside ASCII
_FOREIGN_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]*+[^\W\d_A-Za-z][^\W\d_]*+")
_LETTERS = {
    "icelandic": "ðþÐÞ",  # and of Turkish, Romanian and Baltic files read wrongly, which lack those of "acute"
    "acute": "áíóúæÁÍÓÚÆ",
    "caron": "šžŠŽ",  # and of Czech and Croatian ones, which have "grave" too; Finnish and Estonian do not
    "grave": "èæøìùÈÆØ",
    "tilde": "õÕ",  # and of Hungarian ones, which have "umlaut" and "a" too; Portuguese, Estonian do not
    "umlaut": "öüÖÜ",
    "a": "áÁ",
}


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
    counts = _Counts()
    try:
        for chunk in _chunks(source):
            counts.add(chunk)
    except UnicodeDecodeError:
        return False
    return counts.is_utf8_rare() and counts.is_latin() and not counts.is_eastern()


class _Counts:
    """Counts over a file of what tells Windows-1252 from other encodings."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._valid = self._invalid = 0
        """Letters outside ASCII that are UTF-8, and bytes that are not."""
        self._words = self._foreign_words = self._strange = 0
        """Words with bytes outside ASCII; those without any ASCII letter; those that Windows-1252 reads strangely."""
        self._letters = Counter[str]()
        """Group of `_LETTERS` -> number of words with one of its letters."""

    def add(self, chunk: bytes) -> None:
        """Count a part of the file.

        Raises:
            UnicodeDecodeError: it has bytes without a meaning in Windows-1252.
        """
        text = chunk.decode("cp1252")
        foreign = [letter for letter in self._decoder.decode(chunk) if letter > "\x7f"]
        escaped = sum("\udc80" <= letter <= "\udcff" for letter in foreign)
        self._valid += len(foreign) - escaped
        self._invalid += escaped
        for word in _WORDS.finditer(chunk):
            self._words += not word[0].isascii()
            self._foreign_words += len(word[0]) > 1 and not _ASCII_LETTER.search(word[0])
        self._strange += len(_STRANGE.findall(text))
        for written in _FOREIGN_WORD.findall(text):
            self._letters.update(name for name, letters in _LETTERS.items() if not set(letters).isdisjoint(written))

    def is_utf8_rare(self) -> bool:
        """Whether the file is not UTF-8 with a few damaged bytes."""
        return 10 * self._valid <= self._invalid

    def is_latin(self) -> bool:
        """Whether words have few letters that another alphabet, DOS or Macintosh would explain."""
        return self._foreign_words <= MAX_FOREIGN * self._words and self._strange <= MAX_STRANGE * self._words

    def is_eastern(self) -> bool:
        """Whether the letters are more likely those of Eastern Europe, in an encoding of its own."""
        share = {name: self._letters[name] / max(self._words, 1) for name in _LETTERS}
        return (
            (share["icelandic"] > 0.05 and share["acute"] < 0.4)
            or (share["caron"] > 0.1 and share["grave"] > 0.1)
            or min(share["tilde"], share["umlaut"], share["a"]) > 0.05
        )


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
