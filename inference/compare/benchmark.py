"""Time the backends against each other: a process each, in turns, raw samples kept.

Order is ABBA: the backends in one round, in the next the same backwards, the first of them another one every
two rounds. Drift of the machine then falls on all alike. One backend, the reference, has a second process, the
control, that takes its turns like any other: what differs between those two is noise, and no gain below it counts.
Everything is done in several launches, each with new processes, because a process keeps the luck of its start.

On a shared machine there are seconds in which everything is slower, INT8 by more than the rest, and no counter
tells. A probe, the same small multiplication again and again, does: nothing is begun in such seconds, and a round in
which one began is measured again. So the figures are those of the machine when it is left alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import InferenceError

ROOT = Path(__file__).resolve().parents[2]
CONTROL = "control"
BATCH_SIZES = (1, 4, 8, 16, 32)
LENGTHS = ((1, 16), (17, 32), (33, 64), (65, None))  # tokens, special ones included; from, to
SHAPES = tuple((texts, tokens) for tokens in (16, 32, 128) for texts in BATCH_SIZES)
MAX_STEAL = 0.1  # of the time of the cores in use: a round in which the host took more is measured again
MAX_SLOWDOWN = 1.2  # times its best that the probe takes while the machine is disturbed
PAUSE_S = 0.1  # before every turn: the threads of the one before spin on for some 30 ms, on the other's cores
MAX_TRIES = 3  # of a round; the last one counts however it went
REPLY_TIMEOUT_S = 1800  # a process that has not replied by then never will


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    `launches` process starts of each backend, in each `rounds` rounds of `texts` texts answered one by one,
    `sweeps` rounds of the batch sizes over `sweep_texts` texts and `shape_rounds` rounds of the fixed shapes;
    `alone_rows` rows answered alone and in a mixed batch; `best_threads`: other thread counts are tried too.
    At most `wait_s` seconds are spent waiting until the machine is left alone.
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
QUICK = Plan(1, 8, 24, 3, 32, 0, 100, False, 5.0)


class Probe:
    """Tells whether the machine is left alone, by how long one and the same job takes.

    Args:
        wait_s: seconds that `wait` may spend in all.
    """

    def __init__(self, wait_s: float) -> None:
        self.waited_s = 0.0
        self._left_s = wait_s
        # Two of them fit the second-level cache, and all cores work on their product.
        self._matrix = np.random.default_rng(0).random((384, 384), np.float32)
        self._best = float("inf")
        for _ in range(10):
            self.slowdown()

    def slowdown(self) -> float:
        """How many times its best so far the job takes now."""
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
        """Return when the machine is left alone, or when there has been waiting enough."""
        while self.slowdown() > MAX_SLOWDOWN and self._left_s > 0:
            time.sleep(0.5)
            self.waited_s += 0.5
            self._left_s -= 0.5


class Process:
    """A worker process: `ask` it, and it answers."""

    def __init__(
        self,
        backend: str,
        model: Path,
        cache: Path,
        threads: int,
        base: Path | None = None,
        content: str = "",
        dtype: str = "",
    ) -> None:
        self.backend = backend
        self.tokens: dict[str, list[int]] = {}  # of the texts it holds, as `Worker.read` tells
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "inference.compare.worker",
            backend,
            str(model.resolve()),
            str(cache.resolve()),
        ]
        self._process = subprocess.Popen(
            [*command, str(threads), str(time.time_ns()), content, dtype, *([str(base.resolve())] if base else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
        )
        try:
            self.ready = self._reply()
        except BaseException:
            self.close()
            raise

    def ask(self, order: str, **details: Any) -> Any:
        """The reply to an order, a method of `worker.Worker` by name.

        Raises:
            InferenceError: the worker refused it, or is gone.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has left its reason, or none
            self._process.stdin.write(json.dumps({"order": order, **details}) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        alarm = threading.Timer(REPLY_TIMEOUT_S, self._process.kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            self._process.wait()
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it left no message"])[-1]
            raise InferenceError(
                f"The measuring process of backend {self.backend!r} ended ({self._process.returncode}): {last}. "
                "If it was killed, memory may have run out."
            )
        reply = json.loads(line)
        if isinstance(reply, dict) and "error" in reply:
            raise InferenceError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process: it leaves by itself when nobody can ask any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextlib.contextmanager
def launch(
    backends: Sequence[str],
    model: Path,
    cache: Path,
    threads: int,
    texts: Sequence[str],
    control: str | None = None,
    base: Path | None = None,
    number: int = 0,
    content: str = "",
    dtypes: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Process]]:
    """A running process per backend, by name, each holding these texts; with `control`, a second one of that backend.

    They are started one after the other, for a start is timed too, in an order that is another one for each `number`.

    Args:
        content: key of the model that they must open, as `artifacts.content_key` gives it; "" for any.
        dtypes: backend -> dtype as for `load`, if not its default.

    Raises:
        InferenceError: one does not start, or cannot read a text.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Process] = {}
        arms = {name: name for name in backends} | ({CONTROL: control} if control else {})
        for arm in turn_order(list(arms), number):
            found[arm] = stack.enter_context(
                contextlib.closing(
                    Process(arms[arm], model, cache, threads, base, content, (dtypes or {}).get(arms[arm], ""))
                )
            )
        for process in found.values():
            process.tokens = process.ask("read", texts=list(texts))
        yield {arm: found[arm] for arm in arms}


def turn_order(arms: Sequence[str], number: int) -> list[str]:
    """Who goes when in round `number`: ABBA, and every two rounds another one goes first."""
    first = number // 2 % len(arms)
    order = [*arms[first:], *arms[:first]]
    return order if number % 2 == 0 else order[::-1]


def warm_up(pool: Mapping[str, Process], lengths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Every process answers texts of each length until it gets no faster: how many calls, and whether it settled."""
    found = {}
    for arm, process in pool.items():
        done = [process.ask("warm", rows=rows[:6]) for rows in group_by_length(lengths).values() if rows]
        found[arm] = {"calls": sum(one["calls"] for one in done), "plateau": all(one["plateau"] for one in done)}
    return found


def timed_rows(plan: Plan, rows: int, rng: np.random.Generator) -> list[list[list[int]]]:
    """Draw the rows to time, by launch and round.

    Every row once before any comes twice: the figures are of as many different texts as there are.
    """
    wanted = plan.launches * plan.rounds * plan.texts
    drawn = np.concatenate([rng.permutation(rows) for _ in range(wanted // rows + 1)])[:wanted]
    timed: list[list[list[int]]] = drawn.reshape(plan.launches, plan.rounds, plan.texts).tolist()
    return timed


def other_threads(plan: Plan, threads: int, cores: int) -> list[int]:
    """The numbers of threads that are tried besides that of the run."""
    return sorted({1, cores} - {threads}) if plan.best_threads else []


def padded_share(lengths: Sequence[int], batch_size: int) -> float:
    """The share of padding among the tokens when texts of these lengths are sorted and answered in batches."""
    ordered = sorted(lengths)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return 1 - sum(ordered) / sum(len(batch) * batch[-1] for batch in batches)


def group_by_length(lengths: Sequence[int]) -> dict[str, list[int]]:
    """Positions of the texts in each band of `LENGTHS`, by what it is called."""
    return {
        length_name(low, high): [i for i, n in enumerate(lengths) if low <= n and (high is None or n <= high)]
        for low, high in LENGTHS
    }


def length_name(low: int, high: int | None) -> str:
    return f"{low}–{high} tokens" if high else f"{low} tokens and more"


def latency_rounds(
    pool: Mapping[str, Process], rows: Sequence[Sequence[int]], number: int, probe: Probe, tick: Callable[[], None]
) -> list[dict[str, Any]]:
    """Blocks of one launch: every round is the same texts for every process. `number` is the launch's.

    A round in which the machine was not left alone is kept, marked as disturbed, and measured again.
    """
    blocks: list[dict[str, Any]] = []
    todo = list(enumerate(rows))
    cores = next(iter(pool.values())).ready["cores"]
    while todo:
        index, texts = todo.pop(0)
        probe.wait()
        before = steal(cores)
        taken = []
        for arm in turn_order(list(pool), index):
            time.sleep(PAUSE_S)
            found = pool[arm].ask("latency", rows=texts, again=3)
            taken.append({"launch": number, "round": index, "arm": arm, **found})
        stolen = steal(cores, before)
        time.sleep(PAUSE_S)
        slowdown = probe.slowdown()
        tries = sum(block["round"] == index for block in blocks) // len(pool)
        disturbed = (stolen > MAX_STEAL or slowdown > MAX_SLOWDOWN) and tries + 1 < MAX_TRIES
        marks = {"steal": round(stolen, 4), "slowdown": round(slowdown, 3), "disturbed": disturbed}
        blocks += [block | marks for block in taken]
        if disturbed:
            todo.append((index, texts))
        else:
            tick()
    return blocks


def sweep_rounds(
    pool: Mapping[str, Process], rows: Sequence[int], rounds: int, number: int, probe: Probe, tick: Callable[[], None]
) -> list[dict[str, Any]]:
    """One call with all these rows per process and batch size, in turns."""
    found = []
    for index in range(rounds):
        for size in BATCH_SIZES:
            probe.wait()
            for arm in turn_order([arm for arm in pool if arm != CONTROL], index):
                time.sleep(PAUSE_S)
                reply = pool[arm].ask("throughput", rows=list(rows), batch_size=size)
                found.append({"launch": number, "round": index, "arm": arm, "batch_size": size, **reply})
        tick()
    return found


def shape_rounds(
    pool: Mapping[str, Process],
    rounds: int,
    most_tokens: int,
    number: int,
    probe: Probe,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """Forward passes over exact shapes, in turns; more calls of the small ones, none longer than the model reads."""
    found = []
    for index in range(rounds):
        for texts, tokens in (shape for shape in SHAPES if shape[1] <= most_tokens):
            calls = max(2, min(12, 1024 // (texts * tokens)))
            probe.wait()
            for arm in turn_order([arm for arm in pool if arm != CONTROL], number + index):
                time.sleep(PAUSE_S)
                reply = pool[arm].ask("shape", texts=texts, tokens=tokens, calls=calls)
                found.append({"launch": number, "round": index, "arm": arm, "texts": texts, "tokens": tokens, **reply})
        tick()
    return found


def scores(reply: Mapping[str, str], tasks: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """What `Worker.answer` sent, as (rows, labels) per task. `tasks` gives how many labels each has."""
    return {
        task: np.frombuffer(base64.b64decode(reply[task]), "<f4").reshape(-1, labels) for task, labels in tasks.items()
    }


def steal(cores: Sequence[int], since: tuple[float, float] | None = None) -> Any:
    """Seconds of these cores that the host gave to others, and all of them; or the share since such a reading.

    Of every core where none is named. 0.0 where the system does not tell (only Linux does).
    """
    import psutil

    every = psutil.cpu_times(percpu=True)
    mine = [every[core] for core in cores if core < len(every)] or every
    now = (sum(float(getattr(one, "steal", 0.0)) for one in mine), float(sum(map(sum, mine))))
    if since is None:
        return now
    spent = now[1] - since[1]
    return (now[0] - since[0]) / spent if spent > 0 else 0.0
