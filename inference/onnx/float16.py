"""A float32 graph as a GPU takes it: in float16, but for what decides between the labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from inference.errors import ExportError

if TYPE_CHECKING:
    from inference.onnx.backend import Graph

# It tells of every dimension that it cannot work out; what is asked of it are types.
logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.ERROR)
ENDS = ("SkipLayerNormalization", "LayerNormalization")  # the last operators of an encoder's layer
# Sums over many values, and operators that have no float16.
FLOATS = ("Softmax", "Range", "CumSum", "Min", "Max", "TopK")
LARGEST = float(np.finfo(np.float16).max)  # the mask's "minus infinity" of float32 is beyond it
REMEDY = "Load it with dtype='float32', or with backend='pytorch'."


def to_float16(graph: Graph) -> Graph:
    """The same graph with the encoder's weights and products in float16.

    Pooling and heads, all that follows the last layer norm, stay in float32, and so do softmax, inputs and outputs.
    (The converter that comes with ONNX Runtime rounds between the operators that it is told to leave, too.)

    Raises:
        ExportError: the graph passes 2 GB, or holds what cannot be converted.
    """
    if graph.weights:
        raise ExportError(f"An ONNX model of more than 2 GB is not converted to float16 here. {REMEDY}")
    model = ModelProto.FromString(graph.model)
    try:
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception as error:  # it raises whatever comes to it
        raise ExportError(f"The types in this ONNX graph cannot be told: {error}. {REMEDY}") from None
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    } | {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT}
    _rewrite(model.graph, floats)
    return replace(graph, model=bytes(model.SerializeToString()))


def _rewrite(graph: GraphProto, floats: set[str]) -> None:
    kept = heads(graph)
    weights = {one.name: one for one in graph.initializer if one.name in floats}
    halves: set[str] = set()  # tensors that are float16 now
    casts: dict[tuple[str, bool], str] = {}  # tensor and whether it is wanted as float16 -> what it is called so
    nodes: list[NodeProto] = []
    used: set[str] = set()  # weights that are still wanted in float32
    for number, node in enumerate(graph.node):
        if any(True for _ in _graphs(node)):
            raise ExportError(f"This ONNX graph has branches ({node.op_type}), which are not converted. {REMEDY}")
        plain = node.op_type == "ConstantOfShape" and not node.attribute  # float32 is what it makes unless told
        half = number not in kept and node.op_type not in FLOATS and not plain
        for place, name in enumerate(node.input):
            if name not in floats or (name in halves) == half:
                used.update({name} & set(weights))
                continue
            if (name, half) not in casts:
                casts[name, half] = f"{name}_as_float{16 if half else 32}"
                if name in weights:
                    graph.initializer.append(_narrow(weights[name], casts[name, half]))
                else:
                    to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [casts[name, half]], casts[name, half], to=to))
            node.input[place] = casts[name, half]
        if half and any(name in floats for name in node.output):
            halves.update(floats & set(node.output))
            _narrow_attributes(node)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    left = [one for one in graph.initializer if one.name not in weights or one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    del graph.value_info[:]  # they told of float32


def _narrow_attributes(node: NodeProto) -> None:
    """What an operator makes of nothing, a constant or a cast, in float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            attribute.i = TensorProto.FLOAT16
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_narrow(attribute.t, attribute.t.name))


def _narrow(tensor: TensorProto, name: str) -> TensorProto:
    values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), name)


def heads(graph: GraphProto) -> set[int]:
    """Numbers of the operators between the encoder's last layer norm and the logits."""
    made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
    todo = [made_by[output.name] for output in graph.output]
    found: set[int] = set()
    while todo:
        number = todo.pop()
        found.add(number)
        before = {made_by[name] for name in graph.node[number].input if name in made_by} - found
        todo += [one for one in before if graph.node[one].op_type not in ENDS]
    return found


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
