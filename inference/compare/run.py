"""`compare`: measure the backends of a model on labelled rows, and what was found as a receipt."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inference import cpu
from inference.artifacts.cache import Artifact, default_cache, obtain, tool_versions
from inference.assets import CALIBRATION, SHOWCASE
from inference.backends import BACKENDS, RUNTIMES, LoadOptions, check_backend
from inference.compare import benchmark
from inference.compare.footprint import footprint
from inference.compare.receipt import FORMAT, VERSION, Receipt, seal
from inference.compare.results import results
from inference.compare.rows import LabelledRows, read_data
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import content_key
from inference.jobs import Progress
from inference.version import __version__

CHUNK = 500  # rows that a backend answers before it is the next one's turn
QUICK_ROWS = 500
# About how many seconds each part takes on two cores with a small encoder. Only ratios matter, for the bar.
START, WARM_UP, CALL, SWEEP, ROW, SHAPE_ROUND = 14.0, 4.0, 0.035, 6.0, 0.022, 6.0


def _showcase(bundle: Bundle) -> LabelledRows:
    try:
        return read_data(SHOWCASE, bundle.tasks)
    except InputError as error:
        raise InputError(
            f"The showcase has no labels for {bundle.name} ({', '.join(bundle.tasks)}). Give labelled rows of your "
            "own: --data FILE.csv with the columns text and label."
        ) from error


def measure(
    model: str | Path | Bundle,
    data: LabelledRows | None = None,
    *,
    backends: Sequence[str] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    quick: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    base: Path | None = None,
    keep_texts: bool = False,
    progress: Progress | None = None,
    plan: benchmark.Plan | None = None,
) -> Receipt:
    """A receipt: latency, throughput, size, memory, start-up and accuracy of each backend on the same rows.

    Args:
        model: a folder, a Hub id, or a description of one: what is measured is what was described.
        data: labelled rows; the showcase, with its texts kept, if left out.
        backends: the first of them is the reference, "pytorch" where it is among them; all that the model has if
            left out.
        dtype: as for `load`, of the backends that have a choice.
        threads: CPU threads of each backend, the same for all; every core this process may use if left out.
        quick: under a minute instead of some: one start of each process, fewer samples, at most `QUICK_ROWS` rows.
        seed: draws the rows that are timed, the sample of rows, and the bootstrap.
        cache: folder of built models; `~/.cache/triptych` if left out.
        base: folder of the base model, as for `load`.
        keep_texts: put the texts in the receipt. Leave it off for texts that others may not see.
        progress: called with the step and the share done.
        plan: how much to measure, where neither the full nor the quick one is meant.

    Raises:
        InferenceError: the model does not load, a backend does not start, or an argument makes no sense.
    """
    bundle = model if isinstance(model, Bundle) else describe(model, base)
    backends = bundle.backends if backends is None else backends
    for name in backends:
        check_backend(name, bundle.backends)
    dtypes = _dtypes(backends, dtype)
    if not backends or len(set(backends)) < len(backends):
        raise InputError(f"backends={','.join(backends)} must name each backend once. Known: {', '.join(BACKENDS)}.")
    if seed < 0:
        raise InputError(f"seed={seed} must not be negative.")
    threads = cpu.cores() if threads is None else threads
    if not 1 <= threads <= cpu.cores():
        raise InputError(f"threads={threads}, but this process may use 1 to {cpu.cores()}.")
    say = progress or (lambda step, share: None)
    cache = cache or default_cache()
    if data is None:
        data, keep_texts = _showcase(bundle), True
    # What set the INT8 ranges must not be what they are judged on.
    if data.sha256 in bundle.trained_on:
        raise InputError(f"{data.name} is the file that {bundle.name} was trained on. Give rows it has not seen.")
    used = set(CALIBRATION.read_text(encoding="utf-8").splitlines())
    data = data.without(used, "their texts set the ranges of the INT8 model")
    if quick:
        data = data.sample(QUICK_ROWS, seed)
    artifact = obtain(bundle, cache, lambda step, share: say(f"building: {step}", 0.0), base)
    # In the order of exactness, the reference first.
    names = [name for name in RUNTIMES if name in backends]
    plan = plan or (benchmark.QUICK if quick else benchmark.FULL)
    run = _Run(bundle, artifact, data, names, dtypes, threads, cache, base, seed, plan, say)
    before, stolen, started = _machine_now(), benchmark.steal([]), time.monotonic()
    measured = run.measure()
    say("statistics", 0.99)
    receipt: Receipt = {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - started, 1),
        "settings": {
            "backends": names,
            "reference": names[0],
            "threads": threads,
            "quick": quick,
            "seed": seed,
            **({"dtypes": dtypes} if dtypes else {}),
            **asdict(plan),
        },
        "model": {
            "name": bundle.name,
            "files": dict(bundle.files),
            "base": bundle.base and {name: getattr(bundle.base, name) for name in ("hub_id", "revision", "files")},
            "max_tokens": bundle.max_tokens,
            "tasks": {name: asdict(task) | {"labels": list(task.labels)} for name, task in bundle.tasks.items()},
        },
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "rows_in_file": data.rows_in_file,
            "row_numbers": data.row_numbers,
            "tokens": run.tokens,
            "truncated": run.truncated,
            "labels": {task: list(ids) for task, ids in data.labels.items()},
            "texts": list(data.texts) if keep_texts else None,
            "copies": data.copies,
            "notes": data.notes,
        },
        "machine": {
            "cpu": cpu.model(),
            "cores": cpu.cores(),
            "flags": cpu.int8_flags(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "memory_bytes": _memory_bytes(),
            "before": before,
            "after": _machine_now(),
            "steal_share": round(benchmark.steal([], stolen), 5),
        },
        "versions": {"triptych": __version__, "python": platform.python_version(), **tool_versions(), **_versions()},
        **measured,
    }
    receipt["results"] = results(receipt)
    say("done", 1.0)
    return seal(receipt)


def _dtypes(backends: Sequence[str], dtype: str | None) -> dict[str, str]:
    """Backend -> the dtype to measure it in, of those that have a choice on a CPU.

    Raises:
        InputError: none of them can be measured in it.
    """
    if dtype is None:
        return {}
    choosing = [name for name in backends if len(RUNTIMES[name].dtypes["cpu"]) > 1] or list(backends)
    return {name: LoadOptions(name, dtype=dtype).backend and dtype for name in choosing}


@dataclass
class _Run:
    """The measurement itself; what it gathers on the way."""

    bundle: Bundle
    artifact: Artifact
    data: LabelledRows
    names: list[str]
    dtypes: dict[str, str]
    threads: int
    cache: Path
    base: Path | None
    seed: int
    plan: benchmark.Plan
    say: Progress

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.truncated = 0
        rng, plan, rows = np.random.default_rng(self.seed), self.plan, len(self.data)
        self.timed = benchmark.timed_rows(plan, rows, rng)
        self.alone: list[int] = rng.permutation(rows)[: plan.alone_rows].tolist()
        self.other_threads = benchmark.other_threads(plan, self.threads, cpu.cores())
        self._total = (
            plan.launches * (START + WARM_UP + plan.sweeps * SWEEP + plan.shape_rounds * SHAPE_ROUND)
            + plan.launches * plan.rounds * plan.texts * CALL
            + rows * ROW
            + len(self.alone) * CALL
            + len(self.other_threads) * (START / 2 + WARM_UP + 2 * plan.texts * CALL)
        )
        self._done = 0.0

    def _tick(self, seconds: float, step: str) -> None:
        self._done += seconds
        self.say(step, min(0.98, self._done / self._total))

    def _launch(
        self, threads: int, rows: list[list[int]], number: int = 0, control: str | None = None
    ) -> AbstractContextManager[dict[str, benchmark.Process]]:
        """The processes, holding the texts of these rounds one after the other."""
        texts = [self.data.texts[row] for one in rows for row in one]
        content = content_key(self.bundle)
        return benchmark.launch(
            self.names, self.bundle.folder, self.cache, threads, texts, control, self.base, number, content, self.dtypes
        )

    def recipe(self, backend: str) -> dict[str, Any]:
        """How INT8 was made; nothing of the others, nor of graphs that were found made."""
        made = self.artifact.manifest["quantized"]
        return {"quantized": made} if backend == "int8" and "tried" in made else {}

    def measure(self) -> dict[str, Any]:
        """What a receipt says of the backends: `backends`, `latency`, `throughput`, `shapes`, `other_threads`."""
        backends = {
            name: {
                **footprint(self.bundle, self.artifact, name, self.base),
                **self.recipe(name),
                "starts": [],
                "memory": [],
            }
            for name in self.names
        }
        latency: dict[str, Any] = {"rows": self.timed, "warm_up": [], "blocks": []}
        sweeps: list[dict[str, Any]] = []
        shapes: list[dict[str, Any]] = []
        probe = benchmark.Probe(self.plan.wait_s)
        plan, swept = self.plan, min(self.plan.sweep_texts, self.plan.rounds * self.plan.texts)
        for number, rows in enumerate(self.timed):
            step = f"start {number + 1} of {plan.launches}: "
            self.say(step + "opening the backends", self._done / self._total)
            with self._launch(self.threads, rows, number, self.names[0]) as pool:
                for arm, process in pool.items():
                    name = self.names[0] if arm == benchmark.CONTROL else arm
                    backends[name]["starts"].append(process.ready["start"])
                latency["cores"] = pool[self.names[0]].ready["cores"]
                self._tick(START, step + "warming up")
                latency["warm_up"].append(benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"]))
                self._tick(WARM_UP, step + "latency")
                tick = partial(self._tick, plan.texts * CALL, step + "latency")
                latency["blocks"] += benchmark.latency_rounds(pool, _places(rows), number, probe, tick)
                tick = partial(self._tick, SWEEP, step + "batch sizes")
                sweeps += benchmark.sweep_rounds(pool, list(range(swept)), plan.sweeps, number, probe, tick)
                for name in self.names:
                    backends[name]["memory"].append(pool[name].ask("memory"))
                tick = partial(self._tick, SHAPE_ROUND, step + "fixed shapes")
                shapes += benchmark.shape_rounds(pool, plan.shape_rounds, self.bundle.max_tokens, number, probe, tick)
                if number == 0:
                    self._answers(pool, backends)
        others = [self._with_threads(count, probe) for count in self.other_threads]
        latency["waited_s"] = probe.waited_s
        return {
            "backends": backends,
            "latency": latency,
            "throughput": {"texts": swept, "samples": sweeps},
            "shapes": shapes,
            "other_threads": others,
        }

    def _with_threads(self, threads: int, probe: benchmark.Probe) -> dict[str, Any]:
        """The first two rounds of latency once more with another number of threads."""
        step = f"with {threads} thread{'s' * (threads > 1)}"
        rows = self.timed[0][:2]
        with self._launch(threads, rows) as pool:
            self._tick(START / 2, step)
            benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"])
            self._tick(WARM_UP, step)
            tick = partial(self._tick, self.plan.texts * CALL, step)
            return {"threads": threads, "blocks": benchmark.latency_rounds(pool, _places(rows), 0, probe, tick)}

    def _answers(self, pool: dict[str, benchmark.Process], backends: dict[str, Any]) -> None:
        """Every row's answer on each of the processes that were just timed."""
        tasks = {task: len(self.bundle.tasks[task].labels) for task in self.data.labels}
        for entry in backends.values():
            entry["predictions"] = {task: {"label_ids": [], "confidence": [], "max_abs_dp": 0.0} for task in tasks}
        total = len(self.data)
        for first in range(0, total, CHUNK):
            texts = self.data.texts[first : first + CHUNK]
            expected: dict[str, Any] = {}
            for name in self.names:
                read = pool[name].ask("read", texts=texts)
                found = benchmark.scores(
                    pool[name].ask("answer", rows=list(range(len(texts))), tasks=list(tasks)), tasks
                )
                if name == self.names[0]:
                    expected = found
                    self.tokens += read["tokens"]
                    self.truncated += sum(read["truncated"])
                for task, table in found.items():
                    entry = backends[name]["predictions"][task]
                    entry["label_ids"] += table.argmax(1).tolist()
                    entry["confidence"] += np.round(table.max(1).astype(float), 6).tolist()
                    gap = float(np.abs(table - expected[task]).max())
                    entry["max_abs_dp"] = max(entry["max_abs_dp"], gap)
            self._tick(len(texts) * ROW, f"accuracy, {min(first + CHUNK, total):,} of {total:,} rows")
        texts = [self.data.texts[row] for row in self.alone]
        for name in self.names:
            pool[name].ask("read", texts=texts)
            flips = pool[name].ask("alone", rows=list(range(len(texts))), tasks=list(tasks))
            backends[name]["batch_flips"] = {"rows": len(texts), "tasks": flips}
            self._tick(len(texts) * CALL / len(self.names), "alone and in a batch")


def _places(rounds: list[list[int]]) -> list[list[int]]:
    """The same rounds, as places in the list of their texts."""
    count = itertools.count()
    return [[next(count) for _ in one] for one in rounds]


def _machine_now() -> dict[str, Any]:
    import psutil

    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "mhz": round(frequency.current) if frequency else None,
    }


def _versions() -> dict[str, str]:
    """Of the libraries that are timed or that work out the figures, beside those of a build."""
    return {name: importlib.metadata.version(name) for name in ("tokenizers", "numpy", "scipy", "scikit-learn")}


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)
