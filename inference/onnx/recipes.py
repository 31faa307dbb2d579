"""Recipes for INT8, tried from the fastest to the safest until the answers are close enough to PyTorch's.

Static 8-bit scales suit most encoders but not all: if too many channels have activations a hundred times as wide as the
rest, few of the 256 steps are left for everything else. The weights do not show whether that is so. Each recipe is
therefore carried out and its answers are compared on real texts; the first one within the bounds is kept. With every
recipe a text gets the same answer alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.onnx.quantize import Feeds, calibrate, sensitivities, write


@dataclass(frozen=True)
class Recipe:
    """One way to make a model INT8."""

    name: str
    error: float
    """The share of the squared error of full INT8 that may remain in the logits. Products stay float, the worst first,
    until no more remains; at 0 all of them do."""
    summary: str


# Errors of many products add up like independent draws: a quarter of the squares is half of the error.
RECIPES = (
    Recipe("static", 1.0, "every product in INT8 with static scales"),
    Recipe("static-half", 1 / 4, "the products that cause most of the error stay float, so that half of it remains"),
    Recipe("static-quarter", 1 / 16, "more products stay float, so that a quarter of the error remains"),
    Recipe("weights", 0.0, "weights are stored in 8 bits and every product is computed in float"),
)

# The demo model loses 1.5 % of the labels of its most delicate task, 2.6 % with 7-bit weights, which users of INT8
# accept for its speed. With one different answer in thirty it would look like another model.
MIN_AGREEMENT = 0.97
# A probability that moves by less than two points changes no decision except a near tie.
SMALL_DP = 0.02
# Texts for ranking products by a mean over all their tokens and labels, of which only the order is used.
RANKING_TEXTS = 32
# The FP32 model is copied for each of its activations to rank their products: past this size that takes hours.
MAX_RANKED_BYTES = 2**30

Judge = Callable[[Path], Mapping[str, Any]]
"""Measures the INT8 file at a path, as `inference.artifacts.parity.judge`: `tasks` with `label_agreement`,
`mean_abs_dp` and `max_abs_dp` of each, and `batch_flips`."""


def quantize_best(source: Path, target: Path, feeds: Feeds, judge: Judge, *, reduce_range: bool) -> dict[str, Any]:
    """Write the INT8 version of `source` to `target` by the first recipe that keeps the bounds.

    If none does, as can happen with an untrained network, the safest one is kept and `held` is false.

    Args:
        source, feeds: as for `inference.onnx.quantize.calibrate`.
        target: the file to write. Equal arguments and measurements give equal bytes.
        judge: called with `target` after each attempt.
        reduce_range: as for `inference.onnx.quantize.write`.

    Returns:
        `recipe` and `summary` of the recipe that was kept, `held`, `counts` of its operators, `kept_float`: names of
        activations whose products stay float, and `tried`: for each recipe in turn `recipe`, `held`, `why` in words,
        and, if it was carried out, the figures of the task that fares worst.
    """
    calibrated = calibrate(source, feeds)
    files = (source, source.with_name(f"{source.stem}_weights.bin"))
    size_bytes = sum(path.stat().st_size for path in files if path.exists())
    errors: dict[str, float] = {}
    tried: list[dict[str, Any]] = []
    before: set[str] | None = None
    for recipe in RECIPES:
        if 0 < recipe.error < 1 and size_bytes > MAX_RANKED_BYTES:
            slow = f"Not tried: ranking the products of a model of {size_bytes / 1e9:.1f} GB takes hours."
            tried.append({"recipe": recipe.name, "held": False, "why": slow})
            continue
        if 0 < recipe.error < 1 and not errors:
            step = max(1, len(feeds) // RANKING_TEXTS)
            errors = sensitivities(calibrated, feeds[::step], reduce_range=reduce_range)
        keep_float = _worst(errors, recipe.error) if recipe.error else set(calibrated.ranges)
        if keep_float == before or (recipe.error and keep_float == calibrated.ranges.keys()):
            same = "as the recipe before" if keep_float == before else "as the last recipe"
            tried.append(
                {"recipe": recipe.name, "held": False, "why": f"Not tried: it keeps the same products {same}."}
            )
            continue
        before = keep_float
        counts = write(calibrated, target, reduce_range=reduce_range, keep_float=keep_float)
        try:
            tried.append({"recipe": recipe.name, **check_bounds(judge(target))})
        except Exception as error:  # NaN answers, or an operator that ONNX Runtime lacks on this processor
            if recipe is RECIPES[-1]:
                raise
            tried.append({"recipe": recipe.name, "held": False, "why": f"It could not be measured: {error}"})
        if tried[-1]["held"]:
            break
    return {
        "recipe": recipe.name,
        "summary": recipe.summary,
        "held": tried[-1]["held"],
        "counts": counts,
        "kept_float": sorted(keep_float),
        "tried": tried,
    }


def _worst(errors: Mapping[str, float], share: float) -> set[str]:
    """Return the fewest names without which the errors sum up to at most `share` of their total."""
    remaining = sum(errors.values())
    allowed = share * remaining
    worst: set[str] = set()
    for name in sorted(errors, key=lambda name: (-errors[name], name)):
        if remaining <= allowed:
            break
        worst.add(name)
        remaining -= errors[name]
    return worst


def check_bounds(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether figures of a `Judge` keep the bounds (`held`), `why`, and the worst figures themselves.

    Any number of labels may differ if no probability of the task moved by `SMALL_DP`: such labels were nearly equally
    likely, as all are in an untrained network.
    """
    broken = []
    for name, task in figures["tasks"].items():
        if task["label_agreement"] < MIN_AGREEMENT and task["max_abs_dp"] > SMALL_DP:
            broken.append(
                f"{task['label_agreement']:.1%} of the labels of task {name!r} are those of the FP32 model, below "
                f"{MIN_AGREEMENT:.0%}"
            )
        if task["mean_abs_dp"] > SMALL_DP:
            broken.append(
                f"probabilities of task {name!r} move by {task['mean_abs_dp']:.3f} on average, above {SMALL_DP}"
            )
    if figures["batch_flips"]:
        broken.append(f"{figures['batch_flips']} labels depend on the texts beside them")
    tasks = figures["tasks"].values()
    return {
        "label_agreement": min(task["label_agreement"] for task in tasks),
        "mean_abs_dp": max(task["mean_abs_dp"] for task in tasks),
        "max_abs_dp": max(task["max_abs_dp"] for task in tasks),
        "batch_flips": figures["batch_flips"],
        "held": not broken,
        "why": f"Out of bounds: {'; '.join(broken)}." if broken else "Every bound holds.",
    }
