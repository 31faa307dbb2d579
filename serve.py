"""Page, dashboard and API on one port: Gradio at /, Streamlit at /dashboard/, FastAPI at /api.

Run it: python serve.py. What the environment sets: `ui/start.py`, and TRIPTYCH_API_KEY, the key that the API wants.

The dashboard runs in this process and finds two variables: TRIPTYCH_MODEL, the folder of the model that the page
serves, and TRIPTYCH_PAGE_URL, the way back to the page from any of the dashboard's own. On its own it has no page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
import streamlit as st
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.routing import Mount

from app import build
from dashboard.origin import MIDDLEWARE
from inference.api import create_app, server
from inference.api.commands import read_key
from inference.api.layers import BodyCap
from inference.models import Models
from ui.launch import LAUNCH
from ui.start import Settings, run

DASHBOARD = Path(__file__).parent / "dashboard" / "main.py"
SITE_BYTES = 8_000_000  # of any request; files may have 5 MB, and the API takes less: `inference.api.Limits`


def site(models: Models, api: FastAPI, backend: str = "int8") -> FastAPI:
    """Page, dashboard and API as one ASGI application. Streamlit allows one in a process."""
    dashboard = st.App(DASHBOARD, middleware=MIDDLEWARE)
    # Without its own documentation pages: they would describe one redirect.
    made = FastAPI(lifespan=dashboard.lifespan(), openapi_url=None)

    @made.get("/api")
    @made.get("/dashboard")
    async def to_folder(request: Request) -> RedirectResponse:
        # Relative, as is the page's link: both hold behind a proxy that serves all this under a path.
        folder = request.url.path.rpartition("/")[2]
        return RedirectResponse(f"{folder}/" + (f"?{request.url.query}" if request.url.query else ""))

    made.mount("/dashboard", dashboard)
    made.mount("/api", api)
    made.add_middleware(BodyCap, most=SITE_BYTES)
    # Last: it answers every path that nothing above has taken.
    gr.mount_gradio_app(made, build(models, backend, dashboard="dashboard/"), path="/", **LAUNCH)
    return made


def serve(settings: Settings, models: Models, ready: Callable[[], None]) -> None:
    """All three until a signal comes; then no new requests, and those that run are answered."""
    os.environ["TRIPTYCH_MODEL"] = str(models.bundle.folder)
    os.environ["TRIPTYCH_PAGE_URL"] = "../"
    api = create_app(models, backend=settings.backend, api_key=read_key(None, os.environ), prefix="")
    made = site(models, api, settings.backend)
    page: Any = cast(Mount, made.routes[-1]).app

    def say() -> None:
        ready()
        print(f"The dashboard is at {settings.url}/dashboard/", flush=True)
        print(f"The API is at {settings.url}/api", flush=True)

    def stopping() -> None:
        api.state.service.stop()
        page.stop_event.set()  # every open page holds a heartbeat, a response without end

    try:
        # For websockets what Streamlit itself asks for.
        server.serve(made, settings.bind(), say, stopping, ws="websockets-sansio")
    finally:
        api.state.service.close()


if __name__ == "__main__":
    sys.exit(run(serve))
