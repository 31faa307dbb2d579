"""Occlusion: what the log-odds of a label lose when a word is left out. A backend's answers are all that it takes.

A word is left out by dropping its tokens from the row of ids that the model was given. Writing the text anew without
it would make other tokens of its neighbours (in a byte-level vocabulary, a word at the start is another token than the
same word after a space), and where the text was cut at the token limit, words that were never read would move up.
A mask or unknown token in its place is one that a classifier has not met in its training, and not every vocabulary has
one. It is also what ERASER (DeYoung et al. 2020) measures. Differences of log-odds: Robnik-Šikonja & Kononenko 2008.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.explain.words import WordSpan, grouped

MAX_PASSES = 512  # rows that a text may cost; beyond it neighbouring words are left out together
SAFE_SHARE = 0.8  # of the time left, for the rest of the work and for a machine that gets busier
PROBE = 4  # rows that are timed to know what the others will take; one alone costs more than its share of a batch
clock = time.monotonic

Score = Callable[[Sequence[Sequence[int]]], NDArray[np.float64]]
"""Rows of token ids -> the log-odds of the label, (rows,)."""


def without(ids: Sequence[int], words: Sequence[WordSpan]) -> list[int]:
    """The row of ids with the tokens of these words dropped."""
    gone = {i for word in words for i in word.pieces}
    return [token for i, token in enumerate(ids) if i not in gone]


def occlude(
    score: Score,
    ids: Sequence[int],
    words: Sequence[WordSpan],
    *,
    whole: float,
    deadline: float | None,
    rows_at_once: int,
    progress: Callable[[float], None],
) -> tuple[list[WordSpan], NDArray[np.float64]]:
    """The words, or groups of neighbours, that were left out one after the other, and what the log-odds lose by each.

    NaN where time was up before.

    Args:
        whole: log-odds of the whole text.
        deadline: by `clock`; None for no limit. What a few rows take at once decides how many groups there are.
        progress: called with the share done.
    """
    most = MAX_PASSES
    if deadline is not None:
        before, tried = clock(), min(PROBE, rows_at_once)
        score([ids] * tried)
        row_seconds = max((clock() - before) / tried, 1e-6)
        most = min(most, int(SAFE_SHARE * (deadline - clock()) / row_seconds))
    groups = grouped(words, max(most, 1))
    lost = np.full(len(groups), np.nan)
    for start in range(0, len(groups), rows_at_once):
        if start and deadline is not None and clock() > deadline:
            break
        some = slice(start, start + rows_at_once)
        lost[some] = whole - score([without(ids, [word]) for word in groups[some]])
        progress(min(1.0, (start + rows_at_once) / len(groups)))
    return groups, lost
