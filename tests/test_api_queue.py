"""The queue of the API: who is answered with whom, who is turned away, and what happens to those that leave."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from asgi import JSON, Client, Reply
from conftest import DEMO
from numpy.typing import NDArray

from inference import Classifier, load
from inference.api import Limits, create_app
from inference.api import service as service_module
from inference.api.batching import AT_ONCE_ON_ONE
from inference.backends import Backend
from inference.models import Models

PATIENCE_S = 60


class Gated(fakes.FakeBackend):
    """A fake that answers "book" when it is let."""

    def __init__(self, name: str = "int8") -> None:
        super().__init__(name)
        self.asked, self.gate = threading.Event(), threading.Event()

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        found = super().logits(input_ids, attention_mask)
        if fakes.WORDS.index("book") in input_ids:
            self.asked.set()
            assert self.gate.wait(PATIENCE_S)
        return found


class Busy:
    """An API whose model is busy with one text, until `let_go`; what is asked meanwhile waits."""

    def __init__(self, backend: Gated | None = None, limits: Limits | None = None, **options: int) -> None:
        self.backend: Any = backend or Gated()
        self.client = Client(create_app(fakes.classifier(self.backend, **options), limits=limits))
        self.service = self.client.app.state.service
        self.tasks: list[asyncio.Task[Reply]] = []

    def ask(self, gone_after: float | None = None, **fields: Any) -> None:
        body = json.dumps(fields).encode()
        self.tasks.append(self.client.loop.create_task(self.client.ask("/api/predict", body, gone_after=gone_after)))

    def occupy(self) -> None:
        self.ask(text="book")
        self.wait_until(self.backend.asked.is_set)

    def wait_until(self, true: Callable[[], bool]) -> None:
        async def wait() -> None:
            end = time.monotonic() + PATIENCE_S
            while not true():
                assert time.monotonic() < end
                await asyncio.sleep(0.002)

        self.client.run(wait())

    def waits(self, texts: int) -> None:
        self.wait_until(lambda: self.service.batcher.waiting == texts)

    def let_go(self) -> None:
        for one in (self.backend, getattr(self.backend, "beside", self.backend)):
            one.gate.set()

    def replies(self) -> list[Reply]:
        async def all_of_them() -> list[Reply]:
            return await asyncio.gather(*self.tasks)

        return self.client.run(all_of_them())


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy(batch_size=4)
    made.occupy()
    yield made
    made.let_go()
    made.replies()
    made.client.close()


def test_a_lone_request_goes_at_once_and_those_that_wait_go_together(busy: Busy) -> None:
    for text in ("good", "bad", "sad"):
        busy.ask(text=text)
    busy.waits(4)
    busy.let_go()
    assert [reply.status for reply in busy.replies()] == [200] * 4
    assert [rows for rows, _ in busy.backend.shapes] == [1, 3]


def test_a_batch_holds_no_more_than_the_classifier_takes(busy: Busy) -> None:
    for _ in range(6):
        busy.ask(text="good")
    busy.waits(7)
    busy.let_go()
    busy.replies()
    assert [rows for rows, _ in busy.backend.shapes] == [1, 4, 2]


def test_texts_of_like_length_go_together() -> None:
    busy = Busy(batch_size=32)
    busy.occupy()
    busy.ask(texts=["good", "good bad sad glad good"] * 8)
    busy.waits(17)
    busy.let_go()
    rows = busy.replies()[1].json()["results"]
    assert [row["predictions"]["emotion"]["label"] for row in rows] == ["joy", "joy"] * 8
    assert busy.backend.shapes == [(1, 3), (8, 3), (8, 7)]
    busy.client.close()


def test_a_large_request_does_not_hold_up_a_small_one(busy: Busy) -> None:
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


def test_texts_past_the_limit_are_turned_away_with_a_time_to_come_back() -> None:
    busy = Busy(limits=Limits(waiting_texts=10))
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


def test_who_waits_too_long_gets_503_and_its_texts_are_not_answered() -> None:
    busy = Busy(limits=Limits(timeout_s=1))
    busy.occupy()
    busy.ask(texts=["good"] * 5)
    late = busy.replies()
    assert [(reply.status, reply.code) for reply in late] == [(503, "timed_out")] * 2
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in late)
    assert busy.service.batcher.waiting == 0
    busy.let_go()
    busy.client.close()  # when all that was admitted is answered
    assert len(busy.backend.shapes) == 1  # the slow one: those that were given up never ran


def test_the_texts_of_a_client_that_has_gone_are_not_answered(busy: Busy) -> None:
    busy.ask(texts=["good"] * 5, gone_after=0.2)
    busy.waits(6)
    busy.waits(1)
    busy.let_go()
    busy.replies()
    assert [rows for rows, _ in busy.backend.shapes] == [1]
    assert 'route="/api/predict",status="499"} 1.0' in busy.client.get("/api/metrics").body.decode()


def test_ready_is_bounded_and_says_no_while_the_model_hangs(monkeypatch: pytest.MonkeyPatch, busy: Busy) -> None:
    monkeypatch.setattr(service_module, "PROBE_S", 0.2)
    reply = busy.client.get("/api/ready")
    assert (reply.status, reply.code) == (503, "not_ready")
    assert busy.client.get("/api/live").status == 200


def test_ready_goes_before_those_that_wait_and_many_who_ask_make_one_pass(busy: Busy) -> None:
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


def test_a_server_that_stops_answers_what_it_has_and_is_not_ready(busy: Busy) -> None:
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


def test_five_times_as_much_as_can_be_answered_gives_200_429_or_503_and_nothing_else() -> None:
    class Slow(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            time.sleep(0.002)
            return super().logits(input_ids, attention_mask)

    client = Client(create_app(fakes.classifier(Slow()), limits=Limits(waiting_texts=40, timeout_s=5)))
    bodies = [{"texts": ["good"] * (1 + number % 8)} for number in range(200)]
    for _ in range(3):
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


def test_a_panic_below_fails_its_own_request_and_the_next_one_is_answered() -> None:
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


def test_an_error_in_the_bookkeeping_fails_the_batch_at_hand_and_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
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


class TwoCores(Gated):
    """One that can be asked beside itself, a core each: `beside` is what answers then."""

    threads = 2

    def __init__(self) -> None:
        super().__init__()
        self.beside = Gated()

    def on_one_thread(self) -> Backend:
        return self.beside


@pytest.fixture
def two() -> Iterator[Busy]:
    made = Busy(TwoCores(), batch_size=32)
    made.occupy()
    yield made
    made.let_go()
    made.replies()
    made.client.close()


def test_a_lone_batch_gets_all_cores_and_one_beside_it_is_not_held_up(two: Busy) -> None:
    assert two.client.predict(text="good").status == 200
    assert not two.tasks[0].done()
    assert [two.backend.shapes, two.backend.beside.shapes] == [[(1, 3)], [(1, 3)]]
    two.let_go()
    two.replies()
    assert two.client.predict(text="good bad").status == 200
    assert two.backend.shapes == [(1, 3), (1, 4)]


def test_what_waits_is_shared_among_the_lanes(two: Busy) -> None:
    two.ask(text="book glad")  # the other lane is busy too now
    two.wait_until(two.backend.beside.asked.is_set)
    for _ in range(12):
        two.ask(text="good")
    two.waits(14)
    two.let_go()
    assert [reply.status for reply in two.replies()] == [200] * 14
    rows = [rows for rows, _ in two.backend.shapes + two.backend.beside.shapes]
    assert sum(rows) == 14
    assert max(rows) == AT_ONCE_ON_ONE


def test_a_request_that_is_answered_by_several_lanes_keeps_the_order_of_its_texts(two: Busy) -> None:
    draw = random.Random(0)
    two.let_go()
    for backend in (two.backend, two.backend.beside):
        plain = backend.logits
        backend.logits = lambda plain=plain, **feed: time.sleep(draw.random() / 500) or plain(**feed)
    texts = [" ".join(draw.choices(fakes.WORDS[4:], k=draw.randint(1, 6))) for _ in range(300)]
    found = [reply.json()["results"] for reply in two.client.together([{"texts": texts}, {"texts": texts[::-1]}])]
    expected = fakes.classifier().predict(texts, "sentiment")
    assert [one["predictions"]["sentiment"]["label"] for one in found[0]] == [one.label for one in expected]
    assert found[1] == found[0][::-1]
    assert sum(rows for rows, _ in two.backend.beside.shapes) > 100


def test_a_backend_that_has_no_other_answers_one_batch_at_a_time() -> None:
    busiest = running = 0

    class Counts(fakes.FakeBackend):
        threads = 2

        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            nonlocal busiest, running
            running += 1
            busiest = max(busiest, running)
            time.sleep(0.002)
            running -= 1
            return super().logits(input_ids, attention_mask)

    models = {"pytorch": Counts(), "int8": TwoCores()}
    models["int8"].gate.set()
    client = Client(create_app(Models(fakes.bundle(), lambda name: fakes.classifier(models[name]))))
    bodies = [{"text": "good", "backend": name} for name in ("int8", "pytorch") * 20]
    assert {reply.status for reply in client.together(bodies)} == {200}
    assert busiest == 1
    client.close()


@pytest.fixture(scope="module")
def int8(demo: Path, demo_cache: Path) -> Classifier:
    return load(DEMO, "int8")


def test_int8_gives_a_text_the_same_answer_alone_and_in_a_crowd(int8: Classifier) -> None:
    from inference.assets import showcase_texts

    texts = showcase_texts()[:64]
    client = Client(create_app(int8))
    bodies = [{"text": text, "return_scores": True} for text in texts]
    alone = [client.post("/api/predict", body).json()["predictions"] for body in bodies]
    before = len(texts)
    crowd = [reply.json()["predictions"] for reply in client.together(bodies)]
    page = client.get("/api/metrics").body.decode()
    batches = float(page.split("triptych_batch_texts_count ")[1].split("\n")[0]) - before
    assert batches < 32  # the crowd was answered together, and not one by one
    for one, other in zip(alone, crowd, strict=True):
        for task, found in one.items():
            assert found["label"] == other[task]["label"]
            # The heads and the pooling are FP32, and sum in another order for another number of rows.
            assert other[task]["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    client.close()


def test_answers_of_the_api_are_those_of_the_classifier(int8: Classifier) -> None:
    client = Client(create_app(int8))
    text = "what a lovely film"
    found = client.post("/api/predict", {"text": text, "return_scores": True}, JSON).json()["predictions"]
    assert found == {
        task: {
            "label": one.label,
            "confidence": one.confidence,
            "uncertain": one.uncertain,
            "probabilities": dict(one.scores),
        }
        for task, one in int8.predict_all_tasks(text).items()
    }
    client.close()


def test_onnx_on_one_thread_gives_the_same_answers_and_is_left_out_where_it_does_not_pay(
    int8: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.onnx import backend as onnx

    wide = load(DEMO, "int8", threads=2).backend
    beside = wide.on_one_thread()
    assert beside is not None
    assert (beside.name, beside.threads, beside.on_one_thread()) == ("int8", 1, None)
    feed = fakes.feed(4, 12).values()
    found, expected = beside.logits(*feed), wide.logits(*feed)
    for task, values in expected.items():
        assert np.abs(found[task] - values).max() < 1e-5
    monkeypatch.setattr(onnx, "MOST_TWICE", 1000)
    assert wide.on_one_thread() is None
