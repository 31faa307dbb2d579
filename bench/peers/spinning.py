"""Triptych's INT8 graph in a session of its own, whose threads spin, spin briefly or sleep while they wait."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from bench.peers.plain import Ids
from inference.artifacts.cache import default_cache, obtain
from inference.assets import DEMO_MODEL
from inference.formats.describe import describe
from inference.onnx.backend import SPIN_US

WAITS = {
    "spinning": {},  # ONNX Runtime's default
    "briefly": {"session.intra_op.spin_duration_us": SPIN_US},
    "sleeping": {"session.intra_op.allow_spinning": "0"},
}


class Session:
    """A session with the settings of a key of `WAITS`."""

    def __init__(self, threads: int, wait: str) -> None:
        self.graph = obtain(describe(DEMO_MODEL), default_cache()).read("int8")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for name, value in WAITS[wait].items():
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


def open_peer(model: Path, built: Path, threads: int, wait: str) -> Session:
    """As `bench.peers` says."""
    return Session(threads, wait)
