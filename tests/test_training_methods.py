"""`python -m training` on a tiny base, by every method, to the report and the model card."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Tiny, tiny_base
from sklearn.metrics import accuracy_score, classification_report, f1_score

from inference import load
from inference.compare.rows import LabelledRows, read_data
from inference.errors import MissingDependencyError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import content_key
from training import __main__ as command
from training import card
from training.data import equal_texts
from training.reliability import LARGEST, SIDE, draw
from training.report import markdown
from training.save import temperature_of

WORDS = {"down": ("bad", "sad", "dull"), "up": ("fine", "good", "glad")}


def write_rows(path: Path, count: int = 80) -> Path:
    labels = list(WORDS)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            label = labels[i % 2]
            writer.writerow([f"it was {WORDS[label][i // 2 % 3]} {i}", label])
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("methods") / "base"
    return folder, tiny_base(folder)


@pytest.fixture
def train(base: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command with the tiny base; returns its exit code."""
    monkeypatch.setattr(command, "HUB_ID", "nobody/tiny-base")
    monkeypatch.setattr(command, "BASE_FILES", base[1])
    monkeypatch.setattr(command, "MIN_UPDATES", 20)

    def run(*arguments: str) -> int:
        given = ["--base", str(base[0]), "--max-tokens", "16", "--rank", "4", "--threads", "1", "--precision", "fp32"]
        return command.main(["--out", str(tmp_path / "model"), *given, *arguments])

    return run


def missing(method: str) -> str | None:
    """Why a method cannot be tried here."""
    if method != "qlora":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bitsandbytes  # noqa: F401
    except ImportError:
        return "bitsandbytes is not installed: pip install -r requirements-qlora.txt"
    return None


def test_the_owner_names_licence_and_language_and_publishes_rows(train, base, tmp_path, capsys) -> None:
    data = ("--data", str(write_rows(tmp_path / "rows.csv")), "--method", "heads")
    assert train(*data, "--licence", "mine") == 2
    assert train(*data, "--language", "English") == 2
    assert train(*data, "--publish-examples", "2000") == 2
    assert train(*data, "--licence", "mit", "--language", "en,de", "--publish-examples", "5") == 0
    assert "No licence" not in capsys.readouterr().err
    card = (tmp_path / "model/README.md").read_text()
    assert 'language: ["en", "de"]\nlicense: "mit"\n' in card
    examples = describe(tmp_path / "model").examples
    with (tmp_path / "model.validation.csv").open(newline="") as file:
        rows = {row["text"]: row["label"] for row in csv.DictReader(file)}
    assert len(examples) == 5
    assert all(rows[example.text] == example.labels["label"] for example in examples)
    assert {example.labels["label"] for example in examples} == set(rows.values())


@pytest.mark.parametrize("method", ["lora", "full", "heads", "qlora"])
def test_a_model_of_every_method_is_served_as_the_report_says(method, train, base, tmp_path, capsys) -> None:
    if reason := missing(method):
        pytest.skip(reason)
    assert train("--data", str(write_rows(tmp_path / "rows.csv")), "--method", method) == 0
    printed = capsys.readouterr().out
    model = tmp_path / "model"
    described = json.loads((model / "bundle.json").read_text())
    assert described["training"]["method"] == method
    assert (model / "adapter").is_dir() == (method in ("lora", "qlora")) == ("rank" in described["training"])
    assert (model / "encoder").is_dir() == (method == "full")
    classifier = load(model, base=None if method == "full" else base[0])
    with (tmp_path / "model.validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    given = [p.label for p in classifier.predict([row["text"] for row in rows], "label")]
    figures = described["validation"]["label"]
    assert figures["accuracy"] == pytest.approx(np.mean([g == r["label"] for g, r in zip(given, rows, strict=True)]))
    card = (model / "README.md").read_text()
    assert markdown(described["validation"], described.get("drift")) in card
    assert markdown(described["validation"], described.get("drift")) in printed
    assert f"make demo MODEL={model}" in printed
    assert f"python -m inference compare --model {model} --data FILE, with at least 20 labelled rows" in printed
    assert ("library_name: peft" in card) == (method in ("lora", "qlora"))
    assert 'base_model: "nobody/tiny-base"' in card
    assert "\nlicense:" not in card
    assert "\nlanguage:" not in card
    assert "English" not in card
    if method == "qlora":
        assert described["quantisation"]["bnb_4bit_quant_type"] == "nf4"
        moved = described["drift"]["label"]
        assert 0 < moved["mean_difference"] <= moved["max_difference"] < 1
        assert moved["accuracy_served"] == pytest.approx(figures["accuracy"], abs=1e-4)


def test_heads_alone_leave_the_encoder_as_it_was_and_full_does_not(train, base, tmp_path) -> None:
    from safetensors.torch import load_file

    data = str(write_rows(tmp_path / "rows.csv"))
    assert train("--data", data, "--method", "heads") == 0
    assert not list((tmp_path / "model").glob("*/*.safetensors"))
    assert train("--data", data, "--method", "full") == 0
    tuned = load_file(tmp_path / "model" / "encoder" / "model.safetensors")
    before = load_file(base[0] / "model.safetensors")
    assert any(not np.array_equal(tuned[name], before[name]) for name in tuned)
    # and what an earlier run left is gone
    assert train("--data", data, "--method", "lora") == 0
    assert not (tmp_path / "model" / "encoder").exists()


def test_bitsandbytes_that_is_not_there_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from torch import nn

    from training.qlora import quantise

    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(MissingDependencyError, match="pip install -r requirements-qlora.txt"):
        quantise(nn.Linear(4, 4))


def test_the_figures_of_a_report_are_those_of_scikit_learn(tiny: Tiny) -> None:
    from conftest import tiny_data

    from training.report import CONFUSIONS, validate

    data = tiny_data()
    classifier = load(tiny.folder, base=tiny.base)
    for task, entry in data.items():
        rows = entry.tuning
        # every third label is turned, so that there is something to be wrong about
        rows.label_ids[::3] = [(i + 1) % len(entry.labels) for i in rows.label_ids[::3]]
        true = [entry.labels[i] for i in rows.label_ids]
        given = [p.label for p in classifier.predict(rows.texts, task)]
        expected = classification_report(true, given, labels=entry.labels, output_dict=True, zero_division=0)
        report = validate(classifier, {task: entry})[task]
        assert report["rows"] == "tuning"
        assert report["accuracy"] == pytest.approx(accuracy_score(true, given), abs=1e-4)
        assert report["macro_f1"] == pytest.approx(
            f1_score(true, given, average="macro", labels=sorted(set(true))), abs=1e-4
        )
        for label, one in report["per_label"].items():
            assert one["precision"] == pytest.approx(expected[label]["precision"], abs=1e-4)
            assert one["recall"] == pytest.approx(expected[label]["recall"], abs=1e-4)
            assert one["f1"] == pytest.approx(expected[label]["f1-score"], abs=1e-4)
            assert one["rows"] == expected[label]["support"]
        wrong = [(t, g) for t, g in zip(true, given, strict=True) if t != g]
        counts = [one["rows"] for one in report["confusions"]]
        assert counts == sorted(counts, reverse=True)
        assert all(one["rows"] == wrong.count((one["true"], one["given"])) for one in report["confusions"])
        assert sum(counts) == len(wrong) or len(counts) == CONFUSIONS
        page = markdown({task: report})
        first = report["confusions"][0]
        assert f"- {first['true']} taken for {first['given']}: {first['rows']} row" in page
        assert "There are no validation rows" in page


def test_drift_is_the_largest_change_of_a_probability_in_each_text(tiny: Tiny) -> None:
    from conftest import tiny_data

    from inference.artifacts.parity import score_rows
    from training.report import drift

    data = {"topic": tiny_data()["topic"]}
    rows = data["topic"].tuning
    classifier = load(tiny.folder, base=tiny.base)
    four_bit = score_rows(classifier.predict(rows.texts, "topic"))
    four_bit[:, 0] += 0.01  # of three labels; a mean over all of them would be a third of it
    four_bit[0] = np.roll(four_bit[0], 1)
    served = score_rows(classifier.predict(rows.texts, "topic"))
    moved = np.abs(served - four_bit).max(axis=1)
    largest = drift(classifier, data, {"topic": four_bit})["topic"]
    assert largest["labels_that_differ"] == 1
    assert largest["max_difference"] == pytest.approx(moved[0], abs=1e-4)
    assert largest["mean_difference"] == pytest.approx((moved[0] + 0.01 * (len(moved) - 1)) / len(moved), abs=1e-4)


def test_a_report_on_many_labels_shows_the_weakest() -> None:
    per_label = {f"label {i}": {"precision": 0.5, "recall": 0.5, "f1": i / 100, "rows": 3} for i in range(50)}
    report = {
        "rows": "validation",
        "count": 150,
        "seen": 4,
        "accuracy": 0.5,
        "accuracy_interval": [0.4, 0.6],
        "macro_f1": 0.5,
        "macro_f1_interval": [0.3, 0.7],
        "calibration_error": 0.1,
        "parts": [],
        "per_label": per_label,
        "confusions": [],
    }
    page = markdown({"intent": report})
    assert "the 20 weakest of 50 labels" in page
    assert "label 19 " in page
    assert "label 20 " not in page
    assert "4 of them have the text of a training row" in page


def test_several_tasks_of_one_file_are_trained_stopped_early_and_measured_together(train, tmp_path, capsys) -> None:
    lines = [f"it was {'good' if i % 2 else 'bad'} {i},{'up' if i % 2 else 'down'},{'xyz'[i % 3]}" for i in range(120)]
    lines[0] = "it was bad 0,down,"
    (tmp_path / "rows.csv").write_text("text,mood,topic\n" + "\n".join(lines) + "\n")
    options = ("--label-columns", "mood,topic", "--epochs", "9", "--early-stopping", "1", "--class-weights", "balanced")
    assert train("--data", str(tmp_path / "rows.csv"), *options) == 0
    described = json.loads((tmp_path / "model" / "bundle.json").read_text())
    assert set(described["tasks"]) == set(described["validation"]) == {"mood", "topic"}
    assert described["training"]["class_weight_power"] == 1.0
    assert described["training"]["early_stopping"] == 1
    assert described["run"]["steps"] <= described["run"]["planned_steps"]
    assert "Stopped early" in (tmp_path / "model" / "README.md").read_text()
    # the rows split off are a file that compare reads
    rows = read_data(tmp_path / "model.validation.csv", Bundle.read(tmp_path / "model").tasks)
    assert len(rows) == 24
    assert set(rows.labels) == {"mood", "topic"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "x=1"), "must name each task once: label"),
        (("--epochs", "many"), "neither a number nor"),
        (("--epochs", "0"), "--epochs 0 must be above 0"),
        (("--epochs", "-1"), "--epochs -1 must be above 0"),
        (("--epochs", "label=nan"), "--epochs label=nan must be above 0"),
        (("--epochs", "0.001"), "0.001 epochs of the 58 rows of 'label' are less than one row"),
        (("--tuning-share", "-1"), "--tuning-share -1 must be 0 or more"),
        (("--class-weights", "heavy"), "must be none, balanced, or a power from 0 to 2"),
        (("--label-smoothing", "1"), "at least 0 and below 1"),
        (("--early-stopping", "-1"), "0, for never, or more"),
        (("--batch-size", "0"), "must be at least 1"),
        (("--max-tokens", "65"), "must be from 8 to 64"),
        (("--out-of-scope", "label"), "must be TASK=LABEL"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(arguments, message, train, tmp_path, capsys) -> None:
    assert train("--data", str(write_rows(tmp_path / "rows.csv")), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model" / "bundle.json").exists()


def test_a_folder_with_other_things_is_not_written_into(train, tmp_path, capsys) -> None:
    (tmp_path / "model" / "encoder").mkdir(parents=True)
    assert train("--data", str(write_rows(tmp_path / "rows.csv"))) == 2
    assert "holds files that are not a model" in capsys.readouterr().err
    assert (tmp_path / "model" / "encoder").is_dir()


def test_a_folder_with_half_a_first_checkpoint_is_trained_into(train, tmp_path) -> None:
    (tmp_path / "model" / ".checkpoint.new").mkdir(parents=True)
    assert train("--data", str(write_rows(tmp_path / "rows.csv")), "--epochs", "1") == 0


def test_few_rows_get_small_batches_and_enough_updates_and_many_get_few_passes() -> None:
    args = command.parser().parse_args(["--data", "d", "--out", "o"])
    small = command.settings_of(args, {"t": 360})
    assert small.batch_size == command.SMALL_BATCH
    assert small.epochs["t"] * 360 / small.batch_size >= command.MIN_UPDATES
    large = command.settings_of(args, {"t": 60_000, "u": 300})
    assert large.batch_size == command.LARGE_BATCH
    assert large.epochs["t"] == command.MIN_EPOCHS
    assert large.epochs["u"] > large.epochs["t"]


def test_a_head_is_calibrated_on_tuning_rows_and_the_card_says_by_how_much(train, base, tmp_path) -> None:
    rows = write_rows(tmp_path / "rows.csv", 700)
    options = ("--method", "heads", "--tuning-share", "0.5", "--label-smoothing", "0.4")  # smoothed: too unsure
    assert train("--data", str(rows), *options) == 0
    described = json.loads((tmp_path / "model" / "bundle.json").read_text())
    calibrated = described["tasks"]["label"]["calibration"]
    assert calibrated["error_after"] < calibrated["error_before"]
    assert calibrated["temperature"] < 1
    assert f"temperature of {calibrated['temperature']:g}" in (tmp_path / "model" / "README.md").read_text()
    Bundle.read(tmp_path / "model")  # the digest of the heads is that of the heads as scaled
    few = load(tmp_path / "model", base=base[0]).predict(["it was bad 1", "it was fine 3"], "label")
    assert [p.label for p in few] == ["down", "up"]


def test_the_temperature_of_scores_that_are_too_sure_is_found_and_of_good_ones_is_none() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = np.array([rng.choice(3, p=row) for row in scores])
    sure = scores**2.5 / (scores**2.5).sum(1, keepdims=True)
    found = temperature_of(sure, true)
    assert found is not None
    assert found["temperature"] == pytest.approx(2.5, rel=0.05)
    assert found["error_after"] < 0.02 < 0.1 < found["error_before"]
    certain = np.eye(3)[true]  # right, and as sure as can be: there is nothing to gain
    assert temperature_of(certain, true) is None


def test_the_report_measures_parts_of_the_rows_and_draws_confidence(train, tmp_path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(200):
            word = "bad" if i % 2 else "fine"
            turn = " but not so " if i % 4 < 2 else " and so "
            writer.writerow([f"it was {word}{turn}{i}", "down" if i % 2 else "up"])
        writer.writerows([["it was fine and so 2", "up"]] * 30)
    assert train("--data", str(path), "--method", "heads") == 0
    described = json.loads((tmp_path / "model" / "bundle.json").read_text())
    figures = described["validation"]["label"]
    turning, plain = (part for part in figures["parts"] if "contrast" in part["part"] or part["part"] == "without")
    assert turning["rows"] + plain["rows"] == figures["count"]
    assert turning["rows"] > 0 < plain["rows"]
    low, high = figures["macro_f1_interval"]
    assert low <= figures["macro_f1"] <= high
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| with a negation or contrast |" in card
    pairs = described["data"]["label"]["equal_texts"]
    assert pairs["agree"] == pairs["pairs"] >= 20
    assert f"Of {pairs['pairs']:,} pairs of rows with the same text, 100% have the same label." in card
    assert "](reliability.svg)" in card
    drawn = ElementTree.parse(tmp_path / "model" / "reliability.svg").getroot()
    assert len(drawn.findall(".//{*}circle")) == len(figures["reliability"])


def test_a_reliability_diagram_escapes_names_and_places_points_by_confidence_and_accuracy() -> None:
    bins = [{"low": 0.5, "high": 0.6, "rows": 25, "confidence": 0.5, "accuracy": 0.25}]
    drawn = ElementTree.fromstring(draw({"<b>": {"count": 100, "reliability": bins}}))
    (point,) = drawn.findall(".//{*}circle")
    assert (float(point.get("cx")), float(point.get("cy"))) == (SIDE * 0.5, SIDE * 0.75)
    assert float(point.get("r")) == LARGEST / 2  # a quarter of the rows, a quarter of the area
    assert "<b>" in [text.text for text in drawn.findall(".//{*}text")]


def test_pairs_of_equal_texts_are_counted_and_those_that_agree() -> None:
    rows = LabelledRows(["a", "a", "a", "b", "b", "c"], {"task": [0, 0, 1, 1, 1, 0]})
    assert equal_texts(rows) == {"pairs": 4, "agree": 2}


def test_the_card_measures_a_further_file_by_its_columns(train, base, tmp_path, monkeypatch, capsys) -> None:
    assert train("--data", str(write_rows(tmp_path / "rows.csv"))) == 0
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "kind"])
        for i in range(30):
            right, wrong = ("down", "up") if i % 2 else ("up", "down")
            is_wrong = i < 6  # the label says the opposite of the word
            word = WORDS[right][i % 3]
            writer.writerow([f"it was {word} {i}", wrong if is_wrong else right, "odd" if is_wrong else "plain"])
    model = tmp_path / "model"
    before = content_key(describe(model, base[0]))
    monkeypatch.setattr(card, "load", lambda folder: load(folder, base=base[0]))
    assert card.main([str(model), "--test", str(tmp_path / "mine.csv")]) == 0
    figures = json.loads((model / "bundle.json").read_text())["tests"]["mine.csv"]["label"]
    odd, plain = figures["parts"]
    assert (odd["part"], odd["rows"], plain["part"], plain["rows"]) == ("kind: odd", 6, "kind: plain", 24)
    assert odd["accuracy"] < plain["accuracy"]
    assert figures["accuracy"] == pytest.approx((odd["accuracy"] * 6 + plain["accuracy"] * 24) / 30, abs=1e-3)
    page = (model / "README.md").read_text()
    assert "### label, mine.csv" in page
    assert "| kind: odd " in page
    assert content_key(describe(model, base[0])) == before  # the model is the same, and so are its built files
    bundle_file = model / "bundle.json"
    described = json.loads(bundle_file.read_text())
    folder = tmp_path / "data" / "label"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_bytes((tmp_path / "rows.csv").read_bytes())
    (folder / "validation.csv").write_bytes((tmp_path / "model.validation.csv").read_bytes())
    bundle_file.write_text(json.dumps({key: value for key, value in described.items() if key != "validation"}))
    assert card.main([str(model), "--data", str(tmp_path / "data")]) == 0
    again = json.loads(bundle_file.read_text())["validation"]["label"]
    assert again["seen"] == again["count"] == 16  # here they were split off the file of training rows
    assert {**again, "seen": 0} == described["validation"]["label"]
    old = {key: value for key, value in again.items() if key not in ("reliability", "parts")}
    bundle_file.write_text(json.dumps(described | {"validation": {"label": old}}))
    assert card.main([str(model)]) == 2
    assert "Measure it again with --data" in capsys.readouterr().err
    with (folder / "train.csv").open("a") as file:
        file.write("it was bad,down\n")
    assert card.main([str(model), "--data", str(tmp_path / "data")]) == 2
    assert "is not the file that the model was trained on" in capsys.readouterr().err
    (folder / "validation.csv").unlink()
    assert card.main([str(model), "--data", str(tmp_path / "data")]) == 2
    assert "has no file of validation rows" in capsys.readouterr().err
    assert card.main([str(model), "--test", "a/x.csv", "--test", "b/x.csv"]) == 2
    assert "have the same name" in capsys.readouterr().err
    assert card.main([str(model), "--test", str(tmp_path / "rows.csv")]) == 2
    assert "was trained on" in capsys.readouterr().err
    assert card.main([str(model), "--test", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "measured"), [(20, True), (19, False)])
def test_rows_that_were_split_off_are_measured_if_they_are_enough(rows: int, measured: bool, tmp_path, capsys) -> None:
    from training.__main__ import _compare

    split_off = [{"text": f"a {number}", "label": "up"} for number in range(rows)]
    (command,) = _compare(tmp_path / "model", {"label": None}, [*split_off, {"text": "b", "label": ""}])
    assert command.endswith(f"--model {tmp_path}/model --data {tmp_path}/model.validation.csv") is measured
    assert command.endswith("--data FILE, with at least 20 labelled rows") is not measured
    assert f"the {rows + 1} rows that were split off" in capsys.readouterr().out
