"""A receipt is read as it was written, or rejected with a reason; `diff` reports changes beyond noise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import made
import pytest

from inference.compare.diff import CHANGED, NOISE, SAME, diff
from inference.compare.receipt import parse_receipt, read_receipt, seal, write_receipt
from inference.compare.results import results
from inference.errors import InputError


@pytest.fixture(scope="module")
def receipt() -> dict[str, Any]:
    true, given = made.answers(200, 20)
    return made.receipt(true, {"pytorch": given, "onnx": given, "int8": made.flip(given, [3, 5])})


def test_receipt_round_trip(receipt: dict[str, Any], tmp_path: Path) -> None:
    write_receipt(receipt, tmp_path / "r.json")
    assert read_receipt(tmp_path / "r.json") == receipt


def test_figures_can_be_computed_again(receipt: dict[str, Any]) -> None:
    assert results(receipt) == receipt["results"]


def change(receipt: dict[str, Any], *path: Any, value: Any) -> bytes:
    """The receipt with one field altered and sealed again: damage that no checksum shows."""
    altered = copy.deepcopy(receipt)
    place = altered
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(seal(altered)).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "version 2; this Triptych reads up to version 1. Update Triptych"),
        (("version",), 0, "at version: 1 was expected"),
        (("format",), "other", "not a measurement"),
        (("data", "tokens"), [*[3] * 199, -1], "damaged: at data/tokens/199: -1 is less than the minimum of 0"),
        (("data", "tokens"), [*[3] * 199, True], "damaged: at data/tokens/199: True is not of type 'integer'"),
        (("data", "tokens"), [*[3] * 199, 3.0], "damaged: at data/tokens/199: 3.0 is not of type 'integer'"),
        (("data", "tokens"), [*[3] * 199, 10**400], "is not valid JSON"),
        (("machine", "steal_share"), 10**400, "is not valid JSON"),
        (("machine", "steal_share"), -(10**20), "is not valid JSON"),
        (
            ("backends", "int8", "predictions", "mood", "confidence"),
            [*[0.5] * 199, True],
            "confidence/199: True is not of type 'number'",
        ),
        (
            ("backends", "int8", "predictions", "mood", "confidence"),
            [*[0.5] * 199, 1.5],
            "confidence/199: 1.5 is greater than the maximum",
        ),
        (("data", "tokens"), [3], "200 rows, but not an answer of every runtime to each"),
        (("backends", "int8", "predictions", "mood", "label_ids"), [1], "not an answer of every runtime"),
        (("settings", "backends"), ["pytorch", "tensorflow"], "measures .*, a runtime that this version does not have"),
        (("data", "sha256"), "../../etc/passwd", "at data/sha256"),
        (("settings", "dtypes"), {"int8": "bfloat16"}, "int8 cannot have been measured in bfloat16"),
        (("latency", "blocks"), [], "latency/blocks does not have the rounds"),
        (("results", "speedup"), {}, "damaged: at results/speedup"),
        (
            ("results", "paired", "mood", "int8", "delta_accuracy", "low"),
            0.0,
            "results/paired/mood/int8/delta_accuracy/low is 0.0, but -0.0",
        ),
        (("results", "paired", "mood"), {}, "is inconsistent"),
        (("results", "latency", "int8", "p50_ms", "value"), 0.5, "results/latency/int8/p50_ms/value is 0.5, but 2"),
        (("results", "latency", "int8", "p50_ms", "low"), 0, "is damaged: at results/latency/int8/p50_ms/low"),
        (
            ("results", "accuracy", "mood", "int8", "accuracy", "value"),
            1.0,
            "results/accuracy/mood/int8/accuracy/value is 1.0, but 0",
        ),
        (("backends", "int8", "predictions", "mood", "label_ids"), [99] * 200, "a label that the task does not have"),
        (("results", "control"), {"value": 1, "low": 1, "high": 1}, "'noise' is a required property"),
        (("settings", "reference"), "onnx", "its backends do not match its settings"),
        (("data", "labels"), {"other": [0] * 200}, "not an answer of every runtime to each"),
    ],
)
def test_altered_receipt_is_rejected(receipt: dict[str, Any], path: Any, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_receipt(change(receipt, *path, value=value), "r.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"format": "trip', "not valid JSON"),
        (b"[]", "not a measurement"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"format": "triptych-receipt"}', "is damaged"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"format": NaN}', "not valid JSON"),
        (b'{"format": 1e999}', "not valid JSON"),
    ],
)
def test_bytes_that_are_not_a_receipt_are_rejected(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_receipt(content, "r.json")


def test_edited_figure_breaks_the_checksum(receipt: dict[str, Any]) -> None:
    edited = copy.deepcopy(receipt)
    edited["results"]["speedup"]["int8"]["value"] = 60.0
    with pytest.raises(InputError, match="its checksum does not match"):
        parse_receipt(json.dumps(edited).encode(), "r.json")


def test_error_for_a_missing_receipt_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Make one: python -m inference compare --out"):
        read_receipt(tmp_path / "none.json")


def test_diff_of_two_equal_runs_is_noise() -> None:
    true, given = made.answers(200, 20)
    a, b = (made.receipt(true, {"pytorch": given, "int8": given}, seed=seed, jitter=0.1) for seed in (1, 2))
    changes, notes = diff(a, b)
    assert notes == []
    assert {change.status for change in changes} <= {SAME, NOISE}
    assert any(change.what == "INT8: p50, ms" and change.status == NOISE for change in changes)


def test_diff_reports_a_slower_backend() -> None:
    true, given = made.answers(200, 20)
    a, b = (
        made.receipt(true, {"pytorch": given, "int8": given}, seed=seed, ms={"pytorch": 12.0, "int8": ms})
        for seed, ms in ((1, 2.0), (2, 3.0))
    )
    changes = {change.what: change.status for change in diff(a, b)[0]}
    assert changes["INT8: p50, ms"] == CHANGED
    assert changes["INT8: speed-up"] == CHANGED
    assert changes["PyTorch: p50, ms"] == NOISE


def test_diff_reports_lower_accuracy() -> None:
    true, given = made.answers(200, 0)
    a = made.receipt(true, {"pytorch": given, "int8": given})
    b = made.receipt(true, {"pytorch": given, "int8": made.flip(given, range(12))})
    changes = {one.what: one for one in diff(a, b)[0]}
    assert changes["INT8: accuracy of mood"].status == CHANGED
    assert "12 labels differ" in changes["INT8: accuracy of mood"].after
    assert changes["PyTorch: accuracy of mood"].status == SAME


def test_diff_skips_accuracy_and_latency_on_different_rows() -> None:
    true, given = made.answers(200, 20)
    a = made.receipt(true, {"pytorch": given, "int8": given})
    b = json.loads(change(a, "data", "sha256", value="9" * 64))
    changes, notes = diff(a, b)
    assert not any("accuracy" in change.what or "p50" in change.what for change in changes)
    assert "because the rows are different" in notes[0]


def test_diff_skips_speed_ups_against_different_references() -> None:
    true, given = made.answers(200, 20)
    a = made.receipt(true, dict.fromkeys(made.MS, given))
    b = made.receipt(true, {"onnx": given, "int8": given})
    assert not any("speed-up" in change.what for change in diff(a, b)[0])


def test_diff_reports_changed_files_and_memory() -> None:
    true, given = made.answers(200, 20)
    a = made.receipt(true, {"pytorch": given, "int8": given})
    b = copy.deepcopy(a)
    b["backends"]["int8"]["files"]["int8.bin"]["sha256"] = "8" * 64
    b["results"]["memory"]["int8"]["peak_bytes"] *= 2
    changes = {change.what for change in diff(a, b)[0] if change.status == CHANGED}
    assert changes == {"files of INT8", "INT8: memory, MB"}
