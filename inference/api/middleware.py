"""ASGI middleware for any application: a limit on request bodies, the API key, and request metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.api.errors import ApiError, error_response
from inference.api.metrics import Metrics

DRAINED_BYTES = 8_000_000
DRAINED_S = 2
SEGMENT = r"(?!\.\.?(?:/|$))[A-Za-z0-9._@+~-]{1,128}"
"""Pattern of one segment of the path to a page's file; never "." or ".."."""


class BodyLimit:
    """Answer 413 to a body above `max_bytes`, declared or chunked, without keeping any of it.

    Closing a connection while the client still sends resets it, and most clients then lose the answer. So what they
    send after the answer is discarded first, up to `DRAINED_BYTES` and for `DRAINED_S`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length[:20]) > self.max_bytes:
            await refuse(self._too_large(), receive, send)
            return
        received, has_started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large()
            return message

        async def watched(message: Message) -> None:
            nonlocal has_started
            if received > self.max_bytes and not has_started:
                return  # the application's answer to a body that broke off: the client gets 413
            has_started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if received <= self.max_bytes:
                raise
        if received > self.max_bytes and not has_started:
            await refuse(self._too_large(), receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, "too_large", f"The body is larger than {self.max_bytes:,} bytes. Send fewer texts.")


async def refuse(error: ApiError, receive: Receive, send: Send) -> None:
    """Send an error, discard what the client still sends, within bounds, and close the connection."""
    response = error_response(error, {"Connection": "close"})
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_S):
            while drained < DRAINED_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Close a websocket before it is accepted: the server answers the handshake with 403."""
    await receive()  # the handshake
    await send({"type": "websocket.close", "code": 1008})


class ApiKey:
    """Answer 401 to requests without the key, as `Authorization: Bearer …` or `X-API-Key`, except on `public` paths."""

    def __init__(self, app: ASGIApp, key: str, public: Collection[str]) -> None:
        self.app = app
        self.key = key.encode()
        self.public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and path_of(scope) not in self.public and not self._has_key(scope):
            message = "This request needs the API key: Authorization: Bearer KEY, or X-API-Key: KEY."
            response = error_response(ApiError(401, "no_key", message), {"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self.key):
                    return True
            elif name == b"x-api-key" and hmac.compare_digest(value.strip(), self.key):
                return True
        return False


class RequestMetrics:
    """Count responses by path and status, with their duration. A path outside `paths` counts as "other"."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status: Any = 500  # unless a response starts

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = path_of(scope)
            route = path if path in self.paths else "other"
            self.metrics.request(route, status, time.perf_counter() - started)


def path_of(scope: Scope) -> str:
    """Return the path within the application, without the path it is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def whole_answer(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return the start and the body of what an app answers, without its messages for debugging; nothing is sent."""
    messages: list[Message] = []

    async def collect(message: Message) -> None:
        if message["type"] in ("http.response.start", "http.response.body"):
            messages.append(message)

    await app(scope, receive, collect)
    return messages[0], b"".join(message.get("body", b"") for message in messages[1:])
