"""Every figure of a receipt, on receipts whose samples and answers are made by hand."""

from __future__ import annotations

import made
import pytest

from inference.compare.results import cost_per_million, rounded
from inference.compare.summary import summary

LABELS = ("a", "b", "oos")
TRUE = [0, 0, 0, 1, 1, 2, 2, -1] * 5
PYTORCH = [0, 0, 1, 1, 1, 2, 0, 2] * 5
INT8 = [0, 1, 0, 1, 1, 2, 0, 2] * 5  # per eight rows: one broken, one fixed
SURE = [0.9, 0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9] * 5


@pytest.fixture(scope="module")
def receipt() -> dict[str, object]:
    return made.receipt(
        TRUE,
        {"pytorch": PYTORCH, "int8": INT8},
        labels=LABELS,
        confidence={"pytorch": SURE, "int8": SURE},
        out_of_scope="oos",
        jitter=0.0,
    )


def test_accuracy_is_over_the_labelled_rows(receipt: dict) -> None:
    figures = receipt["results"]["accuracy"]["mood"]["pytorch"]
    assert figures["rows"] == 35
    assert figures["accuracy"]["value"] == pytest.approx(5 / 7, abs=1e-6)
    # a: precision 2/3, recall 2/3. b: precision 2/3, recall 1. oos: precision 1, recall 1/2.
    assert [round(one["f1"], 4) for one in figures["per_class"]] == [0.6667, 0.8, 0.6667]
    assert figures["macro_f1"]["value"] == pytest.approx((2 / 3 + 0.8 + 2 / 3) / 3, abs=1e-6)
    assert figures["confusion"] == [[0, 0, 10], [0, 1, 5], [1, 1, 10], [2, 0, 5], [2, 2, 5]]


def test_coverage_uses_the_threshold_of_the_task(receipt: dict) -> None:
    figures = receipt["results"]["accuracy"]["mood"]["pytorch"]
    assert figures["coverage"] == pytest.approx(4 / 7, abs=1e-6)  # 0.6 or more
    assert figures["covered_accuracy"] == 1.0
    assert figures["in_scope_coverage"] == pytest.approx(3 / 5)
    assert figures["out_of_scope_recall"] == 1.0  # one called so, one doubted
    curve = figures["coverage_curve"]
    assert curve["coverage"][50] == 1.0
    assert curve["coverage"][51] == pytest.approx(4 / 7, abs=1e-6)
    assert curve["accuracy"][95] is None  # nothing is that sure: there is no accuracy to speak of


def test_pairs_are_counted_row_by_row(receipt: dict) -> None:
    figures = receipt["results"]["paired"]["mood"]["int8"]
    assert (figures["rows"], figures["flips"], figures["broken"], figures["fixed"], figures["both_wrong"]) == (
        35,
        10,
        5,
        5,
        0,
    )
    assert figures["mcnemar_p"] == 1.0
    assert figures["agreement"]["value"] == pytest.approx(25 / 35, abs=1e-6)
    assert figures["delta_accuracy"]["value"] == 0.0
    assert figures["max_abs_dp"] == 0.01


def test_latency_of_constant_times(receipt: dict) -> None:
    figures = receipt["results"]
    assert figures["latency"]["int8"]["calls"] == 160
    assert figures["latency"]["int8"]["texts"] == 40
    assert figures["latency"]["int8"]["p50_ms"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert "p90_ms" not in figures["latency"]["int8"]  # 40 different texts do not carry it, however often each is timed
    assert figures["stages"]["int8"] == pytest.approx({"tokenize_ms": 0.2, "forward_ms": 1.6, "rest_ms": 0.2})
    assert figures["speedup"]["int8"] == {"value": 6.0, "low": 6.0, "high": 6.0, "different": True}
    assert figures["control"]["noise"] == 1.0
    assert figures["start"]["pytorch"]["total_s"] == pytest.approx(1.2 + 0.25)


def test_latency_by_length_counts_calls_per_band(receipt: dict) -> None:
    bands = {one["length"]: one for one in receipt["results"]["latency_by_length"]}
    # Rows have 8, 12, …, 36 tokens in turn.
    assert bands["1–16 tokens"]["share_of_rows"] == pytest.approx(3 / 8)
    assert bands["33–64 tokens"]["share_of_rows"] == pytest.approx(1 / 8)
    assert sum(one["calls"] for one in bands.values()) == 160
    assert set(bands["1–16 tokens"]["backends"]["int8"]) == {"calls", "texts", "p50_ms"}  # 15 texts: no p90


def test_a_disturbed_round_does_not_count() -> None:
    one = made.receipt(TRUE, {"pytorch": PYTORCH, "int8": INT8}, labels=LABELS, jitter=0.0)
    for block in one["latency"]["blocks"][:3]:
        block["disturbed"] = True
        block["total_ns"] = [10**9] * len(block["total_ns"])
    one["latency"]["blocks"] += [
        block | {"launch": 0, "round": 0, "disturbed": False} for block in one["latency"]["blocks"][3:6]
    ]
    from inference.compare.results import results

    assert results(one)["latency"]["int8"]["p50_ms"]["high"] == 2.0


def test_throughput_and_cost_follow_from_the_fastest_batch_size(receipt: dict) -> None:
    figures = receipt["results"]["throughput"]["int8"]
    rates = {one["batch_size"]: one["texts_per_s"]["value"] for one in figures["sweep"]}
    assert rates[1] == pytest.approx(500)
    assert rates[32] == pytest.approx(700, rel=1e-5)
    assert figures["best_batch_size"] == 32
    assert figures["predictions_per_hour"] == pytest.approx(700 * 3600, rel=1e-5)
    assert cost_per_million(receipt, "int8", 2.52) == pytest.approx(1.0, rel=1e-5)


def test_sizes_are_sums_of_files(receipt: dict) -> None:
    assert receipt["results"]["size"]["int8"]["model_bytes"] == 16_000_000
    assert receipt["results"]["size"]["int8"]["libraries_bytes"] == 180_000_000


def test_nan_and_infinity_become_null() -> None:
    assert rounded({"a": [float("nan"), float("inf"), 0.123456789]}) == {"a": [None, None, 0.1234568]}


def test_summary_has_a_column_per_backend(receipt: dict) -> None:
    text = summary([receipt], price_per_hour=2.52)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {4}
    assert "| mood: accuracy (35 rows) | 0.7143 | 0.7143 |" in lines
    assert "| … times as fast as PyTorch | 1 | 6.00 (6.00–6.00) |" in lines
    assert any(
        line.startswith("| a million predictions at 2.52 per hour |") and line.endswith("1.000 |") for line in lines
    )
