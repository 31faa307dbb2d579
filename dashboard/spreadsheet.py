"""A table as CSV that a spreadsheet may open without running what is in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

RUN = ("=", "+", "-", "@", "\t", "\r", "\n")  # a cell that begins so is taken for a formula


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """UTF-8 with a byte-order mark, which Excel wants. A text that begins like a formula gets a ' before it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([[_harmless(row[column]) for column in columns] for row in rows])
    return out.getvalue().encode("utf-8-sig")


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(RUN) else cell
