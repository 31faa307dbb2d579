"""What a backend needs on disk: its files, the types of its weights, the libraries that run it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import struct
from pathlib import Path
from typing import Any

from inference.artifacts.build import FILES
from inference.artifacts.cache import Artifact
from inference.backends import runtime
from inference.errors import InferenceError
from inference.formats.bundle import Bundle
from inference.formats.files import sha256
from inference.formats.tokenizer import TOKENIZER

# What serving with a backend imports. Their own requirements are counted with them.
LIBRARIES = {
    "pytorch": ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy"),
    "onnx": ("onnxruntime", "tokenizers", "numpy"),
    "int8": ("onnxruntime", "tokenizers", "numpy"),
}
_ONNX_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
_SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I8": "int8",
}


def footprint(bundle: Bundle, artifact: Artifact, backend: str, base: Path | None = None) -> dict[str, Any]:
    """`files` with kind, SHA-256 and bytes of each, `dtypes` of the stored weights, `libraries` with bytes of each.

    Raises:
        BundleError: a file is missing.
    """
    if runtime(backend) == "pytorch":
        paths = bundle.paths(base)
        weights = [path for path in paths.values() if path.suffix == ".safetensors"]
        dtypes = _merge([_safetensors_types(path) for path in weights])
    else:
        beside = f"{Path(FILES[backend]).stem}_weights.bin"  # where they pass 2 GB
        names = [FILES[backend], *([beside] if beside in artifact.manifest["files"] else []), TOKENIZER]
        paths = {name: artifact.folder / name for name in names}
        dtypes = _onnx_types(artifact.folder / FILES[backend])
    if bundle.format == "bundle":
        paths["bundle.json"] = bundle.folder / "bundle.json"
    return {
        "files": {
            name: {"kind": _kind(path), "sha256": sha256(path), "bytes": path.stat().st_size}
            for name, path in paths.items()
        },
        "dtypes": dtypes,
        "libraries": libraries(LIBRARIES[runtime(backend)]),
    }


def _kind(path: Path) -> str:
    """ "weights", "graph" (which holds its weights), "tokenizer" or "description"."""
    if path.name == TOKENIZER:
        return "tokenizer"
    return {".safetensors": "weights", ".bin": "weights", ".onnx": "graph"}.get(path.suffix, "description")


def _safetensors_types(path: Path) -> dict[str, dict[str, int]]:
    """Tensors and bytes per type, from the file's header: 8 bytes of its length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, 100_000_000)))
    return _merge(
        [
            {
                _SAFETENSORS_TYPES.get(one["dtype"], one["dtype"]): _entry(
                    one["data_offsets"][1] - one["data_offsets"][0]
                )
            }
            for name, one in header.items()
            if name != "__metadata__"
        ]
    )


def _onnx_types(path: Path) -> dict[str, dict[str, int]]:
    """Tensors and bytes per type of a graph's stored weights; empty where the library onnx is not installed."""
    try:
        import onnx
    except ImportError:
        return {}
    found = []
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        name = _ONNX_TYPES.get(tensor.data_type, f"type {tensor.data_type}")
        size = (
            len(tensor.raw_data)
            or math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
        found.append({name: _entry(size)})
    return _merge(found)


def _entry(size: int) -> dict[str, int]:
    return {"tensors": 1, "bytes": size}


def _merge(censuses: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for census in censuses:
        for name, entry in census.items():
            sums = total.setdefault(name, {"tensors": 0, "bytes": 0})
            for key, number in entry.items():
                sums[key] += number
    return dict(sorted(total.items(), key=lambda pair: -pair[1]["bytes"]))


def libraries(roots: tuple[str, ...]) -> dict[str, int]:
    """Installed bytes of each of these distributions and all that they require, the largest first.

    Raises:
        InferenceError: one of the roots is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sizes: dict[str, int] = {}
    todo = [(name, True) for name in roots]
    while todo:
        name, needed = todo.pop()
        name = canonicalize_name(name)
        if name in sizes:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if needed:
                raise InferenceError(f"{name} is not installed, so its size cannot be told.") from None
            continue  # required on paper, and it runs without
        sizes[name] = sum(_size(found.locate_file(file)) for file in found.files or ())
        for line in found.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append((requirement.name, False))
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def _size(path: Any) -> int:
    try:
        return int(Path(path).stat().st_size)
    except OSError:  # a bytecode file that was listed and never written
        return 0
