"""The page Your data: a measurement is started, watched, cancelled, waited for and found again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from test_dashboard_data import SENTIMENTS, page, press, receipt, said

from dashboard import jobs, receipts
from inference.assets import DEMO_MODEL
from inference.compare.answering import SoFar
from inference.compare.receipt import write_receipt
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Bundle


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the dashboard looks for receipts, and no processes before a measurement."""
    write_receipt(receipt(), tmp_path / "mine.json")
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    monkeypatch.setattr(jobs, "warm_up", lambda *_: None)
    monkeypatch.delenv("TRIPTYCH_RECEIPTS", raising=False)
    monkeypatch.delenv("TRIPTYCH_MODEL", raising=False)
    yield
    while (job := jobs.running()) is not None:
        job.cancel()
        assert job.wait(300)


class Compare:
    """In place of the measurement: waits until it is let go, then gives a receipt of its rows."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None, knows_accuracy: bool = False
    ) -> None:
        self.answers: Any = None
        self.go, self.begun, self.failure = threading.Event(), threading.Event(), failure
        self.known = threading.Event()
        self.knows_accuracy = knows_accuracy
        self.knows_part = False
        self.accurate = threading.Event()  # let the measurement know the accuracy on all rows
        self.asked: dict[str, Any] = {}
        monkeypatch.setattr(jobs, "measure", self)
        monkeypatch.setattr(jobs, "build", lambda *_: None)

    def __call__(
        self,
        model: Bundle,
        data: Any,
        *,
        quick: bool,
        time_limit: float,
        progress: Any,
        on_start: Any,
        on_part: Any,
        on_accuracy: Any,
        **_: Any,
    ) -> dict[str, Any]:
        self.asked = {"model": model.folder, "texts": data and list(data.texts), "quick": quick, "limit": time_limit}
        rows = len(data) if data else 40
        if self.answers:
            on_start(self.answers)
        true = [i % 2 for i in range(rows)]
        receipt = made.receipt(true, {"pytorch": true, "int8": true}, rounds=2)
        if self.knows_part:
            part = made.without_speed(receipt, "pending")
            part["data"]["unanswered"] = 60
            on_part(part)
            while not self.accurate.wait(0.02):
                progress("accuracy", 0.1)
                self.begun.set()
        if self.knows_accuracy:
            on_accuracy(made.without_speed(receipt, "pending"))
            self.known.set()
        while not self.go.wait(0.02):
            progress("latency", 0.5)
            self.begun.set()
        if self.failure:
            raise self.failure
        return receipt


def upload(at: AppTest, content: bytes = SENTIMENTS, name: str = "reviews.csv") -> AppTest:
    return at.file_uploader(key="file").set_value((name, content, "text/csv")).run()


def finish(at: AppTest, compare: Compare) -> AppTest:
    compare.go.set()
    job = jobs.running()
    assert job is None or job.wait(300)
    return at.run()


def test_uploaded_file_is_measured_and_every_page_shows_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    at = upload(page("your_data"))
    assert "40 rows labelled for sentiment: positive 20, negative 20." in said(at)
    press(at, "Measure")
    assert compare.begun.wait(300)
    at.run()
    assert [one.label for one in at.button] == ["Cancel"]
    assert len(at.file_uploader(key="file").value.getvalue()) == len(SENTIMENTS)
    finish(at, compare)
    assert "The verdict" in [one.value for one in at.subheader]
    closed = [one.label for one in at.expander if not one.proto.expanded]
    assert "Measure again" in closed  # so that the verdict is in sight of somebody who scrolled down to the button
    assert compare.asked["texts"] == [f"review {i}" for i in range(40)]
    assert compare.asked["quick"] is True
    assert at.selectbox(key="receipt").value.startswith("reviews here")
    assert "The Overview decides by **mine**. A switch there lets this measurement decide." in said(at)
    at.switch_page("views/disagreements.py").run()
    assert not at.exception
    assert "INT8 gives all 40 rows the same label as PyTorch" in said(at)


def test_measurement_that_decides_already_is_not_said_to_need_a_switch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_receipt(made.without_speed(receipt()), tmp_path / "mine.json")
    compare = Compare(monkeypatch)
    at = press(upload(page("your_data")), "Measure")
    finish(at, compare)
    assert "Every page shows this measurement now" in said(at)
    assert "A switch there" not in said(at)
    at.selectbox(key="receipt").set_value("mine").run()
    assert "Every page shows this measurement now" not in said(at)


def test_showcase_is_measured_without_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    at = page("your_data")
    at.segmented_control(key="measure_on").set_value("The showcase").run()
    at.radio(key="plan").set_value("full").run()
    press(at, "Measure")
    finish(at, compare)
    assert compare.asked == {"model": DEMO_MODEL, "texts": None, "quick": False, "limit": 600}
    assert "The verdict" in [one.value for one in at.subheader]


def test_figures_so_far_say_what_their_intervals_are(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    accuracy, changed = {"pytorch": (40, 36), "int8": (40, 35)}, {"int8": (2, 1, 3)}
    known = {"sentiment": SoFar(accuracy, "pytorch", changed, 40)}
    compare.answers = SimpleNamespace(so_far=lambda: known, labelled=lambda _: 100)
    at = press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    (line,) = at.run().table[0].value.to_dict("records")[1:]
    assert line["Difference (each bound at 95%)"].startswith("−2\\.50 pp ")
    assert line["Accuracy (95% interval)"].startswith("87\\.5% ")
    known["sentiment"] = SoFar({"pytorch": (0, 0)} | {"onnx": (40, 36), "int8": (40, 35)}, "onnx", changed, 40)
    lines = at.run().table[0].value["Changed labels"]
    assert list(lines) == ["…", "the reference so far", "3 of 40 \\(2 broken, 1 fixed\\)"]
    finish(at, compare)


def test_measurement_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    at = press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    job = jobs.running()
    at_once = said(press(at.run(), "Cancel"))  # the message is drawn once, now or when the job has ended
    assert job is not None
    assert job.wait(300)
    assert "The measurement was cancelled" in at_once + said(at.run())
    assert job.result is None


def test_second_session_is_told_its_place_and_measures_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    other = upload(page("your_data"))
    assert "Another visitor is measuring on this server, and two would disturb each other: 1 ahead of you." in said(
        other
    )
    press(other, "Measure")
    second = jobs.find(address_of(other))
    assert second is not None
    while second.step == "starting":
        second.wait(0.05)
    assert second.step == "waiting for your turn: 1 ahead of you"
    compare.go.set()
    assert second.wait(300)
    assert second.result is not None


def test_visitors_beyond_the_queue_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    Compare(monkeypatch)
    for _ in range(jobs.WAITING + 1):
        jobs.start_measurement("x", None, True)
    with pytest.raises(InputError, match="4 measurements are waiting already"):
        jobs.start_measurement("x", None, True)
    with pytest.raises(InputError, match="two would disturb each other"):
        jobs.explain("fine", "sentiment", "positive", "onnx", "int8")


def cookie(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    """Let the sessions that run from now on be in the browser with this cookie of Streamlit's."""
    cookies = {} if secret is None else {"_streamlit_xsrf": secret}
    monkeypatch.setattr(type(st.context), "cookies", cookies)


@pytest.mark.parametrize("other", [None, "", "2|00000000||0", "é", "2|00000000|0f0f|0"])
@pytest.mark.parametrize("own", [None, "2|00000000|f0f0|0"])
def test_address_in_another_browser_gives_the_result_without_the_texts(
    monkeypatch: pytest.MonkeyPatch, own: str | None, other: str | None
) -> None:
    compare = Compare(monkeypatch)
    cookie(monkeypatch, own)
    key = address_of(press(upload(page("your_data")), "Measure"))
    assert compare.begun.wait(300)
    cookie(monkeypatch, other)
    foreign = page("your_data")
    foreign.query_params["job"] = key
    foreign.run()
    assert not foreign.button
    finish(foreign, compare)
    assert "The verdict" in [one.value for one in foreign.subheader]
    assert "only the browser that started it gets them" in said(foreign)
    assert "_texts" not in foreign.session_state
    assert jobs.find(key) is not None


def test_measurement_goes_on_while_any_of_its_readers_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.1)
    asked, is_here = threading.Semaphore(0), True

    def first() -> bool:
        asked.release()
        return is_here

    job = jobs.start_measurement("mine.csv", None, True, first)
    for _ in range(3 * jobs.READERS):
        job.follow(lambda: False)
    for _ in range(20):  # of the 0.02 s that the measurement takes between its reports
        assert asked.acquire(timeout=300)
    assert compare.begun.wait(300)
    assert not job.cancelled
    assert len(job._readers) <= jobs.READERS
    is_here = False
    assert job.wait(300)
    assert job.cancelled


def test_processes_that_are_ready_after_a_measurement_has_begun_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Processes:
        closed = False

        def close(self) -> None:
            self.closed = True

    opened: list[Processes] = []

    def warm_up(*_: object) -> Processes:
        jobs.start_measurement("mine.csv", None, True)
        opened.append(Processes())
        return opened[0]

    Compare(monkeypatch)
    monkeypatch.setattr(jobs, "warm_up", warm_up)
    jobs._prepare()
    assert opened[0].closed
    assert not jobs._warm
    jobs._prepare()  # the measurement runs
    assert len(opened) == 1


def test_reloaded_page_finds_its_measurement_and_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    cookie(monkeypatch, "2|00000000|f0f0|0")
    key = address_of(press(upload(page("your_data")), "Measure"))
    assert compare.begun.wait(300)
    cookie(monkeypatch, "2|ffffffff|0f0f|9")  # the same secret, masked again
    again = page("your_data")
    assert [one.label for one in again.button] == ["Measure"] or not again.button
    again.query_params["job"] = key
    again.run()
    assert [one.label for one in again.button] == ["Cancel"]
    finish(again, compare)
    assert "The verdict" in [one.value for one in again.subheader]
    assert "job" not in again.query_params
    assert jobs.find(key) is None
    checksum = next(iter(again.session_state["_own_receipts"].values()))["checksum"]
    assert again.session_state["_texts"][checksum][:2] == ["review 0", "review 1"]


@pytest.mark.parametrize("key", ["../../etc", "x" * 5000, "<b>"])
def test_address_of_a_measurement_that_is_gone_says_so(key: str) -> None:
    at = page("your_data")
    at.query_params["job"] = key
    at.run()
    assert "is not here any more: the server was restarted" in said(at)
    assert key not in said(at)
    assert "job" not in at.query_params


def test_accuracy_is_shown_and_kept_when_timing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch, knows_accuracy=True)
    at = press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    at.run()
    assert "Speed is still being measured." in verdict_of(at)
    job = jobs.running()
    press(at, "Stop here and keep the accuracy")
    assert job is not None
    assert job.wait(300)
    at.run()
    assert "Speed was not measured: timing was interrupted." in verdict_of(at)
    for name in ("overview", "latency", "size", "accuracy", "disagreements", "leaderboard", "method"):
        at.switch_page(f"views/{name}.py").run()
        assert not at.exception, name


def test_failure_of_timing_keeps_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch, InferenceError("The measuring process ended (-9)."), knows_accuracy=True)
    at = finish(press(upload(page("your_data")), "Measure"), compare)
    assert "The measuring process ended (-9)." in said(at)
    assert "Speed was not measured: timing was interrupted." in verdict_of(at)


def test_first_verdict_says_its_rows_and_is_replaced_by_the_one_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch, knows_accuracy=True)
    compare.knows_part = True
    at = press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    at.run()
    assert "First verdict, on 40 of 100 rows." in verdict_of(at)
    assert "only the one on all rows is kept" in said(at)
    assert [one.label for one in at.button] == ["Cancel"]  # there is nothing to keep yet
    compare.accurate.set()
    assert compare.known.wait(300)
    at.run()
    assert "First verdict" not in verdict_of(at) + said(at)
    assert "Speed is still being measured." in verdict_of(at)
    finish(at, compare)
    assert "First verdict" not in verdict_of(at)
    assert "unanswered" not in next(iter(at.session_state["_own_receipts"].values()))["data"]


def test_first_verdict_of_a_cancelled_measurement_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    compare.knows_part = True
    at = press(upload(page("your_data")), "Measure")
    assert compare.begun.wait(300)
    job = jobs.running()
    at_once = said(press(at.run(), "Cancel"))
    assert job is not None
    assert job.wait(300)
    assert "nothing of it was stored" in at_once + said(at.run())
    assert "First verdict" not in verdict_of(at)
    assert "_own_receipts" not in at.session_state or not at.session_state["_own_receipts"]


def verdict_of(at: AppTest) -> str:
    return " ".join(one.body for one in at.get("html"))


def test_failure_is_shown_above_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch, InferenceError("The measuring process ended with code -9."))
    at = finish(press(upload(page("your_data")), "Measure"), compare)
    assert "The measuring process ended with code -9." in said(at)
    assert [one.label for one in at.button] == ["Measure"]


def test_abandoned_measurement_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    Compare(monkeypatch)
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.1)
    job = jobs.start_measurement("gone.csv", None, True, lambda: False)
    assert job.wait(300)
    assert job.cancelled


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,sentiment\nfine,positive\n", "1 labelled row"),
        (b"text,sentiment\n" + b"".join(b"fine,%d\n" % i for i in range(2, 60)), "58 labels that task 'sentiment'"),
        (b"text,sentiment\n" + "плохо,positive\n".encode("cp1251") * 30, "not UTF-8"),
        (b"", "is empty"),
        (b"text,sentiment\n", "no rows"),
        (b"text" + b"," * 600 + b"\n", "more than 500 columns"),
        (b'"a\n",' + b"," * 600 + b"\n", "more than 500 columns"),
    ],
)
def test_unmeasurable_file_gets_a_message_with_the_remedy(content: bytes, message: str) -> None:
    at = upload(page("your_data"), content)
    assert message in said(at)
    assert not [one for one in at.button if one.label == "Measure"]


def test_labels_that_the_model_does_not_have_are_mapped_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Compare(monkeypatch)
    lines = ["text,sentiment", *(f"text {i},{('great', 'negativ', 'skip')[i % 3]}" for i in range(90))]
    at = upload(page("your_data"), "\n".join(lines).encode())
    assert "**sentiment** does not have 3 labels of this file. What do they mean?" in said(at)
    assert not [button for button in at.button if button.label == "Measure"]
    great, negative, skipped = [box for box in at.selectbox if "30 rows" in box.label]
    assert (great.value, negative.value, skipped.value) == ("", "negative", "")
    great.set_value("positive").run()
    at.checkbox[-1].check().run()
    assert "60 rows labelled for sentiment: positive 30, negative 30." in said(at)
    assert "30 rows labelled 'skip' are left out" in said(at)
    finish(press(at, "Measure"), compare)
    assert len(compare.asked["texts"]) == 60


def test_the_task_of_labels_that_fit_none_is_asked_for() -> None:
    at = upload(page("your_data"), b"text,label\n" + b"fine,great\nbad,awful\n" * 20)
    assert "The labels do not show which task they are of." in said(at)
    assert not [box for box in at.selectbox if "20 rows" in box.label]
    next(box for box in at.selectbox if box.label == "Task of the labels").set_value("sentiment").run()
    assert [box.label.split()[0] for box in at.selectbox if "20 rows" in box.label] == ["great", "awful"]


def test_labels_of_several_tasks_are_mapped_a_task_at_a_time() -> None:
    at = upload(page("your_data"), b"text,sentiment,emotion\n" + b"fine,happy,happy\nbad,sad,sadness\n" * 20)
    assert "Choose one task in “Labels of” to say what they mean." in said(at)
    next(box for box in at.selectbox if box.label == "Labels of").set_value("emotion").run()
    assert [box.label.split()[0] for box in at.selectbox if "20 rows" in box.label] == ["happy"]


def test_single_label_is_measured_with_a_warning() -> None:
    at = upload(page("your_data"), b"text,sentiment\n" + b"fine,positive\n" * 30)
    assert "a drop on the other labels would go unnoticed" in said(at)
    assert [one.label for one in at.button] == ["Measure"]


def test_many_rows_are_sampled_with_a_note() -> None:
    rows = "".join(f"{i},{('negative', 'positive')[i % 2]}\n" for i in range(30_000))
    at = upload(page("your_data"), f"text,sentiment\n{rows}".encode())
    assert "The file has 30,000 rows. This page measures 20,000 of them" in said(at)


def address_of(at: AppTest) -> str:
    """The measurement that the page's address names."""
    value = at.query_params["job"]
    return value if isinstance(value, str) else value[0]
