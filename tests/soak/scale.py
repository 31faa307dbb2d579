"""How many rows a second the scorer answers on this machine, and how much memory it takes, by file and by workers.

python tests/soak/scale.py --rows 1000 100000 --workers 1 2

Texts are words of the showcase in random order, 1 to some 60 of them, half of them at most 12. Memory is the most that
the process and its workers held together, their shared pages counted once for each. CPU time is that of the process and
its workers, start included: it says more than rows/s where other programs run too. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from inference.assets import showcase_texts  # noqa: E402


def make(path: Path, rows: int, seed: int = 0) -> Path:
    """A CSV file of so many rows, the same each time."""
    draw = random.Random(seed)
    words = " ".join(showcase_texts()).split()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for row in range(rows):
            writer.writerow([row, " ".join(draw.choices(words, k=max(1, int(draw.lognormvariate(2.5, 0.6)))))])
    return path


def measure(source: Path, workers: int, backend: str) -> tuple[float, float, float, int]:
    """Seconds of the run without its start, seconds of all, CPU seconds, and the bytes that were held at most."""
    command = [sys.executable, "-m", "inference", "score", source, "--out", source.with_suffix(".out.csv"), "--json"]
    command += ["--workers", str(workers), "--backend", backend]
    started, before, most = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                most = max(most, sum(one.memory_info().rss for one in family))
            except psutil.Error:
                continue  # one of them ended in between
            time.sleep(0.2)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return report["seconds"], time.monotonic() - started, spent, most


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backend", default="int8")
    options = parser.parse_args()
    print("| rows | workers | rows/s | seconds in all | CPU seconds | memory, MB |", flush=True)
    print("| ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            source = make(Path(folder) / f"{rows}.csv", rows)
            for workers in options.workers:
                seconds, wall, spent, held = measure(source, workers, options.backend)
                figures = f"{rows / seconds:,.0f} | {wall:,.1f} | {spent:,.1f} | {held / 1e6:,.0f}"
                print(f"| {rows:,} | {workers} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
