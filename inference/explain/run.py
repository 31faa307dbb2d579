"""`explain`: from a classifier and a text to what each word does to a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from inference.backends import RUNTIMES, TITLES
from inference.classifier import probabilities
from inference.errors import InputError, importing, shown
from inference.explain import occlusion
from inference.explain.explanation import GRADIENTS, METHODS, OCCLUSION, Attribution, Explanation
from inference.explain.words import WordSpan, words_of
from inference.formats.tokenizer import is_unknown
from inference.jobs import Progress

if TYPE_CHECKING:
    from inference.calls.texts import EncodedText, Text
    from inference.classifier import Classifier
    from inference.explain.gradients import Gradients


class _WithNetwork(Protocol):
    """A backend of a runtime that has gradients."""

    network: Any


def explain(
    classifier: Classifier,
    text: Text,
    task: str | None = None,
    label: str | None = None,
    method: str = OCCLUSION,
    *,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Attribute the log-odds of a label to the words of a text.

    Args:
        text: a pair of texts for a model of pairs: words of both are left out.
        task: may be omitted if the model has only one.
        label: default: the predicted one.
        method: "occlusion" leaves out one word at a time and works on every backend; "integrated_gradients" needs
            PyTorch.
        budget_s: time limit in seconds. The explanation's `notes` say what did not fit into it.
        progress: called with the step and the share done; what it raises ends the work.

    Raises:
        InputError: a text that cannot be read, or an unknown task, label or method.
        MissingDependencyError: Captum, which integrated gradients need, is not installed.
    """
    task = classifier.one_task(task)
    spec = classifier.tasks[task]
    _check(classifier, task, label, method, budget_s)
    if method == GRADIENTS:
        _import_gradients()  # takes seconds the first time, which do not count for this text
    started = occlusion.clock()
    encoded = classifier.encode(text)
    logits = classifier.logits(encoded.encoding, [encoded.read], [task])[task]
    predicted = spec.labels[int(logits[0].argmax())]
    label = predicted if label is None else label
    index = spec.labels.index(label)
    words, read = words_read(classifier, text, encoded)
    if not words:  # a byte-level tokenizer makes tokens of white space
        raise InputError("The part of the text that the model reads is white space, so there is no word to explain.")
    job = _Task(
        classifier=classifier,
        task=task,
        index=index,
        encoded=encoded,
        words=words,
        log_odds=float(log_odds(logits, spec.problem_type, index)[0]),
        deadline=None if budget_s is None else started + budget_s,
        progress=progress,
    )
    result = job.occlude() if method == OCCLUSION else job.integrate()
    gradients = result.gradients
    first, second = (text, None) if isinstance(text, str) else text
    return Explanation(
        text=first,
        second_text=second,
        task=task,
        label=label,
        predicted=predicted,
        score=float(probabilities(logits, spec.problem_type)[0, index]),
        log_odds=job.log_odds,
        backend=classifier.backend.name,
        method=method,
        words=job.describe(text, result),
        read=read[0],
        second_read=None if second is None else read[1],
        unpaired=classifier.bundle.pairs and second is None,
        truncated=encoded.truncated,
        grouped=-(-len(words) // len(result.words)),
        baseline_log_odds=gradients.baseline if gradients else None,
        convergence_delta=gradients.convergence_delta if gradients else None,
        n_steps=gradients.n_steps if gradients else None,
        converged=gradients.converged if gradients else None,
        seconds=occlusion.clock() - started,
    )


@dataclass(frozen=True)
class _Attributions:
    """The result of either method."""

    words: Sequence[WordSpan]
    values: Sequence[float | None]
    gradients: Gradients | None = None
    """Of integrated gradients; None for occlusion."""


@dataclass(frozen=True)
class _Task:
    """One text and the label to explain."""

    classifier: Classifier
    task: str
    index: int
    encoded: EncodedText
    words: Sequence[WordSpan]
    log_odds: float
    deadline: float | None
    progress: Progress | None

    @property
    def rows_at_once(self) -> int:
        """Rows that fit one forward pass: the time is checked whenever that many per lane are answered."""
        return max(1, min(self.classifier.batch_size, self.classifier.token_budget // len(self.encoded.read)))

    def score(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return the log-odds of the label for rows of tokens of the text."""
        logits = self.classifier.logits(self.encoded.encoding, rows, [self.task])[self.task]
        return log_odds(logits, self.classifier.tasks[self.task].problem_type, self.index)

    def describe(self, text: Text, result: _Attributions) -> tuple[Attribution, ...]:
        """Return the words of the text with their attributions."""
        texts = (text,) if isinstance(text, str) else text
        return tuple(
            Attribution(
                texts[word.text][word.start : word.end],
                word.start,
                word.end,
                value,
                None if value is None or result.gradients else _probability(self.log_odds - value),
                is_unknown(self.encoded.encoding, self.classifier.unknown_token, word.pieces),
                word.text,
            )
            for word, value in zip(result.words, result.values, strict=True)
        )

    def report(self, step: str, share: float) -> None:
        if self.progress is not None:
            self.progress(step, share)

    def occlude(self) -> _Attributions:
        groups, falls = occlusion.occlude(
            self.score,
            self.encoded.read,
            self.words,
            whole=self.log_odds,
            deadline=self.deadline,
            rows_at_once=self.rows_at_once * self.classifier.lanes,
            progress=lambda share: self.report("leaving out words", share),
        )
        return _Attributions(groups, [None if math.isnan(value) else value for value in falls.tolist()])

    def integrate(self) -> _Attributions:
        library = _import_gradients()

        def progress(share: float) -> None:
            if self.deadline is not None and occlusion.clock() > self.deadline:
                raise library.TimeIsUp
            self.report("integrating gradients", share)

        encoding, read = self.encoded.encoding, self.encoded.read
        ids, special, types = encoding.ids, encoding.special_tokens_mask, encoding.type_ids
        pad = self.classifier.bundle.pad_id
        try:
            gradients = library.integrate(
                cast(_WithNetwork, self.classifier.backend).network,
                self.task,
                self.index,
                self.classifier.tasks[self.task].problem_type == "multi_label_classification",
                [ids[i] for i in read],
                [ids[i] if special[i] else pad for i in read],
                [types[i] for i in read] if self.classifier.bundle.token_types else None,
                rows_at_once=self.rows_at_once,
                progress=progress,
            )
        except library.TimeIsUp:
            raise InputError(
                "Time was up before integrated gradients had a result for this text. Allow more time, or use "
                f"method={OCCLUSION!r}."
            ) from None
        at = {token: place for place, token in enumerate(read)}
        sums = [float(gradients.attributions[[at[i] for i in word.pieces]].sum()) for word in self.words]
        return _Attributions(self.words, sums, gradients)


def _check(classifier: Classifier, task: str, label: str | None, method: str, budget_s: float | None) -> None:
    if method not in METHODS:
        raise InputError(f"Unknown method {shown(method)}. Known: {', '.join(METHODS)}.")
    labels = classifier.tasks[task].labels
    if label is not None and label not in labels:
        known = ", ".join(labels[:12]) + (f", … {len(labels)} in all" if len(labels) > 12 else "")
        raise InputError(f"Task {task!r} has no label {shown(label)}. It has: {known}.")
    if budget_s is not None and not (isinstance(budget_s, int | float) and budget_s > 0):
        raise InputError(f"budget_s={shown(budget_s)} is not a time. Give seconds above 0, or omit it.")
    name = classifier.backend.name
    if method == GRADIENTS and not (name in RUNTIMES and RUNTIMES[name].has_gradients):
        raise InputError(
            f"method={GRADIENTS!r} needs the gradients of a PyTorch network, and this model is loaded on "
            f"{TITLES.get(name, name)}. Use method={OCCLUSION!r}, or load it with backend='pytorch'."
        )
    if method == GRADIENTS and classifier.bundle.four_bit and classifier.backend.device == "cpu":
        # The CPU kernels of bitsandbytes have no backward pass.
        raise InputError(
            f"method={GRADIENTS!r} cannot go through a base in 4 bits on a CPU. Use method={OCCLUSION!r}, or load the "
            "base in full precision."
        )


def _import_gradients() -> Any:
    with importing(f"method={GRADIENTS!r}", f"-r requirements.txt. Or use method={OCCLUSION!r}."):
        from inference.explain import gradients
    return gradients


def words_read(
    classifier: Classifier, text: Text, encoded: EncodedText
) -> tuple[list[WordSpan], list[tuple[int, int]]]:
    """Return the words that the model reads, and for each text start and end of the part that they are in."""
    encoding, read = encoded.encoding, set(encoded.read)
    words: list[WordSpan] = []
    parts = []
    for number, one in enumerate((text,) if isinstance(text, str) else text):
        own = [
            not is_special and (part or 0) == number
            for part, is_special in zip(encoding.sequence_ids, encoding.special_tokens_mask, strict=True)
        ]
        kept = [is_own and i in read for i, is_own in enumerate(own)]
        low, high = 0, len(one)
        if kept != own:
            places = [place for place, is_kept in zip(encoding.offsets, kept, strict=True) if is_kept]
            if classifier.cuts_left:  # nothing of a text is read if special tokens leave no room
                low = min((start for start, _ in places), default=len(one))
            else:
                high = max((end for _, end in places), default=0)
        words += words_of(one, encoding.offsets, [not is_kept for is_kept in kept], (low, high), number)
        parts.append((low, high))
    return words, parts


def _probability(log_odds: float) -> float:
    small = math.exp(-abs(log_odds))  # at most 1: no overflow for either sign
    return 1 / (1 + small) if log_odds >= 0 else small / (1 + small)


def log_odds(logits: NDArray[np.floating], problem_type: str, label: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of one label for each row, exact even if p itself rounds to 1."""
    wide = logits.astype(np.float64)
    if problem_type == "multi_label_classification":
        return wide[:, label]
    return np.asarray(wide[:, label] - np.logaddexp.reduce(np.delete(wide, label, axis=1), axis=1))
