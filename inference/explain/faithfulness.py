"""Whether the answer depends on the words that an explanation ranks first.

Comprehensiveness is how much the probability of the predicted label falls without the first words of a ranking,
sufficiency how much it falls with nothing but them (DeYoung et al. 2020, ERASER); each is the mean over the first 1, 5,
10, 20 and 50% of the words, rounded up (the paper's AOPC without its bin of no words, which is always 0). A figure
means something only next to that of random rankings: removing any word lowers a confidence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.assets import SHOWCASE
from inference.backends import TITLES
from inference.calls.texts import EncodedText, Text
from inference.classifier import Classifier, probabilities
from inference.errors import InputError
from inference.explain.explanation import METHOD_TITLES, signed
from inference.explain.occlusion import without
from inference.explain.run import explain, words_read
from inference.explain.words import WordSpan
from inference.formats.bundle import Bundle
from inference.jobs import Progress

BINS = (0.01, 0.05, 0.10, 0.20, 0.50)
FORMAT, VERSION = "triptych-faithfulness", 1
SEED = 0
DRAWS = 5  # random rankings of each text
FIGURES = ("comprehensiveness", "sufficiency")
Array = NDArray[np.float64]


def measure_faithfulness(
    classifier: Classifier,
    texts: Sequence[Text],
    method: str,
    *,
    tasks: Sequence[str] | None = None,
    draws: int = DRAWS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure comprehensiveness and sufficiency of the rankings by `method` and of random ones, per task.

    Args:
        draws: random rankings of each text, the same for every task.

    Returns:
        For each figure `{"explained", "random", "difference": {"value", "low", "high"}, "better"}`, means over the
        texts. The difference is positive if the explanations are better (for sufficiency less is better), with a 95%
        bootstrap interval over the texts; `better` is the share of texts on which they are.
    """
    names = list(classifier.tasks) if tasks is None else [classifier.one_task(task) for task in tasks]
    falls: dict[str, list[tuple[Array, Array]]] = {task: [] for task in names}
    for number, text in enumerate(texts):
        if progress is not None:
            progress("explaining, and removing words", number / len(texts))
        rng = np.random.default_rng([SEED, number])
        encoded = classifier.encode(text)
        tokens, (words, _) = encoded.read, words_read(classifier, text, encoded)
        random = [row for _ in range(draws) for row in _rows(tokens, words, rng.permutation(len(words)).tolist())]
        logits = _logits(classifier, encoded, [tokens, *random], names)
        for task in names:
            spec = classifier.tasks[task]
            scores = probabilities(logits[task], spec.problem_type)
            label = int(scores[0].argmax())
            attributions = explain(classifier, text, task, spec.labels[label], method).words
            if len(attributions) < len(words):
                raise InputError(f"A text of {len(words):,} words is too long for this check. Leave it out.")
            order = np.argsort([-(word.attribution or 0.0) for word in attributions], kind="stable").tolist()
            ranked = _logits(classifier, encoded, _rows(tokens, words, order), [task])[task]
            explained = probabilities(ranked, spec.problem_type)[:, label].reshape(2, len(BINS)).mean(1)
            by_chance = scores[1:, label].reshape(draws, 2, len(BINS)).mean((0, 2))
            falls[task].append((scores[0, label] - explained, scores[0, label] - by_chance))
    return {task: _summary(np.array(pairs)) for task, pairs in falls.items()}


def _logits(
    classifier: Classifier, encoded: EncodedText, rows: Sequence[Sequence[int]], tasks: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return `Classifier.logits`, computing equal rows once; short texts have many."""
    places: dict[tuple[int, ...], int] = {}
    place_of = [places.setdefault(tuple(row), len(places)) for row in rows]
    logits = classifier.logits(encoded.encoding, list(places), tasks)
    return {task: of_task[place_of] for task, of_task in logits.items()}


def _rows(tokens: Sequence[int], words: Sequence[WordSpan], order: Sequence[int]) -> list[list[int]]:
    """Return a row per bin without the first words of a ranking, then a row per bin with only them."""
    cuts = [math.ceil(share * len(words)) for share in BINS]
    ranked = [words[i] for i in order]
    return [without(tokens, ranked[:cut]) for cut in cuts] + [without(tokens, ranked[cut:]) for cut in cuts]


def _summary(pairs: Array) -> dict[str, Any]:
    """Return the figures of one task from falls (texts, [explained, random], [comprehensiveness, sufficiency])."""
    from scipy.stats import bootstrap

    figures: dict[str, Any] = {"texts": len(pairs)}
    for column, name in enumerate(FIGURES):
        explained, random = pairs[:, 0, column], pairs[:, 1, column]
        gain = explained - random if name == "comprehensiveness" else random - explained
        low = high = value = float(gain.mean())
        if len(pairs) > 1 and np.ptp(gain) > 0:
            result = bootstrap((gain,), np.mean, method="percentile", rng=np.random.default_rng(0))
            low, high = map(float, result.confidence_interval)
        figures[name] = {
            "explained": float(explained.mean()),
            "random": float(random.mean()),
            "difference": {"value": value, "low": low, "high": high},
            "better": float((gain > 0).mean()),
        }
    return figures


def make_record(
    classifier: Classifier, method: str, figures: Mapping[str, Any], texts: str, draws: int = DRAWS
) -> dict[str, Any]:
    """Return what `measure_faithfulness` measured together with what it was measured on.

    Args:
        texts: SHA-256 of the file of the texts.
    """
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": {"name": classifier.bundle.name, "digest": model_digest(classifier.bundle)},
        "backend": classifier.backend.name,
        "method": method,
        "data": {"name": SHOWCASE.name, "sha256": texts},
        "bins": list(BINS),
        "draws": draws,
        "seed": SEED,
        "tasks": dict(figures),
    }


def model_digest(bundle: Bundle) -> str:
    """Return a SHA-256 over all files of a model and its base, independent of their folder."""
    base = bundle.base.files if bundle.base else {}
    files = {**bundle.files, **{f"base/{name}": digest for name, digest in base.items()}}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file; none if the file does not exist.

    Raises:
        InputError: the file holds something else.
    """
    if not path.is_file():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {document['format']!r}, version {document['version']!r}")
        return list(document["records"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no records of this check ({error}). Name another file.") from None


def add_record(path: Path, record: Mapping[str, Any]) -> None:
    """Put a record into a file; it replaces the one of the same model, backend and method.

    If that one is of the same texts, its other tasks are kept.

    Raises:
        InputError: the file holds something else.
    """
    records = read_records(path)
    others = [entry for entry in records if _key(entry) != _key(record)]
    tasks = dict(record["tasks"])
    for entry in records:
        if _key(entry) == _key(record) and entry["data"] == record["data"]:
            tasks = {**entry["tasks"], **tasks}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "records": sorted([*others, {**record, "tasks": tasks}], key=_key),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def find_record(path: Path, bundle: Bundle, backend: str, method: str) -> dict[str, Any] | None:
    """Return the record of this very model on a backend, if there is one."""
    key = (model_digest(bundle), backend, method)
    return next((record for record in read_records(path) if _key(record) == key), None)


def _key(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["model"]["digest"], record["backend"], record["method"]


def faithfulness_sentences(record: Mapping[str, Any], task: str) -> list[str]:
    """Describe the figures of one task in sentences."""
    figures = record["tasks"][task]
    removed, kept = (figures[name] for name in FIGURES)
    where = f"{TITLES.get(record['backend'], record['backend'])}, {METHOD_TITLES[record['method']]}"
    return [
        f"On the showcase ({figures['texts']} texts; {where}), removing the words ranked first lowers the confidence "
        f"by {removed['explained']:.3f} on average, removing as many random words by {removed['random']:.3f}"
        f"{_significance(removed)}.",
        f"With only the words ranked first it changes by {signed(-kept['explained'], 3)}, with only random words by "
        f"{signed(-kept['random'], 3)}{_significance(kept)}.",
    ]


def _significance(figure: Mapping[str, Any]) -> str:
    gain = figure["difference"]
    interval = f" (difference {gain['value']:.3f}, 95% interval {gain['low']:.3f} to {gain['high']:.3f})"
    return interval + ("" if gain["low"] > 0 else ": no better than chance")
