"""OpenVINO is an optional runtime: built and offered where it is installed and asked for, and nowhere else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Tiny
from outgoing import Recorder

from inference import ExportError, InputError, load
from inference.artifacts.cache import Artifact, deployed_files, find, model_sizes, obtain
from inference.backends import STANDARD, check_backend, read_optional
from inference.classifier import Classifier
from inference.commands.main import main
from inference.compare.footprint import footprint
from inference.formats.bundle import Bundle
from inference.loading import Models
from ui.start import ServerSettings

TEXTS = ["it was bad", "a fine soup", "bus", "so so so it was a lamp", "WAS IT FINE?!"]
IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
with_openvino = pytest.mark.skipif(not IS_INSTALLED, reason="needs requirements-openvino.txt")


def asked(tiny: Tiny) -> Bundle:
    return Bundle.read(tiny.folder).with_runtimes(["openvino"])


# --- Where nobody asks


def test_model_is_neither_offered_nor_built_for_it_unasked(tiny: Tiny) -> None:
    models = Models.of_folder(tiny.folder, tiny.cache, base=tiny.base)
    assert models.bundle.backends == STANDARD
    assert list(models.sizes) == list(STANDARD)
    with pytest.raises(InputError, match="OpenVINO is not offered here. Available: pytorch, onnx, int8."):
        models.get("openvino")


def test_its_libraries_are_not_imported_unasked(tiny: Tiny) -> None:
    code = (
        "import sys; from inference.loading import Models\n"
        f"models = Models.of_folder({str(tiny.folder)!r}, __import__('pathlib').Path({str(tiny.cache)!r}), "
        f"base={tiny.base!r})\n".replace("PosixPath", "__import__('pathlib').Path")
        + "models.get('int8').predict('fine', 'mood'); print({'openvino', 'nncf', 'inference.onnx.openvino'} "
        "& set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cuda"}, "device='cuda' is not for OpenVINO: it is made for CPUs here. Use backend='onnx'"),
        ({"device": "auto"}, "device='auto' is not for OpenVINO"),
        (
            {"dtype": "bfloat16"},
            "dtype='bfloat16' is not for OpenVINO, whose types are fixed in its file. Leave it out",
        ),
        ({"compile": True}, "compile=True is for PyTorch"),
    ],
)
def test_what_it_cannot_do_is_refused(tiny: Tiny, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load(tiny.folder, "openvino", base=tiny.base, cache=tiny.cache, **options)


@pytest.mark.skipif(IS_INSTALLED, reason="it is installed")
@pytest.mark.parametrize("command", ["predict --backend openvino fine", "build --runtimes openvino"])
def test_missing_library_is_named_with_how_to_install_it(
    tiny: Tiny, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command.split()
    assert main([name, f"--model={tiny.folder}", f"--base={tiny.base}", f"--cache={tiny.cache}", *rest]) == 2
    error = capsys.readouterr().err
    assert "which is not installed. Install it: pip install -r requirements-openvino.txt" in error


def test_environment_names_optional_runtimes_only() -> None:
    assert ServerSettings.read({}).runtimes == ()
    assert ServerSettings.read({"TRIPTYCH_RUNTIMES": " openvino "}).runtimes == ("openvino",)
    assert ServerSettings.read({"TRIPTYCH_BACKEND": "openvino"}).runtimes == ("openvino",)
    with pytest.raises(InputError, match="TRIPTYCH_RUNTIMES: INT8 is always offered. Name only optional runtimes"):
        ServerSettings.read({"TRIPTYCH_RUNTIMES": "openvino,int8"})
    with pytest.raises(InputError, match="Unknown runtime 'tflite'"):
        read_optional("--runtimes", "tflite")


def test_optional_runtime_that_is_not_offered_is_not_blamed_on_the_model() -> None:
    with pytest.raises(InputError, match="OpenVINO is not offered here"):
        check_backend("openvino", ("onnx", "int8"))


# --- Where it is asked for


@pytest.fixture(scope="module")
def built(tiny: Tiny) -> Artifact:
    return obtain(asked(tiny), tiny.cache, base=tiny.base)


@pytest.fixture(scope="module")
def classifier(tiny: Tiny, built: Artifact) -> Classifier:
    return load(tiny.folder, "openvino", base=tiny.base, cache=tiny.cache, threads=2)


@with_openvino
def test_answers_are_near_those_of_onnx_alone_and_in_a_batch(tiny: Tiny, classifier: Classifier) -> None:
    expected = load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache).predict_all_tasks(TEXTS)
    batched = classifier.predict_all_tasks(TEXTS)
    for task, predictions in batched.items():
        for i, prediction in enumerate(predictions):
            alone = classifier.predict_all_tasks(TEXTS[i])[task]
            assert (prediction.label, prediction.label) == (alone.label, expected[task][i].label)
            assert prediction.scores == pytest.approx(alone.scores, abs=1e-4)
            assert prediction.scores == pytest.approx(expected[task][i].scores, abs=0.2)


@with_openvino
def test_its_files_are_found_again_beside_those_of_the_model(tiny: Tiny, built: Artifact) -> None:
    steps: list[str] = []
    again = obtain(asked(tiny), tiny.cache, lambda step, share: steps.append(step), tiny.base)
    assert (again.folder, again.optional, steps) == (built.folder, built.optional, [])
    standard = find(Bundle.read(tiny.folder), tiny.cache)
    assert standard is not None
    assert (standard.folder, standard.optional) == (built.folder, {})
    folder = built.of("openvino").folder
    assert folder.parent == tiny.cache and folder.name.startswith("openvino-")
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "model.openvino.xml",
        "model.openvino_weights.bin",
    }


@with_openvino
def test_manifest_says_how_far_it_agrees_and_with_what(built: Artifact) -> None:
    assert list(built.parity["backends"]) == ["onnx", "int8", "openvino"]
    figures = built.parity["backends"]["openvino"]
    assert (figures["reference"], figures["batch_flips"]) == ("onnx", 0)
    manifest = built.of("openvino").manifest
    assert manifest["quantized"]["held"]
    assert {"openvino", "nncf"} <= set(manifest["tools"])


@with_openvino
@pytest.mark.parametrize(
    "name",
    [
        "model.openvino.xml",
        pytest.param("model.openvino_weights.bin", marks=pytest.mark.slow),
        pytest.param("manifest.json", marks=pytest.mark.slow),
    ],
)
def test_damaged_file_is_noticed_and_made_again(tiny: Tiny, built: Artifact, tmp_path: Path, name: str) -> None:
    own = tiny.copy(tmp_path)
    artifact = find(asked(own), own.cache)
    assert artifact is not None
    path = artifact.of("openvino").folder / name
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    again = obtain(asked(own), own.cache, base=own.base)
    assert again.read("openvino").weights
    assert path.read_bytes() != half


@with_openvino
def test_size_is_that_of_its_files_and_of_a_measurement(tiny: Tiny, built: Artifact) -> None:
    bundle = asked(tiny)
    paths = deployed_files(bundle, built, "openvino", tiny.base)
    assert list(paths) == ["model.openvino.xml", "model.openvino_weights.bin", "tokenizer.json", "bundle.json"]
    assert model_sizes(bundle, built, tiny.base)["openvino"] == sum(path.stat().st_size for path in paths.values())
    measured = footprint(bundle, built, "openvino", tiny.base)
    assert measured["dtypes"]["int8"]["bytes"] > 1000
    assert measured["files"]["model.openvino.xml"]["kind"] == "graph"
    assert "openvino" in measured["libraries"]


@with_openvino
def test_lanes_and_threads_change_no_bit_of_an_answer(tiny: Tiny, built: Artifact, classifier: Classifier) -> None:
    bundle, texts = asked(tiny), TEXTS * 8
    tokens = classifier.tokenize(texts)
    batches = list(classifier.batches([len(ids) for ids in tokens.ids], 4))
    feeds = [tokens.feed(rows, bundle.pad_id) for rows in batches]
    alone = load(tiny.folder, "openvino", base=tiny.base, cache=tiny.cache, threads=1).backend
    assert alone.single_threaded() is None
    expected = [alone.logits(**feed) for feed in feeds]
    for threads in (2, 4):
        wide = load(tiny.folder, "openvino", base=tiny.base, cache=tiny.cache, threads=threads).backend
        beside = wide.single_threaded()
        assert beside is not None
        assert (beside.name, beside.threads, wide.single_threaded()) == ("openvino", 1, beside)
        with ThreadPoolExecutor(threads) as lanes:
            side_by_side = [job.result() for job in [lanes.submit(beside.logits, **feed) for feed in feeds]]
        for answers in (side_by_side, [wide.logits(**feed) for feed in feeds]):
            for answer, right in zip(answers, expected, strict=True):
                assert all(np.array_equal(answer[task], right[task]) for task in right)


@with_openvino
def test_server_offers_it_if_asked(tiny: Tiny, built: Artifact) -> None:
    models = Models.of_folder(tiny.folder, tiny.cache, base=tiny.base, runtimes=("openvino",))
    assert models.bundle.backends == (*STANDARD, "openvino")
    assert list(models.sizes) == list(models.bundle.backends)
    assert list(models.compare("it was bad", None)) == list(models.bundle.backends)


@with_openvino
@pytest.mark.slow
def test_folder_of_exported_graphs_runs_on_it_too(tiny: Tiny, tmp_path: Path) -> None:
    onnx = load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache)
    onnx.export_onnx(tmp_path / "exported")
    expected = onnx.predict_all_tasks(TEXTS)
    for task, predictions in load(tmp_path / "exported", "openvino", cache=tmp_path).predict_all_tasks(TEXTS).items():
        for prediction, right in zip(predictions, expected[task], strict=True):
            assert prediction.scores == pytest.approx(right.scores, abs=0.2)


@with_openvino
def test_info_shows_it_once_it_is_built(tiny: Tiny, built: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", f"--model={tiny.folder}", f"--base={tiny.base}", f"--cache={tiny.cache}"]) == 0
    text = capsys.readouterr().out
    assert "parity  OpenVINO: same label as ONNX on" in text
    assert ", OpenVINO " in text


@with_openvino
def test_answers_out_of_bounds_are_refused_with_the_reason(tiny: Tiny, built: Artifact, tmp_path: Path) -> None:
    from inference.onnx import openvino

    plain = obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)
    ids = np.array([[1, 2, 3]])
    feeds = [{"input_ids": ids, "attention_mask": np.ones_like(ids)}]
    bad = {"tasks": {"mood": {"label_agreement": 0.5, "mean_abs_dp": 0.3, "max_abs_dp": 0.9}}, "batch_flips": 0}
    with pytest.raises(ExportError, match="not close enough to FP32. Out of bounds: 50.0% of the labels"):
        openvino.quantize(plain.folder / "model.onnx", tmp_path / "a.xml", feeds, lambda path: bad, reduce_range=False)


@with_openvino
@pytest.mark.slow
def test_nothing_is_reported_and_nothing_is_printed(tiny: Tiny, built: Artifact, tmp_path: Path) -> None:
    # Not in this process: nncf reports nothing from tests.
    home = tmp_path / "home"
    home.mkdir()
    own = tiny.copy(tmp_path / "own")
    for folder in own.cache.glob("openvino-*"):
        folder.rename(tmp_path / folder.name)  # it is built here
    env = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    env |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "inference", "predict", f"--model={own.folder}", f"--base={own.base}"]
    command += [f"--cache={own.cache}", "--backend=openvino", "--json", "so fine"]
    with Recorder() as recorder:
        process = recorder.start(command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        out, error = process.communicate(timeout=300)
    assert (process.returncode, recorder.records, list(home.iterdir()), error) == (0, [], [], "")
    assert out.startswith("{") and out.endswith("}\n")
