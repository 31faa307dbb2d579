"""Run one backend in a process of its own: orders on stdin, replies on stdout, one JSON document per line.

python -m inference.compare.worker LOAD_ARGUMENTS STARTED_NS

Memory, threads and start-up of a runtime can be measured only in a separate process. The classifier comes from
`inference.load`, as everywhere else.
"""

from __future__ import annotations

import base64
import copy
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from inference.backends import RUNTIMES

FIRST = "how long does the first answer take?"
PLATEAU = 0.05  # relative difference between the medians of two passes below which the process is warm
MAX_PASSES = 12


class Worker:
    """A loaded classifier and its texts. The public methods are the orders and return JSON types."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier
        self.texts: list[Any] = []
        self.ids: list[list[int]] = []

    def read(self, texts: list[Any]) -> dict[str, Any]:
        """Keep the texts for later orders, and return how many tokens each has and whether it is truncated.

        Args:
            texts: strings, or lists of two for pairs, which JSON has no tuples for.
        """
        self.texts = [tuple(text) if isinstance(text, list) else text for text in texts]
        tokens = self.classifier.tokenize(self.texts)
        self.ids = tokens.ids
        return {"tokens": [len(row) for row in tokens.ids], "truncated": [int(cut) for cut in tokens.truncated]}

    def warm(self, rows: Sequence[int]) -> dict[str, Any]:
        """Answer these rows one by one until a pass is as fast as the previous one."""
        before = float("inf")
        for passes in range(1, MAX_PASSES + 1):
            now = median(self.latency(rows)["total_ns"])
            if abs(before / now - 1) < PLATEAU:
                return {"calls": passes * len(rows), "plateau": True}
            before = now
        return {"calls": MAX_PASSES * len(rows), "plateau": False}

    def latency(self, rows: Sequence[int], again: int = 0) -> dict[str, list[int]]:
        """Return the nanoseconds of each text answered alone: in total, in the tokenizer and in the forward pass.

        Args:
            again: number of rows to answer beforehand, because a process that slept is slow at first.
        """
        for row in rows[:again]:
            self.classifier.classify(self.texts[row])
        times: dict[str, list[int]] = {"total_ns": [], "tokenize_ns": [], "forward_ns": []}
        for row in rows:
            text = self.texts[row]
            start = time.perf_counter_ns()
            timing = self.classifier.classify(text).timing
            times["total_ns"].append(time.perf_counter_ns() - start)
            times["tokenize_ns"].append(round(timing.tokenize_ms * 1e6))
            times["forward_ns"].append(round(timing.forward_ms * 1e6))
        return times

    def throughput(self, rows: Sequence[int], batch_size: int) -> dict[str, Any]:
        """Return the nanoseconds of one call with all these rows, and the share of padding."""
        # A batch of 32 has 32 texts, however long they are, and however much padding that takes.
        sized = copy.copy(self.classifier)
        sized.batch_size = batch_size
        sized.token_budget = sized.pass_cost = batch_size * sized.bundle.max_tokens
        texts = [self.texts[row] for row in rows]
        longest = sorted(rows, key=lambda row: len(self.ids[row]))[-batch_size:]
        sized.backend.single_threaded()  # opened before the clock starts
        sized.classify([self.texts[row] for row in longest])  # warm up, and allocate memory for the largest batch
        start = time.perf_counter_ns()
        sized.classify(texts)
        elapsed = time.perf_counter_ns() - start
        lengths = [len(self.ids[row]) for row in rows]
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in sized.batches(lengths))
        return {"total_ns": elapsed, "padded_share": 1 - sum(lengths) / padded}

    def shape(self, texts: int, tokens: int, calls: int) -> dict[str, list[int]]:
        """Return the nanoseconds of forward passes over an exact shape, filled with tokens of the texts."""
        from inference.calls.texts import pad

        token_types = self.classifier.bundle.token_types
        ids = [i for row in self.ids for i in row]
        ids *= texts * tokens // len(ids) + 1
        filled = [ids[row * tokens : (row + 1) * tokens] for row in range(texts)]
        feed = pad(filled, types=[[0] * tokens] * texts if token_types else None)
        for _ in range(max(2, calls // 3)):
            self.classifier.backend.logits(**feed)
        times = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            self.classifier.backend.logits(**feed)
            times.append(time.perf_counter_ns() - start)
        return {"forward_ns": times}

    def answer(self, rows: Sequence[int], tasks: list[str]) -> dict[str, Any]:
        """Return all probabilities of these rows, per task as base64 of float32 with shape (rows, labels)."""
        from inference.artifacts.parity import score_rows

        answers = self.classifier.classify([self.texts[row] for row in rows], tasks).predictions
        return {task: base64.b64encode(score_rows(answers[task]).astype("<f4").tobytes()).decode() for task in tasks}

    def alone(self, rows: Sequence[int], tasks: list[str]) -> dict[str, Any]:
        """Return how many labels differ between a text alone and in a padded batch of mixed lengths."""
        from inference.artifacts import parity

        texts = [self.texts[row] for row in rows]
        mixed = parity.score_matrix_mixed(self.classifier, texts)
        alone = parity.score_matrix_alone(self.classifier, texts)
        return {task: int((alone[task].argmax(1) != mixed[task].argmax(1)).sum()) for task in tasks}

    def memory(self) -> dict[str, int]:
        """Return the resident bytes of this process, and their peak."""
        try:
            status = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
            )
            # Not getrusage: its peak is inherited from the process that started this one.
            return {
                "resident_bytes": int(status["VmRSS"].split()[0]) * 1024,
                "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
            }
        except (OSError, KeyError):
            import psutil

            info = psutil.Process().memory_info()
            return {"resident_bytes": info.rss, "peak_bytes": getattr(info, "peak_wset", info.rss)}


def start(arguments: dict[str, Any], started_ns: int) -> tuple[Worker, dict[str, Any]]:
    """Return a worker that has given its first answer, and the seconds that its start took.

    Args:
        arguments: those of `load`.
        started_ns: `time.time_ns()` just before this process was started, so that the interpreter is included.
    """
    runtime = RUNTIMES[arguments["backend"]]
    # First, to time imports and loading separately. The module may set up how a library is imported.
    for name in (runtime.module, *runtime.libraries):
        importlib.import_module(name)
    from inference.loading import load

    imported = time.time_ns()
    classifier = load(**arguments)
    loaded = time.time_ns()
    classifier.predict_all_tasks(FIRST)
    answered = time.time_ns()
    worker = Worker(classifier)
    return worker, {
        "import_s": (imported - started_ns) / 1e9,
        "load_s": (loaded - imported) / 1e9,
        "first_answer_s": (answered - loaded) / 1e9,
        **worker.memory(),
    }


def pin(threads: int) -> list[int]:
    """Bind this process to as many cores as it has threads; return the cores, or none if the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return cores


def read_orders() -> Iterator[dict[str, Any]]:
    """Return the orders on stdin as they come.

    When the parent has gone, this process ends at once, even in the middle of an order.
    """
    orders: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        # Not sys.stdin: Python would wait for its lock when the process ends.
        for line in os.fdopen(os.dup(0), encoding="utf-8"):
            orders.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(orders.get, None)


def main() -> int:
    from inference.errors import InferenceError

    arguments, started_ns = json.loads(sys.argv[1]), int(sys.argv[2])
    orders = read_orders()
    # Replies go to a copy of stdout, so that nothing that a library prints is mixed in.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(document: dict[str, Any]) -> None:
        replies.write(json.dumps(document) + "\n")
        replies.flush()

    try:
        cores = pin(arguments["threads"]) if arguments.pop("pinned") else []
        worker, seconds = start(arguments, started_ns)
        reply({"start": seconds, "cores": cores})
        for order in orders:
            name = order.pop("order")
            if not hasattr(Worker, name):
                raise AttributeError(f"no such order: {name}")
            reply(getattr(worker, name)(**order))
    except InferenceError as error:
        reply({"error": str(error)})
        return 2
    except (BrokenPipeError, KeyboardInterrupt):  # the parent has gone
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
