"""Reading files of strangers: nothing outside the folder, nothing larger than it can be, nothing that runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inference.errors import BundleError

JSON_BYTES = 1_000_000  # a config with ten thousand labels has a third of that
# The files that a tokenizer is read from; those that hold a vocabulary, without which transformers makes one up.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
TOKENIZERS = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
)
HEADER_BYTES = 100_000_000  # what safetensors itself allows
OTHER_BYTES = 200_000_000  # of a file that holds no weights: the largest tokenizers have a fifth of it
# A file that changed less than this before it was hashed may change again without another time in its status.
SETTLED_NS = 2_000_000_000
_IS_WEIGHTS = re.compile(r"\.(onnx|onnx_data|data)$|_weights\.bin$")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_digests: dict[Path, tuple[tuple[int, ...], str]] = {}
"""Path -> status of the file and its SHA-256, of files that this process has hashed."""


def digest(path: Path) -> str:
    """Hex SHA-256 of a file, read again by this process only where its inode, size or times are other than before."""
    started, status, name = time.time_ns(), status_of(path), path.resolve()
    known = _digests.get(name)
    if known is not None and known[0] == status:
        return known[1]
    value = sha256(path)
    if status == status_of(path) and started - max(status[-2:]) > SETTLED_NS:
        _digests[name] = (status, value)
    return value


def status_of(path: Path) -> tuple[int, ...]:
    """Device, inode, size and times of a file: no other file in its place has the same."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_digest(path: Path, expected: str, remedy: str) -> None:
    """Raise BundleError unless the file is there and has this SHA-256."""
    if not path.is_file():
        raise BundleError(f"{path} is missing: {remedy}.")
    try:
        found = digest(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
    if found != expected:
        raise BundleError(f"{path} has SHA-256 {found[:12]}…, expected {expected[:12]}…: {remedy}.")


def inside(folder: Path, name: str) -> Path:
    """The path of a file of `folder`, which is really in it.

    A snapshot in the Hugging Face cache holds links to the blobs beside it: there they count as inside.

    Raises:
        BundleError: the file is missing, is no plain file, or is a link to somewhere else.
    """
    path = folder / name
    root = folder.resolve()
    if root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir():
        root = root.parents[1]
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(f"{path} is missing, or a link that leads nowhere. Restore the model folder.") from None
    if not real.is_relative_to(root):
        raise BundleError(f"{path} is a link out of the model's folder. Put the file itself there.")
    if not real.is_file():
        raise BundleError(f"{path} is no file. Restore the model folder.")
    return path


def check_folder(folder: Path) -> None:
    """Raise BundleError where something in `folder` is a pipe, or a link that leads out of it.

    Folders in it are not looked into. Libraries open more files than we name: none may be there that must not be
    opened.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}. Restore the model folder.") from None
    for path in entries:
        if not path.is_dir():
            inside(folder, path.name)


def refuse_code(folder: Path) -> None:
    """Raise BundleError where Python code lies in `folder`."""
    for path in sorted(folder.glob("*.py")):
        raise BundleError(
            f"{folder} brings Python code ({path.name}), which is never run here. Remove it, if the model does without."
        )


def check_file(folder: Path, name: str) -> Path:
    """The path of a file, really in `folder`, that is not larger than it can be: worth being read to its end.

    Raises:
        BundleError: as `inside`; or it has more bytes than such a file needs, or than its own header tells of.
    """
    path = inside(folder, name)
    if path.suffix == ".safetensors":
        tensors(path)
    elif not _IS_WEIGHTS.search(path.name) and path.stat().st_size > OTHER_BYTES:
        raise BundleError(
            f"{path} has {path.stat().st_size:,} bytes; {OTHER_BYTES:,} are the most that such a file can need. "
            "Restore it."
        )
    return path


def read_json(path: Path, most_bytes: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BundleError: it is too large, no JSON, or something else than an object.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise BundleError(
                f"{path} has {size:,} bytes; {most_bytes:,} are the most that such a file can need. Restore it."
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(
            f"{path} cannot be read as JSON ({reason}). Restore it from where the model came from."
        ) from None
    if not isinstance(raw, dict):
        raise BundleError(f"{path} holds a {type(raw).__name__} where an object is wanted. Restore it.")
    return raw


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Per tensor of a safetensors file its type ("F32"), shape and bytes, from the header alone.

    The format: 8 bytes of the header's length, the header as JSON, the values.

    Raises:
        BundleError: the file is cut off, larger than its header says, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_BYTES, size - 8):
                raise ValueError(f"its header would have {length:,} bytes")
            header = json.loads(file.read(length))
        found = {
            str(name): (str(one["dtype"]), tuple(map(int, one["shape"])), int.__sub__(*one["data_offsets"][::-1]))
            for name, one in header.items()
            if name != "__metadata__"
        }
        end = max((one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"), default=0)
        if 8 + length + end != size:
            raise ValueError(f"it has {size:,} bytes where its header tells of {8 + length + end:,}")
        if any(entry[2] < 0 or min(entry[1], default=0) < 0 for entry in found.values()):
            raise ValueError("a tensor has a negative size")
        if any(math.prod(entry[1]) > 8 * size for entry in found.values()):
            raise ValueError("a tensor is larger than the file")
    except (
        OSError,
        OverflowError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(
            f"{path} is no whole safetensors file ({reason}). Fetch it again from where the model came from."
        ) from None
    return found


def count_stored(paths: Iterable[Path]) -> int:
    """How many numbers the safetensors files hold."""
    return sum(math.prod(shape) for path in paths for _, shape, _ in tensors(path).values())
