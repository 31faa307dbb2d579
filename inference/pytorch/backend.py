"""The PyTorch backend, on a CPU or a GPU: the reference for the others."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.backends import LoadOptions, Logits, OutOfMemory, retry_in_smaller_batches
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.pytorch.huggingface import AdapterNetwork, load_served
from inference.pytorch.network import best_dtype, cast_encoder, has_fixed_device, unmap, use_sdpa

SHORTEST = 16  # tokens of the smallest bucket


@dataclass(frozen=True)
class Buckets:
    """The few input shapes of a compiled network: each new one takes seconds to compile.

    Rows and tokens are powers of two, tokens from `SHORTEST` to `max_tokens`.
    """

    max_tokens: int
    pad_id: int
    compiler: str = "inductor"
    """A backend of `torch.compile`."""

    @property
    def graphs(self) -> int:
        """An upper limit of compiled graphs: 17 sizes of a batch, up to 65,536 rows, times the lengths."""
        return 17 * self.max_tokens.bit_length()

    def fill(self, input_ids: NDArray[np.int64], *others: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return the rows padded on the right to a bucket, followed by copies of the first row."""
        rows, tokens = input_ids.shape
        wider = max(tokens, min(self.max_tokens, max(SHORTEST, _power_of_two(tokens)))) - tokens
        # Not empty rows: attention over nothing is NaN.
        chosen = np.concatenate([np.arange(rows), np.zeros(_power_of_two(rows) - rows, int)])
        return (
            np.pad(input_ids[chosen], ((0, 0), (0, wider)), constant_values=self.pad_id),
            *(np.pad(array[chosen], ((0, 0), (0, wider))) for array in others),
        )


def check_device(options: LoadOptions) -> None:
    """Raise InputError if PyTorch has no such device here."""
    if options.kind == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device={options.device!r}, but PyTorch sees no CUDA GPU here. Use device='cpu'.")
        _device(options.device)


def open_backend(bundle: Bundle, options: LoadOptions, graph: None, base: Path | None) -> TorchBackend:
    """Load the weights and open them on a device; see `Runtime.module`."""
    network = load_served(bundle, base, options.device, options.dtype)
    if not bundle.four_bit:  # whose quantised weights are not mapped from a file
        unmap(network)
    buckets = Buckets(bundle.max_tokens, bundle.pad_id) if options.compiled else None
    return TorchBackend(network, options.device, options.threads, dtype=options.dtype, buckets=buckets)


class TorchBackend:
    """A network on a torch device.

    Args:
        network: from token ids, mask and perhaps token types to a tuple of logits, in the order of its `tasks`. It is
            moved and converted in place.
        device: "cpu", "cuda", "cuda:1", …; "auto" leaves a spread network where it is.
        threads: CPU threads of the whole process: the last backend opened decides.
        dtype: of weights and products, except for heads and sentence vectors of a bundle. Default: float32 on a CPU; on
            a GPU bfloat16 if it has that, else float16.
        buckets: compile the network for these shapes.

    Raises:
        InputError: there is no such device here, or it does not support the dtype.
        OutOfMemory: the weights do not fit into its memory.
    """

    name = "pytorch"

    def __init__(
        self,
        network: nn.Module,
        device: str = "cpu",
        threads: int = 1,
        *,
        dtype: str | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        self.device = device
        self.threads = threads
        self._device = _first_device(network) if device == "auto" else _device(device)
        self._buckets = buckets
        torch.set_num_threads(threads)
        switches = isinstance(network, AdapterNetwork)
        # An architecture whose answers padding changes gets rows of equal length, see `proof.prove`.
        self._pads = getattr(network, "pads", True)
        if buckets and not self._pads:
            raise InputError("compile=True pads texts, which would change the answers of this model. Leave it out.")
        if switches and buckets:
            raise InputError("compile=True does not work with several adapters that are switched. Merge them.")
        message = ""
        try:
            self._place(network, dtype)
        except torch.OutOfMemoryError as error:
            message = str(error)
        if message:
            raise self._no_memory("The model", message)
        if self._device.type == "cuda":
            use_sdpa(network)
        self.network = network.eval()
        """Not compiled: for gradients."""
        self._network: Any = network
        if buckets:
            compiled: Any = torch.compile  # its stubs lack recompile_limit
            self._network = compiled(network, backend=buckets.compiler, dynamic=False, recompile_limit=buckets.graphs)
        # Switching adapters changes the network for concurrent callers, and so can another kind of attention.
        self._turn = threading.Lock() if switches or buckets or not self._pads else contextlib.nullcontext()
        self._tasks: list[str] = list(network.tasks)  # type: ignore[arg-type]

    def single_threaded(self) -> None:
        """As `Backend.single_threaded`: PyTorch has one number of threads for the whole process."""

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> Logits:
        """As `Backend.logits`."""
        inputs = [input_ids, attention_mask, *([] if token_type_ids is None else [token_type_ids])]
        if self._pads:
            return retry_in_smaller_batches(self._forward, *inputs)
        lengths = attention_mask.sum(1)
        logits: Logits = {}
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            part = retry_in_smaller_batches(self._forward, *(array[rows, :length] for array in inputs))
            for task, values in part.items():
                logits.setdefault(task, np.empty((len(lengths), values.shape[1]), np.float32))[rows] = values
        return logits

    def _place(self, network: nn.Module, dtype: str | None) -> None:
        if self.device != "auto" and not has_fixed_device(network):
            cast_encoder(network, getattr(torch, dtype or best_dtype(self._device)))
            network.to(self._device)
        elif self.device != "auto" and dtype is not None:
            raise InputError(f"dtype={dtype!r} is not for a base in 4 bits, which has its own. Omit it.")

    def _forward(self, *inputs: NDArray[np.int64]) -> Logits:
        try:
            return self._pass(*inputs)
        except torch.OutOfMemoryError as error:
            message = str(error)
        # After the block: the error keeps every tensor of the failed pass alive.
        raise self._no_memory(f"A text of {inputs[0].shape[1]:,} tokens", message)

    def _pass(self, *inputs: NDArray[np.int64]) -> Logits:
        rows = len(inputs[0])
        if self._buckets:
            inputs = self._buckets.fill(*inputs)
        with self._turn, torch.inference_mode():
            outputs: tuple[Tensor, ...] = self._network(*(torch.from_numpy(a).to(self._device) for a in inputs))
            logits = {task: out[:rows].cpu().numpy() for task, out in zip(self._tasks, outputs, strict=True)}
        if self._device.type == "cuda":  # so that the time of this call is the time of its work
            torch.cuda.synchronize(self._device)
        return logits

    def _no_memory(self, what: str, message: str) -> OutOfMemory:
        """Free the memory that PyTorch reserves, and convert its error."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        spread = "with device='auto' (device_map=\"auto\"), which spreads it over all GPUs and main memory, or "
        return OutOfMemory(
            f"{what} does not fit into the memory of device={self.device!r}. "
            f"Load the model {spread if self.device != 'auto' else ''}with device='cpu'. "
            f"PyTorch says: {message.partition(chr(10))[0][:200]}"
        )


def _device(device: str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"Unknown device {device!r}. Known: cpu, cuda, cuda:0, cuda:1, …") from None
    if place.type == "cuda" and place.index is not None and place.index >= torch.cuda.device_count():
        raise InputError(f"device={device!r}, but there are {torch.cuda.device_count()} GPUs here, from cuda:0.")
    return place


def _first_device(network: nn.Module) -> torch.device:
    """Return the first GPU that a spread network has weights on, else the CPU."""
    places = {parameter.device for parameter in network.parameters()}
    return next((place for place in places if place.type == "cuda"), torch.device("cpu"))


def _power_of_two(number: int) -> int:
    """Return the smallest power of two >= number."""
    return 1 << (number - 1).bit_length()
