"""The training loop: resumable, seeded, one task per batch on a shared encoder."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from inference.classifier import pad
from inference.network import Network, load_encoder, quiet_peft
from training.data import TaskData, class_weights, plan_batches

CHECKPOINT_STEPS = 500


@dataclass(frozen=True)
class Settings:
    """How a run is made; written into the bundle so that it can be made again."""

    epochs: dict[str, float]
    seed: int = 13
    rank: int = 64
    batch_size: int = 64
    learning_rate: float = 4e-4
    head_learning_rate: float = 2e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    lora_dropout: float = 0.0
    class_weight_power: float = 0.25
    max_tokens: int = 128
    precision: str = "bf16"
    target_modules: list[str] = field(default_factory=lambda: ["query", "key", "value", "dense"])


def new_network(base: Path, tasks: dict[str, TaskData], settings: Settings) -> Network:
    """The base encoder with a fresh LoRA adapter, and a fresh head for each task."""
    torch.manual_seed(settings.seed)
    encoder = load_encoder(base)
    hidden_size = encoder.config.hidden_size
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.target_modules,
        task_type="FEATURE_EXTRACTION",
    )
    with quiet_peft():
        adapted = get_peft_model(encoder, config)
    return Network(adapted, hidden_size, {name: len(data.labels) for name, data in tasks.items()})


def train(
    network: Network, tokenizer: Tokenizer, tasks: dict[str, TaskData], settings: Settings, checkpoint: Path
) -> None:
    """Fit `network` in place; an interrupted run goes on from `checkpoint` when called again.

    Args:
        network: fresh from `new_network` with the same settings.
        tokenizer: without padding; truncation is set here.
        tasks: their `fit` rows are used and nothing else.
        checkpoint: a folder for the state of the run, replaced every `CHECKPOINT_STEPS` steps.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_tokens)
    ids = {name: [e.ids for e in tokenizer.encode_batch_fast(data.fit.texts)] for name, data in tasks.items()}
    plan = plan_batches(
        {name: [len(row) for row in rows] for name, rows in ids.items()},
        settings.epochs,
        settings.batch_size,
        settings.seed,
    )
    losses = {
        name: nn.CrossEntropyLoss(
            weight=torch.tensor(class_weights(data.fit, data.labels, settings.class_weight_power)),
            label_smoothing=settings.label_smoothing,
        )
        for name, data in tasks.items()
    }
    heads = list(network.heads.parameters())
    adapter = [p for p in network.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": adapter, "lr": settings.learning_rate}, {"params": heads, "lr": settings.head_learning_rate}],
        weight_decay=settings.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    trainable = adapter + heads
    fitted = {name: [data.labels, data.fit.texts, data.fit.label_ids] for name, data in tasks.items()}
    run = {"settings": asdict(settings), "data": hashlib.sha256(json.dumps(fitted).encode()).hexdigest()}
    start = _resume(checkpoint, run, trainable, optimizer)
    warmup = max(1, round(settings.warmup_share * len(plan)))
    order = list(network.heads)
    network.train()
    running = dict.fromkeys(tasks, 0.0)
    with tqdm(total=len(plan), initial=start, unit="step", smoothing=0.05, mininterval=5) as bar:
        for step in range(start, len(plan)):
            task, rows = plan[step]
            torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout as in an uninterrupted run
            scale = min((step + 1) / warmup, (len(plan) - step) / max(1, len(plan) - warmup))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
            feed = {name: torch.from_numpy(array) for name, array in pad([ids[task][row] for row in rows]).items()}
            target = torch.tensor([tasks[task].fit.label_ids[row] for row in rows])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
                pooled = network.pooled(**feed)
            logits = network.heads[task](pooled)
            loss = losses[task](logits, target)
            loss.backward()
            nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            running[task] += 0.02 * (loss.item() - running[task]) if running[task] else loss.item()
            bar.update()
            if step % 20 == 0:
                bar.set_postfix({name: f"{running[name]:.3f}" for name in order}, refresh=False)
            if (step + 1) % CHECKPOINT_STEPS == 0:
                _save(checkpoint, step + 1, run, trainable, optimizer)
    network.eval()


def _save(
    checkpoint: Path, step: int, run: dict[str, Any], trainable: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    fresh = checkpoint.with_name(checkpoint.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    state = {f"{i}.value": p.detach() for i, p in enumerate(trainable)}
    for i, p in enumerate(trainable):
        moments = optimizer.state.get(p, {})  # a task that has not come up yet has none
        state.update({f"{i}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq", "step") if key in moments})
    save_file(state, fresh / "state.safetensors")
    (fresh / "run.json").write_text(json.dumps({"step": step, **run}))
    shutil.rmtree(checkpoint, ignore_errors=True)
    fresh.replace(checkpoint)


def _resume(
    checkpoint: Path, run: dict[str, Any], trainable: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> int:
    """The step to go on from: 0 without a checkpoint, or with one of other settings or other rows."""
    if not (checkpoint / "run.json").is_file():
        return 0
    saved = json.loads((checkpoint / "run.json").read_text())
    if {**saved, "step": 0} != {**run, "step": 0}:
        return 0
    state = load_file(checkpoint / "state.safetensors")
    with torch.no_grad():
        for i, p in enumerate(trainable):
            p.copy_(state[f"{i}.value"])
            moments = {key: state[f"{i}.{key}"] for key in ("exp_avg", "exp_avg_sq", "step") if f"{i}.{key}" in state}
            if moments:
                optimizer.state[p] = moments
    return int(saved["step"])
