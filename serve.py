"""Page, dashboard and API on one port: Gradio at /, Streamlit at /dashboard/, FastAPI at /api.

Run it: python serve.py. What the environment sets: `ui/start.py`, and TRIPTYCH_API_KEY, the key that the API wants.

The dashboard runs in this process and finds three variables: TRIPTYCH_MODEL, the folder of the model that the page
serves; TRIPTYCH_CONTENT, its content key; and TRIPTYCH_PAGE_URL, the way back to the page from any of the dashboard's
own. On its own it has no page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from app import build
from dashboard.gate import DashboardGate
from dashboard.origin import MIDDLEWARE
from inference.api import create_app, server
from inference.api.access import read_key
from inference.api.websocket import MESSAGE_BYTES, WebSocketProtocol
from inference.formats.identity import content_key
from inference.loading import Models
from ui.files import TemporaryFiles
from ui.site import mount_page
from ui.start import ServerSettings, run

DASHBOARD = Path(__file__).parent / "dashboard" / "main.py"


def site(models: Models, api: FastAPI, files: TemporaryFiles, backend: str = "int8") -> tuple[FastAPI, Any]:
    """Build page, dashboard and API as one ASGI application. Streamlit allows one in a process.

    Returns:
        The application, and Gradio's own within it.
    """
    dashboard = st.App(DASHBOARD, middleware=MIDDLEWARE)
    # Without its own documentation pages: they would describe one redirect.
    made = FastAPI(lifespan=dashboard.lifespan(), openapi_url=None)

    @made.get("/api")
    @made.get("/dashboard")
    async def to_folder(request: Request) -> RedirectResponse:
        # Relative, as is the page's link: both hold behind a proxy that serves all this under a path.
        folder = request.url.path.rpartition("/")[2]
        return RedirectResponse(f"{folder}/" + (f"?{request.url.query}" if request.url.query else ""))

    pages = [path.stem for path in (DASHBOARD.parent / "views").glob("[!_]*.py")]
    made.mount("/dashboard", DashboardGate(dashboard, pages))
    made.mount("/api", api)
    return made, mount_page(made, build(models, backend, dashboard="dashboard/"), files)


def serve(settings: ServerSettings, models: Models, files: TemporaryFiles, ready: Callable[[], None]) -> None:
    """All three until a signal comes; then no new requests, and those that run are answered."""
    os.environ["TRIPTYCH_MODEL"] = str(models.bundle.folder)
    os.environ["TRIPTYCH_CONTENT"] = content_key(models.bundle)
    os.environ["TRIPTYCH_PAGE_URL"] = "../"
    api = create_app(models, backend=settings.backend, api_key=read_key(None, os.environ), prefix="")
    made, page = site(models, api, files, settings.backend)

    def say() -> None:
        ready()
        print(f"The dashboard is at {settings.url}/dashboard/", flush=True)
        print(f"The API is at {settings.url}/api", flush=True)

    def stopping() -> None:
        api.state.service.stop()
        page.stop_event.set()  # every open page holds a heartbeat, a response without end

    try:
        server.serve(
            made,
            settings.bind(),
            say,
            stopping,
            settings.access,
            websockets=WebSocketProtocol,
            abandon=files.remove,
            ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,  # as Streamlit itself asks for
        )
    finally:
        api.state.service.close()


if __name__ == "__main__":
    sys.exit(run(serve, sys.argv[1:]))
