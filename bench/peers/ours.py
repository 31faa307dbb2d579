"""Triptych itself, through `load` and `Classifier`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.peers.plain import Ids
from inference import Classifier, load
from inference.assets import DEMO_MODEL
from inference.backends import Backend, Logits

# Texts and tokens of a pass of a CPU before lists ran on lanes.
WITHOUT_LANES = (32, 2048)


class OneAtATime:
    """A backend whose batches run one after the other, each on all threads."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.device, self.threads = backend.name, backend.device, backend.threads
        self.logits = backend.logits

    def single_threaded(self) -> None:
        """As `Backend.single_threaded`: never."""


def open_classifier(backend: str, threads: int, lanes: bool = True) -> Classifier:
    """Open the demo model; without lanes, with the batches that it had then."""
    classifier = load(DEMO_MODEL, backend, threads=threads)
    if lanes:
        return classifier
    return Classifier(classifier.bundle, OneAtATime(classifier.backend), classifier.tokenizer, *WITHOUT_LANES)


class Ours:
    """A classifier with the defaults of `load`."""

    def __init__(self, backend: str, threads: int, lanes: bool) -> None:
        self.classifier = open_classifier(backend, threads, lanes)

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`."""
        logits: Logits = self.classifier.backend.logits(ids, mask)
        return 1 if logits else 0

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`."""
        answers = self.classifier.classify(texts).predictions
        return {task: [prediction.label for prediction in predictions] for task, predictions in answers.items()}


def build(model: Path, out: Path, backend: str, lanes: bool = True) -> None:
    """Fill Triptych's own cache."""
    load(DEMO_MODEL, backend)


def open_peer(model: Path, built: Path, threads: int, backend: str, lanes: bool = True, **_: Any) -> Ours:
    """As `bench.peers` says."""
    return Ours(backend, threads, lanes)
