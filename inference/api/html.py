"""Complete the HTML that a library serves: what is in it is part of the first paint, and moves nothing later."""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from inference.api.middleware import path_of, whole_answer

# About the library's own file, whole and as it is.
LEFT_OUT = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")


class CompletedPages:
    """An ASGI layer that passes the HTML at some addresses through a function.

    Args:
        pages: matches the paths.
        complete: from the library's page to what is served.
    """

    def __init__(self, app: ASGIApp, pages: re.Pattern[str], complete: Callable[[str], str]) -> None:
        self.app = app
        self._pages = pages
        self._complete = complete

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not self._pages.fullmatch(path_of(scope)):
            await self.app(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in LEFT_OUT]
        start, content = await whole_answer(self.app, {**scope, "headers": headers}, receive)
        answered = MutableHeaders(raw=list(start["headers"]))
        if answered.get("content-type", "").startswith("text/html"):
            content = self._complete(content.decode()).encode()
            answered["Content-Length"] = str(len(content))
            del answered["etag"], answered["last-modified"]
        await send({**start, "headers": answered.raw})
        await send({"type": "http.response.body", "body": content})
