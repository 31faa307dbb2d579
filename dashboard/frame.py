"""Put the head and the look of Triptych into the HTML that Streamlit serves.

There they are part of the first paint. From the script of a page they would come seconds later and move all of it.
"""

from __future__ import annotations

import os
import re

from markupsafe import Markup
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.templating import render
from inference.api.middleware import path_of
from ui.look import look, tokens
from ui.render import head

PAGE = re.compile(r"(/(?!_stcore/)[\w-]+)*/?", re.ASCII)  # a file has a dot in its name
ROOT = '<div id="root"></div>'
FONT = re.compile(r'<link\s+rel="preload"[^>]*\bas="font"[^>]*>')  # 170 kB that no page of ours uses
CONDITIONAL = (b"if-none-match", b"if-modified-since", b"range")


class Framed:
    """An ASGI layer that completes the HTML of each page of the dashboard."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not PAGE.fullmatch(path_of(scope)):
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        headers = [pair for pair in scope["headers"] if pair[0] not in CONDITIONAL]
        await self.app({**scope, "headers": headers}, receive, collect)
        start, content = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
        answered = MutableHeaders(raw=list(start["headers"]))
        if answered.get("content-type", "").startswith("text/html"):
            content = framed(content.decode()).encode()
            answered["Content-Length"] = str(len(content))
            del answered["etag"], answered["last-modified"]  # of the file, not of this
        await send({**start, "headers": answered.raw})
        await send({"type": "http.response.body", "body": content})


def framed(page: str) -> str:
    """Return Streamlit's page with title, look and head."""
    frame = render("frame.html", look=Markup(tokens() + look()), head=Markup(head("Compare", _links())))
    page = FONT.sub("", page).replace("<title>Streamlit</title>", "<title>Triptych: compare</title>")
    return page.replace(ROOT, frame + ROOT)


def _links() -> dict[str, str]:
    """Return the places to go; a dashboard that runs alone has no others."""
    page, docs = os.environ.get("TRIPTYCH_PAGE_URL"), os.environ.get("TRIPTYCH_DOCS_URL")
    return ({"Try": page} if page else {}) | {"Compare": "./"} | ({"Docs": docs} if docs else {})
