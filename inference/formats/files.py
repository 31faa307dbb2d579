"""Read untrusted model files: never outside the folder, never over the size limit, never executing code."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from inference.errors import BundleError

JSON_BYTES = 1_000_000  # a config with ten thousand labels has a third of that
LARGE_JSON_BYTES = 20_000_000  # of a tokenizer's config, or an index of shards
# Files with a vocabulary; without any of them transformers would invent a tokenizer.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "sentencepiece.model",
    "tokenizer.model",
)
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZERS = (
    *VOCABULARIES,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
)
LFS_BYTES = 300
LFS = b"version https://git-lfs"  # the first bytes of a file that Git has not fetched
HEADER_BYTES = 100_000_000  # the limit of safetensors itself
OTHER_BYTES = 200_000_000  # of a file without weights: the largest tokenizers have a fifth of it
# A file modified less than this before it was hashed may change again without a new time in its status.
SETTLED_NS = 2_000_000_000
_WRAPPER = r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_IS_WEIGHTS = re.compile(r"\.(onnx|onnx_data(_\d+)?|data)$|_weights\.bin$")


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Return the hex SHA-256 of a file, read again only if its inode, size or times have changed."""
    return str(_remembered("sha256", path, sha256))


Remembered = dict[tuple[str, Path], tuple[tuple[int, ...], Any]]
"""What was read of a file and its path -> its status at that time, and the value."""
_values: Remembered = {}


def digests() -> Remembered:
    """Return the digests that this process remembers, to `remember` them in another one on this machine."""
    return {key: value for key, value in list(_values.items()) if key[0] == "sha256"}


def remember(known: Remembered) -> None:
    """Take over what `digests` returned in another process of this program."""
    _values.update(known)


def _remembered(what: str, path: Path, read: Callable[[Path], Any]) -> Any:
    started, status, key = time.time_ns(), status_of(path), (what, path.resolve())
    known = _values.get(key)
    if known is not None and known[0] == status:
        return known[1]
    value = read(path)
    if status == status_of(path) and started - max(status[-2:]) > SETTLED_NS:
        _values[key] = (status, value)
    return value


def sync(path: Path) -> None:
    """Write a file or the entries of a folder through to the disk; does nothing on Windows."""
    if os.name == "nt":  # cannot open folders, nor flush read-only handles
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status_of(path: Path) -> tuple[int, ...]:
    """Return device, inode, size and times of a file: no other file in its place has the same."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_digest(path: Path, expected: str, remedy: str) -> None:
    """Raise BundleError unless the file exists and has this SHA-256."""
    if not path.is_file():
        raise BundleError(f"{path} is missing: {remedy}.")
    try:
        actual = digest(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
    if actual != expected:
        raise BundleError(f"{path} has SHA-256 {actual[:12]}…, expected {expected[:12]}…: {remedy}.")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that really lies in `folder`.

    A snapshot in the Hugging Face cache holds links to the blobs beside it; these count as inside.
    """
    path = _resolved(folder, name)
    try:
        is_pointer = path.stat().st_size < LFS_BYTES and path.read_bytes().startswith(LFS)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Restore the model folder.") from None
    if is_pointer:
        raise BundleError(f"{path} is a pointer of Git LFS in place of the file. Fetch the file: git lfs pull")
    return path


def _resolved(folder: Path, name: str) -> Path:
    path = folder / name
    root = folder.resolve()
    if root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir():
        root = root.parents[1]
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(f"{path} is missing or a broken link. Restore the model folder.") from None
    if not real.is_relative_to(root):
        raise BundleError(f"{path} is a link to a place outside the model folder. Put the file itself there.")
    if not real.is_file():
        raise BundleError(f"{path} is not a file. Restore the model folder.")
    return path


def check_folder(folder: Path) -> None:
    """Raise BundleError if `folder` itself holds a pipe or a link to a place outside.

    Libraries open more files than we name, so none may be there that must not be opened. Subfolders are not checked.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}. Restore the model folder.") from None
    for path in entries:
        if not path.is_dir():
            _resolved(folder, path.name)


def refuse_code(folder: Path) -> None:
    """Raise BundleError if `folder` holds Python code."""
    for path in sorted(folder.glob("*.py")):
        if path.name == "zero_to_fp32.py":  # DeepSpeed puts it into every folder of a training
            continue
        raise BundleError(
            f"{folder} contains Python code ({path.name}), which Triptych never runs. Remove it if the model works "
            "without it."
        )


def check_file(folder: Path, name: str) -> Path:
    """Return the path of a file in `folder` that is small enough to be read in full."""
    path = inside(folder, name)
    if path.suffix == ".safetensors":
        tensors(path)
    elif not _IS_WEIGHTS.search(path.name):
        check_bytes(path, OTHER_BYTES)
    return path


def check_bytes(path: Path, limit: int) -> None:
    """Raise BundleError if a file has more than `limit` bytes."""
    size = path.stat().st_size
    if size > limit:
        raise BundleError(f"{path} has {size:,} bytes; the limit for such a file is {limit:,}. Restore it.")


def read_json(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        check_bytes(path, limit)
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(f"{path} cannot be read as JSON ({reason}). Restore it from its source.") from None
    if not isinstance(raw, dict):
        raise BundleError(f"{path} must hold an object, not a {type(raw).__name__}. Restore it.")
    return raw


def read_json_in(folder: Path, name: str, limit: int = LARGE_JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file of `folder`; an empty one if there is no such file."""
    return read_json(inside(folder, name), limit) if (folder / name).exists() else {}


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return type ("F32"), shape and bytes of each tensor of a safetensors file, from the header alone."""
    wrong = (OSError, OverflowError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)
    try:
        entries: dict[str, tuple[str, tuple[int, ...], int]] = _read_header(path)
    except wrong as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(
            f"{path} is not a complete safetensors file ({reason}). Fetch it again from its source."
        ) from None
    return entries


def _read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """The format: 8 bytes with the header's length, the header as JSON, the values."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(HEADER_BYTES, size - 8):
            raise ValueError(f"its header would have {length:,} bytes")
        header = json.loads(file.read(length))
    entries = {}
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            entries[str(name)] = (str(entry["dtype"]), tuple(map(int, entry["shape"])), int.__sub__(stop, start))
            end = max(end, stop)
    if 8 + length + end != size:
        raise ValueError(f"it has {size:,} bytes, but its header describes {8 + length + end:,}")
    if any(count < 0 or min(shape, default=0) < 0 for _, shape, count in entries.values()):
        raise ValueError("a tensor has a negative size")
    if any(math.prod(shape) > 8 * size for _, shape, _ in entries.values()):
        raise ValueError("a tensor is larger than the file")
    return entries


def wrapper_pattern(names: Iterable[str]) -> str | None:
    """Return a pattern of what to delete from the names of a file's tensors; None if none has a wrapper's name in it.

    torch.compile, DataParallel and FSDP put the network into a module of theirs, whose name a saved state dict keeps.
    """
    names, pattern = list(names), _WRAPPER
    if all(re.match(r"(_orig_mod\.)?module\.", name) for name in names):  # else a part of the network has this name
        pattern = rf"^(?:_orig_mod\.)?module\.|{_WRAPPER}"
    bare = {re.sub(pattern, "", name) for name in names}
    return pattern if bare != set(names) and len(bare) == len(names) else None


def count_stored(paths: Iterable[Path]) -> int:
    """Return how many numbers these safetensors files hold."""
    return sum(math.prod(shape) for path in paths for _, shape, _ in tensors(path).values())


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names of the files of a tokenizer that a folder has."""
    return [name for name in TOKENIZERS if (folder / name).exists()]


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of these files of a folder, each checked first."""
    return {name: digest(check_file(folder, name)) for name in names}


def model_name(folder: Path) -> str:
    """Return the folder's name, or the Hub's for a snapshot in its cache."""
    home = folder.resolve()
    name = home.parents[1].name.rpartition("--")[2] if home.parent.name == "snapshots" else home.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-_")[:64] or "model"
