"""The figures: each against a value worked out by hand."""

from __future__ import annotations

import fakes
import numpy as np
import pytest

from inference.artifacts import parity
from inference.compare.metrics import evaluate, metrics
from inference.formats.bundle import Task


def measured(given: str, confidence: list[float], true: str, labels: str = "abo") -> dict[str, object]:
    """The metrics of answers and right labels written as letters: o is out of scope."""
    task = Task(tuple(labels), fakes.SINGLE, 0.5, out_of_scope="o" if "o" in labels else None)
    place = {label: i for i, label in enumerate(labels)}
    return metrics(np.array([place[x] for x in given]), np.array(confidence), np.array([place[x] for x in true]), task)


def test_accuracy_and_macro_f1_match_the_hand_computed_ones() -> None:
    metrics = measured("aabb", [0.9] * 4, "abbb", "ab")
    assert metrics["accuracy"] == 0.75
    # a: precision 1/2, recall 1, F1 2/3. b: precision 1, recall 2/3, F1 4/5.
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_macro_f1_is_over_the_labels_that_occur() -> None:
    assert measured("aab", [0.9] * 3, "aaa", "abc")["macro_f1"] == pytest.approx(0.8)  # a alone: recall 2/3


def test_coverage_counts_the_rows_that_were_answered() -> None:
    metrics = measured("ab", [0.9, 0.4], "aa")
    assert metrics["coverage"] == 0.5
    assert metrics["covered_accuracy"] == 1.0


def test_out_of_scope_rows_are_caught_by_their_label_or_by_doubt() -> None:
    metrics = measured("oabaobb", [0.9, 0.3, 0.9, 0.9, 0.9, 0.3, 0.9], "oooaaba")
    assert metrics["out_of_scope_recall"] == pytest.approx(2 / 3)
    assert metrics["in_scope_coverage"] == pytest.approx(2 / 4)  # one doubted, one called out of scope
    assert metrics["in_scope_accuracy"] == pytest.approx(2 / 4)


def test_a_classifier_is_evaluated_at_its_own_threshold() -> None:
    metrics = evaluate(fakes.classifier(), "sentiment", ["good", "bad", "book"], [1] * 3)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["coverage"] == pytest.approx(2 / 3)  # "book" tells it nothing


def test_parity_compares_probabilities_and_labels() -> None:
    one = {"t": np.array([[0.9, 0.1], [0.6, 0.4]])}
    two = {"t": np.array([[0.8, 0.2], [0.4, 0.6]])}
    assert parity.differences(one, two)["t"] == pytest.approx(
        {"max_abs_dp": 0.2, "mean_abs_dp": 0.15, "label_agreement": 0.5}
    )


def test_parity_notices_an_answer_that_depends_on_its_neighbours() -> None:
    class Moody(fakes.FakeBackend):
        def logits(self, input_ids, attention_mask):  # type: ignore[no-untyped-def]
            values = super().logits(input_ids, attention_mask)
            if len(input_ids) > 1:
                values["sentiment"] = values["sentiment"][:, ::-1].copy()
            return values

    texts = ["good", "bad", "good good"]
    expected = parity.score_matrix(fakes.classifier(), texts)
    fine = parity.judge(expected, fakes.classifier(fakes.FakeBackend("onnx")), texts)
    moody = parity.judge(expected, fakes.classifier(Moody("int8")), texts)
    assert fine["batch_flips"] == 0
    assert moody["batch_flips"] == 3
    assert moody["label_agreement"] == pytest.approx(0.5)  # one task of two
