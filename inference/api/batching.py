"""Requests that wait are answered together: a free lane takes what waits at once, and nothing lingers.

There is no delay in which a batch is collected. While the model is busy, requests gather; when it is free, those that
gathered make the next batch, up to its number of texts and its budget of tokens. A lone request goes at once.

A lane is a thread of this queue. Where the backend can do it, there is one for each core, and batches that run beside
each other have a core each: two passes of one thread are done sooner than two of two threads, one after the other,
whose threads wait for each other after every step. A batch that has the machine to itself gets all cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from inference.api.errors import ApiError, failure
from inference.api.metrics import Metrics
from inference.classifier import Answer, Classifier, Prediction, check_texts
from inference.errors import InputError

# A token of English is some 4 characters. Only how much is taken at once hangs on it: `Classifier` cuts batches by the
# tokens there are.
CHARS_PER_TOKEN = 4
# Texts that go through the model together on a CPU: on all its cores, and on one of them. Small batches of texts of
# like length are padded little, and their answers need not wait for others; measured with the texts of `make load`.
AT_ONCE = 8
AT_ONCE_ON_ONE = 4
RATE_MEMORY = 0.1  # weight of the last batch in the texts/s that Retry-After is worked out from


@dataclass(eq=False)
class PredictJob:
    """One request on its way: texts in, predictions of each task out, through `future`."""

    classifier: Classifier
    texts: Sequence[str]
    tasks: Sequence[str]
    future: asyncio.Future[dict[str, list[Prediction]]]
    loop: asyncio.AbstractEventLoop
    counted: int
    """Texts it takes of what may wait; a probe takes none."""
    since: float = field(default_factory=time.perf_counter)
    found: dict[str, list[Any]] = field(init=False)
    left: list[int] = field(init=False)
    """Rows to be answered, the longest first: they are taken from the end."""
    pending: int = field(init=False)
    """Rows that have no answer yet: those in `left` and those in a batch."""
    turn: int = 0
    """Rows that were taken since it came to the end of the queue."""
    over: bool = False
    """Answered, failed or dropped."""

    def __post_init__(self) -> None:
        self.found = {task: [None] * len(self.texts) for task in self.tasks}
        # Rows of like length beside each other: less padding where a request takes several batches.
        self.left = sorted(range(len(self.texts)), key=lambda row: len(self.texts[row]), reverse=True)
        self.pending = len(self.left)


@dataclass
class Part:
    """The rows of a job that are in a batch."""

    job: PredictJob
    rows: list[int]


Outcome = tuple[PredictJob, ApiError | None]
"""A job that is over; the error is None where it has its answers."""


class Batcher:
    """Answers jobs on threads of its own, which start with the first.

    Args:
        limit: texts that may wait, of all requests together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        """Texts admitted and not answered yet."""
        self.metrics = Metrics(lambda: self.waiting)
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []  # of the lanes that wait for work
        self._jobs: deque[PredictJob] = deque()
        self._lanes: list[threading.Thread] = []
        self._on_one_core: dict[Classifier, Classifier | None] = {}
        self._running: Counter[Classifier] = Counter()  # batches that are in the model now
        self._closed = False
        self._rate = 100.0  # texts a second; a guess until the first batch is through

    def open(self, classifier: Classifier) -> None:
        """Make ready for jobs of this classifier. Takes as long as its backend needs to be opened once more."""
        with self._lock:
            if classifier in self._on_one_core:
                return
        backend = classifier.backend.on_one_thread()
        beside = None
        if backend is not None:
            beside = copy.copy(classifier)
            beside.backend = backend
        with self._lock:
            self._on_one_core[classifier] = beside

    def submit(
        self, classifier: Classifier, texts: Sequence[str], tasks: Sequence[str], probe: bool = False
    ) -> PredictJob:
        """A job on its way. To be called on an event loop, which its future belongs to.

        Args:
            classifier: one that was opened here.
            probe: goes before all others and is not counted.

        Raises:
            ApiError: 422 for more texts than may ever wait, 429 where too much waits, 503 where the server is being
                stopped.
        """
        loop = asyncio.get_running_loop()
        job = PredictJob(classifier, texts, tasks, loop.create_future(), loop, 0 if probe else len(texts))
        with self._lock:
            if self._closed:
                raise ApiError(503, "stopping", "The server is being stopped. Ask again in a moment.", 1)
            if job.counted > self.limit:  # it could come back for ever
                raise ApiError(422, "invalid_request", f"This server takes at most {self.limit} texts at a time.")
            if self.waiting + job.counted > self.limit:
                raise ApiError(
                    429,
                    "overloaded",
                    f"{self.waiting} texts wait already, and no more than {self.limit} may. Ask again later.",
                    self.retry_after(),
                )
            self._start_lanes(classifier)
            self.waiting += job.counted
            self._jobs.appendleft(job) if probe else self._jobs.append(job)
            self._wake()
        return job

    def retry_after(self) -> int:
        """Whole seconds until what waits now is likely to be answered: 1 to 60."""
        return min(60, 1 + int(self.waiting / self._rate))

    def drop(self, job: PredictJob) -> None:
        """Forget a job: nobody waits for it any more. One that is over already is none of it."""
        with self._lock:
            if self._finish(job):
                job.future.cancel()

    def close(self) -> None:
        """Take no more jobs, answer those that there are, and end the threads."""
        with self._lock:
            self._closed = True
            self._wake_all()
        for lane in self._lanes:
            lane.join()

    def _start_lanes(self, classifier: Classifier) -> None:
        """As many as this classifier can have, or as many as the system grants. The lock is held."""
        while len(self._lanes) < self._most(classifier):
            lane = threading.Thread(target=self._work, name="batcher", daemon=True)
            try:
                lane.start()
            except RuntimeError as error:
                if self._lanes:
                    return
                raise ApiError(503, "overloaded", "The server can start no thread. Ask again later.", 1) from error
            self._lanes.append(lane)

    def _most(self, classifier: Classifier) -> int:
        """Batches of it that may run beside each other."""
        return classifier.backend.threads if self._on_one_core[classifier] is not None else 1

    def _wake(self) -> None:
        """Let a lane look for work: the one that worked last, as its core is the warm one. The lock is held."""
        if self._idle:
            self._idle.pop().notify()

    def _wake_all(self) -> None:
        while self._idle:
            self._wake()

    def _work(self) -> None:
        woken = threading.Condition(self._lock)
        while True:
            with self._lock:
                while not (parts := self._take()):
                    if self._closed and not self._jobs:
                        return
                    self._idle.append(woken)
                    woken.wait()
                classifier = parts[0].job.classifier
                self._running[classifier] += 1
                answering = classifier
                if self._jobs or self._running.total() > 1:  # it is not alone
                    answering = self._on_one_core[classifier] or classifier
                if self._jobs:
                    self._wake()  # there may be a free lane for the rest
            try:
                done = self._answer(parts, answering)
            except BaseException as error:  # of the bookkeeping: the thread goes on for those that come after
                told = failure(error)
                done = [(part.job, told) for part in parts]
            with self._lock:
                self._running[classifier] -= 1  # before anybody is told: who asks again at once is alone
                if self._closed:  # a lane that had nothing to do beside this batch may end now
                    self._wake_all()
            self._settle(done)

    def _take(self) -> list[Part]:
        """The rows to answer next, none where nothing that waits may start now. The lock is held.

        They are of the first job that may, and of others of its classifier, of like length: they are padded little, and
        need not wait for others. A job stays where it is in the queue for `batch_size` rows, and goes to the end with
        its rest: the small ones behind a large one need not wait for all of it.
        """
        first = next((job for job in self._jobs if self._running[job.classifier] < self._most(job.classifier)), None)
        if first is None:
            return []
        classifier = first.classifier
        rows: list[tuple[PredictJob, int]] = []
        for job in chain([first], self._jobs):
            if job.classifier is not classifier or (job is first and rows):
                continue
            room = classifier.batch_size - len(rows)
            if not room:
                break
            rows += [(job, row) for row in reversed(job.left[-room:])]
        # What waits is shared among the lanes that are free.
        most = self._most(classifier)
        size = -(-len(rows) // (most - self._running[classifier]))
        if len(rows) < most and not self._running.total():
            size = len(rows)  # too few to keep the lanes busy: together they get all cores
        if classifier.backend.device == "cpu":
            size = min(size, AT_ONCE if most == 1 else AT_ONCE_ON_ONE)
        like = _tokens(*rows[0])
        rows.sort(key=lambda one: abs(_tokens(*one) - like))  # the first stays the first
        found: dict[PredictJob, list[int]] = {}
        widest = 0
        for taken, (job, row) in enumerate(rows[:size], start=1):
            widest = max(widest, _tokens(job, row))
            if taken > 1 and widest * taken > classifier.token_budget:
                break
            found.setdefault(job, []).append(row)
        for job, its in found.items():
            chosen = set(its)
            job.left = [row for row in job.left if row not in chosen]
            job.turn += len(its)
            if not job.left:
                self._jobs.remove(job)
            elif job.turn >= classifier.batch_size:
                job.turn = 0
                self._jobs.remove(job)
                self._jobs.append(job)
        return [Part(job, its) for job, its in found.items()]

    def _answer(self, parts: Sequence[Part], classifier: Classifier) -> list[Outcome]:
        """What came of the jobs that are over now and have not been told."""
        parts = [part for part in parts if not part.job.over]
        if not parts:
            return []
        texts = [part.job.texts[row] for part in parts for row in part.rows]
        tasks = list(dict.fromkeys(task for part in parts for task in part.job.tasks))
        started = time.perf_counter()
        try:
            answer = classifier.classify(texts, tasks)
        # Whatever it is belongs to one request and must not reach the others: a panic of the tokenizer too, which is no
        # `Exception`.
        except BaseException as error:
            if len(parts) == 1:
                return [(parts[0].job, _reason(error, parts[0]))]
            for part in parts[:-1]:
                self._settle(self._answer([part], classifier))
            return self._answer([parts[-1]], classifier)
        spent_s = time.perf_counter() - started
        self._record(classifier.backend.name, answer, len(texts))
        with self._lock:  # another lane may have rows of the same job
            lanes = max(1, self._running[parts[0].job.classifier])
            self._rate += RATE_MEMORY * (len(texts) / spent_s * lanes - self._rate)
            return [(part.job, None) for part in _filled(parts, answer, self.metrics, started)]

    def _record(self, backend: str, answer: Answer, texts: int) -> None:
        cut = sum(prediction.truncated for prediction in next(iter(answer.predictions.values())))
        timing = answer.timing
        self.metrics.batch(backend, texts, cut, timing.tokenize_ms / 1e3, timing.forward_ms / 1e3)

    def _settle(self, done: Sequence[Outcome]) -> None:
        """Count jobs out and hand over what came of them, with one call to each event loop that waits for any."""
        with self._lock:
            done = [(job, error) for job, error in done if self._finish(job)]
        for loop in {job.loop for job, _ in done}:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has nobody who waits
                loop.call_soon_threadsafe(_resolve, [one for one in done if one[0].loop is loop])

    def _finish(self, job: PredictJob) -> bool:
        """Count a job out, once, and forget what is left of it. The lock is held."""
        if job.over:
            return False
        job.over = True
        self.waiting -= job.counted
        if job.left and job in self._jobs:  # it was dropped, or one of its batches failed
            self._jobs.remove(job)
        return True


def _tokens(job: PredictJob, row: int) -> int:
    """About as many as the model reads of a text."""
    return min(job.classifier.bundle.max_tokens, len(job.texts[row]) // CHARS_PER_TOKEN + 2)


def _filled(parts: Sequence[Part], answer: Answer, metrics: Metrics, started: float) -> Iterator[Part]:
    """Put each answer in its place; gives those parts that were the last of their job."""
    start = 0
    for part in parts:
        job, end = part.job, start + len(part.rows)
        if job.pending == len(job.texts):
            metrics.wait.observe(started - job.since)
        for task, places in job.found.items():
            for row, prediction in zip(part.rows, answer.predictions[task][start:end], strict=True):
                places[row] = prediction
        job.pending -= len(part.rows)
        start = end
        if not job.pending:
            yield part


def _resolve(done: Sequence[Outcome]) -> None:
    for job, error in done:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job.found)
        else:
            job.future.set_exception(error)


def _reason(error: BaseException, part: Part) -> ApiError:
    """What to tell the caller."""
    if isinstance(error, InputError):
        return ApiError(422, "unreadable_text", _with_place(error, part))
    return failure(error)


def _with_place(error: InputError, part: Part) -> str:
    """The message with the text's own index in the request: that in the error is its place in a batch."""
    if len(part.job.texts) == 1:
        return str(error)
    for row in sorted(part.rows):
        try:
            part.job.classifier.tokenize(check_texts([part.job.texts[row]]))
        except InputError as one:
            return f"texts[{row}]{str(one).removeprefix('The text')}"
    return str(error)
