"""Folders with pickles, as RapidFit and older versions of transformers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import tiny_base
from torch import nn

TASKS = {"topic": ["food", "other", "travel"], "mood": ["down", "up"]}
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


def heads_of(layers: int, activation: str) -> nn.ModuleDict:
    """Heads as RapidFit builds them: a dropout after each activation."""
    torch.manual_seed(1)
    heads = {}
    for task, labels in TASKS.items():
        parts: list[nn.Module] = []
        for _ in range(layers):
            parts += [nn.Linear(32, 32), ACTIVATIONS[activation](), nn.Dropout(0.2)]
        heads[task] = nn.Sequential(*parts, nn.Linear(32, len(labels)))
    return nn.ModuleDict(heads)


def saved(layers: int = 1, activation: str = "gelu", pooling: str = "mean", **other: Any) -> dict[str, Any]:
    """What RapidFit puts into task_heads.pt."""
    return {
        "task_heads": heads_of(layers, activation).state_dict(),
        "task_num_labels": {task: len(labels) for task, labels in TASKS.items()},
        "task_label2id": {task: {label: i for i, label in enumerate(labels)} for task, labels in TASKS.items()},
        "task_id2label": {task: dict(enumerate(labels)) for task, labels in TASKS.items()},
        "head_config": {
            "hidden_layers": layers,
            "hidden_multiplier": 1.0,
            "activation": activation,
            "dropout": 0.2,
        },
        "loss_config": {"label_smoothing": 0.1, "task_weights": {}},
        "pooling": pooling,
        "class_weights": {"mood": torch.ones(2)},
        **other,
    }


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint as RapidFit's `save` writes it."""
    tiny_base(folder / "encoder")
    torch.save(saved(), folder / "task_heads.pt")
    return folder


def write_classifier(folder: Path) -> Path:
    """A Hugging Face classifier whose weights are a pickle, with other files beside it."""
    from transformers import BertConfig, BertForSequenceClassification

    tiny_base(folder)
    (folder / "model.safetensors").unlink()
    config = BertConfig.from_pretrained(folder, id2label={0: "down", 1: "up"}, label2id={"down": 0, "up": 1})
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(folder)
    torch.manual_seed(2)
    torch.save(BertForSequenceClassification(config).state_dict(), folder / "pytorch_model.bin")
    for name in ("modeling.py", "training_args.bin", "trainer_state.json"):
        (folder / name).write_text("raise SystemExit")
    return folder
    return folder
