"""What a run has done so far, on disk: whenever it is killed, the next run goes on and ends in the same bytes.

Beside OUT lies the folder `OUT.partial` with a file for each block of rows that is done, and `journal.jsonl`. The first
line of the journal says what the run is of: digests of input and model, and every setting. Each other line names a part
that is done, with its SHA-256. A part counts when the journal names it and its bytes are those. At the end the parts
are joined to a file in that folder, which takes the place of OUT in one step; then the journal goes, and then the rest.
Killed between those steps, the next run finds every part, and joins them again to the same bytes.
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
from inference.score.annotate import Tally

JOURNAL, LOCK, WHOLE, STRAY = "journal.jsonl", "lock", "whole", ".tmp"
MAX_SETTING_CHARS = 60  # characters of a setting that a message names; a digest has more
OURS = re.compile(r"(part-\d{6,}|journal\.jsonl|whole)(\.tmp)?|lock", re.ASCII)
"""Files that a run makes in its folder. Other tools write `part-00000-….csv` into such folders, which are not ours."""


class Journal:
    """The parts of one run that are done. Use it in a `with`: it holds a lock, and nobody else may write this OUT.

    Args:
        out: the file that is to come of it.
        about: what the run is of, in plain types. Parts of a run of anything else are not taken.

    Raises:
        InputError: another run is writing this file, or what was begun there is of other things.
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.done: dict[int, Tally] = {}
        """Number of each part that is done -> what is in it."""
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
        if not self.done and self._begun:  # nothing to go on from
            with contextlib.suppress(OSError):  # what ended the run is what is to be told
                self._remove()
        self._lock.release()

    def path(self, number: int) -> Path:
        """Where a part lies."""
        return self.folder / f"part-{number:06}"

    def commit(self, number: int, content: bytes, tally: Tally) -> None:
        """Keep a part: when this returns, it is on the disk."""
        write(self.path(number), lambda file: file.write(content))
        line = {"part": number, "sha256": sha256(content).hexdigest(), "tally": asdict(tally)}
        self.done[number] = tally  # before it stands in the journal: an interrupt between the two must not lose it
        with self._path.open("ab") as file:
            file.write(_line(line))
            _flush(file)

    def finish(self, join: Callable[[BinaryIO], object]) -> None:
        """Put what `join` writes in the place of OUT, and take the folder away."""
        whole = self.folder / WHOLE
        write(whole, join)
        whole.replace(self.out)
        _sync_folder(self.out.parent)
        self._path.unlink()  # first: parts without a journal are nothing, a journal without its parts is not
        _sync_folder(self.folder)
        self._begun = False
        self._remove()

    def _remove(self) -> None:
        """Take the folder away. The lock is held until it is the last file: who comes then begins anew, beside us."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        if os.name == "nt":  # an open file cannot be deleted there
            self._lock.release()
        with contextlib.suppress(OSError):  # another run has begun there
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _resume(self) -> None:
        """Read what was done, drop what is damaged, and begin the journal where there is none."""
        foreign = [path.name for path in self.folder.iterdir() if not OURS.fullmatch(path.name)]
        if foreign:
            raise InputError(f"{self.folder} holds {foreign[0]}, which no run of this kind made. Move it elsewhere.")
        entries: list[dict[str, Any]] = []
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        for line in lines[:-1]:  # what follows the last line end was cut off by a kill
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict):
                break
            entries.append(entry)
        if entries and entries[0] != self._about and len(entries) > 1:
            raise InputError(
                f"{self.folder} holds {len(entries) - 1} parts of another run: {self._difference(entries[0])}. Give "
                "what was given then, or delete that folder to start anew."
            )
        kept: dict[int, dict[str, Any]] = {}
        for entry in entries[1:] if entries[:1] == [self._about] else ():
            path = self.path(entry["part"])
            if path.is_file() and sha256(path.read_bytes()).hexdigest() == entry["sha256"]:
                kept[entry["part"]] = entry
        staying = {JOURNAL, LOCK, *(self.path(number).name for number in kept)}
        for path in self.folder.iterdir():
            if path.name not in staying:
                path.unlink()
        content = b"".join(map(_line, [self._about, *kept.values()]))
        write(self._path, lambda file: file.write(content))
        self.done = {number: Tally.of_dict(entry["tally"]) for number, entry in kept.items()}
        self._begun = True

    def _difference(self, before: Mapping[str, Any]) -> str:
        if before.keys() != self._about.keys():
            return "of another version, or cut into other blocks"
        others = [name for name in self._about if before[name] != self._about[name]]
        return f"other {', '.join(f'{name}{_then(before[name])}' for name in others)}"


def write(path: Path, fill: Callable[[BinaryIO], object], stray: Path | None = None) -> None:
    """Put what `fill` writes in the place of a file: whoever looks sees the old one or the new one, whole.

    Args:
        stray: where it is written meanwhile, in the same folder; gone again when `fill` raises. Left out, a name that
            is only free where nobody else writes.
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
    _sync_folder(path.parent)


def free_name(path: Path) -> Path:
    """A name beside a file that nobody has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{STRAY}")


def _then(value: Any) -> str:
    """What a setting was, where a line has room for it: a digest says nothing to anybody."""
    said = "none given" if value is None else json.dumps(value, ensure_ascii=False)
    return f" (then {said})" if len(said) <= MAX_SETTING_CHARS else ""


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"  # in ASCII: the name of a column may hold half a character


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
