"""What the pages of charts show first, and what they fold away."""

from __future__ import annotations

from pathlib import Path

import made
import pytest
from opened import charts, one, opened, words

from dashboard import receipts
from inference.compare.receipt import write_receipt


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one receipt, the only one that the dashboard sees."""
    write_receipt(one(), tmp_path / "good.json")
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    monkeypatch.delenv("TRIPTYCH_RECEIPTS", raising=False)
    return tmp_path


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
