"""The ONNX runtime: exporting, joining, quantising, converting, reading and running graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Graph:
    """A checked graph, ready for a session."""

    model: bytes
    weights: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Tensors that did not fit into `model`; empty below 2 GB."""

    def attach(self, options: Any) -> None:
        """Add the weights to the options of a new session of `model`.

        The session does not copy them: keep this object for as long as the session.
        """
        import onnxruntime

        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.weights.values()]
        options.add_external_initializers(list(self.weights), values)
