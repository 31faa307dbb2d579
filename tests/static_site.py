"""The static page for the browser tests: staged with an engine that keeps the contract of the real one, and served."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chromium import PATIENCE_MS, sync_api
from conftest import ROOT

from inference.backends import RUNTIMES
from inference.tables.table import LABEL_NAMES, TEXT_NAMES
from ui.look import SCRIPTS, look, read, tokens

PAGE = {
    "runtimes": {name: {"title": runtime.title, "glyph": runtime.glyph} for name, runtime in RUNTIMES.items()},
    "text_names": TEXT_NAMES,
    "label_names": LABEL_NAMES,
    "recorded": None,
}
PAGES = {
    "tokens.css": (tokens() + look()).encode(),
    "page.json": json.dumps(PAGE).encode(),
    **{name: read(name).encode() for name in SCRIPTS},
}
TASKS: dict[str, Any] = {
    "sentiment": {"labels": ["negative", "positive"], "threshold": 0.6},
    "emotion": {"labels": ["anger", "sadness", "joy"], "threshold": 0.4},
}
EXAMPLES = [{"name": "Good", "text": "good glad day"}, {"name": "Bad", "text": "a bad day"}]
SCRIPT, IMAGE = "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>"
SHOWCASE = [{"text": f"good text {number}"} for number in range(30)] + [{"text": "bad wobbly"}]


def site_json(tasks: Mapping[str, Any] = TASKS, **changes: Any) -> dict[str, Any]:
    """What staging writes about a model."""
    common = {"problem_type": "single_label_classification", "one_output": False, "out_of_scope": None}
    return {
        "format": 1,
        "version": "0.0",
        "content": "c" * 64,
        "model": {"name": "fake", "base": None, "licence": None},
        "tasks": {name: common | task for name, task in tasks.items()},
        "max_tokens": 128,
        "pairs": False,
        "limits": {"max_chars": 20000},
        "runtimes": {
            "int8": {"title": "INT8", "bytes": 25_400_000, "model_bytes": 24_300_000, "unpacked": 38_600_000},
            "onnx": {"title": "ONNX", "bytes": 92_000_000, "model_bytes": 91_000_000, "unpacked": 105_000_000},
        },
        "default_runtime": "int8",
        "files": {"onnx": {"bytes": 83_000_000}},
        "examples": EXAMPLES,
        "showcase": SHOWCASE,
    } | changes


def stage(folder: Path, site: Mapping[str, Any], pages: Mapping[str, bytes]) -> None:
    """Write the page and the fake engine into the folder.

    Args:
        pages: what `page_files` gives.
    """
    (folder / "model").mkdir(parents=True)
    for pattern in ("*.html", "*.css", "*.js", "*.svg"):
        for path in (ROOT / "static").glob(pattern):
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(ROOT / "tests" / "fake_engine.js", folder / "engine.js")
    for name, content in pages.items():
        (folder / name).write_bytes(content)
    (folder / "site.json").write_text(json.dumps(site), encoding="utf-8")
    (folder / "parity.json").write_text("null", encoding="utf-8")
    for name in ("int8", "onnx"):
        (folder / "model" / f"{name}.bin").write_bytes(b"model")


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, http.server.ThreadingHTTPServer]]:
    """The address of a folder, and its server, for as long as the block lasts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Visiting:
    """A page of its own browser context, closed at the end of the block, which must leave no complaint."""

    def __init__(self, browser: sync_api.Browser, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
        self.errors: list[str] = []
        self.outside: list[str] = []

    def __enter__(self) -> sync_api.Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        return page

    def _note(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("data", "blob") and address.hostname not in ("127.0.0.1", "localhost"):
            self.outside.append(url)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.errors == []
            assert self.outside == []


def ask(page: sync_api.Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def card(page: sync_api.Page, task: str) -> sync_api.Locator:
    return page.locator(f"#answer .card[data-task={task}]")


def downloaded(page: sync_api.Page, name: str, content: str | bytes) -> bytes:
    choose(page, name, content)
    page.get_by_role("button", name="Score the file").click()
    with page.expect_download() as download:
        page.locator("#score-download").click()
    return Path(download.value.path()).read_bytes()


def choose(page: sync_api.Page, name: str, content: str | bytes) -> None:
    page.get_by_role("link", name="Score a file").click()
    data = content if isinstance(content, bytes) else content.encode()
    page.set_input_files("#file", {"name": name, "mimeType": "text/csv", "buffer": data})
