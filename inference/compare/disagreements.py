"""List the rows on which a backend and the reference give different labels, and attach texts to a receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.compare.receipt import Receipt, seal
from inference.errors import InputError
from inference.tables.reading import open_table, read_columns
from inference.tables.source import Source
from inference.tables.table import Table

BROKEN, FIXED, BOTH_WRONG, CHANGED = "broken", "fixed", "both wrong", "label changed"
KINDS = (BROKEN, FIXED, BOTH_WRONG, CHANGED)


@dataclass(frozen=True)
class Disagreement:
    """A row on which the two labels differ."""

    row: int
    """Row number in the file, from 1, without the header."""
    text: str | None
    """None if the receipt has no texts."""
    tokens: int
    """Including special tokens, after truncation."""
    true: str | None
    """None for a row without a label."""
    reference: str
    reference_confidence: float
    backend: str
    backend_confidence: float
    kind: str
    """BROKEN: only the reference is right. FIXED: only the backend is right. BOTH_WRONG: neither is.

    CHANGED: the row has no label, so nobody knows which is right.
    """


def disagreements(receipt: Mapping[str, Any], task: str, backend: str) -> list[Disagreement]:
    """Return the disagreements on one task in the order of `KINDS`, the backend's most confident ones first.

    Raises:
        InputError: the receipt does not have this task or backend.
    """
    data, reference = receipt["data"], receipt["settings"]["reference"]
    if task not in data["labels"]:
        raise InputError(f"The measurement has no rows labelled for {task!r}; it has {', '.join(data['labels'])}.")
    if backend not in receipt["settings"]["backends"]:
        names = ", ".join(receipt["settings"]["backends"])
        raise InputError(f"The measurement has no answers from {backend!r}; it has {names}.")
    labels = receipt["model"]["tasks"][task]["labels"]
    first, second = (receipt["backends"][name]["predictions"][task] for name in (reference, backend))
    ids = first["label_ids"], second["label_ids"]
    rows = [
        Disagreement(
            row=data["row_numbers"][i],
            text=data["texts"][i] if data["texts"] is not None else None,
            tokens=data["tokens"][i],
            true=labels[true] if true >= 0 else None,
            reference=labels[a],
            reference_confidence=first["confidence"][i],
            backend=labels[b],
            backend_confidence=second["confidence"][i],
            kind=CHANGED if true < 0 else BROKEN if a == true else FIXED if b == true else BOTH_WRONG,
        )
        for i, (true, a, b) in enumerate(zip(data["labels"][task], *ids, strict=True))
        if a != b
    ]
    return sorted(rows, key=lambda d: (KINDS.index(d.kind), -d.backend_confidence, d.row))


def attach_texts(receipt: Mapping[str, Any], name: str, content: bytes, text_column: str | None = None) -> Receipt:
    """Return the receipt with the texts of its rows, read from the file that it was measured on.

    Args:
        name: file name; the suffix gives the format.
        content: must be the same file to the last byte.

    Raises:
        InputError: the file is a different one, or has no such column.
    """
    table, data = measured_table(receipt, name, content, text_column), receipt["data"]
    names = [table.text_column, *([data["pair_column"]] if "pair_column" in data else [])]
    column = ["\n".join(map(str, cells)) for cells in zip(*read_columns(table, names).values(), strict=True)]
    texts = [column[row - 1] for row in data["row_numbers"]]
    return seal({**receipt, "data": {**data, "texts": texts}})


def measured_table(receipt: Mapping[str, Any], name: str, content: bytes, text_column: str | None = None) -> Table:
    """Open the file that the receipt was measured on.

    Raises:
        InputError: the file is a different one, or has no such column.
    """
    data, digest = receipt["data"], hashlib.sha256(content).hexdigest()
    if digest != data["sha256"]:
        raise InputError(
            f"{name} is not the file of this measurement: its SHA-256 begins with {digest[:12]}, that of "
            f"{data['name']} with {data['sha256'][:12]}. Saving a file again may change its bytes; use the original "
            "file."
        )
    table = open_table(Source(name, content), text_column)
    if max(data["row_numbers"]) > table.row_count:
        raise InputError(
            f"The measurement names row {max(data['row_numbers']):,}; {name} has {table.row_count:,} rows."
        )
    return table
