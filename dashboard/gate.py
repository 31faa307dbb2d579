"""The gate before Streamlit under `serve.py`: the routes that the dashboard uses, a limit on uploads, and its cookie.

Streamlit accepts an upload only with the cookie that it has set. A browser keeps a cookie of a page in a frame of
another site only with SameSite=None, Secure and Partitioned, and over plain HTTP only without Secure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime

from inference.api.middleware import SEGMENT, path_of, refuse_websocket

STREAM = "/_stcore/stream"
NO_WEBSOCKET = "This address takes websockets. A proxy must pass on the headers Upgrade and Connection over HTTP/1.1."
COOKIE = b"_streamlit_xsrf="
MAX_FILES = 8  # of one session
MAX_BYTES = 256_000_000  # of all sessions
NO_ROOM = "The server has no room for more files now. Try again later."


class DashboardGate:
    """An ASGI layer that passes on only the requests that the dashboard makes.

    Args:
        pages: the names of its pages in addresses, except the first, which has none.
        has_foreign_frames: whether pages of other sites may show it in a frame.
    """

    def __init__(self, app: ASGIApp, pages: Iterable[str], has_foreign_frames: bool) -> None:
        self.app = app
        self._has_foreign_frames = has_foreign_frames
        id_ = r"[A-Za-z0-9-]{1,64}"
        self._get = re.compile(
            rf"/(|favicon\.(png|ico)|{'|'.join(map(re.escape, pages))}|_stcore/(health|host-config)|media/{SEGMENT}"
            rf"|static(/{SEGMENT})+)"
        )
        self._upload = re.compile(rf"/_stcore/upload_file/{id_}/{id_}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            if path_of(scope) == STREAM:
                await self.app(scope, receive, send)
            else:
                await refuse_websocket(receive, send)
        elif path_of(scope) == STREAM:
            await JSONResponse({"detail": NO_WEBSOCKET}, 426, {"Upgrade": "websocket"})(scope, receive, send)
        elif not self._lets_through(scope):
            await JSONResponse({"detail": "There is nothing at this address."}, 404)(scope, receive, send)
        elif scope["method"] == "PUT" and not has_room(scope["path"].split("/")[-2]):
            await JSONResponse({"detail": NO_ROOM}, 503, {"Retry-After": "60"})(scope, receive, send)
        else:
            await self.app(scope, receive, self._with_cookie(scope, send))

    def _with_cookie(self, scope: Scope, send: Send) -> Send:
        # A proxy adds TLS. One that is not trusted cannot say so, but the browser's Referer does: here it decides only
        # about the browser's own cookie.
        is_https = scope["scheme"] == "https" or Headers(scope=scope).get("referer", "").startswith("https://")

        async def send_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._cookie(value, is_https) if value.startswith(COOKIE) else value)
                    for name, value in message["headers"]
                ]
            await send(message)

        return send_cookie

    def _cookie(self, cookie: bytes, is_https: bool) -> bytes:
        """Return Streamlit's cookie with the attributes with which the browser keeps it and sends it back."""
        is_for_frames = self._has_foreign_frames or b"; SameSite=None" in cookie
        attributes = b"SameSite=None; Secure; Partitioned" if is_https else b"SameSite=Lax"
        return cookie.partition(b";")[0] + b"; Path=/; " + attributes if is_for_frames else cookie

    def _lets_through(self, scope: Scope) -> bool:
        path = path_of(scope)
        if scope["method"] in ("GET", "HEAD"):
            return self._get.fullmatch(path) is not None
        return scope["method"] in ("PUT", "DELETE") and self._upload.fullmatch(path) is not None


def has_room(session: str) -> bool:
    """Return whether Streamlit, which keeps uploads in memory, may take one more from this session."""
    if not runtime.exists():
        return True
    files_by_session: dict[str, dict[str, Any]] = runtime.get_instance().uploaded_file_mgr.file_storage
    sizes = [len(file.data) for files in list(files_by_session.values()) for file in list(files.values())]
    return len(files_by_session.get(session, ())) < MAX_FILES and sum(sizes) < MAX_BYTES
