"""Receipts as a Markdown table a person can read: one line per figure, one column per backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference.backends import TITLES
from inference.compare.results import cost_per_million
from inference.errors import InputError

SHOWN_SHAPES = ((1, 16), (1, 32), (1, 128), (32, 32))


def summary(receipts: Sequence[Mapping[str, Any]], price_per_hour: float | None = None) -> str:
    """The table of receipts of one model, and a line on how they came about.

    Accuracy and latency are of each receipt's own rows; sizes, start and the fixed shapes are of the first that
    has them.

    Args:
        price_per_hour: adds what a million predictions cost at this price, in its currency.

    Raises:
        InputError: the receipts are of different models or backends.
    """
    names = receipts[0]["settings"]["backends"]
    if any(r["settings"]["backends"] != names or r["model"] != receipts[0]["model"] for r in receipts):
        raise InputError("These receipts are of different models or backends, which one table would mix up.")
    head = ["figure", *(TITLES[name] for name in names)]
    lines = [line for receipt in receipts for line in _accuracy(receipt, names)]
    for receipt in receipts:
        lines += _latency(receipt, names)
    shaped = next((r for r in receipts if r["results"]["shapes"]), None)
    if shaped:
        lines += _shapes(shaped, names)
    lines += _rest(receipts[0], names, price_per_hour)
    lines.append(
        [
            "labels that differ alone and in a batch",
            *(str(sum(sum(r["backends"][n]["batch_flips"]["tasks"].values()) for r in receipts)) for n in names),
        ]
    )
    table = [head, ["---", *["---:"] * len(names)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n\n" + provenance(receipts[0])


def provenance(receipt: Mapping[str, Any]) -> str:
    """Where, with what and when, in one sentence."""
    machine, settings = receipt["machine"], receipt["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in receipt["versions"].items())
    return (
        f"Measured on {receipt['created'][:10]}: {machine['cpu']}, {settings['threads']} threads of {machine['cores']} "
        f"cores ({', '.join(machine['flags'])}), {machine['system']}; {versions}."
    )


def base_in_words(model: Mapping[str, Any]) -> str:
    """What a receipt's model stands on, to follow its name: its base by Hub id and revision, as far as it has them."""
    base = model["base"]
    if base is None:
        return "a whole model with no base under it"
    if base["hub_id"] is None:
        return "on a base without a Hub id"
    return f"on {base['hub_id']} at " + (f"revision {base['revision']}" if base["revision"] else "no pinned revision")


def _accuracy(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    lines = []
    reference = receipt["settings"]["reference"]
    for task, scores in receipt["results"]["accuracy"].items():
        where = task if len(receipt["results"]["accuracy"]) == 1 else f"{task} of {receipt['data']['name']}"
        rows = scores[reference]["rows"]
        for key, title in (("accuracy", f"accuracy ({rows:,} rows)"), ("macro_f1", "macro-F1")):
            lines.append([f"{where}: {title}", *(f"{scores[n][key]['value']:.4f}" for n in names)])
        for key, title in (
            ("in_scope_accuracy", "accuracy in scope"),
            ("out_of_scope_recall", "out-of-scope recall"),
            ("in_scope_coverage", "in-scope coverage"),
        ):
            if key in scores[reference]:
                lines.append([f"{where}: {title}", *(f"{scores[n][key]:.4f}" for n in names)])
        pairs = receipt["results"]["paired"][task]
        same = [f"{pairs[n]['agreement']['value']:.2%}" if n in pairs else "" for n in names]
        gaps = [f"{pairs[n]['max_abs_dp']:.1e}" if n in pairs else "" for n in names]
        lines.append([f"{where}: same label as {TITLES[reference]}", *same])
        lines.append([f"{where}: largest difference in a probability", *gaps])
    return lines


def _latency(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    tasks = ", ".join(figures["accuracy"])
    lines = [
        [f"one text of {tasks}, end to end: {key[:3]}, ms", *(_interval(figures["latency"][n].get(key)) for n in names)]
        for key in ("p50_ms", "p95_ms")
    ]
    gains = ["1" if n == reference else _interval(figures["speedup"][n]) for n in names]
    return [*lines, [f"… times as fast as {TITLES[reference]}", *gains]]


def _interval(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "too few calls"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f}–{estimate['high']:.2f})"


def _shapes(receipt: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    found = {(s["texts"], s["tokens"]): s for s in receipt["results"]["shapes"]}
    return [
        [
            f"{texts} text{'s' * (texts > 1)} of {tokens} tokens, forward pass, median ms",
            *(_shape(found[texts, tokens], n) for n in names),
        ]
        for texts, tokens in SHOWN_SHAPES
        if (texts, tokens) in found
    ]


def _shape(shape: Mapping[str, Any], name: str) -> str:
    low, high = shape["interval_ms"][name]
    return _interval({"value": shape["median_ms"][name], "low": low, "high": high})


def _rest(receipt: Mapping[str, Any], names: Sequence[str], price: float | None) -> list[list[str]]:
    figures = receipt["results"]
    best, size, rows = figures["throughput"], figures["size"], ", ".join(figures["accuracy"])
    lines = [
        [
            f"texts/s of {rows} at the best batch size (in brackets)",
            *(f"{best[n]['predictions_per_hour'] / 3600:,.0f} ({best[n]['best_batch_size']})" for n in names),
        ],
        ["files of the model, MB", *(f"{size[n]['model_bytes'] / 1e6:.1f}" for n in names)],
        ["libraries it needs, MB", *(f"{size[n]['libraries_bytes'] / 1e6:,.0f}" for n in names)],
        [f"peak memory with texts of {rows}, MB", *(f"{figures['memory'][n]['peak_bytes'] / 1e6:,.0f}" for n in names)],
        ["import, load and first answer, s", *(f"{figures['start'][n]['total_s']:.2f}" for n in names)],
    ]
    if price is not None:
        costs = [f"{cost_per_million(receipt, n, price):.3f}" for n in names]
        lines.append([f"a million predictions at {price:g} an hour", *costs])
    return lines
