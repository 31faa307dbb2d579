"""The pictures of a scored file are true to its counts."""

from __future__ import annotations

import pytest

from inference.score.annotate import TaskTally
from ui.figures import MAX_BARS, label_shares

OTHERS = 97  # labels of one row each, whose one bar is then the longest


@pytest.mark.parametrize(
    ("counts", "widest"),
    [
        ({"joy": 50}, 1.0),
        ({"joy": 34, "fear": 33, "anger": 33}, 0.34),
        ({"joy": 3} | {f"label {number}": 1 for number in range(OTHERS)}, (OTHERS - MAX_BARS + 1) / 100),
        ({f"label {number}": 1 for number in range(MAX_BARS + 1)}, 1 / (MAX_BARS + 1)),  # no bar can all be shorter
        ({}, 1.0),
    ],
)
def test_ticks_of_shares_range_from_0_to_100_percent(counts: dict[str, int], widest: float) -> None:
    figure = label_shares(TaskTally(labels=counts))
    assert max(figure.data[0].x, default=1.0) == pytest.approx(widest)
    axis = figure.layout.xaxis
    marks = list(axis.tickvals)
    assert marks[0] == 0
    assert marks[-1] <= 1
    assert 2 <= len(marks) <= 7
    assert marks == sorted(set(marks))
    assert axis.range[0] == 0
    assert max(widest, marks[-1]) < axis.range[1]
