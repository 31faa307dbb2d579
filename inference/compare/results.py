"""Compute every figure of a receipt from the raw samples and answers in it.

The result is reproducible, including the bootstrap: the seed is in the receipt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.compare import stats
from inference.compare.benchmark import BATCH_SIZES, CONTROL, SHAPES, group_by_length
from inference.compare.metrics import metrics
from inference.formats.bundle import Task

Array = NDArray[Any]
PERCENTILES = (50, 90, 95, 99)
ASSUMED_NOISE = 1.1  # ratio by which two starts of one backend may differ, used when there was only one start
DEFAULT_MAX_DROP = 0.005  # of accuracy
UNMEASURED = {
    "busy": "speed was not measured: the machine was busy with other programs",
    "time limit": "speed was not measured: the time limit came first",
    "not asked": "speed was not measured: only accuracy was asked for",
    "interrupted": "speed was not measured: timing was interrupted",
    "pending": "speed is still being measured",
}
"""`latency.unmeasured` of a receipt -> why there are no times, as part of a sentence."""


def import_libraries() -> None:
    """Import what `results` needs, which takes a second of CPU time, before anybody waits for the figures."""
    import sklearn.metrics  # noqa: F401


def results(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures by subject, times in milliseconds and sizes in bytes; docs/receipt.md describes each.

    Args:
        receipt: a receipt; its `results` and `checksum` are not read and may be missing.
    """
    backends, tasks = receipt["backends"].items(), receipt["data"]["labels"]
    figures = {
        "size": {name: _size(entry) for name, entry in backends},
        "accuracy": {task: _accuracy(receipt, task) for task in tasks},
        "paired": {task: _paired(receipt, task) for task in tasks},
    }
    return speed(receipt) | {key: rounded(value) for key, value in figures.items()}


def unmeasured(receipt: Mapping[str, Any]) -> str | None:
    """Return that speed was not measured and why, as part of a sentence; None if it was.

    Without it, `results` has only size, accuracy and paired, and the raw samples of latency, throughput, shapes, starts
    and memory are empty.
    """
    if "unanswered" in receipt["data"]:
        return "speed is not measured before all rows are answered"
    reason = receipt["latency"].get("unmeasured")
    return None if reason is None else UNMEASURED[reason]


def speed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `results` that needs times; nothing if there are none."""
    if unmeasured(receipt) is not None:
        return {}
    backends = receipt["backends"].items()
    figures = {
        **_latency(receipt),
        "throughput": _throughput(receipt),
        "shapes": _shapes(receipt),
        "threads": _threads(receipt),
        "start": {name: _start(entry["starts"]) for name, entry in backends},
        "memory": {name: _medians(entry["memory"], ("resident_bytes", "peak_bytes"), int) for name, entry in backends},
    }
    return {key: rounded(value) for key, value in figures.items()}


def rounded(value: Any) -> Any:
    """Round all floats in a tree to seven significant digits, and make NaN and infinity None for JSON."""
    if isinstance(value, Mapping):
        return {key: rounded(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(child) for child in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def blocks_of(receipt: Mapping[str, Any], arm: str, what: str = "total_ns") -> tuple[Array, list[int]]:
    """Return the times of a backend or the control in ms, shape (blocks, calls), and the launch of each block.

    The blocks are in the same order for every arm; disturbed ones are left out.
    """
    blocks = [b for b in receipt["latency"]["blocks"] if b["arm"] == arm and not b["disturbed"]]
    blocks.sort(key=lambda b: (b["launch"], b["round"]))
    return np.array([b[what] for b in blocks], float) / 1e6, [b["launch"] for b in blocks]


def _latency(receipt: Mapping[str, Any]) -> dict[str, Any]:
    names, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    tokens = np.array(receipt["data"]["tokens"])
    rows = np.concatenate(receipt["latency"]["rows"])  # (blocks, calls): the row of each call
    samples = {arm: blocks_of(receipt, arm)[0] for arm in [*names, CONTROL]}
    starts = blocks_of(receipt, reference)[1]
    draws = stats.resample_blocks(starts, seeded_rng(receipt))
    bands = []
    for title, within in group_by_length(list(range(int(tokens.max()) + 1))).items():
        inside = np.isin(tokens[rows], within)
        if not inside.any():
            continue
        bands.append(
            {
                "length": title,
                "calls": int(inside.sum()),
                "share_of_rows": float(np.isin(tokens, within).mean()),
                "backends": {
                    name: _percentiles(np.where(inside, samples[name], np.nan), rows, draws) for name in names
                },
            }
        )
    control = stats.ratio_interval(samples[reference], samples[CONTROL], draws)
    # With one start of each backend, the variation between starts is in no interval, so a usual value is assumed.
    noise = max(control.high, 1 / control.low, ASSUMED_NOISE if len(set(starts)) == 1 else 1.0)
    ratios: dict[str, dict[str, stats.Estimate]] = {
        name: {other: stats.ratio_interval(samples[other], samples[name], draws) for other in names if other != name}
        for name in names
    }
    speedup = {name: ratios[name].get(reference, stats.Estimate(1.0, 1.0, 1.0)) for name in names}

    def gain(ratio: stats.Estimate) -> dict[str, Any]:
        return ratio.to_dict() | {"different": exceeds_noise(ratio, noise)}

    return {
        "latency": {name: _percentiles(samples[name], rows, draws) for name in names},
        "latency_by_length": bands,
        "stages": {name: _stages(receipt, name) for name in names},
        "speedup": {name: gain(ratio) for name, ratio in speedup.items()},
        "ratios": {name: {other: gain(r) for other, r in others.items()} for name, others in ratios.items()},
        "control": control.to_dict() | {"noise": noise},
    }


def noise_is_assumed(control: Mapping[str, float]) -> bool:
    """Return whether the noise between starts was assumed rather than measured."""
    return control["noise"] > max(control["high"], 1 / control["low"]) * 1.0001  # figures have seven digits


def exceeds_noise(gain: stats.Estimate, noise: float) -> bool:
    """Return whether two speeds differ by more than two processes of the same backend do."""
    return gain.low > noise or gain.high < 1 / noise


def _percentiles(blocks: Array, rows: Array, draws: stats.Draws) -> dict[str, Any]:
    """Return the percentiles for which there are enough different texts; timing a text twice adds no evidence."""
    counted = ~np.isnan(blocks)
    texts = len(np.unique(rows[counted]))
    supported = [p for p in PERCENTILES if stats.enough_samples(texts, p)]
    estimates = zip(supported, stats.percentile_intervals(blocks, draws, supported), strict=True)
    return {"calls": int(counted.sum()), "texts": texts} | {f"p{p}_ms": e.to_dict() for p, e in estimates}


def _stages(receipt: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return the median time of each stage. `rest_ms` is checking the text, padding, and reading the logits."""
    total, tokenize, forward = (blocks_of(receipt, name, f"{part}_ns")[0] for part in ("total", "tokenize", "forward"))
    return {
        "tokenize_ms": float(np.median(tokenize)),
        "forward_ms": float(np.median(forward)),
        "rest_ms": float(np.median(total - tokenize - forward)),
    }


def _throughput(receipt: Mapping[str, Any]) -> dict[str, Any]:
    texts, samples = receipt["throughput"]["texts"], receipt["throughput"]["samples"]
    rng = seeded_rng(receipt)
    throughput = {}
    for name in receipt["settings"]["backends"]:
        sweep: list[dict[str, Any]] = []
        for size in BATCH_SIZES:
            mine = [s for s in samples if s["arm"] == name and s["batch_size"] == size]
            rates = np.array([[texts / (s["total_ns"] / 1e9)] for s in mine])
            draws = stats.resample_blocks([s["launch"] for s in mine], rng)
            (rate,) = stats.percentile_intervals(rates, draws, [50])
            sweep.append(
                {
                    "batch_size": size,
                    "texts_per_s": rate.to_dict() | {"samples": len(mine)},
                    "padded_share": float(np.median([s["padded_share"] for s in mine])),
                }
            )
        best = max(sweep, key=lambda entry: entry["texts_per_s"]["value"])
        per_hour = best["texts_per_s"]["value"] * 3600
        throughput[name] = {"sweep": sweep, "best_batch_size": best["batch_size"], "predictions_per_hour": per_hour}
    return throughput


def cost_per_million(receipt: Mapping[str, Any], name: str, price_per_hour: float) -> float:
    """Return the cost of a million texts at the backend's best batch size."""
    return price_per_hour * 1e6 / float(receipt["results"]["throughput"][name]["predictions_per_hour"])


def _shapes(receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the median time of a forward pass per exact shape, with its interval; empty after a quick run."""
    shapes = []
    rng = seeded_rng(receipt)
    for texts, tokens in SHAPES:
        mine = [s for s in receipt["shapes"] if (s["texts"], s["tokens"]) == (texts, tokens)]
        if not mine:
            continue
        times = {}
        for name in receipt["settings"]["backends"]:
            own = [s for s in mine if s["arm"] == name]
            draws = stats.resample_blocks([s["launch"] for s in own], rng)
            blocks = np.array([s["forward_ns"] for s in own], float) / 1e6
            (times[name],) = stats.percentile_intervals(blocks, draws, [50])
        shapes.append(
            {
                "texts": texts,
                "tokens": tokens,
                "median_ms": {name: time.value for name, time in times.items()},
                "interval_ms": {name: [time.low, time.high] for name, time in times.items()},
            }
        )
    return shapes


def _threads(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return each backend's median time by number of threads on the same texts, and the best number.

    A number other than the run's own is best only if it is faster by more than the noise between starts.
    """
    own = receipt["settings"]["threads"]
    blocks_by_count = {own: [b for b in receipt["latency"]["blocks"] if b["launch"] == 0 and b["round"] < 2]}
    blocks_by_count |= {other["threads"]: other["blocks"] for other in receipt["other_threads"]}
    threads = {}
    for name in receipt["settings"]["backends"]:
        medians = {}
        for count, blocks in blocks_by_count.items():
            times = [ns for b in blocks if b["arm"] == name and not b["disturbed"] for ns in b["total_ns"]]
            medians[count] = median(times) / 1e6
        fastest = min(medians, key=medians.__getitem__)
        threads[name] = {
            "median_ms": {str(count): ms for count, ms in sorted(medians.items())},
            "best": fastest if medians[own] > ASSUMED_NOISE * medians[fastest] else own,
        }
    return threads


def _start(starts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    parts = ("import_s", "load_s", "first_answer_s")
    totals = [sum(start[part] for part in parts) for start in starts]
    summary = {"total_s": median(totals), "min_s": min(totals), "max_s": max(totals), "runs": len(totals)}
    return summary | _medians(starts, parts)


def _medians(
    readings: Sequence[Mapping[str, float]], keys: Sequence[str], cast: Callable[[float], Any] = float
) -> dict[str, Any]:
    """Return the median of each key over the starts."""
    return {key: cast(median(reading[key] for reading in readings)) for key in keys}


def _size(entry: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for file in entry["files"].values():
        kinds[file["kind"]] = kinds.get(file["kind"], 0) + file["bytes"]
    return {
        "model_bytes": sum(kinds.values()),
        "weights_bytes": kinds.get("weights", 0) + kinds.get("graph", 0),
        "by_kind_bytes": kinds,
        "libraries_bytes": sum(entry["libraries"].values()),
    }


def answers(receipt: Mapping[str, Any], task: str, name: str) -> tuple[Array, Array, Array]:
    """Return the true label ids, the predicted ones and the confidences of the rows labelled for this task."""
    true = np.array(receipt["data"]["labels"][task])
    predictions = receipt["backends"][name]["predictions"][task]
    labelled = true >= 0
    return true[labelled], np.array(predictions["label_ids"])[labelled], np.array(predictions["confidence"])[labelled]


def _task(receipt: Mapping[str, Any], task: str) -> Task:
    entry = receipt["model"]["tasks"][task]
    return Task(tuple(entry["labels"]), entry["problem_type"], entry["threshold"], entry["out_of_scope"])


def seeded_rng(receipt: Mapping[str, Any]) -> np.random.Generator:
    return np.random.default_rng(receipt["settings"]["seed"])


def _accuracy(receipt: Mapping[str, Any], task: str) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    spec = _task(receipt, task)
    classes = np.arange(len(spec.labels))
    thresholds = np.linspace(0, 1, 101)
    figures = {}
    for name in receipt["settings"]["backends"]:
        true, given, confidence = answers(receipt, task, name)
        right = true == given
        table = confusion_matrix(true, given, labels=classes)
        scores = precision_recall_fscore_support(true, given, labels=classes, zero_division=0)
        error, bins = stats.calibration(confidence, right)
        coverage, covered = stats.coverage_curve(confidence, right, thresholds)
        f1, _ = stats.macro_f1_bootstrap(true, given, given, len(classes), receipt["settings"]["seed"])
        figures[name] = metrics(given, confidence, true, spec) | {
            "accuracy": stats.share(int(right.sum()), len(right)).to_dict(),
            "macro_f1": f1.to_dict(),
            "labels_given": len(set(given.tolist())),
            "labels_present": len(set(true.tolist())),
            "per_class": [
                {"label": label, "precision": p, "recall": r, "f1": f, "rows": int(n)}
                for label, p, r, f, n in zip(spec.labels, *(s.tolist() for s in scores), strict=True)
                if n
            ],
            # Sparse: true label, predicted label, rows.
            "confusion": [[int(i), int(j), int(table[i, j])] for i, j in np.argwhere(table)],
            "calibration_error": error,
            "reliability": bins,
            "coverage_curve": {
                "threshold": thresholds.tolist(),
                "coverage": coverage.tolist(),
                "accuracy": covered.tolist(),
            },
        }
    return figures


def count_flips(true: Array, first: Array, second: Array) -> tuple[int, int, int]:
    """Return how many labels differ, how many of those only `first` has right (broken), and only `second` (fixed)."""
    flips = first != second
    return int(flips.sum()), int(((first == true) & flips).sum()), int(((second == true) & flips).sum())


def _paired(receipt: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Compare each backend with the reference, row by row."""
    reference, seed = receipt["settings"]["reference"], receipt["settings"]["seed"]
    true, first, _ = answers(receipt, task, reference)
    labels = len(_task(receipt, task).labels)
    pairs = {}
    for name in receipt["settings"]["backends"]:
        if name != reference:
            _, second, _ = answers(receipt, task, name)
            gap = receipt["backends"][name]["predictions"][task]["max_abs_dp"]
            pairs[name] = paired(true, first, second, labels, seed, gap)
    return pairs


def paired(true: Array, first: Array, second: Array, labels: int, seed: int, max_abs_dp: float) -> dict[str, Any]:
    """Compare two answers to the same rows: label ids, shape (rows,), of a task with so many labels."""
    rows = len(true)
    flips, broken, fixed = count_flips(true, first, second)
    _, f1_gain = stats.macro_f1_bootstrap(true, first, second, labels, seed)
    return {
        "rows": rows,
        "flips": flips,
        "broken": broken,
        "fixed": fixed,
        "both_wrong": flips - broken - fixed,
        "delta_accuracy": stats.paired_difference(broken, fixed, rows).to_dict(),
        "agreement": stats.share(rows - flips, rows).to_dict(),
        "max_abs_dp": max_abs_dp,
        "mcnemar_p": stats.mcnemar(broken, fixed),
        "delta_accuracy_bootstrap": stats.accuracy_bootstrap(broken, fixed, rows, seed).to_dict(),
        "delta_macro_f1": f1_gain.to_dict(),
        "rows_to_settle": stats.rows_to_settle(broken, fixed, rows, DEFAULT_MAX_DROP),
    }
