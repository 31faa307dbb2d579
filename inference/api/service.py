"""What the endpoints do: the runtimes of one model behind one queue, explanations beside it, health, and limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from inference.api.batching import Batcher
from inference.api.errors import ApiError, model_failure, shutting_down
from inference.api.schemas import ExplainRequest
from inference.backends import TITLES
from inference.calls.texts import Text
from inference.classifier import Classifier, Prediction
from inference.errors import ChangedModelError, InferenceError, InputError, MissingDependencyError
from inference.explain.run import explain
from inference.formats.pairs import PAIRS_REMEDY
from inference.jobs import Cancelled
from inference.loading import Models

Receive = Callable[[], Awaitable[Any]]

WATCH_AFTER_S = 0.1  # a request that waits longer is dropped when its client disconnects
PROBE_S = 5  # a model that does not answer one short text in this time is not ready
PROBE_TEXT = "ready"
EXPLAIN_RETRY_S = 5
OPENING_RETRY_S = 10


@dataclass(frozen=True)
class ApiLimits:
    """How much one server accepts.

    Args:
        waiting_texts: texts that wait, of all requests together. One request may hold as many, and at most
            `schemas.MAX_TEXTS`.
        body_bytes: the body of one request.
        bodies_bytes: all bodies that are being read, or wait for a runtime to open.
        timeout_s: from the last byte of a request to its answer; also for the body to arrive.
        explanations: explanations that run or wait. They run one at a time, beside the predictions.
        explanation_s: time for one explanation; words it does not reach get no value.
    """

    waiting_texts: int = 1024
    body_bytes: int = 2_000_000
    bodies_bytes: int = 64_000_000
    timeout_s: float = 30
    explanations: int = 8
    explanation_s: float = 10

    @property
    def max_explanations(self) -> int:
        """How many may run or wait so that the last one is done in time if each takes all its time; at least 1."""
        return max(1, min(self.explanations, int(self.timeout_s // self.explanation_s)))


class Service:
    """The classifiers of a model behind one queue.

    Args:
        first: the runtime for requests that name none.
    """

    def __init__(self, served: Classifier | Models, first: str | None, limits: ApiLimits) -> None:
        self.bundle = served.bundle
        names = [served.backend.name] if isinstance(served, Classifier) else list(self.bundle.backends)
        if first is not None and first not in names:
            raise InputError(f"Unknown runtime {first!r}. Available: {', '.join(names)}.")
        self.backends = sorted(names, key=lambda name: name != (first or names[0]))
        self.limits = limits
        self.batcher = Batcher(limits.waiting_texts)
        self.stopping = False
        self._closed = False
        self._served = served
        self._opened: dict[str, Classifier] = {}
        if isinstance(served, Classifier):
            self.batcher.prepare(served)
            self._opened[served.backend.name] = served
        self._opening: dict[str, asyncio.Future[Classifier]] = {}
        self._probe: asyncio.Future[float] | None = None
        # Beside the queue: an explanation takes some hundred texts, and predictions must not wait for it.
        self._explainer = ThreadPoolExecutor(1, "explainer")
        self._explaining = 0

    def deadline(self) -> float:
        """Return when a request whose body is complete now must be answered, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.timeout_s

    async def classifier(self, name: str | None, receive: Receive, deadline: float) -> Classifier:
        """Return the classifier of a runtime, opened in a thread if needed; the first runtime without a name.

        Raises:
            ApiError: 422 if the runtime is unknown, 503 if it cannot be opened, or not in time.
        """
        name = self.backends[0] if name is None else name
        if name in self._opened:
            return self._opened[name]
        opening = self._start_opening(name)
        await self._wait(opening, receive, deadline, OPENING_RETRY_S)
        return opening.result()

    def _start_opening(self, name: str) -> asyncio.Future[Classifier]:
        """Return the opening of a runtime, which all requests for it share."""
        if name not in self.backends or isinstance(self._served, Classifier):
            missing = self.bundle.missing.get(name)
            reason = f"This model has no {TITLES[name]}: {missing}" if missing else "Unknown runtime."
            raise ApiError(422, "unknown_backend", f"{reason} Available: {', '.join(self.backends)}.")
        opening = self._opening.get(name)
        if opening is None or opening.done() or opening.get_loop() is not asyncio.get_running_loop():
            opening = self._opening[name] = asyncio.ensure_future(self._open(self._served, name))
            opening.add_done_callback(_retrieve_exception)
        return opening

    async def _open(self, served: Models, name: str) -> Classifier:
        def run() -> Classifier:
            classifier = served.get(name)
            self.batcher.prepare(classifier)
            return classifier

        try:
            self._opened[name] = await asyncio.to_thread(run)
        except ChangedModelError as error:
            raise ApiError(503, "model_changed", str(error)) from error
        except InferenceError as error:  # PyTorch is not installed, for example
            message = f"{TITLES[name]} is not available on this server. Choose another runtime."
            raise ApiError(503, "backend_unavailable", message) from error
        return self._opened[name]

    def check_kind(self, text: Text) -> None:
        """Raise ApiError (422) for a pair of texts if the model was trained on single ones."""
        if isinstance(text, tuple) and not self.bundle.pairs:
            message = f"This is a pair, and nothing says that {self.bundle.name} takes pairs. {PAIRS_REMEDY}"
            raise ApiError(422, "invalid_request", message)

    def task_to_explain(self, request: ExplainRequest) -> str:
        """Return the task of a request.

        Raises:
            ApiError: 422 if the task or label is unknown, or if no task is named and the model has several.
        """
        if request.task is None and len(self.bundle.tasks) > 1:
            message = f"This model has several tasks. Name one of: {', '.join(self.bundle.tasks)}."
            raise ApiError(422, "unknown_task", message)
        (task,) = self.tasks(None if request.task is None else [request.task])
        if request.label is not None and request.label not in self.bundle.tasks[task].labels:
            raise ApiError(422, "unknown_label", "The task has no such label. GET …/model lists them.")
        return task

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        """Return the named tasks without repeats, or all tasks.

        Raises:
            ApiError: 422 if a task is unknown.
        """
        if names is None:
            return list(self.bundle.tasks)
        if not all(name in self.bundle.tasks for name in names):
            raise ApiError(422, "unknown_task", f"Unknown task. Available: {', '.join(self.bundle.tasks)}.")
        return list(dict.fromkeys(names))

    async def predict(
        self, classifier: Classifier, texts: Sequence[Text], tasks: Sequence[str], receive: Receive, deadline: float
    ) -> dict[str, list[Prediction]]:
        """Return the predictions by task, in the order of the texts.

        Args:
            receive: of the request, whose body has been read: it reports when the client disconnects.

        Raises:
            ApiError: 422 for an unreadable text, 429 or 503 without room or time, 499 if the client has gone.
        """
        job = self.batcher.submit(classifier, texts, tasks)
        try:
            await self._wait(job.future, receive, deadline)
            return job.future.result()
        finally:
            if not job.is_over:
                self.batcher.drop(job)

    async def explain(
        self, classifier: Classifier, request: ExplainRequest, task: str, receive: Receive, deadline: float
    ) -> dict[str, Any]:
        """Return `Explanation.to_dict` of a request.

        Raises:
            ApiError: as `predict`; also 422 if the method is not available.
        """
        if self._closed:
            raise shutting_down()
        if self._explaining >= self.limits.max_explanations:
            message = f"{self._explaining} explanations are running or waiting. Try again later."
            raise ApiError(429, "overloaded", message, EXPLAIN_RETRY_S)
        abandoned = threading.Event()

        def progress(step: str, share: float) -> None:
            if abandoned.is_set():
                raise Cancelled

        def run() -> dict[str, Any]:
            progress("", 0)
            label, method, budget_s = request.label, request.method, self.limits.explanation_s
            with self.batcher.metrics.explain.time():
                explanation = explain(
                    classifier, request.text, task, label, method, budget_s=budget_s, progress=progress
                )
            return explanation.to_dict()

        self._explaining += 1
        future = asyncio.get_running_loop().run_in_executor(self._explainer, run)
        future.add_done_callback(self._explained)
        try:
            await self._wait(future, receive, deadline, EXPLAIN_RETRY_S)
            return future.result()
        except InputError as error:
            raise ApiError(422, "cannot_explain", str(error)) from None
        except MissingDependencyError as error:
            message = f"{request.method} is not available on this server. Use occlusion."
            raise ApiError(422, "method_unavailable", message) from error
        except (ApiError, asyncio.CancelledError):
            raise
        except BaseException as error:  # a panic of the tokenizer is no `Exception`
            raise model_failure(error) from error
        finally:
            abandoned.set()

    def _explained(self, future: asyncio.Future[Any]) -> None:
        self._explaining -= 1
        _retrieve_exception(future)

    async def _wait(
        self, future: asyncio.Future[Any], receive: Receive, deadline: float, retry_s: int | None = None
    ) -> None:
        """Wait for the future; raise `ApiError` at the deadline or when the client disconnects.

        Args:
            retry_s: for Retry-After; None: when the queue is probably empty.
        """
        loop = asyncio.get_running_loop()
        done, _ = await asyncio.wait([future], timeout=max(0, min(WATCH_AFTER_S, deadline - loop.time())))
        if done:
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            left = max(0, deadline - loop.time())
            await asyncio.wait([future, gone], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if future.done():
            return
        if gone.done():
            raise ApiError(499, "client_gone", "The client closed its connection.")
        message = f"No answer within {self.limits.timeout_s:g} s. Try again later, or with fewer texts."
        raise ApiError(503, "timed_out", message, self.batcher.retry_after() if retry_s is None else retry_s)

    async def probe(self) -> float:
        """Return the milliseconds until one short text is answered, including its wait and the opening of a runtime.

        Concurrent callers share one probe.

        Raises:
            ApiError: 503 if the model does not answer, or the server shuts down.
        """
        if self.stopping:
            raise shutting_down()
        loop = asyncio.get_running_loop()
        if self._probe is None or self._probe.done() or self._probe.get_loop() is not loop:
            self._probe = asyncio.ensure_future(self._run_probe())
            self._probe.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._probe)

    async def _run_probe(self) -> float:
        started, job, name = time.perf_counter(), None, self.backends[0]
        try:
            async with asyncio.timeout(PROBE_S):
                is_open = name in self._opened
                classifier = self._opened[name] if is_open else await asyncio.shield(self._start_opening(name))
                job = self.batcher.submit(classifier, [PROBE_TEXT], list(self.bundle.tasks), probe=True)
                await job.future
        except TimeoutError:
            raise ApiError(503, "not_ready", f"The model did not answer within {PROBE_S} s.", PROBE_S) from None
        except ApiError as error:
            if error.code == "stopping":
                raise
            raise ApiError(503, "not_ready", f"The model does not answer: {error}", PROBE_S) from error
        finally:
            if job is not None:
                self.batcher.drop(job)
        return (time.perf_counter() - started) * 1e3

    def stop(self) -> None:
        """Report "not ready" from now on; requests are still answered."""
        self.stopping = True

    def close(self) -> None:
        """Answer what waits and end the threads."""
        self.stop()
        self._closed = True
        self.batcher.close()
        self._explainer.shutdown()


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging "exception was never retrieved" when the client has gone."""
    if not future.cancelled():
        future.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
