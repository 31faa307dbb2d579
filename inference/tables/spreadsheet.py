"""Texts of strangers as a spreadsheet may open them without running what is in them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

# What Excel, LibreOffice or Google Sheets may take for a formula (OWASP, "CSV Injection"): a cell that begins with one
# of these signs, also in the full width of East Asian fonts, also after white space and signs without a width.
_BLANK = r"[\s\x00-\x1f\x7f\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
_FORMULA = re.compile(_BLANK + r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def harmless(text: str) -> str:
    """The text, with a ' before it where a spreadsheet would run it as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def is_number(text: str) -> bool:
    """Whether this is a number as programs write it, "-5" say, and so nothing that a spreadsheet would run."""
    return _NUMBER.fullmatch(text) is not None


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """UTF-8 with a byte-order mark, which Excel wants. A text that begins like a formula gets a ' before it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    cells = ([row[column] for column in columns] for row in rows)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in cells)
    return out.getvalue().encode("utf-8-sig")
