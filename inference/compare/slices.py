"""Accuracy on parts of the rows: by length, right label, negation, and the other columns of the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.compare.benchmark import LENGTHS, length_name
from inference.compare.disagreements import measured_table
from inference.compare.results import count_flips
from inference.compare.stats import Array, Estimate, mcnemar, paired_difference, share
from inference.tables.reading import read_columns
from inference.tables.table import Table

LENGTH, LABEL, NEGATION = "Length", "Right label", "Negation"
FEW_ROWS = 100  # below, one row more or less moves the accuracy by more than a percentage point
MAX_VALUES = 20  # of a column that rows are grouped by
MAX_VALUE_CHARS = 100
MAX_COLUMNS = 12  # by which rows are grouped: the first that have few values
LENGTH_NAMES = [length_name(low, high) for low, high in LENGTHS]
NEGATED, AFFIRMED, EMPTY = "with a negation", "without", "(empty)"
_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nobody|nothing|nowhere|neither|nor|without|cannot|hardly|barely"
    r"|(?:ai|are|ca|could|did|do|does|had|has|have|is|might|must|need|should|was|were|wo|would)n['’]?t)\b",
    re.IGNORECASE,
)
_CONTRAST = re.compile(r"\b(?:but|though|although|however|if)\b", re.IGNORECASE)


def has_negation(text: str) -> bool:
    """Return whether an English text has a word such as "not"."""
    return _NEGATION.search(text) is not None


def has_contrast(text: str) -> bool:
    """Return whether an English text has a word such as "but"."""
    return _CONTRAST.search(text) is not None


def length_of(tokens: int) -> str:
    """Return the name of the band of `LENGTHS` that a text of this many tokens is in."""
    return next(length_name(low, high) for low, high in LENGTHS if high is None or tokens <= high)


@dataclass(frozen=True)
class Slice:
    """The labelled rows of one group, on the reference and on a backend."""

    name: str
    rows: int
    flips: int
    broken: int
    fixed: int
    reference: Estimate
    """Accuracy, with its 95% interval."""
    backend: Estimate
    difference: Estimate
    """Accuracy of the backend minus that of the reference, on the same rows. The intervals of all slices of a grouping
    hold together with 95% confidence (Bonferroni), so that of many slices none seems to change by chance."""
    error: float
    """The rate of errors that is allowed for this slice: 5%, divided by the number of slices."""

    @property
    def changes(self) -> bool:
        """Whether the accuracy changes beyond chance. The interval is approximate, so the exact test must agree."""
        return (self.difference.low > 0 or self.difference.high < 0) and mcnemar(self.broken, self.fixed) < self.error

    @property
    def has_few_rows(self) -> bool:
        return self.rows < FEW_ROWS


def groups(
    receipt: Mapping[str, Any], task: str, columns: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Return the ways to part the rows, each with the name of every row's group; "" for a row without a label.

    Args:
        columns: of the measured file, from `row_columns`; one that parts the rows as their labels do is left out.
    """
    data, labels = receipt["data"], receipt["model"]["tasks"][task]["labels"]
    right = ["" if true < 0 else labels[true] for true in data["labels"][task]]
    lengths = [length_of(tokens) for tokens in data["tokens"]]
    ways = {LENGTH: lengths, LABEL: right}
    if data["texts"] is not None:
        ways[NEGATION] = [NEGATED if has_negation(text) else AFFIRMED for text in data["texts"]]
    for name, cells in (columns or {}).items():
        pairs = {(cell, label) for cell, label in zip(cells, right, strict=True) if label}
        if not len(pairs) == len({cell for cell, _ in pairs}) == len({label for _, label in pairs}):
            ways.setdefault(name, list(cells))
    return {
        name: [group if label else "" for group, label in zip(of_rows, right, strict=True)]
        for name, of_rows in ways.items()
        if name == LABEL or len({group for group, label in zip(of_rows, right, strict=True) if label}) > 1
    }


def slices(receipt: Mapping[str, Any], task: str, backend: str, of_rows: Sequence[str]) -> list[Slice]:
    """Return a slice per group: lengths from short to long, others from many rows to few.

    Args:
        of_rows: one of the values of `groups`.
    """
    names = np.array(of_rows, dtype=object)
    true = np.array(receipt["data"]["labels"][task])
    first, second = (
        np.array(receipt["backends"][name]["predictions"][task]["label_ids"])
        for name in (receipt["settings"]["reference"], backend)
    )
    distinct = [name for name in dict.fromkeys(of_rows) if name]
    error = 0.05 / max(1, len(distinct))
    parts = [_slice(name, error, *(ids[names == name] for ids in (true, first, second))) for name in distinct]
    order = LENGTH_NAMES
    return sorted(parts, key=lambda part: (order.index(part.name) if part.name in order else 0, -part.rows, part.name))


def _slice(name: str, error: float, true: Array, first: Array, second: Array) -> Slice:
    rows = len(true)
    flips, broken, fixed = count_flips(true, first, second)
    return Slice(
        name,
        rows,
        flips,
        broken,
        fixed,
        share(int((first == true).sum()), rows),
        share(int((second == true).sum()), rows),
        paired_difference(broken, fixed, rows, 1 - error),
        error,
    )


def row_columns(
    receipt: Mapping[str, Any], name: str, content: bytes, text_column: str | None = None
) -> dict[str, list[str]]:
    """Return the columns of the measured file that have few values, with the value of each measured row.

    Args:
        name: file name; the suffix gives the format.
        content: must be the same file to the last byte.

    Raises:
        InputError: the file is a different one.
    """
    table = measured_table(receipt, name, content, text_column)
    texts = {table.text_column, receipt["data"].get("pair_column")}
    return few_valued(table, receipt["data"]["row_numbers"], texts)


def few_valued(table: Table, row_numbers: Sequence[int], leave_out: Collection[str | None]) -> dict[str, list[str]]:
    """Return the columns of a table that have few values, with the value of each row; row numbers count from 1."""
    columns = Counter(table.columns)
    names = [name for name, count in columns.items() if count == 1 and name.strip() and name not in leave_out]
    cells = {column: [of[row - 1] for row in row_numbers] for column, of in read_columns(table, names).items()}
    values = {column: [_value(cell) for cell in of] for column, of in cells.items()}
    few = [(column, of) for column, of in values.items() if 1 < len(set(of)) <= MAX_VALUES]
    return dict(few[:MAX_COLUMNS])


def _value(cell: Any) -> str:
    text = "" if cell is None else " ".join(str(cell).split())
    return text[:MAX_VALUE_CHARS] or EMPTY
