"""What the addresses of the API stand for: a model on its runtimes, asked through one queue."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from inference.api.batching import Batcher
from inference.api.errors import ApiError, failure
from inference.api.schemas import ExplainRequest
from inference.backends import TITLES
from inference.classifier import Classifier, Prediction
from inference.errors import ChangedModelError, InferenceError, InputError, MissingDependencyError
from inference.explain.run import explain
from inference.loading import Models

Receive = Callable[[], Awaitable[Any]]

WATCH_AFTER_S = 0.1  # who waits longer is looked after: a client that has gone needs no answer
PROBE_S = 5  # a model that gives no answer to one short text in this time is not ready
PROBE_TEXT = "ready"
EXPLAIN_AGAIN_S = 5
OPENING_AGAIN_S = 10


@dataclass(frozen=True)
class ApiLimits:
    """What one server takes on.

    Args:
        waiting_texts: of all requests together. One request may hold `schemas.MAX_TEXTS` of them, and no more than
            these.
        body_bytes: of one request.
        bodies_bytes: of all requests that are being read, or wait for a backend to be opened.
        timeout_s: from the last byte of a request to its answer; and for the body to arrive.
        explanations: that run or wait, at most: fewer where they would not all be done within `timeout_s`. They run
            one at a time, beside the predictions.
        explanation_s: what one may take; the words that it did not suffice for have no figure.
    """

    waiting_texts: int = 1024
    body_bytes: int = 2_000_000
    bodies_bytes: int = 64_000_000
    timeout_s: float = 30
    explanations: int = 8
    explanation_s: float = 10

    @property
    def max_explanations(self) -> int:
        """Those that run or wait, of which the last is still done in time if each takes all that it may; at least 1."""
        return max(1, min(self.explanations, int(self.timeout_s // self.explanation_s)))


class Service:
    """A model's classifiers behind one queue.

    Args:
        first: the backend that answers where a request names none.
    """

    def __init__(self, served: Classifier | Models, first: str | None, limits: ApiLimits) -> None:
        self.bundle = served.bundle
        names = [served.backend.name] if isinstance(served, Classifier) else list(self.bundle.backends)
        if first is not None and first not in names:
            raise InputError(f"Unknown backend {first!r}. Served here: {', '.join(names)}.")
        self.backends = sorted(names, key=lambda name: name != (first or names[0]))
        self.limits = limits
        self.batcher = Batcher(limits.waiting_texts)
        self.stopping = False
        self._closed = False
        self._served = served
        self._opened: dict[str, Classifier] = {}
        if isinstance(served, Classifier):
            self.batcher.open(served)
            self._opened[served.backend.name] = served
        self._opening: dict[str, asyncio.Future[Classifier]] = {}
        self._probe: asyncio.Future[float] | None = None
        # Beside the queue: an explanation is some hundred texts, and predictions must not wait for it.
        self._explainer = ThreadPoolExecutor(1, "explainer")
        self._explaining = 0

    def deadline(self) -> float:
        """When a request whose body is complete now must be answered, by the clock of the event loop."""
        return asyncio.get_running_loop().time() + self.limits.timeout_s

    async def classifier(self, name: str | None, receive: Receive, until: float) -> Classifier:
        """The one of this backend, opened now if need be, off the event loop.

        Raises:
            ApiError: 422 where there is no such backend, 503 where it cannot be opened, or is not yet.
        """
        name = self.backends[0] if name is None else name
        if name in self._opened:
            return self._opened[name]
        opening = self._start_opening(name)
        await self._wait(opening, receive, until, OPENING_AGAIN_S)
        return self._finish_opening(name, opening)

    def _start_opening(self, name: str) -> asyncio.Future[Classifier]:
        """What one thread is at, however many ask: they wait for it as they do for an answer."""
        if name not in self.backends or isinstance(self._served, Classifier):
            raise ApiError(422, "unknown_backend", f"This backend is not served. Served: {', '.join(self.backends)}.")
        opening = self._opening.get(name)
        if opening is None or opening.done() or opening.get_loop() is not asyncio.get_running_loop():
            opening = self._opening[name] = asyncio.ensure_future(asyncio.to_thread(self._open, self._served, name))
            opening.add_done_callback(_seen)
        return opening

    def _finish_opening(self, name: str, opening: asyncio.Future[Classifier]) -> Classifier:
        try:
            self._opened[name] = opening.result()
        except ChangedModelError as error:
            raise ApiError(503, "model_changed", str(error)) from error
        except InferenceError as error:  # PyTorch is not installed, say
            raise ApiError(
                503, "backend_unavailable", f"{TITLES[name]} cannot be opened on this server: ask another backend."
            ) from error
        return self._opened[name]

    def _open(self, served: Models, name: str) -> Classifier:
        classifier = served.get(name)
        self.batcher.open(classifier)
        return classifier

    def one_task(self, asked: ExplainRequest) -> str:
        """The task whose answer is to be explained.

        Raises:
            ApiError: 422 where it, or the label, is unknown, or none is named of several.
        """
        known = ", ".join(self.bundle.tasks)
        if asked.task is None and len(self.bundle.tasks) > 1:
            raise ApiError(422, "unknown_task", f"This model has several tasks; name one: {known}.")
        (task,) = self.tasks(None if asked.task is None else [asked.task])
        if asked.label is not None and asked.label not in self.bundle.tasks[task].labels:
            raise ApiError(422, "unknown_label", "The task has no such label. GET …/model lists them.")
        return task

    def tasks(self, asked: Sequence[str] | None) -> list[str]:
        """The tasks asked for, each once; all where none are named.

        Raises:
            ApiError: 422 where one is unknown.
        """
        if asked is None:
            return list(self.bundle.tasks)
        if not all(name in self.bundle.tasks for name in asked):
            raise ApiError(422, "unknown_task", f"A task is not known. This model has: {', '.join(self.bundle.tasks)}.")
        return list(dict.fromkeys(asked))

    async def predict(
        self, classifier: Classifier, texts: Sequence[str], tasks: Sequence[str], receive: Receive, until: float
    ) -> dict[str, list[Prediction]]:
        """Predictions by task, in the order of the texts.

        Args:
            receive: of the request, whose body was read: it tells when the client goes.
            until: its `deadline`.

        Raises:
            ApiError: 422 for a text that cannot be read, 429 and 503 where there is no room or no time, 499 where
                nobody waits any more.
        """
        job = self.batcher.submit(classifier, texts, tasks)
        try:
            await self._wait(job.future, receive, until)
            return job.future.result()
        finally:
            if not job.over:
                self.batcher.drop(job)

    async def explain(
        self, classifier: Classifier, asked: ExplainRequest, task: str, receive: Receive, until: float
    ) -> dict[str, Any]:
        """What `Explanation.to_dict` gives.

        Raises:
            ApiError: as `predict`; 422 too where the method cannot be had.
        """
        if self._closed:
            raise ApiError(503, "stopping", "The server is being stopped. Ask again in a moment.", 1)
        if self._explaining >= self.limits.max_explanations:
            raise ApiError(
                429, "overloaded", f"{self._explaining} explanations wait already. Ask again later.", EXPLAIN_AGAIN_S
            )
        given_up = threading.Event()

        def go_on(step: str, share: float) -> None:
            if given_up.is_set():
                raise _GivenUp

        def run() -> dict[str, Any]:
            go_on("", 0)
            budget_s = self.limits.explanation_s
            with self.batcher.metrics.explain.time():
                found = explain(
                    classifier, asked.text, task, asked.label, asked.method, budget_s=budget_s, progress=go_on
                )
            return found.to_dict()

        self._explaining += 1
        future = asyncio.get_running_loop().run_in_executor(self._explainer, run)
        future.add_done_callback(self._explained)
        try:
            await self._wait(future, receive, until, EXPLAIN_AGAIN_S)
            return future.result()
        except InputError as error:
            raise ApiError(422, "cannot_explain", str(error)) from None
        except MissingDependencyError as error:
            raise ApiError(
                422, "method_unavailable", f"{asked.method} is not installed on this server: ask for occlusion."
            ) from error
        except (ApiError, asyncio.CancelledError):
            raise
        except BaseException as error:  # a panic of the tokenizer is no `Exception`
            raise failure(error) from error
        finally:
            given_up.set()

    def _explained(self, future: asyncio.Future[Any]) -> None:
        self._explaining -= 1
        _seen(future)

    async def _wait(
        self, future: asyncio.Future[Any], receive: Receive, until: float, again_s: int | None = None
    ) -> None:
        """Return when the future is done; ApiError when time is up or the client has gone.

        Args:
            again_s: for Retry-After; None for when the queue is likely to be done.
        """
        loop = asyncio.get_running_loop()
        done, _ = await asyncio.wait([future], timeout=max(0, min(WATCH_AFTER_S, until - loop.time())))
        if done:
            return
        gone = asyncio.ensure_future(_gone(receive))
        try:
            left = max(0, until - loop.time())
            await asyncio.wait([future, gone], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if future.done():
            return
        if gone.done():
            raise ApiError(499, "client_gone", "The client closed its connection.")
        raise ApiError(
            503,
            "timed_out",
            f"No answer within {self.limits.timeout_s:g} s. Ask again later, or with fewer texts.",
            self.batcher.retry_after() if again_s is None else again_s,
        )

    async def probe(self) -> float:
        """Milliseconds until one short text is answered, the wait for its turn and for an opening included.

        Who asks meanwhile gets the same.

        Raises:
            ApiError: 503 where the model does not answer, or the server is being stopped.
        """
        if self.stopping:
            raise ApiError(503, "stopping", "The server is being stopped.", 1)
        loop = asyncio.get_running_loop()
        if self._probe is None or self._probe.done() or self._probe.get_loop() is not loop:
            self._probe = asyncio.ensure_future(self._pass())
            self._probe.add_done_callback(_seen)
        return await asyncio.shield(self._probe)

    async def _pass(self) -> float:
        started, job, name = time.perf_counter(), None, self.backends[0]
        try:
            async with asyncio.timeout(PROBE_S):
                if name not in self._opened:
                    opening = self._start_opening(name)
                    await asyncio.wait([opening])
                    self._finish_opening(name, opening)
                job = self.batcher.submit(self._opened[name], [PROBE_TEXT], list(self.bundle.tasks), probe=True)
                await asyncio.wait([job.future])
            job.future.result()
        except TimeoutError:
            raise ApiError(503, "not_ready", f"The model gave no answer within {PROBE_S} s.", PROBE_S) from None
        except ApiError as error:
            if error.code == "stopping":
                raise
            raise ApiError(503, "not_ready", f"The model does not answer: {error}", PROBE_S) from error
        finally:
            if job is not None:
                self.batcher.drop(job)
        return (time.perf_counter() - started) * 1e3

    def stop(self) -> None:
        """Say "not ready" from now on; what has been asked is still answered."""
        self.stopping = True

    def close(self) -> None:
        """Answer what waits and end the threads."""
        self.stop()
        self._closed = True
        self.batcher.close()
        self._explainer.shutdown()


def _seen(future: asyncio.Future[Any]) -> None:
    """Take note of what went wrong where nobody waits for it any more: it is no news for the log."""
    if not future.cancelled():
        future.exception()


class _GivenUp(Exception):
    """Nobody waits for this explanation."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
