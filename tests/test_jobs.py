"""Jobs that run in the background: result, error, cancelling, patience and time limit."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import made
import pytest
from test_dashboard_data import receipt

from dashboard import jobs, receipts
from inference.errors import InferenceError, InputError
from inference.jobs import BackgroundJob, Cancelled, Progress, wait_for_jobs
from ui.start import _open_others

PATIENCE_S = 300


def endless(progress: Progress) -> str:
    for _ in itertools.count():
        progress("working", 0.5)
        threading.Event().wait(0.01)
    return ""


def test_job_returns_its_result_and_shows_its_progress() -> None:
    reported, go_on = threading.Event(), threading.Event()

    def work(progress: Progress) -> str:
        progress("reading", 0.0)
        progress("scoring", 0.5)
        reported.set()
        go_on.wait(PATIENCE_S)
        return "report"

    job = BackgroundJob("rows.csv", work)
    assert reported.wait(PATIENCE_S)
    assert (job.step, job.share, job.done) == ("scoring", 0.5, False)
    assert job.left_s is not None
    go_on.set()
    assert job.outcome() == "report"
    assert job.done and job.error is None and not job.cancelled


def test_error_of_the_work_is_the_error_of_the_job() -> None:
    def work(progress: Progress) -> str:
        raise InputError("No rows.")

    with pytest.raises(InputError, match="No rows"):
        BackgroundJob("rows.csv", work).outcome()


def test_unexpected_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    def work(progress: Progress) -> str:
        raise ValueError("a secret of the server")

    with pytest.raises(InferenceError, match=r"rows.csv: unexpected error. The server's log has the details."):
        BackgroundJob("rows.csv", work).outcome()
    assert "a secret of the server" in caplog.text


def test_cancelled_job_ends_at_its_next_progress_call() -> None:
    job = BackgroundJob("rows.csv", endless)
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert job.cancelled and job.error is None and job.result is None
    with pytest.raises(Cancelled):
        job.outcome()


def test_abandoned_job_is_cancelled() -> None:
    job = BackgroundJob("rows.csv", endless, is_wanted=lambda: False, patience_s=0.05)
    assert job.wait(PATIENCE_S)
    assert job.cancelled


def test_wanted_job_outlasts_its_patience() -> None:
    job = BackgroundJob("rows.csv", endless, is_wanted=lambda: True, patience_s=0.05)
    assert not job.wait(0.3)
    job.cancel()


def test_job_that_takes_too_long_fails() -> None:
    with pytest.raises(InferenceError, match=r"No result within 0.05 s"):
        BackgroundJob("rows.csv", endless, budget_s=0.05).outcome()


def test_failed_job_keeps_nothing_of_its_work() -> None:
    class Rows(list[str]):
        pass

    def start() -> tuple[weakref.ref[Rows], BackgroundJob[str]]:
        rows = Rows(["a text of a visitor"])

        def work(progress: Progress) -> str:
            try:
                raise ValueError(rows)
            except ValueError as error:
                raise InputError(f"{len(rows)} rows are too few.") from error

        return weakref.ref(rows), BackgroundJob("rows.csv", work)

    kept, job = start()
    with pytest.raises(InputError, match="1 rows are too few"):
        job.outcome()
    gc.collect()
    assert kept() is None


def test_job_that_returns_none_succeeds() -> None:
    assert BackgroundJob("rows.csv", lambda progress: None).outcome() is None


def test_job_that_exits_fails(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InferenceError, match="unexpected error"):
        BackgroundJob("rows.csv", lambda progress: sys.exit(1)).outcome()
    assert "failed" in caplog.text


@pytest.fixture
def held() -> Iterator[tuple[BackgroundJob[None], threading.Event]]:
    """A job that runs until it is let go."""
    go_on = threading.Event()
    job = BackgroundJob("rows.csv", lambda progress: go_on.wait(PATIENCE_S) and None)
    yield job, go_on
    go_on.set()
    job.wait(PATIENCE_S)


def test_other_runtimes_are_opened_and_receipts_checked_after_the_jobs_that_run(
    held: tuple[BackgroundJob[None], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, go_on = held
    done: list[str] = []
    models: Any = SimpleNamespace(bundle=SimpleNamespace(backends=["onnx"]), get=done.append)
    monkeypatch.setattr(receipts, "shelf", lambda: done.append("shelf") or SimpleNamespace(models={}))
    monkeypatch.setattr(receipts.served, "described", lambda: None)
    threads = [threading.Thread(target=_open_others, args=(models, threading.Event()))]
    threads.append(threading.Thread(target=receipts._check))
    for thread in threads:
        thread.start()
        thread.join(0.1)
    assert not done
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(done) == ["onnx", "shelf"] and job.done


def test_server_that_stops_opens_nothing_more(held: tuple[BackgroundJob[None], threading.Event]) -> None:
    opened: list[str] = []
    models: Any = SimpleNamespace(bundle=SimpleNamespace(backends=["onnx"]), get=opened.append)
    stopping = threading.Event()
    stopping.set()
    _open_others(models, stopping)
    assert not opened


def test_preparation_waits_no_longer_than_it_may(held: tuple[BackgroundJob[None], threading.Event]) -> None:
    wait_for_jobs(most_s=0.01)
    assert not held[0].done


def test_preparation_waits_for_the_jobs_that_run_unless_it_is_not_needed_any_more() -> None:
    order, begun, go_on = [], threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)
        order.append("job")

    job = BackgroundJob("rows.csv", work)
    assert begun.wait(PATIENCE_S)
    wait_for_jobs(is_needed=lambda: False)
    assert not order

    def prepare() -> None:
        wait_for_jobs()
        order.append("preparation")

    thread = threading.Thread(target=prepare)
    thread.start()
    thread.join(0.1)
    assert not order
    go_on.set()
    job.outcome()
    thread.join(PATIENCE_S)
    assert order == ["job", "preparation"]


def test_texts_are_freed_with_their_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts(dict[int, str]):
        pass

    def measure(*_: object, progress: Any, on_start: Any, **__: object) -> Any:
        on_start(SimpleNamespace(leads_back=progress))
        return made.without_speed(receipt())

    monkeypatch.setattr(jobs, "measure", measure)
    monkeypatch.setattr(jobs, "build", lambda *_: None)
    texts = Texts({0: "a text of a visitor"})
    job = jobs.start_measurement("mine.csv", None, True, texts=texts)
    job.follow(lambda: True)
    kept = weakref.ref(texts)
    gc.disable()  # which would free them at some time, not now
    try:
        assert job.wait(300) and job.result is not None
        jobs.forget(job.key)
        del job, texts
        end = time.monotonic() + 300
        while kept() is not None and time.monotonic() < end:  # until its thread has ended too
            time.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()
