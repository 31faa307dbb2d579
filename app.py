"""The Gradio page alone: classify a text on PyTorch, ONNX and INT8.

Run it: python app.py. With the dashboard beside it: python serve.py. `ui/start.py` lists the environment variables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from inference import cpu

if __name__ == "__main__":
    cpu.restart_with_huge_pages()  # before the imports that take seconds

from fastapi import FastAPI

from inference import InputError
from inference.api import server
from inference.loading import Models
from ui import zero_gpu
from ui.files import TemporaryFiles
from ui.page import build
from ui.site import mount_page
from ui.start import ServerSettings, run


def serve(settings: ServerSettings, models: Models, files: TemporaryFiles, ready: Callable[[], None]) -> None:
    """Serve the page alone until a signal comes; running requests are then answered, and no new ones."""
    if settings.access.cors_origins:
        raise InputError("--cors-origin opens the API, which app.py does not serve. Run serve.py, or leave it out.")
    site = FastAPI(openapi_url=None)
    lent = zero_gpu.start(models, settings.port) if settings.zero_gpu else None
    page = mount_page(site, build(models, settings.backend, lent=lent, receipts=settings.receipts), files)
    server.serve(site, settings.bind(), ready, page.stop_event.set, settings.access, abandon=files.remove)


if __name__ == "__main__":
    sys.exit(run(serve, sys.argv[1:]))
