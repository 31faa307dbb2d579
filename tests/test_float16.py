"""The float16 graph for GPUs: near the float32 one, and float32 where it counts. It runs on a CPU too, only slowly."""

from __future__ import annotations

from pathlib import Path

import foreign
import numpy as np
import pytest
from conftest import Tiny
from fakes import feed
from onnx import ModelProto, TensorProto

from inference import load
from inference.artifacts.cache import obtain
from inference.errors import ExportError
from inference.formats.bundle import Bundle
from inference.onnx import Graph
from inference.onnx.backend import OnnxBackend
from inference.onnx.float16 import to_float16


@pytest.fixture(scope="module")
def graph(tiny: Tiny) -> Graph:
    return obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base).read("onnx")


def test_the_float16_graph_answers_nearly_as_the_float32_one(graph: Graph) -> None:
    halved = to_float16(graph)
    assert len(halved.model) < 0.7 * len(graph.model)
    for rows, tokens in ((1, 5), (4, 16)):
        given = feed(rows, tokens)
        expected = OnnxBackend("onnx", graph).logits(**given)
        logits = OnnxBackend("onnx", halved).logits(**given)
        for task in expected:
            assert logits[task].dtype == np.float32
            assert logits[task] == pytest.approx(expected[task], abs=0.02)
            assert (logits[task] != expected[task]).any()


def test_heads_and_pooling_of_the_float16_graph_stay_in_float32(graph: Graph) -> None:
    halved = ModelProto.FromString(to_float16(graph).model).graph
    types = {one.name: one.data_type for one in halved.initializer}
    assert {kind for name, kind in types.items() if "heads" in name} == {TensorProto.FLOAT}
    assert {kind for name, kind in types.items() if "LayerNorm" in name} == {TensorProto.FLOAT16}
    before = [node for node in ModelProto.FromString(graph.model).graph.node if node.op_type == "Cast"]
    casts = [node for node in halved.node if node.op_type == "Cast"]
    assert len(casts) == len(before) + 1  # the encoder's last layer on its way to the pooling


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_graphs_of_other_architectures_are_converted_too(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    served = load(folder, "onnx", cache=tmp_path / "cache")
    expected = served.predict_all_tasks(foreign.TEXTS)
    halved = to_float16(obtain(served.bundle, tmp_path / "cache").read("onnx"))
    served.backend = OnnxBackend("onnx", halved)
    for task, predictions in served.predict_all_tasks(foreign.TEXTS).items():
        assert [p.confidence for p in predictions] == pytest.approx([p.confidence for p in expected[task]], abs=0.02)


def test_graph_past_2_gb_is_not_converted(graph: Graph) -> None:
    with pytest.raises(ExportError, match="more than 2 GB"):
        to_float16(Graph(graph.model, {"weight": np.zeros(1, np.float32)}))
