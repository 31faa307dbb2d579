"""Explanations: what a word does to a label, on fakes by hand and on models of every kind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import fakes
import numpy as np
import pytest
from numpy.typing import NDArray

from inference import Classifier, InferenceError, InputError
from inference.explain import explain, occlusion
from inference.explain.agreement import Agreement, agreement, agreement_sentence, compare_explanations
from inference.explain.explanation import GRADIENTS, Explanation
from inference.formats.bundle import Task

MULTI = {"topics": Task(("food", "travel"), "multi_label_classification", 0.5)}


def figures(explanation: Explanation) -> dict[str, float | None]:
    return {word.text: word.attribution for word in explanation.words}


# --- Occlusion, by hand: the logits of a fake are the sum over its words


def test_attribution_is_the_fall_of_log_odds_without_the_word() -> None:
    explanation = explain(fakes.classifier(), "Good film, not bad", "sentiment")
    assert (explanation.label, explanation.predicted) == ("negative", "negative")  # a tie, and the first one is given
    assert figures(explanation) == {"Good": -2.0, "film": 0.0, ",": 0.0, "not": 0.0, "bad": 2.0}
    assert explanation.log_odds == pytest.approx(0)
    assert explanation.words[-1].without == pytest.approx(1 / (1 + math.exp(2)))
    assert (explanation.words[0].start, explanation.words[0].end) == (0, 4)
    assert explanation.notes[0].startswith(
        "The model's vocabulary lacks “film”, “,”, “not”: the model reads the same token"
    )


def test_label_that_was_not_predicted_can_be_explained() -> None:
    explanation = explain(fakes.classifier(), "glad", "emotion", "sadness")
    assert (explanation.label, explanation.predicted) == ("sadness", "joy")
    assert explanation.words[0].attribution == pytest.approx(math.log(2) - math.log(math.exp(3) + 1))


def test_multi_label_is_explained_by_its_own_logit() -> None:
    class Topics(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            books = (input_ids == fakes.WORDS.index("book")).sum(1)
            return {"topics": np.stack([-1.0 - 0 * books, 3.0 * books - 1], 1).astype(np.float32)}

    made = fakes.classifier(Topics(tasks=MULTI), MULTI)
    assert figures(explain(made, "book it", label="travel")) == {"book": 3.0, "it": 0.0}
    assert figures(explain(made, "book it", label="food")) == {"book": 0.0, "it": 0.0}


def test_explained_answer_is_the_prediction() -> None:
    made = fakes.classifier()
    explanation, prediction = explain(made, "good bad good", "sentiment"), made.predict("good bad good", "sentiment")
    assert (explanation.predicted, explanation.score) == (prediction.label, prediction.confidence)


def test_single_word_can_be_left_out() -> None:
    assert figures(explain(fakes.classifier(), "good", "sentiment")) == {"good": 2.0}


def test_truncated_part_has_no_attribution_and_is_noted() -> None:
    text = "good good good good good good bad bad"  # eight tokens are read, two of them special
    explanation = explain(fakes.classifier(), text, "sentiment")
    assert (len(explanation.words), explanation.read, explanation.truncated) == (6, (0, 29), True)
    assert [word.text for word in explanation.words] == ["good"] * 6
    assert explanation.notes[:-1] == [
        "The model read characters 0 to 29 of the text; the other 8 were cut off and had no part in the answer."
    ]


def test_note_says_that_no_word_carries_the_answer_alone() -> None:
    made = fakes.classifier()
    explanation = explain(made, "good good good good good", "sentiment")
    assert explanation.score > 0.99
    assert (
        "No word carries this answer alone: without any one of them the confidence moves by 0.00"
        in explanation.notes[0]
    )
    assert explain(made, "good book", "sentiment").notes == []
    assert explain(made, "good bad book book", "sentiment").notes == []  # "good" does
    assert explain(made, "good good good good good", "sentiment", "negative").notes == []  # no answer of the model's


def test_end_of_a_text_is_explained_if_its_start_is_cut_off() -> None:
    tokenizer = fakes.tokenizer()
    tokenizer.enable_truncation(8, direction="left")
    made = Classifier(fakes.bundle(), fakes.FakeBackend(), tokenizer)
    explanation = explain(made, "bad bad good good good good good good", "sentiment")
    assert (explanation.read, {word.text for word in explanation.words}) == ((8, 37), {"good"})


def test_passes_are_batched_and_none_is_larger_than_the_classifier_allows() -> None:
    backend = fakes.FakeBackend()
    explain(fakes.classifier(backend, batch_size=4), "good bad good bad good bad", "sentiment")
    assert max(rows for rows, _ in backend.shapes) <= 4
    assert sum(rows for rows, _ in backend.shapes) == 1 + 6  # the text, and one a word


def test_long_text_is_explained_in_groups_which_is_noted() -> None:
    long = Classifier(fakes.bundle(max_tokens=4096), fakes.FakeBackend(), fakes.tokenizer())
    explanation = explain(long, "good " * 1300, "sentiment")
    assert explanation.grouped == 3
    assert len(explanation.words) == math.ceil(1300 / 3) <= occlusion.MAX_PASSES
    assert explanation.words[0].text == "good good good"
    assert explanation.words[0].attribution == pytest.approx(6.0)
    assert "3 neighbouring words" in explanation.notes[0]


# --- Time


class Clock:
    """A clock that a backend moves: every row it is given takes `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds = 100.0, seconds
        monkeypatch.setattr(occlusion, "clock", lambda: self.now)

    def classifier(self) -> Classifier:
        clock = self

        class Slow(fakes.FakeBackend):
            def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
                clock.now += clock.seconds * len(input_ids)
                return super().logits(input_ids, attention_mask)

        return Classifier(fakes.bundle(max_tokens=64), Slow(), fakes.tokenizer(), batch_size=4)


def test_with_little_time_neighbours_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)
    explanation = explain(clock.classifier(), "good " * 40, "sentiment", budget_s=14.0)
    assert (
        explanation.grouped == 6
    )  # of 14 s five are gone with the text and four rows to time; of 9, four fifths are 7 rows
    assert len(explanation.words) == 7
    assert explanation.unreached == 0
    assert explanation.seconds == 12.0


def test_words_not_reached_in_time_have_no_attribution_which_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)

    def slower(_: str, __: float) -> None:
        clock.seconds = 5.0

    explanation = explain(clock.classifier(), "good " * 8, "sentiment", budget_s=20.0, progress=slower)
    assert [word.attribution for word in explanation.words] == [2.0] * 8
    clock.seconds = 1.0
    explanation = explain(clock.classifier(), "good " * 12, "sentiment", budget_s=20.0, progress=slower)
    assert [word.attribution for word in explanation.words] == [2.0] * 8 + [None] * 4
    assert "4 of 12 parts of the text were not tried" in explanation.notes[0]


def test_every_word_is_tried_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explain(Clock(monkeypatch, 1e6).classifier(), "good " * 40, "sentiment")
    assert (explanation.grouped, explanation.unreached) == (1, 0)


def test_progress_goes_from_little_to_all() -> None:
    steps: list[tuple[str, float]] = []
    explain(
        fakes.classifier(batch_size=2),
        "good bad good bad good",
        "sentiment",
        progress=lambda step, share: steps.append((step, share)),
    )
    assert [share for _, share in steps] == [0.4, 0.8, 1.0]


def test_error_in_progress_ends_the_work() -> None:
    def stop(_: str, __: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(fakes.classifier(), "good", "sentiment", progress=stop)


# --- What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": " "}, "The text is empty"),
        ({"text": "a\ud800"}, "lone surrogate"),
        ({"text": "a" * 20_001}, "20,001 characters"),
        ({"text": ["good"]}, "text must be a string, not list"),
        ({"task": None}, "has 2 tasks; name one"),
        ({"task": "mood"}, "Unknown task 'mood'"),
        ({"label": "great"}, "has no label 'great'. It has: negative, positive"),
        ({"label": 3}, "has no label 3"),
        ({"method": "lime"}, "Unknown method 'lime'. Known: occlusion, integrated_gradients"),
        ({"budget_s": 0}, "budget_s=0 is not a time"),
        ({"budget_s": float("nan")}, "budget_s=nan is not a time"),
        ({"budget_s": "5"}, "budget_s='5' is not a time"),
        ({"method": GRADIENTS}, "needs the gradients of a PyTorch network, and this model is loaded on INT8"),
    ],
)
def test_invalid_requests_are_rejected_with_a_remedy(options: dict[str, Any], message: str) -> None:
    asked = {"text": "good", "task": "sentiment"} | options
    with pytest.raises(InputError, match=message):
        explain(fakes.classifier(fakes.FakeBackend("int8")), **asked)


def test_gradients_through_a_base_in_4_bits_on_a_cpu_are_refused_with_a_remedy() -> None:
    backend = fakes.FakeBackend()
    backend.network = object()  # type: ignore[attr-defined]
    made = Classifier(replace(fakes.bundle(), four_bit=True), backend, fakes.tokenizer())
    with pytest.raises(InputError, match="cannot go through a base in 4 bits on a CPU. Use method='occlusion'"):
        explain(made, "good", "sentiment", method=GRADIENTS)
    assert figures(explain(made, "good", "sentiment")) == {"good": 2.0}


def test_nan_logits_are_an_error() -> None:
    class Broken(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            values = super().logits(input_ids, attention_mask)
            values["sentiment"][attention_mask.sum(1) < 4] = np.nan
            return values

    with pytest.raises(InferenceError, match="NaN or infinity"):
        explain(fakes.classifier(Broken()), "good bad", "sentiment")


def test_an_explanation_is_plain_json_with_its_notes() -> None:
    explanation = explain(fakes.classifier(), "good " * 20, "sentiment").to_dict()
    again = json.loads(json.dumps(explanation, allow_nan=False))
    assert again["words"][0] == {
        "text": "good",
        "start": 0,
        "end": 4,
        "attribution": 2.0,
        "without": pytest.approx(1 / (1 + math.exp(-10))),
        "unknown": False,
        "in_text": 0,
    }
    assert again["read"] == [0, 29]
    assert len(again["notes"]) == 2


def test_explanation_is_read_again_from_its_json() -> None:
    single = explain(fakes.classifier(), "so good", "sentiment")
    for explanation in (single, replace(single, second_text="an answer", second_read=(0, 9))):
        assert Explanation.from_dict(json.loads(json.dumps(explanation.to_dict()))) == explanation


def test_words_outside_the_vocabulary_are_named() -> None:
    explanation = explain(fakes.classifier(), "good 😀 ☃ bad 😀 glad", "sentiment")
    assert [word.text for word in explanation.words if word.unknown] == ["😀", "☃", "😀"]
    (note,) = explanation.notes
    assert note.startswith("The model's vocabulary lacks “😀”, “☃”: the model reads the same token for")
    long = explain(fakes.classifier(), "good " + "🙂" * 400, "sentiment").notes[0]
    assert f"lacks “{'🙂' * 29}…”: the model reads" in long
    assert "a figure shows the effect of having some word there" in long
    assert explain(fakes.classifier(), "good bad glad", "sentiment").notes == []


# --- Two explanations


def test_the_same_order_of_words_has_tau_1_and_the_reverse_minus_1() -> None:
    made = fakes.classifier()
    one = explain(made, "bad film good", "sentiment", "positive")
    other = explain(made, "bad film good", "sentiment", "positive")
    assert agreement(one, other) == Agreement(3, pytest.approx(1.0), 0.0, "bad")
    against = Agreement(2, -1.0, 0.5, "film")
    assert "Kendall's tau −1.000" in agreement_sentence(against, "pytorch", "int8")
    nearly = Agreement(40, 0.9974, 0.5, "film")
    assert "their orders of the words have Kendall's tau +0.997" in agreement_sentence(nearly, "pytorch", "int8")
    assert "in the same order (Kendall's tau 1)" in agreement_sentence(agreement(one, other), "pytorch", "int8")


def test_equal_attributions_have_no_order() -> None:
    made = fakes.classifier()
    agreed = agreement(explain(made, "this that", "sentiment"), explain(made, "this that", "sentiment"))
    assert agreed.tau is None
    assert "no order" in agreement_sentence(agreed, "pytorch", "int8")


def test_explanations_of_different_labels_or_texts_cannot_be_compared() -> None:
    made = fakes.classifier()
    one = explain(made, "good bad", "sentiment", "positive")
    for other in (explain(made, "good bad", "sentiment", "negative"), explain(made, "good", "sentiment", "positive")):
        with pytest.raises(InputError, match="cannot be compared"):
            agreement(one, other)


def test_comparison_explains_the_label_of_the_first_backend() -> None:
    class Turned(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            return {task: -values for task, values in super().logits(input_ids, attention_mask).items()}

    comparison = compare_explanations(
        {"pytorch": fakes.classifier(), "int8": fakes.classifier(Turned("int8"))},
        "good film bad good",
        "sentiment",
        None,
        "occlusion",
    )
    assert [one.label for one in comparison.explanations.values()] == ["positive", "positive"]
    assert [one.predicted for one in comparison.explanations.values()] == ["positive", "negative"]
    assert comparison.agreements["int8"].tau == pytest.approx(-1.0)
    assert json.dumps(comparison.to_dict())
