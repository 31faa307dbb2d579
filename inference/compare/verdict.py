"""Decide what to ship: SHIP, NO or INCONCLUSIVE for each backend of a receipt, with the reasons.

A limit is met if the whole interval of the figure meets it, broken if the whole interval breaks it, and inconclusive in
between. "At most 0.5 pp less accurate" is a non-inferiority test: too few rows can never pass it, unless the backend is
the same model to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits, joined, mb, ms, points, times
from inference.compare import stats
from inference.compare.caveats import caveats
from inference.compare.results import DEFAULT_MAX_DROP, unmeasured

SHIP, NO, INCONCLUSIVE = "SHIP", "NO", "INCONCLUSIVE"
EXIT_CODES = {SHIP: 0, NO: 1, INCONCLUSIVE: 3}
MAX_DROP_OFFERED = 0.03  # the largest limit of the drop that is suggested: a share, as on the dashboard's slider
MAX_COPIES = 0.05  # share of duplicate rows above which accuracy is inconclusive
MAX_ROUNDING = 1e-4  # of a probability: below it, two runtimes compute the same function and differ in rounding
SITUATIONS = {
    "CPU service": "a server without a graphics card",
    "GPU service": "a server with a graphics card",
    "serverless": "started for a request, then stopped",
    "edge": "on a device, such as a phone or a camera",
    "notebook": "for a person who experiments",
}
"""Where a runtime may run -> what that is, in plain words."""


@dataclass(frozen=True)
class ShipLimits:
    """Limits that a backend must meet; None for no limit."""

    max_drop: float = DEFAULT_MAX_DROP
    """Largest drop in accuracy against the reference, as a share: 0.005 is 0.5 percentage points."""
    max_p95_ms: float | None = None
    max_size_mb: float | None = None
    """Size of the model's files in 10^6 bytes, without the libraries."""
    max_flips: int | None = None
    """Rows whose label differs from the reference's, over all tasks."""
    min_speedup: float | None = None


@dataclass(frozen=True)
class Reason:
    """One limit and whether it was met: `decision` is the decision by this limit alone.

    Attributes:
        limit: the field of `ShipLimits`.
        nearest: the nearest value of that field that would pass, in its unit; None if it is met, or if none would.
        unbroken: for NO, the nearest value that would not be broken for certain; None if there is none.
        rows_needed: about how many labelled rows, those measured included, would settle an INCONCLUSIVE accuracy; None
            if rows are not the issue.
        remedy: how many rows these are and what they would settle, in words; "" if rows are not the issue.
    """

    decision: str
    text: str
    limit: str = "max_drop"
    nearest: float | None = None
    unbroken: float | None = None
    rows_needed: int | None = None
    remedy: str = ""


@dataclass(frozen=True)
class BackendVerdict:
    """The decision on one backend."""

    decision: str
    reasons: list[Reason]
    rows_needed: int | None
    """The most that a reason names, if the decision is INCONCLUSIVE."""


@dataclass(frozen=True)
class Recommendation:
    """The backend to use in a situation, None if there is none, and why."""

    backend: str | None
    why: str


@dataclass(frozen=True)
class Verdict:
    """The decisions on all backends, what to use where, and the caveats."""

    backends: Mapping[str, BackendVerdict]
    recommended: Mapping[str, Recommendation]
    sentence: str
    caveats: list[str]
    reference: str
    is_timed: bool = True

    def in_words(self, name: str) -> str:
        """Return the decision on a backend; the reference, which is compared with nothing, is only ever ruled out."""
        decision = self.backends[name].decision
        if decision == SHIP and not self.is_timed and name != self.reference:
            return "meets the limits; speed is open"
        return "the reference" if name == self.reference and decision == SHIP else decision

    def exit_code(self, backend: str | None = None) -> int:
        """Return 0 for SHIP, 1 for NO, 3 for INCONCLUSIVE: of one backend, or the worst of all but the reference."""
        names = [backend] if backend else [n for n in self.backends if n != self.reference] or [self.reference]
        return EXIT_CODES[worst(self.backends[name].decision for name in names)]


def decide(receipt: Mapping[str, Any], limits: ShipLimits = ShipLimits()) -> Verdict:
    """Return the verdict on every backend of a receipt."""
    names, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    decided = {name: _decide_backend(receipt, name, limits) for name in names}
    shippable = [name for name in names if decided[name].decision == SHIP]
    recommended = recommendations(receipt, shippable)
    sentence = _sentence(receipt, decided, recommended["CPU service"].backend)
    return Verdict(decided, recommended, sentence, caveats(receipt), reference, unmeasured(receipt) is None)


def recommendations(receipt: Mapping[str, Any], shippable: Sequence[str]) -> dict[str, Recommendation]:
    """Return which of the backends that may be shipped to use in each situation."""
    return {situation: _recommend(receipt, situation, shippable) for situation in SITUATIONS}


def unknown_places(receipt: Mapping[str, Any]) -> str | None:
    """Return why nothing is recommended for any situation, in a sentence; None if speed was measured."""
    why = unmeasured(receipt)
    return None if why is None else f"{_capital(why)}. Measure on a quiet machine to see which runtime fits where."


def accuracy_decision(receipt: Mapping[str, Any], task: str, name: str, max_drop: float) -> Reason:
    """Return the decision on a backend other than the reference by its accuracy on one task."""
    return _accuracy(receipt, task, name, max_drop)


def worst(decisions: Iterable[str]) -> str:
    """Return NO if any decision is NO, else INCONCLUSIVE if any is, else SHIP."""
    return min(decisions, key=(NO, INCONCLUSIVE, SHIP).index, default=SHIP)


def _decide_backend(receipt: Mapping[str, Any], name: str, limits: ShipLimits) -> BackendVerdict:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    reasons: list[Reason] = []
    if name != reference:
        for task in figures["paired"]:
            reasons += accuracy_reasons(receipt, task, name, limits.max_drop)
        if limits.max_flips is not None:
            pairs = [pairs[name] for pairs in figures["paired"].values()]
            reasons.append(flips_reason(pairs, TITLES[reference], limits.max_flips))
    reasons += cost_reasons(receipt, name, limits)
    decision = worst(reason.decision for reason in reasons)
    reasons = reasons or [Reason(SHIP, "it is the reference, and no other limit was set")]
    return BackendVerdict(decision, reasons, most_rows(reasons) if decision == INCONCLUSIVE else None)


def most_rows(reasons: Iterable[Reason]) -> int | None:
    """Return about how many labelled rows would settle all accuracies; None if rows are not the issue."""
    return max((reason.rows_needed for reason in reasons if reason.rows_needed is not None), default=None)


def most_rows_in_words(reasons: Sequence[Reason]) -> str:
    """Return `remedy` of the reason that needs the most labelled rows; "" if rows are not the issue."""
    rows = most_rows(reasons)
    return next((reason.remedy for reason in reasons if rows is not None and reason.rows_needed == rows), "")


def accuracy_reasons(receipt: Mapping[str, Any], task: str, name: str, max_drop: float) -> list[Reason]:
    """Return the decisions on a backend other than the reference by its labels."""
    return [_accuracy(receipt, task, name, max_drop), *_label_losses(receipt, task, name, max_drop)]


def cost_reasons(receipt: Mapping[str, Any], name: str, limits: ShipLimits) -> list[Reason]:
    """Return the decisions on a backend by its latency, size and speed-up."""
    figures, reasons = receipt["results"], []
    if limits.max_p95_ms is not None:
        reasons.append(p95_reason(receipt, name, limits.max_p95_ms))
    if limits.max_size_mb is not None:
        reasons.append(size_reason(figures["size"][name]["model_bytes"], limits.max_size_mb))
    if limits.min_speedup is not None:
        reasons.append(_speedup(receipt, name, limits.min_speedup))
    return reasons


def _accuracy(receipt: Mapping[str, Any], task: str, name: str, max_drop: float) -> Reason:
    pair, reference = receipt["results"]["paired"][task][name], receipt["settings"]["reference"]
    if is_same(pair):
        return same_reason(task, pair, TITLES[reference], "probability")
    labels = receipt["results"]["accuracy"][task][reference]["labels_present"]
    has_copies = receipt["data"]["copies"] > MAX_COPIES * len(receipt["data"]["row_numbers"])
    return decide_accuracy(task, pair, max_drop, labels, has_copies)


def same_reason(task: str, pair: Mapping[str, Any], other: str, compared: str) -> Reason:
    """Return that the answers on a task are those of `other` to rounding; `compared` is what the difference is of."""
    what = f"all {pair['rows']:,} labels are equal, and no {compared} differs by more than {MAX_ROUNDING:g}"
    return Reason(SHIP, f"{task}: numerically the same as {other}: {what}")


def decide_accuracy(
    task: str, pair: Mapping[str, Any], max_drop: float, labels_present: int, has_copies: bool
) -> Reason:
    """Return the decision by the drop in accuracy on a task.

    Args:
        pair: the answers compared row by row, see `paired`.
        labels_present: number of labels among the rows.
        has_copies: many rows repeat the text of another.
    """
    change = pair["delta_accuracy"]
    text = (
        f"{task}: accuracy {points(change['value'])} ({points(change['low'])} to {points(change['high'])}, each "
        f"bound at about 95% confidence, {pair['rows']:,} rows); limit {points(-max_drop)}"
    )
    nearest = None if has_copies or labels_present == 1 else _nearest_drop(change["low"])
    if nearest is not None and change["low"] <= -max_drop:
        text += f"; {nearest * 100:.1f} pp would pass"
    if change["high"] < -max_drop and _is_worse(pair):
        return Reason(NO, text, nearest=nearest, unbroken=_nearest_drop(change["high"]))
    if labels_present == 1:
        return Reason(INCONCLUSIVE, f"{text}; all rows have one label; rows with other labels are needed")
    if has_copies:
        return Reason(INCONCLUSIVE, f"{text}; many rows are duplicates, which add no evidence")
    if change["low"] > -max_drop:
        return Reason(SHIP, text)
    rows = stats.rows_to_settle(pair["broken"], pair["fixed"], pair["rows"], max_drop)
    if rows is None:
        text += "; more rows will not settle it: the measured drop equals the limit"
        return Reason(INCONCLUSIVE, text, nearest=nearest)
    # If the drop is so large that only the exact test is still open, a few more rows settle it.
    rows = max(rows, pair["rows"] + 1)
    remedy = f"about {rows:,} labelled rows in all would settle whether accuracy on {task} stays within the limit"
    return Reason(INCONCLUSIVE, f"{text}; {remedy}", nearest=nearest, rows_needed=rows, remedy=remedy)


def _nearest_drop(low: float) -> float | None:
    """Return the smallest limit, in tenths of a point, above a drop of -`low`; None if it is absurd."""
    tenths = math.floor(-low * 1000) + 1  # the limit itself is not passed
    return tenths / 1000 if tenths <= MAX_DROP_OFFERED * 1000 else None


def _label_losses(receipt: Mapping[str, Any], task: str, name: str, max_drop: float) -> list[Reason]:
    """Return reasons against a backend that loses single labels, which accuracy alone may hide."""
    pair, scores = receipt["results"]["paired"][task][name], receipt["results"]["accuracy"][task]
    given = [scores[of]["labels_given"] for of in (receipt["settings"]["reference"], name)]
    return decide_labels(task, pair, max_drop, given[0], given[1])


def decide_labels(
    task: str, pair: Mapping[str, Any], max_drop: float, labels_before: int, labels_after: int
) -> list[Reason]:
    """Return reasons against answers that lose single labels, given the number of labels that each gives."""
    change, reasons = pair["delta_macro_f1"], []
    if change["high"] < -max_drop and _is_worse(pair):
        interval = f"{points(change['value'])} ({points(change['low'])} to {points(change['high'])})"
        text, nearest = f"{task}: macro-F1 {interval}: some labels get worse", _nearest_drop(change["high"])
        reasons.append(Reason(NO, text, nearest=nearest, unbroken=nearest))
    if labels_after == 1 < labels_before and pair["flips"] > 0.05 * pair["rows"]:
        reasons.append(Reason(NO, f"{task}: it gives the same label to all {pair['rows']:,} rows"))
    return reasons


def is_same(pair: Mapping[str, Any]) -> bool:
    """Return whether a backend gave the reference's answers on every row, to rounding."""
    return bool(pair["flips"] == 0 and pair["max_abs_dp"] <= MAX_ROUNDING)


def _is_worse(pair: Mapping[str, Any]) -> bool:
    """Return whether the exact one-sided test agrees; with few rows the intervals are only approximate."""
    return bool(pair["fixed"] < pair["broken"] and pair["mcnemar_p"] / 2 < 0.05)


def flips_reason(pairs: Sequence[Mapping[str, Any]], other: str, limit: int) -> Reason:
    """Return the decision by the number of labels that differ from those of `other`, over all tasks."""
    flips, rows = (sum(pair[key] for pair in pairs) for key in ("flips", "rows"))
    text = f"{flips:,} of {rows:,} labels differ from {other}'s; limit {limit:,}"
    return Reason(SHIP, text, "max_flips") if flips <= limit else Reason(NO, text, "max_flips", flips)


def _speedup(receipt: Mapping[str, Any], name: str, minimum: float) -> Reason:
    """Return the decision by speed-up over the reference, with the noise between processes of one backend."""
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    if name == reference:
        text = f"it is the reference, so its speed-up is 1; at least {minimum:g} required"
        return Reason(SHIP, text, "min_speedup") if minimum <= 1 else Reason(NO, text, "min_speedup", 1, 1)
    if (why := unmeasured(receipt)) is not None:
        return Reason(INCONCLUSIVE, f"{why}; at least {minimum:g} times as fast required", "min_speedup")
    return speedup_reason(figures["speedup"][name], figures["control"]["noise"], TITLES[reference], minimum)


def speedup_reason(gain: Mapping[str, float], noise: float, other: str, minimum: float) -> Reason:
    """Return the decision by a speed-up over `other`, its interval widened by the ratio that is noise."""
    low, high = gain["low"] / noise, gain["high"] * noise
    text = (
        f"it is {times(gain['value'])} as fast as {other} ({low:.2f} to {high:.2f} with noise); "
        f"at least {minimum:g}× required"
    )
    if low >= minimum:
        return Reason(SHIP, text, "min_speedup")
    nearest = math.floor(low * 10) / 10
    if nearest > 0:
        text += f"; {nearest:g}× would pass"
    unbroken = math.floor(high * 10) / 10 if high < minimum else 0
    return Reason(NO if high < minimum else INCONCLUSIVE, text, "min_speedup", nearest or None, unbroken or None)


def size_reason(size_bytes: int, limit_mb: float) -> Reason:
    """Return the decision by the size of a model's files."""
    text = f"its files take {mb(size_bytes)}; limit {limit_mb:g} MB"
    if size_bytes / 1e6 <= limit_mb:
        return Reason(SHIP, text, "max_size_mb")
    nearest = math.ceil(size_bytes / 1e5) / 10
    return Reason(NO, f"{text}; {nearest:.1f} MB would pass", "max_size_mb", nearest, nearest)


def p95_reason(receipt: Mapping[str, Any], name: str, limit: float) -> Reason:
    """Return the decision on a backend by the 95th percentile of its latency in ms."""
    if (why := unmeasured(receipt)) is not None:
        return Reason(INCONCLUSIVE, f"{why}; limit of p95 {limit:g} ms", "max_p95_ms")
    latency = receipt["results"]["latency"][name]
    if "p95_ms" not in latency:
        texts = f"p95 needs at least {stats.min_samples(95)} different texts; {latency['texts']} were timed"
        return Reason(INCONCLUSIVE, f"{texts}. Measure more rows", "max_p95_ms")
    p95 = latency["p95_ms"]
    text = f"p95 is {ms(p95['value'])} ({digits(p95['low'])} to {digits(p95['high'])}); limit {limit:g} ms"
    if p95["high"] <= limit:
        return Reason(SHIP, text, "max_p95_ms")
    nearest = _rounded_up(p95["high"])
    text += f"; {nearest:g} ms would pass"
    unbroken = _rounded_up(p95["low"]) if p95["low"] > limit else None
    return Reason(INCONCLUSIVE if unbroken is None else NO, text, "max_p95_ms", nearest, unbroken)


def _rounded_up(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 2)  # the third significant digit
    return round(math.ceil(value / step) * step, 9)


def _recommend(receipt: Mapping[str, Any], situation: str, shippable: Sequence[str]) -> Recommendation:
    """Return the backend for a kind of deployment, chosen by the figure that matters there."""
    figures = receipt["results"]
    if situation == "GPU service":
        return _recommend_for_gpu(receipt["settings"]["backends"])
    if not shippable:
        return Recommendation(None, "No runtime is known to meet the limits.")
    if (why := unmeasured(receipt)) is not None:
        return Recommendation(None, f"{_capital(why)}.")
    p50 = {name: figures["latency"][name]["p50_ms"]["value"] for name in shippable}
    start = {name: figures["start"][name]["total_s"] for name in shippable}
    size = {name: figures["size"][name]["model_bytes"] for name in shippable}
    if situation == "notebook" and "pytorch" in shippable:
        why = f"Only PyTorch can be trained further; it takes {ms(p50['pytorch'])} per text."
        return Recommendation("pytorch", why)
    if situation in ("notebook", "serverless"):
        best = min(shippable, key=start.__getitem__)
        if situation == "notebook":
            return Recommendation(best, f"It starts fastest of those that meet the limits: {start[best]:.1f} s.")
        install = size[best] + figures["size"][best]["libraries_bytes"]
        return Recommendation(best, f"Ready after {start[best]:.1f} s, with {mb(install)} to install.")
    if situation == "edge":
        best = min(shippable, key=size.__getitem__)
        memory = figures["memory"][best]["peak_bytes"]
        return Recommendation(best, f"{mb(size[best])} of files and at most {mb(memory)} of memory.")
    best = min(shippable, key=p50.__getitem__)
    for name in shippable[: shippable.index(best)]:  # the most exact first
        if not figures["ratios"][best][name]["different"]:
            return Recommendation(name, f"{ms(p50[name])} per text; {TITLES[best]} is not measurably faster.")
    per_hour = figures["throughput"][best]["predictions_per_hour"]
    return Recommendation(best, f"{ms(p50[best])} per text, {per_hour:,.0f} texts per hour in batches.")


def _recommend_for_gpu(names: Sequence[str]) -> Recommendation:
    able = [name for name in names if "cuda" in RUNTIMES[name].dtypes]
    if not able:
        return Recommendation(
            None, f"No GPU was measured, and {' and '.join(TITLES[name] for name in names)} does not run on GPUs."
        )
    runtimes = f"{' and '.join(TITLES[name] for name in able)} {'runs' if len(able) == 1 else 'run'}"
    return Recommendation(None, f"No GPU was measured. {runtimes} on GPUs (device='cuda'): measure there.")


def _sentence(receipt: Mapping[str, Any], decided: Mapping[str, BackendVerdict], best: str | None) -> str:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    is_part = "unanswered" in receipt["data"]
    if (why := unmeasured(receipt)) is not None:
        parts = [_first_verdict(receipt) if is_part else f"{_capital(why)}."]
        for name in decided:
            if name != reference and decided[name].decision == SHIP:
                parts.append(f"{TITLES[name]} meets the other limits: {_loss(figures, name)}.")
    elif best is None:
        parts = ["No runtime is known to meet these limits."]
    elif best == reference:
        parts = [f"Stay with {TITLES[best]}."]
    else:
        p50 = {name: ms(figures["latency"][name]["p50_ms"]["value"]) for name in (best, reference)}
        size = figures["size"][best]["model_bytes"] / figures["size"][reference]["model_bytes"]
        parts = [
            f"Ship {TITLES[best]}: {times(figures['speedup'][best]['value'])} as fast as {TITLES[reference]} "
            f"({p50[best]} instead of {p50[reference]} per text), {size:.0%} of its size, {_loss(figures, best)}."
        ]
    for name in decided:
        if name in (reference, best):
            continue
        verdict = decided[name]
        reason = next((r.text for r in verdict.reasons if r.decision == verdict.decision), "")
        if verdict.decision == NO:
            parts.append(f"Not {TITLES[name]}: {reason}.")
        elif verdict.decision == INCONCLUSIVE:
            why = most_rows_in_words(verdict.reasons) or reason
            parts.append(f"{TITLES[name]} is inconclusive{' so far' if is_part else f': {why}'}.")
    return " ".join(parts)


def _first_verdict(receipt: Mapping[str, Any]) -> str:
    """Say that a verdict is the first one, on how many rows, and which backends it lacks."""
    data, reference = receipt["data"], receipt["settings"]["reference"]
    rows = len(data["row_numbers"])
    text = f"First verdict, on {rows:,} of {rows + data['unanswered']:,} rows"
    awaited = list(data.get("awaited", ()))
    exact_first = list(RUNTIMES)
    if awaited and exact_first.index(awaited[0]) < exact_first.index(reference):
        text += f", against {TITLES[reference]} until {TITLES[awaited.pop(0)]}, the reference, has loaded"
    if awaited:
        text += f"; still loading: {joined([TITLES[name] for name in awaited])}"
    return f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _loss(figures: Mapping[str, Any], name: str) -> str:
    """Return the largest loss of accuracy that the rows leave possible, over all tasks."""
    pairs = [pairs[name] for pairs in figures["paired"].values()]
    open_pairs = [pair for pair in pairs if not is_same(pair)]
    if not open_pairs:
        return "numerically the same"
    low, rows = min((pair["delta_accuracy"]["low"], pair["rows"]) for pair in open_pairs)
    loss = f"at most {-low * 100:.2f} pp less accurate" if low < 0 else "no less accurate"
    return f"{loss} (about 95% confidence, {rows:,} rows)"
