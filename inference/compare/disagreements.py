"""The rows on which a backend's label is not the reference's, and the texts of rows that a receipt does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.compare.receipt import Receipt, seal
from inference.errors import InputError
from inference.tables.columns import read_table

BROKEN, FIXED, BOTH_WRONG = "broken", "fixed", "both wrong"
KINDS = (BROKEN, FIXED, BOTH_WRONG)


@dataclass(frozen=True)
class Disagreement:
    """One row that the two label differently."""

    row: int
    """Which data row of the file, from 1, the header not counted."""
    text: str | None
    """None where the receipt does not hold it."""
    tokens: int
    """Special ones included, after cutting at what the model reads."""
    true: str
    reference: str
    reference_confidence: float
    backend: str
    backend_confidence: float
    kind: str
    """BROKEN: only the reference is right. FIXED: only the backend is. BOTH_WRONG: neither."""


def disagreements(receipt: Mapping[str, Any], task: str, backend: str) -> list[Disagreement]:
    """Those of one task: broken first, then fixed, then both wrong; within each the most confident backend first.

    Raises:
        InputError: the receipt has no labels of this task, or no answers of this backend.
    """
    data, reference = receipt["data"], receipt["settings"]["reference"]
    if task not in data["labels"]:
        raise InputError(f"The receipt has no rows labelled for {task!r}. It has: {', '.join(data['labels'])}.")
    if backend not in receipt["settings"]["backends"]:
        raise InputError(
            f"The receipt has no answers of {backend!r}. It has: {', '.join(receipt['settings']['backends'])}."
        )
    labels = receipt["model"]["tasks"][task]["labels"]
    first, second = (receipt["backends"][name]["predictions"][task] for name in (reference, backend))
    found = []
    for i, true in enumerate(data["labels"][task]):
        one, two = first["label_ids"][i], second["label_ids"][i]
        if true < 0 or one == two:
            continue
        found.append(
            Disagreement(
                row=data["row_numbers"][i],
                text=data["texts"][i] if data["texts"] is not None else None,
                tokens=data["tokens"][i],
                true=labels[true],
                reference=labels[one],
                reference_confidence=first["confidence"][i],
                backend=labels[two],
                backend_confidence=second["confidence"][i],
                kind=BROKEN if one == true else FIXED if two == true else BOTH_WRONG,
            )
        )
    return sorted(found, key=lambda d: (KINDS.index(d.kind), -d.backend_confidence, d.row))


def attach_texts(receipt: Mapping[str, Any], name: str, content: bytes, text_column: str = "text") -> Receipt:
    """The same receipt with the texts of its rows, taken from the file that it was measured on.

    Args:
        name: of the file; its ending tells the format.

    Raises:
        InputError: it is another file, down to a single byte, or it has no such column.
    """
    data, digest = receipt["data"], hashlib.sha256(content).hexdigest()
    if digest != data["sha256"]:
        raise InputError(
            f"{name} is not the file of this receipt: its SHA-256 begins with {digest[:12]}, that of {data['name']} "
            f"with {data['sha256'][:12]}. A file that was opened and saved again differs already; bring the same one."
        )
    columns = read_table(name, content)
    if text_column not in columns:
        raise InputError(f"{name} has no column {text_column!r}; it has {', '.join(map(repr, columns))}. Name another.")
    column = columns[text_column]
    if max(data["row_numbers"]) > len(column):
        raise InputError(f"The receipt names row {max(data['row_numbers']):,}; {name} has {len(column):,} rows.")
    texts = [str(column[row - 1]) for row in data["row_numbers"]]
    return seal({**receipt, "data": {**data, "texts": texts}})
