"""What a classifier answers: predictions, as a table or in the shapes of a transformers pipeline, and timings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import InputError, importing, shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """One text's answer for one task."""

    label: str
    confidence: float
    scores: Mapping[str, float]
    """Probability of each label, in the task's order. Sums to 1 unless the task is multi-label."""
    uncertain: bool
    """The confidence is below the threshold."""
    truncated: bool
    """The text has more tokens than the model reads; the rest was ignored."""
    unknown: bool = False
    """No word of the text is in the model's vocabulary, so the answer is meaningless."""
    unpaired: bool = False
    """The model was trained on pairs and was given a single text, so the answer may be meaningless."""
    labels: tuple[str, ...] = ()
    """Of a multi-label task, every label that reaches the threshold (0.5 if the task has none), in the task's order;
    it may be empty. Of any other task, the label alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction in plain types, ready for JSON."""
        return asdict(self) | {"labels": list(self.labels)}


@dataclass(frozen=True)
class Timing:
    """Time spent in one call, in milliseconds. `rest_ms` is checking, batching and reading logits."""

    tokenize_ms: float
    forward_ms: float
    rest_ms: float

    @property
    def total_ms(self) -> float:
        return self.tokenize_ms + self.forward_ms + self.rest_ms


@dataclass(frozen=True)
class Answer:
    """Predictions per task, in the order of the texts, and the timing of the call."""

    predictions: Mapping[str, list[Prediction]]
    timing: Timing
    note: str = ""
    """Where and in which precision it was computed, if that is not the same for every answer."""


def to_frame(predictions: Prediction | Iterable[Prediction | None], index: Any = None) -> pd.DataFrame:
    """Return a pandas DataFrame with a row per prediction: label, labels, confidence and the flags.

    The row of a skipped text (None) has only missing values.

    Args:
        predictions: what `predict` returns, or what `stream` yields.
        index: the index of the rows, such as `df.index`.

    Raises:
        InputError: the index has another length.
        MissingDependencyError: pandas is not installed.
    """
    with importing("to_frame", "pandas"):
        import pandas as pd
    rows = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    if index is not None and len(index) != len(rows):
        raise InputError(f"The index has {len(index):,} rows, and there are {len(rows):,} predictions.")
    flags = ("uncertain", "truncated", "unknown", "unpaired")
    columns: dict[str, Any] = {
        name: pd.Series([None if row is None else getattr(row, name) for row in rows], dtype=dtype)
        for name, dtype in {"label": "object", "labels": "object", "confidence": "float64"}.items()
    } | {
        name: pd.array([None if row is None else getattr(row, name) for row in rows], dtype="boolean") for name in flags
    }
    frame = pd.DataFrame(columns)
    return frame if index is None else frame.set_axis(index, axis=0)


def pipeline_entries(prediction: Prediction, top_k: int | None) -> list[dict[str, Any]]:
    """Return the labels of the highest scores (default: all), best first, as a text-classification pipeline does."""
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k={shown(top_k)} must be a whole number of at least 1, or None for all labels.")
    ranked = sorted(prediction.scores.items(), key=lambda item: item[1], reverse=True)
    return [{"label": label, "score": score} for label, score in ranked[:top_k]]
