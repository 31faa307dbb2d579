"""Time the backends, within a limit if there is one: what was completed by then is kept if it is enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from inference import cpu
from inference.compare import benchmark
from inference.compare.benchmark import Budget
from inference.compare.processes import Process
from inference.jobs import Progress

QUIET_SHARE = 1 / 3  # of a time limit that may be spent waiting for a quiet machine
MAX_BUSY = 0.5  # share of the rounds timed on a busy machine, above which a run with a time limit has no times
# Approximate seconds of each part, on two cores with a small encoder. Only the ratios matter, for progress.
START, WARM_UP, CALL, SWEEP, SHAPE_ROUND = 14.0, 4.0, 0.035, 6.0, 6.0


@dataclass
class Timing:
    """The raw samples of a plan, as they come.

    Args:
        names: backends, the reference first.
        texts: the rows.
        limit_s: seconds that it may take; infinity for no limit.
        open_process: opens the process of a backend with so many threads; the function is to be called while it waits.
        progress: gets the step and the share of the timing that is done.
    """

    names: list[str]
    plan: benchmark.Plan
    texts: Sequence[Any]
    tasks: list[str]
    max_tokens: int
    threads: int
    seed: int
    limit_s: float
    open_process: Callable[[str, int, Callable[[], None]], Process]
    progress: Progress

    def __post_init__(self) -> None:
        rng, plan, rows = np.random.default_rng(self.seed), self.plan, len(self.texts)
        self.timed = benchmark.timed_rows(plan, rows, rng)
        self.alone: list[int] = rng.permutation(rows)[: plan.alone_rows].tolist()
        self.other_threads = benchmark.other_threads(plan, self.threads, cpu.cores())
        self.backends: dict[str, dict[str, Any]] = {name: self._untimed() for name in self.names}
        self.latency: dict[str, Any] = {"rows": self.timed, "warm_up": [], "blocks": [], "cores": [], "waited_s": 0.0}
        self.sweeps: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.seconds = min(
            self.limit_s,
            plan.launches * (START + WARM_UP + plan.sweeps * SWEEP + plan.shape_rounds * SHAPE_ROUND)
            + plan.launches * plan.rounds * plan.texts * CALL
            + len(self.alone) * CALL
            + len(self.other_threads) * (START / 2 + WARM_UP + 2 * plan.texts * CALL),
        )
        self._launches = 0  # completed starts
        self._done, self._step = 0.0, ""
        self._budget = Budget(self.limit_s)

    def run(self) -> tuple[benchmark.Plan, dict[str, Any]]:
        """Return the plan that was carried out, and the raw fields of a receipt."""
        self._budget = Budget(self.limit_s)
        if self.limit_s == 0:
            return self.nothing("not asked")
        if self.limit_s < math.inf and not self._is_quiet():
            return self.nothing("busy")
        plan: benchmark.Plan | None = self.plan
        probe = benchmark.Probe(self.plan.wait_s)
        try:
            self._time(probe)
        except benchmark.OutOfTime:
            plan = self._carried_out()
        finally:
            self.latency["waited_s"] = probe.waited_s
        blocks = self.latency["blocks"]
        slow = [block["slowdown"] > benchmark.MAX_SLOWDOWN for block in blocks if not (plan and block["disturbed"])]
        if self.limit_s < math.inf and sum(slow) > MAX_BUSY * len(slow):
            return self.nothing("busy")
        return self.nothing("time limit") if plan is None else (plan, self._raw(plan))

    def nothing(self, reason: str) -> tuple[benchmark.Plan, dict[str, Any]]:
        """Return the plan and the raw fields of a receipt without times; `reason` as in `results.UNMEASURED`."""
        plan = replace(self.plan, launches=0, alone_rows=0, best_threads=False)
        return plan, {
            "backends": {name: self._untimed() for name in self.names},
            "latency": {"rows": [], "warm_up": [], "blocks": [], "cores": [], "waited_s": 0.0, "unmeasured": reason},
            "throughput": {"texts": min(plan.sweep_texts, plan.rounds * plan.texts), "samples": []},
            "shapes": [],
            "other_threads": [],
        }

    def _untimed(self) -> dict[str, Any]:
        return {"starts": [], "memory": [], "batch_flips": {"rows": 0, "tasks": dict.fromkeys(self.tasks, 0)}}

    def _advance(self, seconds: float, step: str) -> None:
        """Report that so many of the estimated seconds are done."""
        self._done += seconds
        self._step = step
        self._report()

    def _report(self) -> None:
        self._budget.check()
        share, step = self._done / self.seconds, self._step
        if self.limit_s < math.inf:
            share = max(share, self._budget.spent_s / self.limit_s)
            step += f" (at most {self.limit_s - self._budget.spent_s:.0f} s left)"
        self.progress(step, min(share, 1.0))

    def _is_quiet(self) -> bool:
        patience_s = QUIET_SHARE * self.limit_s
        return benchmark.wait_until_quiet(
            partial(benchmark.cpu_share, self.threads),
            lambda: self._budget.spent_s >= patience_s,
            lambda step: self._advance(0.0, step),
        )

    def _launch(
        self, threads: int, rows: list[list[int]], number: int = 0, control: str | None = None
    ) -> AbstractContextManager[dict[str, Process]]:
        """Start the processes with the texts of these rounds."""
        texts = [self.texts[row] for round_ in rows for row in round_]
        return benchmark.launch(
            lambda name: self.open_process(name, threads, self._report), self.names, texts, control, number
        )

    def _time(self, probe: benchmark.Probe) -> None:
        """Start the processes again and again, and time them each time."""
        plan = self.plan
        swept = range(min(plan.sweep_texts, plan.rounds * plan.texts))
        for number, rows in enumerate(self.timed):
            step = f"speed, start {number + 1} of {plan.launches}: "
            self._advance(0.0, step + "opening the runtimes")
            with self._launch(self.threads, rows, number, self.names[0]) as pool:
                for arm, process in pool.items():
                    name = self.names[0] if arm == benchmark.CONTROL else arm
                    self.backends[name]["starts"].append(process.ready["start"])
                self.latency["cores"] = pool[self.names[0]].ready["cores"]
                self._advance(START, step + "warming up")
                self.latency["warm_up"].append(benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"]))
                self._advance(WARM_UP, step + "batch sizes")
                sweep = partial(self._advance, SWEEP, step + "batch sizes")
                # One first: without any, a run that is cut short is of no use.
                self._add(self.sweeps, benchmark.sweep_rounds(pool, swept, range(1), number, probe, sweep))
                for name in self.names:
                    self.backends[name]["memory"].append(pool[name].ask("memory"))
                advance = partial(self._advance, plan.texts * CALL, step + "latency")
                self._add(
                    self.latency["blocks"],
                    benchmark.latency_rounds(pool, _positions(rows), number, probe, advance),
                )
                more = range(1, plan.sweeps)
                self._add(self.sweeps, benchmark.sweep_rounds(pool, swept, more, number, probe, sweep))
                advance, most = partial(self._advance, SHAPE_ROUND, step + "fixed shapes"), self.max_tokens
                self._add(self.shapes, benchmark.shape_rounds(pool, plan.shape_rounds, most, number, probe, advance))
                if number == 0:
                    self._count_batch_flips(pool)
            self._launches += 1
        for count in self.other_threads:
            self.others.append(self._with_threads(count, probe))

    def _add(self, samples: list[dict[str, Any]], measured: Iterable[dict[str, Any]]) -> None:
        """Keep each sample as it comes: the time may be over before the last."""
        for sample in measured:
            samples.append(sample)

    def _carried_out(self) -> benchmark.Plan | None:
        """Return the part of the plan that was completed when the time was over."""
        rounds = {block["round"] for block in self.latency["blocks"] if not block["disturbed"]}
        most = self.max_tokens
        shapes = max(1, sum(tokens <= most for _, tokens in benchmark.SHAPES))  # a very short model fits none
        return benchmark.cut_short(
            self.plan,
            self._launches,
            next(number for number in itertools.count() if number not in rounds),
            len(self.sweeps) // (len(benchmark.BATCH_SIZES) * len(self.names)),
            len(self.shapes) // (shapes * len(self.names)),
            all(entry["batch_flips"]["rows"] for entry in self.backends.values()),
        )

    def _raw(self, plan: benchmark.Plan) -> dict[str, Any]:
        """Return the raw fields of a receipt, without what was begun after the plan that was carried out."""

        def within(samples: Sequence[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
            return [s for s in samples if s["launch"] < plan.launches and s["round"] < rounds]

        for name, entry in self.backends.items():
            entry["starts"] = entry["starts"][: plan.launches * (2 if name == self.names[0] else 1)]
            entry["memory"] = entry["memory"][: plan.launches]
            if plan.alone_rows == 0:
                entry["batch_flips"] = {"rows": 0, "tasks": dict.fromkeys(self.tasks, 0)}
        return {
            "backends": self.backends,
            "latency": self.latency
            | {
                "rows": [rounds[: plan.rounds] for rounds in self.timed[: plan.launches]],
                "warm_up": self.latency["warm_up"][: plan.launches],
                "blocks": within(self.latency["blocks"], plan.rounds),
            },
            "throughput": {
                "texts": min(plan.sweep_texts, plan.rounds * plan.texts),
                "samples": within(self.sweeps, plan.sweeps),
            },
            "shapes": within(self.shapes, plan.shape_rounds),
            "other_threads": self.others if plan.best_threads else [],
        }

    def _with_threads(self, threads: int, probe: benchmark.Probe) -> dict[str, Any]:
        """Measure the first two rounds of latency again with another number of threads."""
        step = f"speed with {threads} thread{'s' * (threads > 1)}"
        rows = self.timed[0][:2]
        with self._launch(threads, rows) as pool:
            self._advance(START / 2, step)
            benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"])
            self._advance(WARM_UP, step)
            advance = partial(self._advance, self.plan.texts * CALL, step)
            blocks = list(benchmark.latency_rounds(pool, _positions(rows), 0, probe, advance))
        return {"threads": threads, "blocks": blocks}

    def _count_batch_flips(self, pool: dict[str, Process]) -> None:
        """Add `batch_flips`, the labels that differ between a text alone and in a batch."""
        texts = [self.texts[row] for row in self.alone]
        for name in self.names:
            pool[name].ask("read", texts=texts)
            flips = pool[name].ask("alone", rows=list(range(len(texts))), tasks=self.tasks)
            self.backends[name]["batch_flips"] = {"rows": len(texts), "tasks": flips}
            self._advance(len(texts) * CALL / len(self.names), "labels alone and in a batch")


def _positions(rounds: list[list[int]]) -> list[list[int]]:
    """Number the rows of the rounds consecutively, as their texts are."""
    count = itertools.count()
    return [[next(count) for _ in rows] for rows in rounds]
