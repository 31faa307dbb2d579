"""The PyTorch backend: the reference that the two others are held against."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inference.errors import InputError


class TorchBackend:
    """A network in float32 on a torch device.

    Args:
        network: takes token ids and mask, gives a tuple of logits; its `tasks` names them in this order.
        threads: CPU threads. PyTorch has one setting for the whole process: the last backend opened decides.
    """

    name = "pytorch"

    def __init__(self, network: nn.Module, tokenizer_file: Path, device: str = "cpu", threads: int = 1) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device={device!r}, but PyTorch sees no CUDA GPU here. Use device='cpu'.")
        try:
            self._device = torch.device(device)
        except RuntimeError:
            raise InputError(f"Unknown device {device!r}. Known: cpu, cuda.") from None
        torch.set_num_threads(threads)
        self.device = device
        self.threads = threads
        self.tokenizer_file = tokenizer_file
        # A base in 4 bits is where it was put when it was read.
        self._network = (network if hasattr(network, "switches") else network.to(self._device)).eval()
        # Switching adapters changes the network: two callers at once would get each other's.
        self._turn = threading.Lock() if hasattr(network, "switches") else contextlib.nullcontext()
        self._tasks: list[str] = list(network.tasks)  # type: ignore[arg-type]

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        with self._turn, torch.inference_mode():
            outputs = self._network(
                torch.from_numpy(input_ids).to(self._device), torch.from_numpy(attention_mask).to(self._device)
            )
            return {task: out.cpu().numpy() for task, out in zip(self._tasks, outputs, strict=True)}
