"""Triptych's INT8 graph in a session of its own, whose threads spin, spin briefly or sleep while they wait."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from bench.peers.plain import Ids
from inference.artifacts.cache import default_cache, obtain
from inference.assets import DEMO_MODEL
from inference.formats.describe import describe


class Session:
    """A session with further settings, by their names in ONNX Runtime."""

    def __init__(self, threads: int, settings: Mapping[str, str]) -> None:
        self.graph = obtain(describe(DEMO_MODEL), default_cache()).read("int8")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for name, value in settings.items():
            options.add_session_config_entry(name, value)
        self.graph.attach(options)
        self.session = onnxruntime.InferenceSession(self.graph.model, options)

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`."""
        self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """Raise: only passes are measured."""
        raise NotImplementedError


def open_peer(model: Path, built: Path, threads: int, settings: Mapping[str, str]) -> Session:
    """As `bench.peers` says."""
    return Session(threads, settings)
