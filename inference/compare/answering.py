"""Let all backends answer all rows at the same time, each in a process of its own: accuracy is known first.

Nothing is timed here, so the processes need not take turns, and a busy machine only makes it slower.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.compare.processes import POLL_S, Process, scores
from inference.jobs import Cancelled

CHUNK = 64  # rows that a backend answers at a time
AHEAD = 128  # chunks by which a backend may be ahead of the slowest: their scores are kept until all have answered


class WarmProcesses:
    """Processes of the backends of a model that load it before anybody asks. Each is taken once.

    Args:
        open_process: as for `Answers`.
        content: content key of the model.
    """

    def __init__(
        self, open_process: Callable[[str, Callable[[], None]], Process], names: Sequence[str], content: str
    ) -> None:
        self.content = content
        self._closed = threading.Event()
        pool = ThreadPoolExecutor(len(names))
        self._opening = {name: pool.submit(open_process, name, self._check) for name in names}
        pool.shutdown(wait=False)

    def _check(self) -> None:
        if self._closed.is_set():
            raise Cancelled

    def take(self, name: str, watch: Callable[[], None]) -> Process | None:
        """Wait until a backend is loaded and return its process; None if there is none, or it did not start."""
        opening = self._opening.pop(name, None)
        if opening is None:
            return None
        try:
            while not wait([opening], POLL_S).done:
                watch()
        except BaseException:
            opening.add_done_callback(_close)
            raise
        if opening.exception() is not None:
            return None
        process = opening.result()
        process.watch = watch
        return process

    def close(self) -> None:
        """End the processes that nobody has taken."""
        self._closed.set()
        for name in list(self._opening):
            if (opening := self._opening.pop(name, None)) is not None:
                opening.add_done_callback(_close)


def _close(opening: Future[Process]) -> None:
    if opening.exception() is None:
        opening.result().close()


@dataclass(frozen=True)
class SoFar:
    """What is known of one task while the rows are being answered.

    Attributes:
        accuracy: backend -> rows that it has answered, and how many of those are right.
        paired: backend other than the reference -> broken, fixed and changed labels on the `rows` answered by all.
    """

    accuracy: dict[str, tuple[int, int]]
    paired: dict[str, tuple[int, int, int]]
    rows: int


class Answers:
    """The answers of backends to rows, which come in while `collect` runs.

    The rows are answered in random order, so that those answered so far represent all.

    Args:
        open_process: opens the process of a backend; the function that it gets is to be called while it waits.
        names: of the backends, the reference first.
        labels: task -> the right label of each row, -1 for none.
        counts: task -> number of labels.

    Attributes:
        predictions: backend -> task -> `label_ids`, `confidence` and `max_abs_dp`, as in a receipt, after `collect`.
        tokens: of each row.
        truncated: number of rows that are cut.
        answered: backend -> number of rows that it has answered.
    """

    def __init__(
        self,
        open_process: Callable[[str, Callable[[], None]], Process],
        names: Sequence[str],
        texts: Sequence[Any],
        labels: Mapping[str, Sequence[int]],
        counts: Mapping[str, int],
        seed: int = 0,
    ) -> None:
        self.predictions: dict[str, dict[str, dict[str, Any]]] = {
            name: {task: {"label_ids": [], "confidence": [], "max_abs_dp": 0.0} for task in labels} for name in names
        }
        self.tokens: list[int] = []
        self.truncated = 0
        self.answered = dict.fromkeys(names, 0)
        self._order = np.random.default_rng(seed).permutation(len(texts))
        self._open, self._names, self._texts, self._counts = open_process, names, texts, counts
        self._labels = {task: np.array(ids)[self._order] for task, ids in labels.items()}
        self._kept: dict[int, dict[str, dict[str, Any]]] = {}  # first row of a chunk -> backend -> scores
        self._changed, self._stopped = threading.Condition(), threading.Event()

    def collect(self, report: Callable[[], None]) -> None:
        """Answer all rows.

        Args:
            report: called often; an exception that it raises ends the processes.

        Raises:
            InferenceError: a process does not start, or fails.
        """
        with ThreadPoolExecutor(len(self._names)) as pool:
            jobs = [pool.submit(self._answer, name) for name in self._names]
            try:
                while wait(jobs, POLL_S, FIRST_EXCEPTION).not_done and not any(
                    j.done() and j.exception() for j in jobs
                ):
                    report()
            finally:
                self._stopped.set()
        errors = [error for job in jobs if (error := job.exception()) is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])
        report()
        with self._changed:
            self._restore_order()

    def _restore_order(self) -> None:
        back = np.argsort(self._order)
        self.tokens = np.array(self.tokens)[back].tolist()
        self._labels = {task: true[back] for task, true in self._labels.items()}
        for entry in (entry for tasks in self.predictions.values() for entry in tasks.values()):
            entry["label_ids"] = np.array(entry["label_ids"])[back].tolist()
            entry["confidence"] = np.array(entry["confidence"])[back].tolist()

    def so_far(self) -> dict[str, SoFar]:
        """Return what is known of each task now, while `collect` runs in another thread."""
        known = {}
        with self._changed:
            rows = min(self.answered.values())
            for task, true in self._labels.items():
                given = {name: np.array(self.predictions[name][task]["label_ids"], int) for name in self._names}
                right = {name: (true[: len(ids)] == ids) for name, ids in given.items()}
                labelled = {name: int((true[: len(ids)] >= 0).sum()) for name, ids in given.items()}
                base = self._names[0]
                counted = true[:rows] >= 0
                paired = {
                    name: (
                        int((right[base][:rows] & ~right[name][:rows]).sum()),
                        int((right[name][:rows] & ~right[base][:rows]).sum()),
                        int(((given[name][:rows] != given[base][:rows]) & counted).sum()),
                    )
                    for name in self._names[1:]
                }
                accuracy = {name: (labelled[name], int(right[name].sum())) for name in self._names}
                known[task] = SoFar(accuracy, paired, int(counted.sum()))
        return known

    def labelled(self, task: str) -> int:
        """Return how many rows have a label of this task."""
        return int((self._labels[task] >= 0).sum())

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Cancelled

    def _answer(self, name: str) -> None:
        with contextlib.closing(self._open(name, self._check)) as process:
            for first in range(0, len(self._texts), CHUNK):
                with self._changed:
                    while first - min(self.answered.values()) >= AHEAD * CHUNK:
                        self._changed.wait(POLL_S)
                        self._check()
                self._check()
                texts = [self._texts[row] for row in self._order[first : first + CHUNK]]
                lengths = process.ask("read", texts=texts)
                reply = process.ask("answer", rows=list(range(len(texts))), tasks=list(self._labels))
                with self._changed:
                    self._add(name, first, lengths, scores(reply, self._counts))
                    self.answered[name] += len(texts)
                    self._changed.notify_all()

    def _add(self, name: str, first: int, lengths: Mapping[str, list[int]], tables: Mapping[str, Any]) -> None:
        """Add the answers of a backend to a chunk, and compare the chunk with the reference's when all have it."""
        if name == self._names[0]:
            self.tokens += lengths["tokens"]
            self.truncated += sum(lengths["truncated"])
        for task, table in tables.items():
            entry = self.predictions[name][task]
            entry["label_ids"] += table.argmax(1).tolist()
            entry["confidence"] += np.round(table.max(1).astype(float), 6).tolist()
        kept = self._kept.setdefault(first, {})
        kept[name] = dict(tables)
        if len(kept) == len(self._names):
            del self._kept[first]
            for other, task in ((other, task) for other in self._names for task in self._labels):
                gap = float(np.abs(kept[other][task] - kept[self._names[0]][task]).max())
                entry = self.predictions[other][task]
                entry["max_abs_dp"] = max(entry["max_abs_dp"], gap)
