"""Decoders answer as plain transformers does for one text without padding, alone and in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from decoders import DECODERS

from inference import load
from inference.artifacts.parity import score_matrix_mixed, score_rows

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
TEXTS = [*foreign.TEXTS, "a", "</s> it ended </s>twice</s>", "<pad>", "x<pad><pad>"]


def by_hand(folder: Path, **options: Any) -> Any:
    """Probabilities of `TEXTS` as transformers gives them text by text, from the last token of each."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.__dict__["pad_token_id"] = None  # else a text that ends with it would be read further left
    return foreign.by_hand(model, folder, TEXTS, **options)


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
