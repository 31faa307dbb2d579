"""Page, dashboard and API on one port: Gradio at /, Streamlit at /dashboard/, FastAPI at /api.

Run it: python serve.py, or app.py in a Gradio Space. `ui/start.py` lists the environment variables; TRIPTYCH_API_KEY
is the key that the API requires, if it is set.

The dashboard runs in this process and reads seven variables, which are set here: TRIPTYCH_MODEL, the folder of the
served model; TRIPTYCH_PAIRS, whether it takes pairs; TRIPTYCH_RUNTIMES, its optional runtimes; TRIPTYCH_CONTENT, its
content key; TRIPTYCH_PAGE_URL and TRIPTYCH_DOCS_URL, the addresses of the page and of the API's documentation; and
TRIPTYCH_CACHE, the folder of built models.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference import cpu

if __name__ == "__main__":
    cpu.restart_with_huge_pages()  # before the imports that take seconds

import streamlit as st
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboard.gate import DashboardGate
from dashboard.origin import MIDDLEWARE
from dashboard.receipts import check_in_background
from inference.api import create_app, server
from inference.api.access import read_key
from inference.api.websocket import MESSAGE_BYTES, WebSocketProtocol
from inference.artifacts.cache import default_cache
from inference.formats.identity import content_key
from inference.loading import Models
from ui import zero_gpu
from ui.files import TemporaryFiles
from ui.page import build
from ui.render import docs
from ui.site import mount_page
from ui.start import ServerSettings, run
from ui.what_if import Api
from ui.zero_gpu import LentGpu

LINKS = {"Try": "./", "Compare": "dashboard/", "Docs": "docs"}
DASHBOARD = Path(__file__).parent / "dashboard" / "main.py"


def site(
    models: Models, api: FastAPI, files: TemporaryFiles, settings: ServerSettings, lent: LentGpu | None = None
) -> tuple[FastAPI, Any]:
    """Build page, dashboard and API as one ASGI application; Streamlit allows one per process.

    Args:
        lent: answers the page on ZeroGPU.

    Returns:
        The application, and Gradio's application within it.
    """
    dashboard = st.App(DASHBOARD, middleware=MIDDLEWARE)
    # Without documentation pages: they would describe one redirect.
    application = FastAPI(lifespan=dashboard.lifespan(), openapi_url=None)

    async def to_folder(request: Request) -> RedirectResponse:
        # Relative, like the page's link: both work behind a proxy that adds a path.
        folder = request.url.path.rpartition("/")[2]
        return RedirectResponse(f"{folder}/" + (f"?{request.url.query}" if request.url.query else ""))

    async def documentation(request: Request) -> HTMLResponse:
        return HTMLResponse(docs(api.openapi(), str(request.base_url), LINKS))

    for path, endpoint in {"/api": to_folder, "/dashboard": to_folder, "/docs": documentation}.items():
        application.add_route(path, endpoint)  # GET and HEAD
    pages = [path.stem for path in (DASHBOARD.parent / "views").glob("[!_]*.py")]
    application.mount("/dashboard", DashboardGate(dashboard, pages, settings.access.has_foreign_frames))
    application.mount("/api", api)
    requests_to = Api("api/predict", has_key=api.state.has_key, is_gradio=False)
    page = build(models, settings.backend, LINKS["Compare"], lent, settings.receipts, requests_to)
    return application, mount_page(application, page, files, LINKS)


def serve(settings: ServerSettings, models: Models, files: TemporaryFiles, ready: Callable[[], None]) -> None:
    """Serve all three until a signal comes; running requests are then answered, and no new ones."""
    os.environ["TRIPTYCH_MODEL"] = str(models.bundle.folder)
    os.environ["TRIPTYCH_PAIRS"] = str(int(models.bundle.pairs))
    os.environ["TRIPTYCH_RUNTIMES"] = ",".join(settings.runtimes)
    os.environ["TRIPTYCH_CONTENT"] = content_key(models.bundle)
    os.environ["TRIPTYCH_PAGE_URL"] = "../"
    os.environ["TRIPTYCH_DOCS_URL"] = "../docs"
    os.environ["TRIPTYCH_CACHE"] = str(settings.cache or default_cache())
    api = create_app(
        models,
        backend=settings.backend,
        api_key=read_key(None, os.environ),
        prefix="",
        cors_origins=settings.access.cors_origins,
    )
    lent = zero_gpu.start(models, settings.port) if settings.zero_gpu else None
    application, page = site(models, api, files, settings, lent)

    def announce() -> None:
        ready()
        check_in_background()
        print(f"The dashboard is at {settings.url}/dashboard/", flush=True)
        print(f"The API is at {settings.url}/api", flush=True)

    def stopping() -> None:
        api.state.service.stop()
        page.stop_event.set()  # every open page has a heartbeat, an endless response

    try:
        server.serve(
            application,
            settings.bind(),
            announce,
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
