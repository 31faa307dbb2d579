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

from inference.api import ApiLimits, create_app
from inference.api import service as service_module
from inference.api.schemas import Explained

PATIENCE_S = 300
TEXT = "a very good book"


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(create_app(fakes.classifier(), limits=ApiLimits(timeout_s=PATIENCE_S)))
    yield made
    made.close()


def explain(client: Client, **fields: Any) -> Any:
    return client.post("/api/explain", {"text": TEXT, "task": "sentiment"} | fields)


def test_the_word_that_decides_has_the_largest_attribution(client: Client) -> None:
    reply = explain(client)
    assert reply.status == 200
    explanation = reply.json()
    assert set(explanation) == set(Explained.model_fields)
    assert (explanation["label"], explanation["predicted"], explanation["method"]) == (
        "positive",
        "positive",
        "occlusion",
    )
    best = max(explanation["words"], key=lambda word: word["attribution"])
    assert (best["text"], TEXT[best["start"] : best["end"]]) == ("good", "good")
    assert best["attribution"] == pytest.approx(2)  # "good" adds 2 to the logit


def test_another_label_can_be_explained(client: Client) -> None:
    explanation = explain(client, label="negative").json()
    assert (explanation["label"], explanation["predicted"]) == ("negative", "positive")
    assert min(word["attribution"] for word in explanation["words"]) == pytest.approx(-2)


def test_task_is_optional_if_the_model_has_one() -> None:
    tasks = {"sentiment": fakes.TASKS["sentiment"]}
    client = Client(create_app(fakes.classifier(tasks=tasks)))
    assert client.post("/api/explain", {"text": TEXT}).json()["task"] == "sentiment"
    client.close()


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"task": None}, "unknown_task", "This model has several tasks. Name one of: sentiment, emotion."),
        ({"task": "MARK"}, "unknown_task", "Unknown task. Available: sentiment, emotion."),
        ({"label": "MARK"}, "unknown_label", "The task has no such label. GET …/model lists them."),
        ({"method": "MARK"}, "invalid_request", "method should be 'occlusion' or 'integrated_gradients'."),
        ({"backend": "MARK"}, "unknown_backend", "Unknown runtime. Available: int8."),
        ({"text": " "}, "invalid_request", "text is empty: give it at least one word."),
        ({"texts": ["a"]}, "invalid_request", "Unknown field in the request."),
        ({"method": "integrated_gradients"}, "cannot_explain", "PyTorch"),
    ],
)
def test_invalid_explain_requests_are_refused(fields: dict[str, Any], code: str, message: str) -> None:
    client = Client(create_app(fakes.classifier(fakes.FakeBackend("int8"))))
    reply = explain(client, **fields)
    assert (reply.status, reply.code) == (422, code)
    assert message in reply.message
    assert b"MARK" not in reply.body
    client.close()


class Panic(BaseException):
    """No `Exception`, as what a panic in native code becomes."""


class Gated(fakes.FakeBackend):
    """Answers when it is let."""

    gate = threading.Event()

    def logits(self, input_ids: Any, attention_mask: Any) -> Any:
        assert self.gate.wait(PATIENCE_S)
        return super().logits(input_ids, attention_mask)


def test_explanations_are_bounded_in_number_and_in_time_and_predictions_do_not_wait_for_them() -> None:
    backend = Gated("int8")
    backend.gate.clear()
    limits = ApiLimits(explanations=2, timeout_s=0.5, explanation_s=0.2)
    client = Client(create_app(fakes.classifier(backend), limits=limits))

    async def ask() -> list[Any]:
        body = json.dumps({"text": TEXT, "task": "sentiment"}).encode()
        return await asyncio.gather(*(client.ask("/api/explain", body) for _ in range(3)))

    replies = client.run(ask())
    assert sorted((reply.status, reply.code) for reply in replies) == [
        (429, "overloaded"),
        (503, "timed_out"),
        (503, "timed_out"),
    ]
    assert {reply.headers["retry-after"] for reply in replies} == {"5"}
    assert "triptych_waiting_texts 0.0" in client.get("/api/metrics").body.decode()
    backend.gate.set()
    client.close()


def test_a_prediction_does_not_wait_for_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Gated("int8")
    classifier = fakes.classifier(backend)
    explaining, let = threading.Event(), threading.Event()

    def explain_when_let(*_: Any, **__: Any) -> Any:
        explaining.set()
        assert let.wait(PATIENCE_S)
        raise Panic

    backend.gate.set()
    monkeypatch.setattr(service_module, "explain", explain_when_let)
    client = Client(create_app(classifier, limits=ApiLimits(timeout_s=PATIENCE_S)))

    async def ask() -> tuple[Any, Any]:
        waits = asyncio.create_task(
            client.ask("/api/explain", json.dumps({"text": TEXT, "task": "sentiment"}).encode())
        )
        await asyncio.to_thread(explaining.wait, PATIENCE_S)
        answer = await client.ask("/api/predict", b'{"text": "good"}')
        let.set()
        return answer, await waits

    answer, failed = client.run(ask())
    assert answer.status == 200
    assert (failed.status, failed.code) == (500, "internal")
    client.close()


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (ApiLimits(), 3),
        (ApiLimits(explanations=2), 2),
        (ApiLimits(timeout_s=200), 8),
        (ApiLimits(timeout_s=1), 1),
    ],
)
def test_number_of_waiting_explanations_depends_on_the_time_limit(limits: ApiLimits, most: int) -> None:
    assert limits.max_explanations == most


def test_no_explanation_starts_after_close() -> None:
    client = Client(create_app(fakes.classifier()))
    client.app.state.service.close()
    for _ in range(10):
        reply = explain(client)
        assert (reply.status, reply.code) == (503, "stopping")
    client.close()
