"""Whether a receipt holds together: its plan was carried out, its raw part is consistent, its figures follow from it.

The figures are worked out again by `results.results`, which made them, and every one must come out the same. What is
measured is taken on trust: docs/receipt.md lists those fields.
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
from inference.compare.results import results
from inference.version import __version__

MAX_CALLS = 10_000  # timed per backend, thirteen times a full run: their bootstrap then takes about 1 GB
FIGURE_TOLERANCE = 1e-5  # relative: figures have seven digits, of which another processor may round the last otherwise
CONFIDENCE_DIGITS = 1e-6  # confidences are rounded to this


def check(receipt: Mapping[str, Any]) -> None:
    """Return if nothing in the receipt contradicts the rest of it. The receipt must be valid by its schema.

    Raises:
        ValueError: naming what does not follow.
    """
    plan = Plan(**{field.name: receipt["settings"][field.name] for field in fields(Plan)})
    _check_settings(receipt, plan)
    _check_data(receipt)
    _check_latency(receipt, plan)
    _check_throughput(receipt, plan)
    _check_shapes(receipt, plan)
    for name in receipt["settings"]["backends"]:
        _check_backend(receipt, plan, name)
    worked_out = results(receipt)
    difference = first_difference(receipt["results"], worked_out)
    if difference is not None:
        raise ValueError(f"{difference}{_other_versions(receipt)}")


def first_difference(told: Any, worked_out: Any, where: str = "results") -> str | None:
    """Say where two trees of figures differ by more than rounding; None if nowhere."""
    if isinstance(worked_out, Mapping) and isinstance(told, Mapping):
        if told.keys() != worked_out.keys():
            return f"{where} has not the figures that follow from the receipt: {', '.join(told.keys() ^ worked_out)}"
        pairs: Iterable[Any] = ((key, told[key], worked_out[key]) for key in worked_out)
    elif isinstance(worked_out, list) and isinstance(told, list):
        if len(told) != len(worked_out):
            return f"{where} has {len(told):,} entries where {len(worked_out):,} follow from the receipt"
        pairs = zip(range(len(told)), told, worked_out, strict=True)
    else:
        return None if _same(told, worked_out) else f"{where} is {told!r}, and {worked_out!r} follows from the receipt"
    return next((found for key, a, b in pairs if (found := first_difference(a, b, f"{where}/{key}"))), None)


def _same(told: Any, worked_out: Any) -> bool:
    if isinstance(worked_out, float) and type(told) in (int, float):
        return math.isclose(told, worked_out, rel_tol=FIGURE_TOLERANCE, abs_tol=1e-12)
    return type(told) is type(worked_out) and bool(told == worked_out)


def _other_versions(receipt: Mapping[str, Any]) -> str:
    """What may explain another figure, where nobody changed it: other formulas, or other random draws."""
    here = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    here["triptych"] = __version__
    made = {name: receipt["versions"].get(name, "unknown") for name in here}
    other = [name for name in here if made[name] != here[name]]
    if not other:
        return ""
    return (
        f" (made with {', '.join(f'{name} {made[name]}' for name in other)}; "
        f"checked with {', '.join(f'{name} {here[name]}' for name in other)})"
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _check_settings(receipt: Mapping[str, Any], plan: Plan) -> None:
    settings, names = receipt["settings"], receipt["settings"]["backends"]
    ordered = [name for name in TITLES if name in names]
    _require(
        names == ordered and names[0] == settings["reference"] and set(receipt["backends"]) == set(names),
        "the backends are not those of the settings",
    )
    _require(
        max(plan.launches * plan.rounds * plan.texts, plan.launches * plan.sweeps) <= MAX_CALLS,
        f"its plan has more than {MAX_CALLS:,} timed calls of each backend",
    )
    cores, threads = receipt["machine"]["cores"], settings["threads"]
    _require(threads <= cores, f"it has {threads} threads on {cores} cores")
    others = [other["threads"] for other in receipt["other_threads"]]
    _require(
        others == benchmark.other_threads(plan, threads, cores),
        "the other numbers of threads are not those of the plan",
    )


def _check_data(receipt: Mapping[str, Any]) -> None:
    data, model = receipt["data"], receipt["model"]
    rows, numbers = len(data["row_numbers"]), data["row_numbers"]
    _require(rows > 0, "it has no rows")
    _require(
        numbers[0] >= 1 and numbers[-1] <= data["rows_in_file"] and all(a < b for a, b in pairwise(numbers)),
        "data/row_numbers are not rows of the file in their order",
    )
    _require(max(data["tokens"]) <= model["max_tokens"], "a row has more tokens than the model reads")
    full = sum(tokens == model["max_tokens"] for tokens in data["tokens"])
    _require(data["truncated"] <= full, "data/truncated counts rows that are shorter than the model reads")
    _require(data["copies"] < rows, "data/copies counts more rows than there are")
    if data["texts"] is not None:
        _require(data["copies"] == rows - len(set(data["texts"])), "data/copies is not that of the texts")
    for task, labels in data["labels"].items():
        _require(task in model["tasks"], f"the model has no task {task!r}")
        highest = max(labels)
        _require(0 <= highest < len(model["tasks"][task]["labels"]), f"{task} has a label that is none, or no label")


def _check_latency(receipt: Mapping[str, Any], plan: Plan) -> None:
    names, latency = receipt["settings"]["backends"], receipt["latency"]
    arms = [*names, CONTROL]
    drawn = benchmark.timed_rows(plan, len(receipt["data"]["tokens"]), _rng(receipt))
    _require(latency["rows"] == drawn, "latency/rows are not those that the seed draws")
    _check_blocks(latency["blocks"], arms, plan.launches, plan.rounds, plan.texts, "latency/blocks")
    for i, other in enumerate(receipt["other_threads"]):
        rounds = min(2, plan.rounds)
        _check_blocks(other["blocks"], names, 1, rounds, plan.texts, f"other_threads/{i}/blocks")
    _require(
        len(latency["warm_up"]) == plan.launches and all(set(one) == set(arms) for one in latency["warm_up"]),
        "latency/warm_up is not of every process",
    )
    _require(latency["waited_s"] < plan.wait_s + 1, "latency/waited_s is longer than the plan allows")


def _rng(receipt: Mapping[str, Any]) -> np.random.Generator:
    return np.random.default_rng(receipt["settings"]["seed"])


def _check_blocks(
    blocks: Sequence[Mapping[str, Any]], arms: Sequence[str], launches: int, rounds: int, texts: int, where: str
) -> None:
    """Every round of every launch was tried until it was not disturbed, each time by all of the processes."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for block in blocks:
        groups.setdefault((block["launch"], block["round"]), []).append(block)
        times = [block["total_ns"], block["tokenize_ns"], block["forward_ns"]]
        _require(
            all(len(one) == texts for one in times)
            # The parts are timed inside the whole, and each is rounded to a nanosecond.
            and all(
                total > 0 and tokenize + forward <= total + 1 for total, tokenize, forward in zip(*times, strict=True)
            ),
            f"{where} has calls that the plan or the clock cannot give",
        )
    _require(
        len(groups) == launches * rounds and all(a < launches and b < rounds for a, b in groups),
        f"{where} are not the rounds of the plan",
    )
    for group in groups.values():
        tries = [group[start : start + len(arms)] for start in range(0, len(group), len(arms))]
        for number, one in enumerate(tries, 1):
            marks = {(block["steal"], block["slowdown"], block["disturbed"]) for block in one}
            _require(
                Counter(block["arm"] for block in one) == Counter(arms) and len(marks) == 1,
                f"{where} has a round that is not one of every process",
            )
            ((steal, slowdown, disturbed),) = marks
            _require(
                disturbed == (number < len(tries))
                and disturbed <= (number < MAX_TRIES)
                # Marks are rounded after they were compared: on the limit itself both are right.
                and (disturbed or number == MAX_TRIES or (steal <= MAX_STEAL and slowdown <= MAX_SLOWDOWN))
                and (not disturbed or steal >= MAX_STEAL or slowdown >= MAX_SLOWDOWN),
                f"{where} has a round that counts, or does not, against its own marks",
            )


def _check_throughput(receipt: Mapping[str, Any], plan: Plan) -> None:
    names, samples = receipt["settings"]["backends"], receipt["throughput"]["samples"]
    texts = receipt["throughput"]["texts"]
    _require(texts == min(plan.sweep_texts, plan.rounds * plan.texts), "throughput/texts are not those of the plan")
    given = Counter((s["launch"], s["round"], s["arm"], s["batch_size"]) for s in samples)
    _require_product(given, [range(plan.launches), range(plan.sweeps), names, BATCH_SIZES], "throughput/samples")
    tokens, padded = receipt["data"]["tokens"], {}
    for launch, rounds in enumerate(receipt["latency"]["rows"]):
        lengths = [tokens[row] for rows in rounds for row in rows][:texts]
        for size in BATCH_SIZES if lengths else ():
            padded[launch, size] = benchmark.padded_share(lengths, size)
    for sample in samples:
        share = padded[sample["launch"], sample["batch_size"]]
        _require(
            sample["total_ns"] > 0 and math.isclose(sample["padded_share"], share, rel_tol=1e-9, abs_tol=1e-12),
            "throughput/samples has a share of padding that is not that of its texts, or no time",
        )


def _check_shapes(receipt: Mapping[str, Any], plan: Plan) -> None:
    names = receipt["settings"]["backends"]
    shapes = [shape for shape in SHAPES if shape[1] <= receipt["model"]["max_tokens"]]
    given = Counter((s["launch"], s["round"], s["arm"], (s["texts"], s["tokens"])) for s in receipt["shapes"])
    _require_product(given, [range(plan.launches), range(plan.shape_rounds), names, shapes], "shapes")
    _require(all(min(s["forward_ns"], default=0) > 0 for s in receipt["shapes"]), "shapes has a pass without a time")


def _require_product(given: Counter[Any], axes: Sequence[Sequence[Any]], where: str) -> None:
    """Raise ValueError unless every combination of the axes' values was measured once, and nothing else."""
    _require(
        len(given) == math.prod(map(len, axes))
        and set(given.values()) <= {1}
        and all(value in axis for key in given for value, axis in zip(key, axes, strict=True)),
        f"{where} are not those of the plan",
    )


def _check_backend(receipt: Mapping[str, Any], plan: Plan, name: str) -> None:
    entry, labels, rows = receipt["backends"][name], receipt["data"]["labels"], len(receipt["data"]["tokens"])
    is_reference = name == receipt["settings"]["reference"]
    starts = plan.launches * (2 if is_reference else 1)  # the control is a second process of the reference
    _require(len(entry["starts"]) == starts, f"the starts of {name} are not those of the plan")
    _require(len(entry["memory"]) == plan.launches, f"the memory of {name} was not read in every start")
    readings = [*entry["starts"], *entry["memory"]]
    _require(
        all(one["resident_bytes"] <= one["peak_bytes"] for one in readings), f"{name} has more memory than its peak"
    )
    flips = entry["batch_flips"]
    _require(
        flips["rows"] == min(plan.alone_rows, rows)
        and set(flips["tasks"]) == set(labels)
        and max(flips["tasks"].values()) <= flips["rows"],
        f"batch_flips of {name} are not those of the plan",
    )
    _require(set(entry["predictions"]) == set(labels), f"the answers of {name} are not of the tasks that have labels")
    for task, given in entry["predictions"].items():
        count = len(receipt["model"]["tasks"][task]["labels"])
        _require(max(given["label_ids"]) < count, f"{task} of {name} has a label that the task does not have")
        first = receipt["backends"][receipt["settings"]["reference"]]["predictions"][task]["confidence"]
        # Two maxima never lie further apart than the tables that they are of.
        gap = float(np.abs(np.array(given["confidence"]) - np.array(first)).max())
        _require(
            given["max_abs_dp"] == 0 if is_reference else gap - CONFIDENCE_DIGITS <= given["max_abs_dp"] <= 1,
            f"max_abs_dp of {name} on {task} is not that of its confidences",
        )
    if "quantized" in entry:
        made, tried = entry["quantized"], entry["quantized"]["tried"]
        _require(
            (made["recipe"], made["held"]) == (tried[-1]["recipe"], tried[-1]["held"])
            and not any(one["held"] for one in tried[:-1])
            and not any(one["held"] and one.get("batch_flips", 0) for one in tried),
            f"the recipe of {name} is not the one that was kept",
        )
