"""Model folders that are broken or hostile are refused in one line; nothing is run, and nothing read elsewhere."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from faults import FAULTS
from hostile import Fault, edit, healthy

from inference import load
from inference.errors import BundleError, ExportError, InputError

# An endless loop is detected by its CPU time, of which every case takes less than a second on any machine, and
# a wait without end by the clock on the wall.
COMPUTING_S, WAITING_S = 20, 600
MEGABYTES = 600
# What code of a stranger would have to do to do anything.
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")
REMEDY = re.compile(
    r"Restore|Fetch|Save|Put|Remove|Correct|Name|Write|Use|Serve|Train|convert|Known|must|Install|Fine-tune|Give|[Ee]xport|Rename"
)


class Hang(BaseException):
    """Past `Exception`: no loader may take it for a file that is broken."""


class Watch:
    """What happens in this process while it is on: files that are opened, programs that are started."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []
        self.run: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            self.opened.append(os.path.realpath(arguments[0]))
        elif event in RUNS or event == "pickle.find_class":
            self.run.append(f"{event} {arguments}")


WATCH = Watch()
sys.addaudithook(WATCH)  # for good: an audit hook cannot be taken away


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy")
    healthy(root)
    return root


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that hangs, or takes the memory of many, fails."""

    def stop(number: int, _: Any) -> None:
        raise Hang(f"not done after {WAITING_S} s, or {COMPUTING_S} s of computing: {signal.Signals(number).name}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limits = ((signal.SIGPROF, signal.ITIMER_PROF, COMPUTING_S), (signal.SIGALRM, signal.ITIMER_REAL, WAITING_S))
    previous = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    yield
    for (number, timer, _), handler in zip(limits, previous, strict=True):
        signal.setitimer(timer, 0)
        signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        1024 if sys.platform == "linux" else 1024**2
    )
    assert grown < MEGABYTES


def made(fault: Fault, originals: Path, folder: Path) -> Path:
    shutil.copytree(originals / fault.kind, folder)
    fault.spoil(folder / "model")
    return folder / "model"


def refusal(model: str | Path, cache: Path, backend: str = "pytorch") -> str:
    WATCH.opened, WATCH.run = [], []
    WATCH.on = True
    try:
        with pytest.raises((BundleError, InputError, ExportError)) as caught:
            load(model, backend, cache=cache)
    finally:
        WATCH.on = False
    return str(caught.value)


@pytest.mark.parametrize("kind", ["classifier", "shards", "adapter", "adapters", "bundle"])
def test_models_without_planted_faults_are_healthy(kind: str, originals: Path, tmp_path: Path) -> None:
    predictions = load(originals / kind / "model", cache=tmp_path).predict_all_tasks("it was good")
    assert all(0 <= one.confidence <= 1 for one in predictions.values())


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_folder_with_one_fault_is_refused_in_one_line(fault: Fault, originals: Path, tmp_path: Path) -> None:
    model = made(fault, originals, tmp_path / "case")
    cache = tmp_path / "cache"
    message = refusal(model, cache, "onnx" if fault.kind == "onnx" else "pytorch")
    assert re.search(fault.says, message), message
    assert message.isprintable()
    assert len(message) < 1500
    assert str(model.parent) in message or "base" in message or message.startswith(f"{model.name}: "), message
    assert REMEDY.search(message), message
    assert WATCH.run == []
    assert not (tmp_path / "case" / "mark").exists()
    outside = [path for path in WATCH.opened if path.startswith(str(tmp_path)) and not _own(Path(path), tmp_path)]
    assert outside == []
    assert re.search(fault.says, refusal(model, cache, "onnx"))  # and no other way leads past it


def _own(path: Path, root: Path) -> bool:
    return any(path.is_relative_to(root / name) for name in ("case/model", "case/base", "cache"))


@pytest.mark.parametrize(
    "name", ["two\nlines", '\'"quotes"', "$(touch mark)", "-rf", "\x1b[2J", "<b>", "ünï", "x" * 200]
)
def test_a_folder_may_have_any_name_and_messages_stay_one_line(name: str, originals: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(originals / "classifier" / "model", tmp_path / name))
    assert load(model, cache=tmp_path / "cache").predict("good").label in ("bad", "good")
    (model / "config.json").unlink()
    assert refusal(model, tmp_path / "cache").isprintable()


@pytest.mark.parametrize(
    "model", ["", "a\0b", "x" * 5000, "../../nowhere/at/all", "http://127.0.0.1:9/x", "-rf", "a/b/c"]
)
def test_name_of_no_folder_is_refused_in_one_line(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(model, tmp_path / "cache")
    assert message.isprintable()
    assert REMEDY.search(message)


def test_file_or_pipe_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    assert "is a file" in refusal(tmp_path / "file", tmp_path / "cache")
    assert "No model folder" in refusal(tmp_path / "pipe", tmp_path / "cache")


def test_untrusted_labels_are_only_text(originals: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(originals / "classifier" / "model", tmp_path / "model"))
    names = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0"]
    edit("config.json", id2label=dict(enumerate(names)))(model)
    assert list(load(model, cache=tmp_path).predict("good").scores) == names


@pytest.mark.slow
def test_nothing_runs_with_python_optimization_on(originals: Path, tmp_path: Path) -> None:
    chosen = re.compile("code|pickle|trust|auto_map|megatron|operator")
    models = []
    for number, fault in enumerate(fault for fault in FAULTS if chosen.search(fault.name)):
        models.append(str(made(fault, originals, tmp_path / str(number) / "case")))
    assert len(models) > 20
    done = subprocess.run(
        [sys.executable, "-O", "-c", RUN, str(tmp_path / "cache"), *models],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["refused"] * len(models)
    assert list(tmp_path.rglob("mark")) == []


# `assert` does nothing under -O: a guard that is one would be gone.
RUN = """
import sys
on = False
def hook(event, arguments):
    if on and (event in ("os.system", "subprocess.Popen", "os.posix_spawn", "socket.connect", "pickle.find_class")):
        sys.exit(f"{event} {arguments}")
    if on and event == "import" and arguments[1] and "case" in str(arguments[1]):
        sys.exit(f"{event} {arguments}")
sys.addaudithook(hook)
from inference import load
from inference.errors import InferenceError
import inference.pytorch.huggingface
for model in sys.argv[2:]:
    on = True
    try:
        load(model, "onnx" if any(name.endswith(".onnx") for name in __import__("os").listdir(model)) else "pytorch",
             cache=sys.argv[1])
        print("LOADED", model)
    except InferenceError:
        print("refused")
    on = False
"""
