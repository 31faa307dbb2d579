"""The seam between runtimes: a backend turns a padded batch of token ids into logits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference import cpu
from inference.errors import InferenceError, InputError, shown

DTYPES = ("float32", "bfloat16", "float16")

Logits = dict[str, NDArray[np.float32]]
Forward = Callable[..., Logits]


@dataclass(frozen=True)
class Runtime:
    """One way to run a model. To add one, write its module and an entry in `RUNTIMES`."""

    title: str
    module: str
    """Imports the runtime's libraries and has two functions:

    `check_device(options)` raises InputError or MissingDependencyError if it cannot run there;
    `open_backend(bundle, options, graph, base)` returns a `Backend`. `options` are `LoadOptions`; `graph` is the
    checked `file` below, None without one; `base` is the folder of the base model, if the user named one.
    """
    libraries: tuple[str, ...]
    """Names of the packages that the module imports."""
    requirements: str
    """Arguments of `pip install` for them."""
    dtypes: Mapping[str, tuple[str, ...]]
    """Kind of device ("cpu", "cuda", "auto") -> dtypes that `load` accepts there; empty if none may be given."""
    color: str
    """Okabe-Ito, at least 3:1 on white and on Streamlit's dark background."""
    ink: str
    """Colour of text on it, at least 4.5:1."""
    glyph: str
    """Its sign in text. Like marker, dash and hatching, for readers who cannot tell the colours apart."""
    marker: str
    """Names in Plotly, like `dash` and `hatching`."""
    dash: str
    hatching: str
    pass_tokens: int
    """Tokens, padding included, of a forward pass on a CPU: of fewer, the overhead shows; more do not fit its cache."""
    pass_cost: int
    """What a forward pass on a CPU costs besides its tokens, as a number of tokens. Measured with lists of 2 to 1,000
    texts on two cores of an Intel Xeon; half or twice as much makes little difference."""
    file: str = ""
    """The built file that it runs; "" if it runs the model's own weights."""
    device_note: str = ""
    """Why it does not run on other devices, and what to use there."""
    has_gradients: bool = False
    """Whether the backend's `network` is a torch module, for integrated gradients."""
    compiles: bool = False
    """Whether `load` accepts `compile=True`."""
    made_with: tuple[str, ...] = ()
    """Packages with which `quantize(graph, target, feeds, judge, reduce_range=...)` of the module makes `file` from the
    FP32 graph, for an optional runtime; see `inference.artifacts.optional`."""

    @property
    def is_optional(self) -> bool:
        """Whether it is built and offered only where somebody asks for it."""
        return bool(self.made_with)


_ONNX: dict[str, Any] = {
    "module": "inference.onnx.backend",
    "libraries": ("onnxruntime", "tokenizers", "numpy"),
    "requirements": "-r requirements-onnx.txt",
}
# The most exact first.
RUNTIMES = {
    "pytorch": Runtime(
        title="PyTorch",
        module="inference.pytorch.backend",
        libraries=("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy"),
        requirements="-r requirements.txt",
        dtypes={"cpu": ("float32", "bfloat16"), "cuda": DTYPES, "auto": DTYPES},
        color="#0072B2",
        ink="#ffffff",
        glyph="●",
        marker="circle",
        dash="solid",
        hatching="",
        pass_tokens=1024,
        pass_cost=32,
        has_gradients=True,
        compiles=True,
    ),
    "onnx": Runtime(
        title="ONNX",
        **_ONNX,
        dtypes={"cpu": ("float32",), "cuda": ("float32", "float16")},
        color="#D55E00",
        ink="#000000",
        glyph="▲",
        marker="triangle-up",
        dash="dash",
        hatching="/",
        pass_tokens=512,
        pass_cost=16,
        file="model.onnx",
        device_note="it runs on one device. Use backend='pytorch' to spread a model",
    ),
    "int8": Runtime(
        title="INT8",
        **_ONNX,
        dtypes={"cpu": ()},
        color="#009E73",
        ink="#000000",
        glyph="■",
        marker="square",
        dash="dot",
        hatching=".",
        pass_tokens=256,
        pass_cost=8,
        file="model.int8.onnx",
        device_note=(
            "its 8-bit kernels are written for CPUs. Use backend='onnx' or 'pytorch' on a GPU, where FP16 is faster"
        ),
    ),
    "openvino": Runtime(
        title="OpenVINO",
        module="inference.onnx.openvino",
        libraries=("openvino", "tokenizers", "numpy"),
        requirements="-r requirements-openvino.txt",
        dtypes={"cpu": ()},
        color="#CC79A7",
        ink="#000000",
        glyph="✚",
        marker="cross",
        dash="dashdot",
        hatching="x",
        pass_tokens=256,
        pass_cost=64,
        file="model.openvino.xml",
        device_note="it is made for CPUs here. Use backend='onnx' or 'pytorch' on a GPU",
        made_with=("openvino", "nncf"),
    ),
}
BACKENDS = tuple(RUNTIMES)
STANDARD = tuple(name for name, runtime in RUNTIMES.items() if not runtime.is_optional)
OPTIONAL = ", ".join(name for name in RUNTIMES if name not in STANDARD)
TITLES = {name: runtime.title for name, runtime in RUNTIMES.items()}


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be served. Checked when made.

    Raises:
        InputError: the backend is unknown, or does not run on this device, with this dtype or so compiled.
    """

    backend: str
    device: str = "cpu"
    dtype: str | None = None
    compiled: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        check_backend(self.backend)
        runtime = RUNTIMES[self.backend]
        kind = self.kind
        known = list(dict.fromkeys(kind for other in RUNTIMES.values() for kind in other.dtypes))
        if kind not in known:
            raise InputError(f"Unknown device {shown(self.device)}. Known: {', '.join(known)}.")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"Unknown dtype {shown(self.dtype)}. Known: {', '.join(DTYPES)}.")
        if self.threads < 1:
            raise InputError(f"threads={self.threads} must be at least 1.")
        if self.compiled and (not runtime.compiles or kind == "auto"):
            raise InputError("compile=True is for PyTorch on device='cpu' or 'cuda'. Leave it out.")
        if kind not in runtime.dtypes:
            raise InputError(f"device={self.device!r} is not for {runtime.title}: {runtime.device_note}.")
        self._check_dtype(runtime.dtypes[kind], runtime.title)

    @property
    def kind(self) -> str:
        """The kind of device: "cuda" for "cuda:1"."""
        return self.device.partition(":")[0]

    def _check_dtype(self, allowed: Sequence[str], title: str) -> None:
        if self.dtype is None:
            return
        if not allowed:
            raise InputError(
                f"dtype={self.dtype!r} is not for {title}, whose types are fixed in its file. Leave it out."
            )
        if self.dtype not in allowed:
            raise InputError(
                f"dtype={self.dtype!r} is not for {title} on device={self.device!r}. Use {' or '.join(allowed)}."
            )
        if self.kind == "cpu" and self.dtype == "bfloat16" and not cpu.has_bf16():
            raise InputError(
                f"dtype='bfloat16' on device='cpu': this processor has no bfloat16 arithmetic (none of "
                f"{', '.join(cpu.BF16_FLAGS)}), so it would be slower than float32. Use float32."
            )


def check_backend(name: str, served: Sequence[str] | None = None, missing: Mapping[str, str] | None = None) -> None:
    """Raise InputError unless this is the name of a backend, and of one that the model is `served` on.

    Args:
        missing: backends that the model lacks, and the reasons.
    """
    if name not in RUNTIMES:
        raise InputError(f"Unknown runtime {shown(name)}. Known: {', '.join(RUNTIMES)}.")
    if missing and name in missing:
        raise InputError(f"This model has no {TITLES[name]}: {missing[name]}")
    if served is not None and name not in served and RUNTIMES[name].is_optional:
        raise InputError(f"{TITLES[name]} is not offered here. Available: {', '.join(served)}.")
    if served is not None and name not in served:
        others = " and ".join(TITLES[other] for other in served)
        raise InputError(f"This model has no {TITLES[name]}: its folder holds the files of {others}.")


def read_optional(option: str, value: str | None) -> list[str]:
    """Return the optional runtimes that an option or environment variable names, separated by commas.

    Raises:
        InputError: it names others.
    """
    names = [name.strip() for name in value.split(",")] if value else []
    for name in names:
        check_backend(name)
        if not RUNTIMES[name].is_optional:
            raise InputError(f"{option}: {TITLES[name]} is always offered. Name only optional runtimes: {OPTIONAL}.")
    return names


class OutOfMemory(InferenceError):
    """A batch did not fit into the memory of its device. `retry_in_smaller_batches` then continues with fewer rows."""


def retry_in_smaller_batches(
    forward: Forward,
    input_ids: NDArray[np.int64],
    attention_mask: NDArray[np.int64],
    token_type_ids: NDArray[np.int64] | None = None,
) -> Logits:
    """Return what `forward` gives for these rows: all at once, or half as many at a time until they fit into memory.

    Args:
        forward: takes as many arrays as are given.

    Raises:
        OutOfMemory: a single row does not fit; as `forward` raised it.
    """
    size, start = len(input_ids), 0
    inputs = [input_ids, attention_mask, *([] if token_type_ids is None else [token_type_ids])]
    parts: list[Logits] = []
    while start < len(input_ids):
        rows = slice(start, start + size)
        try:
            parts.append(forward(*(array[rows] for array in inputs)))
        except OutOfMemory:
            if size == 1:
                raise
            size = (size + 1) // 2
        else:
            start += size
    return parts[0] if len(parts) == 1 else {task: np.concatenate([p[task] for p in parts]) for task in parts[0]}


class Backend(Protocol):
    """One loaded model on one runtime. Thread-safe: several threads may call it at once."""

    name: str
    device: str
    threads: int

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> Logits:
        """Return the logits (batch, labels) of every task, from one pass of the encoder, when they are computed.

        Blocks until an asynchronous device has finished, so the duration of the call is that of the computation.

        Args:
            input_ids: (batch, tokens), padded on the right.
            attention_mask: same shape, 1 for a token and 0 for padding.
            token_type_ids: same shape, the segment of each token: given if `Bundle.token_types`. A model without
                segments ignores it.
        """
        ...

    def single_threaded(self) -> Backend | None:
        """Return the same model with one thread per pass, so that several passes run side by side, one per core.

        None if that is impossible or not worthwhile: passes then run one after the other, on all threads.
        """
        ...
