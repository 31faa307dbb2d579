"""Store on disk what a run has done, so that after a kill the next run continues and writes the same bytes.

The folder `OUT.partial` beside OUT has a file for each finished block of rows, and `journal.jsonl`. The first line of
the journal describes the run: digests of input and model, and every setting. Each other line names a finished part with
its SHA-256. A part is valid if the journal names it and its bytes match. At the end the parts are joined to a file in
that folder, which replaces OUT in one step; then the journal is deleted, and then the rest. After a kill between those
steps, the next run finds every part and joins them to the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from inference.errors import InputError
from inference.formats.files import sync
from inference.score.annotate import Tally

JOURNAL, LOCK, WHOLE, STRAY = "journal.jsonl", "lock", "whole", ".tmp"
MAX_SETTING_CHARS = 60  # of a setting in a message; a digest has more
OURS = re.compile(r"(part-\d{6,}|journal\.jsonl|whole)(\.tmp)?|lock", re.ASCII)
"""Files that a run writes. Other tools write `part-00000-….csv` into such folders."""


class Journal:
    """The finished parts of a run. Within a `with` block it holds a lock, so that no other run writes this OUT.

    Args:
        out: the file to write in the end.
        about: description of the run, in plain types. Parts of a run with another description are not reused.

    Raises:
        InputError: another process is writing this file, or the folder holds parts of another run.
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.done: dict[int, Tally] = {}
        """Number of each finished part -> its counts."""
        self._begun = False
        self._about = json.loads(json.dumps(about))
        self._path = self.folder / JOURNAL
        self.folder.mkdir(exist_ok=True)
        self._lock = FileLock(self.folder / LOCK)

    def __enter__(self) -> Journal:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.out} is being written by another process. Wait for it, or name another.") from None
        try:
            self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self.done and self._begun:  # nothing to continue from
            with contextlib.suppress(OSError):  # the error that ended the run matters more
                self._remove()
        self._lock.release()

    def path(self, number: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{number:06}"

    def commit(self, number: int, content: bytes, tally: Tally) -> None:
        """Store a part: when this returns, it is on the disk."""
        write(self.path(number), lambda file: file.write(content))
        line = {"part": number, "sha256": sha256(content).hexdigest(), "tally": asdict(tally)}
        self.done[number] = tally  # first, so that an interrupt before the journal is written does not lose it
        with self._path.open("ab") as file:
            file.write(_line(line))
            _flush(file)

    def finish(self, join: Callable[[BinaryIO], object]) -> None:
        """Replace OUT by what `join` writes, and delete the folder."""
        whole = self.folder / WHOLE
        write(whole, join)
        whole.replace(self.out)
        sync(self.out.parent)
        self._path.unlink()  # first: parts without a journal are ignored, a journal without its parts is not
        sync(self.folder)
        self._begun = False
        self._remove()

    def _remove(self) -> None:
        """Delete the folder, the lock last: a run that starts afterwards starts again."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        if os.name == "nt":  # an open file cannot be deleted there
            self._lock.release()
        with contextlib.suppress(OSError):  # another run has started there
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _resume(self) -> None:
        """Read which parts are finished, delete damaged ones, and write the journal."""
        foreign = [path.name for path in self.folder.iterdir() if not OURS.fullmatch(path.name)]
        if foreign:
            raise InputError(f"{self.folder} holds {foreign[0]}, which is not part of a run. Move it elsewhere.")
        entries: list[dict[str, Any]] = []
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        for line in lines[:-1]:  # a kill cut off what follows the last line end
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict):
                break
            entries.append(entry)
        if entries and entries[0] != self._about and len(entries) > 1:
            raise InputError(
                f"{self.folder} holds {len(entries) - 1} parts of another run: {self._difference(entries[0])}. Use the "
                "same input and settings, or delete that folder to start again."
            )
        valid: dict[int, dict[str, Any]] = {}
        for entry in entries[1:] if entries[:1] == [self._about] else ():
            path = self.path(entry["part"])
            if path.is_file() and sha256(path.read_bytes()).hexdigest() == entry["sha256"]:
                valid[entry["part"]] = entry
        staying = {JOURNAL, LOCK, *(self.path(number).name for number in valid)}
        for path in self.folder.iterdir():
            if path.name not in staying:
                path.unlink()
        content = b"".join(map(_line, [self._about, *valid.values()]))
        write(self._path, lambda file: file.write(content))
        self.done = {number: Tally.of_dict(entry["tally"]) for number, entry in valid.items()}
        self._begun = True

    def _difference(self, before: Mapping[str, Any]) -> str:
        if (before.keys() ^ self._about.keys()) - {"pair column"}:  # which only runs with pairs have
            return "of another version, or cut into other blocks"
        others = [name for name in {**self._about, **before} if before.get(name) != self._about.get(name)]
        return f"other {', '.join(f'{name}{_then(before.get(name))}' for name in others)}"


def write(path: Path, fill: Callable[[BinaryIO], object], stray: Path | None = None) -> None:
    """Replace a file by what `fill` writes, in one step: readers see the old file or the new one.

    Args:
        stray: the temporary file in the same folder, deleted if `fill` raises. The default name is unique only if
            nobody else writes `path`.
    """
    stray = stray or path.with_name(path.name + STRAY)
    try:
        with stray.open("wb") as file:
            fill(file)
            _flush(file)
        stray.replace(path)
    except BaseException:
        stray.unlink(missing_ok=True)
        raise
    sync(path.parent)


def free_name(path: Path) -> Path:
    """Return an unused name for a temporary file beside a file."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{STRAY}")


def _then(value: Any) -> str:
    """Return the former value of a setting, if it is short; a digest helps nobody."""
    text = "none given" if value is None else json.dumps(value, ensure_ascii=False)
    return f" (then {text})" if len(text) <= MAX_SETTING_CHARS else ""


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"  # ASCII, because a column name may hold a lone surrogate


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
