"""The page as an ASGI application that strangers may reach: Gradio behind its gate, with a queue that takes turns."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from inference.api.middleware import BodyLimit
from ui.files import TemporaryFiles
from ui.gate import PageGate
from ui.launch import LAUNCH
from ui.waiting import FairQueue

SITE_BYTES = 8_000_000  # of any request; files may have 5 MB, and the API takes less: `inference.api.ApiLimits`
MAX_SESSIONS = 100  # Gradio keeps some 150 KB of each, and makes one for every question that names none
# Gradio makes functions of the strings of JavaScript in its configuration, and writes that into its page.
CONTENT = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)


def mount_page(site: FastAPI, page: gr.Blocks, files: TemporaryFiles) -> Any:
    """Let an application answer every path that nothing before has taken with the page; returns Gradio's application.

    Args:
        files: made before the page: Gradio's components note where uploads lie when they are made.
    """
    page._queue = queue = FairQueue(page)
    page.state_session_capacity = MAX_SESSIONS
    # Gradio checks which files a request may name only once it was launched, which a page that is mounted never is.
    page.has_launched = True
    site.add_middleware(BodyLimit, max_bytes=SITE_BYTES)
    gr.mount_gradio_app(site, page, path="/", **LAUNCH)
    mount = cast(Mount, site.routes[-1])
    inner = mount.app
    mount.app = PageGate(inner, page, queue, files)
    return inner
