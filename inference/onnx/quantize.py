"""FP32 ONNX graph to INT8 with static scales: the same answer alone and in any batch.

The graph is rewritten node by node. With QuantizeLinear/DequantizeLinear pairs, speed would depend on ONNX Runtime's
fusions, and the residual path would be rounded.

- Weights: int8, symmetric, one scale per output channel. Activations: uint8, one scale and zero point per tensor, fixed
  here. A scale from the current batch would make a text's label depend on its neighbours.
- SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): a channel with a wide range is divided by a factor that its weight
  row is multiplied by. The division is a node of its own, not folded into the layer norm before it, because the
  residual path reads the same tensor.
- Outlier channel splitting (Zhao et al. 2019, arXiv:1901.09504): a channel far stronger than all others is divided
  among copies, which fit into the range of the rest. In MiniLM [CLS] drives one channel of the hidden state and five
  of the 9,216 GELU outputs to ten times that range. Kept in float instead, as by LLM.int8(), these few took a fifth
  of the time of a batch: their product is small, but it is added to a whole tensor.
- Embeddings: int8 with one scale per row, gathered together with the row.
- Heads, softmax, layer norms, GELU and pooling stay float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper

from inference.errors import ExportError
from inference.onnx import Graph
from inference.onnx.graph import (
    MICROSOFT,
    Array,
    Product,
    add_constant,
    consumers_of,
    drop_unused,
    product_of,
    replace_nodes,
    split_fused,
)
from inference.onnx.io import as_graph, load_model, save_model
from inference.onnx.weights import round_weights, shrink_tables

SMOOTHING = 0.75  # SmoothQuant's alpha: at 0 activations carry all of a channel's range, at 1 weights do
OUTLIER_RATIO = 8.0  # a channel this many times as strong as the median one is an outlier
MAX_OUTLIERS = 8  # the strongest ones are split ...
FINER = 8.0  # ... into so many copies that they are rounded this many times as finely as without ...
MAX_COPIES = 64  # ... but into no more than these together, so that the product does not grow by much
# Widths of the range below zero that are tried, the range above being 1: GELU's outputs reach from -0.17 to 24.
BELOW_ZERO = (1.0, 0.5, 0.25, 0.125, 0.0625)

Feeds = Sequence[Mapping[str, NDArray[np.int64]]]


@dataclass(eq=False)
class _Activation:
    """A tensor that products read, quantised once for all of them."""

    name: str
    products: list[Product] = field(default_factory=list)
    into_values: bool = False  # made by a quantised Attention: its value projection can do the division
    factor: Array = field(default_factory=lambda: np.ones(0, np.float32))  # (channels,), divisor of each
    outliers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # channels that are split
    copies: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # (outliers,), number of each
    scale: np.float32 = field(default_factory=lambda: np.float32(1))
    zero: np.uint8 = field(default_factory=lambda: np.uint8(0))


class _Smoothing(NamedTuple):
    """Factors for the channels of an activation."""

    error: float  # of rounding with these factors, up to a constant
    factor: Array  # (channels,)
    smallest: float
    largest: float  # of all values divided by their factors, without outliers


@dataclass(frozen=True)
class Calibrated:
    """A graph with everything that is needed to write it in 8 bits in any number of ways."""

    source: Path
    model: ModelProto
    ranges: Mapping[str, tuple[Array, Array]]
    """Activation -> smallest and largest value of each channel, both (channels,)."""


def calibrate(source: Path, feeds: Feeds) -> Calibrated:
    """Measure the range of every activation of the FP32 graph `source` that can be quantised.

    Args:
        source: an encoder's graph, with or without ONNX Runtime's fused operators.
        feeds: calibration inputs of `source` without padding, a few hundred typical texts.

    Raises:
        ExportError: there is nothing to quantise besides heads, or `feeds` is empty.
    """
    model = load_model(source)
    split_fused(model.graph)
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    names = [activation.name for activation in _find(model.graph)]
    if not names:
        raise ExportError(f"{source} has nothing to quantise: no product with constant weights besides its heads.")
    if not feeds:
        raise ExportError("INT8 takes its scales from calibration texts; feeds is empty.")
    return Calibrated(source, model, dict(zip(names, _observe(model, names, feeds), strict=True)))


def write(
    calibrated: Calibrated, target: Path, *, reduce_range: bool, keep_float: Collection[str] = ()
) -> dict[str, int]:
    """Write a graph whose products compute in 8 bits with fixed scales, except for those kept float.

    The weights of the latter are stored in 8 bits too (`inference.onnx.weights`). These products are nearly as exact as
    in FP32 and as fast: their input is not rounded and can have any range.

    Args:
        target: the file to write. Equal arguments give equal bytes.
        reduce_range: 7-bit weights, for x86 CPUs without VNNI: they add two 8-bit products in 16 bits, which
            overflow (`inference.cpu.saturates`).
        keep_float: names of activations (keys of `ranges`) whose products stay float.

    Returns:
        Number of operators of each kind that compute in 8 bits (QAttention, MatMulIntegerToFloat) or read 8-bit weights
        (Gather, and Attention, MatMul, Gemm of the products kept float).
    """
    model = ModelProto()
    model.CopyFrom(calibrated.model)
    graph = model.graph
    kept: dict[str, tuple[Product, NDArray[np.int64]]] = {}
    for activation in _find(graph):
        if activation.name in keep_float:
            outliers = _outliers(*_channels(activation, *calibrated.ranges[activation.name]))
            kept |= {product.node.output[0]: (product, outliers) for product in activation.products}
    counts = round_weights(graph, kept)
    counts += _quantize_products(graph, calibrated, keep_float, reduce_range)
    shrink_tables(graph, counts)
    drop_unused(graph)
    target.with_name(f"{target.stem}_weights.bin").unlink(missing_ok=True)  # of an earlier recipe, which passed 2 GB
    save_model(model, target)
    return dict(counts)


def sensitivities(calibrated: Calibrated, feeds: Feeds, *, reduce_range: bool) -> dict[str, float]:
    """Return the error that the products of each activation alone, by its name, cause in the logits in 8 bits.

    It is the mean square change of the logits of `feeds` in units of their variance, summed over the outputs.
    """
    expected = _answers(calibrated.model, feeds)
    spread = [values.var() + 1e-12 for values in expected]
    errors = {}
    for name in calibrated.ranges:
        model = ModelProto()
        model.CopyFrom(calibrated.model)
        _quantize_products(model.graph, calibrated, calibrated.ranges.keys() - {name}, reduce_range)
        moved = [np.square(a - b).mean() for a, b in zip(_answers(model, feeds), expected, strict=True)]
        errors[name] = float(sum(m / s for m, s in zip(moved, spread, strict=True)))
    return errors


def _quantize_products(
    graph: GraphProto, calibrated: Calibrated, keep_float: Collection[str], reduce_range: bool
) -> Counter[str]:
    activations = _find(graph, keep_float)
    for activation in activations:
        _calibrate(activation, *calibrated.ranges[activation.name])
    return _rewrite(graph, activations, 63 if reduce_range else 127)


def _find(graph: GraphProto, keep_float: Collection[str] = ()) -> list[_Activation]:
    """Return the activations that products read, in the order of the graph, without heads and `keep_float`."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    consumers = consumers_of(graph)
    outputs = {output.name for output in graph.output}
    activations: dict[str, _Activation] = {}
    attentions: set[str] = set()
    for node in graph.node:
        after = consumers.get(node.output[0], []) if node.output else []
        if outputs & {name for n in (node, *after) for name in n.output}:
            continue  # a head: it costs little, and every rounding in it shows in the logits
        product = product_of(node, after, constants)
        if product is not None and node.input[0] not in keep_float:
            activations.setdefault(node.input[0], _Activation(node.input[0])).products.append(product)
            if node.op_type == "Attention":
                attentions.add(product.output)
    for activation in activations.values():
        readers = {product.node.output[0] for product in activation.products}
        all_quantised = all(readers & set(node.output) for node in consumers[activation.name])
        activation.into_values = activation.name in attentions and all_quantised
    return list(activations.values())


def _observe(model: ModelProto, names: Sequence[str], feeds: Feeds) -> list[tuple[Array, Array]]:
    """Return the smallest and largest value of every channel of these tensors over `feeds`, each (channels,)."""
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    graph = as_graph(model, outputs)  # must live as long as its session
    session = _session(graph)
    ranges: list[tuple[Array, Array]] = []
    for feed in feeds:
        seen = [np.asarray(v).reshape(-1, np.shape(v)[-1]) for v in session.run(names, dict(feed))]
        now = [(values.min(axis=0), values.max(axis=0)) for values in seen]
        if ranges:
            now = [(np.minimum(a, c), np.maximum(b, d)) for (a, b), (c, d) in zip(ranges, now, strict=True)]
        ranges = now
    return ranges


def _answers(model: ModelProto, feeds: Feeds) -> list[NDArray[np.float64]]:
    """Return every output of the graph over all `feeds`, each (texts, …)."""
    graph = as_graph(model)
    session = _session(graph)
    runs = [session.run(None, dict(feed)) for feed in feeds]
    return [np.concatenate(values).astype(np.float64) for values in zip(*runs, strict=True)]


def _session(graph: Graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow down other work
    if graph.weights:
        graph.attach(options)
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


def _channels(activation: _Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the largest |value| of each channel and the root mean square of its weights, both (channels,)."""
    weight = np.concatenate([product.weight for product in activation.products], axis=1)
    width = np.maximum(-low, high)
    row = np.sqrt(np.square(weight).mean(axis=1))
    # A dead channel must not get a factor of zero or infinity.
    return np.maximum(width, 1e-5 * width.max() + 1e-12), np.maximum(row, 1e-5 * row.max() + 1e-12)


def _outliers(width: Array, row: Array) -> NDArray[np.int64]:
    """Return the channels far stronger than the median one, the strongest first."""
    strength = width * row
    strongest = np.argsort(-strength, kind="stable")
    outliers: NDArray[np.int64] = strongest[strength[strongest] > OUTLIER_RATIO * np.median(strength)]
    return outliers


def _calibrate(activation: _Activation, low: Array, high: Array) -> None:
    """Choose outliers, their copies, factors, scale and zero point from each channel's range and weights."""
    width, row = _channels(activation, low, high)
    if not activation.into_values:  # its division is in another product, which makes no copies
        activation.outliers = np.sort(_outliers(width, row)[:MAX_OUTLIERS])
    outliers = activation.outliers
    rest = np.ones(len(row), bool)
    rest[outliers] = False
    choices = [_smooth(low, high, row, rest, below_zero) for below_zero in BELOW_ZERO]
    _, factor, smallest, largest = min(choices, key=lambda choice: choice.error)
    if len(outliers):
        tiny = 1e-12  # with nothing below zero, or above it, that end asks for no copies
        reach = np.maximum(low[outliers] / min(smallest, -tiny), high[outliers] / max(largest, tiny)) / factor[outliers]
        finer = np.minimum(FINER, MAX_COPIES // len(outliers) / reach)
        activation.copies = np.maximum(np.ceil(reach * finer - 1e-4), 1).astype(np.int64)
        factor[outliers] /= finer
    activation.factor = factor.astype(np.float32)
    activation.scale = np.float32(max((largest - smallest) / 255, 1e-12))
    activation.zero = np.uint8(np.rint(-smallest / activation.scale))


def _smooth(low: Array, high: Array, row: Array, rest: NDArray[np.bool_], below_zero: float) -> _Smoothing:
    """Return factors that fit the channels into a range.

    Args:
        low, high, row: the range of each channel and the root mean square of its weights, (channels,).
        rest: True for each channel that is not an outlier, (channels,).
        below_zero: width of the range below zero, with that above being 1.
    """
    width = np.maximum(high, -low / below_zero)
    factor = np.maximum(width, 1e-5 * width.max() + 1e-12) ** SMOOTHING / row ** (1 - SMOOTHING)
    factor = factor / np.exp(np.log(factor).mean())
    lows, highs = low / factor, high / factor
    smallest = float(min(0.0, lows[rest].min()) or min(0.0, lows.min()))
    largest = float(max(0.0, highs[rest].max()) or max(0.0, highs.max()))
    error = (largest - smallest) * float(np.linalg.norm(row[rest] * factor[rest]))
    return _Smoothing(error, factor, smallest, largest)


def _rewrite(graph: GraphProto, activations: Sequence[_Activation], limit: int) -> Counter[str]:
    """Replace float products by integer ones with weights within -limit..limit; count the new operators."""
    products = {
        product.node.output[0]: (activation, product) for activation in activations for product in activation.products
    }
    divisors = {activation.name: activation.factor for activation in activations if activation.into_values}
    absorbed = {
        product.output for _, product in products.values()
    } - products.keys()  # Adds whose constant became a bias
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        out = next(iter(node.output), "")
        if out in products:
            activation, product = products[out]
            if activation.name not in done:
                done.add(activation.name)
                nodes += _quantize_activation(graph, activation)
            nodes += _integer_product(graph, activation, product, limit, divisors.get(product.output))
        elif out not in absorbed:
            nodes.append(node)
    replace_nodes(graph, nodes)
    return Counter(node.op_type for node in nodes if node.op_type in ("QAttention", "MatMulIntegerToFloat"))


def _quantize_activation(graph: GraphProto, activation: _Activation) -> list[NodeProto]:
    """Return the nodes that quantise a tensor, its outliers as copies behind its channels.

    Of an outlier with the value `n` in steps, `k` copies hold (n + j) / k for j = 0 … k - 1, rounded down. They sum to
    `n` (Hermite's identity), so that nothing is lost by the division. QuantizeLinear rounds to the nearest, hence half
    a step less.
    """
    name, outliers, copies = activation.name, activation.outliers, activation.copies
    constants = [
        add_constant(graph, f"{name}/scale", np.asarray(activation.scale)),
        add_constant(graph, f"{name}/zero", np.asarray(activation.zero)),
    ]
    nodes = []
    smooth = name
    if not activation.into_values:
        # QuantizeLinear with a scale per channel would do both at once, but takes ten times as long.
        inverse = 1 / activation.factor
        inverse[outliers] = 0
        smooth = f"{name}/smooth"
        nodes.append(helper.make_node("Mul", [name, add_constant(graph, f"{name}/inverse", inverse)], [smooth]))
    if not len(outliers):
        return [*nodes, helper.make_node("QuantizeLinear", [smooth, *constants], [f"{name}/int8"])]
    share = 1 / (activation.factor[outliers] * copies).astype(np.float32)
    offset = np.concatenate([(np.arange(k) + 0.5) / k - 0.5 for k in copies]) * activation.scale
    channels = add_constant(graph, f"{name}/outliers", np.repeat(outliers, copies))
    shares = add_constant(graph, f"{name}/shares", np.repeat(share, copies))
    offsets = add_constant(graph, f"{name}/offsets", offset.astype(np.float32))
    return [
        *nodes,
        helper.make_node("QuantizeLinear", [smooth, *constants], [f"{name}/most"]),
        helper.make_node("Gather", [name, channels], [f"{name}/strong"], axis=-1),
        helper.make_node("Mul", [f"{name}/strong", shares], [f"{name}/shared"]),
        helper.make_node("Add", [f"{name}/shared", offsets], [f"{name}/copied"]),
        helper.make_node("QuantizeLinear", [f"{name}/copied", *constants], [f"{name}/copies"]),
        helper.make_node("Concat", [f"{name}/most", f"{name}/copies"], [f"{name}/int8"], axis=-1),
    ]


def _integer_product(
    graph: GraphProto, activation: _Activation, product: Product, limit: int, divisor: Array | None
) -> list[NodeProto]:
    """Return the nodes that compute `product`; an Attention's value channels are divided by `divisor` (values,)."""
    outliers = activation.outliers
    weight, bias = product.weight * activation.factor[:, None], product.bias.astype(np.float32)
    copies = weight[np.repeat(outliers, activation.copies)]
    weight[outliers] = 0
    weight = np.concatenate([weight, copies])
    if divisor is not None:
        weight[:, -len(divisor) :] /= divisor
        bias[-len(divisor) :] /= divisor
    scale = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(limit)
    name, out = activation.name, product.output
    quantised = [f"{name}/int8", add_constant(graph, f"{out}/weight", np.rint(weight / scale).astype(np.int8))]
    scales = [f"{name}/scale", add_constant(graph, f"{out}/weight_scale", scale)]
    bias_name = add_constant(graph, f"{out}/bias", bias)
    if product.node.op_type == "Attention":
        mask = [*product.node.input, ""][3]
        node = helper.make_node(
            "QAttention", [*quantised, bias_name, *scales, mask, f"{name}/zero"], [out], domain=MICROSOFT
        )
        node.attribute.extend(product.node.attribute)
        return [node]
    inputs = [*quantised, *scales, f"{name}/zero", "", bias_name]
    return [helper.make_node("MatMulIntegerToFloat", inputs, [out], domain=MICROSOFT)]
