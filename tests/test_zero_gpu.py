"""PyTorch on ZeroGPU: a stand-in for `spaces` runs the decorated function in a forked process, as the real one does."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import test_app
import test_serve
from conftest import Tiny
from gradio_client import Client

import inference.pytorch.network
from inference import InferenceError, InputError, load
from inference.backends import STANDARD
from inference.calls.predictions import Answer
from inference.errors import MissingDependencyError
from inference.loading import Models
from ui import render, start, zero_gpu
from ui.page import build

pytestmark = pytest.mark.skipif(os.name == "nt", reason="ZeroGPU forks")
TEXT = "it was a fine soup"
FORK = multiprocessing.get_context("fork") if os.name != "nt" else None


class Spaces(ModuleType):
    """As much of `spaces` as the page needs. `error` is what it raises in place of lending a GPU."""

    def __init__(self) -> None:
        super().__init__("spaces")
        self.error: Exception | None = None
        self.durations: list[int] = []
        self.processes: list[int] = []
        self.ports: list[int] = []
        self.started = False
        self.zero = ModuleType("spaces.zero")
        self.zero.startup = self._startup  # type: ignore[attr-defined]

    def _startup(self) -> None:
        assert self.durations, "The Hub stops a Space that has nothing decorated when it starts up."
        self.started = True

    def GPU(self, *, duration: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        self.durations.append(duration)

        def decorate(task: Callable[..., Any]) -> Callable[..., Any]:
            def lend(*args: Any) -> Any:
                page = gr.context.LocalContext.blocks.get(None)
                self.ports += [page.server.config.port] if page else []
                if self.error:
                    raise self.error
                receiver, sender = FORK.Pipe(duplex=False)  # type: ignore[union-attr]
                process = FORK.Process(target=lambda: sender.send((os.getpid(), task(*args))))  # type: ignore[union-attr]
                process.start()
                number, result = receiver.recv()
                process.join()
                self.processes.append(number)
                return result

            return lend

        return decorate


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> Spaces:
    """The stand-in; the "GPU" is the CPU in bfloat16."""
    library = Spaces()
    monkeypatch.setitem(sys.modules, "spaces", library)
    monkeypatch.setitem(sys.modules, "spaces.zero", library.zero)
    monkeypatch.setattr(zero_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(inference.pytorch.network, "best_dtype", lambda _: "bfloat16")
    return library


@pytest.fixture(scope="module")
def models(tiny: Tiny) -> Models:
    opened = {name: load(tiny.folder, name, base=tiny.base, cache=tiny.cache) for name in STANDARD}
    return Models(opened["pytorch"].bundle, opened.__getitem__)


@pytest.fixture
def lent(spaces: Spaces, models: Models) -> zero_gpu.LentGpu:
    gpus = zero_gpu.start(models, 7860)
    assert gpus
    return gpus


def scores(answer: Answer) -> dict[str, float]:
    by_task = {task: prediction.scores for task, (prediction,) in answer.predictions.items()}
    return {f"{task} {label}": score for task, labels in by_task.items() for label, score in labels.items()}


def test_pytorch_answers_in_another_process_in_half_precision(
    lent: zero_gpu.LentGpu, spaces: Spaces, models: Models
) -> None:
    before = scores(models.answer(TEXT, "pytorch", None))
    answer = lent.answer(TEXT, "pytorch", None)
    assert answer.note == "On a GPU in bfloat16, lent by ZeroGPU; the forward pass includes the wait for it."
    assert spaces.processes
    assert os.getpid() not in spaces.processes
    assert scores(answer) != before  # bfloat16
    assert scores(answer) == pytest.approx(before, abs=0.02)
    assert scores(models.answer(TEXT, "pytorch", None)) == before  # the server's own weights are still float32
    assert spaces.started
    assert spaces.durations == [15]


def test_other_runtimes_and_invalid_questions_ask_for_no_gpu(
    lent: zero_gpu.LentGpu, spaces: Spaces, models: Models
) -> None:
    assert lent.answer(TEXT, "int8", None).note == ""
    for text, threshold in (([TEXT, TEXT], None), (3, None), (TEXT, True), (TEXT, 2.0), ("", None)):
        with pytest.raises(InputError):
            lent.answer(text, "pytorch", threshold)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Unknown runtime"):
        lent.answer(TEXT, "cuda", None)
    assert spaces.processes == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (gr.Error("You have 3s\nleft. ", title="ZeroGPU quota exceeded"), "ZeroGPU quota exceeded: You have 3s left"),
        (gr.Error("No GPU was available"), "No GPU was available"),
        (gr.Error("x" * 5000), "x" * 300),
        (RuntimeError("/home/user/secret"), "RuntimeError"),
        (EOFError(), "EOFError"),
    ],
    ids=["quota", "none free", "long", "internal", "killed"],
)
def test_cpu_answers_with_the_reason_if_no_gpu_is_lent(
    lent: zero_gpu.LentGpu, spaces: Spaces, models: Models, error: Exception, reason: str
) -> None:
    spaces.error = error
    answer = lent.answer(TEXT, "pytorch", None)
    assert answer.note == f"On the CPU in float32, because ZeroGPU lent no GPU: {reason}."
    assert scores(answer) == scores(models.answer(TEXT, "pytorch", None))
    spaces.error = None
    assert lent.answer(TEXT, "pytorch", None).note.startswith("On a GPU")  # the failure blocks nobody


def test_cpu_answers_while_another_answer_has_the_gpu(
    lent: zero_gpu.LentGpu, spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_gpu, "WAIT_S", 0)
    with lent._turn:
        answer = lent.answer(TEXT, "pytorch", None)
    assert answer.note == "On the CPU in float32, because ZeroGPU lent no GPU: it is busy with another answer."
    assert spaces.processes == []


def test_model_without_pytorch_starts_and_lends_nothing(spaces: Spaces) -> None:
    bundle = SimpleNamespace(backends=("onnx", "int8"), four_bit=False)
    assert zero_gpu.start(SimpleNamespace(bundle=bundle), 7860) is None  # type: ignore[arg-type]
    assert spaces.started  # something is decorated all the same


def test_service_that_does_not_answer_is_an_error_with_a_remedy(
    spaces: Spaces, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def startup() -> None:
        raise RuntimeError("Error while initializing ZeroGPU: NotFound")

    monkeypatch.setattr(spaces.zero, "startup", startup)
    with pytest.raises(InferenceError, match="ZeroGPU does not answer .*NotFound.* Restart the Space"):
        zero_gpu.start(models, 7860)


@pytest.mark.parametrize("value", ["true", "1", "True", "t"])
def test_environment_of_zerogpu_is_recognised(value: str) -> None:
    assert start.ServerSettings.read({"SPACES_ZERO_GPU": value}).zero_gpu
    assert not start.ServerSettings.read({"SPACES_ZERO_GPU": "false"}).zero_gpu
    assert not start.ServerSettings.read({}).zero_gpu


def test_missing_package_is_an_error_with_a_remedy() -> None:
    if importlib.util.find_spec("spaces"):
        pytest.skip("spaces is installed")
    with pytest.raises(MissingDependencyError, match="needs the package spaces .* must have spaces==0.51.3"):
        zero_gpu.import_spaces()


def test_package_that_does_not_start_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the real one does with a torch for CPUs.
    (tmp_path / "spaces.py").write_text("None.startswith('12')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    with pytest.raises(InferenceError, match="does not start .*AttributeError.* a torch with CUDA") as raised:
        zero_gpu.import_spaces()
    assert raised.value.__cause__ is None  # the server would print the cause in its place


# --- The page


@pytest.fixture
def client(lent: zero_gpu.LentGpu, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(test_app, "build", lambda given: build(given, lent=lent))
    with test_app.served(models) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        yield client
        client.close()


def test_endpoints_of_the_page_say_where_pytorch_answered(client: Client, spaces: Spaces, models: Models) -> None:
    answer = client.predict(TEXT, "pytorch", api_name="/predict")
    assert answer["note"].startswith("On a GPU in bfloat16")
    assert spaces.ports == [7860]  # of which the forked process closes the connections
    assert "note" not in client.predict(TEXT, "int8", api_name="/predict")
    lent_before = list(spaces.processes)
    compared = client.predict(TEXT, api_name="/compare")["pytorch"]
    assert "note" not in compared
    expected = models.answer(TEXT, "pytorch", None).predictions["mood"][0].confidence
    assert compared["predictions"]["mood"]["confidence"] == expected  # float32 on the CPU, like the others
    client.predict(TEXT, "mood", None, "integrated_gradients", "pytorch", api_name="/explain")
    assert spaces.processes == lent_before


def test_page_says_where_pytorch_answers(lent: zero_gpu.LentGpu, models: Models) -> None:
    answer = lent.answer(TEXT, "pytorch", None)
    assert "On a GPU in bfloat16, lent by ZeroGPU" in render.timing("pytorch", answer)
    infos = {
        has_gpu: [block.get("props", {}).get("info") for block in build(models, lent=gpu).config["components"]]
        for has_gpu, gpu in ((True, lent), (False, None))
    }
    assert zero_gpu.INFO in infos[True]
    assert zero_gpu.INFO not in infos[False]


# --- The server


@pytest.mark.slow
def test_server_on_zerogpu_imports_spaces_first_and_starts_it_up_before_it_listens(tmp_path: Path) -> None:
    package = tmp_path / "library/spaces"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import sys, threading\n"
        "assert 'torch' not in sys.modules\n"
        "assert threading.current_thread() is not threading.main_thread()\n"
        "def GPU(**_):\n    return lambda task: task\n"
    )
    (package / "zero.py").write_text(f"def startup():\n    open({str(tmp_path / 'started')!r}, 'x').close()\n")
    environment = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": str(package.parent)}
    with test_serve.started(tmp_path, environment) as server:
        assert (tmp_path / "started").exists()
        assert server.status("/") == server.status("/dashboard/") == server.status("/api/live") == 200
        with server.ask("/gradio_api/call/predict", "POST", json.dumps({"data": ["good", "pytorch", None]})) as queued:
            event = json.load(queued)["event_id"]
        with server.ask(f"/gradio_api/call/predict/{event}") as answer:
            assert b"because ZeroGPU lent no GPU: AttributeError" in answer.read()  # a fake has no network
