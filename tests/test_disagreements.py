"""Rows on which two backends differ, on receipts small enough to read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from inference.compare.disagreements import BOTH_WRONG, BROKEN, FIXED, attach_texts, disagreements
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


def test_broken_rows_come_first_and_the_most_confident_before_the_others() -> None:
    found = disagreements(receipt(), "mood", "int8")
    assert [(d.row, d.kind) for d in found] == [(5, BROKEN), (1, BROKEN), (2, FIXED), (6, BOTH_WRONG)]


def test_a_row_has_its_labels_confidences_and_length() -> None:
    found = disagreements(receipt(), "mood", "int8")[0]
    assert (found.true, found.reference, found.backend) == ("up", "up", "odd")
    assert (found.reference_confidence, found.backend_confidence, found.tokens) == (0.6, 0.95, 8)


def test_a_row_without_a_label_for_the_task_is_no_disagreement() -> None:
    assert 3 not in [d.row for d in disagreements(receipt(), "mood", "int8")]


def test_the_reference_agrees_with_itself() -> None:
    assert disagreements(receipt(), "mood", "pytorch") == []


def test_a_text_is_none_where_the_receipt_holds_none_and_the_text_where_it_does() -> None:
    assert {d.text for d in disagreements(receipt(), "mood", "int8")} == {None}
    held = receipt(texts=["a", "b", "c", "d", "e"])
    assert [d.text for d in disagreements(held, "mood", "int8")] == ["d", "a", "b", "e"]


def test_the_file_of_the_receipt_gives_its_texts_by_row_number() -> None:
    held = attach_texts(receipt(), "renamed.csv", FILE)
    assert held["data"]["texts"] == ["first", "second", "third", "fifth", "sixth"]
    assert receipt()["data"]["texts"] is None


def test_another_file_is_refused_however_alike() -> None:
    with pytest.raises(InputError, match="moods.csv is not the file of this receipt"):
        attach_texts(receipt(), "moods.csv", FILE + b"\n")


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InputError, match="no column 'body'; it has 'text', 'label', 'extra'"):
        attach_texts(receipt(), "moods.csv", FILE, "body")


@pytest.mark.parametrize(("task", "backend", "said"), [("topic", "int8", "mood"), ("mood", "onnx", "pytorch, int8")])
def test_a_task_or_backend_that_the_receipt_lacks_is_refused(task: str, backend: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        disagreements(receipt(), task, backend)
