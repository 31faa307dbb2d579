"""The queue of the API: texts of several requests share a batch, and no request is delayed to fill one.

While the model is busy, requests gather; when it is free, those that have gathered make the next batch, up to its
number of texts and its token budget. A single request starts at once.

A lane is a thread of this queue. If the backend supports it, there is one lane per core, and batches that run at the
same time get one core each: two single-threaded passes finish sooner than two passes on two threads one after the
other, because such threads wait for each other after every step. A batch that runs alone gets all cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from inference.api.errors import ApiError, model_failure, shutting_down
from inference.api.metrics import Metrics
from inference.calls.texts import Text, check_texts, letters
from inference.classifier import Classifier, Prediction
from inference.errors import InputError

# English has about 4 characters per token. Only the size of a batch depends on it: `Classifier` splits batches by their
# real number of tokens.
CHARS_PER_TOKEN = 4
# Texts per batch on a CPU, on all cores and on one. Small batches of texts of similar length need little padding, and
# their answers do not wait for others; measured with the texts of `make load`.
BATCH_TEXTS = 8
BATCH_TEXTS_ON_ONE_CORE = 4
RATE_WEIGHT = 0.1  # of the last batch, in the texts/s from which Retry-After is computed


@dataclass(eq=False)
class PredictJob:
    """The texts of one request, and the future of its predictions by task."""

    classifier: Classifier
    texts: Sequence[Text]
    tasks: Sequence[str]
    future: asyncio.Future[dict[str, list[Prediction]]]
    counted: int
    """Its share of the texts that may wait; a probe has none."""
    submitted: float = field(default_factory=time.perf_counter)
    predictions: dict[str, list[Any]] = field(init=False)
    left: list[int] = field(init=False)
    """Rows to be answered, the longest first: they are taken from the end."""
    pending: int = field(init=False)
    """Number of rows without an answer: those in `left` and those in a batch."""
    taken: int = 0
    """Number of rows taken since the job came to the end of the queue."""
    is_over: bool = False
    """Answered, failed or dropped."""

    def __post_init__(self) -> None:
        self.predictions = {task: [None] * len(self.texts) for task in self.tasks}
        # By length: less padding if a request takes several batches.
        self.left = sorted(range(len(self.texts)), key=lambda row: letters(self.texts[row]), reverse=True)
        self.pending = len(self.left)
        self.has_pairs = isinstance(self.texts[0], tuple)


Batch = dict[PredictJob, list[int]]
"""The rows of each job that go through the model together."""
Outcome = tuple[PredictJob, ApiError | None]
"""A job that is over; None if it has its predictions."""


class Batcher:
    """Answers jobs on threads of its own, which start with the first job.

    Args:
        limit: texts that may wait, of all requests together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        """Texts accepted and not yet answered."""
        self.metrics = Metrics(lambda: self.waiting)
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []  # one of each lane without work
        self._jobs: deque[PredictJob] = deque()
        self._lanes: list[threading.Thread] = []
        self._on_one_core: dict[Classifier, Classifier | None] = {}
        self._running: Counter[Classifier] = Counter()  # batches in the model
        self._closed = False
        self._rate = 100.0  # texts/s; a guess until the first batch is done

    def prepare(self, classifier: Classifier) -> None:
        """Prepare for jobs of this classifier. Takes as long as opening its backend a second time."""
        with self._lock:
            if classifier in self._on_one_core:
                return
        backend = classifier.backend.single_threaded()
        on_one_core = None
        if backend is not None:
            on_one_core = copy.copy(classifier)
            on_one_core.backend = backend
        with self._lock:
            self._on_one_core[classifier] = on_one_core

    def submit(
        self, classifier: Classifier, texts: Sequence[Text], tasks: Sequence[str], probe: bool = False
    ) -> PredictJob:
        """Queue a job. Call it on the event loop that awaits its future.

        Args:
            classifier: one that was prepared.
            probe: put it before all others, and do not count it.

        Raises:
            ApiError: 422 for more texts than may ever wait, 429 if too many wait, 503 if the server shuts down.
        """
        future = asyncio.get_running_loop().create_future()
        job = PredictJob(classifier, texts, tasks, future, 0 if probe else len(texts))
        with self._lock:
            if self._closed:
                raise shutting_down()
            if job.counted > self.limit:  # not 429: the client would retry for ever
                raise ApiError(422, "invalid_request", f"This server takes at most {self.limit} texts at a time.")
            if self.waiting + job.counted > self.limit:
                message = f"{self.waiting} texts are waiting; the limit is {self.limit}. Try again later."
                raise ApiError(429, "overloaded", message, self.retry_after())
            self._start_lanes(classifier)
            self.waiting += job.counted
            self._jobs.appendleft(job) if probe else self._jobs.append(job)
            self._wake()
        return job

    def retry_after(self) -> int:
        """Return the whole seconds, 1 to 60, until what waits now is probably answered."""
        return min(60, 1 + int(self.waiting / self._rate))

    def drop(self, job: PredictJob) -> None:
        """Cancel a job unless it is over."""
        with self._lock:
            if self._finish(job):
                job.future.cancel()

    def close(self) -> None:
        """Accept no more jobs, answer those that are queued, and end the threads."""
        with self._lock:
            self._closed = True
            self._wake_all()
        for lane in self._lanes:
            lane.join()

    def _start_lanes(self, classifier: Classifier) -> None:
        """Start as many lanes as this classifier can use and the system allows. The lock is held."""
        while len(self._lanes) < self._lane_count(classifier):
            lane = threading.Thread(target=self._work, name="batcher", daemon=True)
            try:
                lane.start()
            except RuntimeError as error:
                if self._lanes:
                    return
                raise ApiError(503, "overloaded", "The server cannot start a thread. Try again later.", 1) from error
            self._lanes.append(lane)

    def _lane_count(self, classifier: Classifier) -> int:
        """Return how many batches of this classifier may run at the same time."""
        return classifier.backend.threads if self._on_one_core[classifier] is not None else 1

    def _wake(self) -> None:
        """Let a lane look for work: the one that worked last, on the warm core. The lock is held."""
        if self._idle:
            self._idle.pop().notify()

    def _wake_all(self) -> None:
        while self._idle:
            self._wake()

    def _work(self) -> None:
        woken = threading.Condition(self._lock)
        while True:
            with self._lock:
                while not (batch := self._take()):
                    if self._closed and not self._jobs:
                        return
                    self._idle.append(woken)
                    woken.wait()
                classifier = next(iter(batch)).classifier
                self._running[classifier] += 1
                answering = classifier
                if self._jobs or self._running.total() > 1:  # it does not run alone
                    answering = self._on_one_core[classifier] or classifier
                if self._jobs:
                    self._wake()  # another lane may be free for the rest
            try:
                outcomes = self._answer(batch, answering)
            except BaseException as error:  # in the bookkeeping: the thread goes on with later batches
                failure = model_failure(error)
                outcomes = [(job, failure) for job in batch]
            with self._lock:
                self._running[classifier] -= 1  # before anyone has an answer: a client that asks again at once is alone
                if self._closed:  # a lane that waited only for this batch may end now
                    self._wake_all()
            self._settle(outcomes)

    def _take(self) -> Batch:
        """Take the rows to answer next; none if nothing that waits may start. The lock is held.

        They belong to the first job that may start and to others of its classifier, and have similar lengths, for
        little padding and waiting. A job keeps its place in the queue for `batch_size` rows and then moves to the end,
        so that small jobs behind a large one do not wait for all of it.
        """
        first = next(
            (job for job in self._jobs if self._running[job.classifier] < self._lane_count(job.classifier)), None
        )
        if first is None:
            return {}
        classifier = first.classifier
        rows: list[tuple[PredictJob, int]] = []
        for job in chain([first], self._jobs):
            if job.classifier is not classifier or (job is first and rows) or job.has_pairs != first.has_pairs:
                continue
            room = classifier.batch_size - len(rows)
            if not room:
                break
            rows += [(job, row) for row in reversed(job.left[-room:])]
        # What waits is divided among the free lanes.
        lanes = self._lane_count(classifier)
        size = -(-len(rows) // (lanes - self._running[classifier]))
        if len(rows) < lanes and not self._running.total():
            size = len(rows)  # too few to keep the lanes busy: together they get all cores
        if classifier.backend.device == "cpu":
            size = min(size, BATCH_TEXTS if lanes == 1 else BATCH_TEXTS_ON_ONE_CORE)
        length = _tokens(*rows[0])
        rows.sort(key=lambda pair: abs(_tokens(*pair) - length))  # stable: the first stays first
        batch: Batch = {}
        longest = 0
        for count, (job, row) in enumerate(rows[:size], start=1):
            longest = max(longest, _tokens(job, row))
            if count > 1 and longest * count > classifier.token_budget:
                break
            batch.setdefault(job, []).append(row)
        for job, taken in batch.items():
            chosen = set(taken)
            job.left = [row for row in job.left if row not in chosen]
            job.taken += len(taken)
            if not job.left:
                self._jobs.remove(job)
            elif job.taken >= classifier.batch_size:
                job.taken = 0
                self._jobs.remove(job)
                self._jobs.append(job)
        return batch

    def _answer(self, batch: Batch, classifier: Classifier) -> list[Outcome]:
        """Run a batch; returns the outcomes of jobs that are over now and not settled yet."""
        batch = {job: rows for job, rows in batch.items() if not job.is_over}
        if not batch:
            return []
        texts = [job.texts[row] for job, rows in batch.items() for row in rows]
        tasks = list(dict.fromkeys(task for job in batch for task in job.tasks))
        started = time.perf_counter()
        try:
            answer = classifier.classify(texts, tasks)
        except BaseException as error:  # a panic of the tokenizer is no `Exception`
            # The error belongs to one request and must not reach the others.
            *others, (last, rows) = batch.items()
            if not others:
                return [(last, _error_of(error, last, rows))]
            for job, rows_of_job in others:
                self._settle(self._answer({job: rows_of_job}, classifier))
            return self._answer({last: rows}, classifier)
        duration_s = time.perf_counter() - started
        truncated = sum(prediction.truncated for prediction in next(iter(answer.predictions.values())))
        tokenize_s, forward_s = answer.timing.tokenize_ms / 1e3, answer.timing.forward_ms / 1e3
        self.metrics.batch(classifier.backend.name, len(texts), truncated, tokenize_s, forward_s)
        with self._lock:  # another lane may have rows of the same job
            lanes = max(1, self._running[next(iter(batch)).classifier])
            self._rate += RATE_WEIGHT * (len(texts) / duration_s * lanes - self._rate)
            start = 0
            for job, rows in batch.items():
                if job.pending == len(job.texts):
                    self.metrics.wait.observe(started - job.submitted)
                for task, predictions in job.predictions.items():
                    for position, row in enumerate(rows, start):
                        predictions[row] = answer.predictions[task][position]
                job.pending -= len(rows)
                start += len(rows)
            return [(job, None) for job in batch if not job.pending]

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        """Count jobs out and deliver their outcomes, with one call per event loop."""
        with self._lock:
            outcomes = [(job, error) for job, error in outcomes if self._finish(job)]
        for loop in {job.future.get_loop() for job, _ in outcomes}:
            with contextlib.suppress(RuntimeError):  # nobody waits on a closed loop
                loop.call_soon_threadsafe(_resolve, [pair for pair in outcomes if pair[0].future.get_loop() is loop])

    def _finish(self, job: PredictJob) -> bool:
        """Count a job out, once, and remove it from the queue. The lock is held."""
        if job.is_over:
            return False
        job.is_over = True
        self.waiting -= job.counted
        if job.left and job in self._jobs:  # it was dropped, or one of its batches failed
            self._jobs.remove(job)
        return True


def _tokens(job: PredictJob, row: int) -> int:
    """Estimate how many tokens the model reads of a text."""
    return min(job.classifier.bundle.max_tokens, letters(job.texts[row]) // CHARS_PER_TOKEN + 2)


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for job, error in outcomes:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(job.predictions)
        else:
            job.future.set_exception(error)


def _error_of(error: BaseException, job: PredictJob, rows: Sequence[int]) -> ApiError:
    """Return the error for the client. An unreadable text is named by its index in the request, not in the batch."""
    if not isinstance(error, InputError):
        return model_failure(error)
    message = str(error)
    for row in sorted(rows) if len(job.texts) > 1 else ():
        try:
            job.classifier.tokenize(check_texts([job.texts[row]]))
        except InputError as unreadable:
            names = {"The text": "", "The first text": "[0]", "The second text": "[1]"}
            name = next(name for name in names if str(unreadable).startswith(name))
            message = f"texts[{row}]{names[name]}{str(unreadable).removeprefix(name)}"
            break
    return ApiError(422, "unreadable_text", message)
