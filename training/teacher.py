"""A teacher: a model whose scores another one is trained on, besides labels (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from inference.artifacts.parity import score_rows
from inference.calls.columns import windows
from inference.calls.texts import Text, check_texts
from inference.classifier import Classifier
from inference.compare.labels import match_labels
from inference.compare.rows import open_data
from inference.errors import InputError, counted
from inference.formats.bundle import MULTI, Bundle, Task
from inference.formats.identity import content_key, digest
from inference.formats.labels import TASK
from inference.tables.reading import read_columns
from training.data import TaskData
from training.phrases import overlapping

MAX_UNLABELLED = 1_000_000  # texts, which are in memory with their tokens
MAX_BYTES = 8_000_000_000  # of a file of soft labels
BLOCK = 256  # texts between two writes: what a run that is killed may lose
LABELS_SHOWN = 5
Matrix = NDArray[np.float32]  # (texts, labels)


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher; written into the bundle."""

    teacher: str
    """Name of the model."""
    content: str
    """Its content key."""
    temperature: float = 2.0
    """Both distributions are softened by it before they are compared."""
    teacher_weight: float = 0.7
    label_weight: float = 0.3


def distillation_of(teacher: Bundle, **options: float) -> Distillation:
    """Return how a student learns from this teacher; `options` are the numbers of `Distillation`.

    Raises:
        InputError: a number is out of range.
    """
    how = Distillation(teacher.name, content_key(teacher), **options)
    if not 0.1 <= how.temperature <= 100:
        raise InputError(f"--temperature {how.temperature:g} must be from 0.1 to 100.")
    if not 0 < how.teacher_weight <= 100:
        raise InputError(f"--teacher-weight {how.teacher_weight:g} must be above 0, and at most 100.")
    if not 0 <= how.label_weight <= 100:
        raise InputError(f"--label-weight {how.label_weight:g} must be from 0 to 100.")
    return how


@dataclass(frozen=True)
class Lesson:
    """What the teacher has to say about a task of the student."""

    name: str
    """The teacher's name of the task."""
    task: Task
    positions: list[int]
    """The teacher's label for each label of the student."""
    remarks: list[str]


@dataclass(frozen=True)
class SoftLabels:
    """The teacher's scores for the rows of one task: those to fit, then texts without a label."""

    unlabelled: list[str]
    scores: Matrix
    """Of all texts and all labels of the teacher, a file in memory."""
    places: NDArray[np.int64]
    """Row -> its row in `scores`."""
    columns: list[int]
    """Label of the student -> its column in `scores`."""
    problem_type: str

    def of(self, rows: Sequence[int]) -> Matrix:
        """Return the scores (rows, labels); NaN in rows that the teacher cannot answer.

        These are texts that it cannot read, or knows no word of, and those to which it gives labels that the student
        does not have.
        """
        scores: Matrix = self.scores[self.places[list(rows)]][:, self.columns]
        if self.problem_type == MULTI:
            return scores
        sums = scores.sum(axis=1, keepdims=True)
        return np.where(sums >= 0.5, scores / np.maximum(sums, 0.5), np.float32("nan"))

    def answered(self) -> NDArray[np.bool_]:
        """Return whether the teacher answers each row."""
        blocks = (range(start, min(start + BLOCK, len(self.places))) for start in range(0, len(self.places), BLOCK))
        return np.concatenate([~np.isnan(self.of(block)).any(axis=1) for block in blocks])

    def only(self, keep: NDArray[np.bool_], fitted: int) -> SoftLabels:
        """Return these without the texts that are not to be kept; the first `fitted` rows stay."""
        keep = np.concatenate([np.ones(fitted, bool), keep[fitted:]])
        unlabelled = [text for text, is_kept in zip(self.unlabelled, keep[fitted:], strict=True) if is_kept]
        return SoftLabels(unlabelled, self.scores, self.places[keep], self.columns, self.problem_type)


def match_tasks(tasks: Mapping[str, TaskData], teacher: Bundle) -> tuple[dict[str, Lesson], list[str]]:
    """Return task -> what the teacher knows of it, and why it knows nothing of the others.

    A task is the teacher's of the same name. If one of two has no name of its own ("label"), their labels decide.

    Raises:
        InputError: there is no such task, or the teacher reads pairs of texts.
    """
    if teacher.pairs:
        raise InputError(
            f"The teacher {teacher.name} reads pairs of texts, and training reads single ones. Name another teacher."
        )
    lessons: dict[str, Lesson] = {}
    reasons = []
    nameless = [name for name in tasks if name not in teacher.tasks]
    for name, data in tasks.items():
        candidates = [name] if name in teacher.tasks else []
        if nameless == [name]:
            candidates = [other for other in teacher.tasks if other not in tasks and TASK in (name, other)]
        offers = [_lesson(name, data.labels, other, teacher.tasks[other]) for other in candidates]
        fitting = [offer for offer in offers if isinstance(offer, Lesson)]
        if len(fitting) == 1:
            lessons[name] = fitting[0]
        elif len(fitting) > 1:
            names = ", ".join(lesson.name for lesson in fitting)
            reasons.append(f"{name}: several tasks of the teacher have its labels: {names}; choose one with --tasks.")
        elif offers:
            reasons.append(f"{name}: {offers[0]}")
        else:
            names = ", ".join(list(teacher.tasks)[:LABELS_SHOWN])
            reasons.append(f"{name}: the teacher has no task of this name, only {names}; name it so with --tasks.")
    if not lessons:
        raise InputError(f"The teacher {teacher.name} knows no task of the data. {' '.join(reasons)}")
    return lessons, [f"{reason} It is trained on labels alone." for reason in reasons]


def _lesson(name: str, labels: Sequence[str], other: str, task: Task) -> Lesson | str:
    """Return what the teacher's task `other` offers for these labels, or the reason why it does not fit."""
    positions = match_labels(Counter(labels), task.labels, column=name).positions
    places = [positions.get(label, -1) for label in labels]
    missing = [label for label, place in zip(labels, places, strict=True) if place < 0 or places.count(place) > 1]
    if missing:
        return (
            f"the teacher's task {other!r} has no label of its own for {_listed(missing)}; it has "
            f"{_listed(task.labels)}. Rename labels with --label-map."
        )
    remarks = [f"the teacher's task is {other!r}"] if other != name else []
    read = [(label, task.labels[place]) for label, place in zip(labels, places, strict=True)]
    if renamed := [f"{theirs!r} for {label!r}" for label, theirs in read if theirs.casefold() != label.casefold()]:
        remarks.append(f"the teacher says {_listed(renamed)}")
    if rest := [label for i, label in enumerate(task.labels) if i not in places]:
        remarks.append(f"the teacher's labels {_listed(rest)} are not in the data")
    if task.problem_type == MULTI:
        remarks.append("the teacher gives a text several labels, and so will the student")
    return Lesson(other, task, places, remarks)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LABELS_SHOWN]) + (", …" if len(names) > LABELS_SHOWN else "")


def read_unlabelled(addresses: Sequence[str], text_column: str | None) -> tuple[list[str], list[str], list[str]]:
    """Return the different texts of some tables, remarks on what was assumed and left out, and the files' SHA-256.

    Args:
        addresses: files, or hf://datasets/OWNER/NAME/PATH.
        text_column: by default found by its name.

    Raises:
        InputError: a file cannot be read, has no text, or there are too many.
    """
    texts: dict[str, None] = {}
    remarks, digests = [], []
    for address in addresses:
        table, sha256, assumed = open_data(address, text_column)
        if len(texts) + table.row_count > MAX_UNLABELLED:
            raise InputError(f"{table.name}: more than {MAX_UNLABELLED:,} texts without labels. Use a part of them.")
        reasons = []
        read = 0
        for row, cell in enumerate(read_columns(table, [table.text_column])[table.text_column], 1):
            try:
                check_texts([cell])
            except InputError as error:
                reasons.append(f"row {row:,}: {error}")
            else:
                texts[cell] = None
                read += 1
        if not read:
            raise InputError(f"{table.name} has no text to learn from" + (f" ({reasons[0]})." if reasons else "."))
        if reasons:
            assumed.append(f"{counted(len(reasons), 'row')} left out; {reasons[0].rstrip('.')}")
        remarks += [f"{table.name}: {remark}" for remark in assumed]
        digests.append(sha256)
    return list(texts), remarks, digests


def write_soft_labels(
    teacher: Bundle,
    names: Sequence[str],
    texts: Sequence[str],
    folder: Path,
    open_teacher: Callable[[], Classifier],
    dtype: str | None = None,
) -> Matrix:
    """Return the teacher's scores for these tasks, one beside the other, (texts, labels), from a file in `folder`.

    The file is written once for a teacher and texts; after an interruption it is continued, in the same bytes. A row
    is NaN if the teacher cannot read the text, or knows none of its words.

    Args:
        dtype: of the teacher that `open_teacher` returns; None for its own.

    Raises:
        InputError: the file would be too large.
        InferenceError: the teacher cannot be opened, or does not answer.
    """
    width = sum(len(teacher.tasks[name].labels) for name in names)
    row_bytes = width * np.dtype(np.float32).itemsize
    size_bytes = len(texts) * row_bytes
    if size_bytes > MAX_BYTES:
        raise InputError(
            f"{len(texts):,} texts with {width:,} scores each take {size_bytes / 1e9:.0f} GB; the limit is "
            f"{MAX_BYTES / 1e9:.0f} GB. Use fewer texts without labels."
        )
    from filelock import FileLock

    read = hashlib.sha256()
    for text in texts:
        read.update(f"{json.dumps(text)}\n".encode())
    parts = {"teacher": content_key(teacher), "tasks": list(names), "texts": read.hexdigest(), "block": BLOCK}
    key = digest({**parts, "dtype": dtype} if dtype else parts)
    path = folder / f"{key}.f32"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file() or path.stat().st_size != size_bytes:
            part = path.with_suffix(".part")
            with part.open("ab") as file:
                done = min(file.tell() // (BLOCK * row_bytes) * BLOCK, len(texts))  # whole blocks only
                file.truncate(done * row_bytes)
                for block in _answers(open_teacher(), names, texts, done):
                    file.write(block.tobytes())
                    file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    return np.memmap(path, np.float32, "r", shape=(len(texts), width))


def _answers(classifier: Classifier, names: Sequence[str], texts: Sequence[str], start: int) -> Iterator[Matrix]:
    """Yield the scores of one block of texts after the other, beginning at `start`."""
    width = sum(len(classifier.tasks[name].labels) for name in names)
    unread = np.full(width, np.nan, np.float32)

    def answer(window: list[Text]) -> list[Matrix | None]:
        predictions = classifier.classify(window, names).predictions
        scores = np.concatenate([score_rows(predictions[name]) for name in names], axis=1).astype(np.float32)
        unknown = [prediction.unknown for prediction in predictions[names[0]]]
        return [None if is_unknown else row for row, is_unknown in zip(scores, unknown, strict=True)]

    with tqdm(total=len(texts), initial=start, unit=" texts", desc="teacher", mininterval=5) as bar:
        for at in range(start, len(texts), BLOCK):
            rows = list(windows(texts[at : at + BLOCK], answer, classifier.problems, skip=True))
            yield np.stack([unread if row is None else row for row in rows])
            bar.update(len(rows))


def teach(
    tasks: Mapping[str, TaskData],
    lessons: Mapping[str, Lesson],
    texts: Sequence[str],
    scores: Callable[[Sequence[str], Sequence[str]], Matrix],
) -> dict[str, SoftLabels]:
    """Return task -> the soft labels of its rows to fit and of those of `texts` that it may learn from.

    Args:
        scores: of the teacher, for names of its tasks and texts.
    """
    unlabelled = {}
    for name in lessons:
        data = tasks[name]
        held_out = [*data.tuning.texts, *(data.validation.texts if data.validation else ())]
        excluded = {*data.fit.texts, *held_out}
        if any(data.phrases.values()):
            excluded |= overlapping(texts, held_out)
        unlabelled[name] = [text for text in texts if text not in excluded]
    rows = {name: [*tasks[name].fit.texts, *unlabelled[name]] for name in lessons}
    distinct = list(dict.fromkeys(text for of_task in rows.values() for text in of_task))
    names = list(dict.fromkeys(lesson.name for lesson in lessons.values()))
    table = scores(names, distinct)
    places = {text: place for place, text in enumerate(distinct)}
    starts, width = {}, 0
    for lesson in lessons.values():
        starts[lesson.name], width = width, width + len(lesson.task.labels)
    soft = {}
    for name, lesson in lessons.items():
        columns = [starts[lesson.name] + position for position in lesson.positions]
        at = np.array([places[text] for text in rows[name]])
        of_task = SoftLabels(unlabelled[name], table, at, columns, lesson.task.problem_type)
        soft[name] = of_task.only(of_task.answered(), len(tasks[name].fit))
    return soft
