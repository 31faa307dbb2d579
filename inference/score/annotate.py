"""Texts in, the columns of their answers out: in every row an answer, or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.classifier import Classifier, check_texts
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Task
from inference.tables.cutting import CELL_BYTES, weight

DIGITS = 6  # of every probability: the texts beside it can move the seventh, and each is written once
BINS = 20  # of the histograms of confidence, from 0 to 1
PREFIX = "predicted_"  # of the added columns, where the file has one of their names already
TEXT, NUMBER, FLAG = "text", "number", "flag"  # kinds of added columns


@dataclass(frozen=True)
class Wanted:
    """What is asked about every text. Plain data: it travels to other processes."""

    tasks: tuple[str, ...]
    threshold: float | None = None
    all_scores: bool = False
    prefix: str = ""

    def columns(self, tasks: Mapping[str, Task]) -> dict[str, str]:
        """Added column -> its kind, in order: those of each task, and `error`."""
        return dict(self._columns(tasks))

    def _columns(self, tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
        found = []
        for task in self.tasks:
            name = f"{self.prefix}{task}"
            found += [(name, TEXT), (f"{name}_confidence", NUMBER), (f"{name}_uncertain", FLAG)]
            if self.all_scores:
                found += [(f"{name}_{label}", NUMBER) for label in tasks[task].labels]
        return [*found, (f"{self.prefix}error", TEXT)]

    def weight(self, tasks: Mapping[str, Task]) -> int:
        """The bytes that the answers of one text take in memory, and as they are written, at most."""
        named = [tasks[task].labels for task in self.tasks]
        names = [name for name, _ in self._columns(tasks)]  # JSONL has them in every row
        letters = sum(map(len, names)) + sum(max(map(len, labels)) for labels in named)
        return weight(letters, len(names)) + CELL_BYTES * sum(map(len, named))  # the scores of all labels

    def check(self, tasks: Mapping[str, Task], taken: Collection[str]) -> None:
        """Raise InputError unless every added column has a name of its own.

        Args:
            taken: the columns of the file.
        """
        names = [name for name, _ in self._columns(tasks)]
        for name in names:
            if name in taken:
                raise InputError(f"The file has a column {name!r}, where an answer would go. Rename it.")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"Two added columns would be called {twice[0]!r}. Leave out a task, or the scores.")


@dataclass
class TaskTally:
    """What was answered for one task."""

    labels: dict[str, int] = field(default_factory=dict)
    """Label -> rows that got it, of those that any got."""
    uncertain: int = 0
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    """Answers whose confidence is in each of `BINS` equal parts of 0 to 1."""


@dataclass
class Tally:
    """Counts over the rows answered so far."""

    rows: int = 0
    errors: int = 0
    truncated: int = 0
    """Rows whose text is longer than the model reads."""
    tasks: dict[str, TaskTally] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count the rows of another tally too."""
        self.rows += other.rows
        self.errors += other.errors
        self.truncated += other.truncated
        for name, one in other.tasks.items():
            mine = self.tasks.setdefault(name, TaskTally())
            for label, rows in one.labels.items():
                mine.labels[label] = mine.labels.get(label, 0) + rows
            mine.uncertain += one.uncertain
            mine.confidence = [a + b for a, b in zip(mine.confidence, one.confidence, strict=True)]

    @classmethod
    def of_dict(cls, raw: Mapping[str, Any]) -> Tally:
        """The tally of which `dataclasses.asdict` made this."""
        tasks = {
            name: TaskTally(dict(one["labels"]), one["uncertain"], list(one["confidence"]))
            for name, one in raw["tasks"].items()
        }
        return cls(raw["rows"], raw["errors"], raw["truncated"], tasks)


@dataclass(frozen=True)
class Answers:
    """The added columns of some rows, and what they hold in figures."""

    columns: dict[str, list[Any]]
    """Added column -> its value in each row; None where there is none."""
    tally: Tally


def answer(classifier: Classifier, texts: Sequence[Any], wanted: Wanted) -> Answers:
    """An answer, or a reason why not, for each of these; the other rows are as if that one were not there.

    Args:
        texts: what is in the text column, which need not be a text; None counts as an empty one.

    Raises:
        InferenceError: the model is damaged.
    """
    texts = ["" if text is None else text for text in texts]
    errors = [_refusal(text) for text in texts]
    readable = [row for row, error in enumerate(errors) if error is None]
    found: Mapping[str, Any] = {}
    if readable:
        try:
            found = classifier.classify([texts[row] for row in readable], wanted.tasks, wanted.threshold).predictions
        except InputError:
            # The tokenizer reads nothing in one of them. Rare, so only now each is looked at by itself.
            for row in readable:
                errors[row] = _unreadable(classifier, texts[row])
            left = [row for row in readable if errors[row] is None]
            if len(left) == len(readable):
                raise
            readable = left
            if readable:
                found = classifier.classify(
                    [texts[row] for row in readable], wanted.tasks, wanted.threshold
                ).predictions
    columns: dict[str, list[Any]] = {name: [None] * len(texts) for name in wanted.columns(classifier.tasks)}
    columns[f"{wanted.prefix}error"] = list(errors)
    tally = Tally(rows=len(texts), errors=len(texts) - len(readable))
    for task in wanted.tasks:
        name, counts = f"{wanted.prefix}{task}", TaskTally()
        tally.tasks[task] = counts
        for row, one in zip(readable, found.get(task, ()), strict=True):
            columns[name][row] = one.label
            columns[f"{name}_confidence"][row] = round(one.confidence, DIGITS)
            columns[f"{name}_uncertain"][row] = one.uncertain
            if wanted.all_scores:
                for label, score in one.scores.items():
                    columns[f"{name}_{label}"][row] = round(score, DIGITS)
            counts.labels[one.label] = counts.labels.get(one.label, 0) + 1
            counts.uncertain += one.uncertain
            counts.confidence[min(int(one.confidence * BINS), BINS - 1)] += 1
    if wanted.tasks and readable:
        tally.truncated = sum(one.truncated for one in found[wanted.tasks[0]])
    return Answers(columns, tally)


def _refusal(text: Any) -> str | None:
    """Why a classifier would not take this text; None if it does."""
    try:
        check_texts([text])
    except InputError as error:
        return str(error)
    return None


def _unreadable(classifier: Classifier, text: str) -> str | None:
    try:
        classifier.tokenize([text])
    except InferenceError as error:
        return str(error)
    return None
