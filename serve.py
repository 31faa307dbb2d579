"""Page and dashboard on one port: Gradio at /, Streamlit at /dashboard/, under one server that ends gracefully.

Run it: python serve.py. What the environment sets: `ui/start.py`.

The dashboard runs in this process and finds two variables: TRIPTYCH_MODEL, the folder of the model that the page
serves, and TRIPTYCH_PAGE_URL, the way back to the page from any of the dashboard's own. On its own it has no page.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
import streamlit as st
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.routing import Mount

from app import build
from inference import InferenceError
from inference.models import Models
from ui.launch import LAUNCH
from ui.start import Settings, run

DASHBOARD = Path(__file__).parent / "dashboard" / "main.py"
PATIENCE_S = 10  # what is being answered when the server is told to stop may take this long


def site(models: Models, backend: str = "int8") -> FastAPI:
    """The page and the dashboard as one ASGI application. Streamlit allows one in a process."""
    dashboard = st.App(DASHBOARD)
    # Without its own documentation pages: they would describe one redirect.
    made = FastAPI(lifespan=dashboard.lifespan(), openapi_url=None)

    @made.get("/dashboard")
    async def to_dashboard(request: Request) -> RedirectResponse:
        # Relative, as is the page's link: both hold behind a proxy that serves all this under a path.
        return RedirectResponse("dashboard/" + (f"?{request.url.query}" if request.url.query else ""))

    made.mount("/dashboard", dashboard)
    # Last: it answers every path that nothing above has taken.
    gr.mount_gradio_app(made, build(models, backend, dashboard="dashboard/"), path="/", **LAUNCH)
    return made


class Server(uvicorn.Server):
    """Uvicorn that says when it answers and, told to stop, waits for answers and not for open pages."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], page: Any) -> None:
        super().__init__(config)
        self._ready = ready
        self._page = page

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._page.stop_event.set()  # every open page holds a heartbeat, a response without end
        await super().shutdown(sockets)


def serve(settings: Settings, models: Models, ready: Callable[[], None]) -> None:
    """Page and dashboard until a signal comes; then no new requests, and those that run are answered."""
    os.environ["TRIPTYCH_MODEL"] = str(models.bundle.folder)
    os.environ["TRIPTYCH_PAGE_URL"] = "../"

    def say() -> None:
        ready()
        print(f"The dashboard is at {settings.url}/dashboard/", flush=True)

    made = site(models, settings.backend)
    config = uvicorn.Config(
        made,
        log_level="warning",
        ws="websockets-sansio",  # what Streamlit itself asks for
        timeout_graceful_shutdown=PATIENCE_S,
        limit_concurrency=512,  # more connections than that get 503 at once, and not an answer minutes later
    )
    page = cast(Mount, made.routes[-1]).app
    server = Server(config, say, page)
    with settings.bind() as port:
        server.run(sockets=[port])
    if not server.started:
        raise InferenceError("The server did not start; the lines above say why.")


if __name__ == "__main__":
    sys.exit(run(serve))
