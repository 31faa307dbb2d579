"""Start a static Space in Chromium, and compare its answers with Python's."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.card import HEADERS
from inference.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome")
# By which the probability of a label may move from Python to the browser, whose kernels are others: 0.04 for the demo
# model. A larger one is a file or a browser that computes something else.
MAX_DIFFERENCE = 0.15
MAX_ANSWER_BYTES = 200_000_000
PAGE = '<!doctype html><meta charset="utf-8"><script type="module" src="__start__.js"></script>'
# Asks the page itself, in a frame, so that it is held to its own Content-Security-Policy.
SCRIPT = """
const ANSWER = new URLSearchParams(location.search).get("answer");
const send = (body) => fetch(ANSWER, { method: "POST", body: JSON.stringify(body) });
try {
  const site = await (await fetch("site.json")).json();
  const texts = site.showcase.map((row) => row.text);
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.src = "index.html";
  for (let i = 0; !frame.contentWindow.triptych; i++) {
    if (i > 1200) throw new Error("index.html does not offer window.triptych");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const question = site.pairs ? [["One question.", "One answer."]] : ["One question."];
  const predictions = await frame.contentWindow.triptych.predict(texts.length ? texts : question);
  await send({ browser: navigator.userAgent, predictions });
} catch (error) {
  await send({ error: String(error.message ?? error) });
}
"""


def start_in_chromium(folder: Path, seconds: float) -> bool:
    """Ask the staged page for the labels of its showcase, and write how they compare with Python's to parity.json.

    Returns:
        Whether there is a Chromium; without one nothing was started.

    Raises:
        InputError: the page does not answer, or answers something else than Python.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        return False
    answer = _ask(folder, program, seconds)
    if "error" in answer:
        raise InputError(f"The page in {folder} does not answer in Chromium: {str(answer['error'])[:500]}")
    site = json.loads((folder / "site.json").read_text(encoding="utf-8"))
    parity = _compare(site, answer) if site["showcase"] else None
    if parity and not parity["max_difference"] <= MAX_DIFFERENCE:
        raise InputError(
            f"The page in {folder} answers differently from Python: the probability of a label differs by "
            f"{parity['max_difference']:.2f} in {parity['browser']}. Stage it with --kind gradio or --kind docker."
        )
    (folder / "parity.json").write_text(json.dumps(parity), encoding="utf-8")
    return True


def _compare(site: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    version = re.search(r"Chrome/(\d+)", str(answer["browser"]))
    tasks: dict[str, Any] = {}
    largest = 0.0
    for task, predictions in answer["predictions"].items():
        expected = [row["python"][task] for row in site["showcase"]]
        differ = [
            {"index": i, "python": label, "browser": prediction["label"]}
            for i, (prediction, (label, _)) in enumerate(zip(predictions, expected, strict=True))
            if prediction["label"] != label
        ]
        moved = (
            abs(prediction["scores"][label] - confidence)
            for prediction, (label, confidence) in zip(predictions, expected, strict=True)
        )
        largest = max(largest, *moved)
        tasks[task] = {"equal": len(expected) - len(differ), "differ": differ}
    return {
        "browser": f"Chromium {version[1]}" if version else "Chromium",
        "texts": len(site["showcase"]),
        "max_difference": round(largest, 6),
        "tasks": tasks,
    }


class StaticHandler(SimpleHTTPRequestHandler):
    """Answers with files of the folder, and the page that starts it."""

    server: StaticServer

    def do_GET(self) -> None:
        own = {"/__start__.html": ("text/html", PAGE), "/__start__.js": ("text/javascript", SCRIPT)}
        path = self.path.partition("?")[0]
        if path not in own:
            super().do_GET()
            return
        kind, content = own[path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content.encode())

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path == self.server.answer_path and length <= MAX_ANSWER_BYTES:
            self.server.answer = json.loads(self.rfile.read(length))
            self.server.answered.set()
        self.send_response(204)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class StaticServer(ThreadingHTTPServer):
    """Serves a folder on a free port, as the Hub serves a static Space."""

    daemon_threads = True

    def __init__(self, folder: Path, headers: Mapping[str, str] = HEADERS) -> None:
        super().__init__(("127.0.0.1", 0), partial(StaticHandler, directory=str(folder)))
        self.headers = headers
        self.answer: dict[str, Any] = {}
        self.answered = threading.Event()
        self.answer_path = f"/{secrets.token_urlsafe()}"  # unknown to any other page of this machine


def _ask(folder: Path, program: str, seconds: float) -> dict[str, Any]:
    """Return what the page in a folder posts from Chromium."""
    with StaticServer(folder) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            *(program, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *(["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),  # it refuses root otherwise
            *(
                f"--user-data-dir={profile}",
                f"http://127.0.0.1:{server.server_port}/__start__.html?answer={server.answer_path}",
            ),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + seconds
            while not server.answered.wait(0.2):
                if process.poll() is not None or time.monotonic() > end:
                    state = "ended" if process.poll() is not None else f"gave no answer in {seconds:.0f} seconds"
                    return {"error": f"{program} {state}"}
            return server.answer
        finally:
            stop(process, 10)
            server.shutdown()


def stop(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """End a process, by force if it has not ended after so many seconds."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
