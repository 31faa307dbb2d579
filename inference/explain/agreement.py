"""How far explanations of one text on different backends agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inference.backends import TITLES
from inference.calls.texts import Text
from inference.classifier import Classifier
from inference.errors import InputError
from inference.explain.explanation import Explanation, signed
from inference.explain.run import explain
from inference.jobs import Progress


@dataclass(frozen=True)
class Agreement:
    """How far two explanations agree."""

    words: int
    """Words that have an attribution in both."""
    tau: float | None
    """Kendall's tau-b: 1 for the same order of words, -1 for the reverse; None for fewer than two, or all equal."""
    largest_difference: float
    """Between the two attributions of a word, in log-odds: the second minus the first."""
    differs_most: str
    """The word with the largest difference."""


def agreement(first: Explanation, second: Explanation) -> Agreement:
    """Compare the attributions of two explanations word by word.

    Raises:
        InputError: they differ in text, task, label, method or words.
    """
    from scipy.stats import kendalltau

    for what in ("text", "second_text", "task", "label", "method"):
        if getattr(first, what) != getattr(second, what):
            what = what.removeprefix("second_")
            raise InputError(f"Explanations of two {what}s cannot be compared. Explain the same {what} with both.")
    if [(word.start, word.end) for word in first.words] != [(word.start, word.end) for word in second.words]:
        raise InputError("The two explanations group words differently. Give both enough time for single words.")
    pairs = [
        (word.attribution, other.attribution, word.text)
        for word, other in zip(first.words, second.words, strict=True)
        if word.attribution is not None and other.attribution is not None
    ]
    if not pairs:
        raise InputError("No word has an attribution in both explanations. Give them more time.")
    ours, theirs = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    # scipy returns NaN for constants, which have no order.
    tau = float(kendalltau(ours, theirs).statistic) if len(pairs) > 1 else float("nan")
    most = int(np.abs(theirs - ours).argmax())
    return Agreement(len(pairs), None if np.isnan(tau) else tau, float(theirs[most] - ours[most]), pairs[most][2])


@dataclass(frozen=True)
class Comparison:
    """Explanations of one text on several backends, all of the same label."""

    explanations: Mapping[str, Explanation]
    """By backend, in the requested order."""
    agreements: Mapping[str, Agreement]
    """By backend, each against the first."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, ready for JSON."""
        return {
            "explanations": {name: explanation.to_dict() for name, explanation in self.explanations.items()},
            "agreements": {name: asdict(found) for name, found in self.agreements.items()},
        }


def compare_explanations(
    classifiers: Mapping[str, Classifier],
    text: Text,
    task: str | None,
    label: str | None,
    method: str,
    progress: Progress | None = None,
) -> Comparison:
    """Explain a text with several classifiers and compare each explanation with the first.

    Args:
        classifiers: by backend.
        label: default: the one that the first classifier predicts.
    """
    explanations: dict[str, Explanation] = {}
    for name, classifier in classifiers.items():
        explanations[name] = explain(classifier, text, task, label, method, progress=progress)
        label = explanations[name].label
    first, *others = explanations
    return Comparison(explanations, {name: agreement(explanations[first], explanations[name]) for name in others})


def agreement_sentence(result: Agreement, first: str, second: str) -> str:
    """Describe the agreement of two backends in a sentence."""
    if result.tau is None:
        order = "there is no order of words to compare"
    elif math.isclose(result.tau, 1.0, abs_tol=1e-12):
        order = "they put the words in the same order (Kendall's tau 1)"
    else:
        tau = signed(result.tau, 3)
        order = f"their orders of the words have Kendall's tau {tau} (1 is the same order, −1 the reverse)"
    return (
        f"{TITLES.get(second, second)} against {TITLES.get(first, first)}, {result.words} words: {order}; the largest "
        f"difference is {signed(result.largest_difference, 3)}, of {result.differs_most!r}."
    )
