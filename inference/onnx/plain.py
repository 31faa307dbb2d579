"""A graph of other people as it is, for what is made of it to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.backends import Logits
from inference.onnx.backend import OUTPUT_PREFIX, Graph, OnnxBackend

LOGITS = "logits"  # what most exporters call the output of a classifier


class PlainGraph(OnnxBackend):
    """A text classifier under the names that its graph has, not those that are given to it here.

    `logits` gives float32 by the name of the output. `token_type_ids`, where the graph wants them, are zeros.
    """

    def __init__(self, name: str, graph: Graph, tokenizer_file: Path, threads: int = 1) -> None:
        super().__init__(name, graph, tokenizer_file, threads)
        self._kinds = {
            one.name: np.int32 if one.type == "tensor(int32)" else np.int64 for one in self._session.get_inputs()
        }
        self.names = logits_of(self._outputs)

    def feed(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The inputs that the graph takes, in its types."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": attention_mask * 0}
        return {name: given[name].astype(kind) for name, kind in self._kinds.items()}

    def _forward(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        values = self._session.run(self.names, self.feed(input_ids, attention_mask))
        return {name: np.asarray(value, np.float32) for name, value in zip(self.names, values, strict=True)}


def logits_of(outputs: Sequence[str]) -> list[str]:
    """Those of a graph's outputs that are logits: `logits`, then `logits_<task>`; if there are none, the first."""
    named = [name for name in outputs if name == LOGITS or name.startswith(OUTPUT_PREFIX)]
    return sorted(named, key=lambda name: name != LOGITS) or list(outputs[:1])
