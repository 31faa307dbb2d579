"""Why two backends differ on a text: the command `explain --compare` in a process of its own, one at a time.

It opens PyTorch, which has no place in this process; and what the page shows is what the command line prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dashboard import measuring, served
from inference.artifacts import content_key, default_cache
from inference.errors import InferenceError, InputError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 180  # a model may have to be built first


def explain(text: str, task: str, label: str, first: str, second: str) -> dict[str, Any]:
    """`Comparison.to_dict` of this text on two backends of the model that is served.

    Raises:
        InputError: somebody else is being answered, or something is measured.
        InferenceError: the command failed, in its words, or took too long.
    """
    if not measuring.explaining.acquire(blocking=False):
        raise InputError("Somebody else is being told why. Try again in some seconds.")
    try:
        if measuring.running() is not None:
            raise InputError("A measurement is running here, and this would disturb it. Try again when it is over.")
        return _run(text, task, label, f"{first},{second}")
    finally:
        measuring.explaining.release()


def _run(text: str, task: str, label: str, backends: str) -> dict[str, Any]:
    base, content = served.base(), content_key(served.unchanged())
    command = [sys.executable, "-m", "inference", "explain", "--json", "--compare", backends]
    # With "=", for a label may begin with a dash; the text comes through a pipe and is in no list of processes.
    command += [f"--task={task}", f"--label={label}", f"--model={served.model()}", f"--cache={default_cache()}"]
    command += [f"--content={content}", *([f"--base={base}"] if base else [])]
    try:
        done = subprocess.run(
            [*command, "-"],
            cwd=ROOT,
            input=text.encode(errors="replace"),
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InferenceError(f"There was no answer within {PATIENCE_S} s. Try again when less is going on.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InferenceError(
            next((line.removeprefix("error: ") for line in reversed(said) if line.startswith("error: ")), "")
            or f"The command ended with code {done.returncode}."
        )
    found: dict[str, Any] = json.loads(done.stdout)["comparisons"][0]
    return found
