"""Why two backends differ on a text: the command `explain --compare` in a process of its own, one at a time.

It opens PyTorch, which has no place in this process; and what the page shows is what the command line prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashboard import measure_job, served
from inference.artifacts.cache import content_key, default_cache
from inference.errors import InferenceError, InputError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 180  # a model may have to be built first
LOOK_S = 1


def explain(
    text: str, task: str, label: str, first: str, second: str, is_wanted: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """Explain a text on two backends of the model that is served; returns `Comparison.to_dict`.

    Args:
        is_wanted: asked every second: whether anybody still waits for it.

    Raises:
        InputError: another explanation or a measurement is running.
        InferenceError: the command failed, in its words, took too long, or nobody waits for it any more.
    """
    if not measure_job.explaining.acquire(blocking=False):
        raise InputError("Another explanation is running. Try again in a few seconds.")
    try:
        if measure_job.running() is not None:
            raise InputError("A measurement is running here, and this would disturb it. Try again when it is over.")
        return _run(text, task, label, f"{first},{second}", is_wanted)
    finally:
        measure_job.explaining.release()


def _run(text: str, task: str, label: str, backends: str, is_wanted: Callable[[], bool]) -> dict[str, Any]:
    base, content = served.base(), content_key(served.unchanged())
    command = [sys.executable, "-m", "inference", "explain", "--json", "--compare", backends]
    # With "=", for a label may begin with a dash; the text comes through a pipe and is in no list of processes.
    command += [f"--task={task}", f"--label={label}", f"--model={served.model()}", f"--cache={default_cache()}"]
    command += [f"--content={content}", *([f"--base={base}"] if base else [])]
    pipe = subprocess.PIPE
    end = time.monotonic() + PATIENCE_S
    with subprocess.Popen([*command, "-"], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        given: bytes | None = text.encode(errors="replace")
        while True:
            try:
                printed, errors = process.communicate(given, timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                given = None  # it has been sent
                if not is_wanted():
                    process.kill()
                    raise InferenceError("Nobody waits for this explanation any more.") from None
                if time.monotonic() > end:
                    process.kill()
                    raise InferenceError(f"No answer within {PATIENCE_S} s. Try again when less is running.") from None
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise InferenceError(
            next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
            or f"The command ended with code {process.returncode}."
        )
    comparison: dict[str, Any] = json.loads(printed)["comparisons"][0]
    return comparison
