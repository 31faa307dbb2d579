"""The loss of a student, and a run of training with a teacher that is interrupted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_base, tiny_data

from inference.compare.rows import LabelledRows
from inference.formats.bundle import MULTI, SINGLE
from training.data import TaskData
from training.teacher import Distillation, SoftLabels


def test_loss_equals_the_one_computed_by_hand() -> None:
    import torch

    from training.loop import distillation_loss

    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], requires_grad=True)
    scores = torch.tensor([[0.9, 0.1], [math.nan, math.nan], [0.2, 0.8]])
    target = torch.tensor([1, 0, -1])
    how = Distillation("t", "0", temperature=2.0, teacher_weight=0.7, label_weight=0.3)

    def kl(p: float, z: float) -> float:
        """Of the softened scores of two labels; z is the difference of the student's logits."""
        soft = math.sqrt(p) / (math.sqrt(p) + math.sqrt(1 - p))
        own = 1 / (1 + math.exp(-z / 2))
        return soft * math.log(soft / own) + (1 - soft) * math.log((1 - soft) / (1 - own))

    cross_entropy = torch.nn.CrossEntropyLoss()
    loss = distillation_loss(logits, target, scores, cross_entropy, how, SINGLE)
    labels = (math.log(1 + math.exp(2)) + math.log(2)) / 3
    assert loss.item() == pytest.approx(0.7 * 4 * (kl(0.9, 2) + kl(0.2, -3)) / 3 + 0.3 * labels, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # at T = 1 the teacher's own scores give no loss, whatever the labels
    own = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    alone = Distillation("t", "0", temperature=1.0, label_weight=0.0)
    assert distillation_loss(own.log(), target, own, cross_entropy, alone, SINGLE).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_several_labels_is_that_of_each_label() -> None:
    import torch

    from training.loop import Settings, distillation_loss, task_loss

    how = Distillation("t", "0", temperature=1.0, teacher_weight=1.0, label_weight=0.5)
    rows = LabelledRows(["x"], {"task": [0]})
    data = TaskData(("a", "b"), rows, rows, problem_type=MULTI)
    label_loss = task_loss(data, Settings(epochs={"t": 1.0}))
    logits, scores = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.8, 0.6]])

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    second = 1 / (1 + math.exp(-1))
    expected = kl(0.8, 0.5) + kl(0.6, second) - 0.5 * math.log(second)
    assert distillation_loss(logits, torch.tensor([1]), scores, label_loss, how, MULTI).item() == pytest.approx(
        expected
    )
    certain = torch.tensor([[1.0, 0.0]])
    assert distillation_loss(logits, torch.tensor([-1]), certain, label_loss, how, MULTI).isfinite()


def test_a_student_that_was_interrupted_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from tokenizers import Tokenizer

    from training import loop

    tiny_base(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    data = {"mood": tiny_data()["mood"]}
    count = len(data["mood"].fit)
    table = np.random.default_rng(1).dirichlet((1, 1), count + 20).astype(np.float32)
    table[3] = np.nan
    texts = [f"it was so {i}" for i in range(20)]
    soft = {"mood": SoftLabels(texts, table, np.arange(count + 20), [1, 0], SINGLE)}
    settings = loop.Settings(
        epochs={"mood": 2.0},
        rank=4,
        batch_size=16,
        max_tokens=16,
        precision="fp32",
        distillation=Distillation("teacher", "0"),
    )

    def train(checkpoint: str, taught: dict[str, SoftLabels] | None = soft) -> dict[str, torch.Tensor]:
        network = loop.new_network(tmp_path / "base", data, settings)
        history = loop.train(network, tokenizer, data, settings, tmp_path / checkpoint, taught)
        assert history.steps == (2 * math.ceil((count + 20) / 16) if taught else 2 * count // 16)
        return network.state_dict()

    whole = train("whole")
    real, calls = loop.nn.utils.clip_grad_norm_, iter(range(99))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop.nn.utils, "clip_grad_norm_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["step"] == 5
    resumed = train("cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    other = {"mood": replace(soft["mood"], unlabelled=[f"{text}?" for text in texts])}
    changed = train("cut", other)  # with other texts, the checkpoint is not continued
    fresh = train("fresh", other)
    assert all(torch.equal(value, changed[name]) for name, value in fresh.items())
    alone = train("whole", None)
    assert any(not torch.equal(value, alone[name]) for name, value in whole.items())
