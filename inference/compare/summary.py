"""Format receipts as a Markdown table: one row per figure, one column per backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference.backends import TITLES
from inference.compare.candidates import SIDE_BY_SIDE, side_by_side
from inference.compare.comparable import huge_pages
from inference.compare.results import cost_per_million, unmeasured
from inference.errors import InputError

SHOWN_SHAPES = ((1, 16), (1, 32), (1, 128), (32, 32))


def summary(receipts: Sequence[Mapping[str, Any]], price_per_hour: float | None = None) -> str:
    """Return the table of receipts of one model, and a line on where they were measured.

    Accuracy and latency come from every receipt; sizes, start and fixed shapes from the first that has them.

    Args:
        price_per_hour: adds a row with the cost of a million predictions, in the same currency.

    Raises:
        InputError: the receipts are of different models or backends.
    """
    names = receipts[0]["settings"]["backends"]
    if any(r["settings"]["backends"] != names or r["model"] != receipts[0]["model"] for r in receipts):
        raise InputError("These measurements are of different models or runtimes, so they do not fit in one table.")
    flips = {n: sum(sum(r["backends"][n]["batch_flips"]["tasks"].values()) for r in receipts) for n in names}
    both_ways = any(r["backends"][names[0]]["batch_flips"]["rows"] for r in receipts)
    table = [
        ["figure", *(TITLES[name] for name in names)],
        ["---", *["---:"] * len(names)],
        *(row for receipt in receipts for row in _accuracy(receipt, names)),
        *(row for receipt in receipts for row in _latency(receipt, names)),
        *_shapes(next((r for r in receipts if r["results"].get("shapes")), receipts[0]), names),
        *_resources(next((r for r in receipts if unmeasured(r) is None), receipts[0]), names, price_per_hour),
        *([["labels that differ alone and in a batch", *(str(flips[n]) for n in names)]] if both_ways else []),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n\n" + provenance(receipts[0])


def leaderboard(receipts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row per model and backend, for models that were measured on the same rows.

    Args:
        receipts: what to call the model -> its receipt.
    """
    tasks = list(dict.fromkeys(task for receipt in receipts.values() for task in receipt["data"]["labels"]))
    table = [
        ["model", "runtime", *(f"accuracy of {task}" for task in tasks), "p50, ms", "files, MB"],
        ["---", "---", *["---:"] * (len(tasks) + 2)],
    ]
    for model, receipt in receipts.items():
        figures = receipt["results"]
        for name in receipt["settings"]["backends"]:
            scores = [figures["accuracy"].get(task, {}).get(name) for task in tasks]
            table.append(
                [
                    model,
                    TITLES[name],
                    *(f"{score['accuracy']['value']:.4f}" if score else "" for score in scores),
                    "not measured" if unmeasured(receipt) else _interval(figures["latency"][name].get("p50_ms")),
                    f"{figures['size'][name]['model_bytes'] / 1e6:.1f}",
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def pair_table(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return a Markdown table of two receipts, with a row per runtime and task of both; "" if there is none."""
    if not (figures := side_by_side(a, b)):
        return ""
    table = [["runtime", "task", *map(str.lower, SIDE_BY_SIDE)], ["---"] * (len(SIDE_BY_SIDE) + 2)]
    for task, lines in figures.items():
        table += [[TITLES[name], task.replace("|", "\\|"), *cells] for name, cells in lines.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def provenance(receipt: Mapping[str, Any]) -> str:
    """Return when, where and with which versions a receipt was measured, as a sentence."""
    machine, settings = receipt["machine"], receipt["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in receipt["versions"].items())
    dtypes = "".join(f"; {TITLES[name]} in {dtype}" for name, dtype in settings.get("dtypes", {}).items())
    pages = {"yes": ", huge pages"}.get(huge_pages(receipt), "")
    return (
        f"Measured on {receipt['created'][:10]}: {machine['cpu']}, {settings['threads']} threads of {machine['cores']} "
        f"cores ({', '.join(machine['flags'])}), {machine['system']}{pages}{dtypes}; {versions}."
    )


def base_in_words(model: Mapping[str, Any]) -> str:
    """Describe the base of a receipt's model, to follow the model's name."""
    base = model["base"]
    if base is None:
        return "a complete model without a base"
    if base["hub_id"] is None:
        return "on a base without a Hub id"
    return f"on {base['hub_id']} at " + (f"revision {base['revision']}" if base["revision"] else "no pinned revision")


def _accuracy(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    rows = []
    reference, tasks = receipt["settings"]["reference"], receipt["results"]["accuracy"]
    for task, scores in tasks.items():
        where = task if len(tasks) == 1 else f"{task} of {receipt['data']['name']}"
        for key, title in (("accuracy", f"accuracy ({scores[reference]['rows']:,} rows)"), ("macro_f1", "macro-F1")):
            rows.append([f"{where}: {title}", *(f"{scores[n][key]['value']:.4f}" for n in names)])
        for key, title in (
            ("in_scope_accuracy", "accuracy in scope"),
            ("out_of_scope_recall", "out-of-scope recall"),
            ("in_scope_coverage", "in-scope coverage"),
        ):
            if key in scores[reference]:
                rows.append([f"{where}: {title}", *(f"{scores[n][key]:.4f}" for n in names)])
        pairs = receipt["results"]["paired"][task]
        same = [f"{pairs[n]['agreement']['value']:.2%}" if n in pairs else "" for n in names]
        gaps = [f"{pairs[n]['max_abs_dp']:.1e}" if n in pairs else "" for n in names]
        rows.append([f"{where}: same label as {TITLES[reference]}", *same])
        rows.append([f"{where}: largest difference in a probability", *gaps])
    return rows


def _latency(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    tasks = ", ".join(figures["accuracy"])
    if unmeasured(receipt) is not None:
        return [[f"one text of {tasks}", *("not measured" for _ in names)]]
    rows = [
        [f"one text of {tasks}, end to end: {key[:3]}, ms", *(_interval(figures["latency"][n].get(key)) for n in names)]
        for key in ("p50_ms", "p95_ms")
    ]
    gains = ["1" if n == reference else _interval(figures["speedup"][n]) for n in names]
    return [*rows, [f"… times as fast as {TITLES[reference]}", *gains]]


def _interval(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "too few calls"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f}–{estimate['high']:.2f})"


def _shapes(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    def cell(shape: Mapping[str, Any], name: str) -> str:
        low, high = shape["interval_ms"][name]
        return _interval({"value": shape["median_ms"][name], "low": low, "high": high})

    shapes = {(s["texts"], s["tokens"]): s for s in receipt["results"].get("shapes", ())}
    return [
        [
            f"{texts} text{'s' * (texts > 1)} of {tokens} tokens, forward pass, median ms",
            *(cell(shapes[texts, tokens], n) for n in names),
        ]
        for texts, tokens in SHOWN_SHAPES
        if (texts, tokens) in shapes
    ]


def _resources(receipt: Mapping[str, Any], names: Sequence[str], price: float | None) -> list[list[str]]:
    figures = receipt["results"]
    size, tasks = figures["size"], ", ".join(figures["accuracy"])
    rows = [
        ["files of the model, MB", *(f"{size[n]['model_bytes'] / 1e6:.1f}" for n in names)],
        ["libraries it needs, MB", *(f"{size[n]['libraries_bytes'] / 1e6:,.0f}" for n in names)],
    ]
    if unmeasured(receipt) is not None:
        return rows
    best = figures["throughput"]
    rows = [
        [
            f"texts/s of {tasks} at the best batch size (in brackets)",
            *(f"{best[n]['predictions_per_hour'] / 3600:,.0f} ({best[n]['best_batch_size']})" for n in names),
        ],
        *rows,
        [
            f"peak memory with texts of {tasks}, MB",
            *(f"{figures['memory'][n]['peak_bytes'] / 1e6:,.0f}" for n in names),
        ],
        ["import, load and first answer, s", *(f"{figures['start'][n]['total_s']:.2f}" for n in names)],
    ]
    if price is not None:
        costs = [f"{cost_per_million(receipt, n, price):.3f}" for n in names]
        rows.append([f"a million predictions at {price:g} per hour", *costs])
    return rows
