"""The recorded measurement of a model: what the page says about its runtimes before anybody asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.assets import ASSETS
from inference.compare.receipt import is_of, peek_receipt
from inference.compare.results import unmeasured
from inference.compare.summary import Headline, headline
from inference.errors import InferenceError
from inference.formats.bundle import Bundle

RECEIPTS = ASSETS / "receipts"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """The measurement with the most rows, of those with times if there are any."""

    name: str
    """As the dashboard calls it."""
    headline: Headline | None
    p50_ms: Mapping[str, float]
    """Median of one text, end to end, by runtime."""


def find_recorded(bundle: Bundle, folders: Sequence[Path] = (RECEIPTS,)) -> Recorded | None:
    """Return the measurement of this very model with the most rows; None if there is none."""
    largest: tuple[tuple[bool, int], Recorded] | None = None
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            receipt = peek_receipt(path)
            if not is_of(receipt, bundle):
                continue
            weight = unmeasured(receipt) is None, len(receipt["data"]["row_numbers"])
            if largest is None or weight > largest[0]:
                largest = weight, _recorded(path.stem, receipt)
        except (InferenceError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            _log.warning("The measurement %s cannot be shown: %s", path.name, error)
    return largest[1] if largest else None


def _recorded(name: str, receipt: Mapping[str, Any]) -> Recorded:
    latency = receipt["results"].get("latency", {})
    p50_ms = {name: float(figures["p50_ms"]["value"]) for name, figures in latency.items() if "p50_ms" in figures}
    return Recorded(name, headline(receipt), p50_ms)
