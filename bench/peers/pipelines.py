"""The plain pipeline of transformers, one a task, in FP32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, pipeline
from transformers.utils import logging

from bench.peers.network import of_task
from bench.peers.plain import Heads, Ids


class Pipelines:
    """A `pipeline("text-classification")` a task."""

    def __init__(self, model: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        logging.set_verbosity(logging.CRITICAL)  # it does not know the class that pools the mean
        heads = Heads(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.limits = {"truncation": True, "max_length": heads.max_tokens}
        self.pipelines: dict[str, Any] = {
            task: pipeline("text-classification", model=of_task(model, task, labels), tokenizer=tokenizer, device="cpu")
            for task, labels in heads.labels.items()
        }

    def forward(self, ids: Ids, mask: Ids) -> int:
        """As `Peer.forward`: every model encodes the batch."""
        with torch.no_grad():
            for each in self.pipelines.values():
                each.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return 1

    def classify(self, texts: list[str]) -> dict[str, list[str]]:
        """As `Peer.classify`: text by text, which its documentation advises on a CPU."""
        return {
            task: [answer["label"] for answer in each(texts, **self.limits)] for task, each in self.pipelines.items()
        }


def open_peer(model: Path, built: Path, threads: int) -> Pipelines:
    """As `bench.peers` says."""
    return Pipelines(model, threads)
