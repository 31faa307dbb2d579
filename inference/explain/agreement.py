"""How far two explanations of one text agree: whether they name the same words first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.backends import TITLES
from inference.classifier import Classifier
from inference.errors import InputError
from inference.explain.explanation import Explanation, signed
from inference.explain.run import explain
from inference.jobs import Progress


@dataclass(frozen=True)
class Agreement:
    """What two explanations have in common."""

    words: int
    """That both have a figure for."""
    tau: float | None
    """Kendall's tau-b: 1 for the same order of words, -1 for the reverse; None for fewer than two, or all equal."""
    largest_difference: float
    """Between the two attributions of a word, in log-odds, with its sign: the second less the first."""
    differs_most: str
    """The word that it belongs to."""


def agreement(first: Explanation, second: Explanation) -> Agreement:
    """How far `second` agrees with `first`, word by word.

    Raises:
        InputError: they are not of the same text, task, label and method, or of other words.
    """
    from scipy.stats import kendalltau

    for what in ("text", "task", "label", "method"):
        if getattr(first, what) != getattr(second, what):
            raise InputError(f"Explanations of two {what}s cannot be compared. Explain the same {what} with both.")
    if [(w.start, w.end) for w in first.words] != [(w.start, w.end) for w in second.words]:
        raise InputError("The two explanations have other words: give both the time to take each for itself.")
    pairs = [
        (one.attribution, two.attribution, one.text)
        for one, two in zip(first.words, second.words, strict=True)
        if one.attribution is not None and two.attribution is not None
    ]
    if not pairs:
        raise InputError("There is no word that both explanations have a figure for. Give them more time.")
    ones, twos = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    # scipy has no order for constants either, and says so with a NaN.
    tau = float(kendalltau(ones, twos).statistic) if len(pairs) > 1 else float("nan")
    most = int(np.abs(twos - ones).argmax())
    return Agreement(len(pairs), None if np.isnan(tau) else tau, float(twos[most] - ones[most]), pairs[most][2])


@dataclass(frozen=True)
class Comparison:
    """One text's explanations on several backends, all of the same label."""

    explanations: Mapping[str, Explanation]
    """By backend, in the order asked for."""
    agreements: Mapping[str, Agreement]
    """By backend, each against the first."""

    def to_dict(self) -> dict[str, Any]:
        """The comparison in plain types, ready for JSON."""
        from dataclasses import asdict

        return {
            "explanations": {name: one.to_dict() for name, one in self.explanations.items()},
            "agreements": {name: asdict(one) for name, one in self.agreements.items()},
        }


def compare_explanations(
    classifiers: Mapping[str, Classifier],
    text: str,
    task: str | None,
    label: str | None,
    method: str,
    progress: Progress | None = None,
) -> Comparison:
    """The same text explained on each of these, and how far the others agree with the first.

    Args:
        classifiers: by backend.
        label: the one that the first gives if left out.

    Raises:
        InputError: as `Classifier.explain`.
    """
    found: dict[str, Explanation] = {}
    for name, classifier in classifiers.items():
        found[name] = explain(classifier, text, task, label, method, progress=progress)
        label = found[name].label
    first, *others = found
    return Comparison(found, {name: agreement(found[first], found[name]) for name in others})


def agreement_sentence(found: Agreement, first: str, second: str) -> str:
    """What an agreement means, in a sentence."""
    if found.tau is None:
        order = "there is no order of words to compare"
    elif math.isclose(found.tau, 1.0, abs_tol=1e-12):
        order = "they put the words in the same order (Kendall's tau 1)"
    else:
        tau = signed(found.tau, 3)
        order = f"their orders of the words have Kendall's tau {tau} (1 is the same order, −1 the reverse)"
    return (
        f"{TITLES.get(second, second)} against {TITLES.get(first, first)}, {found.words} words: {order}; the largest "
        f"difference is {signed(found.largest_difference, 3)}, of {found.differs_most!r}."
    )
