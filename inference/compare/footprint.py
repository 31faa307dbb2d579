"""Measure what a backend needs on disk: its files, the types of its weights, and the libraries that run it."""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from inference.artifacts.cache import Artifact, deployed_files
from inference.backends import RUNTIMES
from inference.errors import InferenceError
from inference.formats.bundle import Bundle
from inference.formats.files import sha256, tensors
from inference.formats.tokenizer import TOKENIZER

_CONSTANT = re.compile(r'<data element_type="(\w+)" shape="[^"]*" offset="\d+" size="(\d+)" />')
_PREFIXES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}


def footprint(bundle: Bundle, artifact: Artifact, backend: str, base: Path | None = None) -> dict[str, Any]:
    """Return `files` (kind, SHA-256, bytes), `dtypes` of the stored weights (tensors, bytes), and `libraries` (bytes).

    Raises:
        BundleError: a file is missing.
    """
    paths = deployed_files(bundle, artifact, backend, base)
    if file := RUNTIMES[backend].file:
        dtypes = _sum_by_type((_onnx_types if file.endswith(".onnx") else _openvino_types)(paths[file]))
    else:
        weights = [path for path in paths.values() if path.suffix == ".safetensors"]
        dtypes = _sum_by_type(pair for path in weights for pair in _safetensors_types(path))
    return {
        "files": {
            name: {"kind": _kind(path), "sha256": sha256(path), "bytes": path.stat().st_size}
            for name, path in paths.items()
        },
        "dtypes": dtypes,
        "libraries": libraries(RUNTIMES[backend].libraries),
    }


def _kind(path: Path) -> str:
    """Return "weights", "graph" (which contains its weights), "tokenizer" or "description"."""
    if path.name == TOKENIZER:
        return "tokenizer"
    return {".safetensors": "weights", ".bin": "weights", ".onnx": "graph", ".xml": "graph"}.get(
        path.suffix, "description"
    )


def _safetensors_types(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the type and bytes of each tensor."""
    for dtype, _, size in tensors(path).values():
        yield _spelt_out(dtype), size


def _spelt_out(dtype: str) -> str:
    letters = dtype.rstrip("0123456789")
    return dtype.replace(letters, _PREFIXES.get(letters, letters))


def _openvino_types(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the type and bytes of each constant that the XML of a model describes."""
    for dtype, size in _CONSTANT.findall(path.read_text(encoding="utf-8")):
        yield _spelt_out(dtype.upper()), int(size)


def _onnx_types(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the type and bytes of each stored weight of a graph; nothing if the library onnx is not installed."""
    try:
        import onnx
    except ImportError:
        return
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        yield dtype.name, len(tensor.raw_data) or math.prod(tensor.dims) * dtype.itemsize


def _sum_by_type(sizes: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for dtype, size in sizes:
        entry = totals.setdefault(dtype, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += size
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]["bytes"]))


def libraries(roots: tuple[str, ...]) -> dict[str, int]:
    """Return the installed bytes of these distributions and everything they require, the largest first.

    Raises:
        InferenceError: one of the roots is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sizes: dict[str, int] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        name = canonicalize_name(name)
        if name in sizes:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in roots:
                raise InferenceError(f"{name} is not installed, so its size cannot be measured.") from None
            continue  # a declared requirement that is not needed to run
        sizes[name] = sum(_size(distribution.locate_file(file)) for file in distribution.files or ())
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def _size(path: Any) -> int:
    try:
        return int(Path(path).stat().st_size)
    except OSError:  # a bytecode file that is listed but was never written
        return 0
