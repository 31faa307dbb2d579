"""Optimum's export, quantized dynamically with its preset for this processor."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from bench.peers.plain import Heads, Hidden, Ids, Tokens, in_batches

BATCH = 8


def build(model: Path, out: Path, preset: str) -> None:
    """Export the encoder and quantize it. `preset` is "avx512_vnni" or "avx2"."""
    ORTModelForFeatureExtraction.from_pretrained(str(model), export=True).save_pretrained(out)
    settings = getattr(AutoQuantizationConfig, preset)(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(out, file_name="model.onnx").quantize(save_dir=out, quantization_config=settings)


class Optimum:
    """The quantized encoder, with pooling and heads in NumPy: no class of Optimum's pools the mean and classifies."""

    def __init__(self, model: Path, built: Path, threads: int) -> None:
        self.heads = Heads(model)
        self.tokens = Tokens(model, self.heads.max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder = ORTModelForFeatureExtraction.from_pretrained(
            str(built), file_name="model_quantized.onnx", session_options=options
        )

    def _logits(self, ids: Ids, mask: Ids) -> dict[str, Hidden]:
        hidden = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=ids * 0).last_hidden_state
        return self.heads.logits(hidden, mask)

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`."""
        self._logits(ids, mask)
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`."""
        return self.heads.named(in_batches(self.tokens.ids(texts), BATCH, self._logits))


def open_peer(model: Path, built: Path, threads: int, preset: str) -> Optimum:
    """As `bench.peers` says."""
    return Optimum(model, built, threads)
