"""PEFT adapters answer here as in plain PEFT, each on a fresh base, or are refused for the true reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest

from inference import BundleError, load
from inference.artifacts.parity import score_rows
from inference.formats.describe import describe

pytestmark = pytest.mark.filterwarnings("ignore")  # those of PEFT while the tests train with it
CLOSE = 1e-5
PLAIN: dict[str, Any] = {}
CHANGES: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "bias": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "tokens": {"trainable_token_indices": [4, 20]},
    "pooler": {"modules_to_save": ["pooler"]},
    "parameters": {"target_modules": [], "target_parameters": ["self.query.weight"]},
    "pattern": {"target_modules": ".*query"},
}
KEEPS: dict[str, dict[str, Any]] = {
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora bias": {"lora_bias": True},
    "embeddings": {"target_modules": ["query", "word_embeddings"]},
    "ranks": {"rank_pattern": {"layer.0.attention.self.query": 2}, "alpha_pattern": {"query": 5}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.base(tmp_path_factory.mktemp("bases") / "base")


def in_peft(folder: Path, on: Path) -> Any:
    """Probabilities as PEFT gives them, with the adapter alone on a fresh base."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = len(describe(folder).tasks["label"].labels)
        fresh = AutoModelForSequenceClassification.from_pretrained(on, num_labels=labels, ignore_mismatched_sizes=True)
        return foreign.by_hand(PeftModel.from_pretrained(fresh, folder), on)


def served(model: Path, backend: str = "pytorch", **options: Any) -> Any:
    answers = load(model, backend, **options).predict_all_tasks(foreign.TEXTS)
    return {task: score_rows(rows) for task, rows in answers.items()}


def set_in(folder: Path, name: str = "adapter_config.json", **fields: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_an_adapter_that_changes_its_base_answers_beside_another_as_in_peft(
    change: str, base: Path, tmp_path: Path
) -> None:
    foreign.adapter(tmp_path / "both" / "plain", base, seed=3)
    foreign.adapter(tmp_path / "both" / "other", base, **CHANGES[change])
    answers = served(tmp_path / "both")
    assert not describe(tmp_path / "both").shares_base
    for task in ("plain", "other"):
        expected = in_peft(tmp_path / "both" / task, base)
        assert np.abs(answers[task] - expected).max() < CLOSE, task
    assert np.abs(served(tmp_path / "both" / "other")["label"] - answers["other"]).max() < CLOSE


@pytest.mark.parametrize("setting", KEEPS)
def test_adapters_that_leave_their_base_alone_are_switched_on_one(setting: str, base: Path, tmp_path: Path) -> None:
    foreign.adapter(tmp_path / "both" / "plain", base, seed=3)
    foreign.adapter(tmp_path / "both" / "other", base, **KEEPS[setting])
    assert describe(tmp_path / "both").shares_base
    answers = served(tmp_path / "both")
    for task in ("plain", "other"):
        expected = in_peft(tmp_path / "both" / task, base)
        assert np.abs(answers[task] - expected).max() < CLOSE, task


def test_adapters_of_different_kinds_answer_as_in_peft(base: Path, tmp_path: Path) -> None:
    import peft

    kinds = {
        "lora": {},
        "ia3": {"peft": peft.IA3Config, "feedforward_modules": []},
        "loha": {"peft": peft.LoHaConfig},
        "norms": {"peft": peft.LNTuningConfig, "target_modules": ["LayerNorm"]},
    }
    for kind, options in kinds.items():
        foreign.adapter(tmp_path / "all" / kind, base, **options)
    answers = served(tmp_path / "all")
    for kind in kinds:
        assert np.abs(answers[kind] - in_peft(tmp_path / "all" / kind, base)).max() < CLOSE, kind


def without_head(folder: Path, on: Path, config: Any) -> Path:
    """An adapter that was trained under the frozen head of its base, which it does not save."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForSequenceClassification.from_pretrained(on), config)
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)
    adapted.save_pretrained(folder)
    return folder


def test_an_adapter_without_a_head_answers_with_that_of_its_base(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, TrainableTokensConfig

    named = foreign.classifier(tmp_path / "named")
    tokens = TrainableTokensConfig(task_type="SEQ_CLS", target_modules=["word_embeddings"], token_indices=[4, 20])
    for kind, config in {"lora": LoraConfig(target_modules=["query"]), "tokens": tokens}.items():
        folder = without_head(tmp_path / kind, named, config)
        assert describe(folder).tasks["label"].labels == ("bad", "good")
        assert describe(folder).findings == ()
        assert np.abs(served(folder)["label"] - in_peft(folder, named)).max() < CLOSE
        with pytest.raises(BundleError, match="no classification head .* its base has none either"):
            describe(folder, base)


def trained_adalora(folder: Path, on: Path) -> Any:
    """Train AdaLoRA until it has given up ranks; return its answers."""
    import torch
    from peft import AdaLoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(on)
    steps = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1, "total_step": 6}
    adapted = get_peft_model(model, AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **steps))
    optimizer = torch.optim.SGD(adapted.parameters(), lr=1.0)
    ids = torch.randint(4, 80, (8, 12))
    for step in range(6):
        adapted(input_ids=ids, labels=torch.arange(8) % 2).loss.backward()
        optimizer.step()
        adapted.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    foreign.spread_answers(adapted, "base_model.model.classifier.modules_to_save.default")
    adapted.save_pretrained(folder)
    return foreign.by_hand(adapted, on)


def test_a_trained_adalora_that_has_given_up_ranks_answers_as_in_peft(base: Path, tmp_path: Path) -> None:
    expected = trained_adalora(tmp_path / "adapter", base)
    pattern = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["rank_pattern"]
    assert any(not all(mask) for mask in pattern.values())
    assert np.abs(in_peft(tmp_path / "adapter", base) - expected).max() < CLOSE
    assert np.abs(served(tmp_path / "adapter")["label"] - expected).max() < CLOSE


def more_tokens(folder: Path, on: Path, **options: Any) -> Path:
    """An adapter whose training added two tokens to the tokenizer, saved beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(on)
    tokenizer.add_tokens(["soup", "lamp"])
    model = AutoModelForSequenceClassification.from_pretrained(on)
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(model, LoraConfig(**{"task_type": "SEQ_CLS", "target_modules": ["query"], **options}))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad or "word_embeddings" in name:
                value.add_(torch.randn_like(value) * 0.3)
    foreign.spread_answers(adapted, "base_model.model.classifier.modules_to_save.default")
    adapted.save_pretrained(folder, save_embedding_layers="trainable_token_indices" not in options)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"modules_to_save": ["word_embeddings"]}, {"trainable_token_indices": [86, 87]}],
    ids=["saved with the adapter", "trained in full", "trained alone"],
)
def test_an_adapter_with_tokens_of_its_own_answers_as_in_peft(
    options: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    folder = more_tokens(tmp_path / "adapter", base, **options)
    expected = foreign.by_hand(foreign.peft_model(folder), folder)
    assert describe(folder).vocab_size == len(foreign.WORDS) + 2
    assert np.abs(served(folder)["label"] - expected).max() < CLOSE
    assert np.ptp(expected[:, 0]) > 0.01


def test_an_adapter_on_a_base_with_another_head_answers_as_in_peft(tmp_path: Path) -> None:
    base = foreign.classifier(tmp_path / "base", labels=("down", "so-so", "up"))
    folder = foreign.adapter(tmp_path / "two", base, labels=2)
    assert describe(folder).tasks["label"].labels == ("LABEL_0", "LABEL_1")
    assert np.abs(served(folder)["label"] - in_peft(folder, base)).max() < CLOSE
