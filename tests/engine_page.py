"""A static page that shows nothing and offers the engine to tests in Chromium."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS, sync_api

from deploy.chromium import StaticServer
from deploy.static import static_files
from inference import InputError
from inference.formats.describe import describe

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "frame-src 'self'"
)
PAGE = f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
SCRIPT = """
import { Engine, expose } from "./engine.js";
import { fetchFile } from "./fetching.js";
import { Tokenizer } from "./tokenizer.js";
import { segmenter } from "./words.js";
const site = await (await fetch("site.json")).json();
const patient = new Engine({ ...site, limits: { ...site.limits, explain_s: 1e6 } });
Object.assign(window, { site, Engine, Tokenizer, fetchFile, segmenter, engine: new Engine(site), patient });
expose(window.engine);
"""
CARD = "---\nsdk: static\n---\n"


def write(folder: Path, model: Path, cache: Path | None = None, base: Path | None = None) -> Path:
    """The files of the page, with an index.html that shows nothing and offers the engine."""
    try:
        files = static_files(describe(model, base), base, CARD, cache)
    except InputError as error:
        if not str(error).startswith("Cannot fetch onnxruntime-web"):
            raise
        pytest.skip(str(error))
    files |= {"index.html": f'{PAGE}<script type="module" src="test.js"></script>'.encode(), "test.js": SCRIPT.encode()}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@contextmanager
def opened(
    browser: sync_api.Browser, folder: Path, headers: Mapping[str, str] | None = None, path: str = ""
) -> Iterator[Callable[..., Any]]:
    """A function that runs a call in the page and gives what it returns."""
    with StaticServer(folder, headers or {}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://127.0.0.1:{server.server_port}/{path}index.html")
        while not page.evaluate("Boolean(window.triptych)"):
            page.wait_for_timeout(50)

        def run(call: str, *values: Any) -> Any:
            # As JSON: Playwright's own form loses a label called __proto__.
            code = (
                f"async (values) => {{ const call = {call}; return JSON.stringify((await call(...values)) ?? null) }}"
            )
            return json.loads(page.evaluate(code, [*values]))

        yield run
        page.close()
        server.shutdown()


def failure(run: Callable[..., Any], call: str, *values: Any) -> dict[str, Any]:
    """The error of a call in the page."""
    caught = "(error) => ({ message: error.message, name: error.name, kind: error.kind })"
    return dict(run(f"async (...values) => ({call})(...values).then((result) => ({{ result }}), {caught})", *values))
