"""What to ship, from a receipt and what is asked of it: SHIP, NO or INCONCLUSIVE per backend, with the reasons.

A limit is kept when the whole interval of the figure keeps it, broken when the whole interval breaks it, and not
settled in between. "At most 0.5 pp less accurate" is a test of non-inferiority: too few rows can never pass it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.backends import TITLES, runtime
from inference.compare import stats
from inference.compare.benchmark import MAX_SLOWDOWN
from inference.compare.results import DEFAULT_MAX_DROP

SHIP, NO, INCONCLUSIVE = "SHIP", "NO", "INCONCLUSIVE"
EXIT_CODES = {SHIP: 0, NO: 1, INCONCLUSIVE: 3}
MAX_COPIES = 0.05  # of the rows: beyond, a file is taken to repeat itself
SITUATIONS = ("CPU service", "GPU service", "serverless", "edge", "notebook")


@dataclass(frozen=True)
class ShipLimits:
    """What a backend must keep. None: not asked."""

    max_drop: float = DEFAULT_MAX_DROP
    """Largest fall in accuracy against the reference, as a share: 0.005 is 0.5 percentage points."""
    max_p95_ms: float | None = None
    max_size_mb: float | None = None
    """Of the files of the model, in 10^6 bytes; the libraries are not counted."""
    max_flips: int | None = None
    """Rows whose label differs from the reference's, over all tasks."""
    min_speedup: float | None = None


@dataclass(frozen=True)
class Reason:
    """One limit and how it was met: `decision` is what this limit alone would give."""

    decision: str
    text: str


@dataclass(frozen=True)
class BackendVerdict:
    """Of one backend."""

    decision: str
    reasons: list[Reason]
    rows_needed: int | None
    """About how many labelled rows would settle an INCONCLUSIVE accuracy; None where that is not the question."""


@dataclass(frozen=True)
class Recommendation:
    """Which backend for a situation, None if none will do, and why."""

    backend: str | None
    why: str


@dataclass(frozen=True)
class Verdict:
    """Everything `decide` has to say."""

    backends: Mapping[str, BackendVerdict]
    recommended: Mapping[str, Recommendation]
    sentence: str
    caveats: list[str]
    reference: str

    def exit_code(self, backend: str | None = None) -> int:
        """0 SHIP, 1 NO, 3 INCONCLUSIVE: of one backend, or the worst of all that are up against the reference."""
        asked = [backend] if backend else [n for n in self.backends if n != self.reference] or [self.reference]
        decisions = {self.backends[name].decision for name in asked}
        return EXIT_CODES[next(d for d in (NO, INCONCLUSIVE, SHIP) if d in decisions)]


def decide(receipt: Mapping[str, Any], limits: ShipLimits = ShipLimits()) -> Verdict:
    """The verdict on every backend of a receipt."""
    names, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    judged = {name: _decide_backend(receipt, name, limits) for name in names}
    shippable = [name for name in names if judged[name].decision == SHIP]
    recommended = {situation: _recommend(receipt, situation, shippable) for situation in SITUATIONS}
    sentence = _sentence(receipt, judged, recommended["CPU service"].backend)
    return Verdict(judged, recommended, sentence, _caveats(receipt, judged), reference)


def _decide_backend(receipt: Mapping[str, Any], name: str, limits: ShipLimits) -> BackendVerdict:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    reasons: list[Reason] = []
    needed: list[int] = []
    if name != reference:
        for task in figures["paired"]:
            reasons += _accuracy(receipt, task, name, limits.max_drop, needed)
    if limits.max_p95_ms is not None:
        reasons.append(_p95(figures["latency"][name], limits.max_p95_ms))
    if limits.max_size_mb is not None:
        size = figures["size"][name]["model_bytes"] / 1e6
        reasons.append(
            _fixed(size <= limits.max_size_mb, f"its files have {size:.1f} MB", f"{limits.max_size_mb:g} MB")
        )
    if limits.max_flips is not None and name != reference:
        flips, rows = _flips(receipt, name)
        told = f"{flips:,} of {rows:,} answers have another label than {TITLES[reference]}'s"
        reasons.append(_fixed(flips <= limits.max_flips, told, f"{limits.max_flips:,}"))
    if limits.min_speedup is not None:
        reasons.append(_speedup(figures, name, reference, limits.min_speedup))
    found = {reason.decision for reason in reasons}
    decision = next((d for d in (NO, INCONCLUSIVE) if d in found), SHIP)
    if not reasons:
        reasons.append(Reason(SHIP, "it is the reference, and nothing else was asked of it"))
    return BackendVerdict(decision, reasons, max(needed, default=None) if decision == INCONCLUSIVE else None)


def accuracy_decision(receipt: Mapping[str, Any], task: str, name: str, max_drop: float) -> Reason:
    """What the accuracy on one task alone says of a backend that is not the reference."""
    return _accuracy(receipt, task, name, max_drop, [])[0]


def _accuracy(receipt: Mapping[str, Any], task: str, name: str, max_drop: float, needed: list[int]) -> list[Reason]:
    """The reasons that one task gives; the rows that would settle it go into `needed`."""
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    found, scores = figures["paired"][task], figures["accuracy"][task]
    pair = found[name]
    change = pair["delta_accuracy"]
    told = (
        f"{task}: accuracy {pp(change['value'])} (between {pp(change['low'])} and {pp(change['high'])}, each about "
        f"95 % certain, {pair['rows']:,} rows); {pp(-max_drop)} allowed"
    )
    one_class = scores[reference]["labels_present"] == 1
    copies = receipt["data"]["copies"] > MAX_COPIES * len(receipt["data"]["row_numbers"])
    reasons = []
    if change["high"] < -max_drop and _worse(pair):
        reasons.append(Reason(NO, told))
    elif one_class:
        reasons.append(Reason(INCONCLUSIVE, f"{told}; every row has the same label, so rows of the others are needed"))
    elif copies:
        reasons.append(Reason(INCONCLUSIVE, f"{told}; many rows repeat a text, and a copy is no evidence"))
    elif change["low"] > -max_drop:
        reasons.append(Reason(SHIP, told))
    else:
        rows = stats.rows_to_settle(pair["broken"], pair["fixed"], pair["rows"], max_drop)
        if rows is None:
            told += "; no number of rows will tell, for the fall as found is just what is allowed"
        else:
            # A fall so far beyond the limit that only the exact test is still open is settled by a few rows more.
            rows = max(rows, pair["rows"] + 1)
            needed.append(rows)
            told += f"; about {rows:,} labelled rows would settle it"
        reasons.append(Reason(INCONCLUSIVE, told))
    fall = pair["delta_macro_f1"]
    if fall["high"] < -max_drop and _worse(pair):
        reasons.append(
            Reason(
                NO,
                f"{task}: macro-F1 {pp(fall['value'])} ({pp(fall['low'])} to {pp(fall['high'])}): some labels suffer",
            )
        )
    if scores[name]["labels_given"] == 1 < scores[reference]["labels_given"] and pair["flips"] > 0.05 * pair["rows"]:
        reasons.append(Reason(NO, f"{task}: it gives one and the same label to all {pair['rows']:,} rows"))
    return reasons


def _worse(pair: Mapping[str, Any]) -> bool:
    """Whether the exact one-sided test says so too: with few rows the intervals are approximations."""
    return bool(pair["fixed"] < pair["broken"] and pair["mcnemar_p"] / 2 < 0.05)


def _speedup(figures: Mapping[str, Any], name: str, reference: str, wanted: float) -> Reason:
    """What two processes of one backend differ by is added to the interval: it may be the luck of a start."""
    if name == reference:
        return Reason(SHIP if wanted <= 1 else NO, f"the others' speed is measured against it; {wanted:g} times wanted")
    gain, noise = figures["speedup"][name], figures["control"]["noise"]
    low, high = gain["low"] / noise, gain["high"] * noise
    told = f"it is {gain['value']:.2f} times as fast as {TITLES[reference]} ({low:.2f} to {high:.2f}, noise included)"
    kept = SHIP if low >= wanted else NO if high < wanted else INCONCLUSIVE
    return Reason(kept, f"{told}; {wanted:g} times wanted")


def _p95(latency: Mapping[str, Any], limit: float) -> Reason:
    if "p95_ms" not in latency:
        return Reason(
            INCONCLUSIVE, f"p95 wants 130 different texts and {latency['texts']} were timed; measure more rows"
        )
    p95 = latency["p95_ms"]
    told = f"p95 is {p95['value']:.1f} ms ({p95['low']:.1f} to {p95['high']:.1f}); {limit:g} ms allowed"
    if p95["high"] <= limit:
        return Reason(SHIP, told)
    return Reason(NO if p95["low"] > limit else INCONCLUSIVE, told)


def _fixed(kept: bool, told: str, limit: str) -> Reason:
    """A figure without an interval: it keeps the limit or it does not."""
    return Reason(SHIP if kept else NO, f"{told}; {limit} allowed")


def _flips(receipt: Mapping[str, Any], name: str) -> tuple[int, int]:
    pairs = [pairs[name] for pairs in receipt["results"]["paired"].values()]
    return sum(pair["flips"] for pair in pairs), sum(pair["rows"] for pair in pairs)


def _recommend(receipt: Mapping[str, Any], situation: str, shippable: list[str]) -> Recommendation:
    """The decision tree of a deployment, each branch taken by a figure."""
    figures = receipt["results"]
    if situation == "GPU service":
        return _recommend_for_gpu(receipt["settings"]["backends"], shippable)
    if not shippable:
        return Recommendation(None, "No backend is known to keep the limits.")
    p50: Callable[[str], float] = lambda name: float(figures["latency"][name]["p50_ms"]["value"])  # noqa: E731
    start: Callable[[str], float] = lambda name: float(figures["start"][name]["total_s"])  # noqa: E731
    disk: Callable[[str], float] = lambda name: float(  # noqa: E731
        figures["size"][name]["model_bytes"] + figures["size"][name]["libraries_bytes"]
    )
    if situation == "notebook":
        if "pytorch" in shippable:
            return Recommendation(
                "pytorch",
                f"Only it can be trained further, which no figure shows; it takes {p50('pytorch'):.1f} ms a text.",
            )
        best = min(shippable, key=start)
        return Recommendation(best, f"Of those that keep the limits it is ready first: {start(best):.1f} s.")
    if situation == "serverless":
        best = min(shippable, key=start)
        return Recommendation(best, f"Ready after {start(best):.1f} s, with {disk(best) / 1e6:,.0f} MB to install.")
    if situation == "edge":
        best = min(shippable, key=lambda name: figures["size"][name]["model_bytes"])
        return Recommendation(
            best,
            f"{figures['size'][best]['model_bytes'] / 1e6:.0f} MB of files and "
            f"{figures['memory'][best]['peak_bytes'] / 1e6:.0f} MB of memory at most.",
        )
    best = min(shippable, key=p50)
    why = f"{p50(best):.1f} ms a text"
    for name in shippable[: shippable.index(best)]:  # they are in the order of exactness
        if not figures["ratios"][best][name]["different"]:
            return Recommendation(name, f"{p50(name):.1f} ms a text; {TITLES[best]} is not measurably faster.")
    return Recommendation(
        best, why + f", {figures['throughput'][best]['predictions_per_hour']:,.0f} an hour in batches."
    )


def _recommend_for_gpu(names: Sequence[str], shippable: Sequence[str]) -> Recommendation:
    able = [name for name in names if name != "int8"]  # its 8-bit products are written for CPUs
    if not able:
        return Recommendation(
            None, f"No GPU was measured, and {' and '.join(TITLES[name] for name in names)} runs on none."
        )
    held = [TITLES[name] for name in dict.fromkeys(map(runtime, able))]
    told = f"{' and '.join(held)} {'runs' if len(held) == 1 else 'run'} on one (device='cuda'): measure there."
    best = next((name for name in able if name in shippable), None)
    return Recommendation(best, f"No GPU was measured, so no figure decides. {told}")


def _sentence(receipt: Mapping[str, Any], judged: Mapping[str, BackendVerdict], best: str | None) -> str:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    others = [name for name in judged if name not in (reference, best)]
    parts = []
    if best is None:
        parts.append("Nothing is known to keep these limits.")
    elif best == reference:
        parts.append(f"Stay with {TITLES[best]}.")
    else:
        worst = min(
            (pairs[best] for pairs in figures["paired"].values()), key=lambda pair: pair["delta_accuracy"]["low"]
        )
        size = figures["size"][best]["model_bytes"] / figures["size"][reference]["model_bytes"]
        low = worst["delta_accuracy"]["low"]
        loss = f"at most {-low * 100:.2f} pp less accurate" if low < 0 else "no less accurate"
        parts.append(
            f"Ship {TITLES[best]}: {figures['speedup'][best]['value']:.1f} times as fast as {TITLES[reference]} "
            f"({figures['latency'][best]['p50_ms']['value']:.1f} ms instead of "
            f"{figures['latency'][reference]['p50_ms']['value']:.1f} ms a text), {size:.0%} of its size, {loss} "
            f"(about 95 % certainty, {worst['rows']:,} rows)."
        )
    for name in others:
        one = judged[name]
        told = next((reason.text for reason in one.reasons if reason.decision == one.decision), "")
        if one.decision == NO:
            parts.append(f"Not {TITLES[name]}: {told}.")
        elif one.decision == INCONCLUSIVE:
            more = f"about {one.rows_needed:,} labelled rows would settle it" if one.rows_needed else told
            parts.append(f"{TITLES[name]} is not settled: {more}.")
    return " ".join(parts)


def _caveats(receipt: Mapping[str, Any], judged: Mapping[str, BackendVerdict]) -> list[str]:
    """What a sceptic would ask about this receipt."""
    figures, settings, data = receipt["results"], receipt["settings"], receipt["data"]
    found = [note[:1].upper() + note[1:] + "." for note in data["notes"]]
    if settings["launches"] == 1:
        found.append("Every process was started once, so the luck of a start is not in the intervals.")
    control = figures["control"]
    counted = [block["slowdown"] for block in receipt["latency"]["blocks"] if not block["disturbed"]]
    slow = sum(slowdown > MAX_SLOWDOWN for slowdown in counted) / len(counted)
    if slow > 0.1:
        found.append(
            f"The machine was not left alone: {slow:.0%} of the rounds that count were timed while it was slow."
        )
    cold = {arm for start in receipt["latency"]["warm_up"] for arm, one in start.items() if not one["plateau"]}
    if cold:
        told = ", ".join(TITLES.get(arm, f"the second {TITLES[settings['reference']]}") for arm in sorted(cold))
        found.append(f"At one of the starts the warm-up of {told} ended before its times were steady.")
    if control["noise"] > 1.1:
        found.append(
            f"A noisy machine: two processes of the same backend may differ by as much as {control['noise'] - 1:.0%}. "
            "Smaller gains than that do not count as gains."
        )
    if receipt["machine"]["steal_share"] > 0.02:
        found.append(f"The host took {receipt['machine']['steal_share']:.0%} of the processor during the run.")
    disturbed = {name: entry["batch_flips"] for name, entry in receipt["backends"].items()}
    for name, flips in disturbed.items():
        total = sum(flips["tasks"].values())
        if total:
            found.append(
                f"{TITLES[name]}: {total} of {flips['rows']:,} texts get another label alone than beside other texts."
            )
    if data["truncated"]:
        found.append(f"{data['truncated']:,} texts are longer than the model reads; it saw their beginning.")
    return found


def pp(share: float) -> str:
    """A difference of shares in percentage points, with its sign: -0.0012 is "−0.12 pp"."""
    return f"{share * 100:+.2f} pp".replace("-", "−")
