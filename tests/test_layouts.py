"""Layouts that people have: each is served, or refused for its true reason with the remedy that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from hostile import edit

from inference import BundleError, load
from inference.artifacts.importing import import_weights
from inference.commands.doctor import examine
from inference.formats.describe import describe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("layouts") / "model")


@pytest.fixture
def model(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "model"))


def add(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def refusal(model: Path) -> str:
    with pytest.raises(BundleError) as caught:
        describe(model)
    first = examine(model)[0]
    assert (first.severity, first.what) == ("error", str(caught.value))
    return str(caught.value)


def test_files_of_a_training_beside_the_model_do_not_matter(model: Path, classifier: Path) -> None:
    add(model, "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "trainer_state.json")
    add(model, "optimizer.bin", "random_states_0.pkl", "zero_to_fp32.py", "latest", "global_step9/model_states.pt")
    add(model, "checkpoint-500/config.json", "checkpoint-500/model.safetensors", "runs/events.out.tfevents.1")
    assert load(model).predict(foreign.TEXTS) == load(classifier).predict(foreign.TEXTS)
    assert [finding.severity for finding in examine(model)] == ["note"]


@pytest.mark.parametrize(
    ("best", "named"),
    [
        ("out/checkpoint-500", "checkpoint-500"),
        ("C:\\out\\checkpoint-500\\", "checkpoint-500"),
        ("/elsewhere/checkpoint-7", "checkpoint-1000"),
        ("../../checkpoint-500/../..", "checkpoint-1000"),
        (7, "checkpoint-1000"),
        (None, "checkpoint-1000"),
    ],
)
def test_output_of_a_trainer_names_the_best_checkpoint_or_the_last(best: Any, named: str, tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        add(tmp_path, f"checkpoint-{step}/config.json", f"checkpoint-{step}/model.safetensors")
    add(tmp_path, "config.json", "training_args.bin", "runs/events")
    (tmp_path / "checkpoint-1000" / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))
    message = refusal(tmp_path)
    assert "checkpoints of one training (checkpoint-90, checkpoint-500, checkpoint-1000)" in message
    assert message.endswith(f": {tmp_path / named}")
    assert ("the best of them" in message) == (named == "checkpoint-500")


def test_last_checkpoint_of_an_adapter_is_that_of_the_largest_step(tmp_path: Path) -> None:
    for step in (500, 1000):
        add(tmp_path, f"checkpoint-{step}/adapter_config.json", f"checkpoint-{step}/adapter_model.safetensors")
    (tmp_path / "checkpoint-1000" / "trainer_state.json").write_text("{")
    assert refusal(tmp_path).endswith(f"the last of them: {tmp_path / 'checkpoint-1000'}")


@pytest.mark.parametrize(
    ("names", "reason", "remedy"),
    [
        (["model.safetensors.incomplete"], "unfinished download", "Fetch it again"),
        ([".cache/huggingface/download/a/b.incomplete"], "unfinished download", "Fetch it again"),
        (["modules.json", "0_Transformer/config.json"], "embeds texts and has no labels", "Train a head"),
        (["global_step10/mp_rank_00_model_states.pt", "latest"], "shards of DeepSpeed", "zero_to_fp32"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "shards of FSDP", "accelerate merge-weights"),
        (["tf_model.h5"], "TensorFlow or Flax only", "from_tf=True"),
        (["flax_model.msgpack"], "TensorFlow or Flax only", "from_flax=True"),
        (["model-q4_k_m.gguf"], "llama.cpp", "safetensors that it was made from"),
        (["openvino_model.xml", "openvino_model.bin"], "another runtime", "safetensors that it was made from"),
        (["model.keras"], "Keras", "save_pretrained"),
        (["saved_model.pb", "variables/a"], "Keras", "save_pretrained"),
        (["meta.json", "config.cfg", "tokenizer"], "spaCy", "save_pretrained"),
        (["model.joblib"], "scikit-learn", "save_pretrained"),
        (["model.ftz"], "fastText", "save_pretrained"),
        (["model.pt"], "format of its own", "save_pretrained"),
        (["onnx/model_quantized.onnx"], "quantised ONNX graph only", "Put model.onnx"),
        (["graph.onnx"], "without the labels", "Put its config.json"),
        (["model.zip"], "archive", "Extract it"),
        (["model.tar.gz"], "archive", "Extract it"),
    ],
)
def test_other_layouts_are_refused_for_what_they_are(
    names: list[str], reason: str, remedy: str, tmp_path: Path
) -> None:
    for folder in (add(tmp_path / "alone", *names), add(tmp_path / "configured", *names, "config.json")):
        message = refusal(folder)
        assert reason in message
        assert remedy in message


def test_configuration_and_weights_belong_together(tmp_path: Path) -> None:
    assert "has a configuration and no weights" in refusal(add(tmp_path / "a", "config.json", "tokenizer.json"))
    assert "has a configuration and no weights" in refusal(add(tmp_path / "b", "adapter_config.json"))
    assert "weights without their config.json" in refusal(add(tmp_path / "c", "model.safetensors"))
    assert "weights without their config.json" in refusal(add(tmp_path / "d", "pytorch_model.bin"))


def test_folder_around_a_model_is_not_the_model(model: Path, tmp_path: Path) -> None:
    assert f"is not a model itself, but contains models. Name one of them: {model.name}." in refusal(tmp_path)
    add(tmp_path / "models--a--b", "snapshots/1234/config.json", "refs/main")
    assert "Hugging Face cache" in refusal(tmp_path / "models--a--b")


@pytest.mark.parametrize("name", ["pytorch_model.safetensors", "model.fp16.safetensors"])
def test_weights_with_another_name_are_named(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / name)
    assert f"it has {name}. Rename a single file to model.safetensors" in refusal(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_pointer_of_git_lfs_is_named_as_such(name: str, model: Path) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 267832558\n")
    assert refusal(model).endswith(f"{name} is a pointer of Git LFS in place of the file. Fetch the file: git lfs pull")


def test_pointer_in_place_of_pickled_weights_is_not_imported(tmp_path: Path) -> None:
    add(tmp_path, "config.json", "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model/model.safetensors", r"is a file\. Name the folder of the model: .*model\.$"),
        ("model/config.json", r"is a file\. Name the folder of the model: .*model\.$"),
        ("model.zip", "archive"),
        ("weights.gguf", "llama.cpp"),
        ("model.pkl", "scikit-learn"),
        ("notes.txt", r"is a file\. Name the folder of the model\."),
    ],
)
def test_file_in_place_of_a_folder_is_refused(name: str, reason: str, model: Path, tmp_path: Path) -> None:
    if not (tmp_path / name).exists():
        add(tmp_path, name)
    with pytest.raises(BundleError, match=reason):
        describe(tmp_path / name)


def test_pickled_weights_in_several_files_are_imported(model: Path, classifier: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for number, (name, tensor) in enumerate(weights.items()):
        parts.setdefault(f"pytorch_model-0000{number % 2 + 1}-of-00002.bin", {})[name] = tensor
    for file, part in parts.items():
        torch.save(part, model / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "python -m inference import weights" in refusal(model)
    import_weights(model, tmp_path / "out")
    assert load(tmp_path / "out").predict(foreign.TEXTS) == load(classifier).predict(foreign.TEXTS)
    edit("pytorch_model.bin.index.json", weight_map={"a": "../../a.bin"})(model)
    with pytest.raises(BundleError, match="has neither"):
        import_weights(model, tmp_path / "again")


def test_embedding_model_is_refused_because_it_has_no_labels(tmp_path: Path) -> None:
    folder = foreign.base(tmp_path)
    add(folder, "1_Pooling/config.json")
    (folder / "modules.json").write_text("[]")
    assert "embeds texts and has no labels" in refusal(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "embeds texts and has no labels" in refusal(folder)


def test_cross_encoder_of_sentence_transformers_is_a_classifier(model: Path, classifier: Path) -> None:
    (model / "modules.json").write_text("[]")
    (model / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    pairs = [(text, "soup") for text in foreign.TEXTS]
    expected = load(classifier, pairs=True).predict(pairs)
    assert [p.scores for p in load(model).predict(pairs)] == [p.scores for p in expected]


def test_model_that_is_neither_here_nor_on_the_hub_is_refused_in_plain_words() -> None:
    with pytest.raises(BundleError) as caught:
        describe("nobody/no-such-model")
    assert "it is not in the cache, and the Hub cannot be reached" in str(caught.value)
    assert "Error" not in str(caught.value)
