"""How far a built model agrees with its source on real texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.calls.texts import Text
from inference.classifier import Classifier, Prediction, probabilities
from inference.formats.bundle import Bundle

Matrix = NDArray[np.float64]  # (texts, labels), probabilities
FP32_TOLERANCE = 1e-4  # largest difference of a probability that FP32 arithmetic explains


def as_read(bundle: Bundle, texts: Sequence[str]) -> Sequence[Text]:
    """Return texts as the model reads them: for a model of pairs, each with the text after it."""
    return list(zip(texts, [*texts[1:], texts[0]], strict=True)) if bundle.pairs else texts


def score_rows(predictions: Sequence[Prediction]) -> Matrix:
    """Return the probabilities of one task, (texts, labels)."""
    return np.array([list(prediction.scores.values()) for prediction in predictions])


def score_matrix(classifier: Classifier, texts: Sequence[Text]) -> dict[str, Matrix]:
    """Return the probabilities (texts, labels) of each task from one call, which sorts and batches the texts."""
    return {task: score_rows(predictions) for task, predictions in classifier.predict_all_tasks(list(texts)).items()}


def score_matrix_mixed(classifier: Classifier, texts: Sequence[Text], batch_size: int = 32) -> dict[str, Matrix]:
    """Return the same from padded batches in the given order: short texts beside long ones, unlike after sorting."""
    tokens, rows = classifier.tokenize(texts), range(len(texts))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    logits = [classifier.backend.logits(**tokens.feed(batch, classifier.bundle.pad_id)) for batch in batches]
    return {
        name: probabilities(np.concatenate([batch[name] for batch in logits]), task.problem_type)
        for name, task in classifier.tasks.items()
    }


def score_matrix_alone(classifier: Classifier, texts: Sequence[Text]) -> dict[str, Matrix]:
    """Return the same with every text in a call of its own."""
    answers = [classifier.predict_all_tasks(text) for text in texts]
    return {task: score_rows([answer[task] for answer in answers]) for task in classifier.tasks}


def differences(reference: dict[str, Matrix], other: dict[str, Matrix]) -> dict[str, dict[str, float]]:
    """Compare probabilities per task.

    Returns:
        `max_abs_dp`, the largest |Δprobability|; `mean_abs_dp`, the mean over texts of the largest of each, which does
        not shrink with the number of labels; and `label_agreement`, the share of equal labels.
    """
    figures = {}
    for task, expected in reference.items():
        moved = np.abs(expected - other[task])
        figures[task] = {
            "max_abs_dp": float(moved.max()),
            "mean_abs_dp": float(moved.max(axis=1).mean()),
            "label_agreement": float((expected.argmax(1) == other[task].argmax(1)).mean()),
        }
    return figures


def judge(expected: dict[str, Matrix], classifier: Classifier, texts: Sequence[Text]) -> dict[str, Any]:
    """Compare a classifier's answers with the `expected` probabilities, and its answers alone with those in batches.

    Returns:
        `tasks` as from `differences`, `max_abs_dp` and `label_agreement` over all tasks, `batch_flips`, the number of
        labels that differ between a text alone and the same text in a padded batch of 32 of mixed lengths, and
        `batch_max_abs_dp`, the largest |Δprobability| between the two.
    """
    batched = score_matrix(classifier, texts)
    alone = score_matrix_alone(classifier, texts)
    mixed = score_matrix_mixed(classifier, texts)
    tasks = differences(expected, batched)
    return {
        "tasks": tasks,
        "max_abs_dp": max(task["max_abs_dp"] for task in tasks.values()),
        "label_agreement": float(np.mean([task["label_agreement"] for task in tasks.values()])),
        "batch_flips": sum(int((alone[t].argmax(1) != mixed[t].argmax(1)).sum()) for t in alone),
        "batch_max_abs_dp": max(float(np.abs(alone[t] - mixed[t]).max()) for t in alone),
    }
