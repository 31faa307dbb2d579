"""Let all backends answer all rows at the same time, each in a process of its own: accuracy is known first.

Nothing is timed here, so the processes need not take turns, and a busy machine only makes it slower. The rows are
answered in rounds: those of the first few are answered by all backends long before the last row.
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

FIRST = 64  # rows of the first round
LARGEST = 256  # rows of a round: more would fill batches hardly better


def rounds(rows: int) -> list[range]:
    """Cut the positions of so many rows into rounds, each as large as all before it, from `FIRST` to `LARGEST`."""
    parts: list[range] = []
    while (start := parts[-1].stop if parts else 0) < rows:
        parts.append(range(start, min(rows, start + min(LARGEST, max(FIRST, start)))))
    return parts


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
        reference: the backend whose labels the others may change: of those that have answered, the first in the order
            of the backends; None before.
        paired: each other backend that has answered -> broken, fixed and changed labels on the `rows`.
        rows: labelled rows answered by the reference and by each of those.
    """

    accuracy: dict[str, tuple[int, int]]
    reference: str | None
    paired: dict[str, tuple[int, int, int]]
    rows: int


@dataclass(frozen=True)
class Given:
    """The answers of backends to the rows that each of them has answered.

    Attributes:
        names: of these backends; their predictions are compared with those of the first.
        rows: positions of these rows, ascending; the lists below are in their order.
        predictions: backend -> task -> `label_ids`, `confidence` and `max_abs_dp`, as in a receipt.
        tokens: of each row.
        truncated: number of rows that are cut.
    """

    names: list[str]
    rows: list[int]
    predictions: dict[str, dict[str, dict[str, Any]]]
    tokens: list[int]
    truncated: int


class Answers:
    """The answers of backends to rows, which come in while `collect` runs.

    The rows are answered in random order, fixed by the seed, so that those answered so far represent all. No backend
    begins a round before all have answered the one before: one that is ready leaves the CPU to one that still loads.

    Args:
        open_process: opens the process of a backend; the function that it gets is to be called while it waits.
        names: of the backends, the reference first.
        labels: task -> the right label of each row, -1 for none.
        counts: task -> number of labels.

    Attributes:
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
        # In the order in which the rows are answered.
        self._predictions: dict[str, dict[str, dict[str, Any]]] = {
            name: {task: {"label_ids": [], "confidence": [], "max_abs_dp": 0.0} for task in labels} for name in names
        }
        self._tokens: list[int] = []
        self._truncated: list[int] = []
        self.answered = dict.fromkeys(names, 0)
        self._order = np.random.default_rng(seed).permutation(len(texts))
        self._open, self._names, self._texts, self._counts = open_process, names, texts, counts
        self._labels = {task: np.array(ids)[self._order] for task, ids in labels.items()}
        self._kept: dict[int, dict[str, dict[str, Any]]] = {}  # first row of a round -> backend -> scores
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

    def by_all(self) -> int:
        """Return the number of rows that every backend has answered."""
        return min(self.answered.values())

    def _begun(self) -> tuple[list[str], int]:
        """Return the backends that have answered rows, and how many rows each of them has answered."""
        names = [name for name in self._names if self.answered[name]]
        return names, min((self.answered[name] for name in names), default=0)

    def given(self) -> Given:
        """Return the answers to the rows that every backend has answered; before, of those that have begun."""
        with self._changed:
            names, rows = self._begun()
            back = np.argsort(self._order[:rows])

            def sorted_by_row(values: Sequence[Any]) -> list[Any]:
                return [values[i] for i in back]

            predictions = {
                name: {
                    task: {
                        "label_ids": sorted_by_row(entry["label_ids"]),
                        "confidence": sorted_by_row(entry["confidence"]),
                        "max_abs_dp": max(entry["max_abs_dp"], self._gap(self._kept.get(0), names[0], name, task)),
                    }
                    for task, entry in self._predictions[name].items()
                }
                for name in names
            }
            tokens, truncated = sorted_by_row(self._tokens), sum(self._truncated[:rows])
            return Given(names, self._order[:rows][back].tolist(), predictions, tokens, truncated)

    @staticmethod
    def _gap(kept: Mapping[str, Any] | None, first: str, name: str, task: str) -> float:
        """Return the largest difference of two backends' scores in a round; 0 if it is not kept, so counted already."""
        return 0.0 if kept is None else float(np.abs(kept[name][task] - kept[first][task]).max())

    def so_far(self) -> dict[str, SoFar]:
        """Return what is known of each task now, while `collect` runs in another thread."""
        known = {}
        with self._changed:
            names, rows = self._begun()
            for task, true in self._labels.items():
                given = {name: np.array(self._predictions[name][task]["label_ids"], int) for name in self._names}
                right = {name: (true[: len(ids)] == ids) for name, ids in given.items()}
                labelled = {name: int((true[: len(ids)] >= 0).sum()) for name, ids in given.items()}
                counted = true[:rows] >= 0
                paired = {
                    name: (
                        int((right[names[0]][:rows] & ~right[name][:rows]).sum()),
                        int((right[name][:rows] & ~right[names[0]][:rows]).sum()),
                        int(((given[name][:rows] != given[names[0]][:rows]) & counted).sum()),
                    )
                    for name in names[1:]
                }
                accuracy = {name: (labelled[name], int(right[name].sum())) for name in self._names}
                known[task] = SoFar(accuracy, next(iter(names), None), paired, int(counted.sum()))
        return known

    def labelled(self, task: str) -> int:
        """Return how many rows have a label of this task."""
        return int((self._labels[task] >= 0).sum())

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Cancelled

    def _answer(self, name: str) -> None:
        with contextlib.closing(self._open(name, self._check)) as process:
            for part in rounds(len(self._texts)):
                with self._changed:
                    while self.by_all() < part.start:
                        self._changed.wait(POLL_S)
                        self._check()
                self._check()
                texts = [self._texts[row] for row in self._order[part]]
                lengths = process.ask("read", texts=texts)
                reply = process.ask("answer", rows=list(range(len(texts))), tasks=list(self._labels))
                with self._changed:
                    self._add(name, part.start, lengths, scores(reply, self._counts))
                    self.answered[name] += len(texts)
                    self._changed.notify_all()

    def _add(self, name: str, first: int, lengths: Mapping[str, list[int]], tables: Mapping[str, Any]) -> None:
        """Add the answers of a backend to a round, and compare them with the reference's when all have answered."""
        if len(self._tokens) == first:  # the first backend that has answered these rows; all read the same tokens
            self._tokens += lengths["tokens"]
            self._truncated += lengths["truncated"]
        for task, table in tables.items():
            entry = self._predictions[name][task]
            entry["label_ids"] += table.argmax(1).tolist()
            entry["confidence"] += np.round(table.max(1).astype(float), 6).tolist()
        kept = self._kept.setdefault(first, {})
        kept[name] = dict(tables)
        if len(kept) == len(self._names):
            del self._kept[first]
            for other, task in ((other, task) for other in self._names for task in self._labels):
                entry = self._predictions[other][task]
                entry["max_abs_dp"] = max(entry["max_abs_dp"], self._gap(kept, self._names[0], other, task))
