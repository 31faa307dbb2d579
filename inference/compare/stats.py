"""Intervals and significance tests for measured figures, on top of SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[Any]
LEVEL = 0.95  # confidence level of every interval, unless stated otherwise
RESAMPLES = 2_000
CHUNK = 200  # resamples computed at once by `macro_f1_bootstrap`


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def enough_samples(samples: int, percentile: float) -> bool:
    """Return whether this many samples are enough to estimate a percentile.

    They are if at least two of them lie above the true percentile with 99% probability: 64 samples for p90, 130 for
    p95, 662 for p99. Source: MLPerf Inference, early stopping.
    """
    return bool(stats.binom.cdf(1, samples, 1 - percentile / 100) <= 0.01)


def min_samples(percentile: float) -> int:
    """Return the smallest number of samples for which `enough_samples` holds, for percentiles up to 99.9."""
    return int(np.argmax(stats.binom.cdf(1, np.arange(10_000), 1 - percentile / 100) <= 0.01))


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of blocks of samples.

    Attributes:
        blocks: positions, shape (resamples, blocks drawn).
        stretch: factor for the half-widths of a percentile interval, see `resample_blocks`.
    """

    blocks: Array
    stretch: float


def resample_blocks(starts: Sequence[int], rng: np.random.Generator, resamples: int = RESAMPLES) -> Draws:
    """Draw process starts, then blocks of calls within each start (two-stage bootstrap, Davison & Hinkley 1997, §3.8).

    Calls timed in the same second and process are correlated: drawing single calls would treat them as independent
    and give intervals that are too narrow. A bootstrap of k starts sees only (k - 1) / k of their variance and ignores
    Student's t, so the intervals are stretched by t / z * sqrt(k / (k - 1)), 1.4 for six starts. With a single start,
    the variation between starts is unknown and not in the interval.

    Args:
        starts: the process start of each block, shape (blocks,); each start has the same number of blocks.
    """
    members = [np.flatnonzero(np.asarray(starts) == g) for g in dict.fromkeys(starts)]
    k, size = len(members), min(map(len, members))
    table = np.stack([m[:size] for m in members])  # (starts, blocks of each)
    drawn = rng.integers(k, size=(resamples, k))
    within = rng.integers(size, size=(resamples, k, size))
    upper = (1 + LEVEL) / 2
    stretch = float(stats.t.ppf(upper, k - 1) / stats.norm.ppf(upper) * np.sqrt(k / (k - 1))) if k > 1 else 1.0
    return Draws(table[drawn[..., None], within].reshape(resamples, -1), stretch)


def percentile_intervals(blocks: Array, draws: Draws, percentiles: Sequence[float]) -> list[Estimate]:
    """Return percentiles of all samples with their bootstrap intervals.

    Args:
        blocks: samples, shape (blocks, calls); NaN for calls to ignore.
    """
    data, again = _sorted(blocks[None]), _sorted(blocks[draws.blocks])
    return [_interval(float(_percentile(*data, p)[0]), _percentile(*again, p), draws.stretch) for p in percentiles]


def ratio_interval(slow: Array, fast: Array, draws: Draws) -> Estimate:
    """Return the speed-up: the median of `slow` over the median of `fast`, with its bootstrap interval.

    Both have shape (blocks, calls), and block i of both was measured in the same round; the same blocks are drawn.
    """
    value = _median(slow[None]) / _median(fast[None])
    again = _median(slow[draws.blocks]) / _median(fast[draws.blocks])
    return _interval(float(value[0]), again, draws.stretch)


def _median(samples: Array) -> Array:
    return _percentile(*_sorted(samples), 50)


def _sorted(samples: Array) -> tuple[Array, Array]:
    """Return each line sorted with NaN last, shape (lines, calls), and its count of numbers, shape (lines,)."""
    lines = np.sort(samples.reshape(len(samples), -1), axis=1)
    return lines, (~np.isnan(lines)).sum(1)


def _percentile(lines: Array, counts: Array, percentile: float) -> Array:
    """Return a percentile of each line, interpolated linearly. np.nanpercentile is far slower."""
    place = np.maximum(counts - 1, 0) * percentile / 100
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, np.maximum(counts - 1, 0))
    line = np.arange(len(lines))
    low = lines[line, below]
    return np.asarray(low + (place - below) * (lines[line, above] - low))


def _interval(value: float, again: Array, stretch: float = 1.0) -> Estimate:
    """Return the percentile interval, stretched about the value on a log scale (for times and ratios)."""
    low, high = np.nanquantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if stretch != 1.0:
        low, high = (value * (edge / value) ** stretch for edge in (min(low, value), max(high, value)))
    return Estimate(value, float(low), float(high))


def share(successes: int, rows: int) -> Estimate:
    """Return a proportion with its Wilson interval (Wilson 1927)."""
    interval = stats.binomtest(successes, rows).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / rows, float(interval.low), float(interval.high))


def mcnemar(broken: int, fixed: int) -> float:
    """Return the exact two-sided p-value of equal accuracy (McNemar 1947).

    Args:
        broken: rows that only the first classifier gets right.
        fixed: rows that only the second classifier gets right.
    """
    return float(stats.binomtest(broken, broken + fixed).pvalue) if broken + fixed else 1.0


def paired_difference(broken: int, fixed: int, rows: int, level: float = 0.9) -> Estimate:
    """Return the second classifier's accuracy minus the first's, with Tango's score interval.

    It also holds when few rows differ, unlike the bootstrap, which gives [0, 0] for any number of rows that all agree.
    Source: Tango 1998, Statistics in Medicine 17:891-908. The approximation is slightly narrow below about 600 rows.
    If no row differs, the exact binomial bound is wider and is used instead.

    Args:
        level: 0.9 makes each end a one-sided 95% bound, as a non-inferiority test needs.
    """
    z = float(stats.norm.ppf((1 + level) / 2))

    def statistic(delta: float) -> float:
        # q: constrained maximum-likelihood estimate of the share of `broken` rows, given the difference.
        a, b, c = 2.0 * rows, (2 * rows - fixed + broken) * delta - broken - fixed, -broken * delta * (1 - delta)
        q = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = rows * (2 * q + delta * (1 - delta))
        gap = fixed - broken - rows * delta
        return float(gap / np.sqrt(variance)) if variance > 0 else float(np.sign(gap) * np.inf if gap else 0.0)

    value = (fixed - broken) / rows
    edge = 1 - 1e-9
    low = _root(lambda d: statistic(d) - z, -edge, value)
    high = _root(lambda d: statistic(d) + z, value, edge)
    if broken + fixed == 0:
        exact = 1 - ((1 - level) / 2) ** (1 / rows)  # Clopper & Pearson 1934
        low, high = min(low, -exact), max(high, exact)
    return Estimate(value, low, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of a decreasing function between two points, or the nearer end if it has none."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    return float(optimize.bisect(function, low, high, xtol=1e-9))


def accuracy_bootstrap(broken: int, fixed: int, rows: int, seed: int) -> Estimate:
    """Return the same difference with its paired bootstrap interval."""
    counts = [broken, fixed, rows - broken - fixed]  # drawing rows means drawing among these three kinds
    drawn = np.random.default_rng(seed).multinomial(rows, np.array(counts) / rows, size=RESAMPLES)
    return _interval((fixed - broken) / rows, (drawn[:, 1] - drawn[:, 0]) / rows)


def macro_f1_bootstrap(true: Array, first: Array, second: Array, labels: int, seed: int) -> tuple[Estimate, Estimate]:
    """Return the macro-F1 of `second` and its gain over `first`, with paired bootstrap intervals.

    Each resample is a multinomial draw over the distinct (true, first, second) triples instead of a loop over rows.

    Args:
        true: label positions, shape (rows,), as are `first` and `second`, the two classifiers' answers.
        labels: number of labels. The mean is over those that occur in `true`.
    """
    triples, counts = np.unique(np.stack([true, first, second]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)

    def count(weights: Array, ids: Array) -> Array:
        """Return the rows per label in each draw, (draws, labels); `ids` are the labels of the weighted triples."""
        totals = np.zeros((len(weights), labels))
        if len(ids):
            order = np.argsort(ids, kind="stable")
            starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
            totals[:, ids[order][starts]] = np.add.reduceat(weights[:, order], starts, axis=1)
        return totals

    def macro(weights: Array, answers: Array) -> Array:
        hits = triples[0] == answers
        right = count(weights[:, hits], answers[hits])
        support, given = count(weights, triples[0]), count(weights, answers)
        f1 = np.divide(2 * right, support + given, out=np.zeros_like(right), where=support > 0)
        # The mean is over the labels in this draw: a label that was not drawn does not count as 0.
        return np.asarray(f1.sum(1) / (support > 0).sum(1))

    scores = [np.array([[macro(counts[None].astype(float), answers)[0]] for answers in triples[1:]])]
    for _ in range(RESAMPLES // CHUNK):  # in chunks to bound memory: there may be very many triples
        weights = rng.multinomial(counts.sum(), counts / counts.sum(), size=CHUNK).astype(float)
        scores.append(np.stack([macro(weights, answers) for answers in triples[1:]]))
    of_first, of_second = np.concatenate(scores, axis=1)
    gain = of_second - of_first
    return _interval(float(of_second[0]), of_second[1:]), _interval(float(gain[0]), gain[1:])


def rows_to_settle(broken: int, fixed: int, rows: int, margin: float) -> int | None:
    """Return the number of labelled rows needed to decide whether the drop in accuracy exceeds `margin`.

    For 80% power at one-sided 5%: n = (z_0.95 + z_0.80)² · d / (margin + Δ)², with d the observed share of rows on
    which exactly one classifier is right (at least 1 / rows) and Δ the observed difference in accuracy. At least as
    many as would settle it if further rows were like those seen. None if the observed drop equals the margin, which
    more rows cannot settle.
    """
    room = margin + (fixed - broken) / rows
    if abs(room) < 1e-9:
        return None
    z = float(stats.norm.ppf(0.95) + stats.norm.ppf(0.80))
    needed = int(np.ceil(z * z * max(broken + fixed, 1) / rows / room**2))
    while not settled(round(broken * needed / rows), round(fixed * needed / rows), needed, margin):
        needed += max(1, needed // 50)
        if needed > 10**9:  # rounding keeps the difference on the margin
            return None
    return needed


def settled(broken: int, fixed: int, rows: int, margin: float) -> bool:
    """Return whether the interval of the difference in accuracy lies entirely above or below `-margin`."""
    difference = paired_difference(broken, fixed, rows)
    return difference.low > -margin or difference.high < -margin


def calibration(confidence: Array, right: Array, bins: int = 15) -> tuple[float, list[dict[str, float]]]:
    """Return the expected calibration error and its non-empty bins of equal width (Guo et al. 2017)."""
    edges = np.linspace(0, 1, bins + 1)
    means, _, place = stats.binned_statistic(confidence, [confidence, right.astype(float)], "mean", bins=edges)
    rows = np.bincount(place, minlength=bins + 2)[1:-1]
    filled = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "rows": int(rows[i]),
            "confidence": float(means[0, i]),
            "accuracy": float(means[1, i]),
        }
        for i in np.flatnonzero(rows)
    ]
    return sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in filled) / len(confidence), filled


def coverage_curve(confidence: Array, right: Array, thresholds: Array) -> tuple[Array, Array]:
    """Return the share of rows with at least each confidence, and the accuracy among them (NaN if there are none)."""
    order = np.argsort(confidence)
    below = np.searchsorted(confidence[order], thresholds, side="left")
    left = len(confidence) - below
    hits = np.concatenate([[0], np.cumsum(right[order][::-1])])[left]
    return left / len(confidence), np.divide(hits, left, out=np.full(len(left), np.nan), where=left > 0)
