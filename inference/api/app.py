"""`create_app`: the addresses of the API as a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from inference.api import errors
from inference.api.errors import JSON, ApiError
from inference.api.metrics import CONTENT_TYPE_LATEST
from inference.api.middleware import BodyLimit, Counted, Key
from inference.api.openapi import describe
from inference.api.schemas import MAX_TEXTS, ExplainRequest, PredictRequest, parse
from inference.api.service import ApiLimits, Service
from inference.classifier import MAX_CHARS, Classifier, Prediction
from inference.errors import InputError
from inference.loading import Models
from inference.version import __version__

HEALTH = ("/live", "/ready")


def create_app(
    served: Classifier | Models,
    *,
    backend: str | None = None,
    api_key: str | None = None,
    limits: ApiLimits | None = None,
    prefix: str = "/api",
) -> FastAPI:
    """The HTTP API of a model: under `prefix` /predict, /explain, /model, /live, /ready, /metrics and /openapi.json.

    Mounted in another application, give prefix="", and call `app.state.service.close()` when that one ends: it passes
    no lifespan on.

    Args:
        served: one classifier, or those of a model, of which requests choose one by its backend.
        backend: the one that answers where a request names none; the model's first if left out.
        api_key: wanted of every request but those to /live and /ready.

    Raises:
        InputError: there is no such backend, or the key is empty.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise InputError("The API key must be printable ASCII without spaces around it, and not empty.")
    service = Service(served, backend, limits or ApiLimits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title=f"Triptych: {service.bundle.name}",
        version=__version__,
        lifespan=lifespan,
        openapi_url=f"{prefix}/openapi.json",
        docs_url=None,  # both pages load their scripts from another machine
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    # As routes of Starlette: FastAPI's own take a tenth of a millisecond to find out that there is nothing to inject.
    answers = _answers(service)
    for path, (method, answer) in answers.items():
        app.add_route(f"{prefix}{path}", answer, methods=[method])
    if prefix:
        app.add_route(prefix, answers["/"][1])  # somebody left the last slash out
    addresses = [f"{prefix}{path}" for path in (*answers, "/openapi.json")]
    app.state.addresses = addresses
    describe(app, service, keyed=api_key is not None, prefix=prefix)
    errors.install(app)
    if api_key is not None:
        app.add_middleware(Key, key=api_key, open_to_all=[f"{prefix}{path}" for path in HEALTH])
    app.add_middleware(BodyLimit, max_bytes=service.limits.body_bytes)
    # The last one added is the outermost: whatever is answered is counted.
    app.add_middleware(Counted, metrics=service.batcher.metrics, addresses=addresses)
    return app


def _answers(service: Service) -> dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]]:
    """Path -> its method, and what answers there."""
    reader = _Reader(service)

    async def predict(request: Request) -> Response:
        async with reader.body(request) as body:
            asked = parse(PredictRequest, body)
            del body  # it may be much larger than its texts, which wait
            until = service.deadline()
            tasks = service.tasks(asked.tasks)
            classifier = await service.classifier(asked.backend, request.receive, until)
        texts = [asked.text] if asked.single else asked.texts
        found = await service.predict(classifier, texts, tasks, request.receive, until)
        rows = _results(found, len(texts), bool(asked.return_scores), asked.threshold)
        about = {"model": service.bundle.name, "backend": classifier.backend.name}
        return _json(about | (rows[0] if asked.single else {"results": rows}))

    async def explain(request: Request) -> Response:
        async with reader.body(request) as body:
            asked = parse(ExplainRequest, body)
            del body
            until = service.deadline()
            task = service.one_task(asked)
            classifier = await service.classifier(asked.backend, request.receive, until)
        return _json(await service.explain(classifier, asked, task, request.receive, until))

    async def index(request: Request) -> Response:
        return _json({"model": service.bundle.name, "addresses": errors.addresses(request)})

    async def model(request: Request) -> Response:
        limits = service.limits
        return _json(
            {
                "name": service.bundle.name,
                "backends": service.backends,
                "tasks": {
                    name: {"labels": task.labels, "problem_type": task.problem_type, "threshold": task.threshold}
                    for name, task in service.bundle.tasks.items()
                },
                "max_tokens": service.bundle.max_tokens,
                "limits": {
                    "texts": min(MAX_TEXTS, limits.waiting_texts),
                    "characters": MAX_CHARS,
                    "body_bytes": limits.body_bytes,
                    "waiting_texts": limits.waiting_texts,
                    "timeout_s": limits.timeout_s,
                },
                "version": __version__,
            }
        )

    async def live(request: Request) -> Response:
        return _json({"status": "live"})

    async def ready(request: Request) -> Response:
        spent = await service.probe()
        return _json({"status": "ready", "backend": service.backends[0], "answered_ms": round(spent, 3)})

    async def metrics(request: Request) -> Response:
        return Response(service.batcher.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return {
        "/": ("GET", index),
        "/predict": ("POST", predict),
        "/explain": ("POST", explain),
        "/model": ("GET", model),
        "/live": ("GET", live),
        "/ready": ("GET", ready),
        "/metrics": ("GET", metrics),
    }


class _Reader:
    """Bodies of requests, as long as all that are held at the same time fit into memory."""

    def __init__(self, service: Service) -> None:
        self._limits = service.limits
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body of a request with JSON. It counts until the block is left, and then its texts count.

        Raises:
            ApiError: 415 where it is something else, 408 where it does not come, 503 where too much is being read.
        """
        headers = request.headers
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise ApiError(415, "no_json", f"Send JSON, and say so: Content-Type: {JSON}.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "compressed", "Send the body uncompressed, without Content-Encoding.")
        got, size = bytearray(), 0
        try:
            await self._read(request, got)
            size, whole = len(got), [bytes(got)]
            got.clear()
            yield whole.pop()  # nothing is left of it here
        finally:
            self._held -= size or len(got)

    async def _read(self, request: Request, got: bytearray) -> None:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "client_gone", "The client closed its connection.")
                    piece = message.get("body", b"")
                    self._held += len(piece)
                    got += piece
                    if self._held > self._limits.bodies_bytes:
                        raise ApiError(503, "overloaded", "Too much is being sent at once. Ask again later.", 1)
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            raise ApiError(408, "slow_body", f"The body did not arrive within {self._limits.timeout_s:g} s.") from None


def _results(
    found: dict[str, list[Prediction]], count: int, scores: bool, threshold: float | None
) -> list[dict[str, Any]]:
    """A `schemas.Result` for each text in plain types."""
    rows = []
    for row in range(count):
        predictions = {}
        for task, answers in found.items():
            one = answers[row]
            predictions[task] = answer = {
                "label": one.label,
                "confidence": one.confidence,
                # Texts of several requests go through the model together, each with a threshold of its own.
                "uncertain": one.uncertain if threshold is None else one.confidence < threshold,
            }
            if scores:
                answer["probabilities"] = one.scores
        result: dict[str, Any] = {"predictions": predictions, "truncated": one.truncated}
        if len(predictions) == 1:
            result |= {"prediction": one.label, "confidence": one.confidence}
            if scores:
                result["probabilities"] = one.scores
        rows.append(result)
    return rows


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
