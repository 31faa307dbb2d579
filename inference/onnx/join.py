"""Join several ONNX graphs into one that computes shared parts once.

Exporting a model task by task copies its encoder into every file. Value numbering undoes that: a value is identified by
its operator, attributes and inputs, down to the bytes of the weights, and equal values become one. N copies of an
encoder become one; encoders that differ somewhere branch exactly there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from inference.errors import BundleError
from inference.onnx.backend import INPUTS, OUTPUT_PREFIX, logits_of
from inference.onnx.graph import graphs_of, subgraphs
from inference.onnx.io import REMEDY, load_model, save_model

INTEGERS = (TensorProto.INT64, TensorProto.INT32)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_UNMASKED = "Padding would be read as text and change answers: export it so that the logits depend on the mask."
_INNER = "inner/"  # prefix of values inside the branch of an If, and of no other value


def join_graphs(
    graphs: Mapping[str, Path],
    target: Path,
    *,
    within: Path | None = None,
    digests: Mapping[str, str] | None = None,
    token_types: bool = False,
) -> list[Path]:
    """Write one graph with an output `logits_<task>` for each task; return the files as `save_model` does.

    The graph takes `input_ids` and `attention_mask`, int64 (batch, tokens), both axes free.

    Args:
        graphs: task -> its graph, whose logits are the output `logits`, or else the first one.
        token_types: keep an input `token_type_ids`, for pairs. By default it becomes zeros: a text has one segment.
        within, digests: as in `inference.onnx.io.read_graph`.

    Raises:
        BundleError: a graph that is not allowed, is not a text classifier with free axes, reads padding as text, or
            is incompatible with the others.
    """
    joiner = _Joiner()
    outputs = {}
    names_read = set(INPUTS[:2])
    for task, path in graphs.items():
        model = load_model(path, within, digests)
        names = [output.name for output in model.graph.output]
        values = joiner.add(path, model, _inputs(joiner, path, model, token_types))
        if token_types:
            names_read.update(text_inputs(path, model))
        if not values:
            raise BundleError(f"{path} has no output, so it has no logits. {REMEDY}")
        number = names.index(logits_of(names)[0])
        outputs[OUTPUT_PREFIX + task] = joiner.as_float(path, values[number], model.graph.output[number])
        check_mask(path, model, names[number])
    axes = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in INPUTS if name in names_read]
    return save_model(joiner.finish(inputs, outputs), target)


def select(path: Path, model: ModelProto, outputs: Mapping[str, str] | None = None) -> ModelProto:
    """Return the part of `model` that computes some of its outputs, with its constants as plain, transposed weights.

    PyTorch's newer exporter transposes a weight each time it is read, which hides products with constant weights from
    `inference.onnx.quantize`.

    Args:
        path: file of the model, for messages.
        outputs: new name -> name in `model`; default: all under their own names.
    """
    inputs = _real_inputs(model)
    infos = {output.name: output for output in model.graph.output}
    outputs = outputs or {name: name for name in infos}
    joiner = _Joiner(outputs)
    values = dict(zip(infos, joiner.add(path, model, {value.name: value.name for value in inputs}), strict=True))
    part = joiner.finish(inputs, {name: values[old] for name, old in outputs.items()})
    for made, (name, old) in zip(part.graph.output, outputs.items(), strict=True):
        made.CopyFrom(infos[old])
        made.name = name
    return part


def text_inputs(path: Path, model: ModelProto) -> dict[str, int]:
    """Return the inputs of a text classifier and their types."""
    types = {}
    for value in _real_inputs(model):
        kind = value.type.tensor_type
        if value.name not in INPUTS or kind.elem_type not in INTEGERS:
            raise BundleError(
                f"{path} takes the input {value.name!r}. A text classifier takes input_ids, attention_mask and "
                "optionally token_type_ids, all integers. Export it that way."
            )
        if any(axis.dim_value for axis in kind.shape.dim):
            sizes = [axis.dim_value or "any" for axis in kind.shape.dim]
            raise BundleError(f"{path} takes {value.name} of shape {sizes} only. Export it with both axes free.")
        types[value.name] = kind.elem_type
    if INPUTS[0] not in types:
        raise BundleError(f"{path} does not read input_ids, so it is not a text classifier. {REMEDY}")
    if INPUTS[1] not in types:
        raise BundleError(f"{path} has no input attention_mask. {_UNMASKED}")
    return types


def check_mask(path: Path, model: ModelProto, output: str) -> None:
    """Raise BundleError unless this output of `model` depends on its attention_mask."""
    read = {name for node in needed(model.graph.node, [output]) for name in _reads(node)}
    if INPUTS[1] not in read:
        raise BundleError(f"{path}: its output {output!r} does not depend on attention_mask. {_UNMASKED}")


def _real_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs without the weights, which graphs from before 2019 list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _inputs(joiner: _Joiner, path: Path, model: ModelProto, token_types: bool) -> dict[str, str]:
    """Return the value in the joined graph for each input of `model`."""
    values = {}
    for name, kind in text_inputs(path, model).items():
        value = name
        if name == "token_type_ids" and not token_types:
            value = joiner.node(helper.make_node("Sub", [INPUTS[0], INPUTS[0]], ["zeros"]))[0]
        if kind != TensorProto.INT64:
            value = joiner.node(helper.make_node("Cast", [value], [f"{name}_cast"], to=kind))[0]
        values[name] = value
    return values


class _Joiner:
    """Builds one graph. Values keep their names if these are free.

    Args:
        outputs: names of the graph's outputs that do not begin with `OUTPUT_PREFIX`.
    """

    def __init__(self, outputs: Iterable[str] = ()) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._known: dict[object, tuple[str, ...]] = {}
        self._taken = {*INPUTS, *outputs}
        self._versions: dict[str, int] = {}
        self._ir_version = 0

    def add(self, path: Path, model: ModelProto, inputs: Mapping[str, str]) -> list[str]:
        """Add a graph, given the values of its inputs; return the values of its outputs."""
        self._agree(path, model)
        self._taken.update(inputs.values())
        if model.graph.sparse_initializer:
            raise BundleError(f"{path} has sparse weights, which are not supported. Export it with dense ones.")
        values = {"": "", **inputs}  # an omitted optional input has no name
        try:
            for tensor in model.graph.initializer:
                values[tensor.name] = self._weight(tensor)
            for node in model.graph.node:
                values.update(zip(node.output, self.node(_rename(node, values)), strict=True))
            return [values[output.name] for output in model.graph.output]
        except KeyError as error:
            raise BundleError(f"{path} reads {error}, which is not defined before it. {REMEDY}") from None
        except (ValueError, TypeError, IndexError) as error:  # what NumPy and onnx raise for an invalid tensor
            raise BundleError(f"{path} is damaged: {error}. {REMEDY}") from None

    def node(self, node: NodeProto) -> tuple[str, ...]:
        """Add `node` unless an identical one exists; return the names of its outputs."""
        plain = node.op_type in ("Identity", "Constant", "Transpose") and node.domain in ("", "ai.onnx")
        if plain and node.op_type == "Identity":
            return (node.input[0],)
        if plain and node.op_type == "Constant" and node.attribute[0].name == "value":
            return (self._weight(node.attribute[0].t, node.output[0]),)
        if plain and node.op_type == "Transpose" and node.input[0] in self._weights:
            order = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
            values = numpy_helper.to_array(self._weights[node.input[0]]).transpose(*order)
            return (self._weight(numpy_helper.from_array(np.ascontiguousarray(values), node.output[0])),)
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (domain, node.op_type, *attributes, *node.input, *(bool(name) for name in node.output))
        if key not in self._known:
            copy = NodeProto(op_type=node.op_type, domain=domain, input=node.input, attribute=node.attribute)
            copy.output.extend(self._free(name) if name else "" for name in node.output)
            copy.name = next(filter(None, copy.output), "")
            self._nodes.append(copy)
            self._known[key] = tuple(copy.output)
        return self._known[key]

    def as_float(self, path: Path, value: str, output: ValueInfoProto) -> str:
        """Return the logits `value` converted to float32."""
        kind = output.type.tensor_type.elem_type
        if kind not in FLOATS:
            raise BundleError(
                f"{path}: its output {output.name!r} is not a float tensor, so it has no logits. {REMEDY}"
            )
        if kind == TensorProto.FLOAT:
            return value
        return self.node(helper.make_node("Cast", [value], ["float"], to=TensorProto.FLOAT))[0]

    def finish(self, inputs: Sequence[ValueInfoProto], outputs: Mapping[str, str]) -> ModelProto:
        """Return the graph that computes the values of `outputs` (name -> value) and nothing else."""
        makers = {name: node for node in self._nodes for name in node.output if name}
        names: dict[str, str] = {}
        copies = []
        for name, value in outputs.items():
            # Rename the operator's own output: an Identity would hide that a product is the last operator. It is only
            # needed for a value that is two outputs, or that no operator computes.
            if value in makers and value not in names:
                names[value] = name
            else:
                copies.append(helper.make_node("Identity", [value], [name], name=name))
        everything = _Names(names)
        nodes = [_rename(node, everything, outputs_too=True) for node in needed(self._nodes, outputs.values())]
        nodes += [_rename(node, everything) for node in copies]
        read = {name for node in nodes for name in _reads(node)}
        graph = helper.make_graph(
            nodes,
            "merged",
            inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in outputs],
        )
        for name, tensor in self._weights.items():
            if name in read:
                graph.initializer.append(tensor)
        model = ModelProto(ir_version=self._ir_version, producer_name="triptych")
        model.graph.CopyFrom(graph)
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in self._versions.items())
        return model

    def _agree(self, path: Path, model: ModelProto) -> None:
        """Record the versions of the operators that `model` uses; they must match those of the other graphs."""
        used = {node.domain for graph in graphs_of(model.graph) for node in graph.node}
        used = {"" if domain == "ai.onnx" else domain for domain in used}
        for opset in model.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            if domain in used and self._versions.setdefault(domain, opset.version) != opset.version:
                raise BundleError(
                    f"{path} uses opset {opset.version} and another graph beside it {self._versions[domain]}. "
                    "Export all tasks with the same opset."
                )
        self._ir_version = max(self._ir_version, model.ir_version)

    def _weight(self, tensor: TensorProto, name: str | None = None) -> str:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        if not copy.HasField("raw_data") and copy.data_type != TensorProto.STRING:
            copy = numpy_helper.from_array(
                numpy_helper.to_array(copy)
            )  # one encoding, so that equal weights have equal bytes
        copy.ClearField("name")
        copy.ClearField("doc_string")
        key = hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()
        if key not in self._known:
            copy.name = self._free(name or tensor.name)
            self._weights[copy.name] = copy
            self._known[key] = (copy.name,)
        return self._known[key][0]

    def _free(self, name: str) -> str:
        """Return `name`, or a variant if it is taken or reserved for outputs or for the values of a branch."""
        if name.startswith((OUTPUT_PREFIX, _INNER)) or name in self._taken:
            stem, number = name.removeprefix(_INNER), 2
            while (name := f"value/{stem}#{number}") in self._taken:
                number += 1
        self._taken.add(name)
        return name


class _Names(dict[str, str]):
    """Old name -> new name; any other name stays as it is."""

    def __missing__(self, name: str) -> str:
        return name


def needed(nodes: Sequence[NodeProto], values: Iterable[str]) -> list[NodeProto]:
    """Return those of `nodes`, in their order of execution, that these values depend on."""
    required = set(values)
    kept = []
    for node in reversed(nodes):
        if required & {name for name in node.output if name}:
            required |= _reads(node)
            kept.append(node)
    return kept[::-1]


def _reads(node: NodeProto) -> set[str]:
    """Return the values that an operator reads, including those that its branches read from outside."""
    inner = [graph for attribute in node.attribute for branch in subgraphs(attribute) for graph in graphs_of(branch)]
    names = {name for graph in inner for step in graph.node for name in step.input}
    names |= {output.name for graph in inner for output in graph.output}
    return names | set(node.input)


def _rename(node: NodeProto, values: Mapping[str, str], *, outputs_too: bool = False) -> NodeProto:
    """Return a copy of `node` that reads `values[name]` in place of `name`."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("doc_string")
    copy.input[:] = [values[name] for name in node.input]
    if outputs_too:
        copy.output[:] = [values[name] for name in node.output]
    for attribute in copy.attribute:
        attribute.ClearField("doc_string")
        for graph in subgraphs(attribute):
            _rename_inside(graph, values)
    return copy


def _rename_inside(graph: GraphProto, values: Mapping[str, str]) -> None:
    """Do the same for what the branch of an If, or the body of a loop, reads from outside."""
    own = [value.name for value in (*graph.input, *graph.initializer)] + [n for node in graph.node for n in node.output]
    known = _Names() if isinstance(values, _Names) else {}
    known.update(values)
    known.update({name: name if name.startswith(_INNER) or not name else _INNER + name for name in own})
    for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        value.name = known.get(value.name, value.name)
    nodes = [_rename(node, known, outputs_too=True) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
