"""Figures from samples: lowest tenth and median with intervals, ratios, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.compare.stats import Estimate, percentile_intervals, ratio_interval, resample_blocks

LOW, MIDDLE = 10, 50  # percentiles
Rounds = Sequence[Sequence[float]]
Labels = Mapping[str, Sequence[str]]


def summary(rounds: Rounds, seed: int) -> dict[str, Any]:
    """Return percentiles of all samples with 95% intervals, for which rounds are drawn, not samples.

    Args:
        rounds: milliseconds of each round.
    """
    draws = resample_blocks(range(len(rounds)), np.random.default_rng(seed))
    low, middle = percentile_intervals(_blocks(rounds), draws, [LOW, MIDDLE])
    samples = sum(map(len, rounds))
    return {"lowest_tenth_ms": _rounded(low), "median_ms": _rounded(middle), "samples": samples}


def ratio(slow: Rounds, fast: Rounds, seed: int) -> dict[str, float]:
    """Return the median of `slow` over that of `fast`, measured in the same rounds, with its 95% interval."""
    draws = resample_blocks(range(len(slow)), np.random.default_rng(seed))
    calls = max(len(samples) for samples in (*slow, *fast))
    return _rounded(ratio_interval(_blocks(slow, calls), _blocks(fast, calls), draws))


def agreement(labels: Mapping[str, Labels], reference: Labels) -> dict[str, Any]:
    """Compare the labels of a peer in a batch with the reference, and with its own alone.

    Args:
        labels: `together` and `alone`, as `bench.worker.Worker.labels` returns.
    """
    together, alone = labels["together"], labels["alone"]
    equal = {task: int(np.sum(np.asarray(together[task]) == np.asarray(names))) for task, names in reference.items()}
    count = sum(map(len, reference.values()))
    return {
        "labels": count,
        "equal": sum(equal.values()),
        "equal_by_task": equal,
        "flips": sum(int(np.sum(np.asarray(together[task]) != np.asarray(alone[task]))) for task in together),
    }


def _blocks(rounds: Rounds, calls: int = 0) -> NDArray[np.float64]:
    blocks = np.full((len(rounds), max(calls, *map(len, rounds))), np.nan)
    for row, samples in enumerate(rounds):
        blocks[row, : len(samples)] = samples
    return blocks


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in estimate.to_dict().items()}
