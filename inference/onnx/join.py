"""Several ONNX graphs as one: what they compute alike is computed once.

Exporting a model task by task copies its encoder into every file. Here a value is known by what makes it: its
operator, its attributes and its inputs, down to the weights by their bytes. Values that are made alike become one
(value numbering), so N copies of an encoder become one, and encoders that differ anywhere part ways exactly there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from inference.errors import BundleError
from inference.onnx.backend import OUTPUT_PREFIX, logits_of
from inference.onnx.io import REMEDY, graphs_of, load_model, save_model, subgraphs

INPUTS = ("input_ids", "attention_mask")
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_UNMASKED = "Padding would be read as text, and change an answer: export it so that the logits depend on the mask."
_INNER = "inner/"  # values inside the branch of an If are called so, and no other value is


def merge_graphs(
    graphs: Mapping[str, Path],
    target: Path,
    *,
    within: Path | None = None,
    digests: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write one graph with an output `logits_<task>` for each task; returns the files written.

    The graph takes `input_ids` and `attention_mask`, int64 (batch, tokens), both axes free. Weights past 2 GB go to
    `<stem>_weights.bin` beside it.

    Args:
        graphs: task -> its graph, whose output `logits`, or else the first one, is the logits. It may want
            `token_type_ids` too, which become zeros: one text has one segment. The same file may stand for several
            tasks only if it is meant to.
        within, digests: as in `inference.onnx.io.read_graph`.

    Raises:
        BundleError: a graph that is not allowed, or is no text classifier with free axes, or reads padding as text,
            or does not go together with the others.
    """
    merger = _Merger()
    outputs = {}
    for task, path in graphs.items():
        model = load_model(path, within, digests)
        names = [output.name for output in model.graph.output]
        values = merger.add(path, model, _inputs(merger, path, model))
        if not values:
            raise BundleError(f"{path} has no output, so it gives no logits. {REMEDY}")
        number = names.index(logits_of(names)[0])
        outputs[OUTPUT_PREFIX + task] = merger.as_float(path, values[number], model.graph.output[number])
        check_mask(path, model, names[number])
    axes = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in INPUTS]
    return save_model(merger.finish(inputs, outputs), target)


def select(path: Path, model: ModelProto, outputs: Mapping[str, str] | None = None) -> ModelProto:
    """The part of `model` that computes some of its outputs, its constants plain weights and transposed beforehand.

    PyTorch's newer exporter transposes a weight each time it is read; whoever looks for a product with constant
    weights, like `inference.onnx.quantize`, finds none in such a graph.

    Args:
        path: where the model is from, for messages.
        outputs: new name -> the output of `model` that it stands for; all under their own names if left out.

    Raises:
        BundleError: operators are out of order, or read a value that nothing makes.
    """
    inputs = _real_inputs(model)
    infos = {output.name: output for output in model.graph.output}
    outputs = outputs or {name: name for name in infos}
    merger = _Merger(outputs)
    values = dict(zip(infos, merger.add(path, model, {one.name: one.name for one in inputs}), strict=True))
    part = merger.finish(inputs, {name: values[old] for name, old in outputs.items()})
    for made, (name, old) in zip(part.graph.output, outputs.items(), strict=True):
        made.CopyFrom(infos[old])
        made.name = name
    return part


def text_inputs(path: Path, model: ModelProto) -> dict[str, int]:
    """The inputs of a text classifier and their types.

    Raises:
        BundleError: it takes something else, or texts of one length only.
    """
    found = {}
    for one in _real_inputs(model):
        kind = one.type.tensor_type
        if one.name not in (*INPUTS, "token_type_ids") or kind.elem_type not in INTEGERS:
            raise BundleError(
                f"{path} takes the input {one.name!r}. A text classifier takes input_ids, attention_mask and perhaps "
                "token_type_ids, all whole numbers: export it so."
            )
        if any(axis.dim_value for axis in kind.shape.dim):
            sizes = [axis.dim_value or "any" for axis in kind.shape.dim]
            raise BundleError(f"{path} takes {one.name} of shape {sizes} only. Export it with both axes free.")
        found[one.name] = kind.elem_type
    if INPUTS[0] not in found:
        raise BundleError(f"{path} does not read input_ids, so it is no text classifier. {REMEDY}")
    if INPUTS[1] not in found:
        raise BundleError(f"{path} has no input attention_mask. {_UNMASKED}")
    return found


def check_mask(path: Path, model: ModelProto, output: str) -> None:
    """Raise BundleError unless this output of `model` depends on its attention_mask."""
    read = {name for node in needed(model.graph.node, [output]) for name in _reads(node)}
    if INPUTS[1] not in read:
        raise BundleError(f"{path}: its output {output!r} does not depend on attention_mask. {_UNMASKED}")


def _real_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs without the weights, which graphs of before 2019 list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in weights]


def _inputs(merger: _Merger, path: Path, model: ModelProto) -> dict[str, str]:
    """What stands for each input of `model` in the merged graph."""
    found = {}
    for name, kind in text_inputs(path, model).items():
        value = name
        if name == "token_type_ids":
            value = merger.node(helper.make_node("Sub", [INPUTS[0], INPUTS[0]], ["zeros"]))[0]
        if kind != TensorProto.INT64:
            value = merger.node(helper.make_node("Cast", [value], [f"{name}_cast"], to=kind))[0]
        found[name] = value
    return found


class _Merger:
    """One graph in the making. Values keep their names where these are free.

    Args:
        outputs: names that the graph's outputs will have, where they do not begin with `OUTPUT_PREFIX`.
    """

    def __init__(self, outputs: Iterable[str] = ()) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._known: dict[object, tuple[str, ...]] = {}
        self._taken = {*INPUTS, *outputs}
        self._versions: dict[str, int] = {}
        self._ir_version = 0

    def add(self, path: Path, model: ModelProto, inputs: Mapping[str, str]) -> list[str]:
        """Take in a graph whose inputs are these values of ours; returns those that are its outputs."""
        self._agree(path, model)
        self._taken.update(inputs.values())
        if model.graph.sparse_initializer:
            raise BundleError(f"{path} has sparse weights, which are not merged. Export it with dense ones.")
        values = {"": "", **inputs}  # an optional input that is left out has no name
        try:
            for tensor in model.graph.initializer:
                values[tensor.name] = self._weight(tensor)
            for node in model.graph.node:
                values.update(zip(node.output, self.node(_rename(node, values)), strict=True))
            return [values[output.name] for output in model.graph.output]
        except KeyError as error:
            raise BundleError(f"{path} reads {error}, which nothing before it makes. {REMEDY}") from None
        except (ValueError, TypeError, IndexError) as error:  # what NumPy and onnx raise for a tensor that is none
            raise BundleError(f"{path} is damaged: {error}. {REMEDY}") from None

    def node(self, node: NodeProto) -> tuple[str, ...]:
        """The values that `node`, which reads values of ours, makes: new ones, or those of one that is like it."""
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
            made = NodeProto(op_type=node.op_type, domain=domain, input=node.input, attribute=node.attribute)
            made.output.extend(self._free(name) if name else "" for name in node.output)
            made.name = next(filter(None, made.output), "")
            self._nodes.append(made)
            self._known[key] = tuple(made.output)
        return self._known[key]

    def as_float(self, path: Path, value: str, output: ValueInfoProto) -> str:
        """The logits `value` in float32, whatever the graph gives."""
        kind = output.type.tensor_type.elem_type
        if kind not in FLOATS:
            raise BundleError(f"{path}: its output {output.name!r} is no float tensor, so no logits. {REMEDY}")
        if kind == TensorProto.FLOAT:
            return value
        return self.node(helper.make_node("Cast", [value], ["float"], to=TensorProto.FLOAT))[0]

    def finish(self, inputs: Sequence[ValueInfoProto], outputs: Mapping[str, str]) -> ModelProto:
        """The graph that gives the values of `outputs` (name -> value) and computes nothing else."""
        makers = {name: node for node in self._nodes for name in node.output if name}
        names: dict[str, str] = {}
        copies = []
        for name, value in outputs.items():
            # The operator itself gives it its name: an Identity would hide from a reader of the graph that a
            # product is the last one. It takes one where a value is two outputs, or no operator makes it.
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
        """Note the versions of the operators that `model` uses; they must be those of the graphs before it."""
        used = {node.domain for graph in graphs_of(model.graph) for node in graph.node}
        used = {"" if domain == "ai.onnx" else domain for domain in used}
        for opset in model.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            if domain in used and self._versions.setdefault(domain, opset.version) != opset.version:
                raise BundleError(
                    f"{path} is of opset {opset.version} and another graph beside it of {self._versions[domain]}. "
                    "Export all tasks with the same opset."
                )
        self._ir_version = max(self._ir_version, model.ir_version)

    def _weight(self, tensor: TensorProto, name: str | None = None) -> str:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        if not copy.HasField("raw_data") and copy.data_type != TensorProto.STRING:
            copy = numpy_helper.from_array(numpy_helper.to_array(copy))  # one spelling, so that equal is equal
        copy.ClearField("name")
        copy.ClearField("doc_string")
        key = hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()
        if key not in self._known:
            copy.name = self._free(name or tensor.name)
            self._weights[copy.name] = copy
            self._known[key] = (copy.name,)
        return self._known[key][0]

    def _free(self, name: str) -> str:
        """`name`, or one like it if that is taken or could be one of the outputs or of a branch's values."""
        if name.startswith((OUTPUT_PREFIX, _INNER)) or name in self._taken:
            stem, number = name.removeprefix(_INNER), 2
            while (name := f"value/{stem}#{number}") in self._taken:
                number += 1
        self._taken.add(name)
        return name


class _Names(dict[str, str]):
    """New names by old ones; a name without a new one keeps its own."""

    def __missing__(self, name: str) -> str:
        return name


def needed(nodes: Sequence[NodeProto], values: Iterable[str]) -> list[NodeProto]:
    """Those of `nodes`, which stand in the order they run in, that these values depend on."""
    wanted = set(values)
    found = []
    for node in reversed(nodes):
        if wanted & {name for name in node.output if name}:
            wanted |= _reads(node)
            found.append(node)
    return found[::-1]


def _reads(node: NodeProto) -> set[str]:
    """The values that an operator reads, those that its branches take from around it included."""
    inner = [graph for attribute in node.attribute for one in subgraphs(attribute) for graph in graphs_of(one)]
    names = {name for graph in inner for one in graph.node for name in one.input}
    names |= {output.name for graph in inner for output in graph.output}
    return names | set(node.input)


def _rename(node: NodeProto, values: Mapping[str, str], *, outputs_too: bool = False) -> NodeProto:
    """A copy of `node` that reads `values[name]` where it reads `name`."""
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
    """The same for what the branch of an If, or the body of a loop, takes from around it."""
    own = [one.name for one in (*graph.input, *graph.initializer)] + [n for node in graph.node for n in node.output]
    known = _Names() if isinstance(values, _Names) else {}
    known.update(values)
    known.update({name: name if name.startswith(_INNER) or not name else _INNER + name for name in own})
    for one in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        one.name = known.get(one.name, one.name)
    nodes = [_rename(node, known, outputs_too=True) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
