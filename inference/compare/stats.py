"""Intervals and tests for figures that come from samples. scipy and scikit-learn do the work where they have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[Any]
LEVEL = 0.95  # of every interval, unless it says otherwise
RESAMPLES = 2_000
CHUNK = 200  # resamples worked out at once where each is large


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def enough_samples(samples: int, percentile: float) -> bool:
    """Whether so many samples carry a percentile.

    They do if, were the true share below it only `percentile` %, more than one of the samples would lie above it
    with 99 % probability: 64 samples for p90, 130 for p95, 662 for p99. Source: MLPerf Inference, early stopping.
    """
    return bool(stats.binom.cdf(1, samples, 1 - percentile / 100) <= 0.01)


def min_samples(percentile: float) -> int:
    """The fewest different texts that carry a percentile."""
    low, high = 1, 2
    while not enough_samples(high, percentile):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough_samples(middle, percentile) else (middle, high)
    return high


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of blocks of samples.

    Attributes:
        blocks: positions, (resamples, blocks drawn).
        stretch: by which the half-widths of a percentile interval are multiplied, see `resample_blocks`.
    """

    blocks: Array
    stretch: float


def resample_blocks(starts: Sequence[int], rng: np.random.Generator, resamples: int = RESAMPLES) -> Draws:
    """Draws of process starts with all that happened in them, then of blocks of calls within each.

    Calls that were timed in the same second, in the same process, are alike. Drawing single calls would take
    them for independent and give intervals that the next run does not keep (two-stage bootstrap, Davison & Hinkley
    1997, §3.8). A bootstrap of k starts sees only (k - 1) / k of their variance and knows nothing of Student's t,
    so the intervals are stretched by t / z * sqrt(k / (k - 1)), 1.4 for six. With one start the luck of a
    start cannot be seen, and the interval is of that start alone.

    Args:
        starts: the process start that each block belongs to, (blocks,), each with the same number of blocks.
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
    """Percentiles of all samples, each with its two-stage bootstrap interval.

    Args:
        blocks: samples, (blocks, calls in each); NaN for a call that does not count.
        draws: from `resample_blocks`.
    """
    data, again = _sorted(blocks[None]), _sorted(blocks[draws.blocks])
    return [_interval(float(_percentile(*data, p)[0]), _percentile(*again, p), draws.stretch) for p in percentiles]


def ratio_interval(slow: Array, fast: Array, draws: Draws) -> Estimate:
    """How many times the median of `fast` goes into that of `slow`: a speed-up. The same blocks are drawn of both.

    Args:
        slow: samples, (blocks, calls in each); block i of both was taken in the same round.
        fast: the same shape.
    """
    value = _median(slow[None]) / _median(fast[None])
    again = _median(slow[draws.blocks]) / _median(fast[draws.blocks])
    return _interval(float(value[0]), again, draws.stretch)


def _median(samples: Array) -> Array:
    return _percentile(*_sorted(samples), 50)


def _sorted(samples: Array) -> tuple[Array, Array]:
    """Each line sorted with NaN last, (lines, calls), and how many of it are numbers, (lines,)."""
    lines = np.sort(samples.reshape(len(samples), -1), axis=1)
    return lines, (~np.isnan(lines)).sum(1)


def _percentile(lines: Array, counts: Array, percentile: float) -> Array:
    """Of each line, between its two nearest samples. NumPy has no fast one for lines of unequal length."""
    place = np.maximum(counts - 1, 0) * percentile / 100
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, np.maximum(counts - 1, 0))
    line = np.arange(len(lines))
    low = lines[line, below]
    return np.asarray(low + (place - below) * (lines[line, above] - low))


def _interval(value: float, again: Array, stretch: float = 1.0) -> Estimate:
    """The percentile interval; stretched about the value on a logarithmic scale, as times and ratios want."""
    low, high = np.nanquantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if stretch != 1.0:
        low, high = (value * (edge / value) ** stretch for edge in (min(low, value), max(high, value)))
    return Estimate(value, float(low), float(high))


def share(successes: int, rows: int) -> Estimate:
    """A share of rows with its Wilson interval (Wilson 1927)."""
    found = stats.binomtest(successes, rows)
    interval = found.proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / rows, float(interval.low), float(interval.high))


def mcnemar(broken: int, fixed: int) -> float:
    """Exact two-sided p-value that neither of two classifiers is right more often (McNemar 1947).

    Args:
        broken: rows that only the first has right.
        fixed: rows that only the second has right.
    """
    return float(stats.binomtest(broken, broken + fixed).pvalue) if broken + fixed else 1.0


def paired_difference(broken: int, fixed: int, rows: int, level: float = 0.9) -> Estimate:
    """The second classifier's accuracy minus the first's, with Tango's score interval.

    It holds also where few rows differ: a bootstrap of rows that all agree would give [0, 0] however few they are.
    Source: Tango 1998, Statistics in Medicine 17:891-908. It is an approximation, a little narrow below some 600
    rows. Where no row differs the exact bound of a share of which none was seen is wider, and is taken.

    Args:
        level: 0.9 by default, so that each end is a one-sided 95 % bound, as a test of non-inferiority wants.
    """
    z = float(stats.norm.ppf((1 + level) / 2))

    def statistic(delta: float) -> float:
        # The constrained maximum-likelihood estimate of the share of `broken` rows, given the difference.
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
    """Where a falling function crosses zero between two points, or the end at which it comes nearest."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    return float(optimize.bisect(function, low, high, xtol=1e-9))


def accuracy_bootstrap(broken: int, fixed: int, rows: int, seed: int) -> Estimate:
    """The paired bootstrap of the same difference: rows drawn with replacement, both classifiers on each draw."""
    counts = [broken, fixed, rows - broken - fixed]  # drawing rows is drawing among these three kinds
    drawn = np.random.default_rng(seed).multinomial(rows, np.array(counts) / rows, size=RESAMPLES)
    return _interval((fixed - broken) / rows, (drawn[:, 1] - drawn[:, 0]) / rows)


def macro_f1_bootstrap(true: Array, first: Array, second: Array, labels: int, seed: int) -> tuple[Estimate, Estimate]:
    """Macro-F1 of `second`, and how much it exceeds that of `first`, with their paired bootstrap intervals.

    Drawing n rows with replacement is drawing n times among the distinct (true, first, second) triples by how
    often each occurs, so each resample is counted and not gone through row by row.

    Args:
        true: positions of the right labels, (rows,); `first` and `second` those of the answers.
        labels: how many labels there are. The mean is over those that occur among the right ones.
    """
    triples, counts = np.unique(np.stack([true, first, second]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)

    def count(weights: Array, ids: Array) -> Array:
        """How many rows of each draw have each label, (draws, labels). `weights` are of the triples with these ids."""
        found = np.zeros((len(weights), labels))
        if len(ids):
            order = np.argsort(ids, kind="stable")
            starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
            found[:, ids[order][starts]] = np.add.reduceat(weights[:, order], starts, axis=1)
        return found

    def macro(weights: Array, answers: Array) -> Array:
        hits = triples[0] == answers
        right = count(weights[:, hits], answers[hits])
        support, given = count(weights, triples[0]), count(weights, answers)
        f1 = np.divide(2 * right, support + given, out=np.zeros_like(right), where=support > 0)
        # Of the labels in this very draw: a label that was not drawn is no failure.
        return np.asarray(f1.sum(1) / (support > 0).sum(1))

    scores = [np.array([[macro(counts[None].astype(float), answers)[0]] for answers in triples[1:]])]
    for _ in range(RESAMPLES // CHUNK):  # some at a time: a poor model on very many rows has very many triples
        weights = rng.multinomial(counts.sum(), counts / counts.sum(), size=CHUNK).astype(float)
        scores.append(np.stack([macro(weights, answers) for answers in triples[1:]]))
    of_first, of_second = np.concatenate(scores, axis=1)
    gain = of_second - of_first
    return _interval(float(of_second[0]), of_second[1:]), _interval(float(gain[0]), gain[1:])


def rows_to_settle(broken: int, fixed: int, rows: int, margin: float) -> int | None:
    """Labelled rows for an 80 % chance to show, at one-sided 5 %, on which side of `margin` the fall in accuracy is.

    As n = (z_0.95 + z_0.80)² · d / (margin + Δ)², d being the share of rows on which exactly one is right and Δ
    the difference in accuracy, both as found; d is taken as at least 1 / rows, for none seen is not none.
    Never fewer than would settle it if the rows to come were like those seen.
    None where Δ as found is the margin itself: no number of rows tells those apart.
    """
    room = margin + (fixed - broken) / rows
    if abs(room) < 1e-9:
        return None
    z = float(stats.norm.ppf(0.95) + stats.norm.ppf(0.80))
    needed = int(np.ceil(z * z * max(broken + fixed, 1) / rows / room**2))
    while not settled(round(broken * needed / rows), round(fixed * needed / rows), needed, margin):
        needed += max(1, needed // 50)
        if needed > 10**9:  # rounding keeps the difference at the margin
            return None
    return needed


def settled(broken: int, fixed: int, rows: int, margin: float) -> bool:
    """Whether the interval of the difference in accuracy lies on one side of a fall by `margin`."""
    found = paired_difference(broken, fixed, rows)
    return found.low > -margin or found.high < -margin


def calibration(confidence: Array, right: Array, bins: int = 15) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error, and the filled bins of equal width it is made of (Guo et al. 2017).

    Each bin has `low`, `high`, `rows`, mean `confidence` and `accuracy`.
    """
    edges = np.linspace(0, 1, bins + 1)
    means, _, place = stats.binned_statistic(confidence, [confidence, right.astype(float)], "mean", bins=edges)
    rows = np.bincount(place, minlength=bins + 2)[1:-1]
    found = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "rows": int(rows[i]),
            "confidence": float(means[0, i]),
            "accuracy": float(means[1, i]),
        }
        for i in np.flatnonzero(rows)
    ]
    error = sum(one["rows"] * abs(one["confidence"] - one["accuracy"]) for one in found) / len(confidence)
    return error, found


def coverage_curve(confidence: Array, right: Array, thresholds: Array) -> tuple[Array, Array]:
    """Share of rows with at least that confidence, and the accuracy among them (NaN where there is none).

    Args:
        thresholds: (n,). Both results have that shape.
    """
    order = np.argsort(confidence)
    below = np.searchsorted(confidence[order], thresholds, side="left")
    left = len(confidence) - below
    hits = np.concatenate([[0], np.cumsum(right[order][::-1])])[left]
    return left / len(confidence), np.divide(hits, left, out=np.full(len(left), np.nan), where=left > 0)
