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
  of the 9,216 GELU outputs to ten times the range of the rest. Computing them in float, as LLM.int8() does, took a
  fifth of the time of 32 texts of 32 tokens: such a product is small, but it is added to a whole tensor.
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
MAX_COPIES = 1 / 6  # ... into copies that widen the matrix by no more than this share
HEADROOM = 1.25  # an outlier may exceed its range in the calibration texts by this factor before it is clipped
# Widths of the range below zero that are tried beside 1, the width above: GELU's outputs reach from -0.17 to 24.
BELOW_ZERO = (1e-6, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0, 16.0)
WORTH = 0.9  # another width must make the error this small, because the estimate leaves out the rounding of weights
DEAD = 1e-5  # of the largest value: a channel below must not get a factor of zero or infinity

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


class _Scaling(NamedTuple):
    """How the channels of an activation are fitted into its range."""

    error: float  # of rounding, up to a constant
    factor: Array  # (channels,), as in `_Activation`
    copies: NDArray[np.int64]  # (outliers,)
    smallest: float
    largest: float  # both ends of the range of the quotients


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
    return _floored(np.maximum(-low, high)), _floored(np.sqrt(np.square(weight).mean(axis=1)))


def _floored(values: Array) -> Array:
    """Return values that are positive, even for a dead channel."""
    floored: Array = np.maximum(values, DEAD * values.max() + 1e-12)
    return floored


def _outliers(width: Array, row: Array) -> NDArray[np.int64]:
    """Return the channels far stronger than the median of those that are alive, the strongest first."""
    strength = width * row
    typical = np.median(strength[width > 2 * DEAD * width.max()])
    strongest = np.argsort(-strength, kind="stable")
    outliers: NDArray[np.int64] = strongest[strength[strongest] > OUTLIER_RATIO * typical]
    return outliers


def _calibrate(activation: _Activation, low: Array, high: Array) -> None:
    """Choose outliers, their copies, factors, scale and zero point from each channel's range and weights."""
    width, row = _channels(activation, low, high)
    if not activation.into_values:  # the preceding Attention divides it, and cannot copy channels
        activation.outliers = np.sort(_outliers(width, row)[:MAX_OUTLIERS])
    even, *others = (_fit(low, high, row, activation.outliers, below_zero) for below_zero in (1.0, *BELOW_ZERO))
    best = min(others, key=lambda scaling: scaling.error)
    if best.error > WORTH * even.error:
        best = even
    activation.factor, activation.copies = best.factor.astype(np.float32), best.copies
    activation.scale = np.float32(max((best.largest - best.smallest) / 255, 1e-12))
    activation.zero = np.uint8(np.rint(-best.smallest / activation.scale))


def _fit(low: Array, high: Array, row: Array, outliers: NDArray[np.int64], below_zero: float) -> _Scaling:
    """Fit all channels into a range whose part below zero is `below_zero` times as wide as that above.

    An outlier gets as many copies as make each no stronger than a typical channel: neither its rounding nor that of the
    weights, which share a scale with those of all other channels, then stands out. If all outliers together want more
    than `MAX_COPIES` allows, each gets the same share of what it wants.

    Args:
        low, high, row: range of each channel and root mean square of its weights, (channels,).
    """
    width = _floored(np.maximum(high, -low / below_zero))
    factor = width**SMOOTHING / row ** (1 - SMOOTHING)
    rest = np.delete(np.arange(len(row)), outliers)
    factor = factor / np.exp(np.log(factor[rest]).mean())
    reach = HEADROOM * width[outliers] / (width[rest] / factor[rest]).max()  # the factor that one copy would need
    wanted = np.ceil(reach * row[outliers] / np.sqrt(np.square(row[rest] * factor[rest]).mean()))
    allowed = min(1.0, len(row) * MAX_COPIES / max(wanted.sum(), 1))
    copies = np.maximum(np.floor(wanted * allowed), 1).astype(np.int64)
    factor[outliers] = reach / copies
    divisor = factor.copy()
    divisor[outliers] *= copies / HEADROOM  # each copy holds a share, and there is room for more
    smallest, largest = float(min(0.0, (low / divisor).min())), float(max(0.0, (high / divisor).max()))
    error = (largest - smallest) * float(np.linalg.norm(row * factor))
    return _Scaling(error, factor, copies, smallest, largest)


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

    Copy j of k holds (n + ½ + j) / k rounded down, where n is the quotient of value and factor in steps. Together they
    hold n rounded to the nearest (Hermite's identity): the sum is rounded once, not k times. QuantizeLinear rounds to
    the nearest, which is rounding down after ½ was added, so ½ is subtracted.
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
    offset = _hermite(copies) * activation.scale
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


def _hermite(copies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what is added to each copy before it is rounded, (copies of all outliers,), in steps."""
    return np.concatenate([(np.arange(k) + 0.5) / k - 0.5 for k in copies])


def _integer_product(
    graph: GraphProto, activation: _Activation, product: Product, limit: int, divisor: Array | None
) -> list[NodeProto]:
    """Return the nodes that compute `product`; an Attention's value channels are divided by `divisor` (values,)."""
    outliers = activation.outliers
    weight, bias = product.weight * activation.factor[:, None], product.bias.astype(np.float32)
    if divisor is not None:
        weight[:, -len(divisor) :] /= divisor
        bias[-len(divisor) :] /= divisor
    scale = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(limit)
    weight /= scale
    if len(outliers):
        # Rounded alike, the error of one would be multiplied by the sum of all.
        copies = weight[np.repeat(outliers, activation.copies)] + _hermite(activation.copies)[:, None]
        weight[outliers] = 0
        weight = np.concatenate([weight, copies])
    name, out = activation.name, product.output
    quantised = [f"{name}/int8", add_constant(graph, f"{out}/weight", np.rint(weight).astype(np.int8))]
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
