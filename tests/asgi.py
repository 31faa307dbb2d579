"""A client of an ASGI application in this process: bodies in pieces, clients that go away, many requests at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a `Problem`."""
        return str(self.json()["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.json()["error"]["message"])


class Client:
    """One application on one event loop, which runs while something is asked."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self.pieces_read = 0

    def skip(self, seconds: float) -> None:
        """Let so much time go by at once on the clock of the loop, which limits of time are kept by."""
        now = self.loop.time
        self.loop.time = lambda: now() + seconds  # type: ignore[method-assign]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        service = self.app.state.service
        service.close()
        self.loop.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Reply:
        return self.run(self.ask(path, b"", headers or {}, method))

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """The reply to this body: bytes as they are, anything else as JSON."""
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.run(self.ask(path, given, JSON if headers is None else headers))

    def predict(self, **fields: Any) -> Reply:
        return self.post("/api/predict", fields)

    async def ask(
        self,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] = JSON,
        method: str = "POST",
        gone_after: float | None = None,
    ) -> Reply:
        """The reply to a body, whole or in pieces. The client goes after so many seconds, which `skip` shortens."""
        pieces = iter([body] if isinstance(body, bytes) else body)
        sent: list[dict[str, Any]] = []
        left = asyncio.Event()
        after = next(pieces, b"")

        async def receive() -> dict[str, Any]:
            nonlocal after
            if after is None:
                await left.wait()
                return {"type": "http.disconnect"}
            now, after = after, next(pieces, None)
            self.pieces_read += 1
            return {"type": "http.request", "body": now, "more_body": after is not None}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        if gone_after is not None:
            self.loop.call_later(gone_after, left.set)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        await self.app(scope, receive, send)
        if not sent:
            return Reply(0, {}, b"")
        start, *rest = sent
        received = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], received, b"".join(message.get("body", b"") for message in rest))

    def together(self, bodies: Sequence[Any], path: str = "/api/predict") -> list[Reply]:
        """The replies to all of these, asked at the same time."""

        async def all_of_them() -> list[Reply]:
            return await asyncio.gather(*(self.ask(path, json.dumps(body).encode()) for body in bodies))

        return self.run(all_of_them())
