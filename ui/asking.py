"""Ask one text of every runtime, the fastest first: the answers one by one, each with the median of its times."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from inference import Answer, InferenceError, InputError
from inference.calls.texts import Text
from inference.classifier import Threshold
from inference.jobs import Cancelled
from inference.loading import Models

PASSES = 5  # timed ones per runtime, after a first that warms up
BUDGET_S = 0.25  # for the passes of a runtime: a large model or a busy machine gets fewer
MAX_SESSIONS = 1000  # whose newest question is remembered


@dataclass(frozen=True)
class Timed:
    """The answer of one runtime, and how long it took."""

    answer: Answer
    median_ms: float
    passes: int
    """Of which this is the median; the first pass of several warms up and does not count."""


Answers = dict[str, Timed | InferenceError | None]
"""By runtime: its answer, why it has none, or None while it is still to come."""


def ask_all(
    models: Models, text: Text, threshold: Threshold, order: Sequence[str], is_wanted: Callable[[], bool]
) -> Iterator[Answers]:
    """Yield the answers of all runtimes, in the order of the model, whenever another one has answered.

    Raises:
        InputError: a text or threshold that no runtime accepts.
        Cancelled: nobody waits for the answers any more.
    """
    answers: dict[str, Timed | InferenceError | None] = dict.fromkeys(models.bundle.backends)
    for name in order:
        try:
            answers[name] = timed(lambda name=name: models.answer(text, name, threshold, is_wanted))  # type: ignore[misc]
        except (InputError, Cancelled):
            raise
        except InferenceError as error:  # for example, PyTorch is missing; the others still answer
            answers[name] = error
        if not is_wanted():
            raise Cancelled
        yield dict(answers)


def timed(answer: Callable[[], Answer]) -> Timed:
    """Answer once, then again for as long as the budget lasts, at most `PASSES` times."""
    started = time.monotonic()
    first = answer()
    samples_ms: list[float] = []
    while len(samples_ms) < PASSES and time.monotonic() - started < BUDGET_S:
        samples_ms.append(answer().timing.total_ms)
    samples_ms = samples_ms or [first.timing.total_ms]
    return Timed(first, statistics.median(samples_ms), len(samples_ms))


class Newest:
    """Which question of each session is its newest: the browser numbers them. An older one is not worth answering."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, float] = OrderedDict()

    def note(self, session: str, number: float) -> None:
        """Note that a session has asked the question of this number."""
        self._numbers[session] = max(number, self._numbers.get(session, number))
        self._numbers.move_to_end(session)
        while len(self._numbers) > MAX_SESSIONS:
            self._numbers.popitem(last=False)

    def is_newest(self, session: str, number: float) -> bool:
        return number >= self._numbers.get(session, number)
