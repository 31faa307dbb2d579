"""The parts of an ONNX graph that quantisation finds and rewrites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

MICROSOFT = "com.microsoft"

Array = NDArray[np.float32]


@dataclass(eq=False)
class Product:
    """A product of an activation and constant weights: MatMul, Gemm, or the projections of a fused Attention."""

    node: NodeProto
    output: str
    weight: Array  # (inputs, outputs)
    bias: Array  # (outputs,)


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and, depth first, the graphs inside its operators (the branches of an If)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                yield from graphs_of(inner)


def subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs in one attribute."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def consumers_of(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read each tensor, by its name."""
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in set(node.input):
            consumers.setdefault(name, []).append(node)
    return consumers


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Replace the nodes of the graph; some of `nodes` may be its own."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # `del` invalidates the originals
    del graph.node[:]
    graph.node.extend(copies)


def attribute(node: NodeProto, name: str, default: float) -> float:
    """Return a numeric attribute of `node`, or `default`."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def add_constant(graph: GraphProto, name: str, values: NDArray[np.generic]) -> str:
    """Add `values` to the graph as a constant and return its `name`."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def split_fused(graph: GraphProto) -> None:
    """Split BiasGelu and SkipLayerNormalization, so that their biases can join the integer products.

    ONNX Runtime 1.31 vectorises LayerNormalization but not SkipLayerNormalization: split, they take less than half of
    the time. `Sum` instead of `Add`, because the session would fuse an Add again.
    """
    consumers = consumers_of(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        out = node.output[0]
        if node.op_type == "BiasGelu":
            nodes.append(helper.make_node("Add", node.input, [f"{out}/biased"]))
            nodes.append(helper.make_node("Gelu", [f"{out}/biased"], [out], domain=MICROSOFT))
        elif node.op_type == "SkipLayerNormalization" and not any(node.output[1:]):
            product, skip, gamma, beta, bias = [*node.input, "", ""][:5]
            if bias:
                nodes.append(helper.make_node("Add", [product, bias], [f"{out}/biased"]))
                product = f"{out}/biased"
            nodes.append(helper.make_node("Sum", [product, skip], [f"{out}/sum"]))
            epsilon = attribute(node, "epsilon", 1e-12)
            nodes.append(helper.make_node("LayerNormalization", [f"{out}/sum", gamma, beta], [out], epsilon=epsilon))
        else:
            if node.op_type == "Add" and [c.op_type for c in consumers.get(out, [])] == ["LayerNormalization"]:
                node.op_type = "Sum"
            nodes.append(node)
    replace_nodes(graph, nodes)


def product_of(
    node: NodeProto, consumers: Sequence[NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> Product | None:
    """Return `node` as a product with constant float weights and its bias; None for any other node."""
    if node.op_type not in ("MatMul", "Gemm", "Attention") or node.input[0] in constants:
        return None
    tensor = constants.get(node.input[1])
    if tensor is None or len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    weight, output, addend = numpy_helper.to_array(tensor), node.output[0], [*node.input, ""][2]
    if node.op_type == "MatMul" and [consumer.op_type for consumer in consumers] == ["Add"]:
        name = next((name for name in consumers[0].input if name in constants), "")
        if name and list(constants[name].dims) == [weight.shape[1]]:
            output, addend = consumers[0].output[0], name
    elif node.op_type == "Gemm":
        if attribute(node, "alpha", 1) != 1 or attribute(node, "beta", 1) != 1 or attribute(node, "transA", 0):
            return None
        weight = weight.T if attribute(node, "transB", 0) else weight
    # QAttention supports neither a past, nor a position bias, nor projections of unequal sizes.
    unknown = any(node.input[4:]) or any(a.name == "qkv_hidden_sizes" for a in node.attribute)
    if unknown or (addend and addend not in constants):
        return None
    bias = numpy_helper.to_array(constants[addend]) if addend else np.zeros(1, np.float32)
    return Product(node, output, weight, np.broadcast_to(bias, weight.shape[1]))


def drop_unused(graph: GraphProto) -> None:
    """Remove constants that no node reads."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for index in reversed(range(len(graph.initializer))):  # one by one: a copy of the rest may be gigabytes
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
    del graph.value_info[:]  # it describes tensors that are gone
