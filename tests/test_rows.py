"""Labelled rows: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from inference.compare import rows
from inference.compare.rows import MIN_ROWS, LabelledRows, read_data
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables.source import Source

SINGLE = "single_label_classification"
TASKS = {
    "mood": Task(("down", "up"), SINGLE, 0.5),
    "topic": Task(("food", "other", "travel"), SINGLE, 0.5),
}
MOOD = {"mood": TASKS["mood"]}


def parse_data(name: str, content: bytes, *arguments: Any, **named: Any) -> LabelledRows:
    return read_data(Source(name, content), *arguments, **named)


def csv(header: str, lines: list[str], repeat: int = MIN_ROWS) -> bytes:
    return "\n".join([header, *(lines * repeat)]).encode()


def test_a_csv_keeps_texts_that_look_like_missing_values() -> None:
    labelled = parse_data("a.csv", csv("text,label", ["NA,up", "null,down", '"two\nlines, one text",up']), MOOD)
    assert labelled.texts[:3] == ["NA", "null", "two\nlines, one text"]
    assert labelled.labels["mood"][:3] == [1, 0, 1]
    assert labelled.rows_in_file == len(labelled) == 3 * MIN_ROWS


def test_rows_without_a_label_are_left_out_and_keep_their_numbers() -> None:
    labelled = parse_data("a.csv", csv("text,label", ["one,up", ",", "two,", "three,down"]), MOOD)
    assert labelled.row_numbers[:4] == [1, 4, 5, 8]
    assert labelled.texts[:4] == ["one", "three", "one", "three"]
    assert f"{2 * MIN_ROWS} of {4 * MIN_ROWS} rows have no label and are left out" in labelled.notes


def test_columns_named_like_tasks_hold_their_labels() -> None:
    labelled = parse_data("a.csv", csv("text,mood,topic", ["a,up,food", "b,,travel"]), TASKS)
    assert labelled.labels["mood"][:2] == [1, -1]
    assert labelled.labels["topic"][:2] == [0, 2]


def test_a_column_that_is_named_is_the_one_that_is_read() -> None:
    content = csv("text,label,mood", ["a,up,down"])
    assert parse_data("a.csv", content, MOOD, "mood", label_column="label").labels["mood"][0] == 1
    assert parse_data("a.csv", content, MOOD, "mood").labels["mood"][0] == 0
    with pytest.raises(InputError, match="no column 'gold'"):
        parse_data("a.csv", content, MOOD, label_column="gold")


def test_task_with_almost_no_labels_is_left_out() -> None:
    labelled = parse_data("a.csv", csv("text,mood,topic", ["a,up,"]) + b"\nb,down,food", TASKS)
    assert set(labelled.labels) == {"mood"}
    assert "1 rows are left out" not in labelled.notes[0]
    assert "too few rows are labelled to judge topic (1)" in labelled.remarks[-1]
    with pytest.raises(InputError, match="has 5 labelled rows"):
        labelled.sample(5, 0)


def test_jsonl_and_parquet_give_what_a_csv_gives(tmp_path: Path) -> None:
    texts, labels = ["so good ☀️", "NA"] * MIN_ROWS, ["up", "down"] * MIN_ROWS
    lines = "\n".join(json.dumps({"text": t, "label": x}) for t, x in zip(texts, labels, strict=True))
    pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    for name, content in (("a.jsonl", lines.encode()), ("a.parquet", (tmp_path / "a.parquet").read_bytes())):
        labelled = parse_data(name, content, MOOD)
        assert labelled.texts == texts
        assert labelled.labels["mood"] == [1, 0] * MIN_ROWS


def test_numeric_labels_are_read_as_positions_with_a_note() -> None:
    labelled = parse_data("a.csv", csv("text,label", ["a,1", "b,0"]), MOOD)
    assert labelled.labels["mood"][:2] == [1, 0]
    assert "the labels of mood are numbers, read as positions: 0 is 'down', 1 is 'up'" in labelled.notes


def test_a_file_of_one_class_is_read_with_a_note() -> None:
    labelled = parse_data("a.csv", csv("text,label", ["a,up"]), MOOD)
    assert any("every mood row is labelled 'up', so a drop" in note for note in labelled.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", csv("phrase,label", ["a,up"]), "which column holds the texts\\?.*it has 'phrase', 'label'"),
        ("a.csv", csv("text,verdict", ["a,left"]), "no label column .*Name it with --label-column"),
        (
            "a.csv",
            csv("text,label", ["a,upp"]),
            "'upp' \\(20 rows\\). It has down, up. Map.* --label-map='upp=up'",
        ),
        ("a.csv", csv("text,label", ["a,2"]), "'2' \\(20 rows\\)"),
        ("a.csv", csv("text,label", ["a,up"], 3), "has 3 labelled rows. At least 20 are needed"),
        ("a.csv", csv("text,label", ["a,"]), "has 0 labelled rows"),
        ("a.csv", b"", "a.csv is empty. It needs a header"),
        ("a.csv", csv("text,label", ["caf\u00e9,up"]) + b"\ncaf\xe9,up", "line 22 is not UTF-8 \\(byte 0xe9"),
        ("a.csv", csv("text,label", ["a,up", '" ",up']), "row 2 \\(column 'text'\\): The text is empty"),
        ("a.csv", csv("text,label", ["a,up", "b,up,more"]), "line 3: 3 cells, and the header has 2"),
        ("a.csv", csv("text,label", ["a,up,more"]), "line 2: 3 cells, and the header has 2"),
        ("a.csv", csv("text,label", ["x" * 20_001 + ",up"]), "row 1 .*20,001 characters"),
        ("a.jsonl", b'{"text": "a"', "line 1 is not valid JSON"),
        ("a.jsonl", b"[1]\n" * 30, "line 1 is not a JSON object but a list"),
        ("a.jsonl", b'{"text": 5, "label": "up"}\n' * 30, "must be a string, not int"),
        ("a.parquet", b"PAR1 not really", "cannot be read as Parquet"),
        ("a.xlsx", b"PK", "a.xlsx is not an .xlsx file"),
        ("a.xls", b"", "a.xls: this kind of spreadsheet is not supported. Save it as .xlsx or UTF-8 CSV"),
        ("a.csv.gz", b"text", "a.csv.gz is not a gzip file. Correct its extension"),
        ("a.txt", b"text", "a.txt: unsupported file type. Use .csv, .tsv, .jsonl, .json, .parquet or .xlsx; rename"),
        ("a.csv", b"\x1f\x8b\x08\x00", "is a damaged gzip file"),
    ],
)
def test_a_file_that_cannot_be_measured_on_is_refused_with_the_remedy(name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_data(name, content, MOOD)


def test_task_of_a_label_column_is_inferred_from_its_labels_and_named() -> None:
    content = csv("text,label", ["a,Down", "b,up"])
    rows = parse_data("a.csv", content, TASKS)
    assert rows.labels == {"mood": [0, 1] * MIN_ROWS}
    note = "the column 'label' is taken for the right labels of mood; if it is not, name another with --label-column"
    assert note in rows.notes
    assert parse_data("a.csv", content, TASKS, task="mood").notes[:-1] == rows.notes[1:-1]
    with pytest.raises(InputError, match="Unknown task 'moods'"):
        parse_data("a.csv", content, TASKS, task="moods")


def test_label_column_of_another_name_is_inferred_from_its_labels() -> None:
    rows = parse_data("a.csv", csv("text,flag,verdict,note", ["a,1,food,x", "b,0,travel,y"]), TASKS)
    assert rows.labels == {"topic": [0, 2] * MIN_ROWS}
    assert "the column 'verdict' is taken for the right labels of topic" in rows.notes[0]
    assert parse_data("a.csv", csv("text,verdict", ["a,up", "b,down"]), MOOD).labels == {"mood": [1, 0] * MIN_ROWS}


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("text,label", "a,left", "'label' do not show which task is meant. .* --task: one of mood, again, topic"),
        ("text,label", "a,up", "'label' may be those of mood and again. .* --task: one of mood, again.$"),
        ("text,label", "a,1", "'label' do not show which task is meant"),  # a position in any task
        (
            "text,one,two",
            "a,food,other",
            r"several columns may hold .*: 'one' \(topic\), 'two' \(topic\). .*--label-col",
        ),
        ("text,flag", "a,1", "no label column"),
        ("text,mood,mood_confidence", "a,up,0.9", "no label column .* answers, because of 'mood_confidence'. Name it"),
        ("text,predicted_mood", "a,food", "no label column"),
        ("text,model answer", "a,food", "no label column"),
    ],
)
def test_task_that_the_labels_leave_open_is_asked_for_with_the_candidates(header: str, line: str, message: str) -> None:
    tasks = {"mood": TASKS["mood"], "again": TASKS["mood"], "topic": TASKS["topic"]}
    with pytest.raises(InputError, match=message):
        parse_data("a.csv", csv(header, [line]), tasks)


def test_only_some_columns_are_searched_for_labels() -> None:
    many = [f"c{i}" for i in range(rows.MAX_SEARCHED + 1)]
    with pytest.raises(InputError, match="no label column"):
        parse_data("a.csv", csv(",".join(["text", *many]), [",".join(["a", "up", *many[1:]])]), TASKS)


def test_a_task_with_several_labels_a_text_is_refused() -> None:
    many = {"tags": Task(("a", "b"), "multi_label_classification", 0.5)}
    with pytest.raises(InputError, match="several labels at once"):
        parse_data("a.csv", csv("text,tags", ["x,a"]), many)


def test_a_sample_is_the_same_for_the_same_seed_and_keeps_the_order() -> None:
    data = parse_data(
        "a.csv", csv("text,label", [f"text {i},{'up' if i % 2 else 'down'}" for i in range(100)], 1), MOOD
    )
    drawn = data.sample(30, seed=4)
    assert drawn == data.sample(30, seed=4) != data.sample(30, seed=5)
    assert drawn.row_numbers == sorted(drawn.row_numbers)
    assert all(data.texts[n - 1] == t for n, t in zip(drawn.row_numbers, drawn.texts, strict=True))
    assert drawn.remarks[-1] == "30 of 100 labelled rows, drawn at random with seed 4"
    assert data.sample(100, seed=4) is data


def test_rows_that_the_model_was_trained_on_are_left_out_of_the_comparison() -> None:
    data = parse_data("a.csv", csv("text,label", [f"text {i},up" for i in range(40)], 1), MOOD)
    labelled = data.without({"text 3", "text 5", "elsewhere"}, "they were seen")
    assert len(labelled) == 38
    assert labelled.row_numbers[3:5] == [5, 7]
    assert labelled.remarks[-1] == "2 rows are left out: they were seen"
    assert data.without({"elsewhere"}, "") is data
    with pytest.raises(InputError, match="has 1 labelled row .*39 rows are left out: they were seen"):
        data.without({f"text {i}" for i in range(39)}, "they were seen")


@pytest.mark.slow
def test_two_hundred_thousand_rows_are_read() -> None:
    labelled = parse_data("a.csv", csv("text,label", ["a good soup,up", "a bad lamp,down"], 100_000), MOOD)
    assert len(labelled) == 200_000


def test_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No file .*nothing.csv"):
        read_data(tmp_path / "nothing.csv", MOOD)


@pytest.mark.parametrize("address", ["hf://datasets/one/two", "hf://models/a/b/c.csv", "hf://datasets//b/c.csv"])
def test_an_address_on_the_hub_must_name_a_file(address: str) -> None:
    with pytest.raises(InputError, match="is not a file of a data set. Write hf://datasets/OWNER/NAME/path"):
        read_data(address, MOOD)


def test_a_file_on_the_hub_is_fetched_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def fetch(repository: str, path: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repository, path, repo_type, revision))
        (tmp_path / "a.csv").write_bytes(csv("text,label", ["a,up"]))
        return str(tmp_path / "a.csv")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert len(read_data("hf://datasets/me/mine@v1/deep/a.csv", MOOD)) == MIN_ROWS
    assert asked == [("me/mine", "deep/a.csv", "dataset", "v1")]


def test_unreachable_hub_is_reported_as_such() -> None:
    with pytest.raises(InputError, match="not in the cache and the Hub cannot be reached"):
        read_data("hf://datasets/nobody/nothing/a.csv", MOOD)  # the tests run with HF_HUB_OFFLINE


def test_the_showcase_is_readable_for_its_own_model() -> None:
    from inference.assets import DEMO_MODEL, SHOWCASE
    from inference.formats.bundle import Bundle

    labelled = rows.read_data(SHOWCASE, Bundle.read(DEMO_MODEL).tasks)
    assert set(labelled.labels) == {"sentiment", "emotion", "intent"}
