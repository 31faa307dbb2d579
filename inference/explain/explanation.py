"""`Explanation`: what each word of a text does to a label, and what to know before believing it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OCCLUSION, GRADIENTS = "occlusion", "integrated_gradients"
METHODS = (OCCLUSION, GRADIENTS)
METHOD_TITLES = {OCCLUSION: "occlusion", GRADIENTS: "integrated gradients"}

SEVERAL = 3  # of one or two words each is half of the text
NAMED = 4  # words that a note lists ...
LETTERS = 30  # ... and how much of each: a tokenizer may take any word of a hundred letters for an unknown one
IDLE = 0.1  # of probability: what a word moves less than this carries no answer


@dataclass(frozen=True)
class Attribution:
    """One word, or several neighbours taken together, and what it does to the label."""

    text: str
    start: int
    """Its place in the text as it was given: characters, from 0."""
    end: int
    """One past its last character."""
    attribution: float | None
    """How much it adds to the log-odds of the label; below zero it speaks against it. None: time was up before it."""
    without: float | None
    """The label's probability without it. Occlusion measures that, integrated gradients do not."""
    unknown: bool
    """The model's vocabulary has nothing for it: it reads the same sign in place of every such word."""


@dataclass(frozen=True)
class Explanation:
    """Why a text gets a label on one backend.

    Attributions are natural logarithms of odds, p / (1 - p): +0.7 doubles the odds of the label, -0.7 halves them.
    Unlike probabilities they do not shrink to nothing where the model is sure.
    """

    text: str
    task: str
    label: str
    """The one that is explained."""
    predicted: str
    """The one that the model gives."""
    score: float
    """Probability of `label`."""
    log_odds: float
    """Of `label`."""
    backend: str
    method: str
    words: tuple[Attribution, ...]
    """In the order of the text. What lies between them was no word, or was not read."""
    read: tuple[int, int]
    """Start and end of the part of the text that the model read; the rest has no attribution."""
    truncated: bool
    """The text had more tokens than the model reads."""
    grouped: int
    """Words taken together as one, at most; 1 where every word stands for itself."""
    baseline_log_odds: float | None
    """Log-odds of the baseline of integrated gradients: padding in place of every word."""
    convergence_delta: float | None
    """By how much the attributions miss `log_odds - baseline_log_odds`, which they should add up to."""
    n_steps: int | None
    """Points of the path from the baseline at which gradients were taken."""
    converged: bool | None
    """Whether `convergence_delta` is small beside the attributions."""
    seconds: float

    @property
    def unreached(self) -> int:
        """Words, or groups of them, that time did not suffice for."""
        return sum(word.attribution is None for word in self.words)

    @property
    def shared(self) -> float | None:
        """By how much one word moves the confidence at most, where none carries the answer alone; None elsewhere."""
        moved = [abs(self.score - word.without) for word in self.words if word.without is not None]
        if self.label != self.predicted or not len(moved) == len(self.words) >= SEVERAL or max(moved) >= IDLE:
            return None
        return max(moved)

    @property
    def notes(self) -> list[str]:
        """What a reader must know, in sentences; none where there is nothing."""
        found = []
        if self.truncated:
            unread = len(self.text) - (self.read[1] - self.read[0])
            found.append(
                f"The model read characters {self.read[0]:,} to {self.read[1]:,} of the text; the other {unread:,} "
                "were cut off and had no part in the answer."
            )
        if self.grouped > 1:
            found.append(
                f"The text is long, so up to {self.grouped} neighbouring words were left out at once: a figure is that "
                "of all of them together."
            )
        if unknown := list(dict.fromkeys(word.text for word in self.words if word.unknown)):
            lacks = ", ".join(map(_short, unknown[:NAMED]))
            lacks += f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            its = "its figure tells" if len(unknown) == 1 else "their figures tell"
            found.append(
                f"The model's vocabulary lacks {lacks}: it reads one and the same sign for whatever it lacks, so {its} "
                "that something stood there, and not what."
            )
        if self.unreached:
            found.append(
                f"Time was up: {self.unreached} of {len(self.words)} parts of the text were not tried and have no "
                "figure. Give it more time."
            )
        if self.converged is False:
            found.append(
                f"The attributions miss what they should add up to by {signed(self.convergence_delta or 0.0, 4)} after "
                f"{self.n_steps} steps: take them as rough, or take occlusion."
            )
        if self.shared is not None:
            found.append(
                f"No word carries this answer alone: without any one of them the confidence moves by {self.shared:.2f} "
                "at most. Words that stand for each other look idle here; integrated gradients, on PyTorch, weighs all "
                "of them at once."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The explanation in plain types, ready for JSON, with its `notes`."""
        return (
            asdict(self)
            | {"words": [asdict(word) for word in self.words], "read": list(self.read)}
            | {"notes": self.notes}
        )


def _short(word: str) -> str:
    """The word in quotation marks; what could turn the sentence around or move a cursor by its number."""
    word = "".join(
        letter if letter.isprintable() or letter in "\u200c\u200d" else f"U+{ord(letter):04X}"
        for letter in " ".join(word.split())
    )
    return f"“{word if len(word) <= LETTERS else f'{word[: LETTERS - 1]}…'}”"


def signed(value: float, digits: int) -> str:
    """A number with its sign, as it is printed."""
    return f"{value:+.{digits}f}".replace("-", "−")
