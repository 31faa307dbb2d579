"""ONNX graphs between disk and memory: checked when read, and split from their weights where 2 GB are passed.

A protobuf message holds 2 GB at most. Weights beyond that lie in a file beside the graph ("external data"), which the
graph names with an offset and a length. Here every file is opened once: the bytes that were checked are the bytes
that run, and ONNX Runtime never opens a file that a graph names.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from inference.errors import BundleError, ExportError
from inference.formats.files import inside
from inference.onnx.backend import Graph

LIMIT = 2**31 - 1  # bytes of one protobuf message
SMALL = 1024  # bytes: a smaller tensor stays in the graph, where ONNX Runtime looks for shapes and axes
ALIGNMENT = 4096  # of tensors in a weights file, so that a session can map them into memory
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
REMEDY = "Export it again, or restore it from where it came from."

# The types that NumPy has too: only these can be handed to a session beside the graph.
_NATIVE = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
    TensorProto.INT32, TensorProto.INT64,
}  # fmt: skip
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Outside:
    """A tensor whose bytes lie in a file beside its graph."""

    tensor: TensorProto
    data: Bytes
    named: bool
    """It is a weight of the graph itself and no part of an operator: a session can be given it by its name."""


def read_graph(path: Path, within: Path | None = None, digests: Mapping[str, str] | None = None) -> Graph:
    """The graph in `path` with its weights, wherever they lie.

    Args:
        within: the folder that nothing may be read outside of; that of `path` if left out.
        digests: SHA-256 of the files by their name in `within`. A file that is not among them is refused.

    Raises:
        BundleError: no ONNX graph, an operator or a file that is not allowed, or bytes that are missing or altered.
    """
    model, outside, size_bytes = _read(path, within or path.parent, digests)
    beside: dict[str, NDArray[np.generic]] = {}
    if size_bytes + sum(one.data.nbytes + 64 for one in outside) > LIMIT:
        inside_it = []
        for one in outside:
            if one.named and one.tensor.data_type in _NATIVE and one.data.nbytes >= SMALL:
                if one.tensor.name in beside:
                    raise BundleError(f"{path} has two tensors that are called {one.tensor.name!r}. {REMEDY}")
                beside[one.tensor.name] = _typed(path, one)
            else:
                inside_it.append(one)
        outside = inside_it
    _take_in(outside)
    return Graph(_serialize(path, model), beside)


def load_model(path: Path, within: Path | None = None, digests: Mapping[str, str] | None = None) -> ModelProto:
    """The same as one message in memory, whatever its size, for those who rewrite graphs."""
    model, outside, _ = _read(path, within or path.parent, digests)
    _take_in(outside)
    return model


def save_model(model: ModelProto, target: Path, *, external: bool | None = None) -> list[Path]:
    """Write `model` to `target`, its weights beside it in `<stem>_weights.bin` if need be; returns what was written.

    Args:
        model: consumed: of a graph that is split its weights are taken out.
        external: True always splits, False never; if left out, whatever passes 2 GB is split.

    Raises:
        ExportError: `external` is False and the graph passes 2 GB.
    """
    weights_bytes, rest_bytes = _sizes(model)
    fits = weights_bytes + rest_bytes <= LIMIT
    if external is False and not fits:
        raise ExportError(
            f"{target.name} would have {weights_bytes / 1e9:.1f} GB and one ONNX file holds 2.1 GB. Leave "
            "external_data out: the weights then go into a file beside it."
        )
    if fits and not external:
        target.write_bytes(model.SerializeToString(deterministic=True))
        return [target]
    weights = target.with_name(f"{target.stem}_weights.bin")
    with weights.open("wb") as file:
        for tensor in model.graph.initializer:
            if _raw_bytes(tensor) < SMALL:
                continue
            file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
            entries = {"location": weights.name, "offset": file.tell(), "length": file.write(tensor.raw_data)}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    target.write_bytes(model.SerializeToString(deterministic=True))
    return [target, weights]


def as_graph(model: ModelProto, outputs: Sequence[ValueInfoProto] = ()) -> Graph:
    """`model` as a session takes it: its bytes, or past 2 GB its operators and a copy of its large weights.

    Args:
        outputs: what the session gives, inner values too; the model's own outputs if left out.
    """
    outputs = outputs or list(model.graph.output)
    if sum(_sizes(model)) <= LIMIT:
        whole = ModelProto()
        whole.CopyFrom(model)
        del whole.graph.output[:]
        whole.graph.output.extend(outputs)
        return Graph(whole.SerializeToString())
    graph = GraphProto(name=model.graph.name, node=model.graph.node, value_info=model.graph.value_info)
    graph.input.extend(model.graph.input)
    graph.output.extend(outputs)
    beside: dict[str, NDArray[np.generic]] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _NATIVE and _raw_bytes(tensor) >= SMALL:
            values = np.frombuffer(tensor.raw_data, helper.tensor_dtype_to_np_dtype(tensor.data_type))
            beside[tensor.name] = values.reshape(tuple(tensor.dims))
            stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            stub.data_location = TensorProto.EXTERNAL
            stub.external_data.add(key="location", value="given to the session")
        else:
            graph.initializer.append(tensor)
    lean = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    return Graph(lean.SerializeToString(), beside)


def _raw_bytes(tensor: TensorProto) -> int:
    """How many bytes the weights of a tensor have that holds them raw, as all but tiny ones do; else 0."""
    if not tensor.HasField("raw_data"):
        return 0
    # By its shape: protobuf copies the bytes for whoever asks how many they are.
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _sizes(model: ModelProto) -> tuple[int, int]:
    """Bytes of the weights that can lie outside of a message, and at most of everything else."""
    # Not model.ByteSize(): it fails on the very models that this is about.
    sizes = {tensor.name: _raw_bytes(tensor) for tensor in model.graph.initializer}
    rest = [*model.graph.node, *(tensor for tensor in model.graph.initializer if sizes[tensor.name] < SMALL)]
    large = [size + 64 for size in sizes.values() if size >= SMALL]
    return sum(large), sum(one.ByteSize() + 8 for one in rest) + 2**20


def _read(path: Path, within: Path, digests: Mapping[str, str] | None) -> tuple[ModelProto, list[_Outside], int]:
    """The graph as its file holds it, the tensors that lie outside, and the size of that file."""
    try:
        folder = path.parent.relative_to(within)
    except ValueError:
        raise BundleError(f"{path} is not in the model's folder {within}.") from None
    data = _file(within, folder / path.name, digests)
    try:
        model = ModelProto.FromString(data.tobytes())
    except Exception as error:  # protobuf's own class, which it calls by another name in every version
        raise BundleError(f"{path} is no ONNX graph ({error}). {REMEDY}") from None
    if not model.graph.node:
        raise BundleError(f"{path} is no ONNX graph: it has no operators. {REMEDY}")
    if model.functions:
        raise BundleError(
            f"{path} brings operators of its own ({model.functions[0].domain}::{model.functions[0].name}). "
            "Export it with those inlined."
        )
    model.ClearField("training_info")
    files: dict[str, Bytes] = {}
    outside = []
    for number, graph in enumerate(graphs_of(model.graph)):
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise BundleError(
                    f"{path} uses the operator {node.domain}::{node.op_type}. Only ONNX's own operators and those of "
                    "ONNX Runtime (com.microsoft) are run: export the model without it."
                )
        for tensor, weight in _tensors(graph):
            if tensor.data_location == TensorProto.EXTERNAL:
                found = _external(path, tensor, within, folder, files, digests)
                outside.append(_Outside(tensor, found, weight and number == 0))
    held_bytes = sum(one.data.nbytes for one in outside)
    if held_bytes > 2 * sum(file.nbytes for file in files.values()):  # a small file could ask for any memory
        raise BundleError(
            f"{path}: its weights overlap: {held_bytes:,} bytes are read from files of far less. {REMEDY}"
        )
    return model, outside, data.nbytes


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and, depth first, those that its operators carry (the branches of an If)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                yield from graphs_of(inner)


def subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs that one attribute holds."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _tensors(graph: GraphProto) -> Iterator[tuple[TensorProto, bool]]:
    """Every tensor of the graph itself, and whether it is one of its weights."""
    yield from ((tensor, True) for tensor in graph.initializer)
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            held = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            yield from ((tensor, False) for tensor in held)
            sparse += [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])]
            sparse += attribute.sparse_tensors
    for one in sparse:
        yield from ((one.values, False), (one.indices, False))


def _external(
    path: Path,
    tensor: TensorProto,
    within: Path,
    folder: Path,
    files: dict[str, Bytes],
    digests: Mapping[str, str] | None,
) -> Bytes:
    """The bytes of a tensor in a file beside the graph, as a view of that file. `files` holds what was read so far."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location or location in (".", "..") or set(location) & set('/\\:*?"<>|\0'):
        raise BundleError(
            f"{path}: the weights of {tensor.name!r} lie in {location!r}, which is no plain file name. Only a file "
            f"beside the graph is read. {REMEDY}"
        )
    if location not in files:
        files[location] = _file(within, folder / location, digests, weights=True)
    size = files[location].nbytes
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        raise BundleError(f"{path}: offset or length of {tensor.name!r} is no number. {REMEDY}") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise BundleError(
            f"{path}: {tensor.name!r} is said to be the bytes {offset:,} to {offset + length:,} of {location}, which "
            f"has {size:,}. {REMEDY}"
        )
    return files[location][offset : offset + length]


def _file(within: Path, name: Path, digests: Mapping[str, str] | None, *, weights: bool = False) -> Bytes:
    """All bytes of a file of the folder, read once."""
    path = inside(within, str(name)).resolve()
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if weights and status.st_nlink > 1:
                # Whoever may write into the folder could name a file that only the reader may open.
                raise BundleError(f"{path} is a hard link: the same file has another name. Copy it into the folder.")
            if not weights and status.st_size > LIMIT:
                raise BundleError(f"{path} has {status.st_size / 1e9:.1f} GB; an ONNX graph has 2.1 GB at most.")
            data = np.empty(status.st_size, np.uint8)
            if file.readinto(data.data) != status.st_size:
                raise BundleError(f"{path} changed while it was read. Try again.")
    except (OSError, MemoryError) as error:
        raise BundleError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not enough memory'}."
        ) from None
    if digests is not None and hashlib.sha256(data.data).hexdigest() != digests.get(name.as_posix()):
        raise BundleError(f"{path} is not the file that was listed: its SHA-256 differs. {REMEDY}")
    return data


def _take_in(outside: Sequence[_Outside]) -> None:
    for one in outside:
        one.tensor.ClearField("external_data")
        one.tensor.ClearField("data_location")
        one.tensor.raw_data = one.data.tobytes()


def _typed(path: Path, one: _Outside) -> NDArray[np.generic]:
    name, shape = one.tensor.name, tuple(one.tensor.dims)
    dtype = helper.tensor_dtype_to_np_dtype(one.tensor.data_type)
    try:
        values = np.frombuffer(one.data, dtype).reshape(shape)
    except ValueError:
        raise BundleError(
            f"{path}: {name!r} of shape {list(shape)} is said to have {one.data.nbytes:,} bytes. {REMEDY}"
        ) from None
    return np.require(values, requirements=["ALIGNED"])


def _serialize(path: Path, model: ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # as above: protobuf's own class
        raise BundleError(f"{path} is too large for one ONNX graph: {error}") from None
