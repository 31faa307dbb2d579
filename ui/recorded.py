"""The recorded measurement of a model: what the page says about its runtimes before anybody asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.assets import ASSETS
from inference.compare.overall import MAX_MEASUREMENTS, Overall, decide_overall, others_in_words
from inference.compare.receipt import is_of, peek_receipt
from inference.compare.verdict import ShipLimits
from inference.errors import InferenceError
from inference.formats.bundle import Bundle

Receipt = Mapping[str, Any]
RECEIPTS = ASSETS / "receipts"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """What the measurements of a model say."""

    overall: Overall
    """The decision on what to ship, as the dashboard opens with."""
    p50_ms: Mapping[str, float]
    """Median of one text, end to end, by runtime: of the measurement with the most rows that has times."""


def find_recorded(bundle: Bundle, folders: Sequence[Path] = (RECEIPTS,)) -> Recorded | None:
    """Return what the measurements of this very model say; None if there is none."""
    decided: Recorded | None = None
    receipts: dict[str, Receipt] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        if len(receipts) == MAX_MEASUREMENTS:
            break
        try:
            receipt = peek_receipt(path)
            if is_of(receipt, bundle):
                decided = _recorded(receipts | {str(path): receipt})  # one that fails does not hide the others
                receipts[str(path)] = receipt
        except (InferenceError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            _log.warning("The measurement %s cannot be shown: %s", path.name, error)
    return decided


def _recorded(receipts: Mapping[str, Receipt]) -> Recorded:
    overall = decide_overall(receipts, ShipLimits())
    others_in_words(overall)  # what cannot be put in words fails here, and not where the page is drawn
    largest = overall.largest_timed()
    latency = largest["results"]["latency"] if largest else {}
    p50_ms = {name: float(figures["p50_ms"]["value"]) for name, figures in latency.items() if "p50_ms" in figures}
    return Recorded(overall, p50_ms)
