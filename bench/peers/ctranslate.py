"""CTranslate2's converter and encoder with 8-bit weights."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np

from bench.peers.plain import Heads, Hidden, Ids, Tokens, in_batches

BATCH = 8


def build(model: Path, out: Path) -> None:
    """Convert the encoder."""
    converter = ctranslate2.converters.TransformersConverter(str(model))
    converter.convert(str(out / "encoder"), quantization="int8")


class CTranslate2:
    """The converted encoder, with pooling and heads in NumPy: CTranslate2 has no classifiers."""

    def __init__(self, model: Path, built: Path, threads: int) -> None:
        self.heads = Heads(model)
        self.tokens = Tokens(model, self.heads.max_tokens)
        self.encoder = ctranslate2.Encoder(
            str(built / "encoder"), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )

    def _logits(self, ids: Ids, mask: Ids) -> dict[str, Hidden]:
        rows = [row[:length].tolist() for row, length in zip(ids, mask.sum(1), strict=True)]
        return self.heads.logits(np.asarray(self.encoder.forward_batch(rows).last_hidden_state), mask)

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`."""
        self._logits(ids, mask)
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`."""
        return self.heads.named(in_batches(self.tokens.ids(texts), BATCH, self._logits))


def open_peer(model: Path, built: Path, threads: int) -> CTranslate2:
    """As `bench.peers` says."""
    return CTranslate2(model, built, threads)
