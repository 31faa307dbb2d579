"""How often a classifier is right on labelled rows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.bundle import Task
from inference.classifier import Classifier, Prediction
from inference.errors import InputError


@dataclass(frozen=True)
class LabelledRows:
    """Texts and their labels, row by row."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_rows(path: Path, text_column: str = "text", label_column: str = "label") -> LabelledRows:
    """The labelled rows of a UTF-8 CSV file; rows whose label is empty are left out.

    Raises:
        InputError: the file or a column is missing, it is not UTF-8, a text is empty, or no row is labelled.
    """
    if not path.is_file():
        raise InputError(f"No file {path}. A CSV file with the columns {text_column},{label_column} is wanted.")
    rows = LabelledRows([], [])
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {text_column, label_column} - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"{path} lacks the column(s) {', '.join(sorted(missing))}; "
                    f"it has {', '.join(reader.fieldnames or ())}."
                )
            for row in reader:
                text, label = row[text_column] or "", (row[label_column] or "").strip()
                if not label:
                    continue
                if not text.strip():
                    raise InputError(f"{path}, line {reader.line_num}: the text is empty.")
                rows.texts.append(text)
                rows.labels.append(label)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    if not rows.texts:
        raise InputError(f"{path} has no row with a label.")
    return rows


def metrics(predictions: Sequence[Prediction], labels: Sequence[str], task: Task) -> dict[str, Any]:
    """Accuracy, macro-F1 and coverage, plus the out-of-scope figures where the task has such a label.

    `coverage` is the share of rows answered at the task's threshold and `covered_accuracy` the
    accuracy among those. With an out-of-scope label: `in_scope_accuracy` (labels alone, over rows that
    are in scope), `in_scope_coverage` (of those, neither uncertain nor called out of scope) and
    `out_of_scope_recall` (of the other rows, uncertain or called out of scope).

    Raises:
        InputError: a label that the task does not have.
    """
    from sklearn.metrics import f1_score

    unknown = sorted(set(labels) - set(task.labels))
    if unknown:
        raise InputError(f"The rows have labels that the model does not know: {', '.join(unknown[:5])}.")
    true, found = np.array(labels), np.array([p.label for p in predictions])
    sure = np.array([not p.uncertain for p in predictions])
    right = true == found
    result: dict[str, Any] = {
        "rows": len(true),
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(true, found, labels=list(task.labels), average="macro", zero_division=0)),
        "coverage": float(sure.mean()),
        "covered_accuracy": float(right[sure].mean()) if sure.any() else None,
    }
    outside = true == task.out_of_scope
    if outside.any():
        answered = sure & (found != task.out_of_scope)
        result["in_scope_accuracy"] = float(right[~outside].mean())
        result["in_scope_coverage"] = float(answered[~outside].mean())
        result["out_of_scope_recall"] = float((~answered[outside]).mean())
    return result


def evaluate(classifier: Classifier, task: str, rows: LabelledRows) -> dict[str, Any]:
    """The metrics of `classifier` on `rows`, at the bundle's threshold."""
    return metrics(classifier.predict(rows.texts, task), rows.labels, classifier.tasks[task])
