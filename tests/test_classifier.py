"""What the shared layer does with text and logits, on a backend that can be worked out by hand."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Sequence
from itertools import chain, combinations, pairwise

import fakes
import numpy as np
import pytest
from conftest import Tiny
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference import load
from inference.backends import Backend, Logits
from inference.calls.texts import MAX_CHARS
from inference.classifier import probabilities
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Task


def test_a_string_gives_one_prediction_and_a_list_gives_a_list() -> None:
    c = fakes.classifier()
    assert c.predict("good", "sentiment").label == "positive"
    assert [p.label for p in c.predict(["good", "bad"], "sentiment")] == ["positive", "negative"]


def test_confidence_and_scores_are_the_softmax_of_the_logits() -> None:
    p = fakes.classifier().predict("good", "sentiment")  # logits 0 and 2
    expected = math.exp(2) / (math.exp(2) + 1)
    assert p.confidence == pytest.approx(expected)
    assert p.scores == pytest.approx({"negative": 1 - expected, "positive": expected})


def test_multi_label_scores_are_sigmoids_and_need_not_sum_to_one() -> None:
    tasks = {"emotion": Task(("joy", "sadness", "neutral"), "multi_label_classification", 0.5)}
    p = fakes.classifier(tasks=tasks).predict("glad sad", "emotion")  # logits 3, 3, 0
    assert p.scores == pytest.approx({"joy": 1 / (1 + math.exp(-3)), "sadness": 1 / (1 + math.exp(-3)), "neutral": 0.5})


def test_all_tasks_come_from_one_pass() -> None:
    backend = fakes.FakeBackend()
    answers = fakes.classifier(backend).predict_all_tasks(["glad good", "sad bad"])
    assert len(backend.shapes) == 1
    assert [p.label for p in answers["emotion"]] == ["joy", "sadness"]
    assert [p.label for p in answers["sentiment"]] == ["positive", "negative"]


def test_answers_keep_the_order_of_the_texts_whatever_their_length() -> None:
    texts = ["book cancel book good", "bad", "good book", "bad cancel book"]
    labels = [p.label for p in fakes.classifier(batch_size=2).predict(texts, "sentiment")]
    assert labels == ["positive", "negative", "positive", "negative"]


@given(st.lists(st.lists(st.sampled_from(["good", "bad", "book"]), min_size=1, max_size=6), min_size=1, max_size=20))
def test_batching_never_changes_an_answer(rows: list[list[str]]) -> None:
    texts = [" ".join(row) for row in rows]
    one_by_one = [fakes.classifier().predict(text, "sentiment") for text in texts]
    assert fakes.classifier(batch_size=3, token_budget=20).predict(texts, "sentiment") == one_by_one


@given(st.lists(st.integers(min_value=1, max_value=6), min_size=1, max_size=30), st.integers(1, 5), st.integers(8, 40))
def test_no_batch_exceeds_its_size_or_its_tokens(lengths: list[int], batch_size: int, token_budget: int) -> None:
    backend = fakes.FakeBackend()
    c = fakes.classifier(backend, batch_size=batch_size, token_budget=token_budget)
    c.predict([" ".join(["book"] * n) for n in lengths], "sentiment")
    assert sum(rows for rows, _ in backend.shapes) == len(lengths)
    assert all(rows <= batch_size and (rows == 1 or rows * width <= token_budget) for rows, width in backend.shapes)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(1, 90),
    st.one_of(st.none(), st.integers(0, 20)),
)
def test_no_other_division_into_batches_costs_less(
    lengths: list[int], batch_size: int, token_budget: int, pass_cost: int | None
) -> None:
    c = fakes.classifier(batch_size=batch_size, token_budget=token_budget, pass_cost=pass_cost)

    def cost(batches: Sequence[Sequence[int]]) -> float:
        """Cost of batches of lengths; infinite if one exceeds the limits."""
        too_large = any(
            len(batch) > batch_size or (len(batch) > 1 and len(batch) * max(batch) > token_budget) for batch in batches
        )
        return math.inf if too_large else sum(len(b) * max(b) + c.pass_cost for b in batches)

    batches = list(c.batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    chosen = [[lengths[row] for row in batch] for batch in batches]
    ordered = sorted(lengths)
    assert [length for batch in chosen for length in batch] == ordered
    cuts = chain.from_iterable(combinations(range(1, len(ordered)), count) for count in range(len(ordered)))
    divisions = ([ordered[a:b] for a, b in pairwise([0, *cut, len(ordered)])] for cut in cuts)
    assert cost(chosen) == pytest.approx(min(map(cost, divisions)))


class OnLanes(fakes.FakeBackend):
    """Counts the passes that run at the same time on its single-threaded twin."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads
        self.twin = fakes.FakeBackend()
        self.met = threading.Barrier(threads, timeout=10)
        self.side_by_side = 0
        self.twin.logits = self._meet  # type: ignore[method-assign]

    def _meet(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Logits:
        self.met.wait()  # raises after a while if the passes come one after the other
        self.side_by_side += 1
        return fakes.FakeBackend.logits(self.twin, input_ids, attention_mask)

    def single_threaded(self) -> Backend:
        return self.twin


def test_batches_run_side_by_side_in_the_order_of_the_texts() -> None:
    texts = ["good", "bad book", "book good", "bad"] * 2
    backend = OnLanes(threads=2)
    labels = [p.label for p in fakes.classifier(backend, batch_size=2).predict(texts, "sentiment")]
    assert labels == ["positive", "negative", "positive", "negative"] * 2
    assert (backend.side_by_side, backend.shapes) == (4, [])


@pytest.mark.parametrize("texts", [["good", "bad"], ["good", "good " * 6]])
def test_few_or_unequal_batches_get_all_threads(texts: list[str]) -> None:
    backend = OnLanes(threads=2)
    fakes.classifier(backend, token_budget=8).predict(texts, "sentiment")
    assert backend.shapes
    assert backend.side_by_side == 0


def test_error_of_one_batch_reaches_the_caller() -> None:
    backend = OnLanes(threads=2)
    backend.twin.logits = lambda *_, **__: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fakes.classifier(backend, batch_size=1).predict(["good", "bad"] * 50, "sentiment")


@pytest.mark.parametrize("backend", ["onnx", "int8"])
def test_answers_have_the_same_bits_on_one_two_and_four_threads(tiny: Tiny, backend: str) -> None:
    draw = random.Random(5)
    texts = [" ".join(draw.choices(["it", "was", "a", "so", "bad", "up"], k=draw.randint(1, 25))) for _ in range(120)]
    answers = [
        load(tiny.folder, backend, base=tiny.base, cache=tiny.cache, threads=threads).predict_all_tasks(texts)
        for threads in (1, 2, 4)
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_text_longer_than_the_model_reads_is_cut_and_flagged() -> None:
    short, long = fakes.classifier().predict(["good " * 6, "good " * 7], "sentiment")  # 8 tokens with [CLS], [SEP]
    assert not short.truncated
    assert long.truncated
    assert long.scores == short.scores


def test_uncertain_means_below_the_models_threshold_or_the_one_given() -> None:
    c = fakes.classifier()  # threshold 0.6; "good" has 0.88, an unknown word 0.5
    assert [p.uncertain for p in c.predict(["good", "book"], "sentiment")] == [False, True]
    assert [p.uncertain for p in c.predict(["good", "book"], "sentiment", threshold=0.9)] == [True, True]
    assert [p.uncertain for p in c.predict(["good", "book"], "sentiment", threshold=0.0)] == [False, False]


def test_a_prediction_becomes_plain_json() -> None:
    p = fakes.classifier().predict("good", "sentiment")
    assert json.loads(json.dumps(p.to_dict())) == {
        "label": "positive",
        "confidence": p.confidence,
        "scores": dict(p.scores),
        "uncertain": False,
        "truncated": False,
        "unknown": False,
        "unpaired": False,
        "labels": ["positive"],
    }


def test_timing_splits_the_whole_call() -> None:
    timing = fakes.classifier().classify("good").timing
    assert min(timing.tokenize_ms, timing.forward_ms, timing.rest_ms) > 0
    assert timing.total_ms == pytest.approx(timing.tokenize_ms + timing.forward_ms + timing.rest_ms)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", "The text is empty"),
        ("  \n", "The text is empty"),
        (["good", ""], r"texts\[1\] is empty"),
        (["good", 3], r"texts\[1\] must be a string, not int"),
        (None, "must be a string or a list of strings, not NoneType"),
        (b"good", "not bytes"),
        ("x" * (MAX_CHARS + 1), "20,001 characters; the limit is 20,000"),
        (["good", "a\ud800b"], r"texts\[1\] contains a lone surrogate \(U\+D800 at position 1\)"),
    ],
)
def test_a_bad_text_is_refused_with_its_place_and_a_remedy(texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fakes.classifier().predict(texts, "sentiment")  # type: ignore[call-overload]


def test_an_error_never_echoes_the_text() -> None:
    with pytest.raises(InputError) as caught:
        fakes.classifier().predict(["secret words \udfff"], "sentiment")
    assert "secret" not in str(caught.value)


def test_an_unknown_task_names_the_ones_there_are() -> None:
    with pytest.raises(InputError, match="Unknown task 'mood'. This model has: sentiment, emotion"):
        fakes.classifier().predict("good", "mood")


def test_a_task_may_be_left_out_only_where_there_is_one() -> None:
    one = {"sentiment": fakes.TASKS["sentiment"]}
    assert fakes.classifier(tasks=one).predict("good").label == "positive"
    with pytest.raises(InputError, match="has 2 tasks; name one: sentiment, emotion"):
        fakes.classifier().predict("good")


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_invalid_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="is not a probability"):
        fakes.classifier().predict("good", "sentiment", threshold=threshold)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_and_never_an_answer(value: float) -> None:
    class Broken(fakes.FakeBackend):
        def logits(self, input_ids, attention_mask):  # type: ignore[no-untyped-def]
            values = super().logits(input_ids, attention_mask)
            values["sentiment"][-1, 0] = value
            return values

    with pytest.raises(InferenceError, match=r"NaN or infinity for texts\[1\], task 'sentiment'"):
        fakes.classifier(Broken()).predict_all_tasks(["bad", "good good good"])


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_probabilities_of_huge_logits_neither_overflow_nor_warn(problem_type: str) -> None:
    scores = probabilities(np.array([[1e4, -1e4, 0.0]], np.float32), problem_type)
    assert np.isfinite(scores).all()
    assert scores[0, 0] == pytest.approx(1)
    assert scores[0, 1] == pytest.approx(0)


def test_a_numpy_threshold_leaves_plain_types() -> None:
    p = fakes.classifier().predict("good", "sentiment", threshold=np.float32(0.9))  # type: ignore[arg-type]
    assert json.loads(json.dumps(p.to_dict()))["uncertain"] is True
    with pytest.raises(InputError, match="threshold must be a number, not str"):
        fakes.classifier().predict("good", "sentiment", threshold="high")  # type: ignore[arg-type]


def test_tasks_are_a_list_and_not_one_name() -> None:
    with pytest.raises(InputError, match=r"tasks must be a list of names; for one: \['sentiment'\]"):
        fakes.classifier().classify("good", "sentiment")


def test_text_without_known_words_is_marked_unknown() -> None:
    classifier = fakes.classifier()
    known, unknown, mixed = classifier.predict(["good", "☃ 😀", "☃ good"], task="sentiment")
    assert (known.unknown, unknown.unknown, mixed.unknown) == (False, True, False)
    assert unknown.to_dict()["unknown"] is True
