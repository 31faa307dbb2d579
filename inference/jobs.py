"""Long jobs: run one in a thread, let one run at a time, show progress on stderr."""

from __future__ import annotations

import codecs
import io
import logging
import math
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

from inference.errors import InferenceError, InputError

POLL_S = 0.2
MOST_S = 300.0  # that preparation waits for jobs, which may follow one another without a gap
EVERY_S = 10.0  # between two log lines of one step: 360 an hour
KNOWN_SHARE = 0.1  # the time left is not estimated before: the first seconds say little about the rest
# For terminals that do not have these letters.
LOOKALIKES = {"−": "-", "–": "-", "…": "...", "→": "->", "“": '"', "”": '"', "█": "#", "░": "-", "│": "|"}
_FIGURES = re.compile(r"[\d.,]+")
_log = logging.getLogger(__name__)
Result = TypeVar("Result")

Progress = Callable[[str, float], None]
"""A callback: gets the current step and the share that is done, 0 to 1."""


class Cancelled(InferenceError):
    """The job was cancelled, or its result is no longer needed."""

    def __init__(self) -> None:
        super().__init__("Cancelled: the result is no longer needed.")


class BackgroundJob(Generic[Result]):
    """Run a function in a thread, with its progress, a cancel button and a time limit.

    The function gets a progress callback, and must call it often: a job can end early only at such a call, which then
    raises `Cancelled` (or the error of the time limit) inside the function.

        job = BackgroundJob("reviews.csv", lambda progress: score(rows, progress), patience_s=20)
        while not job.wait(0.3):
            draw(job.step, job.share, job.left_s)
        report = job.outcome()

    Args:
        name: names the job in messages and the log.
        work: runs in the thread; returns the result.
        is_wanted: asked at every progress call: does anybody still wait for the result?
        patience_s: cancel the job after so long without `is_wanted` or a call of `wait`.
        budget_s: fail with an `InferenceError` after so long.

    Attributes:
        step, share: what the job is doing, and the share that is done, 0 to 1.
        result: what the function returned; None unless it succeeded.
        error: why it failed; None unless it did. Without its traceback, whose frames hold what `work` read.
        cancelled: whether it was cancelled; it goes on until `done`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Progress], Result],
        *,
        is_wanted: Callable[[], bool] = lambda: False,
        patience_s: float = math.inf,
        budget_s: float = math.inf,
    ) -> None:
        self.name = name
        self.step, self.share = "starting", 0.0
        self.result: Result | None = None
        self.error: InferenceError | None = None
        self.cancelled = self._succeeded = False
        self._is_wanted, self._patience_s, self._budget_s = is_wanted, patience_s, budget_s
        self._created = self._started = self._last_wanted = time.monotonic()
        self._over = threading.Event()
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        with _ended:
            _running.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system allows no more threads
            _forget(thread)
            raise

    @property
    def done(self) -> bool:
        return self._over.is_set()

    @property
    def spent_s(self) -> float:
        """Seconds since the share was last 0: waiting for a turn does not count."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        """Estimated seconds left; None at the beginning, which says little about the rest."""
        return self.spent_s * (1 - self.share) / self.share if self.share > KNOWN_SHARE else None

    def cancel(self) -> None:
        """Ask the job to stop at its next progress call."""
        self.cancelled = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the job is done, at most so many seconds; return whether it is."""
        self._last_wanted = time.monotonic()
        return self._over.wait(seconds)

    def outcome(self) -> Result:
        """Wait for the job and return its result.

        Raises:
            InferenceError: the job failed, or was cancelled.
        """
        self.wait()
        if not self._succeeded:
            raise (self.error or Cancelled()).with_traceback(None)
        return cast(Result, self.result)

    def _progress(self, step: str, share: float) -> None:
        now = time.monotonic()
        if self._is_wanted():
            self._last_wanted = now
        if self.cancelled or now - self._last_wanted > self._patience_s:
            raise Cancelled
        if now - self._created > self._budget_s:
            raise InferenceError(f"No result within {self._budget_s:g} s. Try again when the server is less busy.")
        if share == 0:
            self._started = now
        self.step, self.share = step, share

    def _run(self, work: Callable[[Progress], Result]) -> None:
        try:
            self.result = work(self._progress)
            self._succeeded = True
        except Cancelled:
            self.cancelled = True
        except InferenceError as error:
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self.error = error
        except BaseException:  # a thread that ends silently would leave everybody waiting
            if not self.cancelled:  # else the files it worked on may be gone
                _log.exception("the job %r failed", self.name)
                self.error = InferenceError(f"{self.name}: unexpected error. The server's log has the details.")
        finally:
            self._over.set()
            _forget(threading.current_thread())


_running: set[threading.Thread] = set()
_ended = threading.Condition()
"""Guards `_running`, the threads of all jobs of this process; notified when one ends."""


def _forget(thread: threading.Thread) -> None:
    with _ended:
        _running.discard(thread)
        _ended.notify_all()


def wait_for_jobs(is_needed: Callable[[], bool] = lambda: True, most_s: float = MOST_S) -> None:
    """Wait until no background job runs: somebody waits for those, and what only prepares must not slow them down.

    Args:
        is_needed: whether there is still a reason to wait; asked while waiting, so it must return at once.
        most_s: return after so many seconds in any case.
    """
    end = time.monotonic() + most_s
    with _ended:
        while _running and is_needed() and time.monotonic() < end:
            _ended.wait(POLL_S)


class Busy(InputError):
    """There is no place for another job.

    Attributes:
        of_client: whether it is this client that has too many; else all clients together have.
    """

    def __init__(self, message: str, of_client: bool) -> None:
        super().__init__(message)
        self.of_client = of_client


class Lane:
    """Let one job run at a time, in the order they came.

    Args:
        limit: maximum number of jobs that run or wait; None for any number.
        each: maximum per client.
        busy: the error message when there are as many.
    """

    def __init__(self, limit: int | None = None, each: int | None = None, busy: str = "") -> None:
        self.limit = limit
        self.each = each
        self.busy = busy
        self._places: list[tuple[object, str]] = []  # in the order of arrival, each with its client
        self._changed = threading.Condition()

    @contextmanager
    def place(self, client: str = "") -> Iterator[tuple[object, str]]:
        """Count the block as a job, without waiting for a turn.

        Raises:
            Busy: there are too many jobs.
        """
        place = (object(), client)
        with self._changed:
            of_client = self.each is not None and sum(holder == client for _, holder in self._places) >= self.each
            if of_client or (self.limit is not None and len(self._places) >= self.limit):
                raise Busy(self.busy, of_client)
            self._places.append(place)
        try:
            yield place
        finally:
            with self._changed:
                self._places.remove(place)
                self._changed.notify_all()

    @contextmanager
    def turn(
        self,
        is_wanted: Callable[[], bool] = lambda: True,
        client: str = "",
        waiting: Callable[[int], None] = lambda ahead: None,
    ) -> Iterator[None]:
        """Wait for a turn, then run the block.

        Args:
            is_wanted: asked while waiting: does anybody still wait for the result?
            waiting: called while waiting with the number of jobs ahead; may raise to give up.

        Raises:
            Busy: too many jobs wait already.
            Cancelled: the result is no longer needed.
        """
        with self.place(client) as place:
            while True:
                with self._changed:
                    if self._changed.wait_for(lambda: self._places[0] is place, POLL_S):
                        break
                    ahead = self._places.index(place)
                if not is_wanted():
                    raise Cancelled
                waiting(ahead)
            yield


class ProgressLine:
    """Show the current step, the share done and the time left. Use it in a `with`, or call `end`.

    Args:
        after_s: show nothing before: a short job needs no progress.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, after_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._clock = clock
        self._created = self._started = clock()
        self._share = self._first_share = 0.0  # a resumed job starts above 0, and that part took no time now
        self._step = ""
        self._repeats_steps = False  # a job that reports each step only once guesses its shares
        self._logged_at: float | None = None
        self._is_open = False  # whether the cursor is behind a line on the terminal

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def __call__(self, step: str, share: float) -> None:
        """Show this step and the share done, 0 to 1. A share below the last one starts another job."""
        now = self._clock()
        name = _FIGURES.sub("", step)  # "2,000 of 9,000 rows" is the same step as "4,000 of 9,000 rows"
        is_new = name != self._step
        if share < self._share or not self._step:
            self._started, self._first_share, self._repeats_steps = now, share, False
        elif not is_new:
            self._repeats_steps = True
        self._share, self._step = share, name
        if now - self._created < self._after_s:
            return
        left = ""
        if self._repeats_steps and share < 1 and share - self._first_share > KNOWN_SHARE * (1 - self._first_share):
            left = f", about {duration((now - self._started) * (1 - share) / (share - self._first_share))} left"
        bar, text = f"[{'#' * round(share * 20):<20}] ", f"{share:4.0%} {step}{left}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be overwritten
            shown = bar + text if len(bar + text) <= width else text[:width]
            self._is_open = share < 1
            print(f"\r\033[K{shown}", end="" if self._is_open else "\n", file=sys.stderr, flush=True)
            return
        if self._logged_at is None or is_new or share >= 1 or now - self._logged_at >= EVERY_S:
            print(bar + text, file=sys.stderr, flush=True)
            self._logged_at = now

    def end(self) -> None:
        """End the line on the terminal, if there is one."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False


def print_any_text() -> None:
    """Let stdout and stderr print any text: what their encoding lacks is replaced, for Windows consoles and pipes."""
    codecs.register_error("lookalikes", _lookalikes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook, nor without a console
            stream.reconfigure(errors="lookalikes")


def _lookalikes(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded, as an error handler of `codecs`: by an escape if nothing looks like it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = [LOOKALIKES.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(plain), error.end


def duration(seconds: float) -> str:
    """Write a time as people say it: "20 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
