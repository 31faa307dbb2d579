"""Measure all entries in turns, and write the record."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench import BenchError, lanes, models, plan, spinning, statistics
from bench.environments import OURS, run
from bench.peers import floor
from bench.plan import Entry
from bench.processes import ROOT, Process
from inference import __version__, cpu
from inference.assets import DEMO_MODEL
from inference.errors import without_folders
from inference.formats.describe import describe
from inference.formats.files import read_json
from inference.formats.identity import content_key

SEED = 17
FLOOR = "floor"


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        seconds: of a cell in a turn.
        only: keys of the entries to measure; default: all.
        data: see `bench.plan.rows`.
        rows: texts on which labels are compared.
        scored_rows: of the file that `score` answers.
    """

    cache: Path
    rounds: int = 10
    seconds: float = 0.4
    only: Sequence[str] = ()
    data: Path | None = None
    rows: int = plan.ROWS
    scored_rows: int = lanes.SCORED_ROWS


def measure(settings: Settings) -> dict[str, Any]:
    """Return the record; see `docs/performance.md` for what it holds."""
    started, threads = time.monotonic(), cpu.cores()
    model = _model(settings.cache)
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    stolen = _steal()
    with ExitStack() as stack:
        running = Running(settings, model, threads, stack)
        opened_s = time.monotonic() - started
        peak = Process(Entry(FLOOR, FLOOR, "floor", OURS), model, settings.cache, threads)
        stack.callback(peak.close)
        samples = _in_turns(settings, running, peak, read_json(model / "config.json"))
        labels = _labels(settings, running)
        versions = {key: process.versions for key, process in running.processes.items()}
    _say("Spinning")
    spun = _or_nothing(
        lambda: spinning.measure(model, settings.cache, threads, min(settings.rounds, 6), settings.seconds, SEED)
    )
    _say("Lanes")
    by_lanes = _or_nothing(lambda: lanes.measure(threads, 2 if settings.rounds > 1 else 1, settings.scored_rows))
    floor_ms, peak_gmacs = _floor(samples.pop(FLOOR), read_json(model / "config.json"))
    bundle = describe(DEMO_MODEL)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "HEAD") + ("-changed" if _git("status", "--porcelain") else ""),
        "version": __version__,
        "model": content_key(bundle),
        "machine": {
            "cpu": cpu.model(),
            "cores": threads,
            "flags": cpu.int8_flags(),
            "huge_pages": cpu.has_huge_pages(cpu.asking_for_huge_pages()),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_before": before,
            "stolen_share": round((_steal() - stolen) / (time.monotonic() - started) / threads, 4),
        },
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "threads": threads,
            "seed": SEED,
            "sentence": plan.sentence(),
            "mixed": len(plan.mixed()),
            "rows": len(plan.rows(settings.data, settings.rows)),
            "texts": "assets" if settings.data is None else "validation rows",
        },
        "minutes": {
            "environments_and_models": round(opened_s / 60, 1),
            "measuring": round((time.monotonic() - started - opened_s) / 60, 1),
        },
        "floor": {"peak_gmacs": peak_gmacs, "ms": floor_ms},
        "entries": [
            _summarised(entry, samples, labels, versions, running.missing)
            for entry in plan.entries()
            if _is_chosen(settings, entry)
        ],
        "spinning": spun,
        "lanes": by_lanes,
    }


def _or_nothing(measured: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the cells of a part; none, and a message, if it fails: the other parts took long."""
    try:
        return measured()
    except BenchError as error:
        _say(f"  not measured: {error}")
        return []


def _is_chosen(settings: Settings, entry: Entry) -> bool:
    return not settings.only or entry.key in settings.only


class Running:
    """The processes of the entries; of those that failed, the reason in `missing`."""

    def __init__(self, settings: Settings, model: Path, threads: int, stack: ExitStack) -> None:
        self.processes: dict[str, Process] = {}
        self.missing: dict[str, str] = {}
        for entry in plan.entries():
            if not _is_chosen(settings, entry):
                continue
            _say(f"Opening {entry.title}")
            try:
                if entry.missing:
                    raise BenchError(entry.missing)
                self.processes[entry.key] = Process(entry, model, settings.cache, threads)
                stack.callback(self.processes[entry.key].close)
            except BenchError as error:
                self._drop(entry.key, error)

    def ask(self, key: str, do: str, **details: Any) -> Any:
        """Return the reply to an order; None if the entry has failed, now or before."""
        if key in self.missing:
            return None
        try:
            return self.processes[key].ask(do, **details)
        except BenchError as error:
            self._drop(key, error)
            return None

    def _drop(self, key: str, error: BenchError) -> None:
        self.missing[key] = without_folders(str(error))
        _say(f"  {key} is not measured: {error}")


Samples = dict[str, dict[str, list[list[float]]]]


def _in_turns(settings: Settings, running: Running, peak: Process, config: dict[str, Any]) -> Samples:
    """Return milliseconds by entry, cell and round; the order of the entries is reversed each round."""
    one, mixed = [plan.sentence()], plan.mixed()
    samples: Samples = {FLOOR: {}}
    for number in range(settings.rounds):
        started = time.monotonic()
        for which in range(len(floor.shapes(config))):
            times = peak.ask("pass_times", texts=1, tokens=which + 1, seconds=settings.seconds, seed=SEED)
            samples[FLOOR].setdefault(str(which), []).append(times)
        keys = list(running.processes) if number % 2 == 0 else list(reversed(running.processes))
        for texts, tokens in plan.SHAPES:
            for key in keys:
                if key != plan.WITHOUT_LANES:  # a batch is the same with and without
                    times = running.ask(
                        key, "pass_times", texts=texts, tokens=tokens, seconds=settings.seconds, seed=SEED
                    )
                    samples.setdefault(key, {}).setdefault(f"{texts}x{tokens}", []).append(times)
        for cell, list_of_texts in (("one", one), ("mixed", mixed)):
            for key in keys:
                times = running.ask(key, "text_times", texts=list_of_texts, seconds=settings.seconds)
                samples.setdefault(key, {}).setdefault(cell, []).append(times)
        _say(f"Round {number + 1} of {settings.rounds}: {time.monotonic() - started:.0f} s")
    return samples


def _labels(settings: Settings, running: Running) -> dict[str, Any]:
    """Return agreement with FP32 and flips, by entry; nothing without the reference."""
    texts = plan.rows(settings.data, settings.rows)
    labels = {}
    for key in running.processes:
        _say(f"Labels of {key}")
        if answers := running.ask(key, "labels", texts=texts):
            labels[key] = answers
    if plan.REFERENCE not in labels:
        return {}
    reference = labels[plan.REFERENCE]["together"]
    return {key: statistics.agreement(given, reference) for key, given in labels.items()}


def _summarised(
    entry: Entry, samples: Samples, labels: dict[str, Any], versions: dict[str, Any], missing: dict[str, str]
) -> dict[str, Any]:
    about: dict[str, Any] = {"key": entry.key, "title": entry.title, "note": entry.note, "color": entry.color}
    if entry.key in missing:
        return about | {"not_measured": missing[entry.key]}
    cells = {}
    for cell, rounds in samples[entry.key].items():
        cells[cell] = statistics.summary(rounds, SEED)
        ours = None if plan.OUR_BEST in missing else samples.get(plan.OUR_BEST, {}).get(cell)
        if ours and entry.key != plan.OUR_BEST:
            cells[cell]["times_int8"] = statistics.ratio(rounds, ours, SEED)
    return about | {"versions": versions[entry.key], "cells": cells, "agreement": labels.get(entry.key)}


def _floor(rounds: dict[str, list[list[float]]], config: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Return the milliseconds of each shape at the highest rate of the products, and that rate in GMAC/s."""
    rates = []
    for (rows, columns), times in zip(floor.shapes(config), rounds.values(), strict=True):
        lowest_ms = statistics.summary(times, SEED)["lowest_tenth_ms"]["value"]
        rates.append(floor.LINES * rows * columns / lowest_ms / 1e6)
    peak = max(rates)
    times_ms = {
        f"{texts}x{tokens}": float(f"{models.multiply_adds(config, texts, tokens) / peak / 1e6:.4g}")
        for texts, tokens in plan.SHAPES
    }
    return times_ms, round(peak, 1)


def _model(cache: Path) -> Path:
    """Return the folder that `bench.models` writes of this demo model, made if there is none."""
    source = (ROOT / "bench" / "models.py").read_bytes()
    key = hashlib.sha256(content_key(describe(DEMO_MODEL)).encode() + source).hexdigest()[:12]
    folder = cache / "models" / key
    if not (folder / "complete").exists():
        _say("Writing the model for the peers")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run([sys.executable, "-m", "bench.models", str(folder)])
        (folder / "complete").touch()
    return folder


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _steal() -> float:
    """Return the seconds of processor time that a hypervisor gave to others since the start."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
