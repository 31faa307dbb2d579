"""Measuring and explaining for visitors: one job at a time in the whole server, because two would disturb each other.

A measurement waits for its turn; an explanation does not, because its reader would not.

PyTorch and the measured backends run in processes of their own and are never imported here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from dashboard import served
from inference.artifacts.cache import find as find_artifact
from inference.compare.answering import Answers, WarmProcesses
from inference.compare.receipt import Receipt, seal
from inference.compare.rows import LabelledRows
from inference.compare.run import measure, warm_up
from inference.errors import InferenceError, InputError
from inference.explain.agreement import Comparison, agreement
from inference.explain.explanation import Explanation
from inference.formats.bundle import Bundle
from inference.formats.identity import content_key
from inference.jobs import BackgroundJob, Cancelled, Lane, Progress

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60  # a visitor whose connection is gone for longer does not come back for the result
EXPLAIN_S = 180  # a model may have to be built first
POLL_S = 0.5
WARM_S = 300.0  # that processes wait for a measurement
WARM_BYTES = 3_000_000_000  # of free memory, below which none are started before they are needed
WAITING = 4  # measurements that may wait for their turn
READERS = 8  # sessions that a measurement counts as waiting for it
BUSY = (
    "Another measurement or explanation is running on this server, and two would disturb each other. Try again when it "
    "is done."
)
FULL = f"{WAITING} measurements are waiting already. Try again in a few minutes."
_lock = threading.Lock()
_lane = Lane(WAITING + 1, busy=FULL)
# Weak: a job lives as long as its thread, and then as long as the session that shows it. It may hold a visitor's texts.
_jobs: list[weakref.ref[BackgroundJob[Any]]] = []
_measurements: dict[str, Measurement] = {}
"""By key: those that run, and for `PATIENCE_S` those that have ended, so that a reloaded page finds its own."""
_warm: list[WarmProcesses] = []
_warming: list[bool] = []  # one while `_warm` is being filled


class Measurement(BackgroundJob[Receipt]):
    """A comparison of the backends, and what is known of it before it is done.

    Args:
        data: None for the showcase.
        texts: row number -> text, for the visitor who uploaded them.
        time_limit: seconds that timing may take.

    Attributes:
        key: nobody else can guess it, but an address with it may be passed on: it gives no right to `texts`.
        browser: secret of the browser that started it; None if that has none.
        answers: those that come in, once the backends are opened.
        part: the measurement on the rows that every backend has answered, while some are left; None before the first.
        accuracy: the measurement without times, once all rows are answered.
    """

    def __init__(
        self,
        name: str,
        data: LabelledRows | None,
        quick: bool,
        time_limit: float,
        texts: Mapping[int, str] | None,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.key = secrets.token_urlsafe(16)
        self.texts = texts
        self.browser: str | None = None
        # No reference from the job to itself: its texts are freed with it, not when Python looks for cycles.
        readers = self._readers = [is_wanted]
        self.answers: Answers | None = None
        self.part: Receipt | None = None
        self.accuracy: Receipt | None = None
        _measurements[self.key] = self
        super().__init__(
            name,
            lambda progress: self._measure(data, quick, time_limit, progress),
            is_wanted=lambda: any(reader() for reader in readers),
            patience_s=PATIENCE_S,
        )

    def follow(self, is_wanted: Callable[[], bool]) -> None:
        """Let another session wait for this job too; beyond `READERS`, in place of those that are gone."""
        with _lock:
            readers = self._readers
            if len(readers) == READERS:
                readers = [readers[0], *(reader for reader in readers[1:] if reader())]
            self._readers[:] = [*readers, is_wanted][:READERS]

    def is_of(self, browser: str | None) -> bool:
        """Return whether it was started in the browser with this secret."""
        return self.browser is not None and browser is not None and secrets.compare_digest(self.browser, browser)

    def without_times(self) -> Receipt | None:
        """Return the accuracy of a job that was cancelled or failed after it was known."""
        if self.accuracy is None:
            return None
        return seal(self.accuracy | {"latency": self.accuracy["latency"] | {"unmeasured": "interrupted"}})

    def _measure(self, data: LabelledRows | None, quick: bool, time_limit: float, progress: Progress) -> Receipt:
        def waiting(ahead: int) -> None:
            progress(f"waiting for your turn: {ahead} ahead of you", 0.0)

        try:
            with _lane.turn(waiting=waiting):
                progress("looking for the ONNX and INT8 files", 0.0)
                warm = _warm.pop() if _warm else None
                # The files of warm processes were checked when those started.
                model = served.unchanged() if warm is None else served.bundle()
                try:
                    if warm is None:
                        build(model, progress)
                    return measure(
                        model,
                        data,
                        quick=quick,
                        cache=served.cache(),
                        base=served.base(),
                        progress=progress,
                        time_limit=time_limit,
                        on_start=lambda answers: setattr(self, "answers", answers),
                        on_part=lambda receipt: setattr(self, "part", receipt),
                        on_accuracy=lambda receipt: setattr(self, "accuracy", receipt),
                        warm=warm,
                    )
                finally:
                    if warm is not None:
                        warm.close()
        finally:
            self.answers = None  # they lead back to this job
            key = self.key
            _later(PATIENCE_S, lambda: forget(key))


def running() -> BackgroundJob[Any] | None:
    """Return the first job on this server that is not done, from any visitor."""
    return next((job for job in _unfinished()), None)


def _unfinished() -> list[BackgroundJob[Any]]:
    _jobs[:] = [one for one in _jobs if (job := one()) is not None and not job.done]
    return [job for one in _jobs if (job := one()) is not None]


def ahead() -> int:
    """Return how many jobs are running or waiting."""
    return len(_unfinished())


def find(key: str) -> Measurement | None:
    """Return a measurement by its key, unless its result was collected or nobody asked for it in `PATIENCE_S`."""
    return _measurements.get(key)


def forget(key: str) -> None:
    """Let go of a measurement: its session holds the result now."""
    _measurements.pop(key, None)


def _later(seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


def start_measurement(
    name: str,
    data: LabelledRows | None,
    quick: bool,
    is_wanted: Callable[[], bool] = lambda: True,
    time_limit: float = 60.0,
    texts: Mapping[int, str] | None = None,
) -> Measurement:
    """Start a comparison of the backends, or let it wait for its turn, and return at once; see `Measurement`.

    Raises:
        InputError: too many wait already.
    """
    with _lock:
        if ahead() > WAITING:
            raise InputError(FULL)
        job = Measurement(name, data, quick, time_limit, texts, is_wanted)
        _jobs.append(weakref.ref(job))
    return job


def prepare() -> None:
    """Start to load the served model's backends, so that the next measurement begins at once; return immediately."""
    import psutil

    with _lock:
        if _warming or _warm or running() is not None or psutil.virtual_memory().available < WARM_BYTES:
            return
        _warming.append(True)
    threading.Thread(target=_prepare, daemon=True).start()


def _prepare() -> None:
    try:
        with contextlib.suppress(InferenceError):  # the form says what is wrong with the model
            model = served.unchanged()
            if running() is not None:  # it was started in the seconds that this took, and would be disturbed
                return
            processes = warm_up(model, served.cache(), served.base())
            if processes is None:
                return
            with _lock:
                if running() is None:
                    _warm.append(processes)
                    _later(WARM_S, lambda: _cool(processes))
                    return
            processes.close()
    finally:
        _warming.clear()


def _cool(processes: WarmProcesses) -> None:
    if processes in _warm:
        _warm.remove(processes)
    processes.close()


def build(model: Bundle, progress: Progress) -> None:
    """Build the ONNX and INT8 files if they are missing or damaged."""
    with contextlib.suppress(InferenceError):
        if (artifact := find_artifact(model, served.cache())) is not None:
            artifact.verify()
            return
    _command(
        ["build", *served.options(), "--content", content_key(model), "--cache", str(served.cache())],
        lambda step: progress(f"building: {step}" if step else "looking for the ONNX and INT8 files", 0.0),
    )


def explain(
    text: str,
    task: str,
    label: str,
    first: str,
    second: str,
    is_wanted: Callable[[], bool] = lambda: True,
    on_known: Callable[[dict[str, Any]], None] = lambda known: None,
) -> dict[str, Any]:
    """Explain a text on two backends of the served model, as `explain --compare` does; return `Comparison.to_dict`.

    Each runs in a process of its own, at the same time: loading PyTorch takes ten times as long as all of INT8.

    Args:
        on_known: called with the explanations by backend, as soon as there is one.

    Raises:
        InputError: another job is running.
        InferenceError: a command failed or took too long, or nobody waits for it any more.
    """
    known: dict[str, Any] = {}
    has_failed = threading.Event()

    def work(progress: Progress) -> dict[str, Any]:
        content = content_key(served.unchanged())

        def watch(step: str) -> None:
            progress(step, 0.0)
            if has_failed.is_set():
                raise Cancelled

        def one(name: str) -> None:
            # With "=", because a label may begin with a dash. The text goes through a pipe: no process list shows it.
            arguments = ["explain", "--json", f"--backend={name}", f"--task={task}", f"--label={label}"]
            arguments += [*served.options(), f"--cache={served.cache()}", f"--content={content}", "-"]
            known[name] = json.loads(_command(arguments, watch, text))["explanations"][0]

        with ThreadPoolExecutor(2) as pool:
            for done in as_completed([pool.submit(one, name) for name in (first, second)]):
                if done.exception() is not None:
                    has_failed.set()
                done.result()
        explanations = {name: Explanation.from_dict(known[name]) for name in (first, second)}
        return Comparison(explanations, {second: agreement(*explanations.values())}).to_dict()

    job = _start("explanation", work, is_wanted, POLL_S, EXPLAIN_S)
    shown = 0
    try:
        while not job.wait(POLL_S / 2):
            if not is_wanted():  # the job itself takes a call of `wait` for a sign that it is
                job.cancel()
            if shown < len(known):
                shown = len(known)
                on_known(dict(known))
    except BaseException:  # Streamlit ends a script so where it draws, once the visitor has clicked something else
        job.cancel()
        raise
    return job.outcome()


def _start(
    name: str,
    work: Callable[[Progress], Result],
    is_wanted: Callable[[], bool],
    patience_s: float,
    budget_s: float = math.inf,
) -> BackgroundJob[Result]:
    def in_turn(progress: Progress) -> Result:
        with _lane.turn():
            return work(progress)

    with _lock:
        if running() is not None:
            raise InputError(BUSY)
        job = BackgroundJob(name, in_turn, is_wanted=is_wanted, patience_s=patience_s, budget_s=budget_s)
        _jobs.append(weakref.ref(job))
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
