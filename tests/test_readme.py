"""The README does what it says: its commands run, its table is the recorded one, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEMO, ROOT

from inference.measure import summary

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make ")])
def test_a_command_of_the_readme_runs(command: str, demo: Path, demo_cache: Path) -> None:
    quick = command.replace(".venv/bin/python", shlex.quote(sys.executable)).replace("--rounds 5", "--rounds 1")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", quick], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme_runs(code: str, demo: Path, demo_cache: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("positive")


def test_the_training_command_is_the_one_that_made_the_demo_model() -> None:
    (command,) = blocks("text")
    from training.__main__ import _per_task, parser

    args = parser().parse_args(shlex.split(command.replace("\\\n", " "))[3:])
    described = json.loads((DEMO / "bundle.json").read_text())
    assert _per_task(args.epochs, sorted(described["tasks"])) == described["training"]["epochs"]
    assert args.background == described["background"]
    for name in ("seed", "rank", "batch_size", "learning_rate", "precision"):
        assert getattr(args, name) == described["training"][name]


def test_the_table_is_the_recorded_one() -> None:
    figures = json.loads((DEMO / "figures.json").read_text(encoding="utf-8"))
    assert summary(figures) in README
    assert summary(figures) in (DEMO / "README.md").read_text(encoding="utf-8")


def test_the_figures_belong_to_the_model_that_is_here() -> None:
    figures = json.loads((DEMO / "figures.json").read_text(encoding="utf-8"))
    assert figures["files"]["bundle"] == json.loads((DEMO / "bundle.json").read_text())["files"]


def test_every_local_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_knows_every_target_the_readme_names() -> None:
    for command in (c for c in COMMANDS if c.startswith("make ")):
        done = subprocess.run(
            ["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not (ROOT / ".venv/app").exists(), reason="no .venv made by make: `make demo` would install for minutes"
)
def test_make_demo_answers_and_ends_when_told(demo: Path, demo_cache: Path, tmp_path: Path) -> None:
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [shutil.which("make") or "make", "demo", f"PORT={port}", "BACKEND=int8"], cwd=ROOT, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + 120
        while f"http://127.0.0.1:{port}" not in log.read_text() or "serves" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        answer = client.predict("what a lovely film", "int8", None, api_name="/predict")
        assert answer["predictions"]["sentiment"]["label"] == "positive"
    finally:
        process.terminate()
        process.wait(30)
