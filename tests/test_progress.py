"""The progress of a long job: one line on a terminal, some lines in a log."""

from __future__ import annotations

import sys

import pytest

from inference.jobs import EVERY_S, ProgressLine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Log = pytest.CaptureFixture[str]


def test_a_log_has_a_line_of_a_long_step_now_and_then(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    for done in range(100):
        show("explaining", done / 100)
        clock.now += EVERY_S / 5
    assert [line.partition("]")[2].split()[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{percent}%" for percent in range(0, 100, 5)
    ]


def test_a_log_has_every_new_step_and_the_end_at_once(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    for step, share in (("exporting", 0.0), ("exporting", 0.05), ("quantising", 0.08), ("done", 1.0)):
        show(step, share)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["exporting", "quantising", "done"]


def test_a_rising_count_is_the_same_step(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    show("2,000 of 9,000 rows, 431 rows/s", 0.02)
    show("4,000 of 9,000 rows, 1,502 rows/s", 0.04)
    assert capsys.readouterr().err.count("\n") == 1


def test_time_left_is_shown_once_it_can_be_estimated(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    for share in (0.0, 0.1, 0.5, 0.75, 1.0):
        show("timing", share)
        clock.now += 100
    assert [line.partition("% ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "timing",
        "timing",
        "timing, about 3 min left",
        "timing, about 2 min left",
        "timing",
    ]


def test_work_of_an_earlier_run_does_not_count_in_the_time_left(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    for share in (0.6, 0.62, 0.7, 0.8):  # a tenth of the whole in a hundred seconds
        show("4 of 9 rows", share)
        clock.now += 100 if share != 0.6 else 20
    assert [line.partition("rows")[2] for line in capsys.readouterr().err.splitlines()] == [
        "",
        "",
        ", about 6 min left",
        ", about 4 min left",
    ]


def test_steps_with_one_report_show_no_time_left(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    for step, share in (("loading", 0.0), ("exporting", 0.3), ("quantising", 0.45), ("done", 1.0)):
        show(step, share)
        clock.now += 100
    assert "left" not in capsys.readouterr().err


def test_another_job_has_its_own_time(clock: Clock, capsys: Log) -> None:
    show = ProgressLine(clock=clock)
    clock.now += 1000
    show("building", 1.0)
    show("2,000 of 8,000 rows", 0.25)
    clock.now += 20
    show("6,000 of 8,000 rows", 0.75)
    assert capsys.readouterr().err.endswith("75% 6,000 of 8,000 rows, about 10 s left\n")


def test_a_terminal_has_one_line_that_is_written_over_and_never_wraps(
    clock: Clock, capsys: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    show = ProgressLine(clock=clock)
    show("one", 0.0)
    show("a step with a very long name that goes on", 0.05)
    stderr = capsys.readouterr().err
    assert "\n" not in stderr
    lines = stderr.split("\r\033[K")
    assert lines[1] == f"[{' ' * 20}]   0% one"
    assert lines[2] == "  5% a step with a very long name that goes on"[:39]
    show("done", 1.0)
    assert capsys.readouterr().err.endswith("done\n")


def test_text_after_an_unfinished_progress_line_starts_on_a_new_line(
    clock: Clock, capsys: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ValueError), ProgressLine(clock=clock) as show:
        show("working", 0.5)
        raise ValueError
    assert capsys.readouterr().err.endswith("\n")
    with ProgressLine(clock=clock) as show:
        show("working", 1.0)
    assert not capsys.readouterr().err.endswith("\n\n")


def test_progress_of_a_short_task_is_not_shown(clock: Clock, capsys: Log) -> None:
    with ProgressLine(after_s=1.0, clock=clock) as show:
        show("explaining", 0.5)
        show("explaining", 1.0)
        assert capsys.readouterr().err == ""
        clock.now += 1
        show("explaining", 0.2)
    assert capsys.readouterr().err.count("\n") == 1
