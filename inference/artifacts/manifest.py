"""The manifest of a built folder: how its files were made and what they are, sealed with a digest of its own.

The file must be, byte for byte, what this module writes for its content: a changed byte, a repeated key or an added
space is noticed even if JSON allows it. A manifest without a digest counts as damaged. The digest detects damage; it is
not a signature.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.backends import RUNTIMES, TITLES
from inference.errors import BundleError
from inference.formats.files import JSON_BYTES
from inference.formats.tokenizer import TOKENIZER

MANIFEST = "manifest.json"
REBUILD = "Build it again: python -m inference build --model (its folder)"
_SEAL = "sha256"  # the key of the digest, the last one of the file

# The parts of a manifest that the code reads: a type for a value, {str: type} for any keys, [type] for a list. float
# includes whole numbers. Other keys are allowed.
_AGREEMENT = {"max_abs_dp": float, "mean_abs_dp": float, "label_agreement": float}
_SHAPE: Mapping[Any, Any] = {
    "model": str,
    "built": str,
    "build_seconds": float,
    "tools": {str: str},
    "reduce_range": bool,
    "fused": {str: int},
    "parity": {
        "texts": int,
        "reference": str,
        "backends": {
            str: {"tasks": {str: _AGREEMENT}, "max_abs_dp": float, "label_agreement": float, "batch_flips": int}
        },
    },
    "files": {str: {"sha256": str, "size_bytes": int}},
}
_QUANTIZED = {"recipe": str, "summary": str, "held": bool, "counts": {str: int}}
_TRIED = {"kept_float": [str], "tried": [{"recipe": str, "held": bool, "why": str}]}


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its digest."""
    path.write_bytes(_sealed(manifest).encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest in a file, without its digest.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it cannot be read, or is not what a build wrote.
    """
    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError("it is larger than a manifest can be")
        text = path.read_bytes().decode()
        manifest = json.loads(text, parse_constant=_refuse)
        if not isinstance(manifest, dict):
            raise ValueError("it does not hold an object")
        if manifest.pop(_SEAL, None) is None:
            raise ValueError("it has no digest of its own (older versions wrote none)")
        if text != _sealed(manifest):
            raise ValueError("it does not match its own digest")
        if problem := _problem(manifest):
            raise ValueError(problem)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. {REBUILD}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is not JSON" if isinstance(error, _NOT_JSON) else str(error)
        raise BundleError(f"{path} is damaged: {reason}. {REBUILD}") from None
    return manifest


_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)


def _sealed(manifest: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps({**manifest, _SEAL: digest}, indent=1)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _problem(manifest: Mapping[str, Any]) -> str:
    """Return why a sealed manifest cannot be used; empty if it can."""
    for key, shape in _SHAPE.items():
        if key not in manifest or not _fits(manifest[key], shape):
            return f"{key!r} is missing or not what a build writes"
    quantized, parity, files = manifest.get("quantized", {}), manifest["parity"], manifest["files"]
    without = manifest.get("missing", {})
    optional = manifest.get("runtime")  # whose folder this is
    if optional is not None and not (isinstance(optional, str) and optional in RUNTIMES):
        return "'runtime' is not what a build writes"
    runtimes = ("onnx", "int8") if optional is None else (optional,)
    if not _fits(without, {str: str}) or not set(without) <= set(runtimes):
        return "'missing' is not what a build writes"
    if runtimes[-1] not in without and not _fits(quantized, _QUANTIZED):
        return "'quantized' is missing or not what a build writes"
    if "tried" in quantized and not _fits(quantized, _TRIED):
        return "'quantized' is not what a build writes"
    if not {parity["reference"], *parity["backends"]} <= set(TITLES):
        return "'parity' names an unknown runtime"
    for name, entry in files.items():
        if name in ("", ".", "..", MANIFEST) or re.search(r"[/\\\0]", name):
            return f"{name!r} is not a file of a build"
        if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]) or entry["size_bytes"] < 0:
            return f"the digest or the size of {name!r} is invalid"
    needed = {RUNTIMES[name].file for name in runtimes if name not in without} | (set() if optional else {TOKENIZER})
    missing = sorted(needed - set(files))
    return f"it does not list {missing[0]}" if missing else ""


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(entry, shape[0]) for entry in value)
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(_fits(entry, shape[str]) for entry in value.values())
        return all(key in value and _fits(value[key], part) for key, part in shape.items())
    if shape is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is shape
