"""The PyTorch backend: the reference that the others are held against, on a CPU or a GPU."""

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

from inference.backends import Logits, OutOfMemory, in_parts
from inference.errors import InputError

SHORTEST = 16  # tokens of the smallest bucket


@dataclass(frozen=True)
class Buckets:
    """The few shapes that a compiled network is asked for: each new one costs seconds of compiling.

    Rows and tokens are powers of two, tokens at least `SHORTEST` and at most what the model reads.
    """

    most_tokens: int
    pad_id: int
    compiler: str = "inductor"
    """A backend of `torch.compile`."""

    @property
    def graphs(self) -> int:
        """More than will ever be made: 17 sizes of a batch, up to 65,536 rows, times the lengths."""
        return 17 * self.most_tokens.bit_length()

    def fill(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same rows, padded on the right to a bucket, with copies of the first below them."""
        rows, tokens = input_ids.shape
        wider = max(tokens, min(self.most_tokens, max(SHORTEST, _power_of_two(tokens)))) - tokens
        # Copies and not empty rows: attention over nothing is NaN.
        chosen = np.concatenate([np.arange(rows), np.zeros(_power_of_two(rows) - rows, int)])
        return (
            np.pad(input_ids[chosen], ((0, 0), (0, wider)), constant_values=self.pad_id),
            np.pad(attention_mask[chosen], ((0, 0), (0, wider))),
        )


class TorchBackend:
    """A network on a torch device.

    Args:
        network: takes token ids and mask, gives a tuple of logits; its `tasks` names them in this order. It is
            moved and converted in place.
        device: "cpu", "cuda", "cuda:1", …; "auto" leaves a network that is spread over several where it is.
        threads: CPU threads. PyTorch has one setting for the whole process: the last backend opened decides.
        dtype: of its weights and products. The heads of a bundle stay in float32, and so do its sentence vectors.
            Left out: float32 on a CPU; on a GPU bfloat16 where it has that, else float16.
        buckets: compile the network for these shapes.
        name: how it is called in answers.

    Raises:
        InputError: there is no such device here, or it has no such dtype.
        OutOfMemory: the weights do not fit into its memory.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer_file: Path,
        device: str = "cpu",
        threads: int = 1,
        *,
        dtype: str | None = None,
        buckets: Buckets | None = None,
        name: str = "pytorch",
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device={device!r}, but PyTorch sees no CUDA GPU here. Use device='cpu'.")
        self.name = name
        self.device = device
        self.threads = threads
        self.tokenizer_file = tokenizer_file
        self._device = _device(device, network)
        self._buckets = buckets
        torch.set_num_threads(threads)
        switches = hasattr(network, "switches")
        if switches and buckets:
            raise InputError("compile=True is for one network, and this one is switched between adapters. Merge them.")
        try:
            self._place(network, dtype)
        except torch.OutOfMemoryError as error:
            full = str(error)
        else:
            full = ""
        if full:
            raise self._no_memory("The model", full)
        if self._device.type == "cuda":
            take_sdpa(network)
        self.network = network.eval()
        """As it was given; gradients are taken of it."""
        self._network: Any = network
        if buckets:
            compiled: Any = torch.compile  # its stubs do not know the limit yet
            self._network = compiled(network, backend=buckets.compiler, dynamic=False, recompile_limit=buckets.graphs)
        # Switching adapters changes the network: two callers at once would get each other's.
        self._turn = threading.Lock() if switches or buckets else contextlib.nullcontext()
        self._tasks: list[str] = list(network.tasks)  # type: ignore[arg-type]

    def on_one_thread(self) -> None:
        """As `Backend.on_one_thread`: PyTorch has one number of threads for the whole process."""

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        """As `Backend.logits`."""
        return in_parts(self._forward, input_ids, attention_mask)

    def _place(self, network: nn.Module, dtype: str | None) -> None:
        if self.device != "auto" and not is_placed(network):
            narrow(network, getattr(torch, dtype or best_dtype(self._device)))
            network.to(self._device)
        elif self.device != "auto" and dtype is not None:
            raise InputError(f"dtype={dtype!r} is not for a base in 4 bits, which has its own. Leave it out.")

    def _forward(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        try:
            return self._pass(input_ids, attention_mask)
        except torch.OutOfMemoryError as error:
            full = str(error)
        # Out here: as long as the error lives, so does every tensor of the pass that failed.
        raise self._no_memory(f"A text of {input_ids.shape[1]:,} tokens", full)

    def _pass(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        rows = len(input_ids)
        if self._buckets:
            input_ids, attention_mask = self._buckets.fill(input_ids, attention_mask)
        with self._turn, torch.inference_mode():
            outputs: tuple[Tensor, ...] = self._network(
                torch.from_numpy(input_ids).to(self._device), torch.from_numpy(attention_mask).to(self._device)
            )
            found = {task: out[:rows].cpu().numpy() for task, out in zip(self._tasks, outputs, strict=True)}
        if self._device.type == "cuda":  # a GPU works on its own: what is timed around this call is all of its work
            torch.cuda.synchronize(self._device)
        return found

    def _no_memory(self, what: str, full: str) -> OutOfMemory:
        """PyTorch's own error of a full GPU as ours, once what it holds in reserve is given back."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        spread = "with device='auto' (device_map=\"auto\"), which spreads it over all GPUs and main memory, or "
        return OutOfMemory(
            f"{what} does not fit into the memory of device={self.device!r}. "
            f"Load the model {spread if self.device != 'auto' else ''}with device='cpu'. "
            f"PyTorch says: {full.partition(chr(10))[0][:200]}"
        )


def best_dtype(device: torch.device) -> str:
    """The dtype that a network is served in on this device where nobody asks for another."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def narrow(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights to `dtype`, in place. Pooling and heads of a bundle stay in float32."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        network.to(dtype)
    elif dtype != torch.float32:
        encoder.to(dtype)
        encoder.register_forward_hook(_widen)


def _widen(_: nn.Module, __: Any, output: Any) -> Any:
    # A mean over 512 tokens is worth more digits than its summands have.
    output.last_hidden_state = output.last_hidden_state.float()
    return output


def is_placed(network: nn.Module) -> bool:
    """Whether its weights are where they have to stay: in 4 bits, or spread over several devices."""
    quantized = getattr(getattr(network, "config", None), "quantization_config", None) is not None
    return quantized or any(hasattr(module, "hf_device_map") for module in network.modules())


def take_sdpa(network: nn.Module) -> None:
    """Attention by PyTorch's fused kernels from here on, wherever the architecture has it so.

    Not on a CPU: there `eager` is the faster one for short texts, and the only one that is exported.
    """
    for module in network.modules():
        if getattr(module, "_supports_sdpa", False) and hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("sdpa")  # type: ignore[operator]


def _device(device: str, network: nn.Module) -> torch.device:
    if device == "auto":
        # Of weights that wait on the disk only the outline is there, on "meta".
        kinds = {one.device for one in network.parameters()}
        return next((one for one in kinds if one.type == "cuda"), torch.device("cpu"))
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f"Unknown device {device!r}. Known: cpu, cuda.") from None
    if found.type == "cuda" and found.index is not None and found.index >= torch.cuda.device_count():
        raise InputError(f"device={device!r}, but there are {torch.cuda.device_count()} GPUs here, from cuda:0.")
    return found


def _power_of_two(number: int) -> int:
    """The smallest that is not below."""
    return 1 << (number - 1).bit_length()
