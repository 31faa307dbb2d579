"""Read ONNX graphs with checks, and write them, with their weights beside them past 2 GB.

A protobuf message holds 2 GB at most. Weights beyond that are stored in a file beside the graph ("external data"),
which it names with an offset and a length. Here every file is opened once: the bytes that were checked are the bytes
that run, and ONNX Runtime never opens a file that a graph names.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from inference.errors import BundleError, ExportError
from inference.formats.files import inside
from inference.onnx import Graph
from inference.onnx.graph import graphs_of

LIMIT = 2**31 - 1  # bytes of one protobuf message
SMALL = 1024  # bytes: a smaller tensor stays in the graph, where ONNX Runtime looks for shapes and axes
ALIGNMENT = 4096  # of tensors in a weights file, so that a session can map them into memory
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
REMEDY = "Export it again, or restore it from where it came from."

# The types that NumPy has too: only these can be passed to a session beside the graph.
_NATIVE = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
    TensorProto.INT32, TensorProto.INT64,
}  # fmt: skip
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _External:
    """A tensor whose bytes are in a file beside its graph."""

    tensor: TensorProto
    data: Bytes
    is_weight: bool
    """It is a weight of the main graph, not part of an operator: a session can be given it by its name."""

    def embed(self) -> None:
        """Move the bytes into the tensor."""
        self.tensor.ClearField("external_data")
        self.tensor.ClearField("data_location")
        self.tensor.raw_data = self.data.tobytes()


def read_graph(path: Path, within: Path | None = None, digests: Mapping[str, str] | None = None) -> Graph:
    """Read the graph in `path` with its weights.

    Args:
        within: the folder that nothing may be read outside of; default: that of `path`.
        digests: SHA-256 of the files by their name in `within`. Any other file is refused.

    Raises:
        BundleError: not an ONNX graph, a forbidden operator or file, or bytes that are missing or altered.
    """
    model, external, size_bytes = _read(path, within, digests)
    beside: dict[str, NDArray[np.generic]] = {}
    is_large = size_bytes + sum(entry.data.nbytes + 64 for entry in external) > LIMIT
    for entry in external:
        if is_large and entry.is_weight and entry.tensor.data_type in _NATIVE and entry.data.nbytes >= SMALL:
            if entry.tensor.name in beside:
                raise BundleError(f"{path} has two tensors with the name {entry.tensor.name!r}. {REMEDY}")
            beside[entry.tensor.name] = _as_array(path, entry)
        else:
            entry.embed()
    try:
        return Graph(bytes(model.SerializeToString()), beside)
    except Exception as error:  # protobuf's own class, whose name depends on its version
        raise BundleError(f"{path} is too large for one ONNX graph: {error}") from None


def load_model(path: Path, within: Path | None = None, digests: Mapping[str, str] | None = None) -> ModelProto:
    """Read a graph for rewriting, as one message of any size; arguments and errors as for `read_graph`."""
    model, external, _ = _read(path, within, digests)
    for entry in external:
        entry.embed()
    return model


def save_model(model: ModelProto, target: Path, *, external: bool | None = None) -> list[Path]:
    """Write `model` to `target`, its weights beside it in `<stem>_weights.bin` if necessary; return the files.

    Args:
        model: consumed: its weights are removed if they are written beside it.
        external: True always splits, False never; default: only past 2 GB.

    Raises:
        ExportError: `external` is False and the graph passes 2 GB.
    """
    weights_bytes, rest_bytes = _sizes(model)
    fits = weights_bytes + rest_bytes <= LIMIT
    if external is False and not fits:
        raise ExportError(
            f"{target.name} would have {weights_bytes / 1e9:.1f} GB and one ONNX file holds 2.1 GB. Omit external_data "
            "to write the weights to a file beside it."
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
    """Prepare `model` for a session: its bytes, or past 2 GB its operators and a copy of its large weights.

    Args:
        outputs: values that the session returns, inner ones too; default: the model's own outputs.
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
    """Return the size of a tensor that holds its weights raw, as all but tiny ones do; 0 for any other."""
    if not tensor.HasField("raw_data"):
        return 0
    # From its shape: protobuf would copy the bytes to count them.
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _sizes(model: ModelProto) -> tuple[int, int]:
    """Return the bytes of the weights that can be stored outside of a message, and an upper limit for the rest."""
    # Not model.ByteSize(): it fails on models past 2 GB.
    sizes = {tensor.name: _raw_bytes(tensor) for tensor in model.graph.initializer}
    rest = [*model.graph.node, *(tensor for tensor in model.graph.initializer if sizes[tensor.name] < SMALL)]
    large = [size + 64 for size in sizes.values() if size >= SMALL]
    return sum(large), sum(part.ByteSize() + 8 for part in rest) + 2**20


@dataclass
class _Files:
    """The graph's folder. Every file of it is read once, and compared with its digest if there are any."""

    within: Path
    folder: Path
    """Of the graph, relative to `within`."""
    digests: Mapping[str, str] | None
    weights: dict[str, Bytes] = field(default_factory=dict)

    def read(self, name: str, *, is_graph: bool = False) -> Bytes:
        place = self.folder / name
        path = inside(self.within, str(place)).resolve()
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not is_graph and status.st_nlink > 1:
                    # Anyone who can write to the folder could link a file there that only this user may read.
                    raise BundleError(
                        f"{path} is a hard link: the same file has another name. Copy it into the folder."
                    )
                if is_graph and status.st_size > LIMIT:
                    raise BundleError(f"{path} has {status.st_size / 1e9:.1f} GB; an ONNX graph has 2.1 GB at most.")
                data = np.empty(status.st_size, np.uint8)
                if file.readinto(data.data) != status.st_size:
                    raise BundleError(f"{path} changed while it was read. Try again.")
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "not enough memory"
            raise BundleError(f"{path} cannot be read: {reason}.") from None
        digests = self.digests
        if digests is not None and hashlib.sha256(data.data).hexdigest() != digests.get(place.as_posix()):
            raise BundleError(f"{path} is not the file that was listed: its SHA-256 differs. {REMEDY}")
        return data

    def external(self, path: Path, tensor: TensorProto) -> Bytes:
        """Return the bytes of a tensor of the graph `path`, as a view of the file that it names."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location or location in (".", "..") or set(location) & set('/\\:*?"<>|\0'):
            raise BundleError(
                f"{path}: the weights of {tensor.name!r} are in {location!r}, which is not a plain file name. Only a "
                f"file beside the graph is read. {REMEDY}"
            )
        if location not in self.weights:
            self.weights[location] = self.read(location)
        size = self.weights[location].nbytes
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(size - offset)))
        except ValueError:
            raise BundleError(f"{path}: offset or length of {tensor.name!r} is not a number. {REMEDY}") from None
        if offset < 0 or length < 0 or offset + length > size:
            raise BundleError(
                f"{path}: {tensor.name!r} claims the bytes {offset:,} to {offset + length:,} of {location}, which has "
                f"{size:,}. {REMEDY}"
            )
        return self.weights[location][offset : offset + length]


def _read(
    path: Path, within: Path | None, digests: Mapping[str, str] | None
) -> tuple[ModelProto, list[_External], int]:
    """Return the graph as its file holds it, its external tensors, and the size of that file."""
    within = within or path.parent
    if not path.is_relative_to(within):
        raise BundleError(f"{path} is not in the model's folder {within}.")
    files = _Files(within, path.parent.relative_to(within), digests)
    data = files.read(path.name, is_graph=True).tobytes()
    size_bytes = len(data)
    try:
        model = ModelProto.FromString(data)
    except Exception as error:  # protobuf's own class, whose name depends on its version
        raise BundleError(f"{path} is not an ONNX graph ({error}). {REMEDY}") from None
    if not model.graph.node:
        raise BundleError(f"{path} is not an ONNX graph: it has no operators. {REMEDY}")
    if model.functions:
        raise BundleError(
            f"{path} defines operators ({model.functions[0].domain}::{model.functions[0].name}). "
            "Export it with those inlined."
        )
    del data  # possibly gigabytes
    model.ClearField("training_info")
    external = []
    for number, graph in enumerate(graphs_of(model.graph)):
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise BundleError(
                    f"{path} uses the operator {node.domain}::{node.op_type}. Only operators of ONNX and ONNX Runtime "
                    "(com.microsoft) are run: export the model without it."
                )
        for tensor, is_weight in _tensors(graph):
            if tensor.data_location == TensorProto.EXTERNAL:
                external.append(_External(tensor, files.external(path, tensor), is_weight and number == 0))
    used_bytes = sum(entry.data.nbytes for entry in external)
    if used_bytes > 2 * sum(file.nbytes for file in files.weights.values()):  # a small file could use any memory
        raise BundleError(
            f"{path}: its weights overlap: they use {used_bytes:,} bytes of files that are far smaller. {REMEDY}"
        )
    return model, external, size_bytes


def _tensors(graph: GraphProto) -> Iterator[tuple[TensorProto, bool]]:
    """Yield every tensor of the graph itself, and whether it is one of its weights."""
    yield from ((tensor, True) for tensor in graph.initializer)
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            yield from ((tensor, False) for tensor in tensors)
            sparse += [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])]
            sparse += attribute.sparse_tensors
    for entry in sparse:
        yield from ((entry.values, False), (entry.indices, False))


def _as_array(path: Path, entry: _External) -> NDArray[np.generic]:
    name, shape = entry.tensor.name, tuple(entry.tensor.dims)
    dtype = helper.tensor_dtype_to_np_dtype(entry.tensor.data_type)
    try:
        values = np.frombuffer(entry.data, dtype).reshape(shape)
    except ValueError:
        raise BundleError(
            f"{path}: {name!r} of shape {list(shape)} cannot have {entry.data.nbytes:,} bytes. {REMEDY}"
        ) from None
    return np.require(values, requirements=["ALIGNED"])
