"""Convert a float32 graph to float16 for a GPU, except for the part that decides between the labels."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from inference.errors import ExportError
from inference.onnx.graph import subgraphs

if TYPE_CHECKING:
    from inference.onnx import Graph

# It warns of every dimension that it cannot infer; only types are needed here.
logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.ERROR)
ENDS = ("SkipLayerNormalization", "LayerNormalization")  # the last operators of an encoder's layer
# Sums over many values, and operators that have no float16.
FLOATS = ("Softmax", "Range", "CumSum", "Min", "Max", "TopK")
LARGEST = float(np.finfo(np.float16).max)  # the mask's "minus infinity" of float32 is beyond it
REMEDY = "Load it with dtype='float32', or with backend='pytorch'."


def to_float16(graph: Graph) -> Graph:
    """Return the graph with the encoder's weights and products in float16.

    Everything after the last layer norm (pooling and heads) stays in float32, and so do softmax, inputs and outputs.
    (ONNX Runtime's own converter also rounds between the operators that it is to leave alone.)

    Raises:
        ExportError: the graph passes 2 GB, or has parts that cannot be converted.
    """
    if graph.weights:
        raise ExportError(f"An ONNX model of more than 2 GB is not converted to float16 here. {REMEDY}")
    model = ModelProto.FromString(graph.model)
    try:
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception as error:  # it raises errors of any class
        raise ExportError(f"Cannot infer the tensor types of this ONNX graph: {error}. {REMEDY}") from None
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    } | {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    _rewrite(model.graph, floats)
    return replace(graph, model=bytes(model.SerializeToString()))


def _rewrite(graph: GraphProto, floats: set[str]) -> None:
    exact = heads(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in floats}
    halves: set[str] = set()  # tensors that are float16 now
    casts: dict[tuple[str, bool], str] = {}  # tensor and whether as float16 -> name of the converted one
    nodes: list[NodeProto] = []
    used: set[str] = set()  # weights that are still needed in float32
    for number, node in enumerate(graph.node):
        if any(subgraphs(attribute) for attribute in node.attribute):
            raise ExportError(f"This ONNX graph has branches ({node.op_type}), which are not converted. {REMEDY}")
        plain = node.op_type == "ConstantOfShape" and not node.attribute  # its default is float32
        half = number not in exact and node.op_type not in FLOATS and not plain
        for place, name in enumerate(node.input):
            if name not in floats or (name in halves) == half:
                used.update({name} & set(weights))
                continue
            if (name, half) not in casts:
                casts[name, half] = f"{name}_as_float{16 if half else 32}"
                if name in weights:
                    graph.initializer.append(_to_half(weights[name], casts[name, half]))
                else:
                    to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [casts[name, half]], casts[name, half], to=to))
            node.input[place] = casts[name, half]
        if half and any(name in floats for name in node.output):
            halves.update(floats & set(node.output))
            _convert_attributes(node)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    rest = [tensor for tensor in graph.initializer if tensor.name not in weights or tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    del graph.value_info[:]  # it describes float32 values


def _convert_attributes(node: NodeProto) -> None:
    """Convert to float16 what an operator creates: a constant or the result of a cast."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            attribute.i = TensorProto.FLOAT16
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_to_half(attribute.t, attribute.t.name))


def _to_half(tensor: TensorProto, name: str) -> TensorProto:
    values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), name)


def heads(graph: GraphProto) -> set[int]:
    """Return the numbers of the operators between the encoder's last layer norm and the logits."""
    made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
    todo = [made_by[output.name] for output in graph.output]
    numbers: set[int] = set()
    while todo:
        number = todo.pop()
        numbers.add(number)
        before = {made_by[name] for name in graph.node[number].input if name in made_by} - numbers
        todo += [earlier for earlier in before if graph.node[earlier].op_type not in ENDS]
    return numbers
