"""The labels of people's files: however they are spelt, compare, the dashboard and training read them alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import training.sources
from dashboard.upload import guess, read_upload
from inference.compare.labels import LEAVE_OUT, UnknownLabels, guesses, match_labels, read_label_map
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
    by_position = form in ("positions", "floats")
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
    with pytest.raises(UnknownLabels, match=r"2 labels that task 'sentiment' does not have: 'spam'"):
        read_data(path, TASKS, "sentiment")
    data = read_data(path, TASKS, "sentiment", label_map={"spam": "negative", "ham": "positive"})
    assert data.labels["sentiment"] == [1 - i for i in TRUE]
    assert "labels of sentiment are read by the label map: 'spam' as 'negative', 'ham' as 'positive'" in data.remarks


@pytest.mark.parametrize(
    ("labels", "given", "positions", "unknown"),
    [
        (("a", "b", "c"), ["-1", "0", "1"], {}, ["-1", "0", "1"]),
        (("a", "b", "c"), ["-1", "0", "1", "2"], {"-1": -1, "0": 0, "1": 1, "2": 2}, []),
        (("a", "b", "c"), ["1", "2"], {}, ["1", "2"]),
        (("a", "b"), ["-1"], {"-1": -1}, []),
        (("a", "b"), ["LABEL_1"], {"LABEL_1": 1}, []),
        (("1", "2", "3"), ["0", "1", "2"], {}, ["0", "1", "2"]),
        (("1", "2", "3"), ["LABEL_0"], {"LABEL_0": 0}, []),
        (("1", "0"), ["True", "0.0"], {"True": 0, "0.0": 1}, []),
        (("1.0", "0.0"), ["0", "1"], {"0": 1, "1": 0}, []),
        (("A", "B"), ["A-", "b"], {"b": 1}, ["A-"]),
        (("yes", "no"), ["0", "1"], {}, ["0", "1"]),
        (("ham", "spam"), ["yes", "no"], {}, ["yes", "no"]),
        (("f", "m"), ["F", "false"], {"F": 0}, ["false"]),
        (("caf\u00e9", "bar"), ["cafe\u0301"], {"cafe\u0301": 0}, []),
        (("neg", "neu", "pos"), ["negative", "Neutral", "positive"], {"negative": 0, "Neutral": 1, "positive": 2}, []),
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
        (("positive", "negative"), ["0", "1"], {}, ["0", "1"]),
        (("POS", "other"), ["0", "1"], {}, ["0", "1"]),
        (("toxic", "not toxic"), ["0", "1"], {}, ["0", "1"]),
        (("not toxic", "toxic"), ["0", "1"], {"0": 0, "1": 1}, []),
        (("a", "b", "c"), ["0", "1"], {}, ["0", "1"]),
        (("a", "b", "c"), ["0", "2"], {"0": 0, "2": 2}, []),
        (("a", "b", "c"), ["LABEL_0", "LABEL_1"], {"LABEL_0": 0, "LABEL_1": 1}, []),
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
    option = str(error.value).rpartition("--label-map=")[2].strip("'")
    data = read_data(path, TASKS, "sentiment", label_map=read_label_map(option))
    assert data.labels["sentiment"] == [1, 0] * 13
    assert "13 rows labelled 'unclear' are left out" in data.remarks
    with pytest.raises(InputError, match="label map names 'happy', which the task does not have"):
        read_data(path, TASKS, "sentiment", label_map={"positiv": "happy"})


def test_the_option_to_paste_never_leaves_out_every_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["1", "5"] * 20)
    with pytest.raises(UnknownLabels, match="--label-map='1=LABEL,5=LABEL'"):
        read_data(path, TASKS, "sentiment")
    data = read_data(path, TASKS, "sentiment", label_map={"1": "negative", "5": "positive"})
    assert data.remarks == ["labels of sentiment are read by the label map: '1' as 'negative', '5' as 'positive'"]


def test_positions_that_count_from_one_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [i + 1 for i in TRUE])
    with pytest.raises(UnknownLabels, match="only if they count from 0 .*'2=positive,1=negative'"):
        read_data(path, TASKS, "sentiment")


def test_error_about_missing_label_names_says_where_to_put_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["bad", "good"] * 20)
    task = {"label": Task(("LABEL_0", "LABEL_1"), SINGLE, 0.5)}
    with pytest.raises(UnknownLabels, match=r'into its config.json: "id2label": \{"0": "…", "1": "…"\} in the order'):
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


@pytest.mark.parametrize(
    ("column", "labels", "given", "positions"),
    [
        ("is_ham", ("ham", "spam"), ["0", "1"], {}),
        ("ham", ("ham", "spam"), ["true", "false"], {}),
        ("is_spam", ("ham", "spam"), ["0", "1"], {"0": 0, "1": 1}),
        ("negative", ("negative", "positive"), ["True", "False"], {}),
        ("is-neg", ("negative", "positive"), ["yes", "no"], {}),
        ("toxic", ("not toxic", "toxic"), ["0", "1"], {"0": 0, "1": 1}),
        ("is_positive", ("positive", "negative"), ["True", "False"], {"True": 0, "False": 1}),
        ("is_negative", ("positive", "negative"), ["True", "False"], {}),
        ("positive", ("positive", "negative"), ["1", "0"], {}),
        ("yes", ("yes", "no"), ["true", "false"], {"true": 0, "false": 1}),
        ("ham", ("ham", "spam"), ["ham", "spam"], {"ham": 0, "spam": 1}),
    ],
)
def test_a_column_named_like_the_other_of_two_labels_is_not_read_against_its_name(
    column: str, labels: tuple[str, ...], given: list[str], positions: dict[str, int]
) -> None:
    matching = match_labels(Counter(given), labels, column=column)
    assert {label: i for label, i in matching.positions.items() if label} == positions
    assert set(guesses(matching.unknown, labels).values()) <= {LEAVE_OUT}


@pytest.mark.parametrize("names", [("1", "0"), ("LABEL_1", "LABEL_0"), ("None", "True")])
def test_names_in_a_file_are_never_positions_nor_empty_cells(names: tuple[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", TRUE, class_labels(*names))
    with pytest.raises(UnknownLabels) as error:
        read_data(path, TASKS, "emotion")
    assert set(error.value.unknown) == set(names)


@pytest.mark.parametrize(
    "feature",
    [
        {"names": None, "num_classes": 2, "_type": "ClassLabel"},
        {"names": {"dtype": "string", "_type": "Value"}},
        [{"names": ["x"], "_type": "ClassLabel"}],
        {"feature": {"names": ["x"], "_type": "ClassLabel"}, "_type": "Sequence"},
        None,
    ],
)
def test_other_features_of_a_file_do_not_hide_the_names_of_its_labels(feature: Any, tmp_path: Path) -> None:
    written = json.loads(class_labels("positive", "negative")["huggingface"])
    written["info"]["features"]["other"] = feature
    path = write(tmp_path / "a.parquet", TRUE, {"huggingface": json.dumps(written)})
    assert read_data(path, TASKS, "sentiment").labels["sentiment"] == [1 - i for i in TRUE]


@pytest.mark.parametrize("metadata", ["", "[", "[1]", '{"info": {"features": 1}}', "[" * 100_000])
def test_damaged_metadata_of_a_file_is_as_good_as_none(metadata: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", TRUE, {"huggingface": metadata})
    assert read_data(path, TASKS, "sentiment").labels["sentiment"] == TRUE


def test_a_dictionary_column_of_arrow_and_nullable_integers_are_read_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for labels, expected in [
        (pa.array(["negative", "positive", None] * 20).dictionary_encode(), [0, 1] * 20),
        (pa.array([0, 1, None] * 20, pa.int8()), [0, 1] * 20),
        (pa.array([False, True, None] * 20), [0, 1] * 20),
    ]:
        pyarrow.parquet.write_table(pa.table({"text": ["a text"] * 60, "label": labels}), path)
        assert read_data(path, TASKS, "sentiment").labels["sentiment"] == expected


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_scores_are_no_labels(extension: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{extension}", [0.0, 0.5, 1.0, 0.25] * 10)
    for read in (lambda: read_data(path, TASKS, "sentiment"), lambda: read_sources(Request(str(path)))):
        with pytest.raises(InputError, match="column 'label': '0.(5|25)' is a score and not a label"):
            read()


@pytest.mark.parametrize("given", [["true", "false"], ["0", "1"]])
@pytest.mark.parametrize(
    "labels", [("real", "fake"), ("spam", "ham"), ("toxic", "clean"), ("toxic", "not toxic"), ("valid", "invalid")]
)
def test_true_and_false_are_not_read_as_positions_of_labels_in_the_other_order(
    labels: tuple[str, ...], given: list[str]
) -> None:
    assert set(match_labels(Counter(given), labels, column="label").unknown) == set(given)
    assert not match_labels(Counter(given), labels[::-1], column="label").unknown


def test_a_map_may_have_labels_that_the_file_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["negative", "positive"] * 20)
    data = read_data(path, TASKS, "sentiment", label_map={"neutrl": ""})
    assert data.remarks == ["the label map has 'neutrl', which no row is labelled"]


def test_a_map_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    both = tmp_path / "b.csv"
    both.write_text("text,sentiment,emotion\n" + "a,negative,joy\n" * 20)
    with pytest.raises(InputError, match="A label map is for one task. Name it: one of emotion, sentiment"):
        read_data(both, TASKS, label_map={"joy": ""})
    for text in ("a=b,a=c", "=b", ""):
        with pytest.raises(InputError, match="--label-map"):
            read_label_map(text)
    (tmp_path / "m.json").write_text('{"a": "b", "a ": "c"}')
    with pytest.raises(InputError, match="maps 'a' twice"):
        read_label_map(str(tmp_path / "m.json"))
    (tmp_path / "m.json").write_text('{"a": "' + "b" * 1_000_000 + '"}')
    with pytest.raises(InputError, match="more than 1,000,000 bytes"):
        read_label_map(str(tmp_path / "m.json"))


def test_a_number_with_a_label_from_the_map_leaves_no_other_number_to_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", TRUE)
    with pytest.raises(UnknownLabels, match="does not have: '1'"):
        read_data(path, TASKS, "sentiment", label_map={"0": "positive"})


def test_likely_meanings_are_suggested_and_doubtful_ones_are_not() -> None:
    stars = tuple(f"{i} star" for i in range(1, 6))
    assert guesses("12345", stars) == dict(zip("12345", stars, strict=True))
    assert guesses("01234", "12345") == dict(zip("01234", "12345", strict=True))
    assert guesses(["-1", "0", "1"], ("a", "b", "c")) == {"-1": "a", "0": "b", "1": "c"}
    assert guesses("12", ("a", "b")) == {"1": "a", "2": "b"}
    assert guesses("13", ("a", "b")) == {"1": LEAVE_OUT, "3": LEAVE_OUT}


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("not toxic", ("toxic", "clean")),
        ("unhappy", ("happy", "sad")),
        ("acceptable", ("unacceptable", "other")),
        ("non-hate", ("hate", "none")),
        ("not_entailment", ("entailment", "neutral", "contradiction")),
    ],
)
def test_the_opposite_of_a_label_is_not_suggested(given: str, labels: tuple[str, ...]) -> None:
    assert guesses([given], labels) == {given: LEAVE_OUT}


def test_a_task_is_not_guessed_if_several_fit_alike_or_none_fits() -> None:
    tasks = {"mood": Task(("down", "up"), SINGLE, 0.5), **TASKS}
    texts = ["a b c", "d e f"]
    assert guess({"text": texts, "label": ["0", "1"]}, tasks).task is None
    assert guess({"text": texts, "label": ["x", "y"]}, tasks).task is None
    assert guess({"text": texts, "label": ["x", "y"]}, {"mood": tasks["mood"]}).task == "mood"
    assert guess({"text": texts, "label": ["0", "up"]}, tasks).task is None
    assert guess({"text": texts, "label": ["Up", "up"]}, tasks).task == "mood"


def test_training_drops_what_libraries_write_for_an_empty_cell_and_warns_of_labels_spelled_alike(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.csv", ["up", "Up", "down", "nan"] * 10)
    rows = read_sources(Request(str(path), validation_share=0.0))[0]["label"].train
    assert rows.known["label"] == ("Up", "down", "up")
    assert rows.remarks == [
        "'label': rows labelled nan are rows without a label",
        "'label': labels that are spelled alike are different ones: Up, up",
        "10 of 40 rows have no label and are left out",
    ]


def test_many_labels_are_compared_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(training.sources, "fold", lambda label: calls.append(label) or label)
    path = write(tmp_path / "a.csv", [f"label {i}" for i in range(41)])
    read_sources(Request(str(path), validation_share=0.0))
    assert len(calls) <= 2 * 41


def test_training_says_how_many_rows_have_no_label(tmp_path: Path) -> None:
    sources, _ = read_sources(Request(str(write(tmp_path / "a.csv", ["up", "down", ""] * 10)), validation_share=0.0))
    assert sources["label"].train.remarks == ["10 of 30 rows have no label and are left out"]


def test_a_header_that_may_be_a_text_is_mentioned_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("what a lovely film,positive\n" + "good,positive\nbad,negative\n" * 10)
    rows = read_data(path, TASKS, "sentiment", "what a lovely film", "positive")
    assert "the first line is read as column names, although 'what a lovely film' may be a text" in rows.notes
