"""A student that learns from a teacher: what is matched, written, resumed and learnt."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from conftest import tiny_base
from foreign import classifier as foreign_classifier

from inference import load
from inference.compare.rows import LabelledRows
from inference.errors import InputError
from inference.formats.bundle import MULTI, SINGLE, Bundle, Task
from training import __main__ as command
from training.data import TaskData
from training.teacher import (
    BLOCK,
    SoftLabels,
    distillation_of,
    match_tasks,
    read_unlabelled,
    teach,
    write_soft_labels,
)

WORDS = {"down": ("bad", "sad"), "up": ("fine", "good")}


def data_of(*labels: str, fit: tuple[str, ...] = (), tuning: tuple[str, ...] = ()) -> TaskData:
    parts = (LabelledRows(list(texts), {"task": [0] * len(texts)}) for texts in (fit, tuning))
    return TaskData(labels, *parts)


def teacher_of(**tasks: Task | tuple[str, ...]) -> Bundle:
    made = {name: task if isinstance(task, Task) else Task(task, SINGLE, 0.0) for name, task in tasks.items()}
    return fakes.bundle(made)


# --- Which of its tasks


def test_tasks_are_matched_by_name_and_labels_by_their_meaning() -> None:
    teacher = teacher_of(mood=("Negative", "other", "positive"), topic=("food", "travel"))
    lessons, reasons = match_tasks({"mood": data_of("neg", "pos"), "topic": data_of("bus", "food")}, teacher)
    assert lessons["mood"].positions == [0, 2]
    assert lessons["mood"].remarks == [
        "the teacher says 'Negative' for 'neg', 'positive' for 'pos'",
        "the teacher's labels other are not in the data",
    ]
    assert list(lessons) == ["mood"]
    assert reasons == [
        "topic: the teacher's task 'topic' has no label of its own for bus; it has food, travel. Rename labels with "
        "--label-map. It is trained on labels alone."
    ]


@pytest.mark.parametrize(
    ("tasks", "teacher", "expected"),
    [
        ({"label": ("down", "up")}, {"mood": ("down", "up"), "topic": ("food", "bus")}, {"label": "mood"}),
        ({"mood": ("down", "up")}, {"label": ("up", "down")}, {"mood": "label"}),
        ({"mood": ("down", "up"), "topic": ("food", "bus")}, {"mood": ("down", "up"), "label": ("bus", "food")}, None),
        ({"mood": ("down", "up")}, {"mood": ("down", "up"), "label": ("down", "up")}, {"mood": "mood"}),
    ],
)
def test_a_task_without_a_name_is_found_by_its_labels(
    tasks: dict[str, Any], teacher: dict[str, Any], expected: dict[str, str] | None
) -> None:
    lessons, _ = match_tasks({name: data_of(*labels) for name, labels in tasks.items()}, teacher_of(**teacher))
    expected = expected or {"mood": "mood", "topic": "label"}
    assert {name: lesson.name for name, lesson in lessons.items()} == expected


@pytest.mark.parametrize(
    ("tasks", "teacher", "message"),
    [
        (
            {"mood": ("down", "up")},
            {"spam": ("down", "up")},
            "no task of this name, only spam; name it so with --tasks",
        ),
        ({"mood": ("a", "b"), "x": ("a", "b")}, {"label": ("a", "b")}, "mood: the teacher has no task.*x: the teacher"),
        (
            {"label": ("a", "b")},
            {"m": ("a", "b"), "n": ("b", "a")},
            "label: several tasks .* m, n; choose one with --ta",
        ),
        ({"mood": ("good", "fine")}, {"mood": ("bad", "good")}, "no label of its own for fine; it has bad, good"),
        ({"mood": ("pos", "positive")}, {"mood": ("neg", "positive")}, "no label of its own for pos, positive"),
    ],
)
def test_a_teacher_that_knows_no_task_is_refused_with_the_reason(
    tasks: dict[str, Any], teacher: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        match_tasks({name: data_of(*labels) for name, labels in tasks.items()}, teacher_of(**teacher))


def test_a_teacher_of_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="reads pairs of texts, and training reads single ones"):
        match_tasks({"mood": data_of("a", "b")}, replace(teacher_of(mood=("a", "b")), pairs=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0 must be from 0.1 to 100"),
        ({"temperature": math.nan}, "--temperature nan must be"),
        ({"teacher_weight": 0.0}, "--teacher-weight 0 must be above 0"),
        ({"label_weight": -0.1}, "--label-weight -0.1 must be from 0"),
        ({"label_weight": math.inf}, "--label-weight inf must be from 0"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distillation_of(teacher_of(mood=("a", "b")), **options)


# --- Its scores

TEXTS = [f"{draw} {i}" for i in range(2500) for draw in ("good", "bad glad", "sad bad")][:2500]


def scores_in(folder: Path, texts: list[str] = TEXTS, stop_after: int | None = None) -> tuple[Any, fakes.FakeBackend]:
    """The soft labels of the fake classifier, which is interrupted after some batches, and its backend."""
    backend = fakes.FakeBackend()
    answers = backend.logits

    def logits(*arguments: Any, **named: Any) -> Any:
        if stop_after is not None and len(backend.shapes) >= stop_after:
            raise KeyboardInterrupt
        return answers(*arguments, **named)

    backend.logits = logits  # type: ignore[method-assign]
    teacher = fakes.bundle()
    return write_soft_labels(teacher, list(teacher.tasks), texts, folder, lambda: fakes.classifier(backend)), backend


def test_soft_labels_are_the_scores_of_the_teacher_and_written_once(tmp_path: Path) -> None:
    texts = [*TEXTS, "nothing known", "\u200b\u0000", "good " * 40]
    scores, backend = scores_in(tmp_path, texts)
    classifier = fakes.classifier()
    for place in (0, 1, 2, 1500, len(texts) - 1):
        expected = [score for p in classifier.predict_all_tasks(texts[place]).values() for score in p.scores.values()]
        assert scores[place] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(scores).any(axis=1).tolist() == [False] * 2500 + [True, True, False]
    assert backend.shapes
    again, backend = scores_in(tmp_path, texts)
    assert not backend.shapes
    np.testing.assert_array_equal(again, scores)
    # other texts, other tasks and another model have another file
    assert scores_in(tmp_path, texts[1:])[1].shapes
    teacher = replace(fakes.bundle(), files={"model.safetensors": "0"})
    write_soft_labels(teacher, ["sentiment"], TEXTS[:9], tmp_path, fakes.classifier)
    write_soft_labels(teacher, ["emotion"], TEXTS[:9], tmp_path, fakes.classifier)
    assert len(list(tmp_path.glob("*.f32"))) == 4


@pytest.mark.parametrize("torn_bytes", [0, 7])
def test_soft_labels_that_were_interrupted_are_continued_in_the_same_bytes(torn_bytes: int, tmp_path: Path) -> None:
    whole, _ = scores_in(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        scores_in(tmp_path / "cut", stop_after=10)
    (part,) = (tmp_path / "cut").glob("*.part")
    assert part.stat().st_size == BLOCK * 5 * 4
    with part.open("ab") as file:  # half a block, as a kill leaves it
        file.write(b"x" * torn_bytes)
    resumed, backend = scores_in(tmp_path / "cut")
    assert sum(rows for rows, _ in backend.shapes) == len(TEXTS) - BLOCK
    assert resumed.tobytes() == whole.tobytes()
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_file_of_soft_labels_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.teacher.MAX_BYTES", 1000)
    with pytest.raises(InputError, match="2,500 texts with 5 scores each take .* Use fewer texts without labels"):
        scores_in(tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_are_read_for_the_labels_of_the_student(tmp_path: Path) -> None:
    table = np.array([[0.1, 0.3, 0.6], [0.9, 0.05, 0.05], [np.nan] * 3, [0.5, 0.25, 0.25]], np.float32)
    soft = SoftLabels(["c", "d"], table, np.array([3, 0, 1, 2]), [2, 1], SINGLE)
    assert soft.of([1]) == pytest.approx(np.array([[2 / 3, 1 / 3]]))
    assert soft.of([0]) == pytest.approx(np.array([[0.5, 0.5]]))
    assert np.isnan(soft.of([2])).all()  # it is another label to the teacher
    assert soft.answered().tolist() == [True, True, False, False]
    kept = soft.only(np.array([False, False, False, True]), fitted=2)  # rows to fit stay
    assert kept.unlabelled == ["d"]
    assert kept.places.tolist() == [3, 0, 2]
    several = replace(soft, problem_type=MULTI)
    assert several.of([2]) == pytest.approx(np.array([[0.05, 0.05]]))


def test_texts_of_held_out_rows_are_not_learnt_from() -> None:
    data = data_of("a", "b", fit=("good", "bad"), tuning=("a good film",))
    data = replace(data, validation=LabelledRows(["sad"], {"task": [0]}))
    texts = ["good", "sad", "a good film", "a good", "so it was a good film !", "glad"]
    lessons, _ = match_tasks({"mood": data}, teacher_of(mood=("a", "b")))

    def scores(names: Any, distinct: Any) -> Any:
        return np.full((len(distinct), 2), 0.5, np.float32)

    assert teach({"mood": data}, lessons, texts, scores)["mood"].unlabelled == texts[3:]
    phrases = replace(data, phrases={"moved": 1, "left_out": 0})
    assert teach({"mood": phrases}, lessons, texts, scores)["mood"].unlabelled == ["glad"]


def test_unlabelled_texts_are_read_from_any_table_and_skipped_rows_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,review\n1,fine\n2,\n3,fine\n4,sad\n")
    (tmp_path / "b.jsonl").write_text('{"text": "sad"}\n{"text": 3}\n{"text": "dull"}\n')
    texts, remarks, digests = read_unlabelled([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")], None)
    assert texts == ["fine", "sad", "dull"]
    assert remarks[0] == "a.csv: the texts are in the column 'review'"
    assert "a.csv: 1 row left out; row 2: The text is empty" in remarks[1]
    assert "b.jsonl: 1 row left out; row 2: The text must be a string" in remarks[2]
    assert len(set(digests)) == 2
    (tmp_path / "c.csv").write_text('text\n""\n')
    with pytest.raises(InputError, match="c.csv has no text to learn from"):
        read_unlabelled([str(tmp_path / "c.csv")], None)


def test_too_many_texts_without_labels_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.teacher.MAX_UNLABELLED", 2)
    (tmp_path / "a.csv").write_text("text\n" + "x\n" * 3)
    with pytest.raises(InputError, match="a.csv: more than 2 texts without labels. Use a part of them"):
        read_unlabelled([str(tmp_path / "a.csv")], None)


# --- The command


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("teachers") / "base"
    return folder, tiny_base(folder)


@pytest.fixture
def train(base: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command with the tiny base; returns its exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "HUB_ID", "nobody/tiny-base")
    monkeypatch.setattr(command, "BASE_FILES", base[1])
    monkeypatch.setattr(command, "MIN_UPDATES", 60)

    def run(out: str, *arguments: object) -> int:
        given = ["--base", base[0], "--max-tokens", 16, "--rank", 4, "--threads", 1, "--precision", "fp32"]
        return command.main([str(part) for part in ("--out", tmp_path / out, *given, *arguments)])

    yield run


def write(path: Path, count: int, flipped: bool = False, labelled: bool = True, start: int = 0) -> Path:
    """Rows whose label is that of their keyword, or the opposite of every second one: what nobody can learn."""
    draw = random.Random(start)
    labels = list(WORDS)
    lines = ["text,label" if labelled else "text"]
    for i in range(start, start + count):
        label = labels[i % 2]
        text = f"it was {draw.choice(WORDS[label])} {i}"
        given = labels[(i // 2) % 2] if flipped else label
        lines.append(f"{text},{given}" if labelled else text)
    path.write_text("\n".join(lines) + "\n")
    return path


def agreement(model: Path, base: Path | None, texts: list[str]) -> float:
    answers = load(model, base=base).predict(texts, "label")
    return float(
        np.mean([any(word in text for word in WORDS[p.label]) for p, text in zip(answers, texts, strict=True)])
    )


@pytest.mark.slow
def test_a_student_learns_what_its_labels_do_not_say(train: Any, base: Any, tmp_path: Path, capsys: Any) -> None:
    fast = ("--learning-rate", "3e-3", "--epochs", 15)
    assert train("teacher", "--data", write(tmp_path / "good.csv", 160), "--method", "full", *fast) == 0
    new = [line.rpartition(",")[0] for line in write(tmp_path / "new.csv", 60, start=900).read_text().splitlines()[1:]]
    assert agreement(tmp_path / "teacher", None, new) > 0.95
    rows = write(tmp_path / "noise.csv", 80, flipped=True, start=300)
    write(tmp_path / "more.csv", 200, labelled=False, start=500)
    options = ("--data", rows, "--learning-rate", "1e-2")
    assert train("alone", *options) == 0
    capsys.readouterr()
    learning = ("--teacher", tmp_path / "teacher", "--unlabelled", tmp_path / "more.csv")
    assert train("student", *options, *learning) == 0
    printed = capsys.readouterr()
    assert "200 without a label" in printed.out
    assert "200 texts" not in printed.out
    assert agreement(tmp_path / "alone", base[0], new) < 0.8
    assert agreement(tmp_path / "student", base[0], new) > 0.95
    described = json.loads((tmp_path / "student" / "bundle.json").read_text())
    assert described["teacher"]["tasks"] == {"label": {"task": "label", "unlabelled": 200}}
    assert described["training"]["distillation"]["temperature"] == 2
    assert len(Bundle.read(tmp_path / "student").trained_on) == 2
    card = (tmp_path / "student" / "README.md").read_text()
    assert "Distilled from the model teacher" in card
    assert "0.7 · T² · KL divergence" in card
    assert str(tmp_path) not in card
    assert "teacher" not in json.loads((tmp_path / "alone" / "bundle.json").read_text())
    # another student of the same teacher does not ask it again
    assert train("other", *options, *learning, "--epochs", 1, "--label-weight", 0) == 0
    assert "teacher:" not in capsys.readouterr().err
    assert len(list((tmp_path / "cache" / "triptych" / "soft-labels").glob("*.f32"))) == 1


@pytest.mark.slow
def test_the_student_of_a_teacher_of_several_labels_gives_several(train: Any, base: Any, tmp_path: Path) -> None:
    teacher = foreign_classifier(tmp_path / "teacher", labels=("up", "down", "odd"), problem_type=MULTI)
    rows = write(tmp_path / "rows.csv", 60)
    write(tmp_path / "more.csv", 60, labelled=False, start=500)
    learning = ("--teacher", teacher, "--unlabelled", tmp_path / "more.csv", "--label-weight", 0, "--epochs", 20)
    assert train("student", "--data", rows, *learning, "--learning-rate", "1e-2") == 0
    student, expected = load(tmp_path / "student", base=base[0]), load(teacher)
    assert student.tasks["label"] == Task(("down", "up"), MULTI, 0.5)
    texts = [f"it was fine {i}" for i in range(800, 810)]
    for own, theirs in zip(student.predict(texts), expected.predict(texts), strict=True):
        assert own.scores == pytest.approx({label: theirs.scores[label] for label in own.scores}, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--unlabelled", "x.csv"), "--unlabelled needs a teacher. Name its folder with --teacher"),
        (("--temperature", "3"), "--temperature needs a teacher"),
        (("--distill",), "--distill needs a teacher"),
        (("--teacher", "nowhere/at/all"), "No model folder nowhere/at/all"),
        (("--teacher", "OUT"), "is the folder of the teacher. Name another folder for the student"),
        (("--teacher", "TEACHER"), "the teacher's task 'label' has no label of its own for down, up; it has cold, hot"),
        (("--teacher", "TEACHER", "--temperature", "nan"), "--temperature nan must be from 0.1 to 100"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_before_training(
    arguments: tuple[str, ...], message: str, train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "TEACHER" in arguments:
        foreign_classifier(tmp_path / "teacher", labels=("cold", "hot"))
    places = {"OUT": str(tmp_path / "model"), "TEACHER": str(tmp_path / "teacher")}
    given = [places.get(argument, argument) for argument in arguments]
    assert train("model", "--data", write(tmp_path / "rows.csv", 40), *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model" / "bundle.json").exists()
