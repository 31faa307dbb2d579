"""An API whose model is busy until it is let go, so that a test decides what waits behind what."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import fakes
import numpy as np
from asgi import Client, Reply
from numpy.typing import NDArray

from inference.api import ApiLimits, create_app

PATIENCE_S = 300


class Gated(fakes.FakeBackend):
    """A fake that answers "book" when it is let."""

    def __init__(self, name: str = "int8") -> None:
        super().__init__(name)
        self.asked, self.gate = threading.Event(), threading.Event()

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        logits = super().logits(input_ids, attention_mask)
        if fakes.WORDS.index("book") in input_ids:
            self.asked.set()
            assert self.gate.wait(PATIENCE_S)
        return logits


class Busy:
    """An API whose model is busy with one text, until `let_go`; requests wait."""

    def __init__(self, backend: Gated | None = None, limits: ApiLimits | None = None, **options: int) -> None:
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
