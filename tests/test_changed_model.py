"""What is opened after the start is the model that was described then; weights that differ are never answered for."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import foreign
import pytest
from conftest import ROOT, Tiny
from ports import free_port

from dashboard import jobs, served
from inference import load
from inference.artifacts.cache import find, obtain
from inference.commands.score import open_model
from inference.compare.processes import Process
from inference.errors import BundleError, ChangedModelError, InferenceError, without_folders
from inference.formats import files
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.files import digest, sha256
from inference.formats.identity import check_same, content_key
from inference.loading import Models, open_described
from inference.score.run import ScoreJob, score
from ui.start import ServerSettings

CHANGED = "has changed since the start"


def negate_tensors(path: Path) -> None:
    """Write the weights of another model of the same shape in place of these."""
    from safetensors.numpy import load_file, save_file

    save_file({name: -values for name, values in load_file(path).items()}, path, {"format": "pt"})


@pytest.fixture(scope="module")
def built(tiny: Tiny) -> Tiny:
    obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)
    return tiny


@pytest.fixture
def own(built: Tiny, tmp_path: Path) -> Tiny:
    """A copy of a bundle, its base and its built files."""
    return built.copy(tmp_path / "a folder with spaces")


def replace_model(own: Tiny) -> None:
    """Put a whole and consistent other model in the folder: heads, and the digest of them in bundle.json."""
    negate_tensors(own.folder / "heads.safetensors")
    path = own.folder / "bundle.json"
    document = json.loads(path.read_text())
    document["files"]["heads.safetensors"] = sha256(own.folder / "heads.safetensors")
    path.write_text(json.dumps(document))


REPLACED: dict[str, Callable[[Tiny], None]] = {
    "model": replace_model,
    "heads": lambda own: negate_tensors(own.folder / "heads.safetensors"),
    "adapter": lambda own: negate_tensors(own.folder / "adapter" / "adapter_model.safetensors"),
    "base": lambda own: negate_tensors(own.base / "model.safetensors"),
}


@pytest.mark.parametrize("what", REPLACED)
def test_backend_opened_after_replacement_is_refused(own: Tiny, what: str) -> None:
    models = Models.of_folder(own.folder, own.cache, base=own.base)
    before = models.answer("it was bad", "int8", None).predictions["mood"][0]
    REPLACED[what](own)
    answers = models.compare("it was bad", None)
    assert answers["int8"].predictions["mood"][0] == before  # type: ignore[union-attr]
    for backend in ("pytorch", "onnx"):
        assert isinstance(answers[backend], ChangedModelError)
        assert CHANGED in str(answers[backend]) and "/" not in str(answers[backend])


@pytest.mark.parametrize("kind", ["plain", "bundle"])
def test_answers_do_not_follow_files_written_after_opening(kind: str, own: Tiny, tmp_path: Path) -> None:
    if kind == "plain":
        weights = foreign.classifier(tmp_path / "plain") / "model.safetensors"
        opened = load(weights.parent, "pytorch")
    else:
        weights = own.base / "model.safetensors"
        opened = load(own.folder, "pytorch", base=own.base)
    before = opened.classify("it was bad").predictions
    content = weights.read_bytes()
    with weights.open("r+b") as file:  # in place: who has mapped the file sees it
        file.seek(len(content) // 2)
        file.write(bytes(len(content) - len(content) // 2))
    assert opened.classify("it was bad").predictions == before
    with weights.open("r+b") as file:  # a view of what was cut off would end the process
        file.truncate(0)
    assert opened.classify("it was bad").predictions == before


def test_model_replaced_and_restored_during_opening_is_refused(own: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import inference.loading as loading

    heads = own.folder / "heads.safetensors"
    opening = loading._open

    def open_another(*arguments: Any) -> Any:
        aside = heads.rename(heads.with_name("aside"))
        shutil.copy(aside, heads)
        opened = opening(*arguments)
        aside.replace(heads)
        return opened

    monkeypatch.setattr(loading, "_open", open_another)
    with pytest.raises(ChangedModelError, match=CHANGED):
        load(own.folder, "pytorch", base=own.base)


def test_error_that_is_no_change_of_the_model_stays_itself(own: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    described = describe(own.folder, own.base)

    def too_many(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("inference.formats.identity.describe", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        check_same(described, own.base)


def test_model_that_was_put_back_is_opened_again(own: Tiny) -> None:
    models = Models.of_folder(own.folder, own.cache, base=own.base)
    heads = own.folder / "heads.safetensors"
    content = heads.read_bytes()
    negate_tensors(heads)
    with pytest.raises(ChangedModelError):
        models.get("onnx")
    heads.write_bytes(content)
    assert models.get("onnx").predict("it was bad", "mood").label == "down"


@pytest.mark.parametrize("backend", ["pytorch", "onnx", "int8"])
@pytest.mark.parametrize("what", ["heads", "adapter", "base"])
def test_weights_that_differ_from_their_digest_are_refused_on_every_backend(own: Tiny, what: str, backend: str) -> None:
    REPLACED[what](own)
    with pytest.raises(BundleError, match=r"safetensors has SHA-256 .*, expected"):
        load(own.folder, backend, base=own.base, cache=own.cache)


@pytest.mark.parametrize("backend", ["onnx", "int8"])
def test_built_files_are_served_without_the_weights(own: Tiny, backend: str) -> None:
    for path in (own.folder / "heads.safetensors", own.base / "model.safetensors"):
        path.unlink()
    assert load(own.folder, backend, base=own.base, cache=own.cache).predict("it was bad", "mood").label == "down"


# --- Folders of other formats


def write_adapters(folder: Path) -> Path:
    on = foreign.base(folder.parent / "encoder")
    for task in ("mood", "topic"):
        foreign.adapter(folder / task, on)
    return folder


FORMATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "transformers": (foreign.classifier, "model.safetensors"),
    "adapters": (write_adapters, "topic/adapter_model.safetensors"),
    "base of adapters": (write_adapters, "../encoder/model.safetensors"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_model_of_another_format_is_refused_after_replacement(name: str, tmp_path: Path) -> None:
    make, weights = FORMATS[name]
    folder = make(tmp_path / "model")
    bundle = describe(folder)
    negate_tensors(folder / weights)
    with pytest.raises(ChangedModelError, match=CHANGED):
        open_described(bundle, "pytorch", cache=tmp_path)
    assert load(folder, "pytorch", cache=tmp_path).bundle.name == bundle.name  # a new start serves the new model


def test_adapter_added_to_a_plain_folder_is_refused(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model")
    bundle = describe(folder)
    foreign.adapter(tmp_path / "adapter", foreign.base(tmp_path / "encoder"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # transformers would load it unasked
        shutil.copy(tmp_path / "adapter" / name, folder)
    with pytest.raises(ChangedModelError, match=CHANGED):
        open_described(bundle, "pytorch", cache=tmp_path)


def test_exported_folder_is_refused_after_replacement(own: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    load(own.folder, "onnx", cache=own.cache, base=own.base).export_onnx(folder, quantize=True)
    bundle = describe(folder)
    shutil.copy(folder / "mood.onnx", folder / "topic.onnx")
    (folder / "export.json").unlink()
    with pytest.raises(ChangedModelError, match=CHANGED):
        open_described(bundle, "int8", cache=own.cache)


def test_nothing_is_built_of_a_model_replaced_during_the_build(own: Tiny) -> None:
    bundle = Bundle.read(own.folder)
    cache = own.cache / "new"

    def replace_weights(step: str, share: float) -> None:
        if share == 0.1:  # PyTorch has loaded it
            replace_model(own)

    with pytest.raises(ChangedModelError, match=CHANGED):
        obtain(bundle, cache, replace_weights, own.base)
    assert find(bundle, cache) is None


# --- Processes that open the model on their own


def test_scoring_does_not_open_another_model_than_it_was_started_with(own: Tiny, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nit was bad\n")
    model = open_model(describe(own.folder, own.base), "int8", own.base, own.cache, 1, None)
    replace_model(own)
    for workers in (1, 2):
        with pytest.raises(ChangedModelError, match=CHANGED):
            score(ScoreJob(source, tmp_path / "out.csv"), model, workers)
    assert not (tmp_path / "out.csv").exists()


def test_measuring_process_does_not_open_another_model(own: Tiny) -> None:
    with pytest.raises(InferenceError, match=CHANGED):
        Process(own.folder, "int8", cache=own.cache, threads=1, base=own.base, content="0" * 16)


@pytest.mark.parametrize("command", [["build"], ["explain", "fine", "--task=mood", "--backend=int8"]])
def test_command_refuses_a_model_of_another_content_key(own: Tiny, command: list[str]) -> None:
    where = [f"--model={own.folder}", f"--base={own.base}", f"--cache={own.cache}"]
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    for key, code in ((content_key(describe(own.folder)), 0), ("0" * 16, 2)):
        done = run([sys.executable, "-m", "inference", *command, *where, f"--content={key}"], check=False)
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and CHANGED in done.stderr


@pytest.mark.parametrize("what", REPLACED)
def test_dashboard_neither_measures_nor_explains_another_model(
    own: Tiny, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", str(own.folder))
    monkeypatch.setenv("TRIPTYCH_BASE", str(own.base))
    monkeypatch.setenv("TRIPTYCH_CONTENT", content_key(describe(own.folder)))
    assert served.unchanged().folder == own.folder
    REPLACED[what](own)
    with pytest.raises(ChangedModelError, match=CHANGED):
        jobs.explain("fine", "mood", "up", "onnx", "int8")
    job = jobs.start_measurement("rows", None, True)
    assert job.wait(300)
    assert job.result is None and CHANGED in str(job.error)


# --- Over HTTP


class Site:
    """serve.py over a real model in a process of its own; no backend but the first is opened at the start."""

    def __init__(self, own: Tiny) -> None:
        self.port = free_port()
        code = (
            "import sys; sys.path[:0] = ['.']; import serve; from ui import start;"
            "start._open_others = lambda *_: None; sys.exit(start.run(serve.serve))"
        )
        given = {"PORT": str(self.port), "TRIPTYCH_MODEL": str(own.folder), "TRIPTYCH_BASE": str(own.base)}
        given |= {"XDG_CACHE_HOME": str(own.cache.parent), "GRADIO_SERVER_NAME": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | given, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline().startswith("Triptych serves tiny")

    def ask(self, path: str, fields: Any = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = None if fields is None else json.dumps(fields)
        connection.request("GET" if fields is None else "POST", path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, response.read().decode()

    def compare(self, text: str) -> dict[str, Any]:
        """The answer of the page's endpoint /compare."""
        event = json.loads(self.ask("/gradio_api/call/compare", {"data": [text, None]})[1])["event_id"]
        (data,) = [line for line in self.ask(f"/gradio_api/call/compare/{event}")[1].splitlines() if "data:" in line]
        answer: dict[str, Any] = json.loads(data.partition("data:")[2])[0]
        return answer


@contextmanager
def serving(own: Tiny) -> Iterator[Site]:
    site = Site(own)
    try:
        yield site
    finally:
        site.process.kill()
        site.process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="serve.py is ended by a signal")
@pytest.mark.slow
def test_served_page_and_api_never_answer_with_two_models(own: Tiny) -> None:
    own.cache.rename(own.cache.with_name("triptych"))
    with serving(own) as site:
        replace_model(own)
        answers = site.compare("it was bad")
        assert answers["int8"]["predictions"]["mood"]["label"] == "down"
        for backend in ("pytorch", "onnx"):
            assert CHANGED in answers[backend]["error"]
            status, body = site.ask("/api/predict", {"text": "it was bad", "tasks": ["mood"], "backend": backend})
            assert (status, json.loads(body)["error"]["code"]) == (503, "model_changed")
            assert CHANGED in body and "folder with spaces" not in body
        assert "folder with spaces" not in json.dumps(answers)


# --- Digests and messages


def test_file_is_hashed_again_whenever_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = digest(path)
    path.write_bytes(b"two")
    os.utime(path, (1, 1))
    assert digest(path) == sha256(path) != first


def test_another_process_hashes_only_what_has_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(files, "sha256", lambda path: (hashed.append(path), sha256(path))[1])
    same, changed = tmp_path / "same", tmp_path / "changed"
    for path in (same, changed):
        path.write_bytes(b"one")
    before = [digest(same), digest(changed)]
    known = files.digests()
    monkeypatch.setattr(files, "_values", {})  # as in a process that starts
    files.remember(known)
    changed.write_bytes(b"two!")
    assert [digest(same), digest(changed)] == [before[0], sha256(changed)]
    assert hashed == [same, changed, changed]


@pytest.mark.parametrize("backend", ["pytorch", "int8"])
def test_score_hashes_a_model_before_it_starts_processes(
    own: Tiny, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(files, "_values", {})
    bundle = open_model(describe(own.folder, own.base), backend, own.base, own.cache, 1, None).bundle
    assert {("sha256", path.resolve()) for path in bundle.paths(own.base).values()} <= files.digests().keys()


def test_unchanged_model_is_hashed_once(own: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(files, "sha256", lambda path: (hashed.append(path), sha256(path))[1])
    bundle = describe(own.folder)
    for _ in range(3):
        check_same(bundle, own.base)
    assert sorted(hashed) == sorted(set(hashed)) and own.base / "model.safetensors" in hashed


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/srv/models/demo/heads.safetensors is missing: restore it.", "heads.safetensors is missing: restore it."),
        ("/a b/demo/heads.safetensors is missing.", "demo/heads.safetensors is missing."),
        ("(looked in '/root/.cache/triptych')", "(looked in 'triptych')"),
        (r"C:\models\demo\bundle.json is no JSON", "bundle.json is no JSON"),
        ("assets/models/demo and https://hf.co/a/b", "assets/models/demo and https://hf.co/a/b"),
        ("7/8 rows, and/or a / b", "7/8 rows, and/or a / b"),
    ],
)
def test_message_for_a_client_names_no_folder(message: str, shown: str) -> None:
    assert without_folders(message, Path("/a b/demo")) == shown


def test_backend_that_cannot_be_opened_names_no_folder(own: Tiny) -> None:
    models = Models.of_folder(own.folder, own.cache, base=own.base)
    model = models._open_one

    def damaged(name: str) -> Any:
        raise BundleError(f"{own.folder / 'heads.safetensors'} is missing, and {own.cache} too.")

    models._open_one = damaged
    with pytest.raises(InferenceError) as caught:
        models.get("onnx")
    assert str(caught.value) == "tiny/heads.safetensors is missing, and cache too."
    assert str(own.folder) in str(caught.value.__cause__)
    models._open_one = model
    assert models.get("onnx").backend.name == "onnx"


def test_dashboard_builds_in_the_cache_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ServerSettings.read({}, ["--cache", str(tmp_path)]).cache == tmp_path
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    seen: list[list[str]] = []
    monkeypatch.setattr(jobs, "_command", lambda arguments, progress: seen.append(arguments))
    jobs.build(fakes.bundle(), lambda step, share: None)
    assert seen[0][seen[0].index("--cache") + 1] == str(tmp_path)
