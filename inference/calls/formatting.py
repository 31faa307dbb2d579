"""Numbers as people read them, the same on every page, in the report and in the terminal; static/format.js agrees."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from math import floor, log10

_EXACT = Context(prec=1100)  # of every float there is: with less, quantize fails


def fixed(value: float, places: int, sign: str = "") -> str:
    """Return a number with so many decimal places, thousands commas and a true minus.

    Args:
        sign: "+" writes the sign of a positive number too.
    """
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _EXACT)  # as toFixed of JavaScript
    return f"{rounded:{sign},f}".replace("-", "−")


def digits(value: float, significant: int = 3) -> str:
    """Return a number with at least so many significant digits, and no exponent."""
    return fixed(value, max(0, significant - 1 - floor(log10(abs(value))))) if value else "0"


def ms(value: float) -> str:
    return f"{digits(value)} ms"


def mb(size_bytes: float) -> str:
    """Return decimal megabytes; kilobytes below 0.1 MB, gigabytes from 1,000 MB."""
    unit, name = (1e3, "kB") if size_bytes < 1e5 else (1e6, "MB") if size_bytes < 1e9 else (1e9, "GB")
    return f"{fixed(size_bytes / unit, 1)} {name}"


def percent(share: float, places: int = 1) -> str:
    """Return a share in percent. Only 1 is written as 100%, and only 0 as 0%."""
    step = 10**-places / 100
    if share in (0, 1):
        return f"{share:.0%}"
    if 0 < share < step / 2:
        return f"<{step:.{places}%}"
    return f"{fixed((min(share, 1 - step) if share < 1 else share) * 100, places)}%"


def points(share: float, places: int = 2) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    text = fixed(share * 100, places, "+")
    return f"{text if text.strip('+−0.') else '0'} pp"


def times(ratio: float) -> str:
    """Return a ratio such as a speed-up: one decimal place, two below 1."""
    return f"{fixed(ratio, 1 if ratio >= 1 else 2)}×"


def confidence(score: float) -> str:
    return fixed(score, 4)


def joined(parts: Sequence[str], most: int | None = None) -> str:
    """Return "a", "a and b", "a, b and c" or ""; of more than `most` parts, "a, b and 3 more"."""
    if most is not None and len(parts) > most:
        parts = [*parts[: most - 1], f"{len(parts) - most + 1} more"]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
