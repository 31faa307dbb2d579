"""The ONNX Runtime backend. FP32 and INT8 differ in the file it is given and in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.errors import BundleError

OUTPUT_PREFIX = "logits_"  # the graph's output for a task is called logits_<task>


@dataclass(frozen=True)
class Graph:
    """A graph that was checked, as a session takes it."""

    model: bytes
    weights: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Tensors that did not fit into `model`; empty below 2 GB."""

    def attach(self, options: onnxruntime.SessionOptions) -> None:
        """Hand the weights to a session that is about to be made from `model` with these options.

        The session reads them where they are: keep this object for as long as the session.
        """
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.weights.values()]
        options.add_external_initializers(list(self.weights), values)


class OnnxBackend:
    """An ONNX graph with inputs `input_ids` and `attention_mask` and one output `logits_<task>` per task.

    Args:
        name: "onnx" or "int8", how this file is called in answers.
        graph: its bytes. Bytes and not a path: what was hashed is what runs, and a graph that asks for
            external data finds no folder to read it from.
    """

    device = "cpu"

    def __init__(self, name: str, graph: Graph, tokenizer_file: Path, threads: int = 1) -> None:
        self.name = name
        self.threads = threads
        self.tokenizer_file = tokenizer_file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are for people who build graphs
        self._graph = graph
        try:
            if graph.weights:
                graph.attach(options)
            self._session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"ONNX Runtime refuses the {name} model: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        values = self._session.run(self._outputs, {"input_ids": input_ids, "attention_mask": attention_mask})
        return {name.removeprefix(OUTPUT_PREFIX): value for name, value in zip(self._outputs, values, strict=True)}
