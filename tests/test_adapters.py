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
from inference.__main__ import main
from inference.artifacts.parity import score_rows
from inference.commands.doctor import examine
from inference.formats.describe import describe

pytestmark = pytest.mark.filterwarnings("ignore")  # those of PEFT while the tests train with it
CLOSE = 1e-5
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


def test_an_adapter_with_the_label_names_of_its_base_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign.adapter(tmp_path / "adapter", foreign.classifier(tmp_path / "base"))
    assert load(folder).tasks["label"].labels == ("bad", "good")
    assert "are those of its base: bad, good" in caplog.text
    assert main(["info", "--model", str(folder)]) == 0
    assert "are those of its base: bad, good" in capsys.readouterr().out
    assert any("are those of its base" in finding.what for finding in examine(folder))
    set_in(folder, "config.json", id2label={"0": "soup", "1": "lamp"}, problem_type="single_label_classification")
    assert describe(folder).findings == ()


def test_the_problem_type_is_that_of_the_config_beside_the_adapter_else_of_its_base(tmp_path: Path) -> None:
    single, multi = "single_label_classification", "multi_label_classification"
    plain, independent = (foreign.classifier(tmp_path / kind, problem_type=kind) for kind in (single, multi))
    for base, own, expected in ((plain, {}, single), (independent, {}, multi), (plain, {"problem_type": multi}, multi)):
        folder = foreign.adapter(tmp_path / f"{base.name}-{len(own)}", base, labels=3)
        set_in(folder, "config.json", id2label={"0": "a", "1": "b", "2": "c"}, **own)
        assert describe(folder).tasks["label"].problem_type == expected
        asked = [finding for finding in examine(folder) if "one or several labels" in finding.what]
        assert len(asked) == 1 - len(own)
    set_in(plain, "config.json", problem_type="regression")
    with pytest.raises(BundleError, match="predicts a number .* write problem_type into"):
        describe(set_in(tmp_path / f"{plain.name}-0"))
    scores, softmax = served(folder)["label"], in_peft(folder, plain)
    odds = scores / (1 - scores)  # a softmax of the same logits has the same ratios
    assert np.abs(odds / odds.sum(1, keepdims=True) - softmax).max() < CLOSE


def test_missing_config_of_an_adapter_gives_one_warning_at_load_and_in_the_doctor(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = foreign.adapter(tmp_path / "adapter", base, labels=3)
    load(folder, cache=tmp_path)
    assert caplog.text.count("single_label_classification is assumed") == 1
    (warning,) = [finding for finding in examine(folder, cache=tmp_path) if "have no names" in finding.what]
    assert warning.do.count("config.json") == 1
    assert "id2label" in warning.do
    assert "problem_type" in warning.do


@pytest.mark.parametrize(
    ("figure", "warned"), [("eval_hamming_loss", True), ("eval_roc_auc", False), ("eval_samples_per_second", False)]
)
def test_figures_of_independent_labels_without_a_problem_type_are_a_warning(
    figure: str, warned: bool, tmp_path: Path
) -> None:
    folder = foreign.classifier(tmp_path / "model")
    set_in(folder, "trainer_state.json", log_history=[{"loss": 0.4, "step": 1}, {figure: 0.1, "step": 2}])
    assert any(figure in finding.what for finding in examine(folder)) is warned
    set_in(folder, "config.json", problem_type="single_label_classification")
    assert not any(figure in finding.what for finding in examine(folder))


def test_a_root_adapter_is_a_task_beside_those_of_its_subfolders(base: Path, tmp_path: Path) -> None:
    folder = foreign.adapter(tmp_path / "adapters", base)
    for name, seed in (("mood", 5), ("checkpoint-500", 6)):
        foreign.adapter(folder / name, base, seed=seed)
    answers = served(folder)
    assert set(answers) == {"default", "mood"}
    assert np.abs(answers["mood"] - in_peft(folder / "mood", base)).max() < CLOSE
    assert any("itself is the task default" in finding.what for finding in examine(folder))
    (folder / "mood").rename(tmp_path / "mood")
    assert set(describe(folder).tasks) == {"label"}
    foreign.adapter(folder / "default", base)
    with pytest.raises(BundleError, match="one called default beside an adapter of its own"):
        describe(folder)


def test_an_adapter_whose_head_its_base_already_has_is_a_warning(base: Path, tmp_path: Path) -> None:
    from inference.artifacts.merging import export_merged

    folder = foreign.adapter(tmp_path / "adapter", base)
    export_merged(folder, tmp_path / "merged")
    assert not any("merged into this base" in finding.why for finding in examine(folder))
    assert any("merged into this base" in finding.why for finding in examine(folder, tmp_path / "merged"))


TRUE_REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "pissa at random": ({"init_lora_weights": "pissa_niter_4"}, "cannot be repeated.*merge_and_unload"),
    "corda": ({"init_lora_weights": "corda"}, "cannot be repeated"),
    "loftq": ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "cannot be repeated"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "cannot be repeated"),
    "texts": ({"task_type": "CAUSAL_LM"}, "which is not for classifying texts"),
    "vectors": ({"task_type": "FEATURE_EXTRACTION"}, "which is not for classifying texts"),
    "no head": (
        {"task_type": None, "auto_mapping": {"base_model_class": "BertModel", "parent_library": "transformers.models"}},
        "was trained on BertModel .auto_mapping., which has no labels",
    ),
    "custom class": (
        {"auto_mapping": {"base_model_class": "MyForSequenceClassification", "parent_library": "mine"}},
        "custom class .* never imported",
    ),
    "oft of an older PEFT": (
        {"peft_type": "OFT", "use_cayley_neumann": True, "peft_version": "0.17.1"},
        "differently since version 0.18.*merge_and_unload",
    ),
    "invocation tokens": ({"alora_invocation_tokens": [3]}, "cannot merge an adapter with alora_invocation_tokens"),
    "router": ({"arrow_config": {"top_k": 2}}, "cannot merge an adapter with arrow_config"),
    "a newer PEFT": (
        {"use_quux": True, "peft_version": "9.9.0"},
        r"does not know use_quux .* wrote the adapter \(9.9.0",
    ),
    "prefix": ({"peft_type": "PREFIX_TUNING"}, "a PREFIX_TUNING adapter cannot be merged"),
    "boft": ({"peft_type": "BOFT"}, "'BOFT' are not served unmerged.*merge_and_unload"),
    "mask of a plain LoRA": ({"rank_pattern": {"query": [True, False]}}, "is not a rank"),
    "many samples": ({"monteclora_config": {"num_samples": 10**9}}, "num_samples is 1000000000; the limit is 1,000"),
    "endless series": ({"num_cayley_neumann_terms": 10**9}, "the limit is 1,000"),
}


@pytest.mark.parametrize("case", TRUE_REASONS)
def test_adapters_that_would_answer_wrongly_are_refused_with_the_true_reason(
    case: str, base: Path, tmp_path: Path
) -> None:
    settings, reason = TRUE_REASONS[case]
    folder = set_in(foreign.adapter(tmp_path / "adapter", base), **settings)
    with pytest.raises(BundleError, match=reason):
        load(folder)


def test_the_doctor_names_a_setting_that_the_installed_peft_does_not_know(base: Path, tmp_path: Path) -> None:
    folder = set_in(foreign.adapter(tmp_path / "adapter", base), use_quux=True, unused_extra=None)
    assert [finding.what.count("use_quux") for finding in examine(folder) if finding.severity == "error"] == [1]


def test_an_adapter_of_a_deeper_base_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = foreign.base(tmp_path / "deeper", num_hidden_layers=3)
    folder = foreign.adapter(tmp_path / "both" / "deep", deeper)
    for adapter in (folder, foreign.adapter(tmp_path / "both" / "plain", base)):
        set_in(adapter, base_model_name_or_path=str(base))
    for model in (folder, tmp_path / "both"):
        with pytest.raises(BundleError, match=r"does not fit its base: the base has no place for .*layer\.2"):
            load(model)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "base_model.model._orig_mod.", "module."])
def test_an_adapter_saved_from_a_wrapper_is_refused_for_its_reason(prefix: str, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = foreign.adapter(tmp_path / "adapter", base)
    weights = load_file(folder / "adapter_model.safetensors")
    inner = "" if prefix.startswith("base") else "base_model.model."
    renamed = {prefix + inner + name.removeprefix("base_model.model."): value for name, value in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(BundleError, match="saved from a wrapper"):
        describe(folder)


def test_a_layer_of_the_head_that_nothing_saved_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = foreign.adapter(
        tmp_path / "adapter", foreign.base(tmp_path / "base", "distilbert"), target_modules=["q_lin"]
    )
    assert load(folder).predict("good").label in ("LABEL_0", "LABEL_1")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: v for k, v in weights.items() if "pre_classifier" not in k}, folder / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=r"would be random: pre_classifier\.bias.*modules_to_save"):
        load(folder)


def test_tokens_whose_rows_the_adapter_lacks_are_refused(base: Path, tmp_path: Path) -> None:
    folder = more_tokens(tmp_path / "adapter", base, trainable_token_indices=[86])
    with pytest.raises(BundleError, match="lamp"):
        load(folder)


def test_adapters_that_change_their_base_are_built_as_pytorch_answers(base: Path, tmp_path: Path) -> None:
    foreign.adapter(tmp_path / "both" / "plain", base, seed=3)
    foreign.adapter(tmp_path / "both" / "pissa", base, init_lora_weights="pissa")
    answers = {backend: served(tmp_path / "both", backend, cache=tmp_path / "cache") for backend in ("onnx", "int8")}
    for task in ("plain", "pissa"):
        expected = in_peft(tmp_path / "both" / task, base)
        assert np.abs(answers["onnx"][task] - expected).max() < 1e-4
        assert np.abs(answers["int8"][task] - expected).max() < 0.25


def test_adapters_that_change_a_base_in_4_bits_each_have_their_own(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: requirements-qlora.txt")
    wide = foreign.base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    foreign.adapter(tmp_path / "both" / "plain", wide, seed=3)
    foreign.adapter(tmp_path / "both" / "bias", wide, labels=3, bias="lora_only")
    answers = served(tmp_path / "both", load_in_4bit=True)
    for task in ("plain", "bias"):
        assert np.abs(answers[task] - served(tmp_path / "both" / task, load_in_4bit=True)["label"]).max() < CLOSE
    set_in(tmp_path / "both" / "plain", init_lora_weights="olora")
    with pytest.raises(BundleError, match="in 4 bits is then rounded again"):
        load(tmp_path / "both", load_in_4bit=True)


def test_an_adapter_that_names_no_base_is_served_on_the_one_given(base: Path, tmp_path: Path) -> None:
    folder = foreign.adapter(tmp_path / "adapter", base)
    expected = in_peft(folder, base)
    set_in(folder, base_model_name_or_path=None)
    with pytest.raises(BundleError, match="does not name its base"):
        describe(folder)
    assert np.abs(served(folder, base=base)["label"] - expected).max() < CLOSE
