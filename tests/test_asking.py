"""Asking every runtime: the order, the times, and which question is the newest; and the recorded measurement."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import gradio as gr
import pytest
from conftest import ROOT
from test_app import models

from inference import Answer, InferenceError, InputError, MissingDependencyError
from inference.calls.predictions import Timing
from inference.classifier import Classifier
from inference.compare.overall import others_in_words
from inference.compare.receipt import seal
from inference.formats.describe import describe
from inference.jobs import Cancelled
from inference.loading import Models
from ui import asking
from ui.asking import PASSES, Newest, Timed, ask_all, timed
from ui.page import Page
from ui.recorded import find_recorded

DEMO = ROOT / "assets" / "models" / "demo"


def test_answers_come_one_by_one_in_the_order_that_is_asked_for() -> None:
    come = list(ask_all(models(), "good", None, ["int8", "pytorch", "onnx"], lambda: True))
    assert [list(answers) for answers in come] == [["pytorch", "onnx", "int8"]] * 3  # the order of the model
    assert [[name for name, one in answers.items() if one] for answers in come] == [
        ["int8"],
        ["pytorch", "int8"],
        ["pytorch", "onnx", "int8"],
    ]


def test_runtime_that_fails_leaves_the_others() -> None:
    def open_one(name: str) -> Classifier:
        if name == "onnx":
            raise MissingDependencyError("ONNX Runtime is not installed.")
        return fakes.classifier(fakes.FakeBackend(name))

    *_, last = ask_all(Models(fakes.bundle(), open_one), "good", None, ["int8", "onnx", "pytorch"], lambda: True)
    assert isinstance(last["onnx"], InferenceError)
    assert isinstance(last["pytorch"], Timed)


def test_text_that_no_runtime_accepts_is_refused_once() -> None:
    with pytest.raises(InputError, match="The text is empty"):
        list(ask_all(models(), " ", None, ["int8"], lambda: True))


def test_question_that_nobody_wants_is_dropped_between_runtimes() -> None:
    wanted = iter([True, False])
    answers = ask_all(models(), "good", None, ["int8", "onnx"], lambda: next(wanted))
    next(answers)
    with pytest.raises(Cancelled):
        next(answers)


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> Timed:
    """Time answers that take so many seconds one after the other."""
    now = 0.0
    durations = iter(seconds)

    def answer() -> Answer:
        nonlocal now
        spent = next(durations)
        now += spent
        return Answer({}, Timing(0, spent * 1e3, 0))

    monkeypatch.setattr(asking.time, "monotonic", lambda: now)
    return timed(answer)


def test_time_is_the_median_after_a_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    result = clocked(monkeypatch, [0.1, 0.001, 0.009, 0.002, 0.003, 0.004])
    assert (result.median_ms, result.passes) == (pytest.approx(3), PASSES)


@pytest.mark.parametrize(
    ("seconds", "passes", "median_ms"),
    [([0.09] * 9, 2, 90), ([0.2, 0.1], 1, 100), ([3.0], 1, 3000)],
    ids=["some", "one more", "the first alone"],
)
def test_slow_runtime_gets_fewer_passes(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], passes: int, median_ms: float
) -> None:
    result = clocked(monkeypatch, seconds)
    assert (result.passes, result.median_ms) == (passes, pytest.approx(median_ms))


def test_only_the_newest_question_of_a_session_counts() -> None:
    newest = Newest()
    newest.note("a", 2)
    newest.note("a", 1)  # the queue runs short questions first
    assert [newest.is_newest("a", number) for number in (1, 2)] == [False, True]
    assert newest.is_newest("b", 1)
    for number in range(asking.MAX_SESSIONS):
        newest.note(f"session {number}", 1)
    assert newest.is_newest("a", 1)  # forgotten


# --- The recorded measurement


def test_measurements_of_this_model_decide_what_to_ship() -> None:
    recorded = find_recorded(describe(DEMO))
    assert recorded
    assert recorded.overall.headline == "Ship ONNX"
    assert recorded.overall.because.startswith("2.4× to 3.3× as fast as PyTorch, 6% smaller, numerically the same")
    int8 = "INT8 (4.8× to 5.5× as fast and 4.0× smaller) is not settled: accuracy on sentiment."
    assert others_in_words(recorded.overall) == int8
    assert recorded.p50_ms["int8"] == pytest.approx(1.73805)


def test_measurement_of_another_model_is_never_shown(tmp_path: Path) -> None:
    bundle = describe(DEMO)
    other = replace(bundle, files={**bundle.files, "heads.safetensors": "0" * 64})
    renamed = replace(
        bundle, tasks={**bundle.tasks, "sentiment": replace(bundle.tasks["sentiment"], labels=("a", "b"))}
    )
    assert find_recorded(other) is None
    assert find_recorded(renamed) is None
    assert find_recorded(bundle, [tmp_path, tmp_path / "nothing"]) is None


def test_damaged_measurement_does_not_hide_another(tmp_path: Path) -> None:
    bundle = describe(DEMO)
    source = json.loads((ROOT / "assets" / "receipts" / "showcase.json").read_text())
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps(seal(source | {"results": {"latency": []}})))
    (tmp_path / "c.json").write_text(json.dumps(seal(source)))
    recorded = find_recorded(bundle, [tmp_path])
    assert recorded
    assert list(recorded.overall.receipts) == [str(tmp_path / "c.json")]


# --- The page


SESSION: Any = SimpleNamespace(session_hash="a", client=None)


def question(page: Page, text: str, backend: str) -> list[Any]:
    """What the page's inputs hold when this text is asked."""
    thresholds = [task.threshold for task in page._models.bundle.tasks.values()]
    return [text, "", backend, *thresholds, False, *(widget.value for widget in page.why.inputs), 1]


def test_details_of_the_text_before_go_if_the_chosen_runtime_fails() -> None:
    given = models()
    page = Page(given, "int8")
    page._is_wanted = lambda request: True  # type: ignore[method-assign]
    answer = given.answer

    def failing(text: Any, backend: str, *rest: Any) -> Answer:
        if backend == "pytorch":
            raise InferenceError("PyTorch does not open.")
        return answer(text, backend, *rest)

    given.answer = failing  # type: ignore[method-assign]
    *_, last = page._ask(SESSION, *question(page, "bad", "pytorch"))
    assert last[page.details.panels] == gr.update(visible=False)


@pytest.mark.parametrize(("text", "wanted"), [("", 99), ("bad", 0), ("bad", 1), ("bad", 7)])
def test_question_without_an_answer_sets_no_output_to_null(text: str, wanted: int) -> None:
    """Gradio does, of a generator that yields nothing. The question is unwanted after `wanted` looks."""
    page = Page(models(), "int8")
    looks = itertools.count(1)
    page._is_wanted = lambda request: next(looks) <= wanted  # type: ignore[method-assign]
    updates = list(page._ask_again(SESSION, *question(page, text, "int8")))
    assert updates
    assert None not in updates[-1].values()
