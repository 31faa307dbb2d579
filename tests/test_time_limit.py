"""Measuring within a time limit: accuracy first, and what is kept when the time is over."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import Tiny

from inference.compare import benchmark, timing
from inference.compare.answering import LARGEST, Answers, WarmProcesses
from inference.compare.benchmark import Budget, OutOfTime, Plan, cut_short, wait_until_quiet
from inference.compare.processes import Process
from inference.compare.receipt import parse_receipt
from inference.compare.rows import read_data
from inference.compare.run import measure
from inference.compare.timing import Timing
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Bundle
from inference.jobs import Cancelled
from inference.tables.source import Source

PLAN = Plan(2, 4, 24, 2, 32, 1, 10, True, 0.0)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A worker process: each call takes `seconds` of the clock, and label 1 is given to every text."""

    ready: ClassVar[dict[str, Any]] = {"cores": [0], "start": {"import_s": 1.0}}

    def __init__(
        self,
        backend: str = "",
        clock: Clock | None = None,
        seconds: float = 1.0,
        fails: bool = False,
        wrong: bool = False,
    ) -> None:
        self.wrong = wrong
        self.backend, self.clock, self.seconds, self.fails = backend, clock or Clock(), seconds, fails
        self.closed, self.ended = False, threading.Event()
        self.tokens: dict[str, list[int]] = {}
        self.watch: Callable[[], None] = lambda: None

    def ask(self, order: str, **details: Any) -> Any:
        self.watch()
        if order == "read":
            self.texts = details["texts"]
            self.tokens = {"tokens": [len(text) for text in self.texts], "truncated": [0] * len(self.texts)}
            return self.tokens
        if self.fails:
            raise InferenceError("The measuring process ended (-9).")
        if order == "answer":
            scores = np.array(
                [[0.25, 0.75] if ("b" in text) != self.wrong else [0.75, 0.25] for text in self.texts], "<f4"
            )
            return {task: base64.b64encode(scores.tobytes()).decode() for task in details["tasks"]}
        self.clock.now += self.seconds
        count = len(details.get("rows", [0]))
        return {
            "warm": {"calls": 6, "plateau": True},
            "latency": {"total_ns": [5] * count, "tokenize_ns": [1] * count, "forward_ns": [2] * count},
            "throughput": {"total_ns": 5, "padded_share": 0.0},
            "memory": {"resident_bytes": 1, "peak_bytes": 2},
            "shape": {"forward_ns": [1]},
            "alone": {"mood": 0},
        }[order]

    def close(self) -> None:
        self.closed = True
        self.ended.set()


def timed(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, share: float = 1.0, slowdown: float = 1.0, max_tokens: int = 64
) -> tuple[Timing, list[tuple[str, float]]]:
    """A timing of two backends on fakes whose orders take a second each."""
    clock = Clock()

    class Probe(benchmark.Probe):
        def __init__(self, wait_s: float) -> None:
            self.waited_s, self._left_s = 1.5, 0.0

        def slowdown(self) -> float:
            return slowdown

    def cpu_share(threads: int) -> float:
        clock.now += 1
        return share

    steps: list[tuple[str, float]] = []
    monkeypatch.setattr(benchmark, "Probe", Probe)
    monkeypatch.setattr(benchmark, "PAUSE_S", 0)
    monkeypatch.setattr(benchmark, "steal_share", lambda *_: 0.0)
    monkeypatch.setattr(benchmark, "cpu_share", cpu_share)
    monkeypatch.setattr(timing, "Budget", lambda seconds: Budget(seconds, clock))
    texts = ["a" * (i % 20 + 1) for i in range(100)]
    return (
        Timing(
            ["onnx", "int8"],
            PLAN,
            texts,
            ["mood"],
            max_tokens,
            1,
            0,
            limit_s,
            lambda name, threads, watch: watched(Fake(name, clock), watch),
            lambda step, done: steps.append((step, done)),
        ),
        steps,
    )


def watched(process: Fake, watch: Callable[[], None]) -> Any:
    process.watch = watch
    return process


def test_everything_is_kept_if_the_time_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = timed(monkeypatch, 1e6)
    plan, raw = run.run()
    assert plan == PLAN
    assert len(raw["latency"]["blocks"]) == 2 * 4 * 3
    assert "unmeasured" not in raw["latency"]


@pytest.mark.parametrize(
    ("limit_s", "launches", "rounds"),
    [(90, 1, 4), (29, 1, 3), (62, 1, 4)],
    ids=["in the second start", "in the rounds of the first", "in what follows the rounds"],
)
def test_what_was_completed_in_time_is_a_smaller_plan(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, launches: int, rounds: int
) -> None:
    run, steps = timed(monkeypatch, limit_s)
    plan, raw = run.run()
    assert (plan.launches, plan.rounds, plan.best_threads) == (launches, rounds, False)
    assert {(b["launch"], b["round"]) for b in raw["latency"]["blocks"]} == {(0, i) for i in range(rounds)}
    assert len(raw["backends"]["onnx"]["starts"]) == 2  # and the control
    assert len(raw["throughput"]["samples"]) == plan.sweeps * 5 * 2
    assert raw["other_threads"] == []
    assert raw["latency"]["waited_s"] == 1.5
    shares = [share for _, share in steps]
    assert max(shares) <= 1
    assert "s left)" in steps[-1][0]


def test_model_too_short_for_every_fixed_shape_may_run_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = timed(monkeypatch, 29, max_tokens=8)
    plan, raw = run.run()
    assert (plan.launches, plan.rounds, plan.shape_rounds) == (1, 3, 0)
    assert raw["shapes"] == []


def test_too_little_time_gives_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = timed(monkeypatch, 20)
    plan, raw = run.run()
    assert plan.launches == 0
    assert raw["latency"]["unmeasured"] == "time limit"
    assert raw["latency"]["blocks"] == raw["throughput"]["samples"] == raw["shapes"] == []
    assert raw["backends"]["int8"]["memory"] == []


def test_machine_that_stays_busy_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    run, steps = timed(monkeypatch, 60, share=0.13)
    _, raw = run.run()
    assert raw["latency"]["unmeasured"] == "busy"
    assert steps[0][0] == "waiting for a quiet machine: other programs use 87% of the CPU (at most 59 s left)"
    assert len(steps) <= 20  # a third of the limit


def test_rounds_on_a_machine_that_became_busy_are_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = timed(monkeypatch, 1e6, slowdown=2.0)
    assert run.run()[1]["latency"]["unmeasured"] == "busy"


def test_run_without_a_limit_neither_waits_nor_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    run, steps = timed(monkeypatch, float("inf"), share=0.1, slowdown=2.0)
    assert run.run()[0] == PLAN
    assert not any("quiet" in step or "left" in step for step, _ in steps)


def test_no_time_at_all_is_accuracy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run, steps = timed(monkeypatch, 0)
    assert run.run()[1]["latency"]["unmeasured"] == "not asked"
    assert steps == []


@pytest.mark.parametrize(
    ("done", "kept"),
    [
        ((1, 0, 0, 0, False), (1, 4, 2, 1, 10)),
        ((0, 4, 2, 1, True), (1, 4, 2, 1, 10)),
        ((0, 3, 1, 0, False), (1, 3, 1, 0, 0)),
        ((0, 2, 1, 0, False), None),
        ((0, 4, 0, 0, False), None),
    ],
)
def test_plan_is_cut_to_what_was_done(done: Any, kept: Any) -> None:
    plan = cut_short(PLAN, *done)
    if plan is None:
        assert kept is None
        return
    assert (plan.launches, plan.rounds, plan.sweeps, plan.shape_rounds, plan.alone_rows) == kept


def test_budget_is_spent_by_its_clock() -> None:
    clock = Clock()
    budget = Budget(10, clock)
    clock.now = 9.9
    budget.check()
    clock.now = 10
    with pytest.raises(OutOfTime):
        budget.check()


def test_quiet_machine_is_not_waited_for() -> None:
    shares = iter([0.2, 0.5, 0.9])
    reports: list[str] = []
    assert wait_until_quiet(lambda: next(shares), lambda: False, reports.append)
    assert reports == [f"waiting for a quiet machine: other programs use {share}% of the CPU" for share in (80, 50)]


def answers(rows: int, processes: dict[str, Fake], labels: Sequence[int] | None = None) -> Answers:
    texts = ["ab"[i % 2] * (i % 7 + 1) for i in range(rows)]
    true = labels or [i % 2 for i in range(rows)]
    return Answers(
        lambda name, watch: watched(processes[name], watch), list(processes), texts, {"mood": true}, {"mood": 2}
    )


def test_answers_are_in_the_order_of_the_rows() -> None:
    rows = 2 * LARGEST + 5
    processes = {"onnx": Fake(), "int8": Fake()}
    collected = answers(rows, processes)
    collected.collect(lambda: None)
    for name in processes:
        assert collected.given().predictions[name]["mood"]["label_ids"] == [i % 2 for i in range(rows)]
    assert collected.given().tokens == [i % 7 + 1 for i in range(rows)]
    assert collected.given().rows == list(range(rows))
    known = collected.so_far()["mood"]
    assert (known.rows, known.paired) == (rows, {"int8": (0, 0, 0)})
    assert known.accuracy == {"onnx": (rows, rows), "int8": (rows, rows)}
    assert all(process.closed for process in processes.values())


def test_figures_so_far_count_only_labelled_rows_that_were_answered() -> None:
    collected = answers(10, {"onnx": Fake(), "int8": Fake()}, [-1, *[0] * 9])
    assert collected.so_far()["mood"].rows == 0
    collected.collect(lambda: None)
    assert collected.so_far()["mood"].accuracy["onnx"] == (9, 4)


def test_failing_backend_ends_the_others_with_its_message() -> None:
    processes = {"onnx": Fake(), "int8": Fake(fails=True)}
    with pytest.raises(InferenceError, match="ended \\(-9\\)"):
        answers(10 * LARGEST, processes).collect(lambda: None)
    assert all(process.closed for process in processes.values())


def test_cancelling_ends_the_processes() -> None:
    class Slow(Fake):
        def ask(self, order: str, **details: Any) -> Any:
            threading.Event().wait(0.05)
            return super().ask(order, **details)

    def cancel() -> None:
        raise Cancelled

    processes: dict[str, Fake] = {"onnx": Slow(), "int8": Slow()}
    with pytest.raises(Cancelled):
        answers(250 * LARGEST, processes).collect(cancel)
    assert all(process.closed for process in processes.values())


def test_warm_processes_are_taken_once_and_the_rest_is_ended() -> None:
    made = {"onnx": Fake(), "int8": Fake()}
    warm = WarmProcesses(lambda name, watch: made[name], ["onnx", "int8"], "key")  # type: ignore[arg-type,return-value]
    assert warm.take("onnx", lambda: None) is made["onnx"]  # type: ignore[comparison-overlap]
    assert warm.take("onnx", lambda: None) is None
    assert warm.take("pytorch", lambda: None) is None
    warm.close()
    assert made["int8"].ended.wait(60)
    assert not made["onnx"].closed


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Any:
    lines = [f"it was {word} {i},{label}" for i in range(20) for word, label in (("bad", "down"), ("fine", "up"))]
    return read_data(Source("mood.csv", "\n".join(["text,mood", *lines]).encode()), Bundle.read(tiny.folder).tasks)


def test_accuracy_alone_is_a_valid_receipt_and_known_before_the_end(tiny: Tiny, rows: Any) -> None:
    first: list[Any] = []
    steps: list[tuple[str, float]] = []
    receipt = measure(
        tiny.folder,
        rows,
        backends=["onnx", "int8"],
        cache=tiny.cache,
        base=tiny.base,
        threads=1,
        quick=True,
        time_limit=0,
        on_accuracy=first.append,
        progress=lambda step, share: steps.append((step, share)),
    )
    import made

    for one in (first[0], receipt):
        assert parse_receipt(made.encoded(one), "r.json") == one
    assert first[0]["latency"]["unmeasured"] == "pending"
    assert receipt["latency"]["unmeasured"] == "not asked"
    assert receipt["results"] == first[0]["results"]
    shares = [share for _, share in steps]
    assert shares == sorted(shares)


def test_negative_time_limit_is_refused(tiny: Tiny, rows: Any) -> None:
    with pytest.raises(InputError, match="time_limit=-1 must not be negative"):
        measure(tiny.folder, rows, cache=tiny.cache, base=tiny.base, time_limit=-1)


def test_wait_for_a_reply_ends_when_nobody_wants_it(tiny: Tiny) -> None:
    calls: list[int] = []

    def watch() -> None:
        calls.append(1)
        raise Cancelled

    with pytest.raises(Cancelled):
        Process(tiny.folder, "int8", cache=tiny.cache, threads=1, base=tiny.base, watch=watch)
    assert calls == [1]


def test_worker_does_not_outlive_its_parent() -> None:
    code = "import time; from inference.compare.worker import read_orders; read_orders(); time.sleep(600)"
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(120) == 1
