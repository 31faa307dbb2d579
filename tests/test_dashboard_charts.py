"""What the pages of charts show first, and what they fold away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import made
import pytest
from opened import charts, one, opened, words

from dashboard.charts import leaderboard
from inference.compare.receipt import write_receipt

pytestmark = pytest.mark.usefixtures("folder")


def test_latency_opens_with_three_charts_and_unfolds_the_rest() -> None:
    test = opened("latency")
    assert [element.value for element in test.subheader] == ["Typical and slow texts", "Long texts", "Start and noise"]
    assert len(charts(test)) == 3
    assert "Differences below" in words(test)
    assert len(charts(opened("latency", more="true"))) == 8


def test_accuracy_draws_what_one_backend_changes_and_unfolds_the_rest() -> None:
    test = opened("accuracy")
    assert len(charts(test)) == 4
    assert "% of the labels, mostly" in words(test)
    test.segmented_control(key="against").set_value("onnx").run()
    assert len(charts(test)) == 2
    assert "ONNX gives all 200 rows the same label as PyTorch" in test.success[0].value
    assert len(charts(opened("accuracy", more="true"))) == 8


@pytest.mark.parametrize("page", ["latency", "size", "accuracy", "disagreements", "leaderboard", "method"])
def test_page_of_a_measurement_without_times_shows_the_rest_and_says_why(folder: Path, page: str) -> None:
    write_receipt(made.without_speed(one()), folder / "good.json")
    test = opened(page, more="true")
    assert not test.exception
    expected = {"latency": 0, "size": 3, "accuracy": 8, "disagreements": 1, "leaderboard": 0, "method": 0}
    assert len(charts(test)) == expected[page]
    if page != "leaderboard":
        assert "speed was not measured: the machine was busy" in words(test).lower()


def test_method_folds_its_sections_below_the_first() -> None:
    expanders = opened("method").main.expander
    assert [element.label for element in expanders][:3] == ["The rows", "Latency", "Noise: the A/A control"]
    assert [element.proto.expanded for element in expanders] == [True] + [False] * (len(expanders) - 1)
    assert "200 rows" in expanders[0].markdown[0].value


def test_columns_of_the_leaderboard_say_what_they_are() -> None:
    (table,) = opened("leaderboard").main.dataframe
    columns = json.loads(table.proto.columns)
    assert {name for name, column in columns.items() if column.get("help")} >= {"p50, ms", "p95, ms", "speed-up"}


def test_leaderboard_on_a_phone_has_a_card_for_each_row_that_the_filter_leaves() -> None:
    listed = {"a": one(), "b": made.without_speed(one())}
    rows = leaderboard.table(listed)
    first, second = leaderboard.cards(listed, rows)
    assert (first.name, first.source) == ("made, mood", "a: 200 rows of rows.csv, 2026-01-02")
    assert [name for name, _ in first.lines] == ["pytorch", "onnx", "int8"]
    assert dict(first.lines)["int8"] == ["89.5%", *dict(first.lines)["int8"][1:4], "16.0 MB"]
    assert dict(first.lines)["int8"][3] == "6.0×"
    assert dict(second.lines)["int8"][1:4] == ["not measured", "–", "–"]
    (left,) = leaderboard.cards(listed, [row for row in rows if row["runtime"] == "ONNX" and row["measurement"] == "b"])
    assert [name for name, _ in left.lines] == ["onnx"]


def test_accuracies_of_the_best_trade_offs_are_told_apart() -> None:
    true, base = made.answers(2_000, 200)
    answers = {
        "pytorch": base,
        "onnx": base,
        "int8": made.flip(base, [next(i for i in range(2_000) if base[i] == true[i])]),
    }
    takeaway = leaderboard.pareto({"mine": made.receipt(true, answers)}, "mood").takeaway
    assert re.findall(r"[\d.]+%", takeaway) == ["89.95%", "90.00%"]
