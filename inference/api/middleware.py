"""What stands before an application, as plain ASGI: a cap on bodies, a key, and the count of what was answered."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.api.errors import ApiError, problem
from inference.api.metrics import Metrics

DRAINED_BYTES = 8_000_000
DRAINED_S = 2
SEGMENT = r"(?!\.\.?(?:/|$))[A-Za-z0-9._@+~-]{1,128}"
"""Pattern of one step of a path to a file of a page, and neither "." nor ".."."""


class BodyLimit:
    """Answers 413 to a body above `max_bytes` bytes, said or sent in chunks, and keeps none of it.

    A connection that is closed while the client still sends is reset, and most clients lose the answer with it. So what
    they send after the answer is thrown away first, up to `DRAINED_BYTES` and for `DRAINED_S`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not said.isdigit() or int(said[:20]) > self.max_bytes:
            await refuse(self._error(), receive, send)
            return
        got, begun = 0, False

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.max_bytes:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            if got > self.max_bytes and not begun:
                return  # what the application makes of a body that broke off: the answer is 413
            begun = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except _TooLarge:
            pass
        except Exception:
            if got <= self.max_bytes:
                raise
        if got > self.max_bytes and not begun:
            await refuse(self._error(), receive, send)

    def _error(self) -> ApiError:
        return ApiError(413, "too_large", f"The body is above {self.max_bytes:,} bytes. Send fewer texts at a time.")


async def refuse(error: ApiError, receive: Receive, send: Send) -> None:
    """Answer with an error, and close the connection once what the client still sends has been thrown away."""
    answer = problem(error, {"Connection": "close"})
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    await _drain(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Close a websocket before it is accepted: the server answers its handshake with 403."""
    await receive()  # the handshake
    await send({"type": "websocket.close", "code": 1008})


async def _drain(receive: Receive) -> None:
    """Throw away what still comes of a body, within bounds."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_S):
            while drained < DRAINED_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


class _TooLarge(Exception):
    pass


class Key:
    """Answers 401 to whoever does not bring the key, as `Authorization: Bearer …` or `X-API-Key`.

    Args:
        open_to_all: paths that need none.
    """

    def __init__(self, app: ASGIApp, key: str, open_to_all: Collection[str]) -> None:
        self.app = app
        self.key = key.encode()
        self.open_to_all = frozenset(open_to_all)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and path_of(scope) not in self.open_to_all and not self._brought(scope):
            error = ApiError(401, "no_key", "A key is wanted: the header Authorization: Bearer KEY, or X-API-Key: KEY.")
            await problem(error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _brought(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, given = value.partition(b" ")
                if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.key):
                    return True
            elif name == b"x-api-key" and hmac.compare_digest(value.strip(), self.key):
                return True
        return False


class Counted:
    """Counts every answer by address and status, with the time it took.

    Args:
        addresses: those that are told apart; any other counts as "other".
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, addresses: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.addresses = frozenset(addresses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status: Any = 500  # of an answer that never began

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = path_of(scope)
            known = path if path in self.addresses else "other"
            self.metrics.request(known, status, time.perf_counter() - started)


def path_of(scope: Scope) -> str:
    """The path within the application, which may be mounted under another."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
