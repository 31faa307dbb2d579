"""Whether the words that an explanation names first are those that the answer hangs on.

Comprehensiveness is what the probability of the predicted label loses when the first words of a ranking are taken away,
sufficiency what it loses when only they are left (DeYoung et al. 2020, ERASER); each is the mean over the first 1, 5,
10, 20 and 50 % of the words, rounded up (the paper's AOPC without its bin of no words, which is always 0). A figure
says something beside that of random rankings only: taking away any word lowers a confidence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.assets import SHOWCASE
from inference.backends import TITLES
from inference.classifier import Classifier, probabilities
from inference.errors import InputError
from inference.explain.explanation import METHOD_TITLES, signed
from inference.explain.occlusion import without
from inference.explain.run import explain, words_read
from inference.explain.words import WordSpan
from inference.formats.bundle import Bundle

BINS = (0.01, 0.05, 0.10, 0.20, 0.50)
FORMAT, VERSION = "triptych-faithfulness", 1
SEED = 0
DRAWS = 5  # random rankings of each text
FIGURES = ("comprehensiveness", "sufficiency")
Array = NDArray[np.float64]


def measure_faithfulness(
    classifier: Classifier,
    texts: Sequence[str],
    method: str,
    *,
    tasks: Sequence[str] | None = None,
    draws: int = DRAWS,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Per task, comprehensiveness and sufficiency of the rankings by `method` and of random ones, over the texts.

    Each is `{"explained", "random", "difference": {"value", "low", "high"}}`, means over the texts; the difference is
    in favour of the explanations (for sufficiency, where less is better, random less explained), with a 95 %
    bootstrap interval over the texts. `better` is the share of texts on which the explanation beats random rankings.

    Args:
        draws: random rankings of each text, the same ones for every task.

    Raises:
        InputError: as `Classifier.explain`.
    """
    names = list(classifier.tasks) if tasks is None else [classifier.one_task(task) for task in tasks]
    found: dict[str, list[tuple[Array, Array]]] = {task: [] for task in names}
    for number, text in enumerate(texts):
        if progress is not None:
            progress("explaining, and taking words away", number / len(texts))
        rng = np.random.default_rng([SEED, number])
        encoding = classifier.encode(text)
        ids, (words, _) = encoding.ids, words_read(classifier, text, encoding)
        random = [row for _ in range(draws) for row in _rows(ids, words, rng.permutation(len(words)).tolist())]
        logits = _logits(classifier, [ids, *random], names)
        for task in names:
            spec = classifier.tasks[task]
            scores = probabilities(logits[task], spec.problem_type)
            label = int(scores[0].argmax())
            told = explain(classifier, text, task, spec.labels[label], method).words
            if len(told) < len(words):
                raise InputError(f"A text of {len(words):,} words is too long for this check. Leave it out.")
            order = np.argsort([-(word.attribution or 0.0) for word in told], kind="stable").tolist()
            mine = _logits(classifier, _rows(ids, words, order), [task])[task]
            kept = probabilities(mine, spec.problem_type)[:, label]
            by_chance = scores[1:, label].reshape(draws, 2, len(BINS)).mean((0, 2))
            found[task].append((scores[0, label] - kept.reshape(2, len(BINS)).mean(1), scores[0, label] - by_chance))
    return {task: _summary(np.array(pairs)) for task, pairs in found.items()}


def _logits(classifier: Classifier, rows: Sequence[Sequence[int]], tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
    """As `Classifier.logits`; rows that are alike, of which short texts have many, are asked once."""
    places: dict[tuple[int, ...], int] = {}
    taken = [places.setdefault(tuple(row), len(places)) for row in rows]
    return {task: found[taken] for task, found in classifier.logits(list(places), tasks).items()}


def _rows(ids: Sequence[int], words: Sequence[WordSpan], order: Sequence[int]) -> list[list[int]]:
    """The text without the first words of a ranking, one row a bin, and then with them alone, one row a bin."""
    cuts = [math.ceil(share * len(words)) for share in BINS]
    ranked = [words[i] for i in order]
    return [without(ids, ranked[:cut]) for cut in cuts] + [without(ids, ranked[cut:]) for cut in cuts]


def _summary(pairs: Array) -> dict[str, Any]:
    """The figures of one task from losses (texts, [explained, random], [comprehensiveness, sufficiency])."""
    from scipy.stats import bootstrap

    found: dict[str, Any] = {"texts": len(pairs)}
    for column, name in enumerate(FIGURES):
        explained, random = pairs[:, 0, column], pairs[:, 1, column]
        gain = explained - random if name == "comprehensiveness" else random - explained
        interval = None
        if len(pairs) > 1 and np.ptp(gain) > 0:
            interval = bootstrap(
                (gain,), np.mean, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
        found[name] = {
            "explained": float(explained.mean()),
            "random": float(random.mean()),
            "difference": {
                "value": float(gain.mean()),
                "low": float(interval.low if interval else gain.mean()),
                "high": float(interval.high if interval else gain.mean()),
            },
            "better": float((gain > 0).mean()),
        }
    return found


def make_record(
    classifier: Classifier, method: str, found: Mapping[str, Any], texts: str, draws: int = DRAWS
) -> dict[str, Any]:
    """What was found by `measure_faithfulness`, with all that it belongs to.

    Args:
        texts: SHA-256 of the file that they are from.
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
        "tasks": dict(found),
    }


def model_digest(bundle: Bundle) -> str:
    """SHA-256 of the digests of all files of a model and of its base: the same model, whatever folder it lies in."""
    files = {
        **bundle.files,
        **{f"base/{name}": digest for name, digest in (bundle.base.files if bundle.base else {}).items()},
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a file; none where there is no such file.

    Raises:
        InputError: it is no file of such records.
    """
    if not path.is_file():
        return []
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if (held["format"], held["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {held['format']!r}, version {held['version']!r}")
        return list(held["records"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no records of this check ({error}). Name another file.") from None


def add_record(path: Path, made: Mapping[str, Any]) -> None:
    """Put a record into a file, in place of the one of the same model, backend, method and texts.

    Tasks that only the older one has are kept.

    Raises:
        InputError: the file holds something else.
    """
    records = read_records(path)
    older = next((one for one in records if _belongs(one) == _belongs(made) and one["data"] == made["data"]), None)
    kept = [one for one in records if _belongs(one) != _belongs(made)]
    whole = {**made, "tasks": {**(older["tasks"] if older else {}), **made["tasks"]}}
    document = {"format": FORMAT, "version": VERSION, "records": sorted([*kept, whole], key=_belongs)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def find_record(path: Path, bundle: Bundle, backend: str, method: str) -> dict[str, Any] | None:
    """The record of this very model on a backend, if there is one."""
    wanted = (model_digest(bundle), backend, method)
    return next((one for one in read_records(path) if _belongs(one) == wanted), None)


def _belongs(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["model"]["digest"], one["backend"], one["method"]


def faithfulness_sentences(made: Mapping[str, Any], task: str) -> list[str]:
    """What a record says of one task, in sentences."""
    found = made["tasks"][task]
    removed, kept = (found[name] for name in FIGURES)
    where = f"{TITLES.get(made['backend'], made['backend'])}, {METHOD_TITLES[made['method']]}"
    return [
        f"On the showcase ({found['texts']} texts; {where}), taking away the words named first lowers the confidence "
        f"by {removed['explained']:.3f} on average, taking away as many random words by {removed['random']:.3f}"
        f"{_verdict(removed)}.",
        f"With nothing left but the words named first it moves by {signed(-kept['explained'], 3)}, with nothing left "
        f"but random words by {signed(-kept['random'], 3)}{_verdict(kept)}.",
    ]


def _verdict(figure: Mapping[str, Any]) -> str:
    gain = figure["difference"]
    told = f" (difference {gain['value']:.3f}, 95 % interval {gain['low']:.3f} to {gain['high']:.3f})"
    return told + ("" if gain["low"] > 0 else ": that is no better than chance")
