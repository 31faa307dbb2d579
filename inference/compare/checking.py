"""Check that a receipt is consistent: the plan was carried out, the raw data fits, and the figures follow from it.

`results.results` computes the figures again, and all must be the same. The raw measurements themselves are taken on
trust: docs/receipt.md lists those fields.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np

from inference.backends import TITLES
from inference.compare import benchmark
from inference.compare.benchmark import BATCH_SIZES, CONTROL, MAX_SLOWDOWN, MAX_STEAL, MAX_TRIES, SHAPES, Plan
from inference.compare.results import results, seeded_rng
from inference.version import __version__

MAX_CALLS = 10_000  # timed calls per backend, 13 times a full run: the bootstrap then takes about 1 GB of memory
FIGURE_TOLERANCE = 1e-5  # relative: figures have seven digits, and another processor may round the last differently
CONFIDENCE_DIGITS = 1e-6  # confidences are rounded to this


def check_consistency(receipt: Mapping[str, Any]) -> None:
    """Check that nothing in a receipt contradicts the rest. The receipt must already match the schema.

    Raises:
        ValueError: something does not; the message names it.
    """
    plan = Plan(**{field.name: receipt["settings"][field.name] for field in fields(Plan)})
    _check_settings(receipt, plan)
    _check_data(receipt)
    _check_latency(receipt, plan)
    _check_throughput(receipt, plan)
    _check_shapes(receipt, plan)
    for name in receipt["settings"]["backends"]:
        _check_backend(receipt, plan, name)
    difference = first_difference(receipt["results"], results(receipt))
    if difference is not None:
        raise ValueError(f"{difference}{_other_versions(receipt)}")


def first_difference(stored: Any, computed: Any, where: str = "results") -> str | None:
    """Describe the first place where two trees of figures differ by more than rounding; None if there is none."""
    if isinstance(computed, Mapping) and isinstance(stored, Mapping):
        if stored.keys() != computed.keys():
            return f"{where} has missing or unexpected figures: {', '.join(stored.keys() ^ computed)}"
        pairs: Iterable[Any] = ((key, stored[key], computed[key]) for key in computed)
    elif isinstance(computed, list) and isinstance(stored, list):
        if len(stored) != len(computed):
            return f"{where} has {len(stored):,} entries, but {len(computed):,} follow from the measurement"
        pairs = zip(range(len(stored)), stored, computed, strict=True)
    else:
        return (
            None if _same(stored, computed) else f"{where} is {stored!r}, but {computed!r} follows from the measurement"
        )
    return next((text for key, a, b in pairs if (text := first_difference(a, b, f"{where}/{key}"))), None)


def _same(stored: Any, computed: Any) -> bool:
    if isinstance(computed, float) and type(stored) in (int, float):
        return math.isclose(stored, computed, rel_tol=FIGURE_TOLERANCE, abs_tol=1e-12)
    return type(stored) is type(computed) and bool(stored == computed)


def _other_versions(receipt: Mapping[str, Any]) -> str:
    """Name the versions that may explain a different figure by other formulas or random draws."""
    here = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    here["triptych"] = __version__
    made = {name: receipt["versions"].get(name, "unknown") for name in here}
    lists = [", ".join(f"{name} {v[name]}" for name in here if made[name] != here[name]) for v in (made, here)]
    return f" (made with {lists[0]}; checked with {lists[1]})" if lists[0] else ""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_settings(receipt: Mapping[str, Any], plan: Plan) -> None:
    settings, names = receipt["settings"], receipt["settings"]["backends"]
    ordered = [name for name in TITLES if name in names]
    _require(
        names == ordered and names[0] == settings["reference"] and set(receipt["backends"]) == set(names),
        "its backends do not match its settings",
    )
    _require(
        max(plan.launches * plan.rounds * plan.texts, plan.launches * plan.sweeps) <= MAX_CALLS,
        f"its plan has more than {MAX_CALLS:,} timed calls per runtime",
    )
    _require(
        (plan.launches == 0) == ("unmeasured" in receipt["latency"]),
        "latency/unmeasured does not match the number of starts",
    )
    cores, threads = receipt["machine"]["cores"], settings["threads"]
    _require(threads <= cores, f"it uses {threads} threads on {cores} cores")
    others = [other["threads"] for other in receipt["other_threads"]]
    _require(others == benchmark.other_threads(plan, threads, cores), "other_threads does not follow the plan")


def _check_data(receipt: Mapping[str, Any]) -> None:
    data, model = receipt["data"], receipt["model"]
    numbers, rows = data["row_numbers"], len(data["row_numbers"])
    _require(rows > 0, "it has no rows")
    _require(
        numbers[0] >= 1 and numbers[-1] <= data["rows_in_file"] and all(a < b for a, b in pairwise(numbers)),
        "data/row_numbers are not rows of the file in ascending order",
    )
    _require(max(data["tokens"]) <= model["max_tokens"], "a row has more tokens than the model's limit")
    full = sum(tokens == model["max_tokens"] for tokens in data["tokens"])
    _require(data["truncated"] <= full, "data/truncated counts rows that are below the token limit")
    _require(data["copies"] < rows, "data/copies counts more rows than there are")
    if data["texts"] is not None:
        _require(data["copies"] == rows - len(set(data["texts"])), "data/copies does not match the texts")
    for task, labels in data["labels"].items():
        _require(task in model["tasks"], f"the model has no task {task!r}")
        in_range = 0 <= max(labels) < len(model["tasks"][task]["labels"])
        _require(in_range, f"{task} has an unknown label, or no labels")


def _check_latency(receipt: Mapping[str, Any], plan: Plan) -> None:
    names, latency = receipt["settings"]["backends"], receipt["latency"]
    arms = [*names, CONTROL]
    drawn = benchmark.timed_rows(plan, len(receipt["data"]["tokens"]), seeded_rng(receipt))
    _require(latency["rows"] == drawn, "latency/rows are not the rows that the seed draws")
    _check_blocks(latency["blocks"], arms, plan.launches, plan.rounds, plan.texts, "latency/blocks")
    for i, other in enumerate(receipt["other_threads"]):
        _check_blocks(other["blocks"], names, 1, min(2, plan.rounds), plan.texts, f"other_threads/{i}/blocks")
    _require(
        len(latency["warm_up"]) == plan.launches and all(set(start) == set(arms) for start in latency["warm_up"]),
        "latency/warm_up does not cover every process",
    )
    _require(latency["waited_s"] < plan.wait_s + 1, "latency/waited_s is longer than the plan allows")


def _check_blocks(
    blocks: Sequence[Mapping[str, Any]], arms: Sequence[str], launches: int, rounds: int, texts: int, where: str
) -> None:
    """Check that every round of every launch was repeated until undisturbed, each time by all processes."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for block in blocks:
        groups.setdefault((block["launch"], block["round"]), []).append(block)
        times = [block["total_ns"], block["tokenize_ns"], block["forward_ns"]]
        _require(
            all(len(part) == texts for part in times)
            # The parts are timed within the total, and each is rounded to a nanosecond.
            and all(
                total > 0 and tokenize + forward <= total + 1 for total, tokenize, forward in zip(*times, strict=True)
            ),
            f"{where} has calls that contradict the plan or the clock",
        )
    _require(
        len(groups) == launches * rounds and all(a < launches and b < rounds for a, b in groups),
        f"{where} does not have the rounds of the plan",
    )
    for group in groups.values():
        tries = [group[start : start + len(arms)] for start in range(0, len(group), len(arms))]
        for number, attempt in enumerate(tries, 1):
            marks = {(block["steal"], block["slowdown"], block["disturbed"]) for block in attempt}
            _require(
                Counter(block["arm"] for block in attempt) == Counter(arms) and len(marks) == 1,
                f"{where} has a round that does not cover every process",
            )
            ((steal, slowdown, disturbed),) = marks
            _require(
                disturbed == (number < len(tries))
                and disturbed <= (number < MAX_TRIES)
                # Marks were rounded after the comparison: a value on the limit may have gone either way.
                and (disturbed or number == MAX_TRIES or (steal <= MAX_STEAL and slowdown <= MAX_SLOWDOWN))
                and (not disturbed or steal >= MAX_STEAL or slowdown >= MAX_SLOWDOWN),
                f"{where} has a round whose `disturbed` contradicts its steal and slowdown",
            )


def _check_throughput(receipt: Mapping[str, Any], plan: Plan) -> None:
    names, samples = receipt["settings"]["backends"], receipt["throughput"]["samples"]
    texts = receipt["throughput"]["texts"]
    _require(texts == min(plan.sweep_texts, plan.rounds * plan.texts), "throughput/texts does not follow the plan")
    counts = Counter((s["launch"], s["round"], s["arm"], s["batch_size"]) for s in samples)
    _require_product(counts, [range(plan.launches), range(plan.sweeps), names, BATCH_SIZES], "throughput/samples")
    tokens, padded = receipt["data"]["tokens"], {}
    for launch, rounds in enumerate(receipt["latency"]["rows"]):
        lengths = [tokens[row] for rows in rounds for row in rows][:texts]
        for size in BATCH_SIZES if lengths else ():
            padded[launch, size] = benchmark.padded_share(lengths, size)
    for sample in samples:
        share = padded[sample["launch"], sample["batch_size"]]
        _require(
            sample["total_ns"] > 0 and math.isclose(sample["padded_share"], share, rel_tol=1e-9, abs_tol=1e-12),
            "throughput/samples has a wrong padded_share, or no time",
        )


def _check_shapes(receipt: Mapping[str, Any], plan: Plan) -> None:
    names = receipt["settings"]["backends"]
    shapes = [shape for shape in SHAPES if shape[1] <= receipt["model"]["max_tokens"]]
    counts = Counter((s["launch"], s["round"], s["arm"], (s["texts"], s["tokens"])) for s in receipt["shapes"])
    _require_product(counts, [range(plan.launches), range(plan.shape_rounds), names, shapes], "shapes")
    _require(all(min(s["forward_ns"], default=0) > 0 for s in receipt["shapes"]), "shapes has a pass without a time")


def _require_product(counts: Counter[Any], axes: Sequence[Sequence[Any]], where: str) -> None:
    """Raise ValueError unless every combination of the axes' values was measured exactly once, and nothing else."""
    _require(
        len(counts) == math.prod(map(len, axes))
        and set(counts.values()) <= {1}
        and all(value in axis for key in counts for value, axis in zip(key, axes, strict=True)),
        f"{where} does not follow the plan",
    )


def _check_backend(receipt: Mapping[str, Any], plan: Plan, name: str) -> None:
    entry, labels, rows = receipt["backends"][name], receipt["data"]["labels"], len(receipt["data"]["tokens"])
    is_reference = name == receipt["settings"]["reference"]
    starts = plan.launches * (2 if is_reference else 1)  # the control is a second process of the reference
    _require(len(entry["starts"]) == starts, f"the starts of {name} do not follow the plan")
    _require(len(entry["memory"]) == plan.launches, f"the memory of {name} was not read in every start")
    within_peak = all(r["resident_bytes"] <= r["peak_bytes"] for r in [*entry["starts"], *entry["memory"]])
    _require(within_peak, f"{name} uses more memory than its peak")
    flips = entry["batch_flips"]
    _require(
        flips["rows"] == min(plan.alone_rows, rows)
        and set(flips["tasks"]) == set(labels)
        and max(flips["tasks"].values()) <= flips["rows"],
        f"batch_flips of {name} does not follow the plan",
    )
    _require(set(entry["predictions"]) == set(labels), f"{name} has predictions for other tasks than those labelled")
    for task, predictions in entry["predictions"].items():
        count = len(receipt["model"]["tasks"][task]["labels"])
        _require(max(predictions["label_ids"]) < count, f"{task} of {name} has a label that the task does not have")
        first = receipt["backends"][receipt["settings"]["reference"]]["predictions"][task]["confidence"]
        # The maxima of two rows cannot differ by more than the rows do.
        gap = float(np.abs(np.array(predictions["confidence"]) - np.array(first)).max())
        largest = predictions["max_abs_dp"]
        _require(
            largest == 0 if is_reference else gap - CONFIDENCE_DIGITS <= largest <= 1,
            f"max_abs_dp of {name} on {task} contradicts its confidences",
        )
    if "quantized" in entry:
        made, tried = entry["quantized"], entry["quantized"]["tried"]
        _require(
            (made["recipe"], made["held"]) == (tried[-1]["recipe"], tried[-1]["held"])
            and not any(recipe["held"] for recipe in tried[:-1])
            and not any(recipe["held"] and recipe.get("batch_flips", 0) for recipe in tried),
            f"the recipe of {name} is not the last one tried, or not the first one that held",
        )
