"""Decide between two measurements on the same rows: whether the second model may replace the first.

Of one model, measured before and after a change or on two machines, each runtime is compared with itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.backends import TITLES
from inference.calls.formatting import joined, mb, ms, percent, points, times
from inference.compare import stats
from inference.compare.comparable import is_one_model, machine_difference
from inference.compare.labels import match_labels
from inference.compare.results import Array, count_flips, exceeds_noise, paired, unmeasured
from inference.compare.rows import MIN_ROWS
from inference.compare.verdict import (
    EXIT_CODES,
    INCONCLUSIVE,
    MAX_COPIES,
    NO,
    Reason,
    ShipLimits,
    decide,
    decide_accuracy,
    decide_labels,
    flips_reason,
    is_same,
    most_rows_in_words,
    p95_reason,
    same_reason,
    size_reason,
    speedup_reason,
    worst,
)
from inference.errors import InputError


@dataclass(frozen=True)
class Candidate:
    """A model on one backend."""

    name: str
    backend: str

    def __str__(self) -> str:
        return f"{self.name} ({TITLES[self.backend]})"


@dataclass(frozen=True)
class ModelVerdict:
    """Whether the second model may replace the first, why, and what a sceptic would ask."""

    first: Candidate
    second: Candidate
    decision: str
    """SHIP: the second model meets every limit; NO: it breaks one; INCONCLUSIVE otherwise."""
    sentence: str
    reasons: list[Reason]
    caveats: list[str]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.decision]


def decide_pair(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    limits: ShipLimits,
    backend: str | None = None,
    names: tuple[str, str] | None = None,
) -> list[ModelVerdict]:
    """Return the verdict on the second model; of one model measured twice, a verdict on each runtime of both.

    Args:
        backend: see `decide_models`; of one model, the only runtime to decide on.
        names: what to call the models if their own names are the same.

    Raises:
        InputError: as `check_comparable`, or a receipt lacks the backend.
    """
    check_comparable(a, b)
    backends = [backend] if backend or not is_one_model(a, b) else _common_backends(a, b)
    return [decide_models(a, b, limits, name, names) for name in backends]


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise InputError if two receipts are the same, have no common rows, tasks or labels, or no common runtime."""
    if a["checksum"] == b["checksum"]:
        raise InputError("This is one measurement, named twice. Pass two.")
    rows = _common_rows(a, b)
    for task, other in _common_tasks(a, b).items():
        _answers(a, b, task, other, a["settings"]["reference"], b["settings"]["reference"], rows)
    if is_one_model(a, b):
        _common_backends(a, b)


def _common_backends(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    first, second = (r["settings"]["backends"] for r in (a, b))
    if common := [name for name in first if name in second]:
        return common
    titles = [", ".join(TITLES[name] for name in names) for names in (first, second)]
    raise InputError(
        f"Both measurements are of {a['model']['name']} and have no runtime in common ({titles[0]}; {titles[1]}). "
        f"To compare runtimes of one model, measure them together: compare --backends {','.join([*first, *second])}"
    )


MAX_NAMED = 4  # labels in a sentence
SIDE_BY_SIDE = ("Accuracy", "Difference (95% bounds)", "Typical time (p50)", "Size")


def side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Return both receipts' figures as text, as `SIDE_BY_SIDE` names them: task -> runtime of both -> cells.

    Empty if they have no runtime in common.

    Raises:
        InputError: as `check_comparable`.
    """
    rows, first, second = _common_rows(a, b), a["settings"]["backends"], b["settings"]["backends"]
    is_timed = unmeasured(a) is None and unmeasured(b) is None
    common = [name for name in first if name in second]
    table: dict[str, dict[str, list[str]]] = {}
    for task, other in _common_tasks(a, b).items() if common else ():
        lines = table[task] = {}
        for name in common:
            true, before, after, _, _ = _answers(a, b, task, other, name, name, rows)
            _, broken, fixed = count_flips(true, before, after)
            change = stats.paired_difference(broken, fixed, len(true))
            p50: list[Any] = [r["results"]["latency"][name].get("p50_ms") for r in (a, b)] if is_timed else []
            sizes = [mb(r["results"]["size"][name]["model_bytes"]) for r in (a, b)]
            lines[name] = [
                f"{percent(float((before == true).mean()))} → {percent(float((after == true).mean()))}",
                f"{points(change.value)} ({points(change.low)} to {points(change.high)})",
                " → ".join(ms(each["value"]) for each in p50) if p50 and all(p50) else "not measured",
                sizes[0] if sizes[0] == sizes[1] else " → ".join(sizes),
            ]
    return table


def decide_models(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    limits: ShipLimits,
    backend: str | None = None,
    names: tuple[str, str] | None = None,
) -> ModelVerdict:
    """Return whether the model of receipt `b` may replace that of receipt `a`.

    Args:
        backend: of both models; by default the one that each model's own verdict recommends for a CPU service.
        names: what to call the models if their own names are the same.

    Raises:
        InputError: the receipts have no common rows or tasks, other labels, or lack the backend.
    """
    first, second = map(Candidate, _names(a, b, names), _backends(a, b, backend))
    rows = _common_rows(a, b)
    reasons: list[Reason] = []
    pairs = {}
    same = set()  # tasks; of two models equal confidences of the best labels do not show that the models agree
    is_unchanged = is_one_model(a, b) and a["model"]["max_tokens"] == b["model"]["max_tokens"]
    has_copies = a["data"]["copies"] > MAX_COPIES * len(a["data"]["row_numbers"])
    for task, other in _common_tasks(a, b).items():
        true, before, after, labels, moved = _answers(a, b, task, other, first.backend, second.backend, rows)
        pair = pairs[task] = paired(true, before, after, labels, a["settings"]["seed"], moved)
        if is_unchanged and is_same(pair):
            same.add(task)
            reasons.append(same_reason(task, pair, str(first), "confidence"))
            continue
        given = [len(set(ids.tolist())) for ids in (before, after)]
        reasons.append(decide_accuracy(task, pair, limits.max_drop, len(set(true.tolist())), has_copies))
        reasons += decide_labels(task, pair, limits.max_drop, *given)
    speed = _speed(a, b, first.backend, second.backend)
    if limits.max_p95_ms is not None:
        reasons.append(p95_reason(b, second.backend, limits.max_p95_ms))
    if limits.max_size_mb is not None:
        reasons.append(size_reason(b["results"]["size"][second.backend]["model_bytes"], limits.max_size_mb))
    if limits.max_flips is not None:
        reasons.append(flips_reason(list(pairs.values()), str(first), limits.max_flips))
    if limits.min_speedup is not None:
        reasons.append(_speedup(speed, first, limits.min_speedup))
    decision = worst(reason.decision for reason in reasons)
    sizes = [r["results"]["size"][c.backend]["model_bytes"] for r, c in ((a, first), (b, second))]
    sentence = _sentence(decision, first, second, pairs, same, speed, sizes, reasons)
    caveats = _caveats(a, b, len(rows[0]), speed)
    if backend is None and unmeasured(a) and unmeasured(b):
        caveats.append(
            f"Without times no runtime is recommended, so {TITLES[first.backend]} is compared; another can be chosen."
        )
    return ModelVerdict(first, second, decision, sentence, reasons, caveats)


@dataclass(frozen=True)
class _Speed:
    """How many times as fast the second model is, and the ratio that two starts of one backend may differ by."""

    gain: stats.Estimate
    noise: float
    why_not: str | None = None
    """Why the two do not compare; None if they do."""

    @property
    def differs(self) -> bool:
        return self.why_not is None and exceeds_noise(self.gain, self.noise)


def _names(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] | None) -> tuple[str, str]:
    own = a["model"]["name"], b["model"]["name"]
    return own if own[0] != own[1] or names is None else names


def _backends(a: Mapping[str, Any], b: Mapping[str, Any], backend: str | None) -> tuple[str, str]:
    """Return the backend of each model; a model that was not timed has no best one, and gets that of the other."""
    first, second = _backend(a, backend), _backend(b, backend)
    if backend is None and unmeasured(b) and first in b["settings"]["backends"]:
        second = first
    elif backend is None and unmeasured(a) and second in a["settings"]["backends"]:
        first = second
    return first, second


def _backend(receipt: Mapping[str, Any], backend: str | None) -> str:
    names = receipt["settings"]["backends"]
    if backend is None:
        return decide(receipt).recommended["CPU service"].backend or str(receipt["settings"]["reference"])
    if backend not in names:
        raise InputError(
            f"The measurement of {receipt['model']['name']} has no {TITLES[backend]}; it has "
            f"{', '.join(TITLES[name] for name in names)}."
        )
    return backend


def _common_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the positions, in both receipts, of the rows of the file that both have."""
    if a["data"]["sha256"] != b["data"]["sha256"]:
        first, second = (f"{r['data']['name']}, SHA-256 {r['data']['sha256'][:8]}…" for r in (a, b))
        raise InputError(
            f"The measurements are of different files ({first}; {second}). Measure both on the same one: compare "
            "--data FILE."
        )
    at = {number: place for place, number in enumerate(b["data"]["row_numbers"])}
    numbers = [(place, at[number]) for place, number in enumerate(a["data"]["row_numbers"]) if number in at]
    if len(numbers) < MIN_ROWS:
        raise InputError(
            f"The measurements have {len(numbers)} rows in common, and at least {MIN_ROWS} are needed. Measure both "
            "with the same --rows and --seed."
        )
    return [place for place, _ in numbers], [place for _, place in numbers]


def _common_tasks(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """Return the tasks of the first receipt, and what the second calls each."""
    first, second = ({task: r["model"]["tasks"][task]["labels"] for task in r["data"]["labels"]} for r in (a, b))
    return check_labels(first, second, is_one_model(a, b))


def check_labels(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]], are_one: bool = False
) -> dict[str, str]:
    """Return the tasks of the first model, and what the second calls each; both as task -> labels.

    Args:
        are_one: both are one model at different times.

    Raises:
        InputError: they have no task in common, or other labels.
    """
    common = {task: task for task in first if task in second}
    if not common and len(first) == len(second) == 1:
        common = dict(zip(first, second, strict=True))
    if not common:
        raise InputError(
            f"The measurements have no task in common ({', '.join(first)}; {', '.join(second)}). Measure one task of "
            "each with --task."
        )
    for task, other in common.items():
        _positions(task, first[task], second[other], are_one)
    return common


def _positions(task: str, labels: Sequence[str], others: Sequence[str], are_one: bool = False) -> Array:
    """Return the position, among the first model's labels, of each of the second's."""
    matching = match_labels(Counter(others), labels)
    if matching.unknown or matching.by_position or len(labels) != len(others):
        if are_one:
            before, after = (
                joined([one for one in of if one not in labels or one not in others], MAX_NAMED)
                for of in (labels, others)
            )
            raise InputError(
                f"The labels of {task} were renamed between the two measurements of this model ({before}; then "
                f"{after}), so the answers cannot be compared by name. Measure it both times with the same labels."
            )
        raise InputError(f"The models have different labels for {task}, so their answers cannot be compared.")
    return np.array([matching.positions[label] for label in others])


def _answers(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    task: str,
    other: str,
    first: str,
    second: str,
    rows: Sequence[list[int]],
) -> tuple[Array, Array, Array, int, float]:
    """Return the true label ids, those of both models, as positions in the first model's labels, the number of labels,
    and the largest difference of a confidence.
    """
    labels = a["model"]["tasks"][task]["labels"]
    position = _positions(task, labels, b["model"]["tasks"][other]["labels"])
    true = np.array(a["data"]["labels"][task])[rows[0]]
    again = np.array(b["data"]["labels"][other])[rows[1]]
    labelled = (true >= 0) & (again >= 0)
    true, again = true[labelled], position[again[labelled]]
    if len(true) < MIN_ROWS or not np.array_equal(true, again):
        raise InputError(f"The rows have other labels of {task} in the two measurements. Measure both again.")
    predictions = a["backends"][first]["predictions"][task], b["backends"][second]["predictions"][other]
    before, after = (np.array(of["label_ids"])[at][labelled] for of, at in zip(predictions, rows, strict=True))
    confident = [np.array(of["confidence"])[at][labelled] for of, at in zip(predictions, rows, strict=True)]
    return true, before, position[after], len(labels), float(np.abs(confident[0] - confident[1]).max())


def _speed(a: Mapping[str, Any], b: Mapping[str, Any], first: str, second: str) -> _Speed:
    """Return the ratio of the medians; the two runs are independent, so their half-widths add as squares."""
    if unmeasured(a) or unmeasured(b):
        return _Speed(stats.Estimate(1.0, 1.0, 1.0), 1.0, f"in a measurement, {unmeasured(a) or unmeasured(b)}")
    slow, fast = (r["results"]["latency"][name]["p50_ms"] for r, name in ((a, first), (b, second)))
    value = slow["value"] / fast["value"]
    up = math.hypot(math.log(slow["high"] / slow["value"]), math.log(fast["value"] / fast["low"]))
    down = math.hypot(math.log(slow["value"] / slow["low"]), math.log(fast["high"] / fast["value"]))
    noise = max(r["results"]["control"]["noise"] for r in (a, b))
    gain = stats.Estimate(value, value / math.exp(down), value * math.exp(up))
    return _Speed(gain, noise, _why_not(a, b))


def _why_not(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return why the times of two receipts do not compare; of one model, machine and threads may be the change."""
    if a["data"]["row_numbers"] != b["data"]["row_numbers"]:
        return "other rows were timed"
    if is_one_model(a, b):
        return None
    if reason := machine_difference(a, b):
        return f"the models were measured under different conditions ({reason})"
    threads = [r["settings"]["threads"] for r in (a, b)]
    return None if threads[0] == threads[1] else f"the models were measured with {threads[0]} and {threads[1]} threads"


def _speedup(speed: _Speed, first: Candidate, minimum: float) -> Reason:
    if speed.why_not is not None:
        text = f"{speed.why_not}, so no speed-up is known; at least {minimum:g}× required"
        return Reason(INCONCLUSIVE, text, "min_speedup")
    return speedup_reason(speed.gain.to_dict(), speed.noise, str(first), minimum)


def _sentence(
    decision: str,
    first: Candidate,
    second: Candidate,
    pairs: Mapping[str, Mapping[str, Any]],
    same: Collection[str],
    speed: _Speed,
    sizes: Sequence[int],
    reasons: Sequence[Reason],
) -> str:
    changes = ", ".join(
        f"{task} numerically the same"
        if task in same
        else f"{task} {points(pair['delta_accuracy']['value'])} "
        f"({points(pair['delta_accuracy']['low'])} to {points(pair['delta_accuracy']['high'])})"
        for task, pair in pairs.items()
    )
    how_fast = f"{times(speed.gain.value)} as fast" if speed.differs else "not measurably faster or slower"
    how_fast = how_fast if speed.why_not is None else "of unknown speed in comparison"
    size = f"{mb(sizes[1])} instead of {mb(sizes[0])}" if mb(sizes[1]) != mb(sizes[0]) else f"as large ({mb(sizes[1])})"
    facts = f"accuracy {changes}; {how_fast}; {size}"
    if decision == NO:
        why = next(reason.text for reason in reasons if reason.decision == NO)
        return f"Keep {first}. {second} breaks a limit: {why}. In all: {facts}."
    if decision == INCONCLUSIVE:
        more = most_rows_in_words(reasons) or next(each.text for each in reasons if each.decision == INCONCLUSIVE)
        return f"Not settled between {first} and {second}: {more}. So far, {second}: {facts}."
    is_better = any(pair["delta_accuracy"]["low"] > 0 for pair in pairs.values())
    is_faster = speed.differs and speed.gain.value > 1
    if is_better or is_faster or sizes[1] < sizes[0]:
        return f"Ship {second} instead of {first}: {facts}."
    return f"{second} may replace {first}, with no measured gain: {facts}."


def _caveats(a: Mapping[str, Any], b: Mapping[str, Any], rows: int, speed: _Speed) -> list[str]:
    caveats = []
    if speed.why_not is not None:
        caveats.append(f"Speeds are not compared: {speed.why_not}.")
    sizes = [len(r["data"]["row_numbers"]) for r in (a, b)]
    if min(sizes) < max(sizes) or rows < max(sizes):
        caveats.append(f"Accuracy is compared on the {rows:,} rows that both measurements have.")
    if a["data"].get("pair_column") != b["data"].get("pair_column"):
        caveats.append("The models read other columns of the file.")
    return caveats
