"""How many multiplications of 8-bit numbers ONNX Runtime does in a second: the bound of an INT8 pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.peers.plain import Ids

LINES = 2048  # of a large product: as many tokens


class Products:
    """Sessions with one product each, unsigned by signed, of the shapes of the model's weights.

    `forward` runs product n for a batch of one text of n + 1 tokens; there are no texts to classify.
    """

    def __init__(self, model: Path, threads: int) -> None:
        sizes = shapes(json.loads((model / "config.json").read_text(encoding="utf-8")))
        rng = np.random.default_rng(0)
        self.feeds = [{"x": rng.integers(0, 255, (LINES, rows), dtype=np.uint8)} for rows, _ in sizes]
        self.sessions = [_session(rng, rows, columns, threads) for rows, columns in sizes]

    def forward(self, ids: Ids, mask: Ids) -> int:
        """Run a product; see the class."""
        which = ids.shape[1] - 1
        self.sessions[which].run(None, self.feeds[which])
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """Raise: there is no text in a product."""
        raise NotImplementedError


def shapes(config: dict[str, int]) -> list[tuple[int, int]]:
    """Return rows and columns of the weights of a layer: queries, keys and values together, and the feed-forward."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return [(hidden, 3 * hidden), (hidden, inner), (inner, hidden)]


def _session(rng: np.random.Generator, rows: int, columns: int, threads: int) -> Any:
    weight = rng.integers(-127, 127, (rows, columns), dtype=np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [LINES, rows])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [LINES, columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(network.SerializeToString(), options)


def open_peer(model: Path, built: Path, threads: int) -> Products:
    """As `bench.peers` says."""
    return Products(model, threads)
