"""POST /explain: what each word does to an answer, bounded as everything else is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import fakes
import pytest
from asgi import Client

from inference.api import Limits, create_app
from inference.api.schemas import Explained

PATIENCE_S = 60
TEXT = "a very good book"


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(create_app(fakes.classifier(), limits=Limits(explanations=2, timeout_s=0.5)))
    yield made
    made.close()


def explain(client: Client, **fields: Any) -> Any:
    return client.post("/api/explain", {"text": TEXT, "task": "sentiment"} | fields)


def test_the_word_that_decides_has_the_largest_attribution(client: Client) -> None:
    reply = explain(client)
    assert reply.status == 200
    found = reply.json()
    assert set(found) == set(Explained.model_fields)
    assert (found["label"], found["predicted"], found["method"]) == ("positive", "positive", "occlusion")
    best = max(found["words"], key=lambda word: word["attribution"])
    assert (best["text"], TEXT[best["start"] : best["end"]]) == ("good", "good")
    assert best["attribution"] == pytest.approx(2)  # "good" adds 2 to the logit


def test_another_label_can_be_asked_about(client: Client) -> None:
    found = explain(client, label="negative").json()
    assert (found["label"], found["predicted"]) == ("negative", "positive")
    assert min(word["attribution"] for word in found["words"]) == pytest.approx(-2)


def test_a_classifier_of_one_task_needs_no_name_of_it() -> None:
    tasks = {"sentiment": fakes.TASKS["sentiment"]}
    client = Client(create_app(fakes.classifier(tasks=tasks)))
    assert client.post("/api/explain", {"text": TEXT}).json()["task"] == "sentiment"
    client.close()


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"task": None}, "unknown_task", "This model has several tasks; name one: sentiment, emotion."),
        ({"task": "MARK"}, "unknown_task", "A task is not known. This model has: sentiment, emotion."),
        ({"label": "MARK"}, "unknown_label", "The task has no such label. GET …/model lists them."),
        ({"method": "MARK"}, "invalid_request", "method should be 'occlusion' or 'integrated_gradients'."),
        ({"backend": "MARK"}, "unknown_backend", "This backend is not served. Served: int8."),
        ({"text": " "}, "invalid_request", "text is empty: give it at least one word."),
        ({"texts": ["a"]}, "invalid_request", "The request has a field that is not known."),
        ({"method": "integrated_gradients"}, "cannot_explain", "PyTorch"),
    ],
)
def test_what_cannot_be_explained_is_refused(fields: dict[str, Any], code: str, message: str) -> None:
    client = Client(create_app(fakes.classifier(fakes.FakeBackend("int8"))))
    reply = explain(client, **fields)
    assert (reply.status, reply.code) == (422, code)
    assert message in reply.message
    assert b"MARK" not in reply.body
    client.close()


class Gated(fakes.FakeBackend):
    """Answers when it is let."""

    gate = threading.Event()

    def logits(self, input_ids: Any, attention_mask: Any) -> Any:
        assert self.gate.wait(PATIENCE_S)
        return super().logits(input_ids, attention_mask)


def test_explanations_are_bounded_in_number_and_in_time_and_predictions_do_not_wait_for_them() -> None:
    backend = Gated("int8")
    client = Client(create_app(fakes.classifier(backend), limits=Limits(explanations=2, timeout_s=0.5)))

    async def ask() -> list[Any]:
        body = json.dumps({"text": TEXT, "task": "sentiment"}).encode()
        return await asyncio.gather(*(client.ask("/api/explain", body) for _ in range(3)))

    replies = client.run(ask())
    assert sorted((reply.status, reply.code) for reply in replies) == [
        (429, "overloaded"),
        (503, "timed_out"),
        (503, "timed_out"),
    ]
    backend.gate.set()
    assert client.predict(text="good").status == 200
    assert explain(client).status == 200
    client.close()
