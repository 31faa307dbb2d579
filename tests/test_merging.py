"""Merged models, exported files and what they are made into: loaded by the libraries they are for."""

from __future__ import annotations

import json
from pathlib import Path

import foreign
import numpy as np
import pytest

from inference import ExportError, InputError, load, quantize_onnx
from inference.__main__ import main
from inference.artifacts.build import check_joined
from inference.artifacts.cache import obtain
from inference.artifacts.merging import export_merged
from inference.artifacts.parity import score_rows
from inference.formats.describe import describe


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.base(tmp_path_factory.mktemp("bases") / "base")


def test_a_merged_adapter_is_a_plain_model_that_transformers_loads_unchanged(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = foreign.adapter(tmp_path / "adapter", base)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    out = tmp_path / "merged"
    assert main(["merge", "--model", str(folder), str(out)]) == 0
    assert "equal labels 100.00%" in capsys.readouterr().out
    plain = AutoModelForSequenceClassification.from_pretrained(out)
    assert plain.config.id2label == {0: "no", 1: "yes"}
    expected = foreign.by_hand(foreign.peft_model(folder), base)
    assert np.abs(foreign.by_hand(plain, out) - expected).max() < 1e-4
    classifier = load(out)
    assert classifier.bundle.format == "transformers"
    assert np.abs(score_rows(classifier.predict(foreign.TEXTS)) - expected).max() < 1e-4


def test_one_of_several_adapters_is_merged_by_its_name(base: Path, tmp_path: Path) -> None:
    for labels, task in ((2, "mood"), (3, "topic")):
        foreign.adapter(tmp_path / "both" / task, base, labels=labels)
    with pytest.raises(InputError, match="has 2 tasks; name one of them: mood, topic"):
        export_merged(tmp_path / "both", tmp_path / "out")
    export_merged(tmp_path / "both", tmp_path / "out", task="topic", max_tokens=20)
    bundle = describe(tmp_path / "out")
    assert len(bundle.tasks["label"].labels) == 3
    assert bundle.max_tokens == 20


def test_invalid_merge_requests_are_rejected(base: Path, tmp_path: Path) -> None:
    whole = foreign.classifier(tmp_path / "whole")
    with pytest.raises(InputError, match="no PEFT adapter to merge"):
        export_merged(whole, tmp_path / "out")
    folder = foreign.adapter(tmp_path / "adapter", base)
    with pytest.raises(InputError, match="not empty"):
        export_merged(folder, whole)
    with pytest.raises(InputError, match="max_tokens=65 must be from 8 to 64"):
        export_merged(folder, tmp_path / "out", max_tokens=65)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_adapter_on_a_base_in_4_bits_is_served_and_merged_dequantised(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: requirements-qlora.txt")
    wide = foreign.base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    folder = foreign.adapter(tmp_path / "adapter", wide)
    full = score_rows(load(folder).predict(foreign.TEXTS))
    served = load(folder, load_in_4bit=True, cache=tmp_path / "cache")
    assert any("4bit" in type(module).__name__ for module in served.backend._network.modules())  # type: ignore[attr-defined]
    four_bit = score_rows(served.predict(foreign.TEXTS))
    assert np.abs(four_bit - full).max() > 1e-4  # the base is another one now
    drift = export_merged(folder, tmp_path / "out", load_in_4bit=True)
    assert drift["max_abs_dp"] < 0.05
    merged = score_rows(load(tmp_path / "out").predict(foreign.TEXTS))
    assert np.abs(merged - four_bit).max() < 0.05
    onnx = load(folder, "onnx", load_in_4bit=True, cache=tmp_path / "cache")
    assert np.abs(score_rows(onnx.predict(foreign.TEXTS)) - merged).max() < 1e-4
    built = obtain(describe(folder, four_bit=True), tmp_path / "cache")
    assert built.parity["backends"]["onnx"]["max_abs_dp"] < 1e-4
    assert built.parity["four_bit_drift"]["label"]["max_abs_dp"] > built.parity["backends"]["onnx"]["max_abs_dp"]


def test_a_base_that_is_stored_in_4_bits_is_known_by_its_config(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: requirements-qlora.txt")
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    wide = foreign.base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    folder = foreign.adapter(tmp_path / "adapter", wide)
    skipped = {"llm_int8_skip_modules": ["classifier", "pooler"]}
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **skipped)
    stored = AutoModelForSequenceClassification.from_pretrained(wide, quantization_config=config, device_map="cpu")
    stored.save_pretrained(tmp_path / "stored")
    foreign.write_tokenizer(tmp_path / "stored")
    assert describe(folder, tmp_path / "stored").four_bit
    expected = score_rows(load(folder, load_in_4bit=True).predict(foreign.TEXTS))
    answers = score_rows(load(folder, base=tmp_path / "stored").predict(foreign.TEXTS))
    assert np.abs(answers - expected).max() < 0.02


@pytest.mark.slow
def test_exported_files_are_a_model_again_and_answer_the_same(base: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "both", tmp_path / "cache"
    for seed, task in enumerate(("mood", "topic")):
        foreign.adapter(folder / task, base, seed=seed)
    made = load(folder, "onnx", cache=cache)
    written = made.export_onnx(tmp_path / "files", quantize=True)
    assert {path.name for path in written} >= {"mood.onnx", "mood_int8.onnx", "topic_config.json", "model.onnx"}
    for backend in ("onnx", "int8"):
        expected = load(folder, backend, cache=cache).predict_all_tasks(foreign.TEXTS)
        answers = load(tmp_path / "files", backend, cache=cache).predict_all_tasks(foreign.TEXTS)
        for task in ("mood", "topic"):
            assert np.abs(score_rows(answers[task]) - score_rows(expected[task])).max() < 1e-5
    with pytest.raises(InputError, match="has no PyTorch: its folder holds the files of ONNX and INT8"):
        load(tmp_path / "files", "pytorch")
    built = obtain(describe(tmp_path / "files"), cache)
    assert built.manifest["quantized"]["recipe"] == "as found"
    assert (built.manifest["quantized"]["held"], built.manifest["quantized"]["why"]) == (True, "Every bound holds.")
    assert {task: answers["label_agreement"] for task, answers in built.parity["single_graphs"].items()} == {
        "mood": 1,
        "topic": 1,
    }


@pytest.fixture
def exported(base: Path, tmp_path: Path) -> Path:
    """The files of two tasks, INT8 too, without the list that says how they were."""
    for seed, task in enumerate(("mood", "topic")):
        foreign.adapter(tmp_path / "both" / task, base, seed=seed)
    load(tmp_path / "both", "onnx", cache=tmp_path / "cache").export_onnx(tmp_path / "files", quantize=True)
    (tmp_path / "files" / "export.json").unlink()
    return tmp_path / "files"


def swap(folder: Path, ending: str) -> None:
    (folder / f"mood{ending}").rename(folder / "kept")
    (folder / f"topic{ending}").rename(folder / f"mood{ending}")
    (folder / "kept").rename(folder / f"topic{ending}")


@pytest.mark.slow
def test_int8_files_of_a_folder_that_differ_are_reported_out_of_bounds(exported: Path, tmp_path: Path) -> None:
    swap(exported, "_int8.onnx")
    made = obtain(describe(exported), tmp_path / "cache").manifest["quantized"]
    assert (made["recipe"], made["held"]) == ("as found", False)
    assert "probabilities of task 'mood' move by 0." in made["why"]


def test_joined_graph_that_differs_from_its_parts_is_not_kept(exported: Path, tmp_path: Path) -> None:
    joined = load(exported, "onnx", cache=tmp_path / "cache")
    assert check_joined(describe(exported), joined, foreign.TEXTS)["mood"]["max_abs_dp"] < 1e-5
    swap(exported, ".onnx")
    with pytest.raises(ExportError, match=r"does not answer as mood\.onnx does: largest"):
        check_joined(describe(exported), joined, foreign.TEXTS)


@pytest.mark.slow
def test_selected_tasks_are_exported_and_int8_can_follow(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("mood", "topic"):
        foreign.adapter(tmp_path / "both" / task, base)
    model = str(tmp_path / "both")
    out = tmp_path / "files"
    assert main(["export", "--model", model, "--cache", str(tmp_path / "cache"), "--tasks", "mood", str(out)]) == 0
    assert sorted(path.name for path in out.glob("*.onnx")) == ["mood.onnx"]
    size = (out / "mood.onnx").stat().st_size / 1e6
    assert f"{size:.1f} MB  {out / 'mood.onnx'}" in capsys.readouterr().out
    assert main(["quantize", str(out / "mood.onnx")]) == 0
    assert (out / "mood_int8.onnx").exists()
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0] == str(out / "mood_int8.onnx")
    assert lines[1].startswith("Recipe 'static': every product in INT8 with static scales. Every bound holds.")
    assert lines[2].startswith("Compared with mood.onnx on the showcase, on the worst task: largest |Δprobability|")
    assert quantize_onnx(out / "mood.onnx", tmp_path / "elsewhere.onnx") == tmp_path / "elsewhere.onnx"
    with pytest.raises(InputError, match="Unknown task 'intent'"):
        load(model, cache=tmp_path / "cache").export_onnx(out, tasks=["intent"])


@pytest.mark.slow
def test_json_output_is_a_single_document(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = foreign.adapter(tmp_path / "adapter", base)
    cache = ["--cache", str(tmp_path / "cache"), "--json"]
    capfd.readouterr()
    assert main(["merge", "--model", str(folder), "--json", str(tmp_path / "merged")]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["label_agreement"] == 1
    assert err == ""
    assert main(["export", "--model", str(folder), *cache, str(tmp_path / "files")]) == 0
    label = tmp_path / "files" / "label.onnx"
    output = json.loads(capfd.readouterr().out)
    assert str(label) in output["files"]
    assert output["size_bytes"][str(label)] == label.stat().st_size
    assert main(["quantize", "--json", str(label)]) == 0
    out, err = capfd.readouterr()
    output = json.loads(out)
    assert output["file"] == str(label.with_stem("label_int8"))
    assert output["tried"][-1]["label_agreement"] == 1
    assert err == ""
