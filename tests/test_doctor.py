"""`python -m inference doctor`: each planted fault is found and told of, and a healthy model has none."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import foreign
import pytest
from hostile import Spoil, both, drop, edit, healthy, pickled, remove, tensors

from inference.__main__ import main
from inference.commands.doctor import Finding, examine

CONFIG, SETTINGS, WEIGHTS = "config.json", "tokenizer_config.json", "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy")
    healthy(root)
    for kind, names in (("adapter", ["."]), ("adapters", ["mood", "topic"])):
        for name in names:
            edit(CONFIG, id2label={"0": "no", "1": "yes"}, problem_type="single_label_classification")(
                root / kind / "model" / name
            )
    return root


def graver(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.severity != "note"]


@pytest.mark.parametrize("kind", ["classifier", "shards", "adapter", "adapters", "bundle"])
def test_healthy_model_has_no_errors_or_warnings(kind: str, originals: Path, tmp_path: Path) -> None:
    findings = examine(originals / kind / "model", cache=tmp_path)
    assert graver(findings) == []
    assert any("not built yet" in one.what for one in findings)


def half(held: dict[str, Any]) -> None:
    for name in held:
        held[name] = held[name].half()


def headless(held: dict[str, Any]) -> None:
    del held["classifier.weight"], held["classifier.bias"]


@pytest.mark.parametrize(
    ("kind", "spoil", "severity", "says"),
    [
        ("classifier", tensors(WEIGHTS, headless), "error", r"head is not in .*classifier.bias, classifier.weight"),
        ("classifier", tensors(WEIGHTS, lambda t: t["classifier.bias"].zero_()), "warning", "bias is 0"),
        (
            "classifier",
            tensors(WEIGHTS, lambda t: t.update(extra=t["classifier.bias"] * 1)),
            "warning",
            "1 tensors .*ex",
        ),
        ("classifier", tensors(WEIGHTS, half), "note", "stored as F16"),
        ("classifier", edit(CONFIG, label2id={"bad": 1, "good": 0}), "error", "label2id contradicts id2label"),
        ("classifier", edit(CONFIG, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={}), "warning", "no names"),
        ("adapter", remove(CONFIG), "warning", "no names"),
        ("classifier", drop(CONFIG, "pad_token_id"), "warning", "no pad_token_id"),
        ("classifier", edit(CONFIG, pad_token_id=5), "warning", "pads with '.PAD.' .id 0., .* says 5"),
        ("classifier", drop(SETTINGS, "pad_token"), "warning", "has no pad_token"),
        ("classifier", edit(SETTINGS, model_max_length=10**30), "warning", "does not record the maximum length"),
        ("classifier", edit(SETTINGS, model_max_length=5_000), "warning", "5,000 tokens, .* only 64 positions"),
        ("classifier", edit(SETTINGS, cls_token="<start>"), "error", "no such token|read .* differently"),
        ("classifier", edit(SETTINGS, tokenizer_class="BertTokenizer", do_lower_case=False), "warning", "differently"),
        ("classifier", edit(CONFIG, auto_map={"AutoModel": "evil.M"}), "error", "code of its own"),
        ("classifier", both(remove(WEIGHTS), pickled("pytorch_model.bin")), "error", "inference import weights"),
        ("classifier", edit(CONFIG, quantization_config={"quant_method": "gptq"}), "error", "quantised .gptq"),
        ("classifier", remove("tokenizer.json"), "error", "no tokenizer"),
        ("bundle", edit(f"encoder/{CONFIG}", note=1), "error", "has SHA-256"),
        ("bundle", remove("heads.safetensors"), "error", "heads.safetensors is missing"),
    ],
)
def test_a_planted_fault_is_found(
    kind: str, spoil: Spoil, severity: str, says: str, originals: Path, tmp_path: Path
) -> None:
    shutil.copytree(originals / kind, tmp_path / "case")
    spoil(tmp_path / "case" / "model")
    findings = examine(tmp_path / "case" / "model", cache=tmp_path / "cache")
    assert any(one.severity == severity and re.search(says, one.what) for one in findings), findings
    assert all(one.what.isprintable() for one in findings)


def test_base_without_a_revision_is_a_warning(originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / "adapter", tmp_path / "case")
    edit("adapter_config.json", base_model_name_or_path="some/body")(tmp_path / "case" / "model")
    findings = examine(tmp_path / "case" / "model", tmp_path / "case" / "base", tmp_path)
    assert [one.what for one in graver(findings)] == ["the adapter names its base some/body without a revision"]


def test_tokenizer_of_another_model_is_a_warning(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", vocab_size=200)
    assert any("has 86 tokens" in one.what for one in graver(examine(folder, cache=tmp_path)))


def test_refused_model_is_checked_further(originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / "classifier" / "model", tmp_path / "model")
    edit(CONFIG, model_type="brain", label2id={"bad": 1, "good": 0})(tmp_path / "model")
    errors = [one.what for one in examine(tmp_path / "model") if one.severity == "error"]
    assert len(errors) == 2
    assert "model_type 'brain'" in errors[0]
    assert "label2id" in errors[1]


def test_doctor_prints_remedies_and_exits_with_1_on_errors(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "my model")
    shutil.copytree(originals / "classifier" / "model", model)
    for how in ([model], ["--model", model]):
        assert main(["doctor", *how, "--cache", str(tmp_path / "cache")]) == 0
        note, do, last = capsys.readouterr().out.splitlines()
        assert note == "note     ONNX and INT8 are not built yet"
        assert shlex.split(do)[-5:] == ["-m", "inference", "build", "--model", model]
        assert Path(shlex.split(do)[1]).resolve() == Path(sys.executable).resolve()
        assert last == f"{model}: no errors, no warnings."
    assert main(["doctor", str(tmp_path / "none"), "--json"]) == 1
    lines = json.loads(capsys.readouterr().out)
    assert "No model folder" in lines["findings"][0]["what"]
    assert main(["doctor", str(tmp_path / "none")]) == 1
    error, last = capsys.readouterr().out.splitlines()
    assert error.startswith("error    No model folder")
    assert last.endswith(": 1 error, no warnings.")
    assert main(["doctor", "hf://nobody/none-of-it"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "nobody/none-of-it: 1 error, no warnings."
