"""ONNX and INT8 files are built once, found again, and never used when they are not what was built."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, Tiny

from inference import load
from inference.artifacts import build as building
from inference.artifacts import cache
from inference.artifacts.cache import Artifact, default_cache, find, model_sizes, obtain
from inference.classifier import Classifier
from inference.compare.footprint import footprint
from inference.errors import BundleError, ExportError, InputError, MissingDependencyError
from inference.formats.bundle import Bundle
from inference.formats.identity import content_key

TEXTS = ["it was bad", "a fine soup", "bus", "so so so it was a lamp", "WAS IT FINE?!"]


@pytest.fixture(scope="module")
def built(tiny: Tiny) -> Artifact:
    return obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)


@pytest.fixture
def own(tiny: Tiny, built: Artifact, tmp_path: Path) -> Tiny:
    """A copy of everything, for tests that break something."""
    return tiny.copy(tmp_path)


@pytest.fixture(scope="module", params=["pytorch", "onnx", "int8"])
def classifier(request: pytest.FixtureRequest, tiny: Tiny, built: Artifact) -> Classifier:
    return load(tiny.folder, request.param, base=tiny.base, cache=tiny.cache)


def test_every_backend_answers_every_task_the_same_alone_and_in_a_batch(classifier: Classifier) -> None:
    batched = classifier.predict_all_tasks(TEXTS)
    for i, text in enumerate(TEXTS):
        for task, alone in classifier.predict_all_tasks(text).items():
            assert batched[task][i].label == alone.label
            assert batched[task][i].scores == pytest.approx(alone.scores, abs=1e-5)


def test_every_backend_has_learnt_the_keywords(classifier: Classifier) -> None:
    answers = classifier.predict_all_tasks(["it was bad", "fine", "a soup", "bus"])
    assert [p.label for p in answers["mood"]][:2] == ["down", "up"]
    assert [p.label for p in answers["topic"]][2:] == ["food", "travel"]


def test_every_backend_refuses_control_characters_alone(classifier: Classifier) -> None:
    with pytest.raises(Exception, match=r"texts\[1\] has nothing to classify"):
        classifier.predict(["fine", "\x00\x01"], "mood")


def test_onnx_agrees_with_pytorch_and_int8_is_near(built: Artifact) -> None:
    parity = built.parity["backends"]
    assert parity["onnx"]["max_abs_dp"] < 1e-4
    assert parity["onnx"]["label_agreement"] == 1
    assert parity["int8"]["max_abs_dp"] < 0.2
    assert parity["int8"]["batch_flips"] == 0


def test_attention_and_layer_norms_are_fused(built: Artifact) -> None:
    assert built.manifest["fused"]["Attention"] == 2
    assert built.manifest["fused"]["SkipLayerNormalization"] >= 4


def test_a_second_call_builds_nothing(tiny: Tiny, built: Artifact) -> None:
    steps: list[str] = []
    again = obtain(Bundle.read(tiny.folder), tiny.cache, lambda step, share: steps.append(step))
    assert again.folder == built.folder
    assert steps == []


def test_sizes_cover_the_backends_of_the_model(tiny: Tiny, built: Artifact) -> None:
    bundle = Bundle.read(tiny.folder)
    assert list(model_sizes(bundle, built, tiny.base)) == ["pytorch", "onnx", "int8"]
    assert list(model_sizes(bundle, None, tiny.base)) == ["pytorch"]
    assert list(model_sizes(bundle, built)) == ["onnx", "int8"]  # its base is nowhere
    exported = replace(bundle, format="onnx", backends=("onnx", "int8"), base=None)
    assert list(model_sizes(exported, built)) == ["onnx", "int8"]


def test_a_size_is_that_of_a_measurement(tiny: Tiny, built: Artifact) -> None:
    bundle = Bundle.read(tiny.folder)
    for backend, size_bytes in model_sizes(bundle, built, tiny.base).items():
        files = footprint(bundle, built, backend, tiny.base)["files"].values()
        assert sum(file["bytes"] for file in files) == size_bytes


def test_progress_runs_from_zero_to_one(own: Tiny) -> None:
    shares: list[float] = []
    obtain(Bundle.read(own.folder), own.cache / "new", lambda step, share: shares.append(share), own.base)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "tokenizer.json", "manifest.json"])
def test_a_damaged_artefact_is_noticed_and_rebuilt(own: Tiny, name: str) -> None:
    bundle = Bundle.read(own.folder)
    artifact = find(bundle, own.cache)
    assert artifact is not None
    path = artifact.folder / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    again = obtain(bundle, own.cache, base=own.base)
    assert again.read("int8") and again.read("onnx") and again.tokenizer_file()
    assert (again.folder / name).read_bytes() != data[: len(data) // 2]


def test_a_damaged_file_is_refused_when_it_is_read(own: Tiny) -> None:
    artifact = find(Bundle.read(own.folder), own.cache)
    assert artifact is not None
    path = artifact.folder / "model.int8.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"model.int8.onnx is damaged.*python -m inference build"):
        artifact.read("int8")


def test_any_change_of_the_model_is_another_artefact(own: Tiny) -> None:
    before = content_key(Bundle.read(own.folder))
    path = own.folder / "bundle.json"
    described = json.loads(path.read_text())
    other_base = {**described["base"]["files"], "config.json": "0" * 64}
    for change in ({"max_tokens": 12}, {"pooling": "cls"}, {"base": {**described["base"], "files": other_base}}):
        path.write_text(json.dumps({**described, **change}))
        assert content_key(Bundle.read(own.folder)) != before
    described["tasks"]["mood"]["labels"].reverse()
    path.write_text(json.dumps(described))
    assert content_key(Bundle.read(own.folder)) != before


def test_a_new_threshold_needs_no_new_artefact(own: Tiny) -> None:
    before = content_key(Bundle.read(own.folder))
    path = own.folder / "bundle.json"
    described = json.loads(path.read_text())
    described["tasks"]["mood"]["threshold"] = 0.99
    path.write_text(json.dumps(described))
    assert content_key(Bundle.read(own.folder)) == before


def test_other_library_versions_are_another_artefact(
    tiny: Tiny, built: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "tool_versions", lambda: dict.fromkeys(cache.TOOLS, "0"))
    assert find(Bundle.read(tiny.folder), tiny.cache) is None


def test_without_the_export_libraries_the_built_files_are_used(
    tiny: Tiny, built: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "tool_versions", lambda: {"onnxruntime": "1"})
    assert obtain(Bundle.read(tiny.folder), tiny.cache).folder == built.folder


def test_without_the_export_libraries_a_missing_artefact_says_what_is_missing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "tool_versions", lambda: {"onnxruntime": "1"})
    with pytest.raises(MissingDependencyError, match="needs onnx, peft, torch, transformers"):
        obtain(Bundle.read(tiny.folder), tmp_path)


def test_a_build_that_disagrees_with_pytorch_is_not_kept(own: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.artifacts.parity.FP32_TOLERANCE", -1.0)
    cache = own.cache / "new"
    artifact = obtain(Bundle.read(own.folder), cache, base=own.base)
    assert not (artifact.folder / "model.onnx").exists()
    assert not (artifact.folder / "model.int8.onnx").exists()
    with pytest.raises(ExportError, match=r"has no ONNX: The ONNX model does not agree with PyTorch"):
        load(own.folder, "onnx", cache=cache, base=own.base)
    assert load(own.folder, "pytorch", cache=cache, base=own.base).predict_all_tasks("fine")


def _build(folder: Path, base: Path, cache: Path, builds: object) -> None:
    obtain(Bundle.read(folder), cache, lambda step, share: builds.put(share) if share == 0 else None, base)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_that_start_at_once_build_once(own: Tiny) -> None:
    context = multiprocessing.get_context("spawn")
    builds = context.Queue()
    arguments = (own.folder, own.base, own.cache / "new", builds)
    processes = [context.Process(target=_build, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert builds.get(timeout=300) == 0
    assert builds.empty()


@pytest.mark.slow
def test_a_build_that_was_killed_leaves_nothing_that_is_used(own: Tiny) -> None:
    cache = own.cache / "new"
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from inference.artifacts.cache import obtain\nfrom inference.formats.bundle import Bundle\n"
        "stop = lambda step, share: os._exit(9) if share > 0.2 else None\n"
        "folder, cache, base = map(Path, sys.argv[1:])\n"
        "obtain(Bundle.read(folder), cache, stop, base)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, own.folder, cache, own.base], cwd=ROOT, check=False)
    assert done.returncode == 9
    bundle = Bundle.read(own.folder)
    assert find(bundle, cache) is None
    assert obtain(bundle, cache, base=own.base).read("int8")
    assert [path.name for path in cache.iterdir() if ".tmp-" in path.name] == []


def test_onnx_and_int8_answer_where_torch_cannot_be_imported(tiny: Tiny, built: Artifact) -> None:
    script = (
        "import sys\n"
        "gone = ['torch', 'transformers', 'peft', 'onnx', 'filelock', 'sklearn', 'tqdm', 'safetensors']\n"
        "gone += ['huggingface_hub']\n"
        "sys.modules.update(dict.fromkeys(gone))\n"
        "import importlib.metadata as m\n"
        "version = m.version\n"
        "m.version = lambda name: version('no-such-' + name if name in gone else name)\n"
        "from inference import load\n"
        "for backend in ('onnx', 'int8'):\n"
        "    c = load(sys.argv[1], backend, cache=sys.argv[2])\n"
        "    print(c.predict('it was bad', 'mood').label)\n"
        "try:\n"
        "    load(sys.argv[1], 'pytorch', base=sys.argv[3])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tiny.folder, tiny.cache, tiny.base],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["down", "down"]
    assert lines[2].startswith("MissingDependencyError Runtime 'pytorch' needs the library 'torch'")


def test_large_graph_is_tried_with_fewer_texts(tmp_path: Path) -> None:
    texts = [str(number) for number in range(100)]
    with (tmp_path / "model_weights.bin").open("wb") as file:
        file.truncate(building.LARGE_BYTES)
        assert building._affordable(texts, tmp_path) == texts
        file.truncate(building.LARGE_BYTES + 1)
        assert building._affordable(texts, tmp_path) == texts[::8]


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a user whose home folder cannot be made."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for function in (cache._writable, cache._temporary):
        function.cache_clear()
    return temporary


def test_without_a_home_folder_built_files_go_to_the_temporary_one(
    homeless: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = default_cache()
    assert (folder.parent, folder.stat().st_mode & 0o777) == (homeless, 0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(homeless / "of a server"))  # it stays where it was
    assert default_cache() == folder
    (message,) = [record.message for record in caplog.records]
    assert "Cannot write to " in message
    assert "--cache or XDG_CACHE_HOME" in message


def test_home_folder_that_cannot_be_looked_up_is_no_error(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As one below a folder that this user must not enter, which root, who runs tests in containers, always may.
    monkeypatch.setenv("HOME", str(homeless / ("long" * 100)))
    assert default_cache().is_relative_to(homeless)


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_temporary_folder_that_others_may_have_made_is_not_used(homeless: Path, tmp_path: Path, kind: str) -> None:
    known = default_cache()
    known.rmdir()
    if kind == "open to all":
        known.mkdir()
        known.chmod(0o777)
    elif kind == "a link":
        known.symlink_to(tmp_path)
    else:
        known.touch()
    for function in (cache._writable, cache._temporary):
        function.cache_clear()
    folder = default_cache()
    assert folder != known
    assert (folder.parent, folder.stat().st_mode & 0o777) == (homeless, 0o700)


def test_cache_that_exists_is_used_and_one_that_cannot_be_written_is_refused_with_the_remedy(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "triptych"
    with pytest.raises(ExportError, match="Cannot write built files to .*--cache or XDG_CACHE_HOME"):
        obtain(Bundle.read(tiny.folder), tmp_path / "file/cache")
    shutil.rmtree(homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="to no temporary folder.*XDG_CACHE_HOME"):
        default_cache()
