"""A folder of ONNX files as a model again: what is written beside the graphs is read, and checked against them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from conftest import Tiny
from test_recipes import outlier_network

from inference.artifacts.cache import obtain
from inference.artifacts.export import export_files, quantize_graph
from inference.errors import BundleError
from inference.formats.bundle import Bundle, Task
from inference.formats.describe import describe
from inference.onnx.export import export_onnx


@pytest.fixture(scope="module")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = Bundle.read(tiny.folder)
    artifact = obtain(bundle, tiny.cache, base=tiny.base)
    out = tmp_path_factory.mktemp("exported") / "model"
    export_files(
        artifact.folder / "model.onnx", artifact.folder / "tokenizer.json", out, bundle.tasks, bundle.max_tokens, 0
    )
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy without the list of digests, to be altered."""
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / "export.json").unlink()
    return tmp_path / "model"


def edit(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def test_an_exported_model_keeps_its_labels_thresholds_and_length(exported: Path, tiny: Tiny) -> None:
    made, bundle = Bundle.read(tiny.folder), describe(exported)
    assert dict(bundle.tasks) == dict(made.tasks)
    assert bundle.tasks["topic"].out_of_scope == "other"
    assert bundle.max_tokens == made.max_tokens


@pytest.mark.parametrize("threshold", [2, -0.1, float("nan"), "0.5", True])
def test_invalid_threshold_is_refused(folder: Path, threshold: object) -> None:
    edit(folder / "mood_config.json", threshold=threshold)
    with pytest.raises(BundleError, match=r"mood_config\.json: threshold is .* between 0 and 1"):
        describe(folder)


@pytest.mark.parametrize("label", ["nothing", 3, ["other"]])
def test_unknown_out_of_scope_label_is_refused(folder: Path, label: object) -> None:
    edit(folder / "topic_config.json", out_of_scope=label)
    with pytest.raises(BundleError, match="is not one of the labels"):
        describe(folder)


def test_task_without_threshold_has_the_default_of_its_kind(folder: Path) -> None:
    edit(folder / "mood_config.json", threshold=None)
    assert describe(folder).tasks["mood"].threshold == 0
    edit(folder / "mood_config.json", problem_type="multi_label_classification")
    assert describe(folder).tasks["mood"].threshold == 0.5


def test_stated_length_is_the_token_limit(folder: Path) -> None:
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=None)
    for task in ("mood", "topic"):
        edit(folder / f"{task}_config.json", max_length=300)
    assert describe(folder).max_tokens == 300
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=200)
    assert describe(folder).max_tokens == 200
    for task in ("mood", "topic"):
        edit(folder / f"{task}_config.json", max_length=None)
    assert describe(folder).max_tokens == 200
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=None)
    assert describe(folder).max_tokens == 128


def test_tasks_that_read_texts_of_different_lengths_are_refused(folder: Path) -> None:
    edit(folder / "topic_config.json", max_length=12)
    with pytest.raises(BundleError, match=r"12 in topic_config\.json, 16 in mood_config\.json"):
        describe(folder)


@pytest.mark.parametrize("name", ["mood.onnx", "mood_config.json", "tokenizer/tokenizer.json"])
def test_file_changed_since_the_export_is_refused(exported: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported, tmp_path / "model")
    with (tmp_path / "model" / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BundleError, match=r"was changed since it was exported: .* delete export\.json"):
        describe(tmp_path / "model")
    (tmp_path / "model" / "export.json").unlink()
    assert set(describe(tmp_path / "model").tasks) == {"mood", "topic"}


def test_invalid_export_list_is_refused(folder: Path) -> None:
    (folder / "export.json").write_text('{"files": 7}', encoding="utf-8")
    with pytest.raises(BundleError, match="is not the list of an export"):
        describe(folder)


@pytest.mark.parametrize("columns", [1, 3])
def test_logits_of_another_number_than_the_labels_are_refused(columns: int) -> None:
    kind = "single_label_classification"
    given = {"mood": Task(tuple("abc"[:columns]), kind, 0.0)}
    classifier = fakes.classifier(fakes.FakeBackend(tasks=given), tasks={"mood": Task(("down", "up"), kind, 0.0)})
    with pytest.raises(BundleError, match=rf"shape \(1, {columns}\) for task 'mood', .* need \(1, 2\)"):
        classifier.predict("good")


def test_a_graph_of_fewer_outputs_than_labels_is_not_built(folder: Path, tmp_path: Path) -> None:
    edit(folder / "mood_config.json", id2label={"0": "down", "1": "even", "2": "up"})
    with pytest.raises(BundleError, match=r"logits of shape \(\d+, 2\) for task 'mood'"):
        obtain(describe(folder), tmp_path / "cache")


def test_a_graph_whose_int8_version_would_answer_otherwise_gets_a_safer_one(folder: Path) -> None:
    torch.manual_seed(0)
    export_onnx(outlier_network(), folder / "wide.onnx")
    path, made = quantize_graph(folder / "wide.onnx")
    assert path == folder / "wide_int8.onnx"
    first, *_, last = made["tried"]
    assert (first["recipe"], first["held"]) == ("static", False)
    assert last["held"]
    assert made["recipe"] != "static"
