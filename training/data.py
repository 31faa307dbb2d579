"""Labelled rows for training: splitting, weighting and batching."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference.compare.labels import match_labels
from inference.compare.rows import LabelledRows
from inference.errors import InputError, counted
from inference.formats.bundle import SINGLE
from training.phrases import Phrases
from training.sources import Source


@dataclass(frozen=True)
class TaskData:
    """One task's rows: `fit` is trained on, `tuning` chooses when to stop and the threshold."""

    labels: tuple[str, ...]
    fit: LabelledRows
    tuning: LabelledRows
    validation: LabelledRows | None = None
    """Rows that nothing is chosen on; the report is about them."""
    phrases: Mapping[str, int] = field(default_factory=dict)
    """How many rows followed their sentence to the tuning rows ("moved"), and how many other sentences have too
    ("left_out")."""
    problem_type: str = SINGLE
    """`MULTI` if the student of a teacher gives a text several labels; the rows have one each all the same."""


def split(source: Source, tuning_share: float, seed: int) -> TaskData:
    """Split the training rows of a task, label by label, into rows to fit and rows to tune on.

    Rows with the same text stay on the same side, whatever their labels, and every label keeps one to fit. Where many
    rows are phrases of others, as in SST-2, whole sentences are drawn; their phrases follow, or are left out if
    sentences that are fitted have them too.

    Raises:
        InputError: fewer than two labels, a label with a single text, or one that only validation rows have.
    """
    ((task, labels),) = source.train.known.items()
    if len(labels) < 2:
        raise InputError(f"{source.place} has only the label {labels[0]!r}. At least two are needed.")
    by_label: list[list[str]] = [[] for _ in labels]
    for text, label_id in zip(source.train.texts, source.train.label_ids, strict=True):
        by_label[label_id].append(text)
    for label, texts in zip(labels, by_label, strict=True):
        if len(set(texts)) < 2:
            raise InputError(
                f"{source.place}: label {label!r} has only one text; at least two are needed. Add rows, or "
                "correct the label if it is misspelt."
            )
    shuffler = random.Random(seed)
    for texts in by_label:
        shuffler.shuffle(texts)
    phrases = Phrases(source.train.texts)
    drawn = _draw([[text for text in texts if text in phrases.whole] for texts in by_label], labels, tuning_share)
    held_out, left_out = phrases.of(drawn)
    fit, tuning = (LabelledRows([], {task: []}, {task: labels}) for _ in range(2))
    for label_id, texts in enumerate(by_label):
        for text in texts:
            if text not in left_out:
                part = tuning if text in held_out else fit
                part.texts.append(text)
                part.label_ids.append(label_id)
    if rest := set(labels).difference(labels[label_id] for label_id in fit.label_ids):
        raise InputError(
            f"{source.place}: every row of {min(rest)!r} is a phrase of a sentence to tune on, so none is left to fit. "
            "Add rows of it, or use another --seed."
        )
    if not tuning.texts:
        raise InputError(f"{source.place}: the rows are phrases of one sentence per label. Add rows to tune on.")
    moved = {
        "moved": sum(text not in drawn for text in tuning.texts),
        "left_out": len(source.train) - len(fit) - len(tuning),
    }
    validation = source.validation and with_ids(source.validation, task, labels, source.place)
    return TaskData(labels, fit, tuning, validation, moved)


def equal_texts(rows: LabelledRows) -> dict[str, int]:
    """Return how many pairs of rows have the same text ("pairs"), and how many of these the same label ("agree").

    Where labels of the same text differ, no model can get both right.
    """
    texts = Counter(rows.texts)
    labelled = Counter(zip(rows.texts, rows.label_ids, strict=True))
    return {"pairs": sum(map(_pairs, texts.values())), "agree": sum(map(_pairs, labelled.values()))}


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _draw(by_label: Sequence[Sequence[str]], labels: Sequence[str], share: float) -> set[str]:
    """Return texts that make up about this share of the rows of each label, so that every label keeps one."""
    labels_of: dict[str, set[int]] = {}
    for label_id, texts in enumerate(by_label):
        for text in texts:
            labels_of.setdefault(text, set()).add(label_id)
    left = [len(set(texts)) for texts in by_label]
    seen: set[str] = set()  # texts that an earlier label has assigned to a side
    drawn: set[str] = set()
    for label_id, texts in enumerate(by_label):
        if len(texts) < 2:
            continue  # of phrases without a sentence, or with a single one
        count = max(1, round(len(texts) * share))
        if len(texts) == count:
            raise InputError(f"A tuning share of {share:g} leaves no row of {labels[label_id]!r} to fit. Lower it.")
        copies = Counter(texts)  # in the order drawn
        missing = count - sum(number for text, number in copies.items() if text in drawn)
        free = [text for text in copies if text not in seen and all(left[other] > 1 for other in labels_of[text])]
        if missing == count and free and min(copies[text] for text in free) > missing:
            missing = min(copies[text] for text in free)  # every text has too many copies: take the rarest
        for text in free:
            # checked again, because another text may have been the last but one of a label
            if copies[text] <= missing and all(left[other] > 1 for other in labels_of[text]):
                missing -= copies[text]
                drawn.add(text)
                for other in labels_of[text]:
                    left[other] -= 1
        seen.update(copies)
    return drawn


def with_ids(rows: LabelledRows, task: str, labels: tuple[str, ...], place: str) -> LabelledRows:
    """Return the rows with their labels as positions in `labels`."""
    names = [rows.known[task][label_id] for label_id in rows.label_ids]
    counts = Counter(names)
    matching = match_labels(counts, labels)
    is_name = {name for name, position in matching.positions.items() if position >= 0 and not matching.by_position}
    unknown = Counter({name: count for name, count in counts.items() if name not in is_name})
    if unknown:
        label, count = unknown.most_common(1)[0]
        raise InputError(
            f"{place} has no row with the label {label!r}, the label of {counted(count, 'validation row')}. Correct "
            "the label, add training rows of it, or empty the cell to leave the row out."
        )
    return replace(rows, labels={task: [matching.positions[name] for name in names]}, known={task: labels})


def add_background(tasks: dict[str, TaskData], task: str, label: str, count: int, seed: int) -> None:
    """Add `count` texts of the other tasks to `task` as examples of `label`, its out-of-scope class.

    Outlier exposure (Hendrycks et al. 2019): a classifier that has seen texts from elsewhere under
    "none of these" stops forcing them into a class. Only `fit` grows; `tuning` keeps the task's own rows.
    Texts that the task itself has, in any part, are excluded: they have a label, or the model is judged on them.
    """
    if task not in tasks or label not in tasks[task].labels:
        raise InputError(f"The out-of-scope label {task}={label} is not in the data.")
    rows = tasks[task].fit
    parts = (rows, tasks[task].tuning, tasks[task].validation)
    own = {text for part in parts if part for text in part.texts}
    others = [text for name, data in tasks.items() if name != task for text in data.fit.texts if text not in own]
    if count > len(others):
        raise InputError(
            f"{count} background texts were requested, but the other tasks have only {len(others)} that {task!r} does "
            "not have. Use a smaller --background."
        )
    rows.texts.extend(random.Random(seed).sample(others, count))
    rows.label_ids.extend([tasks[task].labels.index(label)] * count)


def class_weights(rows: LabelledRows, labels: Sequence[str], power: float) -> list[float]:
    """Return one loss weight per label, proportional to frequency ** -power, with mean 1 over the rows.

    Power 0 weights all labels equally; 1 gives every label the same total weight (scikit-learn's "balanced").
    """
    counts = Counter(rows.label_ids)
    raw = [counts[i] ** -power for i in range(len(labels))]
    mean = sum(raw[i] * counts[i] for i in range(len(labels))) / len(rows)
    return [value / mean for value in raw]


def plan_batches(
    lengths: dict[str, list[int]], epochs: dict[str, float], batch_size: int, seed: int
) -> list[tuple[str, list[int]]]:
    """Return the (task, row numbers) of every step of a run, depending on the arguments alone.

    A batch holds rows of one task and of similar length. Tasks are spread evenly over the run, so that
    none is learnt first and forgotten. Nothing is drawn later, so the run can be resumed at any step.

    Raises:
        InputError: the epochs of a task are less than one row.
    """
    shuffler = random.Random(seed)
    placed: list[tuple[float, str, list[int]]] = []
    for task, sizes in lengths.items():
        batches: list[list[int]] = []
        remaining = epochs[task]
        while remaining > 0:
            order = list(range(len(sizes)))
            shuffler.shuffle(order)
            order = order[: round(len(order) * min(1.0, remaining))]
            remaining -= 1
            window = batch_size * 50  # sorted within a window: little padding, and still a new order each epoch
            epoch: list[list[int]] = []
            for start in range(0, len(order), window):
                rows = sorted(order[start : start + window], key=lambda row: sizes[row])
                epoch.extend(rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
            shuffler.shuffle(epoch)
            batches.extend(epoch)
        if not batches:
            raise InputError(
                f"{epochs[task]:g} epochs of the {len(sizes)} rows of {task!r} are less than one row. Use more epochs."
            )
        placed.extend(((i + shuffler.random()) / len(batches), task, rows) for i, rows in enumerate(batches))
    placed.sort(key=lambda item: item[0])
    return [(task, rows) for _, task, rows in placed]
