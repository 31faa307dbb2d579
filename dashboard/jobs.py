"""Measuring and explaining for visitors: one job at a time in the whole server, because two would disturb each other.

PyTorch and the measured backends run in processes of their own and are never imported here.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dashboard import served
from inference.compare.receipt import Receipt
from inference.compare.rows import LabelledRows
from inference.compare.run import measure
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Bundle
from inference.formats.identity import content_key
from inference.jobs import BackgroundJob, Progress

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60  # a visitor whose connection is gone for longer does not come back for the result
EXPLAIN_S = 180  # a model may have to be built first
POLL_S = 1.0
BUSY = (
    "Another measurement or explanation is running on this server, and two would disturb each other. Try again when it "
    "is done."
)
_lock = threading.Lock()
# Weak: a job lives as long as its thread, and then as long as the session that shows it. It may hold a visitor's texts.
_latest: weakref.ref[BackgroundJob[Any]] | None = None


def running() -> BackgroundJob[Any] | None:
    """Return the job that is running on this server now, from any visitor."""
    latest = _latest
    job = latest() if latest is not None else None
    return job if job is not None and not job.done else None


def start_measurement(
    name: str, data: LabelledRows | None, quick: bool, is_wanted: Callable[[], bool] = lambda: True
) -> BackgroundJob[Receipt]:
    """Start a comparison of the backends and return at once.

    Args:
        name: of the rows.
        data: None for the showcase.
        is_wanted: whether anybody still waits for it.

    Raises:
        InputError: another job is running.
    """

    def work(progress: Progress) -> Receipt:
        progress("looking for the ONNX and INT8 files", 0.0)
        model = served.unchanged()
        build(model, progress)
        return measure(model, data, quick=quick, cache=served.cache(), base=served.base(), progress=progress)

    return _start(name, work, is_wanted, PATIENCE_S)


def build(model: Bundle, progress: Progress) -> None:
    """Build the ONNX and INT8 files if they are missing."""
    _command(
        ["build", *served.options(), "--content", content_key(model), "--cache", str(served.cache())],
        lambda step: progress(f"building: {step}" if step else "looking for the ONNX and INT8 files", 0.0),
    )


def explain(
    text: str, task: str, label: str, first: str, second: str, is_wanted: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """Explain a text on two backends of the served model, as `explain --compare` does; return `Comparison.to_dict`.

    Raises:
        InputError: another job is running.
        InferenceError: the command failed or took too long, or nobody waits for it any more.
    """

    def work(progress: Progress) -> dict[str, Any]:
        content = content_key(served.unchanged())
        # With "=", because a label may begin with a dash. The text goes through a pipe, so no process list shows it.
        arguments = ["explain", "--json", "--compare", f"{first},{second}", f"--task={task}", f"--label={label}"]
        arguments += [*served.options(), f"--cache={served.cache()}", f"--content={content}", "-"]
        printed = _command(arguments, lambda step: progress(step, 0.0), text)
        comparison: dict[str, Any] = json.loads(printed)["comparisons"][0]
        return comparison

    return _start("explanation", work, is_wanted, POLL_S, EXPLAIN_S).outcome()


def _start(
    name: str,
    work: Callable[[Progress], Result],
    is_wanted: Callable[[], bool],
    patience_s: float,
    budget_s: float = math.inf,
) -> BackgroundJob[Result]:
    global _latest
    with _lock:
        if running() is not None:
            raise InputError(BUSY)
        job = BackgroundJob(name, work, is_wanted=is_wanted, patience_s=patience_s, budget_s=budget_s)
        _latest = weakref.ref(job)
    return job


def _command(arguments: Sequence[str], progress: Callable[[str], None], text: str = "") -> bytes:
    """Run `python -m inference …` and return what it prints.

    Args:
        progress: called every second with the command's current step; an exception that it raises ends the process.
        text: standard input.

    Raises:
        InferenceError: the command failed, with its own message.
    """
    pipe, command = subprocess.PIPE, [sys.executable, "-m", "inference", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}  # not that of the terminal
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        given: bytes | None = text.encode(errors="replace")
        try:
            while process.returncode is None:
                try:
                    printed, errors = process.communicate(given, timeout=POLL_S)
                except subprocess.TimeoutExpired as waiting:
                    given = None  # it has been sent
                    progress(_last_line(waiting.stderr or b"", "[").partition("] ")[2].strip())
        finally:
            process.kill()  # does nothing to a process that has ended
    if process.returncode:
        message = _last_line(errors, "error: ").removeprefix("error: ")
        raise InferenceError(message or f"The command {arguments[0]!r} ended with code {process.returncode}.")
    return printed


def _last_line(output: bytes, start: str) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith(start)), "")
