"""The calls of a classifier on texts as Python has them: columns, arrays, generators, streams, pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from inference import to_frame
from inference.calls.columns import WINDOW
from inference.errors import InputError
from inference.formats.bundle import MULTI, Task

TEXTS = ["good", "bad book", "good good"]
LABELS = ["positive", "negative", "positive"]


class Name(str):
    """A subclass of str with a text of its own."""

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        iter(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        map(Name, TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        list(np.array(TEXTS)),
        pd.Series(TEXTS, index=["columns", "x", "column_names"]),
        pd.Series(TEXTS, dtype="category"),
        pd.Series(TEXTS, dtype="object"),
        pd.Index(TEXTS),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_any_ordered_iterable_of_strings_is_classified_as_a_list(texts: Any) -> None:
    assert [p.label for p in fakes.classifier().predict(texts, "sentiment")] == LABELS


def test_array_of_no_dimension_is_one_text() -> None:
    assert fakes.classifier().predict(np.array("good"), "sentiment").label == "positive"  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"good": 1}, "not dict"),
        ({"good"}, "not set, which has no order"),
        (frozenset(["good"]), "not frozenset, which has no order"),
        (bytearray(b"good"), "not bytearray"),
        (3.5, "not float"),
        (np.array(3), "an array of one int"),
        (np.array([["good", "bad"]]), r"an array of shape \(1, 2\)"),
        (np.array([b"good"]), "must be a string, not bytes"),
        (pd.DataFrame({"text": TEXTS}), "a DataFrame, a whole table: pass one of its columns"),
        (pa.table({"text": TEXTS}), "a Table, a whole table: pass one of its columns"),
        (pd.Series(["good", None]), r"texts\[1\] must be a string"),
        (("good", "bad"), "is a pair"),
        ((), "texts is empty"),
    ],
)
def test_other_containers_are_refused_with_the_reason(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fakes.classifier().predict(texts, "sentiment")


BAD = ["good", None, float("nan"), "bad", pd.NA, " ", 7, ("good", "bad"), "good"]


def test_skipped_text_leaves_none_in_its_place_and_problems_says_why() -> None:
    c = fakes.classifier()
    answers = c.predict(BAD, "sentiment", on_error="skip")
    assert [p and p.label for p in answers] == ["positive", *[None] * 2, "negative", *[None] * 4, "positive"]
    reasons = c.problems(BAD)
    assert sorted(reasons) == [index for index, p in enumerate(answers) if p is None]
    assert reasons[5].startswith("The text is empty")
    assert c.predict([None, ""], "sentiment", on_error="skip") == [None, None]


def test_unknown_value_of_on_error_is_refused() -> None:
    with pytest.raises(InputError, match="on_error='ignore'"):
        fakes.classifier().predict(["good"], "sentiment", on_error="ignore")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="on_error='ignore'"):
        fakes.classifier().predict("good", "sentiment", on_error="ignore")  # type: ignore[call-overload]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "3"])
def test_batch_size_that_is_no_positive_number_is_refused(batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch_size="):
        fakes.classifier().predict("good", "sentiment", batch_size=batch_size)


def test_batch_size_of_a_call_limits_its_batches_alone() -> None:
    backend = fakes.FakeBackend()
    c = fakes.classifier(backend)
    c.predict(["good"] * 5, "sentiment", batch_size=2)
    c.predict(["good"] * 5, "sentiment")
    assert [rows for rows, _ in backend.shapes] == [2, 2, 1, 5]


def test_progress_is_shown_and_changes_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    c = fakes.classifier()
    assert c.predict(TEXTS, "sentiment", progress=True) == c.predict(TEXTS, "sentiment")
    assert "3/3" in capsys.readouterr().err


def test_stream_answers_in_order_and_reads_one_window_ahead() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for index in range(3 * WINDOW):
            read += 1
            yield "good" if index % 3 else "bad book"

    answers = fakes.classifier().stream(texts(), "sentiment")
    assert read == 0
    assert [next(answers).label for _ in range(3)] == ["negative", "positive", "positive"]
    assert read == WINDOW
    rest = [p.label for p in answers]
    assert len(rest) == 3 * WINDOW - 3
    assert rest[:3] == ["negative", "positive", "positive"]


def test_stream_names_the_place_of_a_bad_text_among_all() -> None:
    c = fakes.classifier()
    texts = ["good"] * (WINDOW + 5) + [""]
    answers = c.stream(texts, "sentiment")
    assert [next(answers).label for _ in range(WINDOW)] == ["positive"] * WINDOW
    with pytest.raises(InputError, match=rf"texts\[{WINDOW + 5}\]: The text is empty"):
        list(answers)
    assert [p is None for p in c.stream(texts, "sentiment", on_error="skip")] == [False] * (WINDOW + 5) + [True]


@pytest.mark.parametrize("texts", [[], pd.Series([], dtype="str"), iter(())])
def test_no_texts_have_no_predictions(texts: Any) -> None:
    c = fakes.classifier()
    assert c.predict(texts, "sentiment") == []
    assert c(texts, "sentiment") == []
    assert c.predict_all_tasks(texts) == {task: [] for task in c.bundle.tasks}


def test_error_of_a_bad_text_among_many_names_the_option_that_skips_it() -> None:
    c = fakes.classifier()
    for predict in (c.predict, lambda texts, task: list(c.stream(texts, task))):
        with pytest.raises(InputError, match=r'texts\[1\].* With on_error="skip", such texts have no prediction.'):
            predict(["good", float("nan")], "sentiment")
    with pytest.raises(InputError) as error:
        c.predict("", "sentiment")
    assert "on_error" not in str(error.value)


def test_stream_of_nothing_is_empty_and_of_one_text_is_refused() -> None:
    c = fakes.classifier()
    assert list(c.stream([], "sentiment")) == []
    with pytest.raises(InputError, match="call predict"):
        c.stream("good", "sentiment")


def test_call_has_the_shapes_of_a_transformers_pipeline() -> None:
    c = fakes.classifier()
    best = {"label": "positive", "score": c.predict("good", "sentiment").confidence}
    every = [best, {"label": "negative", "score": pytest.approx(1 - best["score"])}]
    assert c("good", "sentiment") == [best]
    assert c(["good"], "sentiment") == [best]
    assert c("good", "sentiment", top_k=1) == [best]
    assert c(["good"], "sentiment", top_k=1) == [[best]]
    assert c("good", "sentiment", top_k=None) == every
    assert c(["good", "good"], "sentiment", top_k=9) == [every, every]


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": True}, {"top_k": "2"}, {"truncation": True}])
def test_call_refuses_options_that_it_does_not_have(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="top_k"):
        fakes.classifier()("good", "sentiment", **options)


def test_multi_label_prediction_has_every_label_that_reaches_the_threshold() -> None:
    def labels(own: float, text: str, threshold: float | None = None) -> tuple[str, ...]:
        tasks = {"emotion": Task(("joy", "sadness", "neutral"), MULTI, own)}
        return fakes.classifier(tasks=tasks).predict(text, "emotion", threshold).labels

    assert labels(0.6, "sad glad") == ("joy", "sadness")  # sigmoid of 3, 3, 0
    assert labels(0.6, "book") == ()
    assert labels(0.0, "book cancel") == ("joy", "sadness", "neutral")  # no threshold: 0.5 each
    assert labels(0.0, "sad", 0.9) == ("sadness",)
    assert fakes.classifier().predict("book", "sentiment").labels == ("negative",)


def test_frame_keeps_the_index_of_the_column_and_the_place_of_a_skipped_text() -> None:
    column = pd.Series(["good", None, "bad"], index=[7, 5, 3])
    frame = to_frame(fakes.classifier().predict(column, "sentiment", on_error="skip"), column.index)
    assert list(frame.index) == [7, 5, 3]
    assert frame["label"].isna().tolist() == [False, True, False]
    assert frame.loc[frame["label"] == "negative"].index.tolist() == [3]
    assert frame["uncertain"].fillna(True).tolist() == [False, True, False]
    with pytest.raises(InputError, match="The index has 2 rows, and there are 3 predictions"):
        to_frame([None] * 3, [1, 2])
    assert len(to_frame(fakes.classifier().predict("good", "sentiment"))) == 1
