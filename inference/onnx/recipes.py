"""Recipes for INT8, tried from the fastest to the safest until the answers are close enough to PyTorch's.

Static 8-bit scales suit most encoders and fail some: activations a hundred times as wide as the rest, in
more channels than can be kept float, leave few of the 256 steps for everything else. Whether that is so is
not guessed from the weights. Each recipe is carried out, its answers are compared on real texts, and the
first one within the bounds is kept. On every rung a text gets the same answer alone and in any batch.
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
    """What may remain of the squared error that full INT8 brings into the logits. Products stay float, the
    worst first, until no more than this share is left; at 0 all of them do."""
    summary: str


# Errors of many products add up like those of independent draws: a quarter of the squares is half of the error.
LADDER = (
    Recipe("static", 1.0, "every product in INT8 with static scales"),
    Recipe("static-half", 1 / 4, "the products that cause most of the error stay float, so that half of it remains"),
    Recipe("static-quarter", 1 / 16, "more products stay float, so that a quarter of the error remains"),
    Recipe("weights", 0.0, "weights are stored in 8 bits and every product is computed in float"),
)

# The demo model loses 1.8 % of the labels of its most delicate task, and 2.1 % with 7-bit weights. Whoever
# picked INT8 for its speed expects that much; one answer in thirty or more looks like another model.
MIN_AGREEMENT = 0.97
# A probability that moves by less than two points changes no decision but one that was a tie before.
SMALL_DP = 0.02
# Texts for ranking products: a mean over all their tokens and labels, of which only the order is used.
RANKING_TEXTS = 32

Judge = Callable[[Path], Mapping[str, Any]]
"""Figures of the INT8 file at a path as in `inference.artifacts.parity.judge`: `tasks` with `label_agreement`,
`mean_abs_dp` and `max_abs_dp` of each, and `batch_flips`."""


def climb(source: Path, target: Path, feeds: Feeds, judge: Judge, *, reduce_range: bool) -> dict[str, Any]:
    """Write the INT8 version of `source` to `target` by the first recipe whose answers hold the bounds.

    Where none does, as may be with a network that was never trained, the safest is kept and `held` is false.

    Args:
        source, feeds: as in `inference.onnx.quantize.calibrate`.
        target: the file to write. Equal arguments and figures give equal bytes.
        judge: called with `target` after each attempt.
        reduce_range: as in `inference.onnx.quantize.write`.

    Returns:
        `recipe` and `summary` of what was kept, `held`, `counts` of its operators, `kept_float`: names of the
        activations whose products stay float, and `tried`: of each recipe in turn `recipe`, `held`, `why` in
        words, and, where it was carried out, the figures of the task that fares worst.

    Raises:
        ExportError: the graph has nothing to quantise, or `feeds` is empty.
    """
    calibrated = calibrate(source, feeds)
    errors: dict[str, float] = {}
    tried: list[dict[str, Any]] = []
    before: set[str] | None = None
    for recipe in LADDER:
        if recipe.error < 1 and not errors:
            step = max(1, len(feeds) // RANKING_TEXTS)
            errors = sensitivities(calibrated, feeds[::step], reduce_range=reduce_range)
        keep_float = _worst(errors, recipe.error)
        if keep_float == before or (recipe.error and keep_float == calibrated.ranges.keys()):
            same = "as the recipe before" if keep_float == before else "as the last recipe"
            tried.append(
                {"recipe": recipe.name, "held": False, "why": f"Not tried: it keeps the same products {same}."}
            )
            continue
        before = keep_float
        counts = write(calibrated, target, reduce_range=reduce_range, keep_float=keep_float)
        try:
            tried.append({"recipe": recipe.name, **verdict(judge(target))})
        except Exception as error:  # NaN answers, or an operator that this processor's ONNX Runtime lacks
            if recipe is LADDER[-1]:
                raise
            tried.append({"recipe": recipe.name, "held": False, "why": f"It could not be judged: {error}"})
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
    """The fewest names without which the errors sum up to no more than `share` of what they do with all."""
    allowed = share * sum(errors.values())
    remaining = sum(errors.values())
    worst: set[str] = set()
    for name in sorted(errors, key=lambda name: (-errors[name], name)):
        if share and remaining <= allowed:
            break
        worst.add(name)
        remaining -= errors[name]
    return worst


def verdict(figures: Mapping[str, Any]) -> dict[str, Any]:
    """`held`, whether these figures (as a `Judge` gives them) keep the bounds, `why`, and the figures themselves.

    Labels may differ in any number where no probability of the task moved by `SMALL_DP`: such a label was
    one of several about equally likely ones, as all are in a network that was never trained.
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
