"""The OpenVINO runtime: INT8 on a CPU, made from the FP32 graph by NNCF's post-training quantization.

Products are rounded with static scales, as in `inference.onnx.quantize`, so that a text gets the same answer alone and
in any batch; NNCF smooths activations (SmoothQuant) and corrects biases.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.backends import LoadOptions, Logits
from inference.errors import BundleError, ExportError, importing
from inference.formats.bundle import Bundle
from inference.onnx import Graph

# openvino and nncf report their use to their makers, also when imported, and write to ~/intel. Both work without it.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

log = logging.getLogger(__name__)

# SmoothQuant's alpha. NNCF's own, 0.95, moves the demo model's probabilities further, and 0.5 twice as far.
SMOOTHING = 0.85
# Name, summary, and whether products that narrow their input stay float: behind a GELU few channels are very strong.
RECIPES = (
    ("nncf", "NNCF's post-training quantization of every product besides the heads", False),
    ("nncf-wide", "as nncf, but products whose input is wider than their output stay float", True),
)
# Of the weights: a second compiled model copies them, and a pass of a large one keeps several threads busy anyway.
MAX_SECOND_BYTES = 500_000_000
OUTPUT_PREFIX = "logits_"  # of a task's output: logits_<task>
OPTIONS = {
    "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 by default on processors that have it: other answers than elsewhere
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # scales of a batch would make a label depend on its neighbours
    "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    "ENABLE_HYPER_THREADING": True,  # `threads` is what was asked for
}

Feeds = Sequence[Mapping[str, NDArray[np.int64]]]


def check_device(options: LoadOptions) -> None:
    """Do nothing: there is only the CPU, as `Runtime.dtypes` says."""


def open_backend(bundle: Bundle, options: LoadOptions, graph: Graph, base: object) -> OpenVinoBackend:
    """Open a built model; see `Runtime.module`."""
    try:
        weights = openvino.Tensor(next(iter(graph.weights.values())))
        model = openvino.Core().read_model(graph.model, weights)
        return OpenVinoBackend(options.backend, model, options.threads)
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        raise BundleError(f"OpenVINO refuses the {options.backend} model: {_in_one_line(error)}") from error


class OpenVinoBackend:
    """A model with the inputs and outputs of `inference.onnx.backend.OnnxBackend`.

    Args:
        streams: passes that run side by side; each has `threads` threads.
    """

    device = "cpu"

    def __init__(self, name: str, model: openvino.Model, threads: int = 1, streams: int = 1) -> None:
        self.name = name
        self.threads = threads
        options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads * streams, **OPTIONS}
        self._compiled = openvino.Core().compile_model(model, "CPU", options)
        self._inputs = {port.get_any_name() for port in self._compiled.inputs}
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]
        self._idle: deque[openvino.InferRequest] = deque()  # a request runs one pass at a time
        size = sum(node.get_output_size() for node in _constants(model))
        self._model = model if threads > 1 and size <= MAX_SECOND_BYTES else None  # for `single_threaded`
        self._beside: OpenVinoBackend | None = None
        self._opening = threading.Lock()

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> Logits:
        """As `Backend.logits`."""
        values = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        try:
            request = self._idle.popleft()
        except IndexError:
            request = self._compiled.create_infer_request()
        results = request.infer({name: values[name] for name in self._inputs}, share_inputs=True)
        self._idle.append(request)  # the results are copies
        return {name.removeprefix(OUTPUT_PREFIX): results[name] for name in self._outputs}

    def single_threaded(self) -> OpenVinoBackend | None:
        """As `Backend.single_threaded`; None for weights above `MAX_SECOND_BYTES`, and if memory is short."""
        with self._opening:
            model, self._model = self._model, None
            if model is not None:
                try:
                    self._beside = type(self)(self.name, model, streams=self.threads)
                except RuntimeError:
                    log.warning("Cannot open a second model; batches run one after the other.", exc_info=True)
            return self._beside


def quantize(
    graph: Path, target: Path, feeds: Feeds, judge: Callable[[Path], Mapping[str, Any]], *, reduce_range: bool
) -> dict[str, Any]:
    """Write the INT8 version of an FP32 graph by the first of `RECIPES` that keeps the bounds of INT8.

    Args:
        graph: the ONNX file.
        target: the .xml file to write; its weights get the same name with `_weights.bin`.
        feeds: calibration inputs without padding.
        judge: measures the file at `target`, see `inference.onnx.recipes.Judge`.
        reduce_range: 7-bit weights, see `inference.onnx.quantize.write`.

    Returns:
        As `inference.onnx.recipes.quantize_best`.

    Raises:
        ExportError: the answers are out of bounds with every recipe.
    """
    from inference.onnx.recipes import check_bounds  # which imports what serving does not need

    tried: list[dict[str, Any]] = []
    for name, summary, keep_wide in RECIPES:
        model = _quantized(graph, feeds, reduce_range, keep_wide)
        openvino.serialize(model, target, target.with_name(f"{target.stem}_weights.bin"))
        counts = Counter(node.get_type_name() for node in model.get_ops())
        tried.append({"recipe": name, **check_bounds(judge(target))})
        if tried[-1]["held"]:
            return {
                "recipe": name,
                "summary": summary,
                "held": True,
                "counts": {"FakeQuantize": counts["FakeQuantize"]},
                "kept_float": [],
                "tried": tried,
            }
    raise ExportError(f"Its INT8 by NNCF is not close enough to FP32. {tried[-1]['why']}")


def _quantized(graph: Path, feeds: Feeds, reduce_range: bool, keep_wide: bool) -> openvino.Model:
    with importing("An OpenVINO model", "-r requirements-openvino.txt"), _quiet():
        import nncf
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else nncf.OverflowFix.DISABLE,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING),
    )
    # A clone: models that are read share some constants, through which NNCF would find the nodes of another one.
    model = openvino.Core().read_model(graph).clone()
    for number, node in enumerate(model.get_ordered_ops()):  # names of OpenVINO's own may occur twice in a graph
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}.{number}")
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[*_heads(model), *(_narrowing(model) if keep_wide else [])]),
            advanced_parameters=parameters,
        )


def _heads(model: openvino.Model) -> list[str]:
    """Return the names of the products after which no other product comes. They stay float, as those of INT8."""
    before_product: set[str] = set()
    heads = []
    for node in reversed(model.get_ordered_ops()):
        readers = [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
        if any(
            reader.get_type_name() == "MatMul" or reader.get_friendly_name() in before_product for reader in readers
        ):
            before_product.add(node.get_friendly_name())
        elif node.get_type_name() == "MatMul":
            heads.append(node.get_friendly_name())
    return heads


def _narrowing(model: openvino.Model) -> list[str]:
    """Return the names of the products with constant weights whose input is wider than their output."""
    names = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant":
            before, after = node.input_value(0).get_partial_shape()[-1], node.get_output_partial_shape(0)[-1]
            if before.is_static and after.is_static and before.get_length() > after.get_length():
                names.append(node.get_friendly_name())
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF from printing, and from choosing the class of everybody's loggers."""
    import rich

    kind, console = logging.getLoggerClass(), rich.get_console()
    quiet, console.quiet = console.quiet, True  # its bars of progress
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        yield
        logging.getLogger("nncf").setLevel(logging.ERROR)  # it sets its own when it is imported
    finally:
        logging.setLoggerClass(kind)
        console.quiet = quiet


def _constants(model: openvino.Model) -> Iterator[Any]:
    return (node for node in model.get_ops() if node.get_type_name() == "Constant")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
