"""One backend in a process of its own: orders on stdin, replies on stdout, one JSON document a line.

python -m inference.compare.worker BACKEND MODEL CACHE THREADS STARTED_NS CONTENT DTYPE [BASE]

A runtime's memory, threads and start-up can be told from another's only where it has a process to itself. What is
loaded here is what answers everywhere else: `inference.load` and the `Classifier` it gives.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from inference.backends import RUNTIMES

FIRST = "how long does the first answer take?"
PLATEAU = 0.05  # two passes in a row whose medians differ by less than this share: warm
MAX_PASSES = 12


class Worker:
    """A loaded classifier and the texts it is asked about. Its methods are the orders, their replies plain types."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier
        self.texts: list[str] = []
        self.ids: list[list[int]] = []

    def read(self, texts: list[str]) -> dict[str, Any]:
        """Keep these texts for the orders to come; how many tokens each has and whether it is cut."""
        tokens = self.classifier.tokenize(texts)
        self.texts, self.ids = texts, tokens.ids
        return {"tokens": [len(row) for row in tokens.ids], "truncated": [int(cut) for cut in tokens.truncated]}

    def warm(self, rows: Sequence[int]) -> dict[str, Any]:
        """Answer these rows one by one, again and again, until a pass is as fast as the one before."""
        before = float("inf")
        for passes in range(1, MAX_PASSES + 1):
            now = median(self.latency(rows)["total_ns"])
            if abs(before / now - 1) < PLATEAU:
                return {"calls": passes * len(rows), "plateau": True}
            before = now
        return {"calls": MAX_PASSES * len(rows), "plateau": False}

    def latency(self, rows: Sequence[int], again: int = 0) -> dict[str, list[int]]:
        """Nanoseconds of each text answered alone, end to end, and of that the tokenizer and the forward pass.

        Args:
            again: so many of the rows are answered once before: a process that slept is slow at first.
        """
        for row in rows[:again]:
            self.classifier.classify(self.texts[row])
        found: dict[str, list[int]] = {"total_ns": [], "tokenize_ns": [], "forward_ns": []}
        for row in rows:
            text = self.texts[row]
            start = time.perf_counter_ns()
            timing = self.classifier.classify(text).timing
            found["total_ns"].append(time.perf_counter_ns() - start)
            found["tokenize_ns"].append(round(timing.tokenize_ms * 1e6))
            found["forward_ns"].append(round(timing.forward_ms * 1e6))
        return found

    def throughput(self, rows: Sequence[int], batch_size: int) -> dict[str, Any]:
        """Nanoseconds of one call with all these rows, at most `batch_size` of them a forward pass, and the padding."""
        from inference.classifier import Classifier

        c = self.classifier
        # No budget of tokens: a batch of 32 is one of 32 however long its texts are.
        sized = Classifier(c.bundle, c.backend, c.tokenizer, batch_size, batch_size * c.bundle.max_tokens)
        texts = [self.texts[row] for row in rows]
        sized.classify(sorted(texts, key=len)[-batch_size:])  # warm, and memory for the largest batch at hand
        start = time.perf_counter_ns()
        sized.classify(texts)
        elapsed = time.perf_counter_ns() - start
        lengths = [len(self.ids[row]) for row in rows]
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in sized.batches(lengths))
        return {"total_ns": elapsed, "padded_share": 1 - sum(lengths) / padded}

    def shape(self, texts: int, tokens: int, calls: int) -> dict[str, list[int]]:
        """Nanoseconds of forward passes over exactly so many texts of so many tokens, cut from the real ones."""
        from inference.classifier import pad

        ids = [i for row in self.ids for i in row]
        ids *= texts * tokens // len(ids) + 1
        feed = pad([ids[row * tokens : (row + 1) * tokens] for row in range(texts)])
        for _ in range(max(2, calls // 3)):
            self.classifier.backend.logits(**feed)
        found = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            self.classifier.backend.logits(**feed)
            found.append(time.perf_counter_ns() - start)
        return {"forward_ns": found}

    def answer(self, rows: Sequence[int], tasks: list[str]) -> dict[str, Any]:
        """Every probability of these rows, batched as a user's list is: per task base64 of float32 (rows, labels)."""
        from inference.artifacts.parity import score_rows

        found = self.classifier.classify([self.texts[row] for row in rows], tasks).predictions
        return {task: base64.b64encode(score_rows(found[task]).astype("<f4").tobytes()).decode() for task in tasks}

    def alone(self, rows: Sequence[int], tasks: list[str]) -> dict[str, Any]:
        """How many labels of these rows differ between a text alone and one in a padded batch of mixed lengths."""
        from inference.artifacts import parity

        texts = [self.texts[row] for row in rows]
        mixed = parity.score_matrix_mixed(self.classifier, texts)
        alone = parity.score_matrix_alone(self.classifier, texts)
        return {task: int((alone[task].argmax(1) != mixed[task].argmax(1)).sum()) for task in tasks}

    def memory(self) -> dict[str, int]:
        """Resident bytes of this process now, and the most they ever were."""
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


def start(
    backend: str,
    model: str,
    cache: str,
    threads: int,
    started_ns: int,
    content: str,
    dtype: str = "",
    base: str | None = None,
) -> tuple[Worker, dict[str, Any]]:
    """A worker that has given its first answer, and what its start took in seconds.

    Args:
        started_ns: `time.time_ns()` just before this process was started: the interpreter is part of the imports.
        content: key of the model, as for `load`; "" for any.
        dtype: as for `load`; "" for the default.
    """
    runtime = RUNTIMES[backend]
    for name in (*runtime.libraries, runtime.module):  # before loading, so that the two can be told apart
        importlib.import_module(name)
    from inference.loading import load

    imported = time.time_ns()
    classifier = load(
        model, backend, dtype=dtype or None, threads=threads, cache=cache, base=base, content=content or None
    )
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
    """Keep this process on as many cores as it has threads; the cores, or none where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return cores


def _orders() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> int:
    from inference.errors import InferenceError

    backend, model, cache, threads, started_ns, content, *base = sys.argv[1:]
    # Replies go to a copy of stdout: what a library prints must not end up among them.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(document: dict[str, Any]) -> None:
        replies.write(json.dumps(document) + "\n")
        replies.flush()

    try:
        cores = pin(int(threads))
        worker, took = start(backend, model, cache, int(threads), int(started_ns), content, *base)
        reply({"start": took, "cores": cores})
        for order in _orders():
            name = order.pop("order")
            if not hasattr(Worker, name):
                raise AttributeError(f"no such order: {name}")
            reply(getattr(worker, name)(**order))
    except InferenceError as error:
        reply({"error": str(error)})
        return 2
    except (BrokenPipeError, KeyboardInterrupt):  # nobody listens any more
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
