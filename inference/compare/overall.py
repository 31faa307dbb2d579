"""Decide what to ship for a model as a whole, from all its measurements: every task decides, and none is averaged away.

Each task counts by one measurement: with times before one without, complete before a quick one, then the one with the
most rows. A limit that another measurement breaks rules a backend out too.
Measurements that do not compare (another machine, other versions, other files) are left out, each with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import joined, points, times
from inference.compare.caveats import caveats
from inference.compare.comparable import difference, model_of
from inference.compare.results import unmeasured
from inference.compare.verdict import (
    INCONCLUSIVE,
    NO,
    SHIP,
    Reason,
    ShipLimits,
    accuracy_reasons,
    cost_reasons,
    flips_reason,
    is_same,
    worst,
)

Receipt = Mapping[str, Any]
NO_SPEED = "Speed is not measured"
MAX_MEASUREMENTS = 20  # of one model that decide together
MAX_NAMED = 4  # tasks or measurements in a sentence
_joined = partial(joined, most=MAX_NAMED)
LIMITS = {
    "max_drop": "accuracy",
    "max_p95_ms": "p95",
    "max_size_mb": "size",
    "max_flips": "changed labels",
    "min_speedup": "speed-up",
}


@dataclass(frozen=True)
class TaskReason:
    """A reason and the task that it is about."""

    task: str
    reason: Reason


@dataclass(frozen=True)
class RuntimeVerdict:
    """The decision on a backend over all tasks.

    Attributes:
        objections: those of the reasons that are limits broken by measurements that do not count.
        by_task: task -> the decision by that task alone, for tasks on which it was measured.
        nearest: the limits, no stricter than asked, under which it could be shipped; None if none is known.
    """

    decision: str
    reasons: list[TaskReason]
    objections: list[TaskReason]
    by_task: Mapping[str, str]
    nearest: ShipLimits | None


@dataclass(frozen=True)
class Overall:
    """The decision on a model.

    Attributes:
        used: task -> name of the measurement that counts for it, in the model's order of tasks.
        left_out: name of a measurement -> why it does not compare with the others.
        not_counted: tasks of the model that only measurements in `left_out` have labelled rows of.
        unmeasured: tasks of the model without labelled rows in any measurement.
        recommended: the backend to ship; None if none is known to meet the limits.
        headline: the recommendation in a few words.
        because: its reason, in a sentence.
    """

    receipts: Mapping[str, Receipt]
    used: Mapping[str, str]
    left_out: Mapping[str, str]
    not_counted: list[str]
    unmeasured: list[str]
    reference: str
    limits: ShipLimits
    backends: Mapping[str, RuntimeVerdict]
    recommended: str | None
    headline: str
    because: str
    caveats: list[str]

    def receipt(self, task: str) -> Receipt:
        """Return the measurement that counts for a task."""
        return self.receipts[self.used[task]]

    def largest_timed(self) -> Receipt | None:
        """Return the measurement with the most rows of those that count and have times; None if none has."""
        timed = filter(is_timed, map(self.receipt, self.used))
        return max(timed, key=lambda receipt: len(receipt["data"]["row_numbers"]), default=None)

    def measured(self, name: str) -> list[str]:
        """Return the tasks that count on which a backend was measured."""
        return [task for task in self.used if name in self.receipt(task)["settings"]["backends"]]

    def status(self, name: str) -> str:
        """Return the decision on a backend in words: "allowed", "ruled out by p95 on intent"."""
        verdict = self.backends[name]
        if verdict.decision == SHIP:
            return "recommended" if name == self.recommended else "reference" if name == self.reference else "allowed"
        against = [each for each in verdict.reasons if each.reason.decision == verdict.decision]
        if not against:
            return f"not measured on {_joined([task for task in self.used if task not in verdict.by_task])}"
        tasks: dict[str, list[str]] = {}  # limit -> those on which it decides
        for each in against:
            on = tasks.setdefault(LIMITS[each.reason.limit], [])
            on += [each.task] if each.task and each.task not in on else []
        parts = [f"{limit} on {_joined(on)}" if 0 < len(on) < len(self.used) else limit for limit, on in tasks.items()]
        return f"{'ruled out by' if verdict.decision == NO else 'not settled:'} {', '.join(parts)}"


def decide_overall(receipts: Mapping[str, Receipt], limits: ShipLimits, preferred: str | None = None) -> Overall:
    """Return the decision on the model of the first receipt.

    Args:
        receipts: name of the measurement -> receipt. Those that do not compare with the preferred one are left out.
            Without one, it is a measurement with times, then a complete one, then one that compares with measurements
            of the most tasks, then the one with the most labels.
        preferred: a measurement that counts for its tasks even if another would go before it.
    """
    first = receipts[preferred] if preferred is not None else _first(receipts)
    left_out = {name: why for name, receipt in receipts.items() if (why := difference(first, receipt))}
    alike = {name: receipt for name, receipt in receipts.items() if name not in left_out}
    used = _choose(alike, preferred)
    reference = first["settings"]["reference"]
    measured = {name for receipt in alike.values() for name in receipt["settings"]["backends"]}
    backends = {name: _decide(alike, used, name, limits) for name in RUNTIMES if name in measured}
    timed = [alike[name] for name in dict.fromkeys(used.values()) if is_timed(alike[name])]
    recommended = _recommend(timed, backends) if timed else None
    own = [receipt for receipt in receipts.values() if model_of(receipt) == model_of(first)]
    measured_tasks = {task for receipt in own for task in receipt["results"]["accuracy"]}
    tasks = list(first["model"]["tasks"])
    overall = Overall(
        receipts=alike,
        used={task: used[task] for task in tasks if task in used},
        left_out=left_out,
        not_counted=[task for task in tasks if task in measured_tasks and task not in used],
        unmeasured=[task for task in tasks if task not in measured_tasks],
        reference=reference,
        limits=limits,
        backends=backends,
        recommended=recommended,
        headline=_headline(recommended, reference) if timed else NO_SPEED,
        because="",
        caveats=_caveats(alike, used),
    )
    return replace(overall, because=_because(overall))


def _rows(receipt: Receipt, task: str) -> int:
    return sum(label >= 0 for label in receipt["data"]["labels"][task])


def _first(receipts: Mapping[str, Receipt]) -> Receipt:
    """Return the measurement that the others must compare with, of the first one's model: see `decide_overall`."""
    model = model_of(next(iter(receipts.values())))
    own = [receipt for receipt in receipts.values() if model_of(receipt) == model]

    def rank(receipt: Receipt) -> tuple[bool, bool, int, int]:
        alike = [other for other in own if not difference(receipt, other)]
        tasks = {task for other in alike for task in other["results"]["accuracy"]}
        return *_rank(receipt), len(tasks), sum(_rows(receipt, task) for task in receipt["data"]["labels"])

    return max(own, key=rank)


def _rank(receipt: Receipt) -> tuple[bool, bool]:
    return is_timed(receipt), not receipt["settings"]["quick"]


def _choose(receipts: Mapping[str, Receipt], preferred: str | None) -> dict[str, str]:
    """Return the measurement of each task: the preferred one, else that with the most rows; full runs go first."""

    def rank(task: str, name: str) -> tuple[bool, bool, bool, int]:
        return name == preferred, *_rank(receipts[name]), _rows(receipts[name], task)

    tasks = {task: None for receipt in receipts.values() for task in receipt["results"]["accuracy"]}
    having = {task: [name for name in receipts if task in receipts[name]["results"]["accuracy"]] for task in tasks}
    return {task: max(names, key=partial(rank, task)) for task, names in having.items()}


def _decide(receipts: Mapping[str, Receipt], used: Mapping[str, str], name: str, limits: ShipLimits) -> RuntimeVerdict:
    own, objections = _all_reasons(receipts, used, name, limits)
    reasons = [*own, *objections]
    measured = [task for task, counts in used.items() if name in receipts[counts]["settings"]["backends"]]
    by_task = {task: worst(each.reason.decision for each in reasons if each.task == task) for task in measured}
    decision = worst(each.reason.decision for each in reasons)
    if len(measured) < len(used):
        return RuntimeVerdict(NO if decision == NO else INCONCLUSIVE, reasons, objections, by_task, None)
    nearest = _nearest(limits, own)
    if nearest is None or NO in (each.reason.decision for each in _all_reasons(receipts, used, name, nearest)[1]):
        nearest = _nearest(limits, reasons)
    return RuntimeVerdict(decision, reasons, objections, by_task, nearest)


def _all_reasons(
    receipts: Mapping[str, Receipt], used: Mapping[str, str], name: str, limits: ShipLimits
) -> tuple[list[TaskReason], list[TaskReason]]:
    """Return the reasons by the measurements that count, and the limits that others break."""
    own, objections, pairs = [], [], []
    for task, counts in used.items():
        for measurement, receipt in receipts.items():
            if task not in receipt["results"]["accuracy"] or name not in receipt["settings"]["backends"]:
                continue
            reasons = _reasons(receipt, task, name, limits)
            if measurement == counts:
                own += [TaskReason(task, reason) for reason in reasons]
                pairs += [pair for backend, pair in receipt["results"]["paired"][task].items() if backend == name]
            else:
                broken = [reason for reason in reasons if reason.decision == NO]
                objections += [TaskReason(task, _objection(reason, measurement)) for reason in broken]
    if limits.max_flips is not None and pairs:
        reference = next(iter(receipts.values()))["settings"]["reference"]
        own.append(TaskReason("", flips_reason(pairs, TITLES[reference], limits.max_flips)))
    return own, objections


def _objection(reason: Reason, measurement: str) -> Reason:
    """Return a reason for NO of a measurement that does not count: a limit that it no longer breaks is enough."""
    text = reason.text.rsplit("; ", 1)[0] if reason.text.endswith(" would pass") else reason.text
    return replace(reason, text=f"{text} (measurement {measurement})", nearest=reason.unbroken)


def _reasons(receipt: Receipt, task: str, name: str, limits: ShipLimits) -> list[Reason]:
    is_reference = name == receipt["settings"]["reference"]
    by_labels = [] if is_reference else accuracy_reasons(receipt, task, name, limits.max_drop)
    return [*by_labels, *cost_reasons(receipt, name, limits)]


def _nearest(limits: ShipLimits, reasons: Sequence[TaskReason]) -> ShipLimits | None:
    """Return the limits relaxed as little as needed; None if they are met, or if relaxing them would not help."""
    changes: dict[str, float] = {}
    for reason in (each.reason for each in reasons):
        if reason.decision == SHIP:
            continue
        if reason.nearest is None:
            return None
        extreme = min if reason.limit == "min_speedup" else max
        changes[reason.limit] = extreme(reason.nearest, changes.get(reason.limit, reason.nearest))
    return replace(limits, **changes) if changes else None  # type: ignore[arg-type]


def _recommend(receipts: Sequence[Receipt], backends: Mapping[str, RuntimeVerdict]) -> str | None:
    """Return the fastest backend that may be shipped; of those that no measurement tells apart, the most exact."""
    allowed = [name for name, verdict in backends.items() if verdict.decision == SHIP]
    if not allowed:
        return None
    mean = {
        name: sum(math.log(receipt["results"]["latency"][name]["p50_ms"]["value"]) for receipt in receipts)
        for name in allowed
    }
    best = min(allowed, key=mean.__getitem__)
    for name in allowed[: allowed.index(best)]:
        if not any(receipt["results"]["ratios"][best][name]["different"] for receipt in receipts):
            return name
    return best


def _headline(recommended: str | None, reference: str) -> str:
    if recommended is None:
        return "Nothing to ship under these limits"
    return f"{'Stay with' if recommended == reference else 'Ship'} {TITLES[recommended]}"


def _because(overall: Overall) -> str:
    name, reference = overall.recommended, overall.reference
    tasks = list(overall.used)
    where = "" if len(tasks) == 1 else ", on both tasks" if len(tasks) == 2 else f", on all {len(tasks)} tasks"
    missing = {
        "measured under other conditions, not counted": overall.not_counted,
        "not measured": overall.unmeasured,
    }
    if lacking := [f"{_joined(without)} {why}" for why, without in missing.items() if without]:
        where = f", on {_joined(tasks)} ({'; '.join(lacking)})"
    if name is None and overall.headline == NO_SPEED:
        allowed = [TITLES[n] for n, v in overall.backends.items() if v.decision == SHIP and n != reference]
        return f"{_joined(allowed) or 'No runtime'} would pass the other limits{where}."
    if name is None:
        failing = [TITLES[other] for other, verdict in overall.backends.items() if verdict.decision == NO]
        open_ones = [TITLES[other] for other, verdict in overall.backends.items() if verdict.decision != NO]
        if not open_ones:
            return "Every runtime fails a limit."
        fails = f"{_joined(failing)} {'fails' if len(failing) == 1 else 'fail'} a limit; " if failing else ""
        return f"{fails}{_joined(open_ones)} {'is' if len(open_ones) == 1 else 'are'} not settled."
    if name == reference:
        others = [other for other in overall.backends if other != reference]
        if not others:
            return f"Only {TITLES[reference]} was measured{where}."
        allowed = [other for other in others if overall.backends[other].decision == SHIP]
        if not allowed:
            return f"No other runtime is known to meet every limit{where}."
        return f"No runtime that meets the limits is measurably faster{_timed_alone(overall, name)}{where}."
    return f"{speed_in_words(overall, name)}, {size_in_words(overall, name)}, {loss_in_words(overall, name)}{where}."


def others_in_words(overall: Overall) -> str:
    """Return what keeps the other runtimes from being shipped, with their figures, in sentences; "" if nothing does."""
    texts = []
    for name, verdict in overall.backends.items():
        if name == overall.reference or verdict.decision == SHIP:
            continue
        gains = speedups(overall, name)
        figures = [f"{spread([gain['value'] for gain in gains])} as fast"] if gains else []
        figures += [size_in_words(overall, name)] if overall.measured(name) else []
        texts.append(f"{TITLES[name]}{f' ({joined(figures)})' if figures else ''} is {overall.status(name)}.")
    return " ".join(texts)


def left_out_in_words(overall: Overall) -> str:
    """Return how many measurements do not compare with those that count, and why, in a sentence; "" if all do."""
    count = len(overall.left_out)
    why = _joined(list(dict.fromkeys(overall.left_out.values())))
    return f"Not counted: {count} measurement{'s' * (count > 1)} ({why})." if count else ""


def speed_in_words(overall: Overall, name: str) -> str:
    """Return "2.3× to 3.1× as fast as PyTorch": the range over the measurements that count and have times."""
    gains = speedups(overall, name)
    where = _timed_alone(overall, name)
    return f"{spread([gain['value'] for gain in gains])} as fast as {TITLES[overall.reference]}{where}"


def _timed_alone(overall: Overall, name: str) -> str:
    """Return " (measured on mood alone)" if a backend was measured on other tasks too, but not its speed."""
    tasks = timed_tasks(overall, name)
    return f" (measured on {_joined(tasks)} alone)" if tasks != overall.measured(name) else ""


def timed_tasks(overall: Overall, name: str) -> list[str]:
    """Return the tasks on which the speed of a backend was measured."""
    return [task for task in overall.measured(name) if is_timed(overall.receipt(task))]


def size_in_words(overall: Overall, name: str) -> str:
    """Return "4.0× smaller", or "6% smaller" if it is not much."""
    share = size_share(overall, name)
    if round(share, 2) == 1:
        return "the same size"
    if share > 1:
        return f"{share - 1:.0%} larger"
    return f"{times(1 / share)} smaller" if share < 0.75 else f"{1 - share:.0%} smaller"


def loss_in_words(overall: Overall, name: str) -> str:
    """Return "at most 0.24 pp less accurate", by the task of which the least is known, or "numerically the same"."""
    worst_task = least_known(overall, name)
    if worst_task is None:
        return "numerically the same"
    low = overall.receipt(worst_task)["results"]["paired"][worst_task][name]["delta_accuracy"]["low"]
    return f"at most {points(-low).lstrip('+')} less accurate" if low < 0 else "no less accurate"


def speedups(overall: Overall, name: str) -> list[Mapping[str, Any]]:
    """Return the speed-up of a backend in each measurement that counts."""
    receipts = {overall.used[task]: overall.receipt(task) for task in timed_tasks(overall, name)}
    return [receipt["results"]["speedup"][name] for receipt in receipts.values()]


def is_timed(receipt: Receipt) -> bool:
    return unmeasured(receipt) is None


def size_share(overall: Overall, name: str) -> float:
    """Return the size of a backend's model as a share of the reference's; the largest, should they differ."""
    sizes = [overall.receipt(task)["results"]["size"] for task in overall.measured(name)]
    return float(max(size[name]["model_bytes"] / size[overall.reference]["model_bytes"] for size in sizes))


def least_known(overall: Overall, name: str) -> str | None:
    """Return the task with the largest drop that cannot be excluded; None if all are numerically the same."""
    lows = {}
    for task in overall.measured(name):
        pair = overall.receipt(task)["results"]["paired"][task][name]
        if not is_same(pair):
            lows[task] = pair["delta_accuracy"]["low"]
    return min(lows, key=lows.__getitem__, default=None)


def spread(ratios: Sequence[float]) -> str:
    """Return a ratio, or the range of several: "2.3× to 3.1×"."""
    low, high = times(min(ratios)), times(max(ratios))
    return low if low == high else f"{low} to {high}"


def nearest_in_words(limits: ShipLimits, nearest: ShipLimits) -> str:
    """Say which limits would have to be relaxed, and to what: "a drop of 0.6 pp and p95 of 3.85 ms"."""
    texts = {
        "max_drop": f"a drop of {nearest.max_drop * 100:.1f} pp",
        "max_p95_ms": f"a p95 of {nearest.max_p95_ms:g} ms" if nearest.max_p95_ms is not None else "",
        "max_size_mb": f"a size of {nearest.max_size_mb:.1f} MB" if nearest.max_size_mb is not None else "",
        "max_flips": f"{nearest.max_flips:,} changed labels" if nearest.max_flips is not None else "",
        "min_speedup": f"a speed-up of {nearest.min_speedup:g}×" if nearest.min_speedup is not None else "",
    }
    before, after = asdict(limits), asdict(nearest)
    return _joined([text for name, text in texts.items() if before[name] != after[name]])


def _caveats(receipts: Mapping[str, Receipt], used: Mapping[str, str]) -> list[str]:
    """Return the caveats of the measurements that count, each once, with the measurements that it is about."""
    counting = list(dict.fromkeys(used.values()))
    about: dict[str, list[str]] = {}
    for name in counting:
        quick = ["A quick run, so the intervals are wide."] if receipts[name]["settings"]["quick"] else []
        for caveat in [*quick, *caveats(receipts[name])]:
            about.setdefault(caveat, []).append(name)
    untimed = [task for task, name in used.items() if not is_timed(receipts[name])]
    on_speed = [f"Speed is not measured on {_joined(untimed)}."] if 0 < len(untimed) < len(used) else []
    return on_speed + [
        caveat if len(names) == len(counting) else f"{_joined(names)}: {caveat[:1].lower()}{caveat[1:]}"
        for caveat, names in about.items()
    ]
