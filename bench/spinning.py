"""INT8 passes whose waiting threads spin, spin briefly or sleep: on an idle and on a busy machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import statistics
from bench.environments import OURS
from bench.plan import SPINNING_SHAPES, Entry
from bench.processes import Process
from inference.onnx.backend import SPIN_US

WAITS: dict[str, dict[str, str]] = {
    "spinning": {},  # ONNX Runtime's default
    "briefly": {"session.intra_op.spin_duration_us": SPIN_US},
    "sleeping": {"session.intra_op.allow_spinning": "0"},
}
Samples = dict[tuple[str, str, tuple[int, int]], list[list[float]]]


def measure(model: Path, cache: Path, threads: int, rounds: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Return a cell for each setting, load and shape, measured in turns; the order is reversed each round."""
    samples: Samples = {}
    with ExitStack() as stack:
        processes = {}
        for name, settings in WAITS.items():
            entry = Entry(name, name, "spinning", OURS, {"settings": settings})
            processes[name] = Process(entry, model, cache, threads)
            stack.callback(processes[name].close)
        for number in range(rounds):
            for load in ("idle", "busy"):
                with busy(threads if load == "busy" else 0):
                    for texts, tokens in SPINNING_SHAPES:
                        for name in list(WAITS) if number % 2 == 0 else reversed(WAITS):
                            times = processes[name].ask(
                                "pass_times", texts=texts, tokens=tokens, seconds=seconds, seed=seed
                            )
                            samples.setdefault((name, load, (texts, tokens)), []).append(times)
    return [
        {"threads_wait": name, "machine": load, "shape": list(shape)} | statistics.summary(times, seed)
        for (name, load, shape), times in samples.items()
    ]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy with other processes."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
