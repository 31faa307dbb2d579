"""Measure the backends of a model on labelled rows, and return the result as a receipt."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inference import cpu
from inference.artifacts.cache import Artifact, default_cache, obtain, tool_versions
from inference.assets import CALIBRATION
from inference.backends import BACKENDS, RUNTIMES, TITLES, LoadOptions, check_backend
from inference.compare import benchmark
from inference.compare.footprint import footprint
from inference.compare.receipt import FORMAT, VERSION, Receipt, seal
from inference.compare.results import results
from inference.compare.rows import LabelledRows, read_showcase
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import content_key
from inference.formats.pairs import PAIRS_REMEDY
from inference.jobs import Progress
from inference.version import __version__

CHUNK = 500  # rows that a backend answers before the next one takes its turn
QUICK_ROWS = 500
UNPAIRED = "the model was trained on pairs of texts, and the rows are single ones: name the column of the second texts"
# Approximate seconds of each part, on two cores with a small encoder. Only the ratios matter, for progress.
START, WARM_UP, CALL, SWEEP, ROW, SHAPE_ROUND = 14.0, 4.0, 0.035, 6.0, 0.022, 6.0


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
    """Measure latency, throughput, size, memory, start-up and accuracy of each backend on the same rows.

    Args:
        model: a folder, a Hub id, or the description of a model.
        data: labelled rows (default: the showcase, with `keep_texts`).
        backends: default: all that the model has. The most exact one is the reference.
        dtype: as for `load`, for the backends that offer a choice.
        threads: CPU threads per backend (default: all cores that this process may use).
        quick: take under a minute: one start per process, fewer samples, at most `QUICK_ROWS` rows.
        seed: seed for the rows to time, the sample of rows, and the bootstrap.
        cache: folder of built models (default: `~/.cache/triptych`).
        base: folder of the base model, as for `load`.
        keep_texts: store the texts in the receipt. Leave it off for confidential texts.
        progress: called with the step and the share done.
        plan: how much to measure (default: `benchmark.QUICK` or `benchmark.FULL`).

    Raises:
        InferenceError: the model does not load, a backend does not start, or an argument is invalid.
    """
    bundle = model if isinstance(model, Bundle) else describe(model, base)
    chosen = backends
    backends = bundle.backends if chosen is None else chosen
    threads = cpu.cores() if threads is None else threads
    _check_arguments(bundle, backends, threads, seed)
    dtypes = _dtypes(backends, dtype)
    progress = progress or (lambda step, share: None)
    cache = cache or default_cache()
    keep_texts = keep_texts or data is None
    if data and data.pair_column is not None and not bundle.pairs:
        raise InputError(
            f"There is a pair column ({data.pair_column!r}), and nothing says that {bundle.name} takes pairs. "
            f"{PAIRS_REMEDY}"
        )
    data = _select_rows(bundle, data, QUICK_ROWS if quick else None, seed)
    artifact = obtain(bundle, cache, lambda step, share: progress(f"building: {step}", 0.0), base)
    bundle = artifact.served(bundle)
    backends = bundle.backends if chosen is None else chosen
    for name in backends:
        check_backend(name, bundle.backends, bundle.missing)
    missing = [f"{TITLES[name]} is missing: {reason.rstrip('.')}" for name, reason in bundle.missing.items()]
    data = replace(data, remarks=[*data.remarks, *missing])
    names = [name for name in RUNTIMES if name in backends]  # the most exact first: the reference
    plan = plan or (benchmark.QUICK if quick else benchmark.FULL)
    run = _Run(bundle, artifact, data, names, dtypes, threads, cache, base, seed, plan, progress)
    before, cpu_times, started = _load_and_clock(), benchmark.cpu_times([]), time.monotonic()
    measured = run.measure()
    progress("statistics", 0.99)
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
        "model": _model_entry(bundle),
        "data": _data_entry(data, run.tokens, run.truncated, keep_texts),
        "machine": _machine_entry()
        | {"before": before, "after": _load_and_clock()}
        | {"steal_share": round(benchmark.steal_share([], cpu_times), 5)},
        "versions": _versions(),
        **measured,
    }
    receipt["results"] = results(receipt)
    progress("done", 1.0)
    return seal(receipt)


def _check_arguments(bundle: Bundle, backends: Sequence[str], threads: int, seed: int) -> None:
    for name in backends:
        check_backend(name, bundle.backends)
    if not backends or len(set(backends)) < len(backends):
        raise InputError(f"backends={','.join(backends)} must name each backend once. Known: {', '.join(BACKENDS)}.")
    if seed < 0:
        raise InputError(f"seed={seed} must not be negative.")
    if not 1 <= threads <= cpu.cores():
        raise InputError(f"threads={threads}, but this process may use 1 to {cpu.cores()}.")


def _select_rows(bundle: Bundle, data: LabelledRows | None, max_rows: int | None, seed: int) -> LabelledRows:
    """Return the rows to measure on: neither trained on, nor used to calibrate INT8, and at most `max_rows`."""
    if data is None:
        data = read_showcase(bundle)
    if data.sha256 in bundle.trained_on:
        raise InputError(f"{data.name} is the file that {bundle.name} was trained on. Pass rows it has not seen.")
    calibration = set(CALIBRATION.read_text(encoding="utf-8").splitlines())
    data = data.without(calibration, "their texts set the ranges of the INT8 model")
    if bundle.pairs and data.pair_column is None:
        data = replace(data, remarks=[*data.remarks, UNPAIRED])
    return data if max_rows is None else data.sample(max_rows, seed)


def _data_entry(data: LabelledRows, tokens: list[int], truncated: int, keep_texts: bool) -> dict[str, Any]:
    return {
        "name": data.name,
        "sha256": data.sha256,
        "rows_in_file": data.rows_in_file,
        "row_numbers": data.row_numbers,
        "tokens": tokens,
        "truncated": truncated,
        "labels": {task: list(ids) for task, ids in data.labels.items()},
        "texts": data.texts_as_strings if keep_texts else None,
        **({} if data.pair_column is None else {"pair_column": data.pair_column}),
        "copies": data.copies,
        "notes": data.notes,
    }


def _model_entry(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "files": dict(bundle.files),
        "base": bundle.base and {name: getattr(bundle.base, name) for name in ("hub_id", "revision", "files")},
        "max_tokens": bundle.max_tokens,
        "tasks": {
            name: {"labels": list(task.labels)}
            | {field: getattr(task, field) for field in ("problem_type", "threshold", "out_of_scope")}
            for name, task in bundle.tasks.items()
        },
    }


def _dtypes(backends: Sequence[str], dtype: str | None) -> dict[str, str]:
    """Return backend -> dtype for the backends that offer a choice on a CPU.

    Raises:
        InputError: no backend supports the dtype.
    """
    if dtype is None:
        return {}
    choosing = [name for name in backends if len(RUNTIMES[name].dtypes["cpu"]) > 1] or list(backends)
    for name in choosing:
        LoadOptions(name, dtype=dtype)  # raises if it cannot
    return dict.fromkeys(choosing, dtype)


@dataclass
class _Run:
    """A measurement in progress, and what it has gathered."""

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
    progress: Progress

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

    def _advance(self, seconds: float, step: str) -> None:
        self._done += seconds
        self.progress(step, min(0.98, self._done / self._total))

    def _launch(
        self, threads: int, rows: list[list[int]], number: int = 0, control: str | None = None
    ) -> AbstractContextManager[dict[str, benchmark.Process]]:
        """Start the processes with the texts of these rounds."""
        options = {
            "cache": self.cache,
            "base": self.base,
            "content": content_key(self.bundle),
            "threads": threads,
            "pairs": self.bundle.pairs,
        }

        def open_process(name: str) -> benchmark.Process:
            return benchmark.Process(self.bundle.folder, name, **options, dtype=self.dtypes.get(name))

        texts = [self.data.texts[row] for round_ in rows for row in round_]
        return benchmark.launch(open_process, self.names, texts, control, number)

    def measure(self) -> dict[str, Any]:
        """Return the fields `backends`, `latency`, `throughput`, `shapes` and `other_threads` of the receipt."""
        backends: dict[str, dict[str, Any]] = {
            name: footprint(self.bundle, self.artifact, name, self.base) | {"starts": [], "memory": []}
            for name in self.names
        }
        quantized = self.artifact.manifest.get("quantized", {})  # empty if INT8 is missing
        if "int8" in backends and "tried" in quantized:  # an imported graph has no record of recipes
            backends["int8"]["quantized"] = quantized
        latency: dict[str, Any] = {"rows": self.timed, "warm_up": [], "blocks": []}
        sweeps: list[dict[str, Any]] = []
        shapes: list[dict[str, Any]] = []
        plan, probe = self.plan, benchmark.Probe(self.plan.wait_s)
        swept = min(plan.sweep_texts, plan.rounds * plan.texts)
        for number, rows in enumerate(self.timed):
            step = f"start {number + 1} of {plan.launches}: "
            self._advance(0.0, step + "opening the backends")
            with self._launch(self.threads, rows, number, self.names[0]) as pool:
                for arm, process in pool.items():
                    name = self.names[0] if arm == benchmark.CONTROL else arm
                    backends[name]["starts"].append(process.ready["start"])
                latency["cores"] = pool[self.names[0]].ready["cores"]
                self._advance(START, step + "warming up")
                latency["warm_up"].append(benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"]))
                self._advance(WARM_UP, step + "latency")
                advance = partial(self._advance, plan.texts * CALL, step + "latency")
                latency["blocks"] += benchmark.latency_rounds(pool, _positions(rows), number, probe, advance)
                advance = partial(self._advance, SWEEP, step + "batch sizes")
                sweeps += benchmark.sweep_rounds(pool, range(swept), plan.sweeps, number, probe, advance)
                for name in self.names:
                    backends[name]["memory"].append(pool[name].ask("memory"))
                advance, most = partial(self._advance, SHAPE_ROUND, step + "fixed shapes"), self.bundle.max_tokens
                shapes += benchmark.shape_rounds(pool, plan.shape_rounds, most, number, probe, advance)
                if number == 0:
                    self._predict(pool, backends)
                    self._count_batch_flips(pool, backends)
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
        """Measure the first two rounds of latency again with another number of threads."""
        step = f"with {threads} thread{'s' * (threads > 1)}"
        rows = self.timed[0][:2]
        with self._launch(threads, rows) as pool:
            self._advance(START / 2, step)
            benchmark.warm_up(pool, pool[self.names[0]].tokens["tokens"])
            self._advance(WARM_UP, step)
            advance = partial(self._advance, self.plan.texts * CALL, step)
            return {"threads": threads, "blocks": benchmark.latency_rounds(pool, _positions(rows), 0, probe, advance)}

    def _predict(self, pool: dict[str, benchmark.Process], backends: dict[str, dict[str, Any]]) -> None:
        """Add `predictions`, the answers to every row by the processes that were just timed."""
        tasks = {task: len(self.bundle.tasks[task].labels) for task in self.data.labels}
        for entry in backends.values():
            entry["predictions"] = {task: {"label_ids": [], "confidence": [], "max_abs_dp": 0.0} for task in tasks}
        total = len(self.data)
        for first in range(0, total, CHUNK):
            texts = self.data.texts[first : first + CHUNK]
            expected: dict[str, Any] = {}
            for name in self.names:
                lengths = pool[name].ask("read", texts=texts)
                reply = pool[name].ask("answer", rows=list(range(len(texts))), tasks=list(tasks))
                scores = benchmark.scores(reply, tasks)
                if name == self.names[0]:
                    expected = scores
                    self.tokens += lengths["tokens"]
                    self.truncated += sum(lengths["truncated"])
                for task, table in scores.items():
                    entry = backends[name]["predictions"][task]
                    entry["label_ids"] += table.argmax(1).tolist()
                    entry["confidence"] += np.round(table.max(1).astype(float), 6).tolist()
                    gap = float(np.abs(table - expected[task]).max())
                    entry["max_abs_dp"] = max(entry["max_abs_dp"], gap)
            self._advance(len(texts) * ROW, f"accuracy, {min(first + CHUNK, total):,} of {total:,} rows")

    def _count_batch_flips(self, pool: dict[str, benchmark.Process], backends: dict[str, dict[str, Any]]) -> None:
        """Add `batch_flips`, the labels that differ between a text alone and in a batch."""
        texts = [self.data.texts[row] for row in self.alone]
        for name in self.names:
            pool[name].ask("read", texts=texts)
            flips = pool[name].ask("alone", rows=list(range(len(texts))), tasks=list(self.data.labels))
            backends[name]["batch_flips"] = {"rows": len(texts), "tasks": flips}
            self._advance(len(texts) * CALL / len(self.names), "alone and in a batch")


def _positions(rounds: list[list[int]]) -> list[list[int]]:
    """Number the rows of the rounds consecutively, as their texts are."""
    count = itertools.count()
    return [[next(count) for _ in rows] for rows in rounds]


def _load_and_clock() -> dict[str, Any]:
    import psutil

    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "mhz": round(frequency.current) if frequency else None,
    }


def _machine_entry() -> dict[str, Any]:
    import psutil

    return {
        "cpu": cpu.model(),
        "cores": cpu.cores(),
        "flags": cpu.int8_flags(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "memory_bytes": int(psutil.virtual_memory().total),
    }


def _versions() -> dict[str, str]:
    """Return the versions of Triptych, of what builds models, and of what is timed or computes the figures."""
    libraries = {name: importlib.metadata.version(name) for name in ("tokenizers", "numpy", "scipy", "scikit-learn")}
    return {"triptych": __version__, "python": platform.python_version(), **tool_versions(), **libraries}
