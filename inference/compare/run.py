"""Measure the backends of a model on labelled rows, and return the result as a receipt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inference import cpu
from inference.artifacts.cache import Artifact, default_cache, find, obtain
from inference.assets import CALIBRATION
from inference.backends import BACKENDS, RUNTIMES, TITLES, LoadOptions, check_backend
from inference.compare import benchmark
from inference.compare.answering import Answers, WarmProcesses
from inference.compare.footprint import footprint
from inference.compare.processes import Process
from inference.compare.receipt import Receipt, seal
from inference.compare.recording import Clock, Recorder
from inference.compare.results import import_libraries, results, speed
from inference.compare.rows import LabelledRows, read_showcase
from inference.compare.timing import START, Timing
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import content_key
from inference.formats.pairs import PAIRS_REMEDY
from inference.jobs import Progress

QUICK_ROWS = 500
QUICK_S = 60.0  # that the timing of a quick run may take
UNPAIRED = "the model was trained on pairs of texts, and the rows are single ones: name the column of the second texts"
ROW = 0.022  # approximate seconds of an answer, for progress


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
    time_limit: float | None = None,
    on_start: Callable[[Answers], None] | None = None,
    on_part: Callable[[Receipt], None] | None = None,
    on_accuracy: Callable[[Receipt], None] | None = None,
    warm: WarmProcesses | None = None,
) -> Receipt:
    """Measure latency, throughput, size, memory, start-up and accuracy of each backend on the same rows.

    Accuracy is measured first, and completely. Timing follows. If it has a time limit and the machine is too busy, or
    the time is over too early, the receipt is without times, see `results.unmeasured`.

    Args:
        model: a folder, a Hub id, or the description of a model.
        data: labelled rows (default: the showcase, with `keep_texts`).
        backends: default: all that the model has. The most exact one is the reference.
        dtype: as for `load`, for the backends that offer a choice.
        threads: CPU threads per backend (default: all cores that this process may use).
        quick: one start per process, fewer samples, at most `QUICK_ROWS` rows.
        seed: seed for the rows to time, the sample of rows, and the bootstrap.
        cache: folder of built models (default: `~/.cache/triptych`).
        base: folder of the base model, as for `load`.
        keep_texts: store the texts in the receipt. Leave it off for confidential texts.
        progress: called with the step and the share done.
        plan: how much to measure (default: `benchmark.QUICK` or `benchmark.FULL`).
        time_limit: seconds that timing may take; 0 for accuracy alone (default: `QUICK_S` if quick, else no limit).
        on_start: called with the answers that will come in, before the first.
        on_part: called with a receipt of the rows that every backend has answered, whenever these have doubled and
            some are left. `data.unanswered` counts those; it has no times and no checksum, so it cannot be stored.
            The first ones may lack backends that are still loading, which `data.awaited` lists: if the reference is
            one of them, the others are compared with the most exact that has answered.
        on_accuracy: called with a receipt that has everything but times, as soon as that is known.
        warm: processes that have loaded this model, see `warm_up`.

    Raises:
        InferenceError: the model does not load, a backend does not start, or an argument is invalid.
    """
    bundle = (model if isinstance(model, Bundle) else describe(model, base)).with_runtimes(backends or ())
    chosen = backends
    backends = bundle.backends if chosen is None else chosen
    threads = cpu.cores() if threads is None else threads
    _check_arguments(bundle, backends, threads, seed, time_limit)
    dtypes = _dtypes(backends, dtype)
    progress = progress or (lambda step, share: None)
    cache = cache or default_cache()
    keep_texts = keep_texts or data is None
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
    limit_s = (QUICK_S if quick else math.inf) if time_limit is None else time_limit
    clock = Clock()
    open_process = partial(open_worker, bundle, cache, base, dtypes)

    def open_warm(name: str, watch: Callable[[], None]) -> Process:
        ready = warm.take(name, watch) if warm and not dtypes and warm.content == content_key(bundle) else None
        return ready or open_process(name, max(1, threads // len(names)), watch, False)  # they run at the same time

    counts = {task: len(bundle.tasks[task].labels) for task in data.labels}
    answers = Answers(open_warm, names, data.texts, data.labels, counts, seed)
    if on_start is not None:
        on_start(answers)
    timing = Timing(
        names, plan, data.texts, list(counts), bundle.max_tokens, threads, seed, limit_s, open_process, lambda *_: None
    )
    shares = _Shares(progress, START + len(data) * ROW, timing.seconds)
    timing.progress = shares.timing
    aside = ThreadPoolExecutor(1)  # while the backends load: both take seconds on a busy machine
    described = aside.submit(lambda: {name: _backend_entry(bundle, artifact, name, base) for name in names})
    imported = aside.submit(import_libraries)
    settings = {"threads": threads, "quick": quick, "seed": seed, **({"dtypes": dtypes} if dtypes else {})}
    recorder = Recorder(bundle, settings, keep_texts, clock, described.result)
    aside.shutdown(wait=False)  # a cancelled run does not wait for it
    parts = None if on_part is None else _Parts(answers, data, recorder, timing, on_part)

    def report_part() -> None:
        if parts is not None and imported.done():
            parts.report()

    _answer(answers, len(data), shares.answering, report_part)
    given = answers.given()
    first = recorder.receipt(data, given, *timing.nothing("pending"))
    known = results(first)
    if on_accuracy is not None:
        on_accuracy(seal(first | {"results": known}))
    final = recorder.receipt(data, given, *timing.run())
    shares.timing("statistics", 1.0)
    final["results"] = speed(final) | known
    progress("done", 1.0)
    return seal(final)


def _check_arguments(
    bundle: Bundle, backends: Sequence[str], threads: int, seed: int, time_limit: float | None
) -> None:
    for name in backends:
        check_backend(name, bundle.backends)
    if not backends or len(set(backends)) < len(backends):
        raise InputError(f"backends={','.join(backends)} must name each runtime once. Known: {', '.join(BACKENDS)}.")
    if time_limit is not None and not time_limit >= 0:
        raise InputError(f"time_limit={time_limit:g} must not be negative.")
    if seed < 0:
        raise InputError(f"seed={seed} must not be negative.")
    if not 1 <= threads <= cpu.cores():
        raise InputError(f"threads={threads}, but this process may use 1 to {cpu.cores()}.")


def _select_rows(bundle: Bundle, data: LabelledRows | None, max_rows: int | None, seed: int) -> LabelledRows:
    """Return the rows to measure on: neither trained on, nor used to calibrate INT8, and at most `max_rows`.

    Raises:
        InputError: the model was trained on them, or they are pairs and nothing says that it takes pairs.
    """
    if data and data.pair_column is not None and not bundle.pairs:
        raise InputError(
            f"There is a pair column ({data.pair_column!r}), and nothing says that {bundle.name} takes pairs. "
            f"{PAIRS_REMEDY}"
        )
    if data is None:
        data = read_showcase(bundle)
    if data.sha256 in bundle.trained_on:
        raise InputError(f"{data.name} is the file that {bundle.name} was trained on. Pass rows it has not seen.")
    calibration = set(CALIBRATION.read_text(encoding="utf-8").splitlines())
    data = data.without(calibration, "their texts set the ranges of the INT8 model")
    if bundle.pairs and data.pair_column is None:
        data = replace(data, remarks=[*data.remarks, UNPAIRED])
    return data if max_rows is None else data.sample(max_rows, seed)


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


def open_worker(
    bundle: Bundle,
    cache: Path,
    base: Path | None,
    dtypes: Mapping[str, str],
    name: str,
    threads: int,
    watch: Callable[[], None],
    pinned: bool = True,
) -> Process:
    """Open a process with a backend of a model whose files are built; see `Process`."""
    return Process(
        bundle.folder,
        name,
        pinned=pinned,
        watch=watch,
        cache=cache,
        base=base,
        content=content_key(bundle),
        threads=threads,
        pairs=bundle.pairs,
        dtype=dtypes.get(name),
    )


def warm_up(model: Bundle, cache: Path, base: Path | None) -> WarmProcesses | None:
    """Start to load every backend of a model, for a later `measure`; None if its files are not built."""
    artifact = find(model, cache)
    if artifact is None:
        return None
    bundle = artifact.served(model)
    return WarmProcesses(
        lambda name, watch: open_worker(bundle, cache, base, {}, name, 1, watch, False),
        bundle.backends,
        content_key(bundle),
    )


class _Parts:
    """Reports receipts of the rows that every backend has answered, whenever these have doubled and some are left."""

    def __init__(
        self,
        answers: Answers,
        data: LabelledRows,
        recorder: Recorder,
        timing: Timing,
        on_part: Callable[[Receipt], None],
    ) -> None:
        self._answers, self._data, self._recorder, self._timing = answers, data, recorder, timing
        self._on_part, self._names = on_part, list(answers.answered)
        self._rows, self._backends = 0, 1  # of the last part; one backend alone is compared with nothing

    def report(self) -> None:
        """Report a part if it is time; called often."""
        answers, total = self._answers, len(self._data)
        begun, rows = sum(map(bool, answers.answered.values())), answers.by_all()
        if rows == total or (begun == self._backends and not max(1, 2 * self._rows) <= rows):
            return
        given = answers.given()
        if len(given.names) < 2:
            return
        self._rows, self._backends = rows, len(given.names)
        if given.names == self._names and len(given.rows) == total:
            return  # all is answered: the whole measurement follows
        labelled = self._data.take(given.rows).judged()
        if labelled is None:  # too few of them have a label
            return
        part = self._recorder.receipt(labelled, given, *self._timing.nothing("pending"))
        part["data"]["unanswered"] = total - len(given.rows)
        part["data"]["awaited"] = [name for name in self._names if name not in given.names]
        self._on_part(part | {"results": results(part)})


class _Shares:
    """Turns the progress of the two parts, answering and timing, into one that never runs backwards."""

    def __init__(self, progress: Progress, answering_s: float, timing_s: float) -> None:
        self._progress, self._share = progress, 0.0
        self._first = answering_s / (answering_s + timing_s)

    def answering(self, step: str, share: float) -> None:
        self._report(step, share * self._first)

    def timing(self, step: str, share: float) -> None:
        self._report(step, self._first + share * (1 - self._first))

    def _report(self, step: str, share: float) -> None:
        self._share = max(self._share, min(0.98, share))
        self._progress(step, self._share)


def _answer(answers: Answers, total: int, progress: Progress, report_part: Callable[[], None]) -> None:
    """Let all backends answer every row; `report_part` is called often."""

    def report() -> None:
        counts = ", ".join(f"{TITLES[name]} {count:,}" for name, count in answers.answered.items())
        is_open = [count > 0 for count in answers.answered.values()]
        step = f"accuracy: {counts} of {total:,} rows" if any(is_open) else "accuracy: opening the runtimes"
        done = sum(is_open) * START + sum(answers.answered.values()) * ROW
        progress(step, done / len(is_open) / (START + total * ROW))
        report_part()

    report()
    answers.collect(report)


def _backend_entry(bundle: Bundle, artifact: Artifact, name: str, base: Path | None) -> dict[str, Any]:
    """Return what a receipt holds of a backend, but for its answers and times."""
    entry = footprint(bundle, artifact, name, base)
    quantized = artifact.of(name).manifest.get("quantized", {})  # empty if INT8 is missing
    if (
        name == "int8" or RUNTIMES[name].is_optional
    ) and "tried" in quantized:  # an imported graph has no record of recipes
        entry["quantized"] = quantized
    return entry
