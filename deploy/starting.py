"""Check a staged Space and start it from its folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from deploy.card import card_problems, front_matter
from deploy.chromium import start_in_chromium, stop
from deploy.staging import ENTRY, lfs_problems
from inference.errors import InputError

PAGES = ("/", "/dashboard/", "/api/live")
QUESTION = "Is this a text?"
START_S = 600  # on a new machine ONNX and INT8 are built first


def check_staged(folder: str | Path) -> bool:
    """Check the front matter and the file sizes of a staged Space, and that it starts from its folder.

    Returns:
        Whether it was started: a static one needs Chromium.

    Raises:
        InputError: naming every problem.
    """
    folder = Path(folder)
    if problems := [*card_problems(folder), *lfs_problems(folder)]:
        raise InputError(f"{folder} cannot be a Space: {' '.join(problems)}")
    if front_matter(folder)["sdk"] == "static":
        return start_in_chromium(folder, START_S)
    _start(folder)
    return True


def _start(folder: Path) -> None:
    """Start the Space from its folder, without our environment variables, and wait until its pages answer."""
    kind = str(front_matter(folder)["sdk"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = ("PYTHONPATH", "TRIPTYCH_", "SPACE")  # a Space sets none of them but its own
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"SYSTEM": "spaces", "SPACE_ID": "owner/name"}  # as on the Hub
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, ENTRY[kind]], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + START_S
            while not all(_answers(f"http://127.0.0.1:{port}{page}") for page in PAGES):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    last = log.read().strip().splitlines()[-1:]
                    raise InputError(f"{ENTRY[kind]} does not start in {folder}: {''.join(last) or 'no output'}")
                time.sleep(0.2)
            _ask(f"http://127.0.0.1:{port}/api/predict", folder)
        finally:
            stop(process, 30)
    # Streamlit's server answers before it runs the dashboard, whose errors show only here.
    code = (
        "from streamlit.testing.v1 import AppTest; errors = AppTest.from_file('dashboard/main.py', "
        "default_timeout=120).run().exception; raise SystemExit(errors[0].message if errors else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"The dashboard fails in {folder}: {''.join(lines[-1:])}")


def _ask(url: str, folder: Path) -> None:
    """Ask the Space one question, which may have to wait for ONNX and INT8 to be built.

    Raises:
        InputError: it gives no answer.
    """
    body = json.dumps({"text": QUESTION}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=START_S) as response:
            predictions = json.load(response)["predictions"]
        answered = all(0 <= answer["confidence"] <= 1 for answer in predictions.values()) and bool(predictions)
        reason = "" if answered else f"its answer is {str(predictions)[:200]}"
    except urllib.error.HTTPError as error:
        reason = error.read(500).decode(errors="replace")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise InputError(f"The Space in {folder} starts and answers no question: {reason}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:  # of which `URLError` is one
        return False
