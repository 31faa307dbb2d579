"""A comparison that runs while the page stays alive: in a thread, one at a time in the whole server.

What is measured runs in processes of its own. Two comparisons at once would time each other.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dashboard import served
from inference.artifacts.cache import content_key, default_cache
from inference.compare.receipt import Receipt
from inference.compare.rows import LabelledData
from inference.compare.run import measure
from inference.errors import InferenceError, InputError

PATIENCE_S = 60  # a reader whose connection is gone for longer does not come back for the result
ROOT = Path(__file__).resolve().parents[1]
_log = logging.getLogger(__name__)
_lock = threading.Lock()
explaining = threading.Lock()
"""Held while two backends explain a text: that takes the cores, and would be measured along."""
_latest: Measurement | None = None


class _Cancelled(Exception):
    """Raised where `compare` reports progress; on its way out it ends the processes that it started."""


@dataclass
class Measurement:
    """One comparison: how far it is, and in the end its receipt or what went wrong."""

    name: str
    """What the rows are called."""
    data: LabelledData | None
    """None: the showcase."""
    quick: bool
    wanted: Callable[[], bool]
    """Whether somebody still waits for it. One that nobody waits for ends, because the next has to wait for it."""
    step: str = "starting"
    share: float = 0.0
    receipt: Receipt | None = None
    error: str | None = None
    cancelled: bool = False
    """Asked for; it is over when `done` says so."""
    _started: float = field(default_factory=time.monotonic)
    _last_wanted: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)
    _build: subprocess.Popen[str] | None = None

    @property
    def done(self) -> bool:
        return self._over.is_set()

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        """Seconds it will take yet; None in the beginning, which says little about the rest."""
        return self.spent_s * (1 - self.share) / self.share if self.share > 0.1 else None

    def cancel(self) -> None:
        """Ask it to stop. It does so at its next step, within seconds."""
        self.cancelled = True
        if (process := self._build) is not None:
            process.terminate()

    def wait(self, seconds: float) -> bool:
        """Whether it was over within so many seconds."""
        return self._over.wait(seconds)

    def _say(self, step: str, share: float) -> None:
        if self.wanted():
            self._last_wanted = time.monotonic()
        if self.cancelled or time.monotonic() - self._last_wanted > PATIENCE_S:
            raise _Cancelled
        self.step, self.share = step, share

    def _run(self) -> None:
        try:
            build(self)
            self.receipt = measure(
                served.unchanged(), self.data, quick=self.quick, base=served.base(), progress=self._say
            )
        except _Cancelled:
            self.cancelled = True
        except InferenceError as error:
            self.error = served.shown(error)
        except Exception:  # a thread that dies in silence would leave the page waiting
            _log.exception("the measurement failed")
            self.error = "The measurement failed; the server's log says why. Try again, or use the command line."
        finally:
            self.data = None  # the texts are held no longer than they are needed
            self._over.set()


def build(job: Measurement) -> None:
    """Make the ONNX and INT8 files if they are missing, in a process of its own: torch has no place in this one.

    Raises:
        InferenceError: it failed.
    """
    job._say("looking for the ONNX and INT8 files", 0.0)
    model, content, cache = str(served.model()), content_key(served.unchanged()), str(default_cache())
    command = [sys.executable, "-m", "inference", "build", "--model", model, "--content", content, "--cache", cache]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        job._build = process
        if job.cancelled:  # before there was a process to end
            process.terminate()
        last = ""
        assert process.stderr is not None
        for line in process.stderr:  # "[ 10%] exporting to ONNX"
            last = line.strip() if line.startswith("error: ") else last
            job._say(job.step, 0.0)  # which ends it if nobody waits any more
            if line.startswith("["):
                job.step = f"building: {line.partition('] ')[2].strip()}"
    job._build = None
    if job.cancelled:
        raise _Cancelled
    if process.returncode:
        raise InferenceError(last.removeprefix("error: ") or f"Building ended with code {process.returncode}.")


def running() -> Measurement | None:
    """The comparison that this server is at, whoever started it."""
    return _latest if _latest is not None and not _latest.done else None


def start(name: str, data: LabelledData | None, quick: bool, wanted: Callable[[], bool] = lambda: True) -> Measurement:
    """Begin a comparison and return at once.

    Raises:
        InputError: another one is running, or an explanation.
    """
    global _latest
    with _lock:
        if explaining.locked():
            raise InputError("Somebody is being told why, which would be measured along. Try again in some seconds.")
        if running() is not None:
            raise InputError("A measurement is running on this server already. Two at once would disturb each other.")
        _latest = job = Measurement(name, data, quick, wanted)
        threading.Thread(target=job._run, name="measurement", daemon=True).start()
    return job
