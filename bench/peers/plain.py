"""What peers without heads of their own share: tokens, mean pooling and linear heads, in NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Hidden = NDArray[np.float32]


class Heads:
    """The linear heads in a folder of `bench.models`."""

    def __init__(self, model: Path) -> None:
        facts = json.loads((model / "tasks.json").read_text(encoding="utf-8"))
        self.labels: dict[str, list[str]] = facts["tasks"]
        self.max_tokens: int = facts["max_tokens"]
        with np.load(model / "heads.npz") as arrays:
            self.weights = {task: (arrays[f"{task}.weight"].T.copy(), arrays[f"{task}.bias"]) for task in self.labels}

    def logits(self, hidden: Hidden, mask: Ids) -> dict[str, Hidden]:
        """Return logits (texts, labels) by task from hidden states (texts, tokens, hidden): the mean of the tokens."""
        kept = mask[:, :, None].astype(np.float32)
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return {task: pooled @ weight + bias for task, (weight, bias) in self.weights.items()}

    def named(self, logits: dict[str, Any]) -> dict[str, list[str]]:
        """Return the label with the largest logit of each text."""
        return {
            task: [self.labels[task][best] for best in np.asarray(values).argmax(1)] for task, values in logits.items()
        }


class Tokens:
    """The tokenizer of a folder of `bench.models`, by the library tokenizers."""

    def __init__(self, model: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return ids and mask, (rows, longest), padded on the right with 0."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = 1
    return ids, mask


def by_length(rows: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Return the row numbers in batches of similar length."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_batches(
    rows: Sequence[Sequence[int]], size: int, logits: Callable[[Ids, Ids], dict[str, Hidden]]
) -> dict[str, Hidden]:
    """Return the logits of all rows, computed in batches of similar length, in the order of the rows."""
    order: list[int] = []
    parts: list[dict[str, Hidden]] = []
    for batch in by_length(rows, size):
        order += batch
        parts.append(logits(*padded([rows[row] for row in batch])))
    place = np.argsort(order)
    return {task: np.concatenate([part[task] for part in parts])[place] for task in parts[0]}
