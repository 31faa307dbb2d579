"""The process of one peer: open it, and measure what the bench asks for, an order a line on standard input."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Peer

WARM_UP_S = 0.05
MAX_CALLS = 200
LIBRARIES = ("onnxruntime", "openvino", "nncf", "ctranslate2", "optimum-onnx", "torch", "transformers", "tokenizers")


class Worker:
    """Answers orders, each a method."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def pass_times(self, texts: int, tokens: int, seconds: float, seed: int) -> list[float]:
        """Return milliseconds of forward passes of a batch without padding."""
        ids = np.random.default_rng(seed).integers(1_000, 30_000, (texts, tokens), dtype=np.int64)
        mask = np.ones_like(ids)
        return times(lambda: self.peer.forward(ids, mask), seconds)

    def text_times(self, texts: list[str], seconds: float) -> list[float]:
        """Return milliseconds from texts to the labels of all tasks."""
        return times(lambda: len(self.peer.classify(texts)) and 1, seconds)

    def labels(self, texts: list[str]) -> dict[str, Any]:
        """Return the labels of texts in one call (`together`) and one by one (`alone`), by task."""
        together = self.peer.classify(texts)
        single = [self.peer.classify([text]) for text in texts]
        alone = {task: [answer[task][0] for answer in single] for task in together}
        return {"together": together, "alone": alone}


def times(call: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return milliseconds a pass: calls for so many seconds after a warm-up, at least two, at most `MAX_CALLS`."""
    started = clock()
    while clock() - started < WARM_UP_S:
        call()
    samples: list[float] = []
    started = clock()
    while len(samples) < MAX_CALLS and (len(samples) < 2 or clock() - started < seconds):
        before = clock()
        passes = call()
        samples.append((clock() - before) * 1e3 / passes)
    return samples


def versions() -> dict[str, str]:
    """Return the versions of those of `LIBRARIES` that are installed."""
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def main() -> None:
    """Build once, or open a peer and answer orders until standard input ends."""
    order = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    module = importlib.import_module(f"bench.peers.{order['module']}")
    model, built, options = Path(order["model"]), Path(order["built"]), order["options"]
    if order["build"]:
        if hasattr(module, "build"):
            module.build(model, built, **options)
        return
    worker = Worker(module.open_peer(model, built, order["threads"], **options))
    print(json.dumps(versions()), file=replies, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(getattr(worker, asked.pop("do"))(**asked)), file=replies, flush=True)


if __name__ == "__main__":
    main()
