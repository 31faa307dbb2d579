"""`Explanation`: what each word of a text does to a label, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

OCCLUSION, GRADIENTS = "occlusion", "integrated_gradients"
METHODS = (OCCLUSION, GRADIENTS)
METHOD_TITLES = {OCCLUSION: "occlusion", GRADIENTS: "integrated gradients"}

MIN_WORDS = 3  # of one or two words, each is half of the text
NAMED_WORDS = 4  # words that a note lists ...
NAMED_LETTERS = 30  # ... and how much of each: any word of a hundred letters can be unknown to a tokenizer
UNPAIRED = "This model was trained on pairs of texts and was given a single one: the answer may be meaningless."
IDLE = 0.1  # of probability: a word that moves it less does not carry the answer


@dataclass(frozen=True)
class Attribution:
    """A word, or several neighbours taken together, and what it does to the label."""

    text: str
    start: int
    """Index of its first character in the original text."""
    end: int
    """Index after its last character."""
    attribution: float | None
    """What it adds to the log-odds of the label; negative if it speaks against it, None if time ran out before it."""
    without: float | None
    """The label's probability without it. Only occlusion measures that."""
    unknown: bool
    """It is not in the model's vocabulary: the model reads the same token for every such word."""
    in_text: int = 0
    """0, or 1 for a word of the second text of a pair."""


@dataclass(frozen=True)
class Explanation:
    """Why a text gets a label on one backend.

    Attributions are natural logarithms of odds, p / (1 - p): +0.7 doubles the odds of the label, -0.7 halves them.
    Unlike probabilities, they do not vanish when the model is sure.
    """

    text: str
    task: str
    label: str
    """The label that is explained."""
    predicted: str
    """The label that the model predicts."""
    score: float
    """Probability of `label`."""
    log_odds: float
    """Log-odds of `label`."""
    backend: str
    method: str
    words: tuple[Attribution, ...]
    """In the order of the text; whatever is between them was not a word or not read."""
    read: tuple[int, int]
    """Start and end of the part of the text that the model read; the rest has no attribution."""
    truncated: bool
    """The text had more tokens than the model reads."""
    grouped: int
    """Number of neighbouring words taken together at most; 1 if every word has its own attribution."""
    baseline_log_odds: float | None
    """Log-odds of the baseline of integrated gradients: padding in place of every word."""
    convergence_delta: float | None
    """Difference between the sum of the attributions and `log_odds - baseline_log_odds`."""
    n_steps: int | None
    """Points on the path from the baseline at which gradients were taken."""
    converged: bool | None
    """Whether `convergence_delta` is small compared with the attributions."""
    seconds: float
    second_text: str | None = None
    """The second text of a pair."""
    second_read: tuple[int, int] | None = None
    """As `read`, of the second text."""
    unpaired: bool = False
    """The model was trained on pairs and was given a single text."""

    @property
    def texts(self) -> tuple[tuple[str, tuple[int, int], tuple[Attribution, ...]], ...]:
        """Each text with the part of it that was read and its words."""
        pairs = [(self.text, self.read), (self.second_text, self.second_read)]
        return tuple(
            (text, read, tuple(word for word in self.words if word.in_text == number))
            for number, (text, read) in enumerate(pairs)
            if text is not None and read is not None
        )

    @property
    def unreached(self) -> int:
        """Words, or groups of them, that were not tried for lack of time."""
        return sum(word.attribution is None for word in self.words)

    @property
    def shared(self) -> float | None:
        """The most that one word moves the confidence if no word carries the answer alone; None otherwise."""
        moved = [abs(self.score - word.without) for word in self.words if word.without is not None]
        if self.label != self.predicted or not len(moved) == len(self.words) >= MIN_WORDS or max(moved) >= IDLE:
            return None
        return max(moved)

    @property
    def notes(self) -> list[str]:
        """What a reader must know, in sentences."""
        notes = []
        if self.unpaired:
            notes.append(UNPAIRED)
        for number, (text, (low, high), _) in enumerate(self.texts if self.truncated else ()):
            which = "the text" if self.second_text is None else f"the {('first', 'second')[number]} text"
            if unread := len(text) - (high - low):
                notes.append(
                    f"The model read characters {low:,} to {high:,} of {which}; the other {unread:,} were cut off and "
                    "had no part in the answer."
                )
        if self.grouped > 1:
            notes.append(
                f"The text is long, so up to {self.grouped} neighbouring words were left out together: each figure is "
                "for the whole group."
            )
        if unknown := list(dict.fromkeys(word.text for word in self.words if word.unknown)):
            words = ", ".join(map(_quoted, unknown[:NAMED_WORDS]))
            words += f" and {len(unknown) - NAMED_WORDS} more" if len(unknown) > NAMED_WORDS else ""
            notes.append(
                f"The model's vocabulary lacks {words}: the model reads the same token for every such word, so a "
                "figure shows the effect of having some word there, not this one."
            )
        if self.unreached:
            notes.append(
                f"Time was up: {self.unreached} of {len(self.words)} parts of the text were not tried and have no "
                "figure. Allow more time."
            )
        if self.converged is False:
            notes.append(
                f"After {self.n_steps} steps the attributions miss their expected sum by "
                f"{signed(self.convergence_delta or 0.0, 4)}: treat them as rough, or use occlusion."
            )
        if self.shared is not None:
            notes.append(
                f"No word carries this answer alone: without any one of them the confidence moves by {self.shared:.2f} "
                "at most. Words that carry the same information can each look unimportant here; integrated gradients, "
                "on PyTorch, weigh all of them at once."
            )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation in plain types, ready for JSON, with its `notes`."""
        return asdict(self) | {
            "words": [asdict(word) for word in self.words],
            "read": list(self.read),
            "second_read": self.second_read and list(self.second_read),
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Explanation:
        """Return the explanation that `to_dict` gave."""
        second_read = content["second_read"]
        values = {name: value for name, value in content.items() if name != "notes"} | {
            "words": tuple(Attribution(**word) for word in content["words"]),
            "read": tuple(content["read"]),
            "second_read": second_read and tuple(second_read),
        }
        return cls(**values)


def _quoted(word: str) -> str:
    """Quote a word; show characters that could reverse the sentence or move a cursor by their code points."""
    word = "".join(
        letter if letter.isprintable() or letter in "\u200c\u200d" else f"U+{ord(letter):04X}"
        for letter in " ".join(word.split())
    )
    return f"“{word if len(word) <= NAMED_LETTERS else f'{word[: NAMED_LETTERS - 1]}…'}”"


def signed(value: float, digits: int) -> str:
    """Format a number with its sign, a real minus included."""
    return f"{value:+.{digits}f}".replace("-", "−")
