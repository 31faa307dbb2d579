"""Compare two receipts: what changed beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from inference.backends import TITLES
from inference.compare import stats
from inference.compare.benchmark import BATCH_SIZES
from inference.compare.comparable import huge_pages
from inference.compare.results import answers, count_flips, unmeasured

SAME, NOISE, CHANGED = "same", "within noise", "changed"
MEMORY_NOISE = 1.1  # ratio: peak memory has no interval and differs a little between runs
TIMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


@dataclass(frozen=True)
class Change:
    """One figure in both receipts."""

    what: str
    before: str
    after: str
    status: str
    """SAME, NOISE or CHANGED."""


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[Change], list[str]]:
    """Return all comparable figures of two receipts, and notes on why others cannot be compared.

    Two figures with intervals differ if their distance on a log scale exceeds the root of the sum of squares of the
    two half-widths that face each other. The half-widths are stretched for the number of comparisons (Bonferroni): at
    95% each, two of forty unchanged figures would differ by chance.
    """
    changes, notes = list(setting_changes(a, b)), []
    names = _both(a, b)
    same_rows = all(a["data"][key] == b["data"][key] for key in ("sha256", "row_numbers"))
    if not same_rows:
        notes.append(
            f"Accuracy and latency are not compared, because the rows are different ({a['data']['name']}, "
            f"{len(a['data']['row_numbers']):,} rows; {b['data']['name']}, {len(b['data']['row_numbers']):,} rows). "
            "Measure both on the same file with the same seed."
        )
    no_speed = unmeasured(a) or unmeasured(b)
    if no_speed is not None:
        notes.append(f"Times and memory are not compared: {no_speed}.")
    comparisons = len(names) * (len(TIMES) + 1 + len(BATCH_SIZES))
    stretch = float(norm.ppf(1 - (1 - stats.LEVEL) / 2 / max(comparisons, 1)) / norm.ppf((1 + stats.LEVEL) / 2))
    for name in names:
        changes += _sizes(a, b, name)
        if no_speed is None:
            changes += _starts(a, b, name)
        if no_speed is None and same_rows:
            changes += _memory(a, b, name)
            changes += _speed(a, b, name, stretch)
        if same_rows:
            for task in a["data"]["labels"]:
                if a["model"]["tasks"][task]["labels"] != b["model"].get("tasks", {}).get(task, {}).get("labels"):
                    notes.append(f"{task} is not compared: its labels or their order differ.")
                elif task in b["data"]["labels"]:
                    changes += _answers(a, b, name, task, (1 - stats.LEVEL) / len(names) / len(a["data"]["labels"]))
    if not names:
        notes.append("The measurements have no runtime in common.")
    if a["machine"]["cpu"] != b["machine"]["cpu"]:
        notes.append(f"The processors differ ({a['machine']['cpu']}; {b['machine']['cpu']}), which affects all times.")
    if huge_pages(a) != huge_pages(b):
        notes.append("Not both measurements had huge pages, or it is not recorded, which affects all times.")
    return changes, notes


def setting_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    """Yield what differs in files, settings, processor and versions."""
    versions = dict.fromkeys([*a["versions"], *b["versions"]])
    for what, before, after in (
        ("model", a["model"]["name"], b["model"]["name"]),
        ("model files", _digest(a["model"]["files"]), _digest(b["model"]["files"])),
        ("base files", *(_digest((r["model"]["base"] or {"files": {}})["files"]) or "none" for r in (a, b))),
        *((f"files of {TITLES[name]}", *(_artifact(r, name) for r in (a, b))) for name in _both(a, b)),
        ("plan", *("quick" if r["settings"]["quick"] else "full" for r in (a, b))),
        ("rows", a["data"]["sha256"][:12], b["data"]["sha256"][:12]),
        *(
            (f"dtype of {TITLES[name]}", *(r["settings"].get("dtypes", {}).get(name, "float32") for r in (a, b)))
            for name in _both(a, b)
        ),
        ("threads", str(a["settings"]["threads"]), str(b["settings"]["threads"])),
        ("processor flags", " ".join(a["machine"]["flags"]), " ".join(b["machine"]["flags"])),
        ("huge pages", huge_pages(a), huge_pages(b)),
        *((f"{k} version", *(r["versions"].get(k, "none") for r in (a, b))) for k in versions),
    ):
        if before != after:
            yield Change(what, before, after, CHANGED)


def _both(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in a["settings"]["backends"] if name in b["settings"]["backends"]]


def _artifact(receipt: Mapping[str, Any], name: str) -> str:
    return _digest({file: entry["sha256"] for file, entry in receipt["backends"][name]["files"].items()})


def _digest(files: Mapping[str, str]) -> str:
    return " ".join(digest[:8] for _, digest in sorted(files.items()))


def _sizes(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[Change]:
    sizes = [r["results"]["size"][name]["model_bytes"] for r in (a, b)]
    status = SAME if sizes[0] == sizes[1] else CHANGED
    yield _change(f"{TITLES[name]}: files, MB", (f"{size / 1e6:.1f}" for size in sizes), status)


def _starts(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[Change]:
    first, second = (r["results"]["start"][name] for r in (a, b))
    apart = first["max_s"] < second["min_s"] or second["max_s"] < first["min_s"]
    status = CHANGED if apart and min(first["runs"], second["runs"]) >= 3 else NOISE
    texts = (f"{s['total_s']:.2f} ({s['min_s']:.2f} to {s['max_s']:.2f})" for s in (first, second))
    yield _change(f"{TITLES[name]}: start, s", texts, status)


def _memory(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[Change]:
    """Compare peak memory; only for the same rows, because longer texts take more."""
    peaks = [r["results"]["memory"][name]["peak_bytes"] for r in (a, b)]
    status = CHANGED if max(peaks) > MEMORY_NOISE * min(peaks) else NOISE
    yield _change(f"{TITLES[name]}: memory, MB", (f"{peak / 1e6:.0f}" for peak in peaks), status)


def _speed(a: Mapping[str, Any], b: Mapping[str, Any], name: str, stretch: float) -> Iterator[Change]:
    first, second = a["results"], b["results"]
    for key in TIMES:
        if key in first["latency"][name] and key in second["latency"][name]:
            times = [figures["latency"][name][key] for figures in (first, second)]
            yield _estimates(f"{TITLES[name]}: {key[:3]}, ms", times, ".2f", stretch)
    if name != a["settings"]["reference"] == b["settings"]["reference"]:
        gains = [figures["speedup"][name] for figures in (first, second)]
        yield _estimates(f"{TITLES[name]}: speed-up", gains, ".2f", stretch)
    for sizes in zip(first["throughput"][name]["sweep"], second["throughput"][name]["sweep"], strict=True):
        rates = [size["texts_per_s"] for size in sizes]
        if all(stats.enough_samples(rate["samples"], 50) for rate in rates):
            title = f"{TITLES[name]}: texts/s in batches of {sizes[0]['batch_size']}"
            yield _estimates(title, rates, ".0f", stretch)


def _answers(a: Mapping[str, Any], b: Mapping[str, Any], name: str, task: str, alpha: float) -> Iterator[Change]:
    true, before, _ = answers(a, task, name)
    _, after, _ = answers(b, task, name)
    flips, broken, fixed = count_flips(true, before, after)
    p = stats.mcnemar(broken, fixed)
    status = SAME if not flips else CHANGED if p < alpha else NOISE
    yield Change(
        f"{TITLES[name]}: accuracy of {task}",
        f"{(before == true).mean():.4f}",
        f"{(after == true).mean():.4f}" + (f" ({flips:,} labels differ, p {p:.2g})" if flips else ""),
        status,
    )


def _estimates(what: str, estimates: Sequence[Mapping[str, float]], form: str, stretch: float) -> Change:
    lower, upper = sorted(estimates, key=lambda e: e["value"])
    apart = math.log(upper["value"] / lower["value"])
    explained = stretch * math.hypot(math.log(lower["high"] / lower["value"]), math.log(upper["value"] / upper["low"]))
    texts = (f"{e['value']:{form}} ({e['low']:{form}} to {e['high']:{form}})" for e in estimates)
    return _change(what, texts, CHANGED if apart > explained else NOISE)


def _change(what: str, values: Iterable[str], status: str) -> Change:
    before, after = values
    return Change(what, before, after, status)
