"""PyTorch with `torch.compile`, the encoder in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.peers.network import AllTasks, encoder_of, heads_of
from bench.peers.plain import Heads, Hidden, Ids, Tokens, in_batches

BATCH = 8


class Compiled:
    """One compiled network with all heads."""

    def __init__(self, model: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.heads = Heads(model)
        self.tokens = Tokens(model, self.heads.max_tokens)
        network = AllTasks(encoder_of(model), heads_of(model)).to(torch.bfloat16).eval()
        self.network = torch.compile(network, dynamic=True)
        with torch.inference_mode():  # compiled here and not while the clock runs
            for texts, tokens in ((1, 16), (8, 32), (3, 9)):
                ids = torch.full((texts, tokens), 2000)
                self.network(ids, torch.ones_like(ids))

    def _logits(self, ids: Ids, mask: Ids) -> dict[str, Hidden]:
        with torch.inference_mode():
            outputs = self.network(torch.from_numpy(ids), torch.from_numpy(mask))
        return {task: values.float().numpy() for task, values in zip(self.heads.labels, outputs, strict=True)}

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`."""
        self._logits(ids, mask)
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`."""
        return self.heads.named(in_batches(self.tokens.ids(texts), BATCH, self._logits))


def open_peer(model: Path, built: Path, threads: int) -> Compiled:
    """As `bench.peers` says."""
    return Compiled(model, threads)
