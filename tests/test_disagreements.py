"""Rows on which two backends differ, on receipts small enough to read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from inference.compare.disagreements import BOTH_WRONG, BROKEN, CHANGED, FIXED, attach_texts, disagreements
from inference.errors import InputError

FILE = b"text,label,extra\nfirst,up,a\nsecond,down,b\nthird,,c\nfourth,up,d\nfifth,up,e\nsixth,down,f\n"


def receipt(**data: Any) -> dict[str, Any]:
    """Six rows of three labels; the third row of it has no label, the fourth of the file is left out."""

    def answers(ids: list[int], confidence: list[float]) -> dict[str, Any]:
        return {"predictions": {"mood": {"label_ids": ids, "confidence": confidence}}}

    return {
        "settings": {"backends": ["pytorch", "int8"], "reference": "pytorch"},
        "model": {"tasks": {"mood": {"labels": ["down", "up", "odd"]}}},
        "data": {
            "name": "moods.csv",
            "sha256": hashlib.sha256(FILE).hexdigest(),
            "row_numbers": [1, 2, 3, 5, 6],
            "tokens": [5, 6, 7, 8, 9],
            "labels": {"mood": [1, 0, -1, 1, 0]},
            "texts": None,
            **data,
        },
        "backends": {
            "pytorch": answers([1, 1, 1, 1, 1], [0.9, 0.5, 0.8, 0.6, 0.7]),
            "int8": answers([0, 0, 0, 2, 2], [0.55, 0.51, 0.99, 0.95, 0.6]),
        },
    }


def test_disagreements_are_sorted_by_kind_and_confidence() -> None:
    rows = disagreements(receipt(), "mood", "int8")
    assert [(d.row, d.kind) for d in rows[:4]] == [(5, BROKEN), (1, BROKEN), (2, FIXED), (6, BOTH_WRONG)]


def test_a_row_has_its_labels_confidences_and_length() -> None:
    row = disagreements(receipt(), "mood", "int8")[0]
    assert (row.true, row.reference, row.backend) == ("up", "up", "odd")
    assert (row.reference_confidence, row.backend_confidence, row.tokens) == (0.6, 0.95, 8)


def test_unlabelled_row_comes_last_and_no_backend_is_called_right() -> None:
    changed = disagreements(receipt(), "mood", "int8")[-1]
    assert (changed.row, changed.kind, changed.true) == (3, CHANGED, None)


def test_the_reference_agrees_with_itself() -> None:
    assert disagreements(receipt(), "mood", "pytorch") == []


def test_disagreement_has_no_text_if_the_receipt_has_none() -> None:
    assert {d.text for d in disagreements(receipt(), "mood", "int8")} == {None}
    held = receipt(texts=["a", "b", "c", "d", "e"])
    assert [d.text for d in disagreements(held, "mood", "int8")] == ["d", "a", "b", "e", "c"]


def test_attach_texts_uses_row_numbers() -> None:
    held = attach_texts(receipt(), "renamed.csv", FILE)
    assert held["data"]["texts"] == ["first", "second", "third", "fifth", "sixth"]
    assert receipt()["data"]["texts"] is None


def test_attach_texts_rejects_another_file() -> None:
    with pytest.raises(InputError, match="moods.csv is not the file of this measurement"):
        attach_texts(receipt(), "moods.csv", FILE + b"\n")


def test_attach_texts_names_existing_columns() -> None:
    with pytest.raises(InputError, match="no column 'body'; it has 'text', 'label', 'extra'"):
        attach_texts(receipt(), "moods.csv", FILE, "body")


@pytest.mark.parametrize(("task", "backend", "message"), [("topic", "int8", "mood"), ("mood", "onnx", "pytorch, int8")])
def test_unknown_task_or_backend_is_rejected(task: str, backend: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        disagreements(receipt(), task, backend)
