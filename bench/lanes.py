"""Time and memory of Triptych's INT8 on lists and on a file, by the number of lanes; each in a process of its own.

python -m bench.lanes classify|score LANES WORKERS ROWS      one of them, as JSON; LANES 0 is one batch at a time
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import BenchError
from bench.peers.ours import open_classifier
from bench.plan import OUR_BEST, column, mixed
from inference import cpu
from inference.assets import ASSETS, DEMO_MODEL, showcase_texts
from inference.formats.describe import describe
from inference.score.run import Model, ScoreJob, score

LANES = (1, 2, 4)
SCORED_ROWS = 10_000
POLL_S = 0.05
ROOT = Path(__file__).resolve().parents[1]


def measure(threads: int, passes: int, rows: int = SCORED_ROWS) -> list[dict[str, Any]]:
    """Return a cell for each way to answer; of several passes, in orders that are reversed, all seconds are kept."""
    ways = [("classify", lanes, 1) for lanes in LANES]
    ways += [("score", 0, 1), *(("score", lanes, 1) for lanes in LANES), ("score", 1, threads)]
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    for number in range(passes):
        for way in ways if number % 2 == 0 else reversed(ways):
            once = _watched(*way, rows)
            cell = cells.setdefault(
                way, {"what": way[0], "lanes": way[1], "workers": way[2], "rows": once["rows"], "seconds": []}
            )
            cell["seconds"].append(round(once["seconds"], 3))
            cell["peak_mb"] = max(cell.get("peak_mb", 0), once["peak_mb"])
    for cell in cells.values():
        cell["rows_per_s"] = round(cell["rows"] / min(cell["seconds"]), 1)
    return list(cells.values())


def _watched(what: str, lanes: int, workers: int, rows: int) -> dict[str, Any]:
    """Return rows, seconds and the peak of resident memory, MB, of a process and those that it starts."""
    command = [sys.executable, "-m", "bench.lanes", what, str(lanes), str(workers), str(rows)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=cpu.asking_for_huge_pages(), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        handle, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                family = [handle, *handle.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
            except psutil.Error:
                pass  # one has ended
            time.sleep(POLL_S)
        assert process.stdout is not None
        reply = process.stdout.read()
        if process.returncode:
            log.seek(0)
            raise BenchError((log.read().strip().splitlines() or ["no message"])[-1][:300])
    once: dict[str, Any] = json.loads(reply)
    return once | {"peak_mb": round(peak / 1e6)}


def _classify(lanes: int) -> dict[str, Any]:
    classifier = open_classifier(OUR_BEST, max(lanes, 1))
    texts = mixed()
    classifier.classify(texts)
    started = time.perf_counter()
    repeats = 20
    for _ in range(repeats):
        classifier.classify(texts)
    return {"rows": repeats * len(texts), "seconds": time.perf_counter() - started}


def _score(lanes: int, workers: int, rows: int, threads: int) -> dict[str, Any]:
    opened = partial(open_classifier, OUR_BEST, lanes or threads, lanes > 0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.csv"
        _write_rows(source, rows)
        job = ScoreJob(source, Path(folder) / "scored.csv")
        report = score(job, Model(describe(DEMO_MODEL), OUR_BEST, opened), workers)
    return {"rows": rows, "seconds": report.seconds}


def _write_rows(path: Path, rows: int) -> None:
    texts = [*showcase_texts(), *column(ASSETS / "unlabelled.csv")]
    drawn = random.Random(0).choices(texts, k=rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in drawn)])


def main() -> None:
    """Measure one way in this process."""
    what, lanes, workers, rows = sys.argv[1], *map(int, sys.argv[2:5])
    once = _classify(lanes) if what == "classify" else _score(lanes, workers, rows, cpu.cores())
    print(json.dumps(once))


if __name__ == "__main__":
    main()
