"""Refuse websockets that a page of another site opens, before Streamlit judges them.

To compare an Origin that it does not know, Streamlit asks another machine for the external address of this one
(`net_util.get_external_ip`), at every handshake and on the event loop, where all other requests wait for it.

Under `serve.py`, `inference.api.front.Front` has refused the Origins of other sites before, and
`server.corsAllowedOrigins` has no effect.
"""

from __future__ import annotations

import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from inference.api.front import is_own


class OwnOrigin:
    """An ASGI layer that lets websockets of the same origin through, and those of `server.corsAllowedOrigins`.

    Streamlit does not see the Origin of what was let through, so there is nothing for it to look up.
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


MIDDLEWARE = (Middleware(OwnOrigin),)
