"""Store weights and tables in 8 bits and compute with them in float: a file of a quarter of the size.

ONNX Runtime multiplies constants out when it loads a file. A product whose weights are stored as int8 times scales
takes the time and memory of the FP32 product; only the file is smaller. (A DequantizeLinear would run at every call.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from inference.onnx.graph import Array, Product, add_constant, replace_nodes

BLOCK = 32  # weights that share a scale: a large weight affects only these
ROWS = 65_536  # of a table that are rounded at a time: a table can have gigabytes


def round_weights(graph: GraphProto, kept: Mapping[str, tuple[Product, NDArray[np.int64]]]) -> Counter[str]:
    """Store the weights of these products in 8 bits, those of their outlier channels in float; count the operators.

    Args:
        kept: output -> product and outlier channels.
    """
    rows: dict[str, set[int]] = {}  # an encoder can read the same weights in every layer: they are stored once
    for product, outliers in kept.values():
        rows.setdefault(product.node.input[1], set()).update(outliers.tolist())
    nodes: list[NodeProto] = []
    done: set[str] = set()
    counts: Counter[str] = Counter()
    for node in graph.node:
        out = next(iter(node.output), "")
        if out in kept:
            name = node.input[1]
            if name not in done:
                done.add(name)
                nodes += _rounded_weight(graph, name, kept[out][0].weight, sorted(rows[name]))
            node.input[1] = f"{name}/rounded"
            for transposed in [a for a in node.attribute if a.name == "transB"]:
                node.attribute.remove(transposed)  # `Product.weight` is not transposed
            counts[node.op_type] += 1
        nodes.append(node)
    replace_nodes(graph, nodes)
    return counts


def _rounded_weight(graph: GraphProto, name: str, weight: Array, exact: Sequence[int]) -> list[NodeProto]:
    """Return the nodes that compute `{name}/rounded`, (inputs, outputs): int8 times a scale per block, `exact` rows."""
    inputs, outputs = weight.shape
    block = BLOCK if inputs % BLOCK == 0 else inputs
    rest = weight.copy()
    rest[exact] = 0
    blocks = rest.reshape(inputs // block, block, outputs)
    scale = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
    eight = add_constant(graph, f"{name}/int8", np.rint(blocks / scale).astype(np.int8))
    scales = add_constant(graph, f"{name}/scale", scale)
    shape = add_constant(graph, f"{name}/shape", np.array(weight.shape, np.int64))
    whole = f"{name}/most" if exact else f"{name}/rounded"
    nodes = [
        helper.make_node("Cast", [eight], [f"{name}/float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/float", scales], [f"{name}/blocks"]),
        helper.make_node("Reshape", [f"{name}/blocks", shape], [whole]),
    ]
    if exact:
        channels = add_constant(graph, f"{name}/channels", np.array(exact, np.int64)[:, None])
        values = add_constant(graph, f"{name}/rows", weight[exact])
        nodes.append(helper.make_node("ScatterND", [whole, channels, values], [f"{name}/rounded"]))
    return nodes


def shrink_tables(graph: GraphProto, counts: Counter[str]) -> None:
    """Store every table that an input of the graph indexes (word embeddings) as int8 rows with a scale each."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" and node.input[1] in inputs else None
        if table is None or len(table.dims) != 2 or table.data_type != onnx.TensorProto.FLOAT:
            nodes.append(node)
            continue
        rows, out, ids = numpy_helper.to_array(table), node.output[0], node.input[1]
        widest = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
        scale = np.maximum(widest, np.float32(1e-12)) / np.float32(127)
        rounded = np.empty(rows.shape, np.int8)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            np.rint(rows[part] / scale[part], out=rounded[part], casting="unsafe")
        eight = add_constant(graph, f"{out}/table", rounded)
        scales = add_constant(graph, f"{out}/table_scale", scale)
        nodes += [
            helper.make_node("Gather", [eight, ids], [f"{out}/row"]),
            helper.make_node("Cast", [f"{out}/row"], [f"{out}/float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [scales, ids], [f"{out}/row_scale"]),
            helper.make_node("Mul", [f"{out}/float", f"{out}/row_scale"], [out]),
        ]
        counts["Gather"] += 1
    replace_nodes(graph, nodes)
