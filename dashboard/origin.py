"""Refuse websockets from pages of other sites before Streamlit checks them.

For an unknown Origin, Streamlit asks another machine for its own external address (`net_util.get_external_ip`), at
every handshake and on the event loop, so that all other requests wait.

Under `serve.py`, `inference.api.front.Front` refuses other sites first, and `server.corsAllowedOrigins` has no effect.
"""

from __future__ import annotations

import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.frame import PAGES, framed
from inference.api.front import is_own
from inference.api.html import CompletedPages
from inference.api.packing import PackedFiles


class OwnOrigin:
    """An ASGI layer that passes on websockets of the same origin and of `server.corsAllowedOrigins`.

    It removes their Origin, so that Streamlit has nothing to look up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            if not all(_is_allowed(origin, headers.getlist("host")) for origin in headers.getlist("origin")):
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the server answers 403
                return
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"origin"]}
        await self.app(scope, receive, send)


def _is_allowed(origin: str, hosts: list[str]) -> bool:
    is_own_page = len(hosts) == 1 and is_own(origin.encode(), hosts[0].encode())
    return is_own_page or origin in st.get_option("server.corsAllowedOrigins")


MIDDLEWARE = (
    Middleware(OwnOrigin),
    Middleware(CompletedPages, pages=PAGES, complete=framed),
    Middleware(PackedFiles, folders=("static/css", "static/js", "static/media")),
)
