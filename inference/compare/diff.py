"""What changed between two receipts beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from inference.backends import TITLES
from inference.compare import stats
from inference.compare.benchmark import BATCH_SIZES
from inference.compare.results import answers

SAME, NOISE, CHANGED = "same", "within noise", "changed"
MEMORY_NOISE = 1.1  # peak memory has no interval; libraries allocate a little differently every time
TIMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


@dataclass(frozen=True)
class Change:
    """One figure in both receipts."""

    what: str
    before: str
    after: str
    verdict: str
    """SAME, NOISE or CHANGED."""


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[Change], list[str]]:
    """Every figure that can be compared, and why others cannot.

    Two figures with intervals differ if they lie further apart than both intervals explain: further than the
    root of the sum of the squares of the two half-widths that face each other, on a logarithmic scale. The
    half-widths are stretched for the number of figures looked at (Bonferroni): of forty figures that are
    the same, two would differ by chance at 95 % each.
    """
    changes, notes = list(_identity(a, b)), []
    names = _both(a, b)
    same_rows = all(a["data"][key] == b["data"][key] for key in ("sha256", "row_numbers"))
    if not same_rows:
        notes.append(
            f"Accuracy and latency are not compared: the receipts are of different rows ({a['data']['name']}, "
            f"{len(a['data']['row_numbers']):,} rows; {b['data']['name']}, {len(b['data']['row_numbers']):,} rows). "
            "Measure both on the same file, with the same seed."
        )
    looked_at = len(names) * (len(TIMES) + 1 + len(BATCH_SIZES))
    stretch = float(norm.ppf(1 - (1 - stats.LEVEL) / 2 / max(looked_at, 1)) / norm.ppf((1 + stats.LEVEL) / 2))
    for name in names:
        changes += _sizes(a, b, name)
        if same_rows:
            changes += _memory(a, b, name)
            changes += _speed(a, b, name, stretch)
            for task in a["data"]["labels"]:
                if a["model"]["tasks"][task]["labels"] != b["model"].get("tasks", {}).get(task, {}).get("labels"):
                    notes.append(f"{task} is not compared: its labels are not the same, or not in the same order.")
                elif task in b["data"]["labels"]:
                    changes += _answers(a, b, name, task, (1 - stats.LEVEL) / len(names) / len(a["data"]["labels"]))
    if not names:
        notes.append("The receipts have no backend in common.")
    if a["machine"]["cpu"] != b["machine"]["cpu"]:
        notes.append(f"The processors differ ({a['machine']['cpu']}; {b['machine']['cpu']}): times are theirs too.")
    return changes, notes


def _identity(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for what, one, two in (
        ("model", a["model"]["name"], b["model"]["name"]),
        ("model files", _digest(a["model"]["files"]), _digest(b["model"]["files"])),
        ("base files", *(_digest((one["model"]["base"] or {"files": {}})["files"]) or "none" for one in (a, b))),
        *((f"files of {TITLES[name]}", *(_artifact(one, name) for one in (a, b))) for name in _both(a, b)),
        ("plan", *("quick" if one["settings"]["quick"] else "full" for one in (a, b))),
        ("rows", a["data"]["sha256"][:12], b["data"]["sha256"][:12]),
        ("threads", str(a["settings"]["threads"]), str(b["settings"]["threads"])),
        ("processor flags", " ".join(a["machine"]["flags"]), " ".join(b["machine"]["flags"])),
        *((f"{k} version", a["versions"].get(k, "none"), b["versions"].get(k, "none")) for k in _either(a, b)),
    ):
        if one != two:
            yield Change(what, one, two, CHANGED)


def _either(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*a["versions"], *b["versions"]]))


def _both(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in a["settings"]["backends"] if name in b["settings"]["backends"]]


def _artifact(receipt: Mapping[str, Any], name: str) -> str:
    return _digest({file: one["sha256"] for file, one in receipt["backends"][name]["files"].items()})


def _digest(files: Mapping[str, str]) -> str:
    return " ".join(digest[:8] for _, digest in sorted(files.items()))


def _sizes(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[Change]:
    one, two = (r["results"]["size"][name]["model_bytes"] for r in (a, b))
    yield Change(f"{TITLES[name]}: files, MB", f"{one / 1e6:.1f}", f"{two / 1e6:.1f}", SAME if one == two else CHANGED)
    first, second = (r["results"]["start"][name] for r in (a, b))
    apart = first["max_s"] < second["min_s"] or second["max_s"] < first["min_s"]
    enough = min(first["runs"], second["runs"]) >= 3
    told = [f"{s['total_s']:.2f} ({s['min_s']:.2f} to {s['max_s']:.2f})" for s in (first, second)]
    yield Change(f"{TITLES[name]}: start, s", told[0], told[1], CHANGED if apart and enough else NOISE)


def _memory(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> Iterator[Change]:
    """On the same rows only: longer texts take more."""
    one, two = (r["results"]["memory"][name]["peak_bytes"] for r in (a, b))
    changed = max(one, two) > MEMORY_NOISE * min(one, two)
    yield Change(f"{TITLES[name]}: memory, MB", f"{one / 1e6:.0f}", f"{two / 1e6:.0f}", CHANGED if changed else NOISE)


def _speed(a: Mapping[str, Any], b: Mapping[str, Any], name: str, stretch: float) -> Iterator[Change]:
    first, second = a["results"], b["results"]
    one, two = first["latency"][name], second["latency"][name]
    for key in TIMES:
        if key in one and key in two:
            yield _compare(f"{TITLES[name]}: {key[:3]}, ms", one[key], two[key], ".2f", stretch)
    if name != a["settings"]["reference"] == b["settings"]["reference"]:
        yield _compare(f"{TITLES[name]}: speed-up", first["speedup"][name], second["speedup"][name], ".2f", stretch)
    for one, two in zip(first["throughput"][name]["sweep"], second["throughput"][name]["sweep"], strict=True):
        rates = one["texts_per_s"], two["texts_per_s"]
        if all(stats.enough_samples(rate["samples"], 50) for rate in rates):
            yield _compare(f"{TITLES[name]}: texts/s in batches of {one['batch_size']}", *rates, ".0f", stretch)


def _answers(a: Mapping[str, Any], b: Mapping[str, Any], name: str, task: str, alpha: float) -> Iterator[Change]:
    true, before, _ = answers(a, task, name)
    _, after, _ = answers(b, task, name)
    flips = before != after
    broken, fixed = int(((before == true) & flips).sum()), int(((after == true) & flips).sum())
    p = stats.mcnemar(broken, fixed)
    verdict = SAME if not flips.any() else CHANGED if p < alpha else NOISE
    yield Change(
        f"{TITLES[name]}: accuracy of {task}",
        f"{(before == true).mean():.4f}",
        f"{(after == true).mean():.4f}" + (f" ({int(flips.sum()):,} other labels, p {p:.2g})" if flips.any() else ""),
        verdict,
    )


def _compare(what: str, one: Mapping[str, float], two: Mapping[str, float], form: str, stretch: float) -> Change:
    lower, upper = sorted((one, two), key=lambda e: e["value"])
    apart = math.log(upper["value"] / lower["value"])
    explained = stretch * math.hypot(math.log(lower["high"] / lower["value"]), math.log(upper["value"] / upper["low"]))
    texts = [f"{e['value']:{form}} ({e['low']:{form}} to {e['high']:{form}})" for e in (one, two)]
    return Change(what, texts[0], texts[1], CHANGED if apart > explained else NOISE)
