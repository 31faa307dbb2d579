"""Recipes for INT8 are tried from the fastest to the safest, on real files and with figures that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray
from test_quantize import answer_each, integer_weights, padded, quantize, random_network, texts

from inference.artifacts.parity import differences
from inference.classifier import probabilities
from inference.errors import ExportError
from inference.onnx.export import export_onnx
from inference.onnx.recipes import MIN_AGREEMENT, RECIPES, SMALL_DP, Judge, quantize_best
from inference.pytorch.network import Network

NAMES = [recipe.name for recipe in RECIPES]
CALIBRATION, TEXTS = texts(40, seed=1), texts(300, seed=5)
WIDE = 32  # channels of the first layer's GELU that are far above all others: MAX_OUTLIERS covers a few of them
GOOD = {"tasks": {"mood": {"label_agreement": 1.0, "mean_abs_dp": 0.001, "max_abs_dp": 0.01}}, "batch_flips": 0}
BAD = {"tasks": {"mood": {"label_agreement": 0.8, "mean_abs_dp": 0.1, "max_abs_dp": 0.5}}, "batch_flips": 0}


def decided_network() -> Network:
    """A network whose labels are, for most texts, clear: flips are then no ties."""
    network = random_network()
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.mul_(12)
    return network


def outlier_network(silent: bool = False) -> Network:
    """The same with `WIDE` channels near 1,000 that come in pairs of opposite weight, and so change no answer.

    Args:
        silent: with these channels' weights at zero instead.
    """
    network = decided_network()
    layer = network.encoder.encoder.layer[0]
    up, down = layer.intermediate.dense, layer.output.dense
    half, rest = slice(0, WIDE // 2), slice(WIDE // 2, WIDE)
    with torch.no_grad():
        up.bias[half] += 1000
        up.bias[rest], up.weight[rest], down.weight[:, rest] = up.bias[half], up.weight[half], -down.weight[:, half]
        if silent:
            down.weight[:, :WIDE] = 0
    return network


def exported(network: Network, folder: Path) -> Path:
    export_onnx(network, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(decided_network(), tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(outlier_network(), tmp_path_factory.mktemp("outliers"))


def scores(model: Path, *, alone: bool = True) -> dict[str, NDArray[np.float64]]:
    feeds = TEXTS if alone else [padded(TEXTS[start : start + 32]) for start in range(0, len(TEXTS), 32)]
    logits = np.concatenate(answer_each(model, feeds))
    kind = "single_label_classification"
    return {"mood": probabilities(logits[:, :3], kind), "topic": probabilities(logits[:, 3:], kind)}


def judge_against(source: Path) -> Judge:
    """The judge of a build: figures of a file against its FP32 source on 300 texts."""
    expected = scores(source)

    def judge(path: Path) -> Mapping[str, Any]:
        alone, batched = scores(path), scores(path, alone=False)
        flips = sum(int((alone[task].argmax(1) != batched[task].argmax(1)).sum()) for task in alone)
        return {"tasks": differences(expected, alone), "batch_flips": flips}

    return judge


def made_up(*figures: Mapping[str, Any]) -> Judge:
    """A judge that gives these figures in turn, whatever the file."""
    left = list(figures)
    return lambda path: left.pop(0)


def best(source: Path, target: Path, judge: Judge) -> dict[str, Any]:
    return quantize_best(source, target, CALIBRATION, judge, reduce_range=False)


def test_healthy_model_keeps_the_fastest_recipe(healthy: Path, tmp_path: Path) -> None:
    quantized = best(healthy, tmp_path / "int8.onnx", judge_against(healthy))
    counts = quantize(healthy, tmp_path / "plain.onnx", CALIBRATION, reduce_range=False)
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    assert (quantized["recipe"], quantized["held"], quantized["counts"], quantized["kept_float"]) == (
        "static",
        True,
        counts,
        [],
    )
    assert [attempt["recipe"] for attempt in quantized["tried"]] == ["static"]
    assert quantized["tried"][0]["why"] == "Every bound holds."


def test_planted_outliers_change_no_answer_in_fp32(outliers: Path, tmp_path: Path) -> None:
    silent = scores(exported(outlier_network(silent=True), tmp_path))
    for task, values in scores(outliers).items():
        np.testing.assert_allclose(values, silent[task], atol=1e-3)


def test_a_model_with_planted_outliers_is_rescued(outliers: Path, tmp_path: Path) -> None:
    quantized = best(outliers, tmp_path / "int8.onnx", judge_against(outliers))
    first, kept = quantized["tried"]
    assert first["recipe"] == "static"
    assert not first["held"]
    assert first["label_agreement"] < MIN_AGREEMENT
    assert first["mean_abs_dp"] > 2 * SMALL_DP
    assert "of the labels of task 'topic' are those of the FP32 model, below 97%" in first["why"]
    assert kept["recipe"] == quantized["recipe"] == "static-half"
    assert kept["held"] and quantized["held"]
    assert kept["label_agreement"] > 0.99
    assert kept["mean_abs_dp"] < SMALL_DP / 4
    assert kept["batch_flips"] == first["batch_flips"] == 0
    assert len(quantized["kept_float"]) == 1
    assert "layer.0/intermediate" in quantized["kept_float"][0]
    assert quantized["counts"] == {"QAttention": 2, "MatMulIntegerToFloat": 5, "MatMul": 1, "Gather": 1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [pytest.param("healthy", marks=pytest.mark.slow), "outliers"])
def test_with_every_recipe_a_text_gets_the_same_answer_alone_and_in_a_padded_batch(
    name: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    refused = [BAD] * NAMES.index(name)
    quantized = best(request.getfixturevalue(model), tmp_path / "int8.onnx", made_up(*refused, GOOD, GOOD))
    assert quantized["recipe"] in NAMES[NAMES.index(name) :]
    alone, batched = scores(tmp_path / "int8.onnx"), scores(tmp_path / "int8.onnx", alone=False)
    for task, values in alone.items():
        np.testing.assert_allclose(values, batched[task], atol=1e-5)
        assert (values.argmax(1) == batched[task].argmax(1)).all()


def test_each_recipe_computes_less_in_eight_bits_and_the_last_one_nothing(healthy: Path, tmp_path: Path) -> None:
    left = []

    def judge(path: Path) -> Mapping[str, Any]:
        left.append(len(integer_weights(path)))
        return BAD

    best(healthy, tmp_path / "int8.onnx", judge)
    assert left == sorted(set(left), reverse=True)
    assert left[0] == 8
    assert left[-1] == 0


def test_safest_recipe_is_kept_if_none_is_within_the_bounds(healthy: Path, tmp_path: Path) -> None:
    quantized = best(healthy, tmp_path / "int8.onnx", lambda path: BAD)
    assert quantized["recipe"] == "weights"
    assert quantized["held"] is False
    assert [attempt["recipe"] for attempt in quantized["tried"]] == NAMES
    assert all(attempt["held"] is False and "Out of bounds: 80.0%" in attempt["why"] for attempt in quantized["tried"])


def test_a_recipe_that_would_repeat_the_one_before_is_not_tried(outliers: Path, tmp_path: Path) -> None:
    quantized = best(outliers, tmp_path / "int8.onnx", made_up(BAD, BAD, GOOD, GOOD))
    repeated = [attempt for attempt in quantized["tried"] if attempt["why"].startswith("Not tried")]
    assert [attempt["recipe"] for attempt in repeated] == ["static-quarter"]
    assert quantized["recipe"] == "weights"


def test_tried_recipes_can_be_stored_in_a_receipt(outliers: Path, tmp_path: Path) -> None:
    schema = json.loads((ROOT / "inference/compare/receipt.schema.json").read_text(encoding="utf-8"))
    entry = schema["properties"]["backends"]["additionalProperties"]["properties"]["quantized"]
    jsonschema.validate(best(outliers, tmp_path / "int8.onnx", made_up(BAD, BAD, GOOD)), entry)


def test_labels_of_ties_may_differ(healthy: Path, tmp_path: Path) -> None:
    tied = {"label_agreement": 0.5, "mean_abs_dp": 0.004, "max_abs_dp": 0.9 * SMALL_DP}
    quantized = best(healthy, tmp_path / "int8.onnx", made_up({"tasks": {"mood": tied}, "batch_flips": 0}))
    assert (quantized["recipe"], quantized["held"]) == ("static", True)


def test_the_task_that_fares_worst_decides(healthy: Path, tmp_path: Path) -> None:
    figures = {"tasks": {"topic": GOOD["tasks"]["mood"], **BAD["tasks"]}, "batch_flips": 0}  # type: ignore[index,dict-item]
    quantized = best(healthy, tmp_path / "int8.onnx", made_up(figures, GOOD))
    assert quantized["tried"][0]["label_agreement"] == 0.8
    assert quantized["tried"][0]["held"] is False
    assert "'topic'" not in quantized["tried"][0]["why"]


def test_one_label_that_depends_on_its_neighbours_is_too_many(healthy: Path, tmp_path: Path) -> None:
    quantized = best(healthy, tmp_path / "int8.onnx", made_up({**GOOD, "batch_flips": 1}, GOOD))
    assert quantized["recipe"] == "static-half"
    assert quantized["tried"][0]["why"] == "Out of bounds: 1 labels depend on the texts beside them."


def test_next_recipe_is_tried_if_a_file_cannot_be_measured(healthy: Path, tmp_path: Path) -> None:
    def judge(path: Path) -> Mapping[str, Any]:
        if integer_weights(path):
            raise RuntimeError("no kernel for QAttention")
        return GOOD

    quantized = best(healthy, tmp_path / "int8.onnx", judge)
    assert (quantized["recipe"], quantized["held"]) == ("weights", True)
    assert quantized["tried"][0]["why"] == "It could not be measured: no kernel for QAttention"


def test_error_is_raised_if_the_last_file_cannot_be_measured(healthy: Path, tmp_path: Path) -> None:
    def judge(path: Path) -> Mapping[str, Any]:
        raise ExportError("NaN everywhere")

    with pytest.raises(ExportError, match="NaN everywhere"):
        best(healthy, tmp_path / "int8.onnx", judge)


def test_the_products_of_a_large_model_are_not_ranked(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.onnx.recipes.MAX_RANKED_BYTES", 1000)
    figures = iter((BAD, GOOD))
    made = quantize_best(healthy, tmp_path / "out.onnx", CALIBRATION, lambda _: next(figures), reduce_range=False)
    assert made["recipe"] == NAMES[-1]
    assert [entry["why"].partition(":")[0] for entry in made["tried"][1:3]] == ["Not tried", "Not tried"]
