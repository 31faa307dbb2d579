"""Accuracy of a classifier on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.classifier import Classifier
from inference.formats.bundle import Task


def metrics(
    predicted: NDArray[np.integer],
    confidence: NDArray[np.floating],
    true: NDArray[np.integer],
    task: Task,
) -> dict[str, Any]:
    """Return accuracy, macro-F1 and coverage at the task's threshold, and figures for an out-of-scope label.

    Macro-F1 is the mean over the labels in `true`, the same for every backend. `coverage` is the share of rows at or
    above the threshold and `covered_accuracy` the accuracy among those. With an out-of-scope label: `in_scope_accuracy`
    over the rows in scope, `in_scope_coverage` (of those, neither uncertain nor called out of scope) and
    `out_of_scope_recall` (of the others, uncertain or called out of scope).

    Args:
        predicted: label ids, shape (rows,).
        confidence: probabilities of the predicted labels, shape (rows,).
        true: true label ids, shape (rows,).
    """
    from sklearn.metrics import f1_score

    sure, right = confidence >= task.threshold, true == predicted
    result: dict[str, Any] = {
        "rows": len(true),
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)),
        "coverage": float(sure.mean()),
        "covered_accuracy": float(right[sure].mean()) if sure.any() else None,
    }
    if task.out_of_scope is not None:
        oos = task.labels.index(task.out_of_scope)
        outside = true == oos
        if outside.any() and not outside.all():
            answered = sure & (predicted != oos)
            result["in_scope_accuracy"] = float(right[~outside].mean())
            result["in_scope_coverage"] = float(answered[~outside].mean())
            result["out_of_scope_recall"] = float((~answered[outside]).mean())
    return result


def evaluate(classifier: Classifier, task: str, texts: Sequence[str], true: Sequence[int]) -> dict[str, Any]:
    """Return the metrics of `classifier` at the bundle's threshold.

    Args:
        true: position of the right label of each text.
    """
    labels = classifier.tasks[task].labels
    predictions = classifier.predict(texts, task)
    return metrics(
        np.array([labels.index(p.label) for p in predictions]),
        np.array([p.confidence for p in predictions]),
        np.array(true),
        classifier.tasks[task],
    )
