"""Checkpoints with pickles become folders without, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TASKS, heads_of, saved, write_checkpoint, write_classifier
from torch import Tensor, nn

from inference import load
from inference.__main__ import main
from inference.artifacts.importing import import_rapidfit, import_weights
from inference.errors import BundleError, InferenceError, InputError
from inference.formats.bundle import Bundle

TEXTS = ["it was fine", "so bad, so so bad and then some more words", "a bus", "soup!"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "classifier")


def original(folder: Path, layers: int, activation: str, pooling: str) -> dict[str, Tensor]:
    """Probabilities of TEXTS, worked out from the checkpoint as RapidFit does."""
    from tokenizers import Tokenizer
    from transformers import AutoModel

    heads = heads_of(layers, activation).eval()
    heads.load_state_dict(torch.load(folder / "task_heads.pt", weights_only=True)["task_heads"])
    tokenizer = Tokenizer.from_file(str(folder / "encoder" / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(20)
    read = tokenizer.encode_batch(TEXTS)
    ids, mask = torch.tensor([r.ids for r in read]), torch.tensor([r.attention_mask for r in read])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder / "encoder").eval()(ids, mask).last_hidden_state
        pooled = {
            "mean": lambda: (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            "cls": lambda: hidden[:, 0],
            "max": lambda: hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1),
        }[pooling]()
        return {task: torch.softmax(head(pooled), -1) for task, head in heads.items()}


@pytest.mark.parametrize(
    ("layers", "activation", "pooling"),
    [(1, "gelu", "mean"), (0, "gelu", "cls"), (2, "relu", "max"), (1, "tanh", "mean"), (3, "silu", "cls")],
)
def test_an_imported_checkpoint_answers_as_it_did_before(
    checkpoint: Path, tmp_path: Path, layers: int, activation: str, pooling: str
) -> None:
    torch.save(saved(layers, activation, pooling), checkpoint / "task_heads.pt")
    notes = import_rapidfit(checkpoint, tmp_path / "out", max_length=20)
    assert notes == []
    classifier = load(tmp_path / "out")
    assert classifier.bundle.max_tokens == 20
    assert {task: list(answer.labels) for task, answer in classifier.tasks.items()} == TASKS
    assert list(classifier.tasks) == list(TASKS)
    for task, expected in original(checkpoint, layers, activation, pooling).items():
        for answer, row in zip(classifier.predict(TEXTS, task), expected, strict=True):
            assert answer.scores == pytest.approx(dict(zip(TASKS[task], row.tolist(), strict=True)), abs=1e-6)
            assert not answer.uncertain


def test_import_command_says_which_length_it_uses(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "rapidfit", str(checkpoint), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: ") and "using 64 (" in printed.err and "--max-length" in printed.err
    assert str(tmp_path / "out") in printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "bundle.json",
        "encoder/config.json",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        "heads.safetensors",
    ]


def test_last_limit_of_the_tokenizer_is_used(checkpoint: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path = str(checkpoint / "encoder" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(24)
    tokenizer.save(path)
    (note,) = import_rapidfit(checkpoint, tmp_path / "out")
    assert "using 24 (" in note
    assert Bundle.read(tmp_path / "out").max_tokens == 24


def test_an_encoder_without_tokenizer_json_and_with_a_pickle_is_converted(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    import_rapidfit(checkpoint, tmp_path / "before", 20)
    encoder = checkpoint / "encoder"
    words = json.loads((encoder / "tokenizer.json").read_text())["model"]["vocab"]
    (encoder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    (encoder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (encoder / "tokenizer.json").unlink()
    torch.save(load_file(encoder / "model.safetensors"), encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    import_rapidfit(checkpoint, tmp_path / "after", 20)
    before, after = load(tmp_path / "before"), load(tmp_path / "after")
    assert after.tokenize(TEXTS).ids == before.tokenize(TEXTS).ids
    assert after.predict(TEXTS, "topic") == before.predict(TEXTS, "topic")


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.pop(key)


def _head(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["head_config"].update(fields)


def _weight(key: str, tensor: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["task_heads"].update({key: tensor})


def _rename(raw: dict[str, Any], name: Any) -> None:
    for key in ("task_num_labels", "task_label2id", "task_id2label"):
        raw[key][name] = raw[key].pop("mood")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("task_heads"), "'task_heads' is missing"),
        (_without("task_id2label"), "'task_id2label' is missing"),
        (lambda raw: raw.update(extra=1), "'extra' is missing, or is not something that RapidFit writes"),
        (lambda raw: raw.update(pooling="median"), "pooling is 'median'; known are mean, cls, max"),
        (lambda raw: raw.update(pooling=["mean"]), "pooling is a list"),
        (lambda raw: raw.update(task_heads=3), "does not hold a state dictionary"),
        (lambda raw: raw.update(task_num_labels=[]), "task_num_labels must be a dictionary, not a list"),
        (lambda raw: raw["task_num_labels"].pop("mood"), "must name the same tasks"),
        (lambda raw: raw["task_num_labels"].update(mood=3), "not numbered from 0 to 2"),
        (lambda raw: raw["task_num_labels"].update(mood=True), "has True labels"),
        (lambda raw: raw["task_num_labels"].update(mood=10**9), "has 1000000000 labels; it needs 2 to 10,000"),
        (lambda raw: raw["task_id2label"].update(mood={0: "down", 2: "up"}), "not numbered from 0 to 1"),
        (lambda raw: raw["task_id2label"].update(mood={0: "down", 1: 5}), "are not all text"),
        (lambda raw: raw["task_id2label"].update(mood={0: "up", 1: "down"}), "do not agree on task 'mood'"),
        (lambda raw: raw["task_id2label"].update(mood={0: "up", 1: "up"}), "do not agree on task 'mood'"),
        (lambda raw: _rename(raw, "../x"), "task '../x' must be 1 to 64 letters"),
        (lambda raw: _rename(raw, 7), "task 7 is not a name"),
        (_head(hidden_layers=9), "hidden_layers is 9; it is a whole number from 0 to 8"),
        (_head(hidden_layers=1.0), "hidden_layers is 1.0"),
        (_head(hidden_layers=2), "task_heads lacks 'topic.3.weight', a tensor of numbers of shape (32, 32)"),
        (_head(hidden_multiplier=2.0), "task_heads lacks 'topic.0.weight', a tensor of numbers of shape (64, 32)"),
        (_head(hidden_multiplier=float("nan")), "hidden_multiplier is nan"),
        (_head(hidden_multiplier=1e9), "hidden_multiplier is 1000000000.0"),
        (_head(activation="swish"), "activation is 'swish'; known are gelu, relu, silu, tanh"),
        (_weight("mood.0.bias", torch.full((32,), float("nan"))), "'mood.0.bias' holds NaN or infinity"),
        (_weight("mood.0.bias", torch.zeros(31)), "task_heads lacks 'mood.0.bias'"),
        (_weight("mood.0.bias", torch.zeros(32, dtype=torch.long)), "task_heads lacks 'mood.0.bias'"),
        (_weight("mood.0.bias", "text"), "'mood.0.bias', which is not a tensor"),
        (_weight("mood.9.bias", torch.zeros(2)), "'mood.9.bias', which belongs to no layer"),
        (_weight("mood.0.bias", torch.zeros(1).expand(10**12)), "many times larger than the file"),
    ],
)
def test_a_value_that_rapidfit_never_writes_is_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    raw = saved()
    change(raw)
    torch.save(raw, checkpoint / "task_heads.pt")
    with pytest.raises(BundleError) as error:
        import_rapidfit(checkpoint, tmp_path / "out", 20)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("length", [7, 65, -1])
def test_a_length_that_the_encoder_cannot_read_is_refused(checkpoint: Path, tmp_path: Path, length: int) -> None:
    with pytest.raises(InputError, match=rf"max_length={length} must be from 8 to 64"):
        import_rapidfit(checkpoint, tmp_path / "out", length)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("config.json", {"text_config": [{"trust_remote_code": True}]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("adapter_config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
    ],
)
def test_folder_with_custom_code_is_refused(
    checkpoint: Path, classifier: Path, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    for folder in (checkpoint / "encoder", classifier):
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))
    with pytest.raises(BundleError, match="code of its own"):
        import_weights(classifier, tmp_path / "out")
    if name != "adapter_config.json":
        (checkpoint / "encoder" / "tokenizer.json").unlink()  # else its settings are not even opened
        with pytest.raises(BundleError, match="code of its own"):
            import_rapidfit(checkpoint, tmp_path / "out", 20)


def test_existing_files_are_never_touched(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    import_rapidfit(checkpoint, out, 20)  # empty: taken
    before = sorted(out.rglob("*"))
    for run in (lambda: import_rapidfit(checkpoint, out, 20), lambda: import_weights(checkpoint, out)):
        with pytest.raises(InferenceError, match=r"is not empty|neither pytorch_model"):
            run()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        import_rapidfit(checkpoint, tmp_path / "file", 20)
    assert sorted(out.rglob("*")) == before


def test_a_link_out_of_the_folder_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    path = checkpoint / "encoder" / "config.json"
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(BundleError, match="is a link to a place outside the model folder"):
        import_rapidfit(checkpoint, tmp_path / "out", 20)


def test_an_encoder_that_lacks_a_weight_is_refused_and_one_without_pooler_is_not(
    checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "encoder" / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("pooler.")}
    save_file(weights, path, metadata={"format": "pt"})
    import_rapidfit(checkpoint, tmp_path / "whole", 20)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"lacks 1 weights, including encoder\.layer\.1\.output\.dense\.weight"):
        import_rapidfit(checkpoint, tmp_path / "out", 20)


def test_folder_without_a_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no task_heads\.pt, so it is not a RapidFit checkpoint"):
        import_rapidfit(tmp_path / "nothing", tmp_path / "out")
    (checkpoint / "encoder" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="The tokenizer in .* cannot be read"):
        import_rapidfit(checkpoint, tmp_path / "out")
    (checkpoint / "encoder" / "config.json").unlink()
    with pytest.raises(BundleError, match=r"no config\.json, so it is not an encoder"):
        import_rapidfit(checkpoint, tmp_path / "out")
    with pytest.raises(BundleError, match="No model folder"):
        import_weights(tmp_path / "nothing", tmp_path / "out")


# --- The weights of a Hugging Face or PEFT folder


def test_weights_in_a_pickle_become_safetensors_and_nothing_else_comes_along(classifier: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert main(["import", "weights", str(classifier), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    expected = torch.load(classifier / "pytorch_model.bin", weights_only=True)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert load(tmp_path / "out").predict("it was fine").label in ("down", "up")


def test_tensors_that_share_memory_are_all_kept(classifier: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    table = torch.arange(12.0).reshape(3, 4)
    odd = {"a": table, "b": table, "half": table[1:], "turned": table.T, "number": torch.tensor(7)}
    torch.save(odd | {"parameter": nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}, classifier / "adapter_model.bin")
    import_weights(classifier, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in odd.items())
    assert tensors["parameter"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([torch.ones(2)], "does not hold a state dictionary"),
        ({}, "does not hold a state dictionary"),
        ({"state_dict": {"a": torch.ones(2)}}, "'state_dict', which is not a tensor"),
        ({"a": torch.ones(2), 3: torch.ones(2)}, "3, which is not a tensor"),
        ({"a": torch.tensor([1.0, float("inf")])}, "'a' holds NaN or infinity"),
        ({"a": torch.zeros(1).expand(10**12)}, "many times larger than the file"),
    ],
)
def test_pickles_without_weights_are_refused(classifier: Path, tmp_path: Path, raw: Any, message: str) -> None:
    torch.save(raw, classifier / "pytorch_model.bin")
    with pytest.raises(BundleError) as error:
        import_weights(classifier, tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_folder_without_importable_weights_gets_the_reason(classifier: Path, tmp_path: Path) -> None:
    (classifier / "pytorch_model.bin").rename(classifier / "pytorch_model-00001-of-00002.bin")
    (classifier / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(BundleError, match="has neither"):
        import_weights(classifier, tmp_path / "out")
    (classifier / "model.safetensors").touch()
    with pytest.raises(BundleError, match="safetensors already"):
        import_weights(classifier, tmp_path / "out")
