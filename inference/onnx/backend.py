"""The ONNX Runtime backend, on a CPU or a GPU. FP32 and INT8 differ only in the file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.backends import LoadOptions, Logits, OutOfMemory, retry_in_smaller_batches
from inference.errors import BundleError, InputError, MissingDependencyError, importing
from inference.formats.bundle import Bundle
from inference.onnx import Graph

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
FULL = ("failed to allocate memory", "out of memory", "alloc_failed")  # in its errors when GPU memory is full
# Threads that wait for each other spin for so many microseconds, then sleep. This is as fast as ONNX Runtime's default,
# a million turns, on an idle machine, and faster in batches where other programs need the cores (docs/performance.md).
SPIN_US = "100"
# A second session copies the weights, and a pass of a large model keeps several threads busy anyway.
MAX_SECOND_SESSION_BYTES = 500_000_000
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # the last for pairs, if the model distinguishes segments
LOGITS = "logits"  # the usual name of a classifier's output
OUTPUT_PREFIX = "logits_"  # of a task's output: logits_<task>


def check_device(options: LoadOptions) -> None:
    """Raise InputError or MissingDependencyError if ONNX Runtime cannot use this device."""
    if options.device != "cpu":
        check_cuda(options.device)
        if options.dtype != "float32":
            with importing("ONNX on a GPU", "onnx"):
                import inference.onnx.float16  # noqa: F401


def open_backend(bundle: Bundle, options: LoadOptions, graph: Graph, base: object) -> OnnxBackend:
    """Open a built graph, on a GPU in float16 unless `dtype` is float32; see `Runtime.module`."""
    if options.device != "cpu" and options.dtype != "float32":
        from inference.onnx.float16 import to_float16

        graph = to_float16(graph)
    return OnnxBackend(options.backend, graph, options.threads, options.device)


class OnnxBackend:
    """An ONNX graph with inputs `input_ids` and `attention_mask` and one output `logits_<task>` per task.

    A model that distinguishes segments has `token_type_ids` too.

    Args:
        name: "onnx" or "int8".
        graph: bytes, not a path: what was hashed is what runs, and the graph cannot refer to other files.
    """

    def __init__(self, name: str, graph: Graph, threads: int = 1, device: str = "cpu") -> None:
        self.name = name
        self.device = device
        self.threads = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        options.log_severity_level = 3  # its warnings concern the making of graphs
        self._weights = graph.weights
        size = len(graph.model) + sum(array.nbytes for array in graph.weights.values())
        small = size <= MAX_SECOND_SESSION_BYTES
        self._graph = graph if small and threads > 1 and device == "cpu" else None  # for `single_threaded`
        self._beside: OnnxBackend | None = None
        self._opening = threading.Lock()
        on_gpu = device != "cpu"
        providers = [(CUDA, {"device_id": check_cuda(device)})] if on_gpu else ["CPUExecutionProvider"]
        try:
            if graph.weights:
                graph.attach(options)
            self._session = onnxruntime.InferenceSession(graph.model, options, providers=providers)
            self._session._model_bytes = None  # it keeps them for another provider, which is never tried
        except Exception as error:  # ONNX Runtime's own classes share no public base
            if on_gpu and _is_full(error):
                raise self._no_memory("The model", error) from None
            raise BundleError(f"ONNX Runtime refuses the {name} model: {error}") from error
        if on_gpu:
            if self._session.get_providers()[0] != CUDA:  # it only logs the failure
                raise MissingDependencyError(
                    f"ONNX Runtime could not start its CUDA provider on device={device!r}: the driver, CUDA or cuDNN "
                    "have another version than onnxruntime-gpu needs. Install those, or use device='cpu'."
                )
            self._session.disable_fallback()
        self._inputs = {value.name: value.type for value in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> Logits:
        """As `Backend.logits`."""
        return retry_in_smaller_batches(self._forward, input_ids, attention_mask, token_type_ids)

    def feed(self, input_ids: NDArray[np.int64], *others: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of the graph."""
        values = dict(zip(INPUTS, (input_ids, *others), strict=False))
        return {name: values[name] for name in self._inputs}

    def single_threaded(self) -> OnnxBackend | None:
        """As `Backend.single_threaded`.

        None on one thread, on a GPU, for weights above `MAX_SECOND_SESSION_BYTES`, and if memory is short.
        """
        with self._opening:
            graph, self._graph = self._graph, None
            if graph is not None:
                try:
                    self._beside = type(self)(self.name, graph)
                except BundleError:
                    log.warning("Cannot open a second session; batches run one after the other.", exc_info=True)
            return self._beside

    def _forward(self, *inputs: NDArray[np.int64]) -> Logits:
        try:
            # With NumPy arrays it returns when the GPU is done.
            values = self._session.run(self._outputs, self.feed(*inputs))
        except Exception as error:
            if self.device != "cpu" and _is_full(error):
                raise self._no_memory(f"A text of {inputs[0].shape[1]:,} tokens", error) from None
            raise
        return {name.removeprefix(OUTPUT_PREFIX): value for name, value in zip(self._outputs, values, strict=True)}

    def _no_memory(self, what: str, error: Exception) -> OutOfMemory:
        return OutOfMemory(
            f"{what} does not fit into the memory of device={self.device!r}. Load the model with backend='pytorch' and "
            "device='auto' (device_map=\"auto\"), which spreads it over all GPUs and main memory, or with "
            f"device='cpu'. ONNX Runtime says: {str(error).partition(chr(10))[0][:200]}"
        )


class ForeignGraph(OnnxBackend):
    """A text classifier with its original names of inputs and outputs.

    `logits` returns float32 by the name of the output. An input `token_type_ids` gets zeros if none are given.
    """

    def __init__(self, name: str, graph: Graph, threads: int = 1) -> None:
        super().__init__(name, graph, threads)
        self.names = logits_of(self._outputs)

    def feed(self, input_ids: NDArray[np.int64], *others: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of the graph, in its types."""
        values = super().feed(input_ids, *others, *([input_ids * 0] if len(others) == 1 else []))
        return {name: v.astype(np.int32) if "int32" in self._inputs[name] else v for name, v in values.items()}

    def _forward(self, *inputs: NDArray[np.int64]) -> Logits:
        values = self._session.run(self.names, self.feed(*inputs))
        return {name: np.asarray(value, np.float32) for name, value in zip(self.names, values, strict=True)}


def logits_of(outputs: Sequence[str]) -> list[str]:
    """Return the outputs that are logits: `logits`, then `logits_<task>`; if there are none, the first output."""
    named = [name for name in outputs if name == LOGITS or name.startswith(OUTPUT_PREFIX)]
    return sorted(named, key=lambda name: name != LOGITS) or list(outputs[:1])


def check_cuda(device: str) -> int:
    """Return the number of the GPU in a device's name.

    Raises:
        InputError: invalid number.
        MissingDependencyError: the installed ONNX Runtime is the one for CPUs.
    """
    if CUDA not in onnxruntime.get_available_providers():
        raise MissingDependencyError(
            f"device={device!r}, but the installed ONNX Runtime has no CUDA provider (it has "
            f"{', '.join(onnxruntime.get_available_providers())}). On a machine with an NVIDIA GPU, replace it: "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    number = device.partition(":")[2] or "0"
    if not number.isdecimal():
        raise InputError(f"Unknown device {device!r}. Known: cpu, cuda, cuda:0, cuda:1, …")
    return int(number)


def _is_full(error: Exception) -> bool:
    return any(words in str(error).lower() for words in FULL)
