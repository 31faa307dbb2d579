"""OpenVINO on INT8 by NNCF's post-training quantization, both with their own defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.peers.plain import Heads, Hidden, Ids, Tokens, by_length, in_batches, padded

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # both work without it

import openvino  # noqa: E402

BATCH = 8
OUTPUT_PREFIX = "logits_"
CALIBRATION_TEXTS = 160


def build(model: Path, out: Path, calibration: str, hint: str) -> None:
    """Quantize the FP32 graph with all three heads. `calibration` is a file with a text a line."""
    import nncf

    lines = Path(calibration).read_text(encoding="utf-8").splitlines()
    rows = Tokens(model, Heads(model).max_tokens).ids(lines[:: max(1, len(lines) // CALIBRATION_TEXTS)])
    feeds = [dict(zip(("input_ids", "attention_mask"), padded([row]), strict=True)) for row in rows]
    network = openvino.Core().read_model(model / "graph.onnx")
    for number, node in enumerate(network.get_ordered_ops()):  # NNCF finds nodes by names, which may occur twice
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}.{number}")
    quantized = nncf.quantize(
        network, nncf.Dataset(feeds), subset_size=len(feeds), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(quantized, out / "model.xml", compress_to_fp16=False)


class OpenVino:
    """A compiled model; with the hint THROUGHPUT, passes run side by side in an AsyncInferQueue."""

    def __init__(self, model: Path, built: Path, threads: int, hint: str) -> None:
        self.heads = Heads(model)
        self.tokens = Tokens(model, self.heads.max_tokens)
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        self.compiled = openvino.Core().compile_model(built / "model.xml", "CPU", settings)
        self.outputs = [port.get_any_name() for port in self.compiled.outputs]
        self.request = self.compiled.create_infer_request()
        self.queue = openvino.AsyncInferQueue(self.compiled) if hint == "THROUGHPUT" else None

    def _named(self, request: Any) -> dict[str, Hidden]:
        return {name.removeprefix(OUTPUT_PREFIX): request.get_tensor(name).data.copy() for name in self.outputs}

    def _logits(self, ids: Ids, mask: Ids) -> dict[str, Hidden]:
        self.request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True, share_outputs=True)
        return self._named(self.request)

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`; with a queue, twice as many passes as it has requests."""
        if self.queue is None:
            self._logits(ids, mask)
            return 1
        passes = 2 * len(self.queue)
        for _ in range(passes):
            self.queue.start_async({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        self.queue.wait_all()
        return passes

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`."""
        rows = self.tokens.ids(texts)
        if self.queue is None or len(rows) <= BATCH:
            return self.heads.named(in_batches(rows, BATCH, self._logits))
        labels: dict[str, list[str]] = {task: [""] * len(rows) for task in self.heads.labels}

        def keep(request: Any, batch: list[int]) -> None:
            named = self.heads.named(self._named(request))
            for task, values in named.items():
                for row, label in zip(batch, values, strict=True):
                    labels[task][row] = label

        self.queue.set_callback(keep)
        # Shared as in `forward`: a request that is fed both ways would write copies into arrays that are gone.
        fed = []
        for batch in reversed(by_length(rows, BATCH)):
            ids, mask = padded([rows[row] for row in batch])
            fed.append((ids, mask))
            self.queue.start_async({"input_ids": ids, "attention_mask": mask}, batch, share_inputs=True)
        self.queue.wait_all()
        self.queue.set_callback(lambda *_: None)
        return labels


def open_peer(model: Path, built: Path, threads: int, calibration: str, hint: str) -> OpenVino:
    """As `bench.peers` says."""
    return OpenVino(model, built, threads, hint)
