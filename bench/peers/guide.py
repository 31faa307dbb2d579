"""The recipe of inference guides for several tasks: an ONNX session a task, INT8 by `quantize_dynamic`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from bench.peers.plain import Heads, Hidden, Ids

BATCH = 32


def build(model: Path, out: Path, int8: bool) -> None:
    """Export one graph a task, with a whole encoder in each."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from bench.peers.network import of_task

    class Logits(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    for task, labels in Heads(model).labels.items():
        network = Logits(of_task(model, task, labels, "eager")).eval()
        sample = torch.full((2, 8), 2000), torch.ones((2, 8), dtype=torch.int64)
        names = ["input_ids", "attention_mask"]
        plain = out / f"{task}.onnx"
        torch.onnx.export(
            network,
            sample,
            str(plain),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}},
        )
        if int8:
            quantize_dynamic(str(plain), str(out / f"{task}_int8.onnx"), weight_type=QuantType.QInt8)
            plain.unlink()


class Guide:
    """A session a task."""

    def __init__(self, model: Path, built: Path, threads: int, int8: bool) -> None:
        from transformers import AutoTokenizer

        self.heads = Heads(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            task: onnxruntime.InferenceSession(built / f"{task}{'_int8' if int8 else ''}.onnx", options)
            for task in self.heads.labels
        }

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`: every session encodes the batch."""
        for session in self.sessions.values():
            session.run(None, {"input_ids": ids, "attention_mask": mask})
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`, in batches in the order of the texts, tokenized for each task."""
        logits: dict[str, Hidden] = {}
        for task, session in self.sessions.items():
            parts = []
            for start in range(0, len(texts), BATCH):
                batch = texts[start : start + BATCH]
                feed = self.tokenizer(
                    batch, padding=True, truncation=True, max_length=self.heads.max_tokens, return_tensors="np"
                )
                inputs = {name: feed[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
                parts.append(session.run(None, inputs)[0])
            logits[task] = np.concatenate(parts)
        return self.heads.named(logits)


def open_peer(model: Path, built: Path, threads: int, int8: bool) -> Guide:
    """As `bench.peers` says."""
    return Guide(model, built, threads, int8)
