"""The gate before Streamlit under `serve.py`: the routes that the dashboard uses, and a limit on uploads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import runtime

from inference.api.middleware import SEGMENT, refuse_websocket

MAX_FILES = 8  # of one session
MAX_BYTES = 256_000_000  # of all sessions
NO_ROOM = "The server has no room for more files now. Try again later."


class DashboardGate:
    """An ASGI layer that passes on only the requests that the dashboard makes.

    Args:
        pages: the names of its pages in addresses, except the first, which has none.
    """

    def __init__(self, app: ASGIApp, pages: Iterable[str]) -> None:
        self.app = app
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
            if scope["path"].removeprefix(scope.get("root_path", "")) == "/_stcore/stream":
                await self.app(scope, receive, send)
            else:
                await refuse_websocket(receive, send)
        elif not self._lets_through(scope):
            await JSONResponse({"detail": "There is nothing at this address."}, 404)(scope, receive, send)
        elif scope["method"] == "PUT" and not has_room(scope["path"].split("/")[-2]):
            await JSONResponse({"detail": NO_ROOM}, 503, {"Retry-After": "60"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _lets_through(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
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
