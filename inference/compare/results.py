"""Every figure of a receipt, worked out from the raw samples and answers in it and from nothing else.

Run again on the same receipt it gives the same figures, down to the bootstrap: the seed is in the receipt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
ASSUMED_NOISE = 1.1  # what two starts of one backend may differ by, where there was one start only
DEFAULT_MAX_DROP = 0.005  # of accuracy: what "as good as the reference" means where nobody says otherwise


def results(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by subject. Times in milliseconds, sizes in bytes; docs/receipt.md describes each.

    Args:
        receipt: all of one but its `results` and `checksum`.
    """
    found: dict[str, Any] = rounded(
        {
            **_latency(receipt),
            "throughput": _throughput(receipt),
            "shapes": _shapes(receipt),
            "threads": _threads(receipt),
            "start": {name: _start(one["starts"]) for name, one in receipt["backends"].items()},
            "size": {name: _size(one) for name, one in receipt["backends"].items()},
            "memory": {name: _memory(one["memory"]) for name, one in receipt["backends"].items()},
            "accuracy": {task: _accuracy(receipt, task) for task in receipt["data"]["labels"]},
            "paired": {task: _paired(receipt, task) for task in receipt["data"]["labels"]},
        }
    )
    return found


def rounded(value: Any) -> Any:
    """The same with floats cut to seven significant digits and NaN as None, which JSON can say."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def blocks_of(receipt: Mapping[str, Any], arm: str, what: str = "total_ns") -> tuple[Array, list[int]]:
    """Milliseconds (blocks, calls) of a backend or the control, and the launch of each block. Same order for all."""
    kept = [b for b in receipt["latency"]["blocks"] if b["arm"] == arm and not b["disturbed"]]
    kept.sort(key=lambda b: (b["launch"], b["round"]))
    return np.array([b[what] for b in kept], float) / 1e6, [b["launch"] for b in kept]


def _latency(receipt: Mapping[str, Any]) -> dict[str, Any]:
    names, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    tokens = np.array(receipt["data"]["tokens"])
    rows = np.concatenate(receipt["latency"]["rows"])  # (blocks, calls): which row each call was about
    samples = {arm: blocks_of(receipt, arm)[0] for arm in [*names, CONTROL]}
    starts = blocks_of(receipt, reference)[1]
    draws = stats.resample_blocks(starts, np.random.default_rng(receipt["settings"]["seed"]))
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
    # One start of each: the luck of a start is in no interval, and what is usual is taken instead.
    noise = max(control.high, 1 / control.low, ASSUMED_NOISE if len(set(starts)) == 1 else 1.0)
    ratios: dict[str, dict[str, stats.Estimate]] = {
        name: {other: stats.ratio_interval(samples[other], samples[name], draws) for other in names if other != name}
        for name in names
    }
    speedup = {name: ratios[name].get(reference, stats.Estimate(1.0, 1.0, 1.0)) for name in names}
    return {
        "latency": {name: _percentiles(samples[name], rows, draws) for name in names},
        "latency_by_length": bands,
        "stages": {name: _stages(receipt, name) for name in names},
        "speedup": {name: gain.to_dict() | {"different": exceeds_noise(gain, noise)} for name, gain in speedup.items()},
        "ratios": {
            name: {other: gain.to_dict() | {"different": exceeds_noise(gain, noise)} for other, gain in found.items()}
            for name, found in ratios.items()
        },
        "control": control.to_dict() | {"noise": noise},
    }


def noise_is_assumed(control: Mapping[str, float]) -> bool:
    """Whether the noise is what starts usually differ by, because what they differ by here was not seen."""
    return control["noise"] > max(control["high"], 1 / control["low"]) * 1.0001  # figures are cut to seven digits


def exceeds_noise(gain: stats.Estimate, noise: float) -> bool:
    """Whether two speeds differ by more than two processes of the same backend do."""
    return gain.low > noise or gain.high < 1 / noise


def _percentiles(blocks: Array, rows: Array, draws: stats.Draws) -> dict[str, Any]:
    """Those that the samples carry. A text that was timed twice is one sample of how texts differ."""
    counted = ~np.isnan(blocks)
    texts = len(np.unique(rows[counted]))
    carried = [p for p in PERCENTILES if stats.enough_samples(texts, p)]
    found: dict[str, Any] = {"calls": int(counted.sum()), "texts": texts}
    for p, estimate in zip(carried, stats.percentile_intervals(blocks, draws, carried), strict=True):
        found[f"p{p}_ms"] = estimate.to_dict()
    return found


def _stages(receipt: Mapping[str, Any], name: str) -> dict[str, float]:
    """Medians. `rest_ms` is checking the text, padding, and reading the logits."""
    total, tokenize, forward = (blocks_of(receipt, name, f"{part}_ns")[0] for part in ("total", "tokenize", "forward"))
    return {
        "tokenize_ms": float(np.median(tokenize)),
        "forward_ms": float(np.median(forward)),
        "rest_ms": float(np.median(total - tokenize - forward)),
    }


def _throughput(receipt: Mapping[str, Any]) -> dict[str, Any]:
    texts, samples = receipt["throughput"]["texts"], receipt["throughput"]["samples"]
    rng = np.random.default_rng(receipt["settings"]["seed"])
    found = {}
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
        best = max(sweep, key=lambda one: one["texts_per_s"]["value"])
        rate_per_hour = best["texts_per_s"]["value"] * 3600
        found[name] = {"sweep": sweep, "best_batch_size": best["batch_size"], "predictions_per_hour": rate_per_hour}
    return found


def cost_per_million(receipt: Mapping[str, Any], name: str, price_per_hour: float) -> float:
    """What a million texts cost at this backend's best batch size on a machine with that price."""
    return price_per_hour * 1e6 / float(receipt["results"]["throughput"][name]["predictions_per_hour"])


def _shapes(receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Median milliseconds of a forward pass per exact shape, with its interval; none in a quick run."""
    found = []
    rng = np.random.default_rng(receipt["settings"]["seed"])
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
        found.append(
            {
                "texts": texts,
                "tokens": tokens,
                "median_ms": {name: one.value for name, one in times.items()},
                "interval_ms": {name: [one.low, one.high] for name, one in times.items()},
            }
        )
    return found


def _threads(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Per backend the median milliseconds by number of threads, on the same texts, and the number that is best.

    Another number than the run's own is best only if it is faster by more than the noise of starts.
    """
    own = receipt["settings"]["threads"]
    first = [b for b in receipt["latency"]["blocks"] if b["launch"] == 0 and b["round"] < 2]
    found = {}
    for name in receipt["settings"]["backends"]:
        medians = {}
        for count, blocks in [
            (own, first),
            *((other["threads"], other["blocks"]) for other in receipt["other_threads"]),
        ]:
            times = [ns for b in blocks if b["arm"] == name and not b["disturbed"] for ns in b["total_ns"]]
            medians[count] = median(times) / 1e6
        fastest = min(medians, key=medians.__getitem__)
        found[name] = {
            "median_ms": {str(count): ms for count, ms in sorted(medians.items())},
            "best": fastest if medians[own] > ASSUMED_NOISE * medians[fastest] else own,
        }
    return found


def _start(starts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    totals = [one["import_s"] + one["load_s"] + one["first_answer_s"] for one in starts]
    parts = {part: median(one[part] for one in starts) for part in ("import_s", "load_s", "first_answer_s")}
    return {"total_s": median(totals), "min_s": min(totals), "max_s": max(totals), "runs": len(totals), **parts}


def _memory(readings: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Medians over the starts."""
    return {key: int(median(one[key] for one in readings)) for key in ("resident_bytes", "peak_bytes")}


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
    """Positions of the right labels and of those given, and the confidences, of the rows labelled for this task."""
    true = np.array(receipt["data"]["labels"][task])
    given = receipt["backends"][name]["predictions"][task]
    labelled = true >= 0
    return true[labelled], np.array(given["label_ids"])[labelled], np.array(given["confidence"])[labelled]


def task_of(receipt: Mapping[str, Any], task: str) -> Task:
    described = receipt["model"]["tasks"][task]
    return Task(
        tuple(described["labels"]), described["problem_type"], described["threshold"], described["out_of_scope"]
    )


def _accuracy(receipt: Mapping[str, Any], task: str) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    spec = task_of(receipt, task)
    classes = np.arange(len(spec.labels))
    thresholds = np.linspace(0, 1, 101)
    found = {}
    for name in receipt["settings"]["backends"]:
        true, given, confidence = answers(receipt, task, name)
        right = true == given
        table = confusion_matrix(true, given, labels=classes)
        scores = precision_recall_fscore_support(true, given, labels=classes, zero_division=0)
        error, bins = stats.calibration(confidence, right)
        coverage, covered = stats.coverage_curve(confidence, right, thresholds)
        f1, _ = stats.macro_f1_bootstrap(true, given, given, len(classes), receipt["settings"]["seed"])
        found[name] = metrics(given, confidence, true, spec) | {
            "accuracy": stats.share(int(right.sum()), len(right)).to_dict(),
            "macro_f1": f1.to_dict(),
            "labels_given": len(set(given.tolist())),
            "labels_present": len(set(true.tolist())),
            "per_class": [
                {"label": label, "precision": p, "recall": r, "f1": f, "rows": int(n)}
                for label, p, r, f, n in zip(spec.labels, *(one.tolist() for one in scores), strict=True)
                if n
            ],
            # Sparse: right label, label given, rows.
            "confusion": [[int(i), int(j), int(table[i, j])] for i, j in np.argwhere(table)],
            "calibration_error": error,
            "reliability": bins,
            "coverage_curve": {
                "threshold": thresholds.tolist(),
                "coverage": coverage.tolist(),
                "accuracy": covered.tolist(),
            },
        }
    return found


def _counts(receipt: Mapping[str, Any], task: str, name: str) -> dict[str, Any]:
    """How the answers of a backend differ from the reference's, row by row."""
    true, first, _ = answers(receipt, task, receipt["settings"]["reference"])
    _, second, _ = answers(receipt, task, name)
    flips, rows = first != second, len(true)
    broken, fixed = int(((first == true) & flips).sum()), int(((second == true) & flips).sum())
    return {
        "rows": rows,
        "flips": int(flips.sum()),
        "broken": broken,
        "fixed": fixed,
        "both_wrong": int(flips.sum()) - broken - fixed,
        "delta_accuracy": stats.paired_difference(broken, fixed, rows).to_dict(),
    }


def _paired(receipt: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Each backend against the reference."""
    reference, seed = receipt["settings"]["reference"], receipt["settings"]["seed"]
    true, first, _ = answers(receipt, task, reference)
    found = {}
    for name in receipt["settings"]["backends"]:
        if name == reference:
            continue
        _, second, _ = answers(receipt, task, name)
        _, f1_gain = stats.macro_f1_bootstrap(true, first, second, len(task_of(receipt, task).labels), seed)
        pair = _counts(receipt, task, name)
        broken, fixed, rows = pair["broken"], pair["fixed"], pair["rows"]
        found[name] = pair | {
            "agreement": stats.share(rows - pair["flips"], rows).to_dict(),
            "max_abs_dp": receipt["backends"][name]["predictions"][task]["max_abs_dp"],
            "mcnemar_p": stats.mcnemar(broken, fixed),
            "delta_accuracy_bootstrap": stats.accuracy_bootstrap(broken, fixed, rows, seed).to_dict(),
            "delta_macro_f1": f1_gain.to_dict(),
            "rows_to_settle": stats.rows_to_settle(broken, fixed, rows, DEFAULT_MAX_DROP),
        }
    return found
