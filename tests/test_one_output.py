"""A head with one output gives one probability, by sigmoid, on every runtime and in every format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from hostile import edit
from numpy.typing import NDArray

from inference import BundleError, load
from inference.artifacts.export import quantize_onnx
from inference.artifacts.merging import export_merged
from inference.artifacts.parity import score_rows
from inference.commands.doctor import examine
from inference.explain import explain
from inference.explain.explanation import METHODS
from inference.formats.describe import describe

LABELS = ("not toxic", "toxic")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("one") / "toxicity", labels=("toxic",))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def sigmoids(model: Any, tokenizer_folder: Path) -> NDArray[np.float64]:
    """Probability of the one label for each of TEXTS, as the libraries' own code gives it."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    rows = []
    for text in foreign.TEXTS:
        feed = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            logits = model.eval()(input_ids=feed["input_ids"], attention_mask=feed["attention_mask"]).logits
        rows.append(torch.sigmoid(logits.double())[0].numpy())
    return np.concatenate(rows)


def of_folder(folder: Path) -> NDArray[np.float64]:
    from transformers import AutoModelForSequenceClassification

    return sigmoids(AutoModelForSequenceClassification.from_pretrained(folder), folder)


def test_one_output_is_one_probability_on_every_runtime(model: Path, cache: Path) -> None:
    expected = of_folder(model)
    assert np.ptp(expected) > 0.04  # equal answers would prove nothing
    for backend, allowed in (("pytorch", 1e-5), ("onnx", 1e-5), ("int8", 0.25)):
        classifier = load(model, backend, cache=cache)
        assert classifier.tasks["label"].labels == LABELS
        predictions = classifier.predict(foreign.TEXTS)
        scores = score_rows(predictions)
        assert np.abs(scores[:, 1] - expected).max() < allowed, backend
        assert np.abs(scores.sum(axis=1) - 1).max() < 1e-12
        if backend != "int8":
            assert [p.label for p in predictions] == [LABELS[int(p > 0.5)] for p in expected]


def test_multi_label_with_one_label_is_the_same_as_one_output(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    edit("config.json", problem_type="multi_label_classification")(tmp_path / "model")
    assert describe(tmp_path / "model").tasks == describe(model).tasks


@pytest.mark.parametrize("labels", [("LABEL_0",), ("bad", "good")])
def test_regression_is_refused_for_its_true_reason(labels: tuple[str, ...], tmp_path: Path) -> None:
    foreign.classifier(tmp_path, labels=labels, problem_type="regression")
    with pytest.raises(BundleError, match=r"trained to predict a number \(problem_type: regression\)"):
        describe(tmp_path)


def test_head_with_two_outputs_and_one_label_is_refused(tmp_path: Path) -> None:
    foreign.classifier(tmp_path)
    edit("config.json", id2label={"0": "toxic"}, label2id={"toxic": 0})(tmp_path)
    with pytest.raises(BundleError, match="other shapes than config.json says"):
        load(tmp_path)


def test_export_states_one_label_and_is_read_again(model: Path, cache: Path, tmp_path: Path) -> None:
    load(model, "onnx", cache=cache).export_onnx(tmp_path / "out", quantize=True)
    config = json.loads((tmp_path / "out" / "label_config.json").read_text())
    assert config["id2label"] == {"0": "toxic"}
    assert config["label2id"] == {"toxic": 0}
    assert config["problem_type"] == "multi_label_classification"  # others must not take a softmax over one logit
    assert describe(tmp_path / "out").tasks == describe(model).tasks
    scores = score_rows(load(tmp_path / "out", "onnx", cache=cache).predict(foreign.TEXTS))
    assert np.abs(scores[:, 1] - of_folder(model)).max() < 1e-5
    assert quantize_onnx(tmp_path / "out" / "label.onnx", tmp_path / "out" / "again.onnx").is_file()


@pytest.mark.slow  # PEFT takes seconds to import
def test_adapters_with_one_output_are_switched_and_merged(cache: Path, tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base")
    for seed, task in enumerate(("toxic", "rude")):
        foreign.adapter(tmp_path / "both" / task, base, labels=1, seed=seed)
        (tmp_path / "both" / task / "config.json").write_text(json.dumps({"id2label": {"0": task}}))
    for backend in ("pytorch", "onnx"):
        answers = load(tmp_path / "both", backend, cache=cache).predict_all_tasks(foreign.TEXTS)
        for task, predictions in answers.items():
            expected = sigmoids(foreign.peft_model(tmp_path / "both" / task, num_labels=1), base)
            assert list(predictions[0].scores) == [f"not {task}", task]
            assert np.abs(score_rows(predictions)[:, 1] - expected).max() < 1e-5
    export_merged(tmp_path / "both", tmp_path / "merged", task="rude")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["id2label"] == {"0": "rude"}
    merged = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert merged["problem_type"] == "multi_label_classification"
    expected = sigmoids(foreign.peft_model(tmp_path / "both" / "rude", num_labels=1), base)
    assert np.abs(of_folder(tmp_path / "merged") - expected).max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_explanations_of_the_two_labels_are_opposite(method: str, model: Path) -> None:
    classifier = load(model)
    first, second = (explain(classifier, "a bad lamp", label=label, method=method) for label in LABELS)
    assert first.log_odds == pytest.approx(-second.log_odds)
    assert first.score == pytest.approx(1 - second.score)
    for one, other in zip(first.words, second.words, strict=True):
        assert one.attribution == pytest.approx(-other.attribution, abs=1e-4)


def test_doctor_asks_for_a_name_and_notes_scores_that_are_logits(model: Path, tmp_path: Path) -> None:
    assert [f.what for f in examine(model, cache=tmp_path) if f.severity != "note"] == []
    shutil.copytree(model, tmp_path / "reranker")
    activation = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "6.2.0"}
    edit("config.json", id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}, sentence_transformers=activation)(
        tmp_path / "reranker"
    )
    findings = examine(tmp_path / "reranker", cache=tmp_path)
    assert "the labels of label have no names: LABEL_0" in [f.what for f in findings]
    assert any("cross-encoder" in f.what for f in findings)
