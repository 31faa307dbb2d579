"""The seam between runtimes: a backend turns a padded batch of token ids into logits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference import cpu
from inference.errors import InferenceError, InputError, shown

# Backend name -> what it is called in front of people, the most exact one first.
TITLES = {"pytorch": "PyTorch", "onnx": "ONNX", "pytorch-bf16": "PyTorch bf16", "int8": "INT8"}
EXTRA = ("pytorch-bf16",)  # opened and measured where somebody names it
BACKENDS = tuple(name for name in TITLES if name not in EXTRA)
EVERY = (*BACKENDS, *EXTRA)

DEVICES = ("cpu", "cuda", "auto")
DTYPES = ("float32", "bfloat16", "float16")

Logits = dict[str, NDArray[np.float32]]
Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], Logits]


def check_backend(name: str, served: Sequence[str] = BACKENDS, known: Sequence[str] = BACKENDS) -> None:
    """Raise InputError unless this is the name of a `known` backend, and of one that a model is `served` on."""
    if name not in known:
        raise InputError(f"Unknown backend {shown(name)}. Known: {', '.join(known)}.")
    if runtime(name) not in served:
        held = " and ".join(TITLES[one] for one in served)
        raise InputError(f"This model has no {TITLES[name]}: its folder holds the files of {held}.")


def runtime(name: str) -> str:
    """The backend whose files this one reads: "pytorch" for "pytorch-bf16", any other is its own."""
    return "pytorch" if name == "pytorch-bf16" else name


def check_device(backend: str, device: str, dtype: str | None, compiled: bool) -> None:
    """Raise InputError unless this backend runs on this device, with such weights and so compiled."""
    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise InputError(f"Unknown device {shown(device)}. Known: {', '.join(DEVICES)}.")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"Unknown dtype {shown(dtype)}. Known: {', '.join(DTYPES)}.")
    if compiled and (runtime(backend) != "pytorch" or kind == "auto"):
        raise InputError("compile=True is for PyTorch on device='cpu' or 'cuda'. Leave it out.")
    if kind == "auto" and runtime(backend) != "pytorch":
        raise InputError(f"device='auto' spreads a PyTorch model; backend {backend!r} runs on one device.")
    if backend == "int8":
        if kind != "cpu":
            raise InputError(
                f"device={device!r} is not for INT8: its 8-bit products are written for CPUs, and a GPU would be given "
                "them one by one. Take backend='onnx' or 'pytorch' there: FP16 is the faster one on a GPU."
            )
        if dtype is not None:
            raise InputError(f"dtype={dtype!r} is not for INT8, whose types are in its file. Leave it out.")
    if backend == "onnx" and dtype not in ((None, "float32") if kind == "cpu" else (None, "float32", "float16")):
        raise InputError(
            f"dtype={dtype!r} is not for ONNX on device={device!r}: it is served in float32, and on a GPU in "
            "float16 too."
        )
    if backend == "pytorch-bf16" and dtype not in (None, "bfloat16"):
        raise InputError(f"Backend 'pytorch-bf16' computes in bfloat16; for dtype={dtype!r} take backend 'pytorch'.")
    if kind == "cpu" and dtype == "float16":
        raise InputError(
            "dtype='float16' is for GPUs: on a CPU it is slower than float32. Take 'bfloat16' or 'float32'."
        )
    if kind == "cpu" and (dtype == "bfloat16" or backend == "pytorch-bf16"):
        _check_bf16(device)


def _check_bf16(device: str) -> None:
    if not cpu.has_bf16():
        raise InputError(
            f"bfloat16 on device={device!r}: this processor has no arithmetic for it (none of "
            f"{', '.join(cpu.BF16_FLAGS)}), and without it is slower than float32. Take float32."
        )


class OutOfMemory(InferenceError):
    """A batch did not fit into the memory of its device. `in_parts` takes fewer rows and goes on."""


def in_parts(forward: Forward, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
    """What `forward` gives for these rows: all at once, or half as many at a time until they fit into memory.

    Raises:
        OutOfMemory: a single row does not fit; as `forward` raised it.
    """
    size, start = len(input_ids), 0
    found: list[Logits] = []
    while start < len(input_ids):
        rows = slice(start, start + size)
        try:
            found.append(forward(input_ids[rows], attention_mask[rows]))
        except OutOfMemory:
            if size == 1:
                raise
            size = (size + 1) // 2
        else:
            start += size
    return found[0] if len(found) == 1 else {task: np.concatenate([one[task] for one in found]) for task in found[0]}


class Backend(Protocol):
    """One loaded model on one runtime. Thread-safe: several threads may ask at once."""

    name: str
    device: str
    threads: int
    tokenizer_file: Path

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Logits (batch, labels) of every task, from one pass of the encoder, when they are worked out.

        A device that works on its own is waited for: the time of this call is the time of its work.

        Args:
            input_ids: (batch, tokens), padded on the right.
            attention_mask: same shape, 1 for a token and 0 for padding.
        """
        ...

    def on_one_thread(self) -> Backend | None:
        """The same model again, each pass on one thread, so that several run beside each other, a core each.

        None where that cannot be had or does not pay: passes are then made one after the other, on all threads.
        """
        ...
