"""Training: what is split, planned, resumed and written."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny, tiny_base, tiny_data
from sklearn.metrics import f1_score

from inference import load
from inference.compare.rows import LabelledRows
from inference.errors import InputError
from training.__main__ import main
from training.data import TaskData, add_background, class_weights, plan_batches, split
from training.sources import Request, read_sources


def labelled(texts: list[str], label_ids: list[int]) -> LabelledRows:
    return LabelledRows(texts, {"task": label_ids})


def write_task(folder: Path, rows: list[tuple[str, str]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return folder


def read_task(folder: Path, tuning_share: float, seed: int) -> TaskData:
    (source,) = read_sources(Request(str(folder)))[0].values()
    return split(source, tuning_share, seed)


def test_the_split_keeps_every_row_once_and_every_label_in_both_parts(tmp_path: Path) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
    data = read_task(write_task(tmp_path / "t", rows), tuning_share=0.2, seed=1)
    assert data.labels == ("a", "b")
    assert sorted(data.fit.texts + data.tuning.texts) == sorted(text for text, _ in rows)
    assert set(data.fit.label_ids) == set(data.tuning.label_ids) == {0, 1}
    assert len(data.tuning) == 8


def test_the_split_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", [(f"text {i}", "ab"[i % 2]) for i in range(40)])
    assert read_task(folder, 0.2, seed=1) == read_task(folder, 0.2, seed=1)
    assert read_task(folder, 0.2, seed=1) != read_task(folder, 0.2, seed=2)


def test_rows_with_the_same_text_are_all_fitted_or_all_tuned_on(tmp_path: Path) -> None:
    # every third text comes twice under its label, every seventh once more under the other one
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(60)]
    rows += rows[::3] + [(text, "ba"["ab".index(label)]) for text, label in rows[::7]]
    for seed in range(20):
        data = read_task(write_task(tmp_path / str(seed), rows), tuning_share=0.2, seed=seed)
        assert not set(data.fit.texts) & set(data.tuning.texts)
        parts = (data.fit, data.tuning)
        pairs = [(t, data.labels[i]) for part in parts for t, i in zip(part.texts, part.label_ids, strict=True)]
        assert sorted(pairs) == sorted(rows)
        for label_id, label in enumerate(data.labels):
            expected = 0.2 * sum(row[1] == label for row in rows)
            assert abs(data.tuning.label_ids.count(label_id) - expected) <= 2


def test_a_text_that_is_more_than_the_share_is_tuned_on_only_if_there_is_no_other(tmp_path: Path) -> None:
    rows = [("often", "a")] * 12 + [(f"once {i}", "a") for i in range(8)] + [("x", "b")] * 9 + [("y", "b")] * 4
    data = read_task(write_task(tmp_path / "t", rows), tuning_share=0.2, seed=1)
    tuned = [text for text, label_id in zip(data.tuning.texts, data.tuning.label_ids, strict=True) if label_id == 0]
    assert len(tuned) == 4
    assert "often" not in tuned
    assert data.tuning.texts.count("y") == 4
    assert data.fit.texts.count("x") == 9


def test_texts_that_differ_are_split_as_models_that_are_out_were(tmp_path: Path) -> None:
    rows = [(f"text {i}", "abc"[i % 3]) for i in range(90)]
    data = read_task(write_task(tmp_path / "t", rows), tuning_share=0.1, seed=13)
    shuffler = random.Random(13)
    fit: list[str] = []
    tuning: list[str] = []
    for label in "abc":
        texts = [text for text, given in rows if given == label]
        shuffler.shuffle(texts)
        tuning += texts[:3]
        fit += texts[3:]
    assert data.tuning.texts == tuning
    assert data.fit.texts == fit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\nhello\n", "no column 'label'; it has 'text'"),
        ("text,label\nhello,a\nbye,a\n", "has only the label 'a'"),
        ("text,label\nhello,a\nbye,a\nhi,b\n", "label 'b' has only one text"),
        ("text,label\nhello,a\nbye,a\nhi,b\nhi,b\n", "label 'b' has only one text"),
        ("text,label\n ,a\n", "row 1 \\(column 'text'\\): The text is empty"),
        ("text,label\n", "has no row with a label"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(tmp_path, 0.1, 1)


def test_a_tuning_share_that_leaves_nothing_to_fit_is_refused(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", [(f"text {i}", "ab"[i % 2]) for i in range(8)])
    with pytest.raises(InputError, match="share of 0.9 leaves no row of 'a' to fit"):
        read_task(folder, 0.9, seed=1)


def test_background_texts_come_from_other_tasks_and_are_only_fitted() -> None:
    tasks = tiny_data()
    before = len(tasks["topic"].fit)
    add_background(tasks, "topic", "other", 10, seed=1)
    rows = tasks["topic"].fit
    assert len(rows) == before + 10
    assert set(rows.texts[before:]) <= set(tasks["mood"].fit.texts)
    assert set(rows.label_ids[before:]) == {1}
    with pytest.raises(InputError, match="topic=nothing is not in the data"):
        add_background(tasks, "topic", "nothing", 10, seed=1)
    with pytest.raises(InputError, match="the other tasks have only 96"):
        add_background(tiny_data(), "topic", "other", 1000, seed=1)


def test_background_texts_exclude_those_of_the_task() -> None:
    own = {"fit": ["one", "two"], "tuning": ["three", "four"], "validation": ["five", "six"]}
    topic = TaskData(("food", "other"), *(labelled(texts, [0, 1]) for texts in own.values()))
    theirs = labelled(["one", "three", "five", "seven", "eight"], [0, 1, 0, 1, 0])
    tasks = {"topic": topic, "mood": TaskData(("down", "up"), theirs, labelled(["nine", "ten"], [0, 1]))}
    with pytest.raises(InputError, match="the other tasks have only 2 that 'topic' does not have"):
        add_background(tasks, "topic", "other", 3, seed=1)
    add_background(tasks, "topic", "other", 2, seed=1)
    assert sorted(topic.fit.texts) == ["eight", "one", "seven", "two"]
    assert topic.tuning.texts == ["three", "four"]


def test_class_weights_favour_rare_labels_and_average_to_one() -> None:
    rows = labelled([""] * 5, [0, 0, 0, 0, 1])
    weights = class_weights(rows, ["a", "b"], power=0.5)
    assert weights[1] == pytest.approx(2 * weights[0])  # four times as rare
    assert sum(weights[i] for i in rows.label_ids) == pytest.approx(5)


def test_class_weights_of_power_one_are_those_that_scikit_learn_calls_balanced() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    ids = [0, 0, 0, 0, 1, 2, 2]
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=np.array(ids))
    assert class_weights(labelled([""] * 7, ids), ["a", "b", "c"], power=1.0) == pytest.approx(expected.tolist())


def test_loss_with_class_weights_and_smoothing_equals_the_one_computed_by_hand() -> None:
    import torch

    from training.loop import Settings, task_loss

    rows = labelled([""] * 4, [0, 0, 0, 1])
    data = TaskData(("a", "b"), rows, rows)
    logits, target = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
    log_p = [[-math.log(1 + math.exp(-2)), -2 - math.log(1 + math.exp(-2))], [-math.log(2), -math.log(2)]]

    def loss(power: float, smoothing: float) -> float:
        settings = Settings(epochs={"t": 1.0}, class_weight_power=power, label_smoothing=smoothing)
        return float(task_loss(data, settings)(logits, target))

    assert loss(0.0, 0.0) == pytest.approx((-log_p[0][0] - log_p[1][1]) / 2)
    # balanced: three rows of a weigh 4/(2·3) each, the one of b weighs 4/(2·1)
    a, b = 2 / 3, 2.0
    assert loss(1.0, 0.0) == pytest.approx((-a * log_p[0][0] - b * log_p[1][1]) / (a + b))
    # smoothing gives a share of the target to every label, each with its own weight
    smooth = [-(a * row[0] + b * row[1]) / 2 for row in log_p]
    mixed = 0.9 * (-a * log_p[0][0] - b * log_p[1][1]) + 0.1 * sum(smooth)
    assert loss(1.0, 0.1) == pytest.approx(mixed / (a + b))


def test_a_plan_shows_every_row_once_an_epoch_and_mixes_the_tasks() -> None:
    plan = plan_batches({"a": [3] * 40, "b": [5] * 20}, {"a": 2, "b": 4}, batch_size=8, seed=1)
    shown = [row for task, rows in plan if task == "a" for row in rows]
    assert sorted(shown) == sorted(list(range(40)) * 2)
    half = [task for task, _ in plan[: len(plan) // 2]]
    assert abs(half.count("a") - 5) <= 1
    assert plan == plan_batches({"a": [3] * 40, "b": [5] * 20}, {"a": 2, "b": 4}, batch_size=8, seed=1)


def test_half_an_epoch_is_half_the_rows() -> None:
    plan = plan_batches({"a": [3] * 40}, {"a": 0.5}, batch_size=8, seed=1)
    assert len({row for _, rows in plan for row in rows}) == 20
    with pytest.raises(InputError, match=r"0.001 epochs of the 40 rows of 'a' are less than one row"):
        plan_batches({"a": [3] * 40}, {"a": 0.001}, batch_size=8, seed=1)


@pytest.mark.parametrize("early_stopping", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(
    early_stopping: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from tokenizers import Tokenizer

    from training import loop

    tiny_base(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    data = tiny_data()
    settings = loop.Settings(
        epochs=dict.fromkeys(data, 4.0),
        rank=4,
        batch_size=16,
        max_tokens=16,
        precision="fp32",
        learning_rate=2e-2,
        early_stopping=early_stopping,
    )
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)  # after each step

    histories: dict[str, Any] = {}

    def run(checkpoint: str, stop_after: int | None = None) -> loop.Network:
        network = loop.new_network(tmp_path / "base", data, settings)
        if stop_after is not None:
            save = loop._save

            def save_and_stop(*arguments: Any) -> None:
                save(*arguments)
                if arguments[1] >= stop_after:
                    raise KeyboardInterrupt

            monkeypatch.setattr(loop, "_save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                loop.train(network, tokenizer, data, settings, tmp_path / checkpoint)
            monkeypatch.setattr(loop, "_save", save)
            return network
        histories[checkpoint] = loop.train(network, tokenizer, data, settings, tmp_path / checkpoint)
        return network

    whole = run("whole").state_dict()
    run("cut", stop_after=20)
    resumed = run("cut").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert histories["whole"] == histories["cut"]
    assert bool(histories["whole"].scores) == bool(early_stopping)
    # a checkpoint of other settings is not taken for this run's
    other = replace(settings, seed=99)
    network = loop.new_network(tmp_path / "base", data, other)
    loop.train(network, tokenizer, data, other, tmp_path / "cut")
    assert any(not torch.equal(whole[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "within", [pytest.param("a step", marks=pytest.mark.slow), "an evaluation", "an update of the weights"]
)
def test_ctrl_c_loses_no_step_of_a_run_too_short_for_a_checkpoint(
    within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from tokenizers import Tokenizer

    from training import loop

    tiny_base(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    data = tiny_data()
    settings = loop.Settings(
        epochs=dict.fromkeys(data, 2.0), rank=4, batch_size=16, max_tokens=16, precision="fp32", early_stopping=9
    )
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", math.inf)

    def train(checkpoint: str) -> tuple[dict[str, torch.Tensor], loop.History]:
        network = loop.new_network(tmp_path / "base", data, settings)
        history = loop.train(network, tokenizer, data, settings, tmp_path / checkpoint)
        return network.state_dict(), history

    whole, history = train("whole")
    assert history.steps == 24
    assert not (tmp_path / "whole").exists()
    owner, name, calls = {
        "a step": (loop.nn.utils, "clip_grad_norm_", 8),
        "an evaluation": (loop, "metrics", 2),
        "an update of the weights": (torch.optim.AdamW, "step", 8),
    }[within]
    real = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    # weights of which only some are updated are not gone on from
    assert (tmp_path / "cut").exists() == (within != "an update of the weights")
    if (tmp_path / "cut").exists():
        assert json.loads((tmp_path / "cut" / "run.json").read_text())["step"] == (7 if within == "a step" else 12)
    resumed, again = train("cut")
    assert again == history
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_threshold_is_the_highest_that_still_answers_97_percent_of_the_tuning_rows(tiny: Tiny) -> None:
    described = json.loads((tiny.folder / "bundle.json").read_text())
    data = tiny_data()
    classifier = load(tiny.folder, base=tiny.base)
    for task, entry in described["tasks"].items():
        assert "97% of the tuning rows" in entry["threshold_rule"]
        rows = data[task].tuning
        outside = entry.get("out_of_scope")
        confidences = [
            p.confidence if p.label != outside else -1.0
            for p, i in zip(classifier.predict(rows.texts, task), rows.label_ids, strict=True)
            if entry["labels"][i] != outside
        ]

        def answered(threshold: float, confidences: list[float] = confidences) -> float:
            return sum(c >= threshold for c in confidences) / len(confidences)

        assert answered(entry["threshold"]) >= min(0.97, answered(0.0))  # what is called out of scope stays so
        if entry["threshold"] > 0:
            assert answered(entry["threshold"] + 0.002) < 0.97


def test_the_adapter_loads_with_plain_peft(tiny: Tiny) -> None:
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(tiny.folder / "adapter"))
    assert config.base_model_name_or_path == "nobody/tiny-base"
    assert config.peft_type == "LORA"


def test_early_stopping_ends_a_run_that_gets_no_better_and_keeps_its_best_weights(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from training import loop

    tiny_base(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    data = tiny_data()
    settings = loop.Settings(
        epochs=dict.fromkeys(data, 40.0),
        rank=4,
        batch_size=16,
        max_tokens=16,
        precision="fp32",
        learning_rate=1e-2,
        early_stopping=2,
    )
    network = loop.new_network(tmp_path / "base", data, settings)
    history = loop.train(network, tokenizer, data, settings, tmp_path / "checkpoint")
    best = int(np.argmax(history.scores))
    assert len(history.scores) == best + 3  # two evaluations after the best one
    assert history.steps < history.planned
    assert history.written()["kept"] == best + 1
    scores = []
    for name, task in data.items():
        predictions = loop.answer(network, tokenizer, name, task.tuning.texts).argmax(1)
        scores.append(f1_score(task.tuning.label_ids, predictions, average="macro"))
    assert np.mean(scores) == pytest.approx(max(history.scores))


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no task" in capsys.readouterr().err
    write_task(tmp_path / "mood", [("fine", "up"), ("good", "up"), ("bad", "down"), ("sad", "down")])
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--epochs", "x=1"]) == 2
    assert "must name each task once: mood" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--epochs", "many"]) == 2
    assert "neither a number nor" in capsys.readouterr().err
