"""Decoders answer as plain transformers does for one text without padding, alone and in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import decoders
import foreign
import numpy as np
import pytest
from decoders import DECODERS, EOS, PAD

from inference import load
from inference.artifacts.cache import obtain
from inference.artifacts.merging import export_merged
from inference.artifacts.parity import score_matrix_mixed, score_rows
from inference.commands.doctor import examine
from inference.formats.describe import describe

COMMON = ("qwen2", "gemma3_text", "gpt2", "bloom")
KINDS = [pytest.param(kind, marks=() if kind in COMMON else pytest.mark.slow) for kind in DECODERS]
# Experts, state-space layers and complex numbers are operators that the exporter lacks.
NOT_EXPORTED = {
    *("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "hunyuan_v1_moe", "minimax", "phimoe", "jetmoe", "mistral4"),
    *("deepseek_v2", "deepseek_v3", "axk1", "axk2", "qwen3_5_text", "qwen3_next", "jamba", "zamba", "zamba2"),
    *("diffllama", "glm", "glm4", "helium"),
}
EXPORTED = [
    pytest.param(kind, marks=() if kind in COMMON[:2] else pytest.mark.slow)
    for kind in DECODERS
    if kind not in NOT_EXPORTED
]
TEXTS = [*foreign.TEXTS, "a", "so good!!", "</s> it ended </s>twice</s>", "<pad>", "x<pad><pad>"]


def plain(folder: Path, **fields: Any) -> Any:
    """The classifier of transformers, which takes the last token of a text if it has no padding token."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, **fields)
    model.config.__dict__["pad_token_id"] = None
    return model


def by_hand(folder: Path) -> Any:
    """Probabilities of `TEXTS` as transformers gives them, text by text."""
    return foreign.by_hand(plain(folder), folder, TEXTS)


def scores(folder: Path, backend: str, cache: Path, **options: Any) -> Any:
    classifier = load(folder, backend, cache=cache, **options)
    alone = score_rows([classifier.predict(text) for text in TEXTS])
    assert np.abs(score_matrix_mixed(classifier, TEXTS)["label"] - alone).max() < 1e-5
    return alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_answers_as_in_transformers_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    expected = by_hand(folder)
    assert np.ptp(expected[:, 0]) > 0.1
    assert np.abs(scores(folder, "pytorch", tmp_path) - expected).max() < 1e-5


@pytest.mark.parametrize("kind", EXPORTED)
def test_a_decoder_answers_in_onnx_and_int8_as_in_transformers(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    expected = by_hand(folder)
    assert np.abs(scores(folder, "onnx", tmp_path) - expected).max() < 1e-5
    assert np.abs(scores(folder, "int8", tmp_path) - expected).max() < 0.25


@pytest.mark.parametrize("pad", [None, EOS, PAD], ids=["no-padding-token", "padding-is-the-end", "padding-of-its-own"])
def test_the_last_token_does_not_depend_on_the_padding_token(pad: int | None, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "qwen2")
    expected = by_hand(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}))
    decoders.write_tokenizer(folder, padding_side="left", pad_token={EOS: "</s>", PAD: "<pad>"}.get(pad))
    assert np.abs(scores(folder, "pytorch", tmp_path) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("template", "settings"),
    [("<s> $A", {}), ("<s> $A </s>", {}), ("$A", {"truncation_side": "left"})],
    ids=["begin", "begin-and-end", "cut-on-the-left"],
)
def test_a_text_is_read_as_by_its_own_tokenizer(template: str, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "qwen2")
    without = by_hand(folder)
    decoders.write_tokenizer(folder, template, **settings)
    expected = by_hand(folder)
    assert np.abs(expected - without).max() > 0.1
    assert np.abs(scores(folder, "pytorch", tmp_path) - expected).max() < 1e-5


@pytest.mark.slow
def test_windows_and_masks_are_not_those_of_the_example_that_was_exported(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "gemma3_text", sliding_window=5)  # the example has 8 tokens
    decoders.write_tokenizer(folder, model_max_length=128)
    texts = ["a", "abc", "seventeen letters", "it was a long day, and then " * 5]
    expected = foreign.by_hand(plain(folder), folder, texts, max_length=128)
    without = foreign.by_hand(plain(folder, sliding_window=200), folder, texts, max_length=128)
    assert np.abs(without - expected).max() > 0.01  # else the window would show in no answer
    for backend in ("pytorch", "onnx"):
        classifier = load(folder, backend, cache=tmp_path)
        assert np.abs(score_rows([classifier.predict(text) for text in texts]) - expected).max() < 1e-5
        assert np.abs(score_matrix_mixed(classifier, texts)["label"] - expected).max() < 1e-5


ADAPTED = {"head": "score", "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_an_adapter_on_a_decoder_answers_as_in_peft(options: dict[str, Any], tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base", "qwen2", pad_token_id=None)  # as most are published
    folder = foreign.adapter(tmp_path / "adapter", base, **ADAPTED, **options)
    expected = foreign.by_hand(foreign.peft_model(folder), base, TEXTS)
    assert np.abs(scores(folder, "pytorch", tmp_path) - expected).max() < 1e-5
    if options:
        return
    assert np.abs(scores(folder, "onnx", tmp_path) - expected).max() < 1e-5
    export_merged(folder, tmp_path / "merged")
    assert np.abs(by_hand(tmp_path / "merged") - expected).max() < 1e-5
    assert np.abs(scores(tmp_path / "merged", "pytorch", tmp_path) - expected).max() < 1e-5


def test_adapters_on_one_decoder_are_switched_and_answer_as_in_peft(tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base", "gpt2", pad_token_id=None)
    options = {"head": "score", "target_modules": ["c_attn"], "fan_in_fan_out": True}
    expected = {}
    for seed, task in enumerate(("mood", "topic")):
        folder = foreign.adapter(tmp_path / "both" / task, base, seed=seed, **options)
        expected[task] = foreign.by_hand(foreign.peft_model(folder), base, TEXTS)
    answers = load(tmp_path / "both", cache=tmp_path).predict_all_tasks(TEXTS)
    for task, rows in expected.items():
        assert np.abs(score_rows(answers[task]) - rows).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_an_adapter_on_a_decoder_in_4_bits_answers_as_its_weights_say(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: requirements-qlora.txt")
    wide = {"hidden_size": 128, "head_dim": 20, "intermediate_size": 192}  # 80 is no multiple of 32
    base = foreign.base(tmp_path / "base", "qwen2", pad_token_id=None, **wide)
    folder = foreign.adapter(tmp_path / "adapter", base, **ADAPTED, **options)
    export_merged(folder, tmp_path / "merged", load_in_4bit=True)  # from the dequantised weights
    full, four_bit = (score_rows(load(folder, load_in_4bit=four).predict(TEXTS)) for four in (False, True))
    assert np.abs(four_bit - full).max() > 0.01
    assert np.abs(four_bit - by_hand(tmp_path / "merged")).max() < 0.02


@pytest.mark.slow
def test_weights_that_the_optimizer_does_not_see_give_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign.classifier(tmp_path / "model", "qwen2")
    manifests = []
    for name, limit in (("seen", 2**30), ("withheld", 0)):
        monkeypatch.setattr("inference.onnx.export.MAX_WEIGHTS_BYTES", limit)
        monkeypatch.setattr("inference.onnx.export.WEIGHT_BYTES", 1024)
        manifests.append(obtain(describe(folder), tmp_path / name).manifest)
        assert np.abs(scores(folder, "onnx", tmp_path / name) - by_hand(folder)).max() < 1e-5
    assert manifests[0]["fused"] == manifests[1]["fused"]
    assert manifests[0]["quantized"]["counts"] == manifests[1]["quantized"]["counts"]


def test_doctor_warns_of_a_window_as_length_and_of_an_end_token_that_is_padding(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "qwen2", max_position_embeddings=131_072)
    assert not [finding for finding in examine(folder, cache=tmp_path) if finding.severity != "note"]
    decoders.write_tokenizer(folder, "$A </s>", model_max_length=131_072)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": EOS}))
    assert describe(folder).max_tokens == 4096
    window, end, *others = (finding.what for finding in examine(folder, cache=tmp_path) if finding.severity != "note")
    assert "131,072 tokens, the window of a generative base; 4,096 are read" in window
    assert "ends every text with '</s>', which is pad_token_id too" in end
    assert not others
