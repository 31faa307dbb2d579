"""The training loop: resumable, seeded, one task per batch on a shared encoder; it stops early if told to."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from inference.calls.texts import pad
from inference.classifier import probabilities
from inference.compare.metrics import metrics
from inference.compare.rows import LabelledRows
from inference.errors import InputError
from inference.formats.bundle import MULTI, SINGLE, Task
from inference.pytorch.network import Network, load_encoder, quiet_peft
from training.data import TaskData, class_weights, plan_batches
from training.qlora import quantise
from training.teacher import Distillation, SoftLabels

ENCODED_TEXTS = 256  # per tokenizer call: an encoding also holds the tokens past the limit
CHECKPOINT_SECONDS = 60  # between checkpoints: what a run that is killed may lose
METHODS = ("lora", "full", "heads", "qlora")
ADAPTED = ("lora", "qlora")  # an adapter is trained; else the whole encoder or nothing of it


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a run; written into the bundle so that it can be repeated."""

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
    method: str = "lora"
    early_stopping: int = 0
    """Number of evaluations without a better macro-F1 on the tuning rows that end the run; 0 for never."""
    distillation: Distillation | None = None
    """How it learns from a teacher, if it has one."""

    def written(self) -> dict[str, Any]:
        """Return the fields for the bundle, without those of an adapter or a teacher if there is none."""
        unused = {"rank", "lora_dropout", "target_modules"} if self.method not in ADAPTED else set()
        unused |= {"distillation"} if self.distillation is None else set()
        return {key: value for key, value in asdict(self).items() if key not in unused}


@dataclass(frozen=True)
class History:
    """The course of a run."""

    steps: int
    planned: int
    scores: list[float]
    """Macro-F1 on the tuning rows, mean of the tasks, at each evaluation; empty without early stopping."""

    def written(self) -> dict[str, Any]:
        """Return the fields for the bundle."""
        scores = [round(score, 4) for score in self.scores]
        best = {"tuning_macro_f1": scores, "kept": int(np.argmax(self.scores)) + 1} if scores else {}
        return {"steps": self.steps, "planned_steps": self.planned, **best}


def new_network(base: Path, tasks: dict[str, TaskData], settings: Settings) -> Network:
    """Return the base encoder, prepared for the training method, with a new head for each task.

    Raises:
        InputError: `max_tokens` is more than the base can read, or too few.
        MissingDependencyError: a library for the method is not installed.
    """
    torch.manual_seed(settings.seed)
    encoder = load_encoder(base)
    hidden_size = encoder.config.hidden_size
    sizes = {name: len(data.labels) for name, data in tasks.items()}
    positions = getattr(encoder.config, "max_position_embeddings", settings.max_tokens)
    if not 8 <= settings.max_tokens <= positions:
        raise InputError(f"max_tokens={settings.max_tokens} must be from 8 to {positions}, the maximum of the base.")
    if settings.method not in ADAPTED:
        encoder.requires_grad_(settings.method == "full")
        return Network(encoder, hidden_size, sizes)
    if settings.method == "qlora":
        quantise(encoder)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.target_modules,
        task_type="FEATURE_EXTRACTION",
    )
    with quiet_peft():
        adapted = get_peft_model(encoder, config)
    return Network(adapted, hidden_size, sizes)


def task_loss(data: TaskData, settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a task with the label weights and smoothing of the settings.

    Where a text may have several labels, it is that of the one label which is known, and says nothing of the others.
    """
    if data.problem_type == MULTI:
        return lambda logits, target: functional.softplus(-logits.gather(1, target.unsqueeze(1))).mean()
    return nn.CrossEntropyLoss(
        weight=torch.tensor(class_weights(data.fit, data.labels, settings.class_weight_power)),
        label_smoothing=settings.label_smoothing,
    )


def distillation_loss(
    logits: Tensor,
    target: Tensor,
    scores: Tensor,
    label_loss: Callable[[Tensor, Tensor], Tensor],
    how: Distillation,
    problem_type: str,
) -> Tensor:
    """Return teacher_weight * T ** 2 * KL(teacher || student at temperature T) + label_weight * label_loss.

    Both are means over the batch, to which a text without an answer of the teacher, or without a label, adds 0. T ** 2
    keeps the gradient as large as at T = 1 (Hinton, Vinyals & Dean 2015). Where a text may have several labels, the KL
    divergence is the sum of those of each label.

    Args:
        logits: of the student, (texts, labels).
        target: position of each text's label, -1 without one.
        scores: of the teacher, (texts, labels); NaN in rows without an answer.
    """
    answered, labelled = ~scores.isnan().any(1), target >= 0
    student, teacher = logits[answered] / how.temperature, scores[answered]
    if problem_type == MULTI:
        soft = (teacher.logit(1e-7) / how.temperature).sigmoid()
        entropy = functional.binary_cross_entropy(soft, soft, reduction="sum")
        divergence = functional.binary_cross_entropy_with_logits(student, soft, reduction="sum") - entropy
    else:
        soft = (teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / how.temperature).softmax(1)
        divergence = functional.kl_div(student.log_softmax(1), soft, reduction="sum")
    loss = how.teacher_weight * how.temperature**2 * divergence / len(logits)
    if how.label_weight and labelled.any():
        loss = loss + how.label_weight * labelled.float().mean() * label_loss(logits[labelled], target[labelled])
    return loss


def _loss_of_rows(
    data: TaskData, settings: Settings, target: Sequence[int], soft: SoftLabels | None
) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Return the loss of a task as a function of the logits of some of its rows and of their numbers."""
    label_loss, how = task_loss(data, settings), settings.distillation

    def loss(logits: Tensor, rows: Sequence[int]) -> Tensor:
        labels = torch.tensor([target[row] for row in rows])
        if soft is None or how is None:
            return label_loss(logits, labels)
        return distillation_loss(logits, labels, torch.from_numpy(soft.of(rows)), label_loss, how, data.problem_type)

    return loss


def train(
    network: Network,
    tokenizer: Tokenizer,
    tasks: dict[str, TaskData],
    settings: Settings,
    checkpoint: Path,
    soft: Mapping[str, SoftLabels] | None = None,
) -> History:
    """Fit `network` in place; called again after an interruption, continue from `checkpoint`.

    Args:
        network: fresh from `new_network` with the same settings.
        tokenizer: without padding; truncation is set here.
        tasks: their `fit` rows are trained on; the `tuning` rows are used for early stopping only.
        checkpoint: a folder for the state of the run, replaced every `CHECKPOINT_SECONDS` and on Ctrl-C.
        soft: what the teacher of `settings.distillation` says of the rows of a task, and texts without a label.

    Raises:
        InputError: the epochs of a task are less than one row.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_tokens)
    soft = soft or {}
    unlabelled = {name: soft[name].unlabelled if name in soft else [] for name in tasks}
    ids = {name: _token_ids(tokenizer, [*data.fit.texts, *unlabelled[name]]) for name, data in tasks.items()}
    targets = {name: [*data.fit.label_ids, *[-1] * len(unlabelled[name])] for name, data in tasks.items()}
    plan = plan_batches(
        {name: [len(row) for row in rows] for name, rows in ids.items()},
        settings.epochs,
        settings.batch_size,
        settings.seed,
    )
    losses = {name: _loss_of_rows(data, settings, targets[name], soft.get(name)) for name, data in tasks.items()}
    heads = list(network.heads.parameters())
    adapter = [p for p in network.encoder.parameters() if p.requires_grad]  # or the encoder, or nothing
    optimizer = torch.optim.AdamW(
        [{"params": adapter, "lr": settings.learning_rate}, {"params": heads, "lr": settings.head_learning_rate}],
        weight_decay=settings.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    trainable = adapter + heads
    fitted = {name: [data.labels, data.fit.texts, unlabelled[name], targets[name]] for name, data in tasks.items()}
    run = {"settings": asdict(settings), "data": hashlib.sha256(json.dumps(fitted).encode()).hexdigest()}
    start, scores, best = _resume(checkpoint, run, trainable, optimizer)
    patience = settings.early_stopping
    every = max(1, math.ceil(len(plan) / max(settings.epochs.values())))  # once per epoch of the task with most epochs
    warmup = max(1, round(settings.warmup_share * len(plan)))
    order = list(network.heads)
    network.train()
    running = dict.fromkeys(tasks, 0.0)
    done, saved = start, time.monotonic()
    settled = True  # the weights are those after `done` steps, so that they can be saved
    try:
        with tqdm(total=len(plan), initial=start, unit="step", smoothing=0.05, mininterval=5) as bar:
            while True:
                due = done // every + (done == len(plan) and done % every > 0)
                if patience and len(scores) < due:
                    score = _tuning_score(network, tokenizer, tasks)
                    if score > max(scores, default=-1.0):
                        best = [p.detach().clone() for p in trainable]
                    scores.append(score)
                    network.train()
                if done == len(plan) or (scores and len(scores) - 1 - int(np.argmax(scores)) >= patience):
                    break
                if done > start and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    _save(checkpoint, done, run, trainable, optimizer, scores, best)
                    saved = time.monotonic()
                task, rows = plan[done]
                torch.manual_seed(settings.seed * 1_000_003 + done)  # the same dropout as in an uninterrupted run
                scale = min((done + 1) / warmup, (len(plan) - done) / max(1, len(plan) - warmup))
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * scale
                feed = {name: torch.from_numpy(array) for name, array in pad([ids[task][row] for row in rows]).items()}
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
                    pooled = network.pooled(**feed)
                logits = network.heads[task](pooled)
                loss = losses[task](logits, rows)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trainable, 1.0)
                settled = False
                optimizer.step()
                done += 1
                settled = True
                running[task] += 0.02 * (loss.item() - running[task]) if running[task] else loss.item()
                bar.update()
                if done % 20 == 1:
                    bar.set_postfix({name: f"{running[name]:.3f}" for name in order}, refresh=False)
    except KeyboardInterrupt:
        if done and settled:
            _save(checkpoint, done, run, trainable, optimizer, scores, best)
        raise
    if best:
        with torch.no_grad():
            for p, value in zip(trainable, best, strict=True):
                p.copy_(value)
    network.eval()
    return History(done, len(plan), scores)


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Sequence[int]]:
    """Return the token ids of each text, in little memory."""
    blocks = (texts[start : start + ENCODED_TEXTS] for start in range(0, len(texts), ENCODED_TEXTS))
    return [array("i", encoding.ids) for block in blocks for encoding in tokenizer.encode_batch_fast(list(block))]


def answer(
    network: Network, tokenizer: Tokenizer, task: str, texts: Sequence[str], problem_type: str = SINGLE
) -> NDArray[np.float64]:
    """Return the probabilities of the labels of each text, (texts, labels), from a network in training."""
    encoded = [e.ids for e in tokenizer.encode_batch_fast(list(texts))]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    scores: dict[int, NDArray[np.float64]] = {}
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            feed = {name: torch.from_numpy(array) for name, array in pad([encoded[i] for i in rows]).items()}
            logits = network.heads[task](network.pooled(**feed)).numpy()
            scores.update(zip(rows, probabilities(logits, problem_type), strict=True))
    return np.stack([scores[i] for i in range(len(encoded))])


def _tuning_score(network: Network, tokenizer: Tokenizer, tasks: Mapping[str, TaskData]) -> float:
    """Return the mean over the tasks of the macro-F1 on their tuning rows."""

    def of(task: str, labels: tuple[str, ...], rows: LabelledRows) -> float:
        scores = answer(network, tokenizer, task, rows.texts)
        plain = Task(labels, "single_label_classification", 0.0)
        return float(metrics(scores.argmax(1), scores.max(1), np.array(rows.label_ids), plain)["macro_f1"])

    return float(np.mean([of(task, data.labels, data.tuning) for task, data in tasks.items()]))


def _save(
    checkpoint: Path,
    step: int,
    run: dict[str, Any],
    trainable: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scores: list[float],
    best: list[torch.Tensor],
) -> None:
    fresh = checkpoint.with_name(checkpoint.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    state = {f"{i}.value": p.detach() for i, p in enumerate(trainable)}
    for i, p in enumerate(trainable):
        moments = optimizer.state.get(p, {})  # a task without a step so far has none
        state.update({f"{i}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq", "step") if key in moments})
    state.update({f"{i}.best": value for i, value in enumerate(best)})
    save_file(state, fresh / "state.safetensors")
    (fresh / "run.json").write_text(json.dumps({"step": step, "scores": scores, **run}))
    shutil.rmtree(checkpoint, ignore_errors=True)
    fresh.replace(checkpoint)


def _resume(
    checkpoint: Path, run: dict[str, Any], trainable: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, list[float], list[torch.Tensor]]:
    """Return the step to continue from, the scores so far and the weights of the best of them.

    The step is 0 without a checkpoint, or if its settings or rows differ.
    """
    if not (checkpoint / "run.json").is_file():
        return 0, [], []
    saved = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    if {key: saved.get(key) for key in run} != run:
        return 0, [], []
    state = load_file(checkpoint / "state.safetensors")
    with torch.no_grad():
        for i, p in enumerate(trainable):
            p.copy_(state[f"{i}.value"])
            moments = {key: state[f"{i}.{key}"] for key in ("exp_avg", "exp_avg_sq", "step") if f"{i}.{key}" in state}
            if moments:
                optimizer.state[p] = moments
    best = [state[f"{i}.best"] for i in range(len(trainable)) if f"{i}.best" in state]
    return int(saved["step"]), list(saved["scores"]), best
