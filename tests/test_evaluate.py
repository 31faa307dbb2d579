"""The figures: each against a value worked out by hand."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest

from inference import parity
from inference.bundle import Task
from inference.classifier import Prediction
from inference.errors import InputError
from inference.evaluate import LabelledRows, evaluate, metrics, read_rows
from inference.measure import SHAPES, summary

TASK = Task(("a", "b", "oos"), fakes.SINGLE, 0.5, out_of_scope="oos")


def said(label: str, confidence: float = 0.9) -> Prediction:
    return Prediction(label, confidence, {}, confidence < TASK.threshold, False)


def test_accuracy_and_macro_f1_match_the_hand_computed_ones() -> None:
    found = metrics(
        [said("a"), said("a"), said("b"), said("b")], ["a", "b", "b", "b"], Task(("a", "b"), fakes.SINGLE, 0.5)
    )
    assert found["accuracy"] == 0.75
    # a: precision 1/2, recall 1, F1 2/3. b: precision 1, recall 2/3, F1 4/5.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_coverage_counts_the_rows_that_were_answered() -> None:
    found = metrics([said("a"), said("b", 0.4)], ["a", "a"], TASK)
    assert found["coverage"] == 0.5
    assert found["covered_accuracy"] == 1.0


def test_out_of_scope_rows_are_caught_by_their_label_or_by_doubt() -> None:
    predictions = [said("oos"), said("a", 0.3), said("b"), said("a"), said("oos"), said("b", 0.3), said("b")]
    labels = ["oos", "oos", "oos", "a", "a", "b", "a"]
    found = metrics(predictions, labels, TASK)
    assert found["out_of_scope_recall"] == pytest.approx(2 / 3)
    assert found["in_scope_coverage"] == pytest.approx(2 / 4)  # one doubted, one called out of scope
    assert found["in_scope_accuracy"] == pytest.approx(2 / 4)


def test_a_label_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(InputError, match="does not know: c"):
        metrics([said("a")], ["c"], TASK)


def test_a_classifier_is_evaluated_at_its_own_threshold() -> None:
    found = evaluate(fakes.classifier(), "sentiment", LabelledRows(["good", "bad", "book"], ["positive"] * 3))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["coverage"] == pytest.approx(2 / 3)  # "book" tells it nothing


def test_rows_keep_texts_that_look_like_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\nNA,a\nnull,b\n"two\nlines",a\n"a, b",b\nno label,\n', encoding="utf-8-sig")
    rows = read_rows(path)
    assert rows.texts == ["NA", "null", "two\nlines", "a, b"]
    assert rows.labels == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\nx\n", "lacks the column.s. label; it has text"),
        (b"", "lacks the column"),
        (b"text,label\n\xff,a\n", "is not UTF-8"),
        (b"text,label\nx,\n", "no row with a label"),
        (b"text,label\n,a\n", "line 2: the text is empty"),
    ],
)
def test_a_file_that_cannot_be_measured_on_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(path)


def test_parity_compares_probabilities_and_labels() -> None:
    one = {"t": np.array([[0.9, 0.1], [0.6, 0.4]])}
    two = {"t": np.array([[0.8, 0.2], [0.4, 0.6]])}
    assert parity.compare(one, two)["t"] == pytest.approx({"max_abs_dp": 0.2, "label_agreement": 0.5})


def test_parity_notices_an_answer_that_depends_on_its_neighbours() -> None:
    class Moody(fakes.FakeBackend):
        def logits(self, input_ids, attention_mask):  # type: ignore[no-untyped-def]
            found = super().logits(input_ids, attention_mask)
            if len(input_ids) > 1:
                found["sentiment"] = found["sentiment"][:, ::-1].copy()
            return found

    texts = ["good", "bad", "good good"]
    fine = parity.report(fakes.classifier(), [fakes.classifier(fakes.FakeBackend("onnx"))], texts)
    moody = parity.report(fakes.classifier(), [fakes.classifier(Moody("int8"))], texts)
    assert fine["backends"]["onnx"]["batch_flips"] == 0
    assert moody["backends"]["int8"]["batch_flips"] == 3
    assert moody["backends"]["int8"]["label_agreement"] == pytest.approx(0.5)  # one task of two


def test_the_table_has_a_column_per_backend_in_every_line() -> None:
    quality = {"sentiment": {"rows": 10, "accuracy": 0.9, "macro_f1": 0.8}}
    backends = ("pytorch", "onnx", "int8")
    agreement = {
        "sentiment": {"max_abs_dp": 1e-7, "label_agreement": 1.0},
        "all": {"max_abs_dp": 1e-7, "label_agreement": 1.0},
    }
    pairs = ("onnx over pytorch", "int8 over pytorch", "int8 over onnx")
    text = summary(
        {
            "data": "validation",
            "date": "2026-01-01",
            "threads": 2,
            "machine": {"cpu": "X", "cores": 2, "flags": ["avx2"], "system": "Linux"},
            "versions": {"torch": "2"},
            "quality": dict.fromkeys(backends, quality),
            "agreement": {"onnx": agreement, "int8": agreement},
            "batch_flips": dict.fromkeys(backends, 0),
            "latency_ms": {
                title: {"backends": {b: {"median_ms": 1.0} for b in backends}, "speedup": dict.fromkeys(pairs, 2.0)}
                for title in SHAPES
            },
            "size_bytes": {"onnx": 91_000_000, "int8": 24_000_000},
            "cold_start_s": dict.fromkeys(backends, 1.0),
        }
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}
    assert "| sentiment: accuracy (10 rows) | 0.9000 | 0.9000 | 0.9000 |" in table
