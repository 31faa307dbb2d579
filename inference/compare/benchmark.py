"""Time the backends against each other: one process each, taking turns, with all raw samples kept.

The order is ABBA: every other round is reversed, and every two rounds a different backend goes first, so that drift of
the machine affects all alike. The reference has a second process, the control, which takes turns like any other: the
difference between the two is noise, and no smaller gain counts. Everything is repeated in several launches with new
processes, because timing varies between starts.

A shared machine has seconds in which everything is slower (INT8 most of all), and no counter shows it. A probe, the
same small matrix product again and again, detects them: nothing starts in such a second, and a round in which one
started is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inference.compare.processes import Process
from inference.errors import InferenceError

CONTROL = "control"
BATCH_SIZES = (1, 4, 8, 16, 32)
LENGTHS = ((1, 16), (17, 32), (33, 64), (65, None))  # tokens with special ones: from, to
SHAPES = tuple((texts, tokens) for tokens in (16, 32, 128) for texts in BATCH_SIZES)
MAX_STEAL = 0.1  # share of CPU time taken by the host above which a round is measured again
MAX_SLOWDOWN = 1.2  # ratio of the probe's time to its best above which the machine counts as busy
PAUSE_S = 0.1  # before every turn: the previous process's threads keep spinning for about 30 ms
MAX_TRIES = 3  # attempts per round; the last one always counts
QUIET = 0.7  # share of the CPU time that this process gets when it wants all, below which others keep the machine busy
MIN_ROUNDS = 3  # of a run that is cut short: fewer say little about the variation between rounds


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Each backend is started `launches` times. Each start answers `rounds` rounds of `texts` texts one by one, `sweeps`
    rounds of the batch sizes over `sweep_texts` texts, and `shape_rounds` rounds of the fixed shapes. `alone_rows` rows
    are answered alone and in a mixed batch. `best_threads` tries other numbers of threads too. `wait_s` limits the time
    spent waiting for a busy machine.
    """

    launches: int
    rounds: int
    texts: int
    sweeps: int
    sweep_texts: int
    shape_rounds: int
    alone_rows: int
    best_threads: bool
    wait_s: float


FULL = Plan(6, 4, 32, 2, 64, 1, 400, True, 60.0)
QUICK = Plan(1, 8, 24, 2, 32, 0, 100, False, 5.0)


def cut_short(plan: Plan, launches: int, rounds: int, sweeps: int, shape_rounds: int, has_flips: bool) -> Plan | None:
    """Return the part of a plan that was carried out before the time was over; None if it is too little.

    Args:
        launches: starts that were completed. Without one, the other arguments say what was completed of the first.
    """
    if launches:
        return replace(plan, launches=launches, best_threads=False)
    swept = [min(plan.sweep_texts, count * plan.texts) for count in (rounds, plan.rounds)]
    if rounds < min(MIN_ROUNDS, plan.rounds) or sweeps == 0 or swept[0] != swept[1]:
        return None
    alone_rows = plan.alone_rows if has_flips else 0
    return replace(
        plan,
        launches=1,
        rounds=rounds,
        sweeps=sweeps,
        shape_rounds=shape_rounds,
        alone_rows=alone_rows,
        best_threads=False,
    )


class Probe:
    """Detects whether the machine is busy with other work, by how long a fixed job takes.

    Args:
        wait_s: total seconds that `wait` may spend.
    """

    def __init__(self, wait_s: float) -> None:
        self.waited_s = 0.0
        self._left_s = wait_s
        # Two of these fit the second-level cache, and all cores work on their product.
        self._matrix = np.random.default_rng(0).random((384, 384), np.float32)
        self._best = float("inf")
        for _ in range(10):
            self.slowdown()

    def slowdown(self) -> float:
        """Return the ratio of the job's time now to its best so far."""
        times = []
        for _ in range(9):
            start = time.perf_counter_ns()
            for _ in range(4):
                self._matrix @ self._matrix
            times.append(time.perf_counter_ns() - start)
        now = float(np.median(times))
        self._best = min(self._best, now)
        return now / self._best

    def wait(self) -> None:
        """Wait until the machine is no longer busy, or the time for waiting is used up."""
        while self.slowdown() > MAX_SLOWDOWN and self._left_s > 0:
            time.sleep(0.5)
            self.waited_s += 0.5
            self._left_s -= 0.5


class OutOfTime(InferenceError):
    """The time limit of a measurement is over."""

    def __init__(self) -> None:
        super().__init__("The time limit is over.")


class Budget:
    """The seconds that the timing may take.

    Args:
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._started = clock()

    @property
    def spent_s(self) -> float:
        return self._clock() - self._started

    def check(self) -> None:
        """Raise `OutOfTime` if it is spent."""
        if self.spent_s >= self.seconds:
            raise OutOfTime


def cpu_share(threads: int, seconds: float = 0.2) -> float:
    """Return the share of the CPU time that so many busy threads of this process get: 1 if nothing else runs."""
    block = bytes(65536)

    def work() -> float:
        end, before = time.monotonic() + seconds, time.thread_time()
        while time.monotonic() < end:
            hashlib.sha256(block).digest()  # other Python threads run at the same time
        return time.thread_time() - before

    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        got = sum(pool.map(lambda _: work(), range(threads)))
    return min(1.0, got / threads / (time.monotonic() - start))


def wait_until_quiet(share: Callable[[], float], is_over: Callable[[], bool], report: Callable[[str], None]) -> bool:
    """Wait until other programs leave the CPU alone; return whether they did.

    Args:
        share: of the CPU time that this process gets, measured again at each call.
        is_over: whether to give up.
        report: called with what it waits for.
    """
    while (got := share()) < QUIET:
        if is_over():
            return False
        report(f"waiting for a quiet machine: other programs use {1 - got:.0%} of the CPU")
    return True


Pool = Mapping[str, Process]


@contextlib.contextmanager
def launch(
    open_process: Callable[[str], Process],
    backends: Sequence[str],
    texts: Sequence[str],
    control: str | None = None,
    number: int = 0,
) -> Iterator[dict[str, Process]]:
    """Start a process per backend and give each the texts.

    They start one after the other, because starts are timed too, in an order that depends on `number`.

    Args:
        control: the backend of a second process, called `CONTROL`.

    Raises:
        InferenceError: one does not start, or cannot read a text.
    """
    with contextlib.ExitStack() as stack:
        pool: dict[str, Process] = {}
        arms = {name: name for name in backends} | ({CONTROL: control} if control else {})
        for arm in turn_order(list(arms), number):
            pool[arm] = stack.enter_context(contextlib.closing(open_process(arms[arm])))
        for process in pool.values():
            process.tokens = process.ask("read", texts=list(texts))
        yield {arm: pool[arm] for arm in arms}


def turn_order(arms: Sequence[str], number: int) -> list[str]:
    """Return the order of turns in round `number`: ABBA, and every two rounds another one goes first."""
    first = number // 2 % len(arms)
    order = [*arms[first:], *arms[:first]]
    return order if number % 2 == 0 else order[::-1]


def warm_up(pool: Pool, lengths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Let every process answer texts of each length until it gets no faster; return its calls and if it settled."""
    states = {}
    for arm, process in pool.items():
        replies = [process.ask("warm", rows=rows[:6]) for rows in group_by_length(lengths).values() if rows]
        states[arm] = {"calls": sum(r["calls"] for r in replies), "plateau": all(r["plateau"] for r in replies)}
    return states


def timed_rows(plan: Plan, rows: int, rng: np.random.Generator) -> list[list[list[int]]]:
    """Draw the rows to time, by launch and round; no row is drawn twice before every row was drawn once."""
    count = plan.launches * plan.rounds * plan.texts
    drawn = np.concatenate([rng.permutation(rows) for _ in range(count // rows + 1)])[:count]
    timed: list[list[list[int]]] = drawn.reshape(plan.launches, plan.rounds, plan.texts).tolist()
    return timed


def other_threads(plan: Plan, threads: int, cores: int) -> list[int]:
    """Return the numbers of threads to try besides the run's own."""
    return sorted({1, cores} - {threads}) if plan.best_threads else []


def padded_share(lengths: Sequence[int], batch_size: int) -> float:
    """Return the share of padding if texts of these lengths are sorted and answered in batches."""
    ordered = sorted(lengths)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return 1 - sum(ordered) / sum(len(batch) * batch[-1] for batch in batches)


def group_by_length(lengths: Sequence[int]) -> dict[str, list[int]]:
    """Return the positions of the texts in each band of `LENGTHS`, by the band's name."""
    return {
        length_name(low, high): [i for i, n in enumerate(lengths) if low <= n and (high is None or n <= high)]
        for low, high in LENGTHS
    }


def length_name(low: int, high: int | None) -> str:
    return f"{low}–{high} tokens" if high else f"{low} tokens and more"


def latency_rounds(
    pool: Pool, rows: Sequence[Sequence[int]], number: int, probe: Probe, progress: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Measure the rounds of launch `number`: in each, every process answers the same texts one by one.

    Yields the samples of each process after every round.

    A round in which the machine was busy is marked as disturbed, kept, and measured again.
    """
    tries = [0] * len(rows)
    queue = list(enumerate(rows))
    cores = next(iter(pool.values())).ready["cores"]
    while queue:
        index, texts = queue.pop(0)
        probe.wait()
        before = cpu_times(cores)
        attempt = []
        for arm in turn_order(list(pool), index):
            time.sleep(PAUSE_S)
            times = pool[arm].ask("latency", rows=texts, again=3)
            attempt.append({"launch": number, "round": index, "arm": arm, **times})
        steal = steal_share(cores, before)
        time.sleep(PAUSE_S)
        slowdown = probe.slowdown()
        tries[index] += 1
        disturbed = (steal > MAX_STEAL or slowdown > MAX_SLOWDOWN) and tries[index] < MAX_TRIES
        marks = {"steal": round(steal, 4), "slowdown": round(slowdown, 3), "disturbed": disturbed}
        yield from [block | marks for block in attempt]
        if disturbed:
            queue.append((index, texts))
        else:
            progress()


def sweep_rounds(
    pool: Pool, rows: Sequence[int], rounds: Iterable[int], number: int, probe: Probe, progress: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Measure one call with all these rows per process and batch size, taking turns; yields the samples."""
    cases = [({"batch_size": size}, {"rows": list(rows)}) for size in BATCH_SIZES]
    return _rounds(pool, "throughput", cases, rounds, number, probe, progress)


def shape_rounds(
    pool: Pool, rounds: int, max_tokens: int, number: int, probe: Probe, progress: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Measure forward passes over exact shapes within the token limit, taking turns; more calls of small shapes.

    Yields the samples.
    """
    cases = [
        ({"texts": texts, "tokens": tokens}, {"calls": max(2, min(12, 1024 // (texts * tokens)))})
        for texts, tokens in SHAPES
        if tokens <= max_tokens
    ]
    return _rounds(pool, "shape", cases, range(rounds), number, probe, progress)


def _rounds(
    pool: Pool,
    order: str,
    cases: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    rounds: Iterable[int],
    number: int,
    probe: Probe,
    progress: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Give every process but the control the order once per round and case.

    Args:
        cases: details of the order that are kept with the samples, and further details.
    """
    for index in rounds:
        for case, details in cases:
            probe.wait()
            for arm in turn_order([arm for arm in pool if arm != CONTROL], number + index):
                time.sleep(PAUSE_S)
                reply = pool[arm].ask(order, **case, **details)
                yield {"launch": number, "round": index, "arm": arm, **case, **reply}
        progress()


def cpu_times(cores: Sequence[int]) -> tuple[float, float]:
    """Return the seconds of these cores (all if empty) that the host gave to others, and their total seconds.

    Only Linux reports the first.
    """
    import psutil

    every = psutil.cpu_times(percpu=True)
    times = [every[core] for core in cores if core < len(every)] or every
    return sum(float(getattr(core, "steal", 0.0)) for core in times), float(sum(map(sum, times)))


def steal_share(cores: Sequence[int], before: tuple[float, float]) -> float:
    """Return the share of these cores' time that the host gave to others since `before`, from `cpu_times`."""
    stolen, total = (now - then for now, then in zip(cpu_times(cores), before, strict=True))
    return stolen / total if total > 0 else 0.0
