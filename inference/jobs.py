"""Jobs that take a while: a lane that runs one at a time, and a line on stderr that shows how far one is."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference.errors import InferenceError, InputError

LOOK_S = 0.2
EVERY_S = 10.0  # between two lines of one step in a log: an hour has 360 of them
KNOWN_SHARE = 0.1  # the first seconds say little about the rest
_FIGURES = re.compile(r"[\d.,]+")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""


class Unwanted(InferenceError):
    """Nobody waits for the result any more."""

    def __init__(self) -> None:
        super().__init__("Nobody waits for this any more.")


class Lane:
    """Runs one job at a time.

    Args:
        limit: jobs that run or wait, at most; None for any number.
        each: of one client.
        busy: the message where there are as many.
    """

    def __init__(self, limit: int | None = None, each: int | None = None, busy: str = "") -> None:
        self.limit = limit
        self.each = each
        self.busy = busy
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._jobs: Counter[str] = Counter()

    @contextmanager
    def turn(self, is_wanted: Callable[[], bool], client: str = "") -> Iterator[None]:
        """Wait for a turn; the block is the job.

        Raises:
            InputError: too many wait already.
            Unwanted: nobody waits for this job any more.
        """
        with self._counting:
            if self.limit is not None and self._jobs.total() >= self.limit:
                raise InputError(self.busy)
            if self.each is not None and self._jobs[client] >= self.each:
                raise InputError(self.busy)
            self._jobs[client] += 1
        try:
            while not self._turn.acquire(timeout=LOOK_S):
                if not is_wanted():
                    raise Unwanted
            try:
                yield
            finally:
                self._turn.release()
        finally:
            with self._counting:
                self._jobs[client] -= 1
                self._jobs += Counter()  # without those that have none


class ProgressLine:
    """Shows what is being done, the share that is done, and the time left. Use it in a `with`, or call `end`.

    Args:
        after_s: nothing is shown before; what is over sooner needs no progress.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, after_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._clock = clock
        self._created = self._started = clock()
        self._share = self._began = 0.0
        """The last share, and that of the job's first call: what an earlier run had done took none of this time."""
        self._step = ""
        self._counts = False
        """Whether this job has told of one step twice. Where each step is told of once, its share is a guess."""
        self._told: float | None = None
        """When the last line was written to a log."""
        self._is_open = False
        """Whether the cursor stands behind a line on the terminal."""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def __call__(self, step: str, share: float) -> None:
        """Show this step and the share done, 0 to 1. A share below the last one begins another job."""
        now = self._clock()
        name = _FIGURES.sub("", step)  # "2,000 of 9,000 rows" is the same step as "4,000 of 9,000 rows"
        is_new = name != self._step
        if share < self._share or not self._step:
            self._started, self._began, self._counts = now, share, False
        elif not is_new:
            self._counts = True
        self._share, self._step = share, name
        if now - self._created < self._after_s:
            return
        left = ""
        if self._counts and share < 1 and share - self._began > KNOWN_SHARE * (1 - self._began):
            left = f", about {_duration((now - self._started) * (1 - share) / (share - self._began))} left"
        bar, text = f"[{'#' * round(share * 20):<20}] ", f"{share:4.0%} {step}{left}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be written over
            shown = bar + text if len(bar + text) <= width else text[:width]
            self._is_open = share < 1
            print(f"\r\033[K{shown}", end="" if self._is_open else "\n", file=sys.stderr, flush=True)
            return
        if self._told is None or is_new or share >= 1 or now - self._told >= EVERY_S:
            print(bar + text, file=sys.stderr, flush=True)
            self._told = now

    def end(self) -> None:
        """Leave the line on the terminal, if there is one: what is written next begins another."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
