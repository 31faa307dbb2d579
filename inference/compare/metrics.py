"""How often a classifier is right on labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.classifier import Classifier
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables.columns import read_table


@dataclass(frozen=True)
class LabelledRows:
    """Texts and their labels, row by row."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_rows(path: Path, text_column: str = "text", label_column: str = "label") -> LabelledRows:
    """The labelled rows of a CSV, JSONL or Parquet file; rows whose label is empty are left out.

    Raises:
        InputError: the file or a column is missing, it cannot be read, a text is empty, or no row is labelled.
    """
    if not path.is_file():
        raise InputError(f"No file {path}. A CSV file with the columns {text_column},{label_column} is wanted.")
    columns = read_table(path.name, path.read_bytes())
    missing = {text_column, label_column} - set(columns)
    if missing:
        raise InputError(f"{path} lacks the column(s) {', '.join(sorted(missing))}; it has {', '.join(columns)}.")
    rows = LabelledRows([], [])
    for number, (text, label) in enumerate(zip(columns[text_column], columns[label_column], strict=True), 1):
        label = "" if label is None else str(label).strip()
        if not label:
            continue
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}, row {number}: the text is empty.")
        rows.texts.append(text)
        rows.labels.append(label)
    if not rows.texts:
        raise InputError(f"{path} has no row with a label.")
    return rows


def metrics(
    found: NDArray[np.integer],
    confidence: NDArray[np.floating],
    true: NDArray[np.integer],
    task: Task,
) -> dict[str, Any]:
    """Accuracy, macro-F1 and coverage at the task's threshold, plus the out-of-scope figures where it has such a label.

    Macro-F1 is the mean over the labels that occur among the true ones: the same set for every backend.
    `coverage` is the share of rows answered at the task's threshold and `covered_accuracy` the
    accuracy among those. With an out-of-scope label: `in_scope_accuracy` (labels alone, over rows that
    are in scope), `in_scope_coverage` (of those, neither uncertain nor called out of scope) and
    `out_of_scope_recall` (of the other rows, uncertain or called out of scope).

    Args:
        found: position of the label given to each row, (rows,).
        confidence: its probability, (rows,).
        true: position of the right label, (rows,).
    """
    from sklearn.metrics import f1_score

    sure, right = confidence >= task.threshold, true == found
    result: dict[str, Any] = {
        "rows": len(true),
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(true, found, labels=np.unique(true), average="macro", zero_division=0)),
        "coverage": float(sure.mean()),
        "covered_accuracy": float(right[sure].mean()) if sure.any() else None,
    }
    if task.out_of_scope is not None:
        oos = task.labels.index(task.out_of_scope)
        outside = true == oos
        if outside.any() and not outside.all():
            answered = sure & (found != oos)
            result["in_scope_accuracy"] = float(right[~outside].mean())
            result["in_scope_coverage"] = float(answered[~outside].mean())
            result["out_of_scope_recall"] = float((~answered[outside]).mean())
    return result


def evaluate(classifier: Classifier, task: str, rows: LabelledRows) -> dict[str, Any]:
    """The metrics of `classifier` on `rows`, at the bundle's threshold.

    Raises:
        InputError: a label that the task does not have.
    """
    labels = classifier.tasks[task].labels
    unknown = sorted(set(rows.labels) - set(labels))
    if unknown:
        raise InputError(f"The rows have labels that the model does not know: {', '.join(unknown[:5])}.")
    predictions = classifier.predict(rows.texts, task)
    return metrics(
        np.array([labels.index(p.label) for p in predictions]),
        np.array([p.confidence for p in predictions]),
        np.array([labels.index(label) for label in rows.labels]),
        classifier.tasks[task],
    )
