"""A lane for work that takes the cores: one job at a time, few that wait, and none that nobody waits for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference.errors import InferenceError, InputError

LOOK_S = 0.2


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
