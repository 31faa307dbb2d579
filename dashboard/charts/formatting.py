"""Words around the figures of receipts: names, intervals, lists, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from inference.backends import TITLES
from inference.calls.formatting import joined
from inference.compare.verdict import ShipLimits

Receipt = Mapping[str, Any]
Estimate = Mapping[str, float]
"""A figure with the ends of its interval: value, low, high."""
Value = TypeVar("Value")


def many(count: int, noun: str) -> str:
    """Return "1 row", "7 rows" or "no rows"."""
    return f"1 {noun}" if count == 1 else f"{f'{count:,}' if count else 'no'} {noun}s"


def names(backends: Sequence[str]) -> str:
    return joined([TITLES[name] for name in backends])


def each(values: Mapping[str, Value], text: Callable[[Value], str]) -> list[str]:
    """Return each backend's name with its value as text: "PyTorch 12 ms", "ONNX 4 ms"."""
    return [f"{TITLES[name]} {text(value)}" for name, value in values.items()]


def span(estimate: Estimate, text: Callable[[float], str]) -> str:
    """Return a figure with its interval, if it has one: "12 ms (11 ms to 14 ms)"."""
    interval = f" ({text(estimate['low'])} to {text(estimate['high'])})" if estimate["high"] > estimate["low"] else ""
    return text(estimate["value"]) + interval


def ends(estimate: Estimate) -> dict[str, float]:
    """Return the columns of a table for an interval."""
    return {"from": estimate["low"], "to": estimate["high"]}


def overlap(first: Estimate, second: Estimate) -> bool:
    """Return whether two intervals overlap: then their order may be chance."""
    return first["low"] <= second["high"] and second["low"] <= first["high"]


def sentence(text: str) -> str:
    """Return the text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def requirements(limits: ShipLimits) -> str:
    """Describe the limits."""
    parts = [f"accuracy falls by at most {limits.max_drop * 100:g} pp"]
    if limits.max_p95_ms is not None:
        parts.append(f"p95 is at most {limits.max_p95_ms:g} ms")
    if limits.max_size_mb is not None:
        parts.append(f"the model has at most {limits.max_size_mb:g} MB")
    if limits.max_flips is not None:
        parts.append(f"at most {many(limits.max_flips, 'label')} changed")
    if limits.min_speedup is not None:
        parts.append(f"it is at least {limits.min_speedup:g} times as fast")
    return joined(parts)
