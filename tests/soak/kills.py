"""Kill the scorer again and again, and see that what it writes in the end is what it writes undisturbed.

python tests/soak/kills.py --points 1000

Each point is a run that is ended with SIGKILL: before or after one of the calls by which it changes the disk, in the
midst of what it was writing (the end of the file is cut off, as a power cut may leave it), or at a moment drawn at
random. Some runs that go on are killed again. The last run must leave the bytes of an undisturbed one and nothing else.
Runs are forks of this process, which has one thread and has imported everything.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pyarrow.parquet  # noqa: E402, F401 (before the first fork)
import scored  # noqa: E402

KINDS = (("csv", "csv"), ("csv", "jsonl"), ("jsonl", "jsonl"), ("jsonl", "csv"), ("parquet", "parquet"))
CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
ROWS = 50  # in blocks of seven


class Disk:
    """Counts the calls of this process that change a folder, and ends the process at one of them.

    Args:
        at: at which; 0 for none.
        torn: of a call that sees to it that a file is on the disk: cut its end off first.
    """

    def __init__(self, folder: Path, at: int, torn: int = 0) -> None:
        self.calls = 0
        self._folder, self._at, self._torn = str(folder), at, torn
        sys.addaudithook(self._hear)
        self._fsync, os.fsync = os.fsync, self._flush

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in CHANGES and str(arguments[0]).startswith(self._folder):
            self._count()

    def _flush(self, descriptor: int) -> None:
        self._count(descriptor)
        self._fsync(descriptor)

    def _count(self, descriptor: int | None = None) -> None:
        self.calls += 1
        if self.calls != self._at:
            return
        if descriptor is not None and self._torn and (size := os.fstat(descriptor).st_size):
            with contextlib.suppress(OSError):  # a folder, or a file that is read
                os.ftruncate(descriptor, max(0, size - self._torn))
        os.kill(os.getpid(), signal.SIGKILL)


def forked(do: Callable[[], None], after_s: float | None = None) -> int:
    """Do something in a fork, killed after so many seconds if any are given; its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            do()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sources(folder: Path) -> dict[str, Path]:
    """The same rows in each format; some of them cannot be answered."""
    texts = ["good", "bad glad", "", "=sad", 'a "quoted\nline"', "NA"]
    rows = [[str(i), texts[i % 6]] for i in range(ROWS)]
    files = {"csv": scored.write_csv(folder / "in.csv", ["id", "text"], rows)}
    scored.run(files["csv"], folder / "in.jsonl", tasks=("emotion",))
    scored.run(files["csv"], folder / "in.parquet", tasks=("emotion",))
    return files | {kind: folder / f"in.{kind}" for kind in ("jsonl", "parquet")}


def kill(points: int, seed: int = 0) -> dict[str, int]:
    """How many runs were killed, how often, and how many of them ended in other bytes (`wrong`).

    Args:
        points: runs that are killed at least once.
    """
    draw = random.Random(seed)
    counts = {"points": 0, "kills": 0, "torn": 0, "timed": 0, "wrong": 0}
    with tempfile.TemporaryDirectory(dir=scored.MEMORY) as home:
        folder = Path(home)
        made = forked(lambda: sources(folder) and None)
        assert made == 0
        given = {kind: folder / f"in.{kind}" for kind in ("csv", "jsonl", "parquet")}
        whole, calls, seconds = {}, {}, {}
        for kind in KINDS:
            source, out = given[kind[0]], folder / f"whole-{kind[0]}.{kind[1]}"
            counter = folder / "calls"

            def undisturbed(source: Path = source, out: Path = out, counter: Path = counter) -> None:
                disk = Disk(out.parent, 0)
                scored.run(source, out)
                counter.write_text(str(disk.calls))

            start = time.perf_counter()
            assert forked(undisturbed) == 0
            seconds[kind] = time.perf_counter() - start
            whole[kind], calls[kind] = out.read_bytes(), int(counter.read_text())
        work = folder / "work"
        while counts["points"] < points:
            kind = KINDS[counts["points"] % len(KINDS)]
            work.mkdir()
            source, out = given[kind[0]], work / f"out.{kind[1]}"
            times, kills = draw.choice([1, 1, 1, 2, 3]), 0
            for _ in range(times):
                torn = draw.choice([0, 0, draw.randint(1, 60)])
                at = draw.randint(1, calls[kind])
                timed = draw.random() < 0.2

                def disturbed(at: int = 0 if timed else at, torn: int = torn, out: Path = out) -> None:
                    Disk(work, at, torn)
                    scored.run(source, out)  # noqa: B023 (it is called at once)

                killed = forked(disturbed, draw.uniform(0, seconds[kind]) if timed else None) == -signal.SIGKILL
                kills += killed
                counts["torn"] += killed and not timed and torn > 0
                counts["timed"] += killed and timed
            ended = forked(lambda: scored.run(source, out) and None)  # noqa: B023
            left = sorted(path.name for path in work.iterdir())
            counts["wrong"] += ended != 0 or left != [out.name] or out.read_bytes() != whole[kind]
            counts["kills"] += kills
            counts["points"] += kills > 0  # a run that finished before the kill is repeated
            shutil.rmtree(work)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    found = kill(options.points, options.seed)
    print(", ".join(f"{name} {count:,}" for name, count in found.items()), f"in {time.monotonic() - started:.0f} s")
    sys.exit(int(found["wrong"] > 0))
