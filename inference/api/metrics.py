"""What Prometheus reads of one application: requests, texts, what waits, where time goes, what was cut."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

# Seconds: from a forward pass of one short text to a time-out.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The figures of one application, in a registry of its own: two applications in a process do not add up.

    Args:
        waiting: how many texts are admitted and not answered yet.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux
        self._requests = Counter(
            "triptych_requests", "Requests answered, by address and status.", ["route", "status"], registry=registry
        )
        self._texts = Counter("triptych_texts", "Texts answered.", ["backend"], registry=registry)
        self._truncated = Counter(
            "triptych_truncated_texts", "Texts of which the model did not see the end.", ["backend"], registry=registry
        )
        stages = Histogram(
            "triptych_stage_seconds",
            "A request waits, a batch is tokenized and goes forward, a text is explained.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._batch = Histogram("triptych_batch_texts", "Texts answered together.", buckets=SIZES, registry=registry)
        self.wait, self.tokenize, self.forward, self.explain = (
            stages.labels(stage) for stage in ("wait", "tokenize", "forward", "explain")
        )
        self._spent = Histogram(
            "triptych_request_seconds",
            "From the head of a request to the end of its answer, by address.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        Gauge("triptych_waiting_texts", "Texts admitted and not answered yet.", registry=registry).set_function(waiting)
        self._children: dict[tuple[str, int], Counter] = {}

    def request(self, route: str, status: int, spent_s: float) -> None:
        """One request was answered."""
        self._spent.labels(route).observe(spent_s)
        child = self._children.get((route, status))
        if child is None:  # both come from short lists of our own: nobody can make new ones
            child = self._children[route, status] = self._requests.labels(route, str(status))
        child.inc()

    def batch(self, backend: str, texts: int, truncated: int, tokenize_s: float, forward_s: float) -> None:
        """So many texts went through the model together."""
        self._batch.observe(texts)
        self._texts.labels(backend).inc(texts)
        if truncated:
            self._truncated.labels(backend).inc(truncated)
        self.tokenize.observe(tokenize_s)
        self.forward.observe(forward_s)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
