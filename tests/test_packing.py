"""Scripts and styles are packed once, and nothing else is packed at all."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from inference.api.packing import PackedFiles

SCRIPT = b"export const answer = 42;\n" * 10_000


class Files:
    """A server of one script that counts its requests."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope["headers"])
        headers = [(b"content-type", b"text/javascript"), (b"content-length", b"%d" % len(SCRIPT)), (b"etag", b'"1"')]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": SCRIPT, "more_body": False})


def ask(app: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    messages: list[Any] = []
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "asgi": {}}
    asyncio.run(app(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], answered, b"".join(message.get("body", b"") for message in messages[1:])


def test_script_is_packed_once_for_all_visitors() -> None:
    files = Files()
    app = PackedFiles(files, ["assets"])
    for _ in range(2):
        status, headers, body = ask(app, "/assets/index-DphvyggB.js", accept_encoding="gzip, deflate, br")
        assert (status, headers["content-encoding"], headers["content-length"]) == (200, "gzip", str(len(body)))
        assert gzip.decompress(body) == SCRIPT
        assert headers["cache-control"] == "public, max-age=31536000, immutable"
        assert headers["vary"] == "Accept-Encoding"
    assert len(files.requests) == 1


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/assets/index-DphvyggB.js", {}),
        ("/assets/index-DphvyggB.js", {"accept_encoding": "br"}),
        ("/assets/index-DphvyggB.js", {"accept_encoding": "gzip;q=0, identity"}),
        ("/assets/index-DphvyggB.js", {"accept_encoding": "notgzip"}),
        ("/assets/index-DphvyggB.js", {"accept_encoding": "gzip", "range": "bytes=0-9"}),
        ("/assets/font-DphvyggB.woff2", {"accept_encoding": "gzip"}),
        ("/config", {"accept_encoding": "gzip"}),
        ("/gradio_api/call/predict.js", {"accept_encoding": "gzip"}),
        ("/assets/../config.js", {"accept_encoding": "gzip"}),
        ("/assets/a/b.js", {"accept_encoding": "gzip"}),
    ],
)
def test_other_answers_are_not_packed(path: str, headers: dict[str, str]) -> None:
    _, answered, body = ask(PackedFiles(Files(), ["assets"]), path, **headers)
    assert body == SCRIPT
    assert "content-encoding" not in answered


def test_missing_file_is_not_kept() -> None:
    files = Files(404)
    app = PackedFiles(files, ["assets"])
    for number in (1, 2):
        status, headers, body = ask(app, "/assets/index-DphvyggB.js", accept_encoding="gzip")
        assert (status, body, len(files.requests)) == (404, SCRIPT, number)
        assert "cache-control" not in headers


def test_no_more_than_the_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.api.packing.MAX_KEPT_BYTES", 100)
    files = Files()
    app = PackedFiles(files, ["assets"])
    for number in (1, 2):
        assert gzip.decompress(ask(app, "/assets/a.js", accept_encoding="gzip")[2]) == SCRIPT
        assert len(files.requests) == number


class Leaving(Files):
    """A server that ends its answer as soon as the client has gone, as Starlette does for streamed answers."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def body() -> AsyncIterator[bytes]:
            for at in range(0, len(SCRIPT), 1000):
                await asyncio.sleep(0)
                yield SCRIPT[at : at + 1000]

        await StreamingResponse(body(), media_type="text/javascript")(scope, receive, send)


def test_visitor_who_leaves_does_not_leave_half_a_file_for_the_others() -> None:
    app = PackedFiles(Leaving(), ["assets"])
    for _ in range(2):  # both have gone before the file is packed
        assert gzip.decompress(ask(app, "/assets/index-DphvyggB.js", accept_encoding="gzip")[2]) == SCRIPT
