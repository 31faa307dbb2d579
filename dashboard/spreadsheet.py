"""A table as CSV that a spreadsheet may open without running what is in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from inference.spreadsheet import harmless


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """UTF-8 with a byte-order mark, which Excel wants. A text that begins like a formula gets a ' before it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    cells = ([row[column] for column in columns] for row in rows)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in cells)
    return out.getvalue().encode("utf-8-sig")
