"""The seam between runtimes: a backend turns a padded batch of token ids into logits, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference.errors import InputError

# Backend name -> what it is called in front of people.
TITLES = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "INT8"}
BACKENDS = tuple(TITLES)


def check_backend(name: str, served: Sequence[str] = BACKENDS) -> None:
    """Raise InputError unless this is a backend's name, and one that a model is `served` on."""
    if name not in BACKENDS:
        raise InputError(f"Unknown backend {name!r}. Known: {', '.join(BACKENDS)}.")
    if name not in served:
        held = " and ".join(TITLES[one] for one in served)
        raise InputError(f"This model has no {TITLES[name]}: its folder holds the files of {held}.")


class Backend(Protocol):
    """One loaded model on one runtime. Thread-safe: several threads may ask at once."""

    name: str
    device: str
    threads: int
    tokenizer_file: Path

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Logits (batch, labels) of every task, from one pass of the encoder.

        Args:
            input_ids: (batch, tokens), padded on the right.
            attention_mask: same shape, 1 for a token and 0 for padding.
        """
        ...
