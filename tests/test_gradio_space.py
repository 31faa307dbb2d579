"""A staged Gradio Space, started as the Hub starts it, for a browser and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from ports import free_port

from deploy.staging import stage

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="the Hub runs Linux")]
TEXT = "finally going to see my sister"
PATIENCE_S = 600


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, demo: Path, demo_cache: Path) -> Iterator[str]:
    """The address of the Space. Some variables would make Gradio start Node, send statistics or open a tunnel."""
    folder, port = tmp_path_factory.mktemp("space"), free_port()
    stage(folder, "gradio")
    ours = ("TRIPTYCH_", "PYTHONPATH", "PORT", "GRADIO_", "SPACE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"SYSTEM": "spaces", "SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}
    environment |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port), "GRADIO_SSR_MODE": "true"}
    environment |= {"GRADIO_SHARE": "true", "GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_THEME": "huggingface"}
    with (folder.parent / "log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + PATIENCE_S
            while "The API is at" not in (text := (folder.parent / "log").read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def test_page_answers_and_leads_to_the_dashboard_in_a_browser(visit: Any) -> None:
    visit.ask(TEXT)
    visit.page.locator("#timing").get_by_text("INT8 in detail").wait_for()
    visit.leave("Compare", "**/dashboard/")
    visit.page.locator(".answer").wait_for()
    assert visit.outside == []


def test_endpoints_answer_gradio_client(address: str) -> None:
    client = Client(address, verbose=False, analytics_enabled=False)
    assert set(client.predict(TEXT, api_name="/compare")) == {"pytorch", "onnx", "int8"}
    answer = client.predict(TEXT, "pytorch", api_name="/predict")
    assert set(answer) == {"predictions", "timing"}  # no note: there is no ZeroGPU
    assert client.predict(TEXT, "emotion", api_name="/explain")["words"]
    client.close()


def test_api_answers(address: str) -> None:
    body = json.dumps({"text": TEXT}).encode()
    request = urllib.request.Request(f"{address}/api/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        assert set(json.load(response)["predictions"]) == {"emotion", "intent", "sentiment"}
