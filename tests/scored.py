"""Scoring with the hand-computable fake: files to score, and a model that needs no weights."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fakes

from inference.formats.bundle import Task
from inference.score.run import Model, Report, ScoreJob, score

# A file system in memory, where there is one: what is flushed to a disk some thousand times takes minutes.
MEMORY = shm if (shm := Path("/dev/shm")).is_dir() else None
ADDED = [f"{task}{end}" for task in fakes.TASKS for end in ("", "_confidence", "_uncertain")] + ["error"]


def model(tasks: Mapping[str, Task] = fakes.TASKS, open_one: Callable[[], Any] | None = None) -> Model:
    return Model(fakes.bundle(tasks), "int8", open_one or partial(fakes.classifier, tasks=tasks))


def run(source: Path, out: Path, *, workers: int = 1, progress: Any = None, **job: Any) -> Report:
    """Score with the fake in blocks of seven rows."""
    return score(ScoreJob(source, out, **{"block_rows": 7} | job), model(), workers, progress)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], **dialect: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return path


def read_csv(path: Path, **dialect: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), **dialect))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
