"""Batches that run beside each other: whose they are, how many texts they hold, and that their answers are the same."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from asgi import JSON, Client
from busy import PATIENCE_S, Busy, Gated
from conftest import DEMO
from numpy.typing import NDArray

from inference import Classifier, load
from inference.api import create_app
from inference.api.batching import BATCH_TEXTS_ON_ONE_CORE, Batcher, PredictJob
from inference.api.errors import ApiError
from inference.backends import Backend
from inference.loading import Models

WORDS = [word for word in fakes.WORDS[4:] if word != "book"]


class TwoCores(Gated):
    """One that can be asked beside itself, a core each: `beside` is what answers then."""

    threads = 2

    def __init__(self) -> None:
        super().__init__()
        self.beside = Gated()

    def single_threaded(self) -> Backend:
        return self.beside


@pytest.fixture
def two() -> Iterator[Busy]:
    made = Busy(TwoCores(), batch_size=32)
    made.occupy()
    yield made
    made.let_go()
    made.replies()
    made.client.close()


def test_single_batch_gets_all_cores_and_does_not_block_another(two: Busy) -> None:
    assert two.client.predict(text="good").status == 200
    assert not two.tasks[0].done()
    assert [two.backend.shapes, two.backend.beside.shapes] == [[(1, 3)], [(1, 3)]]
    two.let_go()
    two.replies()
    assert two.client.predict(text="good bad").status == 200
    assert two.backend.shapes == [(1, 3), (1, 4)]


def test_waiting_texts_are_divided_among_the_lanes(two: Busy) -> None:
    two.ask(text="book glad")  # the other lane is busy too now
    two.wait_until(two.backend.beside.asked.is_set)
    for _ in range(12):
        two.ask(text="good")
    two.waits(14)
    two.let_go()
    assert [reply.status for reply in two.replies()] == [200] * 14
    rows = [rows for rows, _ in two.backend.shapes + two.backend.beside.shapes]
    assert sum(rows) == 14
    assert max(rows) == BATCH_TEXTS_ON_ONE_CORE


def test_request_answered_by_several_lanes_keeps_its_order(two: Busy) -> None:
    draw, pauses = random.Random(0), random.Random(0)
    two.let_go()
    for backend in (two.backend, two.backend.beside):
        plain = backend.logits
        backend.logits = lambda plain=plain, **feed: time.sleep(pauses.random() / 500) or plain(**feed)
    texts = [" ".join(draw.choices(fakes.WORDS[4:], k=draw.randint(1, 6))) for _ in range(300)]
    results = [reply.json()["results"] for reply in two.client.together([{"texts": texts}, {"texts": texts[::-1]}])]
    expected = fakes.classifier().predict(texts, "sentiment")
    assert [one["predictions"]["sentiment"]["label"] for one in results[0]] == [one.label for one in expected]
    assert results[1] == results[0][::-1]
    assert sum(rows for rows, _ in two.backend.beside.shapes) > 100


def test_backend_without_lanes_answers_one_batch_at_a_time() -> None:
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


class Breaks(fakes.FakeBackend):
    """Takes its time, and fails at "book"."""

    threads = 3

    def __init__(self, name: str, has_lanes: bool) -> None:
        super().__init__(name)
        self.pauses, self.has_lanes = random.Random(name), has_lanes
        self.running = self.most = 0

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            time.sleep(self.pauses.random() / 1500)
            if fakes.WORDS.index("book") in input_ids:
                raise RuntimeError("no answer")
            return super().logits(input_ids, attention_mask)
        finally:
            self.running -= 1

    def single_threaded(self) -> Backend | None:
        return Breaks(self.name, False) if self.has_lanes else None


@dataclass(frozen=True)
class Asked:
    """One request: every tenth breaks, and another tenth goes at once; of the rest one in eight goes a little later."""

    texts: list[str]
    backend: int
    probe: bool
    pause_s: float
    """Before it is asked."""
    breaks: bool
    patience_s: float


def drawn(seed: int, count: int) -> list[Asked]:
    """The same requests of one to 40 texts for the same seed."""
    draw = random.Random(seed)
    requests = []
    for number in range(count):
        size = draw.choice([1, 1, 1, 2, 5, 20, 40])
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(size)]
        breaks = number % 10 == 3
        if breaks:
            texts[draw.randrange(size)] = "book"
        patience_s: float = PATIENCE_S
        if number % 10 == 7:
            patience_s = 0
        elif not breaks and draw.random() < 1 / 8:
            patience_s = draw.random() / 50
        requests.append(Asked(texts, draw.randrange(2), draw.random() < 0.05, draw.random() / 1000, breaks, patience_s))
    return requests


@pytest.mark.parametrize("seed", range(4))
def test_failures_disconnects_and_shutdown_affect_no_other_request(seed: int) -> None:
    """Some of 200 requests to two backends break, some clients go, and odd seeds stop the server before the 101st."""
    batcher = Batcher(400)
    backends = [Breaks("int8", True), Breaks("pytorch", False)]
    served = [fakes.classifier(backend, batch_size=8) for backend in backends]
    for one in served:
        batcher.prepare(one)
    requests = drawn(seed, 200)
    submitted = requests[:100] if seed % 2 else requests
    expected = fakes.classifier()

    async def end_of(asked: Asked, job: PredictJob) -> str:
        if asked.patience_s:
            await asyncio.wait([job.future], timeout=asked.patience_s)
        if not job.future.done():
            batcher.drop(job)
            return "gone" if asked.patience_s < PATIENCE_S else "lost"
        if job.future.exception():
            return "broken" if asked.breaks else "wrong"
        labels = [one.label for one in job.future.result()["sentiment"]]
        return "answered" if labels == [one.label for one in expected.predict(asked.texts, "sentiment")] else "wrong"

    async def all_of_them() -> Counter[str]:
        ends = []
        for asked in submitted:
            await asyncio.sleep(asked.pause_s)
            async with asyncio.timeout(PATIENCE_S):
                while batcher.waiting + len(asked.texts) > batcher.limit:
                    await asyncio.sleep(0.001)
            job = batcher.submit(served[asked.backend], asked.texts, ["sentiment"], probe=asked.probe)
            if asked.patience_s:
                ends.append(asyncio.ensure_future(end_of(asked, job)))
            else:
                assert await end_of(asked, job) == "gone"
        closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        async with asyncio.timeout(PATIENCE_S):
            while not batcher._closed:
                await asyncio.sleep(0.001)
        for asked in requests[len(submitted) :]:
            with pytest.raises(ApiError, match="shutting down"):
                batcher.submit(served[asked.backend], asked.texts, ["sentiment"], probe=asked.probe)
        counts = Counter(await asyncio.gather(*ends))
        await closing
        return counts

    ends = asyncio.run(all_of_them())
    hasty = sum(0 < asked.patience_s < PATIENCE_S for asked in submitted)
    assert set(ends) <= {"answered", "broken", "gone"}
    assert ends["broken"] == len(submitted) // 10
    assert ends["gone"] <= hasty
    assert ends["answered"] + ends["gone"] == len(submitted) * 8 // 10
    assert (batcher.waiting, len(batcher._jobs), batcher._running.total()) == (0, 0, 0)
    assert not any(lane.is_alive() for lane in batcher._lanes)
    assert backends[1].most == 1


def test_batch_of_a_failing_text_is_answered_one_request_at_a_time() -> None:
    gate = threading.Event()

    class Once(fakes.FakeBackend):
        def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Any:
            if fakes.WORDS.index("book") in input_ids:
                raise RuntimeError("no answer")
            if fakes.WORDS.index("cancel") in input_ids:
                assert gate.wait(PATIENCE_S)
            return super().logits(input_ids, attention_mask)

    made = Busy(batch_size=32)
    made.occupy()
    made.backend.logits = Once().logits
    for text in ("good", "book", "cancel"):
        made.ask(text=text)
    made.waits(4)
    made.let_go()
    made.wait_until(lambda: made.tasks[1].done())  # while the model is at the last one
    assert not made.tasks[3].done()
    gate.set()
    assert [reply.status for reply in made.replies()] == [200, 200, 500, 200]
    made.client.close()


@pytest.fixture(scope="module")
def int8(demo: Path, demo_cache: Path) -> Classifier:
    return load(DEMO, "int8", threads=2)


def test_int8_answers_a_text_the_same_alone_and_in_a_batch(int8: Classifier) -> None:
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
        for task, answer in one.items():
            assert answer["label"] == other[task]["label"]
            # The heads and the pooling are FP32, and sum in another order for another number of rows.
            assert other[task]["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    client.close()


def test_api_answers_equal_those_of_the_classifier(int8: Classifier) -> None:
    client = Client(create_app(int8))
    text = "what a lovely film"
    predictions = client.post("/api/predict", {"text": text, "return_scores": True}, JSON).json()["predictions"]
    assert predictions == {
        task: {
            "label": one.label,
            "confidence": one.confidence,
            "uncertain": one.uncertain,
            "probabilities": dict(one.scores),
        }
        for task, one in int8.predict_all_tasks(text).items()
    }
    client.close()


def test_single_threaded_onnx_gives_the_same_answers_and_is_optional(
    int8: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.onnx import backend as onnx

    wide = load(DEMO, "int8", threads=2).backend
    beside = wide.single_threaded()
    assert beside is not None
    assert (beside.name, beside.threads, beside.single_threaded()) == ("int8", 1, None)
    feed = fakes.feed(4, 12).values()
    single, expected = beside.logits(*feed), wide.logits(*feed)
    for task, values in expected.items():
        assert np.abs(single[task] - values).max() < 1e-5
    assert wide.single_threaded() is beside
    with monkeypatch.context() as patched:
        patched.setattr(onnx, "MAX_SECOND_SESSION_BYTES", 1000)
        assert load(DEMO, "int8", threads=2).backend.single_threaded() is None
    another = load(DEMO, "int8", threads=2).backend
    monkeypatch.setattr(onnx.onnxruntime, "InferenceSession", lambda *_, **__: 1 // 0)
    assert another.single_threaded() is None  # there is no memory for it, say: the model answers as before
