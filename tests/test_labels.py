"""The labels of people's files: however they are spelt, compare, the dashboard and training read them alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from dashboard.upload import guess, read_upload
from inference.compare.labels import UnknownLabels, guesses, match_labels, read_label_map
from inference.compare.rows import read_data
from inference.errors import InputError
from inference.formats.bundle import Task
from training.data import split
from training.sources import Request, read_sources

SINGLE = "single_label_classification"
EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
TASKS = {"emotion": Task(EMOTIONS, SINGLE, 0.5), "sentiment": Task(("negative", "positive"), SINGLE, 0.5)}
TRUE = [0, 1, 1, 0, 1] * 8
TEXTS = [f"text {i}" for i in range(41)]
FORMS: dict[str, list[Any]] = {
    "names": ["negative", "positive"],
    "other case and spaces": [" Negative", "POSITIVE "],
    "short names": ["neg", "Pos"],
    "positions": [0, 1],
    "floats": [0.0, 1.0],
    "booleans": [False, True],
    "placeholders": ["LABEL_0", "label_1"],
    "yes and no": ["no", "yes"],
}


def write(path: Path, labels: list[Any], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".parquet":
        table = pa.table({"text": TEXTS[: len(labels)], "label": labels})
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    elif path.suffix == ".jsonl":
        rows = ({"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = (f"{text},{'' if label is None else label}" for text, label in zip(TEXTS, labels, strict=False))
        path.write_text("\n".join(["text,label", *lines]))
    return path


def class_labels(*names: str) -> dict[str, str]:
    """The note that the library `datasets` writes into a Parquet schema."""
    feature = {"names": list(names), "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"text": {"_type": "Value"}, "label": feature}}})}


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_is_read_alike_and_finds_its_task(form: str, extension: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{extension}", [FORMS[form][i] for i in TRUE])
    data = read_data(path, TASKS, "sentiment")
    assert data.labels == {"sentiment": TRUE}
    columns = read_upload(path.name, path.read_bytes())
    assert guess(columns, TASKS).task == "sentiment"
    assert guess(columns, dict(reversed(TASKS.items()))).task == "sentiment"
    by_position = form in ("positions", "floats", "placeholders")
    message = "the labels of sentiment are numbers, read as positions: 0 is 'negative', 1 is 'positive'"
    assert (message in data.remarks) == by_position
    assert bool(data.remarks) == (form not in ("names", "other case and spaces"))


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_numbers_that_a_missing_label_made_floats_are_the_same_labels(extension: str, tmp_path: Path) -> None:
    labels = [float(i) for i in TRUE] + [None]
    path = write(tmp_path / f"a{extension}", labels)
    assert read_data(path, TASKS, "sentiment").labels["sentiment"] == TRUE
    sources, _ = read_sources(Request(str(path), ("sentiment",), validation_share=0.0))
    assert sources["sentiment"].train.known["sentiment"] == ("0", "1")


def test_names_in_a_parquet_file_win_over_positions(tmp_path: Path) -> None:
    turned = [1 - i for i in TRUE]
    path = write(tmp_path / "a.parquet", [*turned, -1], class_labels("positive", "negative"))
    data = read_data(path, TASKS, "sentiment")
    assert data.labels["sentiment"] == TRUE
    assert not any("positions" in remark for remark in data.remarks)
    assert guess(read_upload(path.name, path.read_bytes()), TASKS).task == "sentiment"
    sources, _ = read_sources(Request(str(path), ("sentiment",), validation_share=0.0))
    rows = sources["sentiment"].train
    assert [rows.known["sentiment"][i] for i in rows.label_ids] == [("negative", "positive")[i] for i in TRUE]


def test_names_in_a_file_that_the_model_lacks_are_not_positions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", TRUE, class_labels("ham", "spam"))
    with pytest.raises(UnknownLabels, match=r"2 label\(s\) that task 'sentiment' does not have: 'ham'"):
        read_data(path, TASKS, "sentiment")
    data = read_data(path, TASKS, "sentiment", label_map={"spam": "negative", "ham": "positive"})
    assert data.labels["sentiment"] == [1 - i for i in TRUE]
    assert "labels of sentiment are read by their meaning: 'ham' as 'positive', 'spam' as 'negative'" in data.remarks


@pytest.mark.parametrize(
    ("labels", "given", "positions", "unknown"),
    [
        (("Up", "up"), ["up", "Up", "UP"], {"up": 1, "Up": 0}, ["UP"]),
        (("1", "0"), ["0", "1"], {"0": 1, "1": 0}, []),
        (("1 star", "2 stars"), ["1_Star", "2-stars"], {"1_Star": 0, "2-stars": 1}, []),
        (("a", "b"), ["1", "2"], {}, ["1", "2"]),
        (("a", "b"), ["-1", "1"], {}, ["-1", "1"]),
        (("a", "b"), ["-1", "0", "1"], {"-1": -1, "0": 0, "1": 1}, []),
        (("a", "b"), ["a", "1"], {"a": 0}, ["1"]),
        (("a", "b"), ["0.5", "0"], {}, ["0.5", "0"]),
        (("a", "b"), ["a", "NaN", "null"], {"a": 0, "NaN": -1, "null": -1}, []),
        (("none", "some"), ["None", "some"], {"None": 0, "some": 1}, []),
        (("positive", "negative"), ["True", "False"], {"True": 0, "False": 1}, []),
        (("no", "yes"), ["0", "1"], {"0": 0, "1": 1}, []),
        (("yes", "no"), ["TRUE", "FALSE"], {"TRUE": 0, "FALSE": 1}, []),
        (("a", "b", "c"), ["true", "false"], {}, ["true", "false"]),
        (("pos", "positive"), ["pos", "Positive", "p"], {"pos": 0, "Positive": 1}, ["p"]),
        (("a", "b"), ["9" * 5_000], {}, ["9" * 5_000]),
    ],
)
def test_a_name_comes_first_and_nothing_ambiguous_is_guessed(
    labels: tuple[str, ...], given: list[str], positions: dict[str, int], unknown: list[str]
) -> None:
    matching = match_labels(Counter(given), labels)
    assert {label: i for label, i in matching.positions.items() if label} == positions
    assert list(matching.unknown) == unknown


def test_the_message_has_the_option_to_paste(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["positiv", "negative", "unclear"] * 13)
    with pytest.raises(UnknownLabels) as error:
        read_data(path, TASKS, "sentiment")
    assert "'positiv' (13 rows), 'unclear' (13 rows)" in str(error.value)
    option = str(error.value).rpartition("--label-map ")[2].strip("'")
    data = read_data(path, TASKS, "sentiment", label_map=read_label_map(option))
    assert data.labels["sentiment"] == [1, 0] * 13
    assert "13 rows labelled 'unclear' are left out" in data.remarks
    with pytest.raises(InputError, match="label map names 'happy', which sentiment does not have"):
        read_data(path, TASKS, "sentiment", label_map={"positiv": "happy"})


def test_positions_that_count_from_one_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [i + 1 for i in TRUE])
    with pytest.raises(UnknownLabels, match="Positions count from 0, so 1 to 2 are not read as such"):
        read_data(path, TASKS, "sentiment")


def test_a_model_without_label_names_is_told_where_they_belong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["bad", "good"] * 20)
    task = {"label": Task(("LABEL_0", "LABEL_1"), SINGLE, 0.5)}
    with pytest.raises(UnknownLabels, match=r'add \{"id2label": \{"0": "…", "1": "…"\}\} to its config.json'):
        read_data(path, task)
    assert read_data(write(tmp_path / "b.csv", TRUE), task).labels["label"] == TRUE


def test_a_label_map_is_a_list_or_a_json_file(tmp_path: Path) -> None:
    assert read_label_map("a=b, c = d,e=") == {"a": "b", "c": "d", "e": ""}
    assert read_label_map("a=b=c") == {"a=b": "c"}
    (tmp_path / "m.json").write_text('{"a, b": "c", "d": null}')
    assert read_label_map(str(tmp_path / "m.json")) == {"a, b": "c", "d": ""}
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for text, message in [
        ("a", "write MINE=THEIRS"),
        (str(tmp_path / "none.json"), "No such file"),
        (str(tmp_path / "list.json"), "must hold an object"),
        (str(tmp_path / "deep.json"), "not valid JSON"),
    ]:
        with pytest.raises(InputError, match=message):
            read_label_map(text)
    assert guesses(["happyness", "zzz"], ["happiness", "anger"]) == {"happyness": "happiness", "zzz": ""}


def test_validation_labels_may_be_spelt_otherwise_than_those_of_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ["bad", "good"] * 20)
    write(tmp_path / "validation.csv", ["Bad", "GOOD"] * 20)
    sources, _ = read_sources(Request(str(train), ("mood",), validation=str(tmp_path / "validation.csv")))
    validation = split(sources["mood"], 0.2, 0).validation
    assert validation is not None
    assert validation.labels["mood"] == [0, 1] * 20
