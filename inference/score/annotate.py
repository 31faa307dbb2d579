"""Answer texts: return the columns to add, with an answer or an error in every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.calls.texts import check_texts
from inference.classifier import Classifier, Prediction, Threshold
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Task
from inference.tables.cutting import CELL_BYTES, weight

DIGITS = 6  # of every probability; texts in the same batch can change the seventh
BINS = 20  # of the histograms of confidence, from 0 to 1
PREFIX = "predicted_"  # of the added columns, if the file already has one of their names
TEXT, NUMBER, FLAG = "text", "number", "flag"  # kinds of added columns


@dataclass(frozen=True)
class AnswerOptions:
    """What to answer about every text. Plain data, because it is sent to other processes."""

    tasks: tuple[str, ...]
    threshold: Threshold = None
    all_scores: bool = False
    prefix: str = ""

    def columns(self, tasks: Mapping[str, Task]) -> dict[str, str]:
        """Return added column -> its kind, in order: those of each task, then `error`."""
        return dict(self._columns(tasks))

    def _columns(self, tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
        columns = []
        for task in self.tasks:
            name = f"{self.prefix}{task}"
            columns += [(name, TEXT), (f"{name}_confidence", NUMBER), (f"{name}_uncertain", FLAG)]
            if self.all_scores:
                columns += [(f"{name}_{label}", NUMBER) for label in tasks[task].labels]
        return [*columns, (f"{self.prefix}error", TEXT)]

    def weight(self, tasks: Mapping[str, Task]) -> int:
        """Return the maximum bytes that the answers of one text take, in memory and as they are written."""
        labels = [tasks[task].labels for task in self.tasks]
        names = [name for name, _ in self._columns(tasks)]  # JSONL repeats them in every row
        letters = sum(map(len, names)) + sum(max(map(len, of_task)) for of_task in labels)
        return weight(letters, len(names)) + CELL_BYTES * sum(map(len, labels))  # the scores of all labels

    def check(self, tasks: Mapping[str, Task], columns: Collection[str]) -> None:
        """Raise InputError unless every added column has a unique name.

        Args:
            columns: those of the file.
        """
        names = [name for name, _ in self._columns(tasks)]
        for name in names:
            if name in columns:
                raise InputError(f"The file already has a column {name!r}, which would hold an answer. Rename it.")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"Two added columns would be called {twice[0]!r}. Leave out a task, or the scores.")


@dataclass
class TaskTally:
    """Counts of the answers for one task."""

    labels: dict[str, int] = field(default_factory=dict)
    """Label -> rows with that answer; labels without any are left out."""
    uncertain: int = 0
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    """Answers whose confidence is in each of `BINS` equal parts of 0 to 1."""

    def count(self, prediction: Prediction) -> None:
        self.labels[prediction.label] = self.labels.get(prediction.label, 0) + 1
        self.uncertain += prediction.uncertain
        self.confidence[min(int(prediction.confidence * BINS), BINS - 1)] += 1


@dataclass
class Tally:
    """Counts of the rows answered so far."""

    rows: int = 0
    errors: int = 0
    truncated: int = 0
    """Rows whose text is longer than the model reads."""
    unknown: int = 0
    """Rows whose text has no word that is in the model's vocabulary."""
    tasks: dict[str, TaskTally] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add the counts of other rows."""
        self.rows += other.rows
        self.errors += other.errors
        self.truncated += other.truncated
        self.unknown += other.unknown
        for name, more in other.tasks.items():
            mine = self.tasks.setdefault(name, TaskTally())
            for label, rows in more.labels.items():
                mine.labels[label] = mine.labels.get(label, 0) + rows
            mine.uncertain += more.uncertain
            mine.confidence = [a + b for a, b in zip(mine.confidence, more.confidence, strict=True)]

    @classmethod
    def of_dict(cls, fields: Mapping[str, Any]) -> Tally:
        """Return the tally that `dataclasses.asdict` gave these fields of."""
        return cls(**{**fields, "tasks": {name: TaskTally(**counts) for name, counts in fields["tasks"].items()}})


@dataclass(frozen=True)
class Answers:
    """The added columns of some rows, and their counts."""

    columns: dict[str, list[Any]]
    """Added column -> its value in each row; None without an answer."""
    tally: Tally


def answer(classifier: Classifier, texts: Sequence[Any], options: AnswerOptions) -> Answers:
    """Answer each text, or say why it has no answer; one bad text does not affect the others.

    Args:
        texts: the cells of the text column, or tuples of two cells, which may not be strings; None counts as an empty
            text.

    Raises:
        InferenceError: the model is damaged.
    """
    texts = [_without_none(text) for text in texts]
    errors = [_error(check_texts, text) for text in texts]
    readable = [row for row, error in enumerate(errors) if error is None]

    def classify() -> Mapping[str, list[Prediction]]:
        if not readable:
            return {}
        return classifier.classify([texts[row] for row in readable], options.tasks, options.threshold).predictions

    try:
        predictions = classify()
    except InputError:
        # The tokenizer reads nothing in one of the texts. This is rare, so only now is each checked by itself.
        for row in readable:
            errors[row] = _error(classifier.tokenize, texts[row])
        left = [row for row in readable if errors[row] is None]
        if len(left) == len(readable):
            raise
        readable = left
        predictions = classify()
    columns: dict[str, list[Any]] = {name: [None] * len(texts) for name in options.columns(classifier.tasks)}
    columns[f"{options.prefix}error"] = list(errors)
    tally = Tally(rows=len(texts), errors=len(texts) - len(readable))
    for task in options.tasks:
        name = f"{options.prefix}{task}"
        tally.tasks[task] = TaskTally()
        for row, prediction in zip(readable, predictions.get(task, ()), strict=True):
            columns[name][row] = prediction.label
            columns[f"{name}_confidence"][row] = round(prediction.confidence, DIGITS)
            columns[f"{name}_uncertain"][row] = prediction.uncertain
            if options.all_scores:
                for label, score in prediction.scores.items():
                    columns[f"{name}_{label}"][row] = round(score, DIGITS)
            tally.tasks[task].count(prediction)
    if options.tasks and readable:
        tally.truncated = sum(prediction.truncated for prediction in predictions[options.tasks[0]])
        tally.unknown = sum(prediction.unknown for prediction in predictions[options.tasks[0]])
    return Answers(columns, tally)


def _without_none(text: Any) -> Any:
    if isinstance(text, tuple):
        return tuple(map(_without_none, text))
    return "" if text is None else text


def _error(check: Callable[[list[Any]], object], text: Any) -> str | None:
    """Return why a check refuses this text; None if it does not."""
    try:
        check([text])
    except InferenceError as error:
        return str(error)
    return None
