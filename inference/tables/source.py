"""The bytes of a table: a file or an upload, packed with gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inference.errors import InputError

MAX_RATIO = 100  # of unpacked to packed bytes: real tables have about 10, and gzip can reach 1,000
MIN_GZIP_LIMIT = 200_000_000  # that a small gzip file may unpack to


@dataclass(frozen=True)
class Source:
    """The bytes of a table: a file, or an upload that stays in memory."""

    name: str
    """Its extension determines the format."""
    content: Path | bytes
    is_gzip: bool = False
    max_bytes: int | None = None
    """Of what `open` gives, if that is not the file itself; None for the default of the format."""
    encoding: str = "utf-8-sig"

    @property
    def extension(self) -> str:
        """The extension in lower case, without that of the compression."""
        path = Path(self.name.lower())
        return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix

    @property
    def size_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> io.BufferedReader | io.BytesIO:
        """Open the content, unpacked."""
        file = self._raw()
        return io.BufferedReader(Unpacked(self, file)) if self.is_gzip else file

    def sha256(self) -> str:
        """Return the digest of the file as it is, packed or not."""
        with self._raw() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def open_text(self, newline: str) -> TextIO:
        """Open it as text without a byte-order mark."""
        return io.TextIOWrapper(self.open(), encoding=self.encoding, newline=newline)

    def _raw(self) -> io.BufferedReader | io.BytesIO:
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class Unpacked(io.RawIOBase):
    """The content of a gzip file, read as a stream.

    Raises:
        InputError: while it is read, if it is damaged or unpacks to more than `Source.max_bytes`, by default to more
            than `MAX_RATIO` times its size.
    """

    def __init__(self, source: Source, file: io.BufferedReader | io.BytesIO) -> None:
        self._name = source.name
        self._left = source.max_bytes or max(MIN_GZIP_LIMIT, MAX_RATIO * source.size_bytes)
        self._limit = self._left
        self._packed = file
        self._file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._name} is a damaged gzip file: {error}. Export it again.") from None
        self._left -= len(data)
        if self._left < 0:
            raise InputError(
                f"{self._name} unpacks to more than {self._limit / 1e6:,.0f} MB. Use a part of the file, or unpack it."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()
