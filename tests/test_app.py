"""The page without a browser: its endpoints through gradio_client, its models, and how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fakes
import gradio as gr
import httpx
import numpy as np
import pytest
from conftest import ROOT
from fastapi import FastAPI
from gradio_client import Client
from gradio_client.exceptions import AppError
from numpy.typing import NDArray
from ports import free_port
from threads import PATIENCE_S, running

import app
from inference import Answer, Classifier, InputError, MissingDependencyError
from inference.api.front import Access
from inference.backends import STANDARD
from inference.formats.bundle import Task
from inference.jobs import Cancelled, Lane
from inference.loading import Models
from ui import answer, gate, render, scoring, start
from ui.files import temporary_files
from ui.page import ANSWERING, LIMITS, build
from ui.recorded import RECEIPTS
from ui.site import CONTENT, mount_page

SCRIPT, IMAGE = "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>"
HOSTILE = {"sentiment": Task((SCRIPT, IMAGE), fakes.SINGLE, 0.6)}
PARITY = {
    "texts": 388,
    "reference": "pytorch",
    "backends": {
        "int8": {
            "tasks": {"sentiment": {"label_agreement": 1.0, "max_abs_dp": 0.034}},
            "label_agreement": 0.9996,
            "max_abs_dp": 0.034,
            "batch_flips": 1,
            "batch_max_abs_dp": 0.01,
        }
    },
}


class Shifted(fakes.FakeBackend):
    """A fake whose last label of every task gets `extra` added to its logit: another runtime's arithmetic."""

    def __init__(self, name: str, extra: float, tasks: Mapping[str, Task] = fakes.TASKS) -> None:
        super().__init__(name, tasks)
        self.extra = extra

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        outputs = super().logits(input_ids, attention_mask)
        for values in outputs.values():
            values[:, -1] += self.extra
        return outputs


def models(int8: float = 0.0, tasks: Mapping[str, Task] = fakes.TASKS) -> Models:
    """Three fakes of which INT8 adds `int8` to the last logit."""

    def open_one(name: str) -> Classifier:
        return fakes.classifier(Shifted(name, int8 if name == "int8" else 0.0, tasks), tasks)

    return Models(fakes.bundle(tasks), open_one, {"pytorch": 96_000_000, "int8": 24_000_000}, PARITY)


@contextmanager
def served(given: Models) -> Iterator[str]:
    """The address of the page over these models, for as long as the block lasts."""
    with temporary_files() as files:
        site = FastAPI(openapi_url=None)
        page = mount_page(site, build(given), files)
        access = Access(frame_ancestors="'self'", content=CONTENT)
        with running(site, access, page.stop_event.set) as address:
            yield address


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(models(int8=2.0)) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        yield client
        client.close()


# --- The endpoints


def test_predict_answers_every_task_with_its_timing(client: Client) -> None:
    answer = client.predict("good glad", "pytorch", api_name="/predict")
    assert list(answer) == ["predictions", "timing"]
    assert list(answer["predictions"]) == ["sentiment", "emotion"]
    assert answer["predictions"]["sentiment"] == {
        "label": "positive",
        "confidence": pytest.approx(1 / (1 + np.exp(-2))),
        "scores": {"negative": pytest.approx(1 / (1 + np.exp(2))), "positive": pytest.approx(1 / (1 + np.exp(-2)))},
        "uncertain": False,
        "truncated": False,
        "unknown": False,
        "unpaired": False,
        "labels": ["positive"],
    }
    assert set(answer["timing"]) == {"tokenize_ms", "forward_ms", "rest_ms", "total_ms"}


def test_predict_uses_the_given_backend_and_defaults_to_int8(client: Client) -> None:
    assert client.predict("bad", "pytorch", api_name="/predict")["predictions"]["sentiment"]["confidence"] > 0.8
    assert client.predict("bad", "int8", api_name="/predict")["predictions"]["sentiment"][
        "confidence"
    ] == pytest.approx(0.5)
    assert client.predict("bad", api_name="/predict")["predictions"]["sentiment"]["confidence"] == pytest.approx(0.5)


def test_threshold_replaces_the_models_own(client: Client) -> None:
    own = client.predict("good", "onnx", api_name="/predict")
    high = client.predict("good", "onnx", 0.99, api_name="/predict")
    none = client.predict("good", "onnx", 0, api_name="/predict")
    assert [given_answer["predictions"]["sentiment"]["uncertain"] for given_answer in (own, high, none)] == [
        False,
        True,
        False,
    ]
    assert [given_answer["predictions"]["emotion"]["uncertain"] for given_answer in (own, high, none)] == [
        True,
        True,
        False,
    ]


def test_compare_answers_on_all_three_backends(client: Client) -> None:
    answer = client.predict("good", api_name="/compare")
    assert list(answer) == list(STANDARD)
    assert answer["pytorch"]["predictions"]["sentiment"] == answer["onnx"]["predictions"]["sentiment"]
    assert answer["pytorch"]["predictions"]["emotion"]["label"] == "joy"
    assert answer["int8"]["predictions"]["emotion"]["label"] == "neutral"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "The text is empty"),
        (("good", "gpu"), "Unknown runtime 'gpu'. Known: pytorch, onnx, int8, openvino."),
        (("good", "int8", 1.5), "threshold=1.5 is not a probability"),
        (("good", "int8", "high"), "threshold='high' is not a number"),
        (("good", "int8", True), "threshold=True is not a number"),
        (("good", "int8", "high" * 20), "threshold=a string of 80 characters is not a number"),
        (("good", "gpu" * 30), "Unknown runtime a string of 90 characters"),
        ((None,), "text must be a string, not NoneType"),
        (("a" * 20_001,), "20,001 characters"),
    ],
)
def test_error_messages_reach_the_client(client: Client, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(AppError) as raised:
        client.predict(*arguments, api_name="/predict")
    assert message in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_compare_refuses_an_empty_text_once(client: Client) -> None:
    with pytest.raises(AppError, match="^The text is empty"):
        client.predict("", api_name="/compare")


def test_compare_answers_if_a_backend_cannot_be_opened() -> None:
    def open_one(name: str) -> Classifier:
        if name == "pytorch":
            raise MissingDependencyError("PyTorch is <not> installed.")
        return fakes.classifier(fakes.FakeBackend(name))

    given = Models(fakes.bundle(), open_one)
    answers = given.compare("good", None)
    assert answer.as_json(answers["pytorch"]) == {"error": "PyTorch is <not> installed."}
    assert isinstance(answers["int8"], Answer)
    html = render.side_by_side(given.bundle, answers)
    assert "nothing to compare" in html
    assert "PyTorch is &lt;not&gt; installed." in html


def test_only_predict_compare_and_explain_are_public(client: Client) -> None:
    known = client.view_api(return_format="dict", print_info=False)
    assert set(known["named_endpoints"]) == {"/predict", "/compare", "/explain"}
    assert not known["unnamed_endpoints"]
    visible = {one["api_name"]: one["api_visibility"] for one in client.config["dependencies"]}
    assert {name for name, how in visible.items() if how != "private"} == {"predict", "compare", "explain"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("run/predict", '{"data": ["good", "int8", null]}', 404),  # it would skip the queue
        ("call/nothing", '{"data": []}', 404),
        ("queue/join", '{"data": [], "fn_index": 999, "session_hash": "a"}', 404),
        ("call/predict", "\xff", 400),
        ("call/predict", '{"data": NaN}', 400),
        ("queue/join", '{"data": "\\ud800"}', 400),
    ],
)
def test_malformed_request_is_refused(client: Client, path: str, body: str, status: int) -> None:
    connection = http.client.HTTPConnection(client.src.split("//")[1].rstrip("/"))
    connection.request("POST", f"/gradio_api/{path}", body.encode("latin-1"), {"Content-Type": "application/json"})
    assert connection.getresponse().status == status
    connection.close()


def test_functions_that_run_in_the_browser_are_none_of_the_server(client: Client) -> None:
    numbers = [fn["id"] for fn in client.config["dependencies"] if not fn["backend_fn"]]
    assert numbers
    for number in numbers:
        asked = httpx.post(
            f"{client.src}gradio_api/queue/join", json={"data": [], "fn_index": number, "session_hash": "a"}
        )
        assert (asked.status_code, asked.json()) == (404, {"detail": "No such function."})


@pytest.mark.parametrize(("value", "is_accepted"), [(3, True), (None, True), ("3", False), (True, False)])
def test_number_of_a_question_is_a_number(value: object, is_accepted: bool) -> None:
    if is_accepted:
        assert gate._checked(gr.Number(), value) == value
    else:
        with pytest.raises(gate.Refused, match="requires a number"):
            gate._checked(gr.Number(), value)


def test_page_has_no_analytics_and_no_history(client: Client) -> None:
    assert client.config["analytics_enabled"] is False
    assert client.config["run_history"] is False


def test_waiting_files_do_not_block_questions() -> None:
    demo = build(models())
    asking = [fn for fn in demo.fns.values() if fn.fn is not None]
    limits = {
        name: {fn.concurrency_limit for fn in asking if fn.concurrency_id == name} for name in ("inference", "score")
    }
    assert limits == {
        "inference": {LIMITS.max_explanations + ANSWERING},
        "score": {scoring.MAX_WAITING + 2},
    }
    lanes = {fn.concurrency_id: fn.concurrency_limit for fn in asking}
    assert sum(lanes.values()) <= demo.max_threads  # no lane can keep another from a thread
    assert {fn.concurrency_id for fn in asking} == {"inference", "score", "look", "at once"}  # two ask no model
    assert all(fn.queue for fn in asking)


# --- The models


def test_concurrent_requests_open_a_backend_once() -> None:
    opened: list[str] = []

    def open_one(name: str) -> Classifier:
        opened.append(name)
        return fakes.classifier(fakes.FakeBackend(name))

    given = Models(fakes.bundle(), open_one)
    threads = [threading.Thread(target=given.get, args=("onnx",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["onnx"]


# --- Starting and stopping


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs the page with these environment variables; the signal handlers it sets are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run_with(**variables: str) -> int:
        for name in ("TRIPTYCH_MODEL", "TRIPTYCH_BACKEND", "PORT", "GRADIO_SERVER_NAME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return start.run(app.serve)

    yield run_with
    for number, handler in before.items():
        signal.signal(number, handler)


def test_broken_model_gives_one_line_and_exit_code_2(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRIPTYCH_MODEL="nowhere/at/all") == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("Triptych cannot start: No model folder nowhere/at/all.")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("port", ["http", "70000", "0.5"])
def test_invalid_port_gives_one_line_and_exit_code_2(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], port: str
) -> None:
    assert run(PORT=port) == 2
    stderr = capsys.readouterr().err
    assert f"PORT={port!r}" in stderr
    assert stderr.count("\n") == 1


def test_port_of_gradio_counts_unless_another_is_named() -> None:
    read = start.ServerSettings.read
    assert read({"GRADIO_SERVER_PORT": "7861", "PORT": ""}).port == 7861
    assert read({"GRADIO_SERVER_PORT": "7861", "PORT": "7862"}).port == 7862
    with pytest.raises(InputError, match="GRADIO_SERVER_PORT='٣x' is not a port number"):
        read({"GRADIO_SERVER_PORT": "٣x"})


def test_page_looks_for_measurements_where_the_dashboard_does(tmp_path: Path) -> None:
    read = start.ServerSettings.read
    assert read({"TRIPTYCH_RECEIPTS": ""}).receipts == (RECEIPTS,)
    assert read({"TRIPTYCH_RECEIPTS": str(tmp_path)}).receipts == (RECEIPTS, tmp_path)


def test_port_in_use_gives_one_line_and_exit_code_2(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Models, "of_folder", lambda *_, **__: models())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(PORT=port) == 2
    stderr = capsys.readouterr().err
    assert port in stderr
    assert stderr.count("\n") == 1


def page_over_fakes(port: int, prepare: str = "") -> subprocess.Popen[str]:
    """A process that serves the page and has printed its address."""
    code = (
        "import sys, time; sys.path[:0] = ['.', 'tests']; import app, test_app; from ui import start;"
        f"start.Models.of_folder = lambda *_, **__: test_app.models(); {prepare} code = start.run(app.serve);"
        "print({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)); sys.exit(code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == f"Triptych serves fake at http://127.0.0.1:{port}\n"
    return process


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_prints_its_address_imports_no_runtime_and_stops_on_a_signal(number: signal.Signals) -> None:
    port = free_port()
    process = page_over_fakes(port)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "Triptych stops.\nset()\n", "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_server_that_still_loads_a_model(number: signal.Signals) -> None:
    process = page_over_fakes(free_port(), "start._open_others = lambda *_: time.sleep(600);")
    assert process.stdout
    process.send_signal(number)
    assert process.stdout.readline() == "Triptych stops.\n"
    time.sleep(1)  # until it waits for the model
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-number, "", "")


# --- Long work


def test_lane_runs_one_job_at_a_time_and_limits_how_many_wait() -> None:
    lane = Lane(2, busy="Busy.")
    entered, leave = threading.Event(), threading.Event()

    def job() -> None:
        with lane.turn(lambda: True):
            entered.set()
            leave.wait()

    first, second = threading.Thread(target=job), threading.Thread(target=job)
    first.start()
    assert entered.wait(PATIENCE_S)
    entered.clear()
    second.start()
    with pytest.raises(InputError, match="Busy"):
        while True:  # until the second one waits
            with contextlib.suppress(Cancelled), lane.turn(lambda: False):
                pass
    assert not entered.is_set()
    leave.set()
    first.join()
    second.join()
    assert entered.is_set()
    with lane.turn(lambda: True):  # there is room again
        pass


def test_lane_has_room_for_other_clients() -> None:
    lane = Lane(3, 1, "Busy.")
    with lane.turn(lambda: True, "a"):
        with pytest.raises(InputError, match="Busy"), lane.turn(lambda: True, "a"):
            pass
        with pytest.raises(Cancelled), lane.turn(lambda: False, "b"):
            pass
    with lane.turn(lambda: True, "a"):
        pass


def test_unwanted_job_leaves_its_lane() -> None:
    lane = Lane(2, busy="Busy.")
    with lane.turn(lambda: True):
        with pytest.raises(Cancelled), lane.turn(lambda: False):
            raise AssertionError("it had a turn")
        with pytest.raises(Cancelled), lane.turn(lambda: False):  # the first one's place is free
            raise AssertionError("it had a turn")
