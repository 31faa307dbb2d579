"""Occlusion: how much the log-odds of a label fall when a word is left out. It works on any backend.

A word is left out by dropping its tokens from the row of ids. Tokenizing the text again without it would change its
neighbours' tokens (in a byte-level vocabulary, a word at the start is another token than the same word after a space),
and would bring in words beyond the token limit. A mask or unknown token in its place is one that a classifier has not
seen in training, and not every vocabulary has one. ERASER (DeYoung et al. 2020) measures the same. Differences of
log-odds: Robnik-Šikonja & Kononenko 2008.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.explain.words import WordSpan, grouped

MAX_PASSES = 512  # rows that a text may cost; in longer texts neighbouring words are left out together
SAFE_SHARE = 0.8  # of the time left, in case the rest of the work is slower
PROBE = 4  # rows that are timed to predict the others; a single one costs more than its share of a batch
clock = time.monotonic

Score = Callable[[Sequence[Sequence[int]]], NDArray[np.float64]]
"""Rows of tokens, by their positions in the text -> the log-odds of the label, (rows,)."""


def without(tokens: Sequence[int], words: Sequence[WordSpan]) -> list[int]:
    """Return the positions of tokens without those of these words."""
    dropped = {i for word in words for i in word.pieces}
    return [i for i in tokens if i not in dropped]


def occlude(
    score: Score,
    tokens: Sequence[int],
    words: Sequence[WordSpan],
    *,
    whole: float,
    deadline: float | None,
    rows_at_once: int,
    progress: Callable[[float], None],
) -> tuple[list[WordSpan], NDArray[np.float64]]:
    """Return the words, or groups of neighbours, and how much the log-odds fall without each.

    The fall is NaN for those that were not reached before the deadline.

    Args:
        tokens: positions of the tokens that are read.
        whole: log-odds of the whole text.
        deadline: by `clock`. The time that a few rows take decides how many groups there are.
        progress: called with the share done.
    """
    passes = MAX_PASSES
    if deadline is not None:
        before, tried = clock(), min(PROBE, rows_at_once)
        score([tokens] * tried)
        row_seconds = max((clock() - before) / tried, 1e-6)
        passes = min(passes, int(SAFE_SHARE * (deadline - clock()) / row_seconds))
    groups = grouped(words, max(passes, 1))
    falls = np.full(len(groups), np.nan)
    for start in range(0, len(groups), rows_at_once):
        if start and deadline is not None and clock() > deadline:
            break
        batch = slice(start, start + rows_at_once)
        falls[batch] = whole - score([without(tokens, [word]) for word in groups[batch]])
        progress(min(1.0, (start + rows_at_once) / len(groups)))
    return groups, falls
