"""The ways to run the model that are compared, one module each.

A module is imported in a process and an environment of its own. Besides `ours` and `spinning`, none imports Triptych.
It has `open_peer(model, built, threads, **options)`, which returns a `Peer`, and may have
`build(model, out, **options)`, which writes once what `open_peer` then finds in `built`. `model` is the folder that
`bench.models` writes.
"""

from __future__ import annotations

from typing import Protocol

from bench.peers.plain import Ids


class Peer(Protocol):
    """One opened model."""

    def forward(self, ids: Ids, mask: Ids) -> int:
        """Compute the logits of all tasks for a batch of token ids; return how many times it did so."""
        ...

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """Return the label of each text, by task."""
        ...
