"""Prometheus metrics of one application: requests, texts, the queue, time per stage, truncation."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

# Seconds: from a forward pass of one short text to a time-out.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Metrics in a registry of their own, so that two applications in one process stay apart.

    Args:
        waiting: returns the number of texts accepted and not yet answered.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, open files; on Linux
        self._requests = Counter(
            "triptych_requests", "Requests answered, by path and status.", ["route", "status"], registry=registry
        )
        self._texts = Counter("triptych_texts", "Texts answered.", ["backend"], registry=registry)
        self._truncated = Counter(
            "triptych_truncated_texts", "Texts cut at the model's token limit.", ["backend"], registry=registry
        )
        stages = Histogram(
            "triptych_stage_seconds",
            "Waiting of a request, tokenization and forward pass of a batch, explanation of a text.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._batch = Histogram("triptych_batch_texts", "Texts per batch.", buckets=SIZES, registry=registry)
        self.wait, self.tokenize, self.forward, self.explain = (
            stages.labels(stage) for stage in ("wait", "tokenize", "forward", "explain")
        )
        self._duration = Histogram(
            "triptych_request_seconds",
            "From the head of a request to the end of its response, by path.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        gauge = Gauge("triptych_waiting_texts", "Texts accepted and not yet answered.", registry=registry)
        gauge.set_function(waiting)

    def request(self, route: str, status: int, duration_s: float) -> None:
        """Record one response."""
        self._duration.labels(route).observe(duration_s)
        self._requests.labels(route, str(status)).inc()

    def batch(self, backend: str, texts: int, truncated: int, tokenize_s: float, forward_s: float) -> None:
        """Record one batch."""
        self._batch.observe(texts)
        self._texts.labels(backend).inc(texts)
        if truncated:
            self._truncated.labels(backend).inc(truncated)
        self.tokenize.observe(tokenize_s)
        self.forward.observe(forward_s)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
