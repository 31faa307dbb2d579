"""The HTTP API over a classifier whose numbers can be worked out by hand: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import zlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import fakes
import numpy as np
import pytest
from asgi import JSON, Client
from numpy.typing import NDArray
from pytest import MonkeyPatch

from inference import InputError, MissingDependencyError
from inference.api import ApiLimits, create_app, middleware, schemas
from inference.api.errors import ApiError
from inference.backends import OutOfMemory
from inference.loading import Models

GOOD = b'{"text": "good"}'
NO_JSON = "The body is not JSON in UTF-8:"
EITHER = "The request is invalid: pass either texts (a list) or text (a single one)."
UNKNOWN = "Unknown field in the request. Known: texts, text, tasks, return_scores, threshold, backend."
TOO_LONG = f"{NO_JSON} number out of range at line 1 column 4329."
SURE = 1 / (1 + math.exp(-2))  # "good" adds 2 to the logit of positive


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(create_app(fakes.classifier()))
    yield made
    made.close()


def test_texts_are_answered_in_order_for_every_task(client: Client) -> None:
    reply = client.predict(texts=["sad", "a very good book", "bad"])
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert (document["model"], document["backend"]) == ("fake", "pytorch")
    labels = [{task: answer["label"] for task, answer in row["predictions"].items()} for row in document["results"]]
    assert labels == [
        {"sentiment": "negative", "emotion": "sadness"},
        {"sentiment": "positive", "emotion": "joy"},
        {"sentiment": "negative", "emotion": "joy"},
    ]
    good = document["results"][1]["predictions"]["sentiment"]
    assert good == {"label": "positive", "confidence": pytest.approx(SURE), "uncertain": False}


def test_one_task_is_answered_as_the_peft_guide_shows_it(client: Client) -> None:
    plain = client.predict(texts=["good"], tasks=["sentiment"]).json()["results"]
    assert plain[0]["prediction"] == "positive"
    assert "probabilities" not in plain[0]
    scored = client.predict(texts=["good"], tasks=["sentiment"], return_scores=True).json()["results"][0]
    assert scored["confidence"] == pytest.approx(SURE)
    assert scored["probabilities"] == pytest.approx({"negative": 1 - SURE, "positive": SURE})
    assert scored["predictions"]["sentiment"]["probabilities"] == scored["probabilities"]


def test_a_single_text_gets_a_single_result(client: Client) -> None:
    one = client.predict(text="good", tasks=["sentiment"], return_scores=True).json()
    (row,) = client.predict(texts=["good"], tasks=["sentiment"], return_scores=True).json()["results"]
    assert one == {"model": "fake", "backend": "pytorch", **row}


def test_threshold_applies_to_its_own_request_only(client: Client) -> None:
    strict, plain = client.together([{"text": "good", "threshold": 0.9}, {"text": "good"}])
    assert strict.json()["predictions"]["sentiment"]["uncertain"]
    assert not plain.json()["predictions"]["sentiment"]["uncertain"]


def test_long_text_is_marked_as_truncated(client: Client) -> None:
    rows = client.predict(texts=["good " * 20, "good"]).json()["results"]
    assert [row["truncated"] for row in rows] == [True, False]
    assert 'triptych_truncated_texts_total{backend="pytorch"} 1.0' in client.get("/api/metrics").body.decode()


def test_text_without_a_known_word_is_marked_as_unknown(client: Client) -> None:
    rows = client.predict(texts=["qqq", "good qqq"]).json()["results"]
    assert [row["unknown"] for row in rows] == [True, False]
    assert client.predict(text="qqq", tasks=["emotion"]).json()["unknown"] is True


def test_null_means_the_default(client: Client) -> None:
    fields = {"tasks": None, "return_scores": None, "threshold": None, "backend": None}
    assert client.predict(text="good", **fields).json() == client.predict(text="good").json()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, f"{NO_JSON} EOF while parsing a value at line 1 column 0."),
        (b"{", 400, f"{NO_JSON} EOF while parsing an object at line 1 column 1."),
        (b'{"text": "\xff\xfe"}', 400, f"{NO_JSON} invalid unicode code point at line 1 column 11."),
        (b'{"text": "\\ud800"}', 400, f"{NO_JSON} unexpected end of hex escape at line 1 column 17."),
        (b"[" * 100_000, 400, f"{NO_JSON} recursion limit exceeded at line 1 column 202."),
        (b"[]", 422, "The request should be an object."),
        (b"null", 422, "The request should be an object."),
        (b"{}", 422, EITHER),
        (b'{"text": "a", "texts": ["a"]}', 422, EITHER),
        (b'{"text": "a", "text": "b"}', 422, "The request repeats a field."),
        (b'{"text": null}', 422, "text should be a valid string."),
        (b'{"text": ["a"]}', 422, "text[1] is missing: a pair has two texts."),
        (b'{"texts": "a"}', 422, "texts should be a valid array."),
        (b'{"texts": []}', 422, "texts should have at least 1 item."),
        (b'{"texts": ["a", 1]}', 422, "texts[1] should be a valid string."),
        (b'{"texts": ["a", NaN]}', 422, "texts[1] should be a valid string."),
        (b'{"texts": ["a", " \\n"]}', 422, "texts[1] is empty: give it at least one word."),
        (b'{"text": ""}', 422, "text is empty: give it at least one word."),
        (b'{"text": "a", "threshold": NaN}', 422, "threshold should be a finite number."),
        (b'{"text": "a", "threshold": -Infinity}', 422, "threshold should be a finite number."),
        (b'{"text": "a", "threshold": 1e999}', 422, "threshold should be a finite number."),
        (b'{"text": "a", "threshold": ' + b"9" * 5000 + b"}", 400, TOO_LONG),
        (b'{"text": "a", "threshold": "0.5"}', 422, "threshold should be a valid number."),
        (b'{"text": "a", "threshold": true}', 422, "threshold should be a valid number."),
        (b'{"text": "a", "return_scores": 1}', 422, "return_scores should be a valid boolean."),
        (b'{"text": "a", "tasks": "sentiment"}', 422, "tasks should be a valid array."),
        (b'{"text": "a", "tasks": []}', 422, "tasks should have at least 1 item."),
        (b'{"text": "a", "tasks": ["MARK"]}', 422, "Unknown task. Available: sentiment, emotion."),
        (b'{"text": "a", "backend": "MARK"}', 422, "Unknown runtime. Available: pytorch."),
        (b'{"text": "a", "backend": ""}', 422, "Unknown runtime. Available: pytorch."),
        (b'{"text": "a", "MARK": 1}', 422, UNKNOWN),
        (b'{"MARK": "a"}', 422, UNKNOWN),
        (b'{"text": "a", "MARK": {"text": "a", "text": "a"}}', 422, UNKNOWN),
    ],
)  # fmt: skip
def test_invalid_body_is_refused_without_quoting_it(client: Client, body: bytes, status: int, message: str) -> None:
    reply = client.post("/api/predict", body)
    assert (reply.status, reply.message) == (status, message)
    assert b"MARK" not in reply.body


def test_many_unknown_fields_give_one_error(client: Client) -> None:
    body = json.dumps({"text": "good"} | {f"field {number}": 1 for number in range(200_000)}).encode()
    assert schemas.PredictRequest.model_validate_json(body).text == "good"  # pydantic has no errors to list
    with pytest.raises(ApiError) as refused:
        schemas.parse(schemas.PredictRequest, body)
    assert (refused.value.status, str(refused.value)) == (422, UNKNOWN)
    for model in ("PredictRequest", "ExplainRequest"):
        document = client.get("/api/openapi.json").json()
        assert document["components"]["schemas"][model]["additionalProperties"] is False


def test_too_many_or_too_long_texts_are_refused(client: Client) -> None:
    assert client.predict(texts=["good"] * 512).status == 200
    assert client.predict(texts=["good"] * 513).message == "texts should have at most 512 items."
    assert client.predict(text="good" * 5000).status == 200
    assert client.predict(text="good" * 5000 + "!").message == "text should have at most 20000 characters."


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "no_json"),
        ({"Content-Type": "text/plain"}, "no_json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "no_json"),
        *((JSON | {"Content-Encoding": name}, "compressed") for name in ("br", "deflate", "gzip, gzip")),
    ],
)
def test_other_types_and_encodings_than_json_and_gzip_are_refused(
    client: Client, headers: dict[str, str], code: str
) -> None:
    reply = client.post("/api/predict", {"text": "good"}, headers)
    assert (reply.status, reply.code) == (415, code)


def test_gzip_body_is_answered_like_a_plain_one(client: Client) -> None:
    body = json.dumps({"texts": ["good", "bad"] * 200}).encode()
    expected = client.post("/api/predict", body)
    assert expected.status == 200
    for name in ("gzip", "GZIP"):
        assert client.post("/api/predict", gzip.compress(body), JSON | {"Content-Encoding": name}).body == expected.body


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (gzip.compress(GOOD)[:-9], 400, "The gzip body is incomplete."),
        (gzip.compress(GOOD)[:-1], 400, "The gzip body is incomplete."),
        (b"", 400, "The gzip body is incomplete."),
        (gzip.compress(GOOD) + b"x", 400, "The gzip body goes on after its end."),
        (gzip.compress(GOOD) * 2, 400, "The gzip body goes on after its end."),
        (GOOD, 400, "The body is not gzip, which its Content-Encoding says."),
        (zlib.compress(GOOD), 400, "The body is not gzip, which its Content-Encoding says."),
        (gzip.compress(GOOD)[:-8] + bytes(8), 400, "The body is not gzip, which its Content-Encoding says."),
        (gzip.compress(bytes(2_000_001)), 413, "The body unpacks to more than 2,000,000 bytes. Send fewer texts."),
        (gzip.compress(bytes(10**8)), 413, "The body unpacks to more than 2,000,000 bytes. Send fewer texts."),
        (gzip.compress(gzip.compress(GOOD)), 400, f"{NO_JSON} expected value at line 1 column 1."),
    ],
)
def test_damaged_and_exploding_gzip_is_refused(client: Client, body: bytes, status: int, message: str) -> None:
    reply = client.post("/api/predict", body, JSON | {"Content-Encoding": "gzip"})
    assert (reply.status, reply.message) == (status, message)
    assert client.predict(text="good").status == 200


def test_gzip_bodies_count_by_their_unpacked_size() -> None:
    client = Client(create_app(fakes.classifier(), limits=ApiLimits(bodies_bytes=100_000)))
    headers = JSON | {"Content-Encoding": "gzip"}
    for _ in range(2):  # the first leaves nothing behind
        reply = client.post("/api/predict", gzip.compress(b" " * 100_000 + GOOD), headers)
        assert (reply.status, reply.code) == (503, "overloaded")
        assert client.post("/api/predict", gzip.compress(b" " * 90_000 + GOOD), headers).status == 200
    client.close()


def test_byte_order_mark_is_accepted(client: Client) -> None:
    expected = client.post("/api/predict", GOOD)
    assert client.post("/api/predict", b"\xef\xbb\xbf" + GOOD).body == expected.body
    assert client.post("/api/predict", b"\xef\xbb\xbf" * 2 + GOOD).code == "invalid_json"
    assert client.post("/api/predict", GOOD.decode().encode("utf-16")).code == "invalid_json"


def test_content_type_may_have_a_charset(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/api/predict", {"text": "good"}, headers).status == 200


def test_index_lists_the_endpoints(client: Client) -> None:
    for path in ("/api", "/api/"):
        assert set(client.get(path).json()["addresses"]) == set(client.app.state.addresses)


def test_unknown_paths_and_methods_are_refused_with_what_exists(client: Client) -> None:
    reply = client.get("/api/MARK")
    assert (reply.status, reply.code) == (404, "not_found")
    assert "/api/predict" in reply.message
    assert b"MARK" not in reply.body
    reply = client.get("/api/predict")
    assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert reply.message == "This path takes POST."


def test_too_large_body_is_refused_and_read_no_further_than_documented(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "DRAINED_BYTES", 500)
    client = Client(create_app(fakes.classifier(), limits=ApiLimits(body_bytes=1000)))
    large = JSON | {"Content-Length": "1001"}
    declared = client.run(client.ask("/api/predict", (b"a" * 100 for _ in range(1000)), large))
    assert (declared.status, declared.code, declared.headers["connection"]) == (413, "too_large", "close")
    assert client.pieces_read == 5
    client.pieces_read = 0
    chunked = client.run(client.ask("/api/predict", (b"a" * 100 for _ in range(1_000_000)), JSON))
    assert (chunked.status, chunked.code) == (413, "too_large")
    assert client.pieces_read == 11 + 5
    within = client.run(client.ask("/api/predict", [b'{"text": "good"}', b" " * 984], JSON))
    assert within.status == 200
    lines = client.get("/api/metrics").body.decode().splitlines()
    assert 'triptych_requests_total{route="/api/predict",status="413"} 2.0' in lines
    client.close()


def test_too_large_body_that_stalls_is_not_awaited(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "DRAINED_S", 0.05)
    app = middleware.BodyLimit(create_app(fakes.classifier()), max_bytes=10)
    sent: list[dict[str, Any]] = []

    async def stalls() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "headers": [(b"content-length", b"11")]}
    asyncio.run(app(scope, stalls, send))
    assert sent[0]["status"] == 413
    assert [message.get("more_body") for message in sent] == [None, True, False]


def test_text_without_tokens_is_named_and_others_are_answered() -> None:
    classifier = fakes.classifier()
    from tokenizers.normalizers import Replace, Sequence

    classifier.tokenizer.normalizer = Sequence([classifier.tokenizer.normalizer, Replace("\x00", "")])
    client = Client(create_app(classifier))
    bad, good = client.together([{"texts": ["good", "longer than it", "\0"]}, {"text": "good"}])
    assert (bad.status, bad.code) == (422, "unreadable_text")
    assert bad.message == "texts[2] has nothing to classify: no readable character in it."
    assert good.json()["predictions"]["sentiment"]["label"] == "positive"
    client.close()


def test_blank_text_is_named_by_its_index_in_the_request(client: Client) -> None:
    reply = client.predict(texts=["good", "a very good book", "\u001c"])
    assert (reply.status, reply.message) == (422, "texts[2] is empty: give it at least one word.")
    assert client.predict(text="\u001f").message == "text is empty: give it at least one word."


class Damaged(fakes.FakeBackend):
    """Gives NaN for "cancel", and fails at "book"."""

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        if fakes.WORDS.index("book") in input_ids:
            raise RuntimeError("a secret path")
        logits = super().logits(input_ids, attention_mask)
        for values in logits.values():
            values[(input_ids == fakes.WORDS.index("cancel")).any(1)] = np.nan
        return logits


def test_text_that_breaks_the_model_fails_alone() -> None:
    client = Client(create_app(fakes.classifier(Damaged())))
    asked = [{"text": "good"}, {"text": "cancel"}, {"text": "book"}, {"texts": ["sad", "bad"]}]
    good, nan, broken, rest = client.together(asked)
    assert (good.status, rest.status) == (200, 200)
    assert (nan.status, nan.code) == (500, "model_error")
    assert (broken.status, broken.code) == (500, "internal")
    assert b"secret" not in broken.body
    assert client.predict(text="good").status == 200
    client.close()


def test_lack_of_memory_is_a_temporary_error() -> None:
    class Full(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            raise OutOfMemory("a secret path")

    client = Client(create_app(fakes.classifier(Full())))
    reply = client.predict(text="good")
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "out_of_memory", "5")
    assert b"secret" not in reply.body
    client.close()


def test_key_is_required_except_for_health() -> None:
    client = Client(create_app(fakes.classifier(), api_key="open sesame"))
    assert client.get("/api/live").status == 200
    assert client.get("/api/ready").status == 200
    for headers in ({}, {"Authorization": "Bearer open"}, {"X-API-Key": "é"}, {"Authorization": "Basic open sesame"}):
        for path in ("/api/model", "/api/metrics", "/api/openapi.json", "/api/nothing"):
            reply = client.get(path, headers)
            assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (401, "no_key", "Bearer")
        assert client.post("/api/predict", {"text": "good"}, JSON | headers).status == 401
    for headers in ({"Authorization": "Bearer open sesame"}, {"X-API-Key": "open sesame"}):
        assert client.post("/api/predict", {"text": "good"}, JSON | headers).status == 200
    client.close()


@pytest.mark.parametrize("key", ["", " ", "é", "a\n", " a"])
def test_key_that_fits_no_header_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="printable ASCII"):
        create_app(fakes.classifier(), api_key=key)


def test_request_chooses_the_backend() -> None:
    def open_one(name: str) -> fakes.Classifier:
        if name == "pytorch":
            raise MissingDependencyError("no torch in /secret/path")
        return fakes.classifier(fakes.FakeBackend(name))

    client = Client(create_app(Models(fakes.bundle(), open_one), backend="int8"))
    assert client.get("/api/model").json()["backends"] == ["int8", "pytorch", "onnx"]
    assert client.predict(text="good").json()["backend"] == "int8"
    assert client.predict(text="good", backend="onnx").json()["backend"] == "onnx"
    reply = client.predict(text="good", backend="pytorch")
    assert (reply.status, reply.code) == (503, "backend_unavailable")
    assert b"secret" not in reply.body
    client.close()


def test_unknown_default_backend_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown runtime 'onnx'. Available: pytorch."):
        create_app(fakes.classifier(), backend="onnx")


def test_model_is_described_with_its_limits(client: Client) -> None:
    info = client.get("/api/model").json()
    assert info["tasks"]["sentiment"] == {
        "labels": ["negative", "positive"],
        "problem_type": fakes.SINGLE,
        "threshold": 0.6,
    }
    assert info["max_tokens"] == 8
    assert info["limits"]["texts"] == 512
    assert info["limits"]["body_bytes"] == 2_000_000


def test_ready_runs_the_model_and_live_does_not() -> None:
    backend = Damaged()
    client = Client(create_app(fakes.classifier(backend)))
    reply = client.get("/api/ready")
    assert (reply.status, reply.json()["status"]) == (200, "ready")
    assert len(backend.shapes) == 1
    assert client.get("/api/live").json() == {"status": "live"}
    assert len(backend.shapes) == 1
    backend._tables["sentiment"][:] = np.nan
    reply = client.get("/api/ready")
    assert (reply.status, reply.code) == (503, "not_ready")
    assert client.get("/api/live").status == 200
    client.close()


def test_metrics_are_those_of_this_application(client: Client) -> None:
    client.predict(texts=["good", "bad"])
    client.predict(texts=[])
    client.get("/api/nothing/at/all")
    page = client.get("/api/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    lines = page.body.decode().splitlines()
    assert 'triptych_requests_total{route="/api/predict",status="200"} 1.0' in lines
    assert 'triptych_requests_total{route="/api/predict",status="422"} 1.0' in lines
    assert 'triptych_requests_total{route="other",status="404"} 1.0' in lines
    assert 'triptych_texts_total{backend="pytorch"} 2.0' in lines
    assert "triptych_waiting_texts 0.0" in lines
    assert 'triptych_request_seconds_count{route="/api/predict"} 2.0' in lines
    for stage in ("wait", "tokenize", "forward"):
        assert f'triptych_stage_seconds_count{{stage="{stage}"}} 1.0' in lines


def test_there_are_no_documentation_pages(client: Client) -> None:
    for path in ("/api/docs", "/docs", "/redoc", "/api/redoc"):
        assert client.get(path).status == 404


def test_it_can_be_mounted_in_another_application() -> None:
    from fastapi import FastAPI

    site, api = FastAPI(openapi_url=None), create_app(fakes.classifier(), api_key="key", prefix="")
    site.mount("/classify", api)
    site.state.service = api.state.service
    client = Client(site)
    assert client.get("/classify/live").status == 200
    assert client.get("/classify/model").status == 401
    reply = client.post("/classify/predict", {"text": "good"}, JSON | {"X-API-Key": "key"})
    assert reply.json()["predictions"]["sentiment"]["label"] == "positive"
    assert client.get("/classify/openapi.json", {"X-API-Key": "key"}).json()["servers"] == [{"url": "/classify"}]
    index = client.get("/classify/", {"X-API-Key": "key"}).json()
    assert index["model"] == "fake"
    assert "/classify/predict" in index["addresses"]
    assert "/classify/predict" in client.get("/classify/nothing", {"X-API-Key": "key"}).message
    client.close()
