"""FP32 ONNX graph to INT8 with static scales: the same answer alone and in any batch.

The graph is rewritten node by node. A graph of QuantizeLinear/DequantizeLinear pairs would leave it to ONNX
Runtime's fusions whether anything becomes faster, and puts roundings into the residual path.

- Weights: int8, symmetric, one scale per output channel. Activations: uint8, one scale and zero point per
  tensor, fixed here. A scale taken from the batch at hand would make a text's label depend on its neighbours.
- SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): a channel with a wide range is divided by a factor that
  its weight row is multiplied by. The division is a node of its own and not folded into the layer norm
  before it, because the residual path reads the same tensor.
- LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339): a channel far stronger than all others stays in float.
  In MiniLM [CLS] drives one channel of the hidden state and five of the 9,216 GELU outputs to ten times the
  range of the rest. Rounded along with them, these few cause a third of the error.
- Embeddings: int8 with one scale per row, gathered along with the row.
- Heads, softmax, layer norms, GELU and pooling stay float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from inference.errors import ExportError

MICROSOFT = "com.microsoft"
SMOOTHING = 0.75  # SmoothQuant's alpha: at 0 activations carry all of a channel's range, at 1 weights do
OUTLIER_RATIO = 8.0  # a channel this many times as strong as the median one stays float ...
MAX_OUTLIERS = 8  # ... the strongest ones first, so that the float product stays negligible

Array = NDArray[np.float32]


@dataclass(eq=False)
class _Product:
    """A product of an activation and constant weights: MatMul, Gemm, or a fused Attention's projections."""

    node: NodeProto
    output: str
    weight: Array  # (inputs, outputs)
    bias: Array  # (outputs,)


@dataclass(eq=False)
class _Activation:
    """A tensor that products read: it is quantised once for all of them."""

    name: str
    products: list[_Product] = field(default_factory=list)
    into_values: bool = False  # made by a quantised Attention: its value projection can do the division
    factor: Array = field(default_factory=lambda: np.ones(0, np.float32))  # (channels,), what each is divided by
    outliers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # channels left float
    scale: np.float32 = field(default_factory=lambda: np.float32(1))
    zero: np.uint8 = field(default_factory=lambda: np.uint8(0))


def quantize(
    source: Path,
    target: Path,
    feeds: Sequence[Mapping[str, NDArray[np.int64]]],
    *,
    reduce_range: bool,
) -> dict[str, int]:
    """Write an INT8 version of the FP32 graph `source` to `target`.

    Args:
        source: an encoder's graph, with or without ONNX Runtime's fused operators.
        target: the file to write. Equal arguments give equal bytes.
        feeds: calibration inputs of `source` without padding, a few hundred texts like those to come.
        reduce_range: 7-bit weights, for x86 CPUs without VNNI: they add two 8-bit products in 16 bits, which
            overflow (`inference.cpu.saturates`).

    Returns:
        How many of each operator compute in, or read, 8 bits: QAttention, MatMulIntegerToFloat, Gather.

    Raises:
        ExportError: nothing but heads could be quantised, or `feeds` is empty.
    """
    model = onnx.load(source)
    _split_fused(model.graph)
    activations = _find(model.graph)
    if not activations:
        raise ExportError(f"{source} has nothing to quantise: no product with constant weights besides its heads.")
    if not feeds:
        raise ExportError("INT8 takes its scales from calibration texts; feeds holds none.")
    limit = 63 if reduce_range else 127
    for activation, (low, high) in zip(activations, _observe(model, activations, feeds), strict=True):
        _calibrate(activation, low, high)
    counts = _rewrite(model.graph, activations, limit)
    _shrink_tables(model.graph, counts)
    _drop_unused(model.graph)
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    target.write_bytes(model.SerializeToString(deterministic=True))
    return dict(counts)


def _consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in set(node.input):
            consumers.setdefault(name, []).append(node)
    return consumers


def _replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # `del` invalidates the originals
    del graph.node[:]
    graph.node.extend(copies)


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _split_fused(graph: GraphProto) -> None:
    """Take BiasGelu and SkipLayerNormalization apart, so that their biases can join the integer products.

    ONNX Runtime 1.31 vectorises LayerNormalization and not SkipLayerNormalization: apart they take less than half
    of the time. `Sum` instead of `Add`, because the session would fuse an Add again.
    """
    consumers = _consumers(graph)
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
            epsilon = _attribute(node, "epsilon", 1e-12)
            nodes.append(helper.make_node("LayerNormalization", [f"{out}/sum", gamma, beta], [out], epsilon=epsilon))
        else:
            if node.op_type == "Add" and [c.op_type for c in consumers.get(out, [])] == ["LayerNormalization"]:
                node.op_type = "Sum"
            nodes.append(node)
    _replace_nodes(graph, nodes)


def _find(graph: GraphProto) -> list[_Activation]:
    """The activations that products read, in the order of the graph. Heads are left out."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    consumers = _consumers(graph)
    outputs = {output.name for output in graph.output}
    activations: dict[str, _Activation] = {}
    attentions: set[str] = set()
    for node in graph.node:
        after = consumers.get(node.output[0], []) if node.output else []
        if outputs & {name for n in (node, *after) for name in n.output}:
            continue  # a head: little work, and every rounding in it is seen in the logits
        product = _product(node, after, constants)
        if product is not None:
            activations.setdefault(node.input[0], _Activation(node.input[0])).products.append(product)
            if node.op_type == "Attention":
                attentions.add(product.output)
    for activation in activations.values():
        readers = {product.node.output[0] for product in activation.products}
        all_quantised = all(readers & set(node.output) for node in consumers[activation.name])
        activation.into_values = activation.name in attentions and all_quantised
    return list(activations.values())


def _product(
    node: NodeProto, consumers: Sequence[NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> _Product | None:
    """`node` as a product with constant float weights, its bias included; None for any other node."""
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
        if _attribute(node, "alpha", 1) != 1 or _attribute(node, "beta", 1) != 1 or _attribute(node, "transA", 0):
            return None
        weight = weight.T if _attribute(node, "transB", 0) else weight
    # QAttention knows neither a past, nor a position bias, nor projections of unequal sizes.
    unknown = any(node.input[4:]) or any(attribute.name == "qkv_hidden_sizes" for attribute in node.attribute)
    if unknown or (addend and addend not in constants):
        return None
    bias = numpy_helper.to_array(constants[addend]) if addend else np.zeros(1, np.float32)
    return _Product(node, output, weight, np.broadcast_to(bias, weight.shape[1]))


def _observe(
    model: ModelProto, activations: Sequence[_Activation], feeds: Sequence[Mapping[str, NDArray[np.int64]]]
) -> list[tuple[Array, Array]]:
    """The smallest and the largest value of every channel of every activation over `feeds`, each (channels,)."""
    names = [activation.name for activation in activations]
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would starve other work
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges: list[tuple[Array, Array]] = []
    for feed in feeds:
        seen = [np.asarray(v).reshape(-1, np.shape(v)[-1]) for v in session.run(names, dict(feed))]
        now = [(values.min(axis=0), values.max(axis=0)) for values in seen]
        if ranges:
            now = [(np.minimum(a, c), np.maximum(b, d)) for (a, b), (c, d) in zip(ranges, now, strict=True)]
        ranges = now
    return ranges


def _calibrate(activation: _Activation, low: Array, high: Array) -> None:
    """Choose outliers, factors, scale and zero point from each channel's range and weights."""
    weight = np.concatenate([product.weight for product in activation.products], axis=1)
    width = np.maximum(-low, high)
    row = np.sqrt(np.square(weight).mean(axis=1))
    # A dead channel must not get a factor of zero or infinity.
    width = np.maximum(width, 1e-5 * width.max() + 1e-12)
    row = np.maximum(row, 1e-5 * row.max() + 1e-12)
    fused = any(product.node.op_type == "Attention" for product in activation.products)
    if not fused and not activation.into_values:  # QAttention takes no second product, and V no zero factor
        strength = width * row
        strongest = np.argsort(-strength, kind="stable")[:MAX_OUTLIERS]
        activation.outliers = np.sort(strongest[strength[strongest] > OUTLIER_RATIO * np.median(strength)])
    factor = width**SMOOTHING / row ** (1 - SMOOTHING)
    factor = factor / np.exp(np.log(factor).mean())
    factor[activation.outliers] = np.inf  # divided by infinity, nothing of them reaches the integers
    activation.factor = factor.astype(np.float32)
    smallest = min(0.0, float((low / factor).min()))
    largest = max(0.0, float((high / factor).max()))
    activation.scale = np.float32(max((largest - smallest) / 255, 1e-12))
    activation.zero = np.uint8(np.rint(-smallest / activation.scale))


def _rewrite(graph: GraphProto, activations: Sequence[_Activation], limit: int) -> Counter[str]:
    """Put integer products in place of float ones; weights within -limit..limit. Returns what was made."""
    made = {
        product.node.output[0]: (activation, product) for activation in activations for product in activation.products
    }
    divisors = {activation.name: activation.factor for activation in activations if activation.into_values}
    absorbed = {product.output for _, product in made.values()} - made.keys()  # Adds whose constant became a bias
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        out = next(iter(node.output), "")
        if out in made:
            activation, product = made[out]
            if activation.name not in done:
                done.add(activation.name)
                nodes += _quantize_activation(graph, activation)
            nodes += _integer_product(graph, activation, product, limit, divisors.get(product.output))
        elif out not in absorbed:
            nodes.append(node)
    _replace_nodes(graph, nodes)
    return Counter(node.op_type for node in nodes if node.op_type in ("QAttention", "MatMulIntegerToFloat"))


def _add_constant(graph: GraphProto, name: str, values: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _quantize_activation(graph: GraphProto, activation: _Activation) -> list[NodeProto]:
    name = activation.name
    scale = _add_constant(graph, f"{name}/scale", np.asarray(activation.scale))
    zero = _add_constant(graph, f"{name}/zero", np.asarray(activation.zero))
    nodes = []
    smooth = name
    if not activation.into_values:
        # QuantizeLinear with a scale per channel would do both at once, and takes ten times as long.
        inverse = _add_constant(graph, f"{name}/inverse", 1 / activation.factor)
        smooth = f"{name}/smooth"
        nodes.append(helper.make_node("Mul", [name, inverse], [smooth]))
    return [*nodes, helper.make_node("QuantizeLinear", [smooth, scale, zero], [f"{name}/int8"])]


def _integer_product(
    graph: GraphProto, activation: _Activation, product: _Product, limit: int, divisor: Array | None
) -> list[NodeProto]:
    """The nodes that compute `product`; `divisor` (values,) is what an Attention's value channels are divided by."""
    outliers = activation.outliers
    factor = np.where(np.isinf(activation.factor), 0, activation.factor)
    weight, bias = product.weight * factor[:, None], product.bias.astype(np.float32)
    if divisor is not None:
        weight[:, -len(divisor) :] /= divisor
        bias[-len(divisor) :] /= divisor
    scale = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(limit)
    name, out = activation.name, product.output
    quantised = [f"{name}/int8", _add_constant(graph, f"{out}/weight", np.rint(weight / scale).astype(np.int8))]
    scales = [f"{name}/scale", _add_constant(graph, f"{out}/weight_scale", scale)]
    bias_name = _add_constant(graph, f"{out}/bias", bias)
    if product.node.op_type == "Attention":
        mask = [*product.node.input, ""][3]
        node = helper.make_node(
            "QAttention", [*quantised, bias_name, *scales, mask, f"{name}/zero"], [out], domain=MICROSOFT
        )
        node.attribute.extend(product.node.attribute)
        return [node]
    inputs = [*quantised, *scales, f"{name}/zero", "", bias_name]
    if not len(outliers):
        return [helper.make_node("MatMulIntegerToFloat", inputs, [out], domain=MICROSOFT)]
    channels = _add_constant(graph, f"{out}/channels", outliers)
    rows = _add_constant(graph, f"{out}/rows", product.weight[outliers])
    return [
        helper.make_node("MatMulIntegerToFloat", inputs, [f"{out}/most"], domain=MICROSOFT),
        helper.make_node("Gather", [name, channels], [f"{out}/outliers"], axis=-1),
        helper.make_node("MatMul", [f"{out}/outliers", rows], [f"{out}/rest"]),
        helper.make_node("Sum", [f"{out}/most", f"{out}/rest"], [out]),
    ]


def _shrink_tables(graph: GraphProto, counts: Counter[str]) -> None:
    """Keep every table that an input of the graph indexes (the word embeddings) as int8 rows with a scale each."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" and node.input[1] in inputs else None
        if table is None or len(table.dims) != 2 or table.data_type != onnx.TensorProto.FLOAT:
            nodes.append(node)
            continue
        rows, out, ids = numpy_helper.to_array(table), node.output[0], node.input[1]
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
        eight = _add_constant(graph, f"{out}/table", np.rint(rows / scale).astype(np.int8))
        scales = _add_constant(graph, f"{out}/table_scale", scale)
        nodes += [
            helper.make_node("Gather", [eight, ids], [f"{out}/row"]),
            helper.make_node("Cast", [f"{out}/row"], [f"{out}/float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [scales, ids], [f"{out}/row_scale"]),
            helper.make_node("Mul", [f"{out}/float", f"{out}/row_scale"], [out]),
        ]
        counts["Gather"] += 1
    _replace_nodes(graph, nodes)


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    del graph.value_info[:]  # it describes tensors that are gone
