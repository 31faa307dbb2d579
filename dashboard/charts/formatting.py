"""Figures as people read them: three digits that mean something, a unit, a true minus sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10

from inference.backends import TITLES
from inference.compare.verdict import ShipLimits

Estimate = Mapping[str, float]


def digits(value: float, significant: int = 3) -> str:
    """A number with so many significant digits and no exponent; never fewer digits than it has before the point."""
    if value == 0:
        return "0"
    places = max(0, significant - 1 - floor(log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", "−")


def ms(value: float) -> str:
    return f"{digits(value)} ms"


def mb(size_bytes: float) -> str:
    """Decimal megabytes, or gigabytes from 1,000 of them."""
    return f"{digits(size_bytes / 1e9)} GB" if size_bytes >= 1e9 else f"{digits(size_bytes / 1e6)} MB"


def percent(share: float, places: int = 1) -> str:
    """A share in percent. Only what is whole is called 100 %, and only what is nothing 0 %."""
    edge = 10**-places / 2 / 100
    if 0 < share < edge:
        return f"< {10**-places:.{places}f} %"
    shown = min(share, 1 - 10**-places / 100) if share < 1 else share
    return f"{shown * 100:.{places}f} %".replace("-", "−")


def points(share: float, places: int = 2) -> str:
    """A difference of shares in percentage points, with its sign."""
    shown = f"{share * 100:+.{places}f}"
    return ("0" if float(shown) == 0 else shown).replace("-", "−") + " pp"


def times(ratio: float) -> str:
    return f"{digits(ratio)}×"


def many(count: int, one: str, more: str | None = None) -> str:
    """ "1 row", "7 rows", "no rows"."""
    return (
        f"{count:,} {one}" if count == 1 else f"{count:,} {more or one + 's'}" if count else f"no {more or one + 's'}"
    )


def joined(parts: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def names(backends: Sequence[str], last: str = "and") -> str:
    return joined([TITLES[name] for name in backends], last)


def overlap(first: Estimate, second: Estimate) -> bool:
    """Whether two intervals have a point in common: then their order may be luck."""
    return first["low"] <= second["high"] and second["low"] <= first["high"]


def sentence(text: str) -> str:
    """With a capital and a full stop."""
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
