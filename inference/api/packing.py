"""Serve the scripts and styles of a page compressed, and let browsers keep them."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.api.middleware import SEGMENT, path_of, whole_answer

MAX_KEPT_BYTES = 32_000_000  # of all packed files; Gradio and Streamlit have some hundred, with a few MB
CHUNK_BYTES = 65_536  # a slow reader holds no more than this of a file
PACKED = (".css", ".js", ".svg")
HASHED = re.compile(r".*[-.][A-Za-z0-9_-]{8,10}\.[a-z0-9]+")  # a file with another content has another name
GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?:1|0?\.\d*[1-9])[\d.]*\s*)?(?:,|$)", re.IGNORECASE)


class PackedFiles:
    """An ASGI layer that answers with gzip for scripts and styles in the given folders; each is packed once.

    Only for files that are the same for everybody. The length of a compressed answer would give away a secret in it to
    anyone who can add text to that answer.
    """

    def __init__(self, app: ASGIApp, folders: Iterable[str]) -> None:
        self.app = app
        self._files = re.compile(rf"/(?:{'|'.join(folders)})/{SEGMENT}")
        self._kept: dict[str, tuple[Message, bytes]] = {}
        self._kept_bytes = 0
        self._packing = asyncio.Lock()  # a first visitor asks for sixty files at once, and others wait too

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._files.fullmatch(path := path_of(scope)):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Without Accept-Encoding, or Gradio compresses each file again for each visitor.
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        is_whole = scope["method"] == "GET" and "range" not in headers and "if-none-match" not in headers
        if not (is_whole and path.endswith(PACKED) and GZIP.search(headers.get("accept-encoding", ""))):

            async def with_headers(message: Message) -> None:
                _add_headers(path, message)
                await send(message)

            await self.app(scope, receive, with_headers)
            return
        start, content = self._kept.get(path) or await self._pack(path, scope)
        await send({**start, "headers": [*start["headers"]]})  # a copy: outer layers add theirs
        for at in range(0, len(content), CHUNK_BYTES):
            await send({"type": "http.response.body", "body": content[at : at + CHUNK_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _pack(self, path: str, scope: Scope) -> tuple[Message, bytes]:
        """Return the start and the body of the answer, and keep them if they are a file's; nothing is sent."""
        async with self._packing:
            if path in self._kept:
                return self._kept[path]
            start, content = await whole_answer(self.app, scope, _present())
            _add_headers(path, start)
            if start["status"] == 200:
                content = await asyncio.to_thread(gzip.compress, content, mtime=0)
                headers = MutableHeaders(raw=start["headers"])
                headers["Content-Encoding"] = "gzip"
                headers["Content-Length"] = str(len(content))
                if self._kept_bytes + len(content) <= MAX_KEPT_BYTES:
                    self._kept[path] = start, content
                    self._kept_bytes += len(content)
            return start, content


def _present() -> Receive:
    """Return the messages of a client that waits to the end.

    The first one may go away, on which an app stops early: half a file would be kept for everybody.
    """
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


def _add_headers(path: str, message: Message) -> None:
    """Say how long a file may be kept, and that it depends on Accept-Encoding."""
    if message["type"] != "http.response.start" or message["status"] not in (200, 206, 304):
        return
    message["headers"] = [*message["headers"]]
    headers = MutableHeaders(raw=message["headers"])
    headers.add_vary_header("Accept-Encoding")
    if "etag" in headers and not headers["etag"].startswith("W/"):
        headers["ETag"] = f"W/{headers['etag']}"  # the same for the packed file, of which the bytes are others
    if HASHED.fullmatch(path):
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
