"""What transformers would leave out of a model in silence: settings that it no longer obeys, and tensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from hostile import edit, tensors

from inference import load
from inference.commands.doctor import examine
from inference.errors import BundleError
from inference.formats.describe import describe
from inference.formats.files import wrapper_pattern

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def plain(folder: Path) -> Any:
    """Probabilities as transformers alone gives them."""
    from transformers import AutoModelForSequenceClassification

    return foreign.by_hand(AutoModelForSequenceClassification.from_pretrained(folder, return_dict=True), folder)


def served(folder: Path, cache: Path, backend: str = "pytorch") -> list[list[float]]:
    predictions = load(folder, backend, cache=cache).predict(foreign.TEXTS)
    return [list(prediction.scores.values()) for prediction in predictions]


@pytest.mark.parametrize("kind", ["bert", "electra", "xlm-roberta", "albert", "ernie", "layoutlm", "esm"])
@pytest.mark.parametrize(
    "fields",
    [
        {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "relative_key_query"},
        {"pruned_heads": {"0": [1]}},
    ],
)
def test_setting_that_transformers_no_longer_obeys_is_refused(kind: str, fields: dict[str, Any], model: Path) -> None:
    edit(CONFIG, model_type=kind, **fields)(model)
    with pytest.raises(BundleError, match=rf"{next(iter(fields))} is .*ignores since version 5.*transformers 4\.57"):
        describe(model)
    assert "transformers 4.57" in examine(model)[0].what


def test_setting_that_transformers_obeys_is_read(model: Path) -> None:
    edit(CONFIG, position_embedding_type="absolute", pruned_heads={})(model)
    assert describe(model).format == "transformers"
    edit(CONFIG, position_embedding_type="rotary", model_type="esm")(model)
    with pytest.raises(BundleError, match="that of esm"):  # its tokenizer, and not its positions
        (model / "tokenizer_config.json").unlink()
        describe(model)


def add(name: str, like: str = "bert.pooler.dense.weight") -> Callable[[Path], Any]:
    return tensors(WEIGHTS, lambda held: held.update({name: held[like] * 1}))


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.attention.self.distance_embedding.weight",
        "bert.encoder.layer.2.output.dense.weight",
        "bert.encoder.layer.1.output.adapter.down.weight",
    ],
)
def test_unused_tensor_of_the_encoder_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    add(name)(model)
    with pytest.raises(BundleError, match=rf"1 tensors of the network that are not used: {name}"):
        load(model, cache=tmp_path)
    assert name in examine(model, cache=tmp_path)[0].what


@pytest.mark.parametrize("name", ["bert.embeddings.position_ids", "cls.predictions.bias", "bert.rotary.inv_freq"])
def test_tensor_that_no_classifier_uses_is_harmless(name: str, model: Path, tmp_path: Path) -> None:
    expected = plain(model)
    add(name)(model)
    np.testing.assert_allclose(served(model, tmp_path), expected, atol=1e-5)
    assert not any("not used" in finding.what for finding in examine(model, cache=tmp_path))


@pytest.mark.parametrize(
    "fields",
    [
        {"return_dict": False},
        {"output_attentions": True, "output_hidden_states": True},
        {"chunk_size_feed_forward": 8},
        {"torchscript": True},
        {"gradient_checkpointing": True, "use_cache": True},
    ],
)
def test_setting_that_changes_no_answer_is_overruled(fields: dict[str, Any], model: Path, tmp_path: Path) -> None:
    expected = plain(model)
    edit(CONFIG, **fields)(model)
    for backend in ("pytorch", "onnx"):
        np.testing.assert_allclose(served(model, tmp_path, backend), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_decoder_is_served_as_transformers_gives_it_and_the_doctor_warns(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    before = plain(folder)
    edit(CONFIG, is_decoder=True)(folder)
    expected = plain(folder)
    assert np.abs(before - expected).max() > 1e-3
    for backend in ("pytorch", "onnx"):
        np.testing.assert_allclose(served(folder, tmp_path / "cache", backend), expected, atol=1e-5)
    assert any("is_decoder: true" in finding.what for finding in examine(folder, cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("layer.", "_orig_mod.layer._fsdp_wrapped_module."),
    ],
)
def test_names_of_wrappers_are_left_out_of_the_tensors_names(
    wrap: Callable[[str], str], model: Path, tmp_path: Path
) -> None:
    expected = plain(model)

    def rename(held: dict[str, Any]) -> None:
        renamed = {wrap(name): value for name, value in held.items()}
        held.clear()
        held.update(renamed)

    tensors(WEIGHTS, rename)(model)
    np.testing.assert_allclose(served(model, tmp_path), expected, atol=1e-5)
    assert not any(finding.severity == "error" for finding in examine(model, cache=tmp_path))


def test_wrappers_are_recognised_only_where_the_names_stay_distinct() -> None:
    assert wrapper_pattern(["bert.module.x", "bert.y"]) is None
    assert wrapper_pattern(["module.x", "bert.y"]) is None
    assert wrapper_pattern(["_orig_mod.x", "x"]) is None
    assert wrapper_pattern(["_orig_mod.x", "y"]) is not None


def test_files_beside_the_weights_do_not_count(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    rows = describe(model).vocab_size
    save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(3, 32)}, model / "old.safetensors")
    assert describe(model).vocab_size == rows
    assert load(model, cache=tmp_path).predict("good").label in ("bad", "good")


def test_head_with_a_tensor_that_the_network_lacks_is_refused(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "llama")
    tensors(WEIGHTS, lambda held: held.update({"score.bias": torch.ones(2)}))(folder)
    with pytest.raises(BundleError, match=r"not used: score\.bias"):
        load(folder, cache=tmp_path)


def test_setting_that_transformers_cannot_read_is_named_once_by_the_doctor(model: Path, tmp_path: Path) -> None:
    edit(CONFIG, layer_norm_eps="small")(model)
    errors = [finding.what for finding in examine(model, cache=tmp_path) if finding.severity == "error"]
    assert len(errors) == 1
    assert "config.json: transformers" in errors[0]
    assert "layer_norm_eps" in errors[0]


def test_labels_that_are_numbers_are_read_as_their_digits(model: Path) -> None:
    edit(CONFIG, id2label={"0": 0, "1": 1}, label2id={"0": 0, "1": 1})(model)
    assert describe(model).tasks["label"].labels == ("0", "1")
