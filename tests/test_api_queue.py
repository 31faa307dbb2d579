"""The queue of the API: who is answered with whom, who is turned away, and what happens to those that leave."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import fakes
import numpy as np
import pytest
from asgi import Client, Reply
from busy import PATIENCE_S, Busy, Gated
from numpy.typing import NDArray
from served import wait_until

from inference.api import ApiLimits, create_app
from inference.api import service as service_module
from inference.loading import Models


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy(batch_size=4)
    made.occupy()
    yield made
    made.let_go()
    made.replies()
    made.client.close()


def test_single_request_runs_at_once_and_waiting_ones_together(busy: Busy) -> None:
    for text in ("good", "bad", "sad"):
        busy.ask(text=text)
    busy.waits(4)
    busy.let_go()
    assert [reply.status for reply in busy.replies()] == [200] * 4
    assert [rows for rows, _ in busy.backend.shapes] == [1, 3]


def test_batch_is_no_larger_than_the_classifier_allows(busy: Busy) -> None:
    for _ in range(6):
        busy.ask(text="good")
    busy.waits(7)
    busy.let_go()
    busy.replies()
    assert [rows for rows, _ in busy.backend.shapes] == [1, 4, 2]


def test_texts_of_similar_length_share_a_batch() -> None:
    busy = Busy(batch_size=32)
    busy.occupy()
    busy.ask(texts=["good", "good bad sad glad good"] * 8)
    busy.waits(17)
    busy.let_go()
    rows = busy.replies()[1].json()["results"]
    assert [row["predictions"]["emotion"]["label"] for row in rows] == ["joy", "joy"] * 8
    assert busy.backend.shapes == [(1, 3), (8, 3), (8, 7)]
    busy.client.close()


def test_large_request_does_not_delay_a_small_one(busy: Busy) -> None:
    busy.ask(texts=["good"] * 100)
    busy.waits(101)
    busy.ask(text="bad")
    busy.waits(102)
    finished: list[str] = []
    for name, task in zip(("slow", "large", "small"), busy.tasks, strict=True):
        task.add_done_callback(lambda _, name=name: finished.append(name))
    busy.let_go()
    busy.replies()
    assert finished == ["slow", "small", "large"]


def test_texts_beyond_the_limit_get_429_with_retry_after() -> None:
    busy = Busy(limits=ApiLimits(waiting_texts=10))
    busy.occupy()
    busy.ask(texts=["good"] * 9)
    busy.waits(10)
    reply = busy.client.predict(text="good")
    assert (reply.status, reply.code) == (429, "overloaded")
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert busy.client.get("/api/live").status == 200
    assert "triptych_waiting_texts 10.0" in busy.client.get("/api/metrics").body.decode()
    busy.let_go()
    assert [reply.status for reply in busy.replies()] == [200, 200]
    assert busy.client.predict(text="good").status == 200
    assert busy.client.predict(texts=["good"] * 10).status == 200
    reply = busy.client.predict(texts=["good"] * 11)  # for which there will never be room
    assert (reply.status, reply.message) == (422, "This server takes at most 10 texts at a time.")
    assert busy.client.get("/api/model").json()["limits"]["texts"] == 10
    busy.client.close()


def test_timed_out_request_gets_503_and_leaves_the_queue() -> None:
    busy = Busy()
    busy.occupy()
    busy.ask(texts=["good"] * 5)
    busy.waits(6)
    busy.client.skip(ApiLimits.timeout_s)
    late = busy.replies()
    assert [(reply.status, reply.code) for reply in late] == [(503, "timed_out")] * 2
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in late)
    assert busy.service.batcher.waiting == 0
    busy.let_go()
    busy.client.close()  # when all that was admitted is answered
    assert len(busy.backend.shapes) == 1  # the slow one: those that were given up never ran


def test_request_of_a_disconnected_client_leaves_the_queue(busy: Busy) -> None:
    busy.ask(texts=["good"] * 5, gone_after=10)
    busy.waits(6)
    busy.client.skip(10)
    busy.waits(1)
    busy.let_go()
    busy.replies()
    assert [rows for rows, _ in busy.backend.shapes] == [1]
    assert 'route="/api/predict",status="499"} 1.0' in busy.client.get("/api/metrics").body.decode()


def test_ready_fails_in_time_while_the_model_hangs(monkeypatch: pytest.MonkeyPatch, busy: Busy) -> None:
    monkeypatch.setattr(service_module, "PROBE_S", 0.2)
    reply = busy.client.get("/api/ready")
    assert (reply.status, reply.code) == (503, "not_ready")
    assert busy.client.get("/api/live").status == 200


def test_ready_skips_the_queue_and_concurrent_calls_share_a_probe(busy: Busy) -> None:
    for _ in range(20):
        busy.ask(text="good bad")
    busy.waits(21)
    asked = [busy.client.loop.create_task(busy.client.ask("/api/ready", method="GET")) for _ in range(10)]
    busy.wait_until(lambda: len(busy.service.batcher._jobs) == 21)
    busy.let_go()
    busy.replies()
    assert {busy.client.run(one).status for one in asked} == {200}  # type: ignore[arg-type]
    assert busy.backend.shapes[1] == (4, 4)
    assert sum(rows for rows, _ in busy.backend.shapes) == 1 + 1 + 20


def test_stopping_server_answers_its_queue_and_is_not_ready(busy: Busy) -> None:
    for _ in range(8):
        busy.ask(text="good")
    busy.waits(9)
    busy.service.stop()
    assert busy.client.get("/api/ready").code == "stopping"
    closing = threading.Thread(target=busy.service.close)
    closing.start()
    busy.wait_until(lambda: busy.service.batcher._closed)
    assert busy.client.predict(text="good").code == "stopping"
    busy.let_go()
    assert [reply.status for reply in busy.replies()] == [200] * 9
    closing.join(PATIENCE_S)


def test_overload_gives_only_200_429_or_503() -> None:
    behind = threading.Event()

    class Slow(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            if not behind.is_set():  # until it is full, however slow the asking is; by then some were turned away
                wait_until(lambda: client.app.state.service.batcher.waiting == 40)
                behind.set()
            time.sleep(0.002)
            return super().logits(input_ids, attention_mask)

    client = Client(create_app(fakes.classifier(Slow()), limits=ApiLimits(waiting_texts=40)))
    bodies = [{"texts": ["good"] * (1 + number % 8)} for number in range(200)]
    for _ in range(3):
        behind.clear()
        replies = client.together(bodies)
        assert len(replies) == 200
        assert {reply.status for reply in replies} <= {200, 429, 503}
        assert {200, 429} <= {reply.status for reply in replies}
        for body, reply in zip(bodies, replies, strict=True):
            if reply.status == 200:
                assert len(reply.json()["results"]) == len(body["texts"])
            else:
                assert int(reply.headers["retry-after"]) >= 1
    assert client.app.state.service.batcher.waiting == 0
    client.close()


class Panic(BaseException):
    """No `Exception`, as what a panic in native code becomes."""


def test_panic_in_native_code_fails_its_own_request_only() -> None:
    class Panics(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            if fakes.WORDS.index("book") in input_ids:
                raise Panic("a secret path")
            return super().logits(input_ids, attention_mask)

    client = Client(create_app(fakes.classifier(Panics())))
    broken, good = client.together([{"text": "book"}, {"text": "good"}])
    assert (broken.status, broken.code, good.status) == (500, "internal", 200)
    assert b"secret" not in broken.body
    assert client.predict(text="good").status == 200
    client.close()


def test_error_in_the_bookkeeping_fails_one_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(create_app(fakes.classifier()))
    batcher = client.app.state.service.batcher
    with monkeypatch.context() as patched:
        patched.setattr(batcher.metrics, "batch", lambda *_: 1 // 0)
        reply = client.predict(text="good")
    assert (reply.status, reply.code) == (500, "internal")
    assert batcher.waiting == 0
    assert client.predict(text="good").status == 200
    client.close()


def test_requests_to_different_backends_are_never_mixed() -> None:
    backends = {name: Gated(name) for name in ("pytorch", "onnx", "int8")}
    client = Client(create_app(Models(fakes.bundle(), lambda name: fakes.classifier(backends[name]))))
    bodies = [{"text": "good", "backend": name} for name in ("int8", "onnx", "pytorch") * 4]
    replies = client.together(bodies)
    assert [reply.json()["backend"] for reply in replies] == [body["backend"] for body in bodies]
    answered = {name: sum(rows for rows, _ in one.shapes) for name, one in backends.items()}
    assert answered == dict.fromkeys(backends, 5)  # each has been warmed up with one text
    client.close()


def test_requests_of_equal_size_finish_in_order() -> None:
    busy = Busy(batch_size=32)
    busy.occupy()
    finished: list[int] = []
    for number in range(6):
        busy.ask(texts=["good", "good bad sad glad good bad", "good bad", "good bad sad glad"] * 4)
        busy.tasks[-1].add_done_callback(lambda _, number=number: finished.append(number))
    busy.waits(1 + 6 * 16)
    busy.let_go()
    busy.replies()
    assert finished == [0, 1, 2, 3, 4, 5]
    busy.client.close()


def test_slow_backend_is_opened_once_and_blocks_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, gate = [], threading.Event()

    def open_one(name: str) -> fakes.Classifier:
        opened.append(name)
        if name == "pytorch":
            assert gate.wait(300)
        return fakes.classifier(fakes.FakeBackend(name))

    client = Client(create_app(Models(fakes.bundle(), open_one), backend="int8"))
    body = json.dumps({"text": "good", "backend": "pytorch"}).encode()

    def ask_pytorch() -> list[asyncio.Task[Reply]]:
        return [client.loop.create_task(client.ask("/api/predict", body)) for _ in range(20)]

    assert client.predict(text="good").status == 200
    late = ask_pytorch()
    assert client.predict(text="good").status == 200  # asked after them, and does not wait for them
    assert not any(task.done() for task in late)
    client.skip(ApiLimits.timeout_s)
    replies = [client.run(task) for task in late]  # type: ignore[arg-type]
    assert {(reply.status, reply.code) for reply in replies} == {(503, "timed_out")}
    assert int(replies[0].headers["retry-after"]) >= 1
    patient = ask_pytorch()
    assert client.predict(text="good").status == 200
    assert not any(task.done() for task in patient)
    monkeypatch.setattr(service_module, "PROBE_S", 0.2)
    slow = Client(create_app(Models(fakes.bundle(), open_one), backend="pytorch"))
    reply = slow.get("/api/ready")
    assert (reply.status, reply.code) == (503, "not_ready")
    gate.set()
    replies = [client.run(task) for task in patient]  # type: ignore[arg-type]
    assert {(reply.status, reply.json()["backend"]) for reply in replies} == {(200, "pytorch")}
    assert slow.predict(text="good").status == 200
    assert opened == ["int8", "pytorch", "pytorch"]  # of each application once
    client.close()
    slow.close()


def test_requests_waiting_for_a_backend_count_towards_the_body_limit() -> None:
    opened, gate = [], threading.Event()

    def open_one(name: str) -> fakes.Classifier:
        opened.append(name)
        assert gate.wait(300)
        return fakes.classifier(fakes.FakeBackend(name))

    limits = ApiLimits(bodies_bytes=10_000)
    client = Client(create_app(Models(fakes.bundle(), open_one), backend="int8", limits=limits))
    unknown = client.predict(text="good", tasks=["none"])
    assert (unknown.status, unknown.code, opened) == (422, "unknown_task", [])  # nothing is opened for such

    async def crowd() -> list[Any]:
        body = json.dumps({"text": "good " * 800}).encode()
        asked = [asyncio.ensure_future(client.ask("/api/predict", body)) for _ in range(6)]
        refused, _ = await asyncio.wait(asked, timeout=300, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result().code for one in refused] == ["overloaded"] * len(refused)
        gate.set()
        return list(await asyncio.gather(*asked))

    assert sorted(reply.status for reply in client.run(crowd())) == [200, 200, 503, 503, 503, 503]
    assert client.predict(text="good").status == 200  # all of it was given back
    client.close()


def test_body_is_released_once_it_is_parsed(busy: Busy) -> None:
    body = b'{"text": "good"' + b" " * 1_000_000 + b"}"
    tracemalloc.start()
    for _ in range(20):
        busy.tasks.append(busy.client.loop.create_task(busy.client.ask("/api/predict", body)))
    busy.waits(21)
    traced_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert traced_bytes < 5_000_000
