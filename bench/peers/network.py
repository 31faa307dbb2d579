"""The model as PyTorch modules, for the peers that start from one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooled(BertPreTrainedModel):  # type: ignore[misc]
    """A classifier of one task as `BertForSequenceClassification`, but of the mean of the tokens."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits (texts, labels)."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        assert attention_mask is not None
        return SequenceClassifierOutput(logits=self.classifier(mean(hidden, attention_mask)))


class AllTasks(nn.Module):
    """One encoder and the heads of all tasks."""

    def __init__(self, encoder: nn.Module, heads: dict[str, nn.Linear]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the logits of each task."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = mean(hidden, attention_mask)
        return [head(pooled) for head in self.heads.values()]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the tokens of each text."""
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * kept).sum(1) / kept.sum(1)


def encoder_of(model: Path, attention: str | None = None) -> Any:
    """Load the encoder in float32."""
    chosen = {} if attention is None else {"attn_implementation": attention}
    return AutoModel.from_pretrained(model, dtype=torch.float32, add_pooling_layer=False, **chosen).eval()


def heads_of(model: Path) -> dict[str, nn.Linear]:
    """Load the head of each task."""
    heads = {}
    with np.load(model / "heads.npz") as arrays:
        for task in json.loads((model / "tasks.json").read_text(encoding="utf-8"))["tasks"]:
            weight = torch.from_numpy(arrays[f"{task}.weight"])
            heads[task] = nn.Linear(weight.shape[1], weight.shape[0]).eval()
            heads[task].load_state_dict({"weight": weight, "bias": torch.from_numpy(arrays[f"{task}.bias"])})
    return heads


def of_task(model: Path, task: str, labels: list[str], attention: str | None = None) -> MeanPooled:
    """Load the classifier of one task."""
    encoder = encoder_of(model, attention)
    config = encoder.config
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    network = MeanPooled(config)
    network.bert = encoder
    network.classifier = heads_of(model)[task]
    network.eval()
    return network
