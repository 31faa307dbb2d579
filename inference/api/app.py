"""`create_app`: the endpoints of the API as a FastAPI application."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from inference.api import errors
from inference.api.errors import JSON, ApiError
from inference.api.metrics import CONTENT_TYPE_LATEST
from inference.api.middleware import ApiKey, BodyLimit, RequestMetrics
from inference.api.openapi import HEALTH, add_openapi
from inference.api.schemas import MAX_TEXTS, ExplainRequest, PredictRequest, parse
from inference.api.service import ApiLimits, Service
from inference.calls.texts import MAX_CHARS
from inference.classifier import Classifier, Prediction
from inference.errors import InputError
from inference.loading import Models
from inference.version import __version__

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    served: Classifier | Models,
    *,
    backend: str | None = None,
    api_key: str | None = None,
    limits: ApiLimits | None = None,
    prefix: str = "/api",
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """Return the HTTP API: under `prefix` /predict, /explain, /model, /live, /ready, /metrics and /openapi.json.

    To mount it in another application, pass prefix="" and call `app.state.service.close()` when that one shuts down:
    a mounted application gets no lifespan events.

    Args:
        served: one classifier, or all runtimes of a model, among which requests choose.
        backend: the runtime for requests that name none; default: the model's first.
        api_key: required by every request except those to /live and /ready.
        cors_origins: sites whose pages may send requests, such as https://app.example.org; "*" for every site. Never
            with cookies: a page sends the key in a header.

    Raises:
        InputError: the backend is unknown, or the key is empty.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise InputError("The API key must be printable ASCII, not empty, and without spaces around it.")
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
        docs_url=None,  # both pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.has_key = api_key is not None
    # As Starlette routes: FastAPI's own spend a tenth of a millisecond on finding that there is nothing to inject.
    endpoints = _endpoints(service)
    for path, (method, endpoint) in endpoints.items():
        app.add_route(f"{prefix}{path}", endpoint, methods=[method])
    if prefix:
        app.add_route(prefix, endpoints["/"][1])  # without the slash at the end
    app.state.addresses = [f"{prefix}{path}" for path in (*endpoints, "/openapi.json")]
    add_openapi(app, service, has_key=api_key is not None, prefix=prefix)
    errors.add_handlers(app)
    if api_key is not None:
        app.add_middleware(ApiKey, key=api_key, public=[f"{prefix}{path}" for path in HEALTH])
    app.add_middleware(BodyLimit, max_bytes=service.limits.body_bytes)
    if cors_origins:  # outside the key: a browser's preflight request has none, and errors must be readable too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "Content-Encoding"],
            expose_headers=["Retry-After"],
        )
    # Added last, so outermost: every response is counted.
    app.add_middleware(RequestMetrics, metrics=service.batcher.metrics, paths=app.state.addresses)
    return app


def _endpoints(service: Service) -> dict[str, tuple[str, Endpoint]]:
    """Return the method and the function of each path."""
    bodies = _Bodies(service.limits)

    async def predict(request: Request) -> Response:
        async with bodies.read(request) as body:
            fields = parse(PredictRequest, body)
            del body  # it may be much larger than its texts, which wait
            deadline = service.deadline()
            texts = [fields.text] if fields.is_single else fields.texts
            service.check_kind(texts[0])
            tasks = service.tasks(fields.tasks)
            classifier = await service.classifier(fields.backend, request.receive, deadline)
        predictions = await service.predict(classifier, texts, tasks, request.receive, deadline)
        results = [
            _result({task: predictions[task][row] for task in tasks}, bool(fields.return_scores), fields.threshold)
            for row in range(len(texts))
        ]
        about = {"model": service.bundle.name, "backend": classifier.backend.name}
        return _json(about | (results[0] if fields.is_single else {"results": results}))

    async def explain(request: Request) -> Response:
        async with bodies.read(request) as body:
            fields = parse(ExplainRequest, body)
            del body
            deadline = service.deadline()
            service.check_kind(fields.text)
            task = service.task_to_explain(fields)
            classifier = await service.classifier(fields.backend, request.receive, deadline)
        return _json(await service.explain(classifier, fields, task, request.receive, deadline))

    async def index(request: Request) -> Response:
        return _json({"model": service.bundle.name, "addresses": errors.addresses(request)})

    async def model(request: Request) -> Response:
        return _json(_model_info(service))

    async def live(request: Request) -> Response:
        return _json({"status": "live"})

    async def ready(request: Request) -> Response:
        answered_ms = await service.probe()
        return _json({"status": "ready", "backend": service.backends[0], "answered_ms": round(answered_ms, 3)})

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


def _model_info(service: Service) -> dict[str, Any]:
    bundle, limits = service.bundle, service.limits
    return {
        "name": bundle.name,
        "backends": service.backends,
        "tasks": {
            name: {"labels": task.labels, "problem_type": task.problem_type, "threshold": task.threshold}
            for name, task in bundle.tasks.items()
        },
        "pairs": bundle.pairs,
        "max_tokens": bundle.max_tokens,
        "limits": {
            "texts": min(MAX_TEXTS, limits.waiting_texts),
            "characters": MAX_CHARS,
            "body_bytes": limits.body_bytes,
            "waiting_texts": limits.waiting_texts,
            "timeout_s": limits.timeout_s,
        },
        "version": __version__,
    }


class _Bodies:
    """Reads request bodies while all of them together stay below `bodies_bytes`."""

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the JSON body of a request, which counts until the block is left; from then on its texts count.

        Raises:
            ApiError: 415 for anything but JSON, plain or as gzip, 400 and 413 for gzip that is damaged or too large
                when unpacked, 408 if it does not arrive, 503 if too many bodies are being read.
        """
        headers = request.headers
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise ApiError(415, "no_json", f"The body must be JSON, with the header Content-Type: {JSON}.")
        encoding = ",".join(headers.getlist("content-encoding")).strip().lower() or "identity"
        if encoding not in ("identity", "gzip"):
            raise ApiError(415, "compressed", "The body must be plain or compressed with Content-Encoding: gzip.")
        received, size = bytearray(), 0
        try:
            await self._receive(request, received)
            if encoding == "gzip":
                self._unpack(received)
            size, bodies = len(received), [bytes(received)]
            received.clear()
            yield bodies.pop()  # this generator keeps no reference to it
        finally:
            self._bytes -= size or len(received)

    def _unpack(self, received: bytearray) -> None:
        """Replace a gzip body by its content, of which no more than the limit is ever unpacked."""
        limit, unpacker = self._limits.body_bytes, zlib.decompressobj(wbits=31)
        try:
            content = unpacker.decompress(received, limit + 1)
        except zlib.error:
            raise ApiError(400, "invalid_gzip", "The body is not gzip, which its Content-Encoding says.") from None
        if len(content) > limit:
            raise ApiError(413, "too_large", f"The body unpacks to more than {limit:,} bytes. Send fewer texts.")
        if not unpacker.eof or unpacker.unused_data:
            problem = "goes on after its end" if unpacker.eof else "is incomplete"
            raise ApiError(400, "invalid_gzip", f"The gzip body {problem}.")
        self._bytes += len(content) - len(received)
        received[:] = content
        self._check_room()

    def _check_room(self) -> None:
        if self._bytes > self._limits.bodies_bytes:
            raise ApiError(503, "overloaded", "Too many large requests at once. Try again later.", 1)

    async def _receive(self, request: Request, received: bytearray) -> None:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "client_gone", "The client closed its connection.")
                    piece = message.get("body", b"")
                    self._bytes += len(piece)
                    received += piece
                    self._check_room()
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            raise ApiError(408, "slow_body", f"The body did not arrive within {self._limits.timeout_s:g} s.") from None


def _result(predictions: dict[str, Prediction], return_scores: bool, threshold: float | None) -> dict[str, Any]:
    """Return the predictions for one text as a `schemas.Result` in plain types."""
    answers: dict[str, dict[str, Any]] = {}
    for task, prediction in predictions.items():
        answers[task] = {
            "label": prediction.label,
            "confidence": prediction.confidence,
            # Texts of several requests share a batch, and each request has its own threshold.
            "uncertain": prediction.uncertain if threshold is None else prediction.confidence < threshold,
        }
        if return_scores:
            answers[task]["probabilities"] = prediction.scores
    # Facts of the text, the same for every task.
    facts = {name: getattr(prediction, name) for name in ("truncated", "unknown", "unpaired")}
    result = {"predictions": answers, **facts}
    if len(answers) == 1:
        result |= {"prediction": prediction.label, "confidence": prediction.confidence}
        if return_scores:
            result["probabilities"] = prediction.scores
    return result


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
