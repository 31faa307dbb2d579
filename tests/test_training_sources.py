"""What is trained on: every shape of data that is taken, and what is refused with which words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from inference.compare.rows import LabelledRows
from inference.errors import InputError
from training.data import split
from training.example import rows as example_rows
from training.sources import Request, Source, read_sources

TEXTS = [f"text {i}" for i in range(40)]
LABELS = ["up" if i % 4 else "down" for i in range(40)]


def write(path: Path, texts: list[str] = TEXTS, **labels: list[str | None]) -> Path:
    """A table of texts and label columns, in the format that the ending tells."""
    columns = {"text": texts, **(labels or {"label": LABELS})}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        lines = [",".join(str(cell or "") for cell in row.values()) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def read(data: Path | str, **options: object) -> dict[str, Source]:
    return read_sources(Request(str(data), **options))[0]  # type: ignore[arg-type]


def labels_of(rows: LabelledRows) -> list[str]:
    """The label of each row of a single task."""
    ((_, known),) = rows.known.items()
    return [known[label] for label in rows.label_ids]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    source = read(write(tmp_path / f"a{ending}"), validation_share=0.0)["label"]
    assert source.train.texts == TEXTS
    assert labels_of(source.train) == LABELS
    assert source.validation is None


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_folder_per_task_is_read_with_its_validation_rows(ending: str, tmp_path: Path) -> None:
    for task in ("topic", "mood"):
        write(tmp_path / task / f"train{ending}")
    write(tmp_path / "mood" / "validation.csv", ["new one", "new two"], label=["up", "down"])
    (tmp_path / "notes").mkdir()
    tasks = read(tmp_path)
    assert list(tasks) == ["mood", "topic"]
    assert tasks["mood"].validation is not None
    assert tasks["mood"].validation.texts == ["new one", "new two"]
    assert tasks["mood"].measure == ("--data", str(tmp_path / "mood" / "validation.csv"), "--task", "mood")
    assert tasks["topic"].validation is None
    assert list(read(tmp_path, tasks=("topic",))) == ["topic"]


def test_a_folder_with_a_training_file_is_one_task(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    assert list(read(tmp_path)) == ["label"]
    assert read(tmp_path)["label"].validation is None
    write(tmp_path / "validation.jsonl", ["new"], label=["up"])
    sources = read(tmp_path, tasks=("mood",))
    assert sources["mood"].validation is not None
    assert sources["mood"].validation.texts == ["new"]


def test_a_single_file_gives_up_a_share_of_each_label_for_validation(tmp_path: Path) -> None:
    sources, rest = read_sources(Request(str(write(tmp_path / "a.csv"))))
    source = sources["label"]
    assert source.validation is not None
    assert Counter(labels_of(source.validation)) == {"up": 6, "down": 2}  # a fifth of 30 and of 10
    assert sorted(source.train.texts + source.validation.texts) == sorted(TEXTS)
    assert [row["text"] for row in rest] == source.validation.texts
    assert sources == read_sources(Request(str(tmp_path / "a.csv")))[0]
    assert sources != read_sources(Request(str(tmp_path / "a.csv"), seed=1))[0]


def test_rows_with_the_same_text_are_never_on_both_sides_of_a_split(tmp_path: Path) -> None:
    texts = [f"text {i % 15}" for i in range(60)]
    source = read(write(tmp_path / "a.csv", texts, label=["ab"[i % 2] for i in range(60)]))["label"]
    assert source.validation is not None
    assert source.validation.texts
    assert not set(source.validation.texts) & set(source.train.texts)


def test_a_rare_label_keeps_two_rows_to_train_on(tmp_path: Path) -> None:
    labels: list[str | None] = ["common"] * 37 + ["rare"] * 3
    source = read(write(tmp_path / "a.csv", label=labels), validation_share=0.9)["label"]
    assert labels_of(source.train).count("rare") == 2


def test_several_label_columns_are_several_tasks_and_a_row_may_lack_a_label(tmp_path: Path) -> None:
    mood: list[str | None] = [None if i < 10 else "ab"[i % 2] for i in range(40)]
    topic: list[str | None] = [None if 5 <= i < 20 else "xy"[i % 2] for i in range(40)]
    path = write(tmp_path / "a.csv", mood=mood, topic=topic)
    tasks = read(path, label_columns=("mood", "topic"), validation_share=0.0)
    assert tasks["mood"].train.texts == TEXTS[10:]
    assert tasks["topic"].train.texts == TEXTS[:5] + TEXTS[20:]
    assert tasks == read(path, tasks=("mood", "topic"), validation_share=0.0)
    sources, rest = read_sources(Request(str(path), label_columns=("mood", "topic")))
    held = {row["text"] for row in rest}
    assert not held & {text for source in sources.values() for text in source.train.texts}
    assert all(set(row) <= {"text", "mood", "topic"} for row in rest)


def test_columns_and_tasks_can_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,my class\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)))
    write(tmp_path / "b.csv", ["x"], label=["a"])
    sources = read(tmp_path / "a.csv", text_column="body", label_columns=("my class",), tasks=("mood",))
    assert list(sources) == ["mood"]
    with pytest.raises(InputError, match="task 'my class' must be 1 to 64 letters.*Name the task with --tasks"):
        read(tmp_path / "a.csv", text_column="body", label_columns=("my class",))


def test_a_label_map_renames_labels_and_leaves_rows_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", stars=["1", "5", "3", "up"] * 10)
    write(tmp_path / "validation.csv", stars=["1", "5"] * 20)
    source = read(
        path, label_columns=("stars",), label_map="1=down,5=up,3=,9=up", validation=str(tmp_path / "validation.csv")
    )["stars"]
    assert source.train.known["stars"] == ("down", "up")
    assert source.train.labels["stars"] == [0, 1, 1] * 10
    assert "'stars': labels are read by the label map: '1' as 'down', '5' as 'up', '3' as '', '9' as 'up'" in (
        source.train.remarks
    )
    assert "the label map has '9', which no row is labelled" in source.train.remarks
    assert source.validation is not None
    assert source.validation.labels["stars"] == [0, 1] * 20
    assert source.measure[-2:] == ("--label-map", "1=down,5=up,3=,9=up")
    both = write(tmp_path / "both.csv", mood=LABELS, topic=LABELS)
    with pytest.raises(InputError, match="--label-map is for one label column, and there are 2"):
        read(both, label_columns=("mood", "topic"), label_map="up=down")


def test_numbered_labels_of_a_hub_data_set_get_their_names_in_their_order(tmp_path: Path) -> None:
    features = {"label": {"names": ["up", "down"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    table = pa.table({"text": TEXTS, "label": [-1, *(i % 2 for i in range(39))]})
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(note), tmp_path / "a.parquet")
    source = read(tmp_path / "a.parquet", validation_share=0.0)["label"]
    assert labels_of(source.train)[:2] == ["up", "down"]
    assert len(source.train) == 39  # -1 is how a data set says that it does not tell
    assert split(source, 0.1, 1).labels == ("up", "down")
    plain = tmp_path / "b.parquet"
    pyarrow.parquet.write_table(pa.table({"text": TEXTS, "label": [i % 2 for i in range(40)]}), plain)
    assert set(labels_of(read(plain)["label"].train)) == {"0", "1"}


def test_a_file_on_the_hub_is_fetched_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def fetch(repository: str, path: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repository, path, repo_type, revision))
        return str(write(tmp_path / "train.parquet"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert list(read("hf://datasets/me/mine@v1/data/train.parquet")) == ["label"]
    assert asked == [("me/mine", "data/train.parquet", "dataset", "v1")]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "phrase,label\nx,a\n",
            {},
            "a.csv: which column holds the texts\\? Name it with --text-column; it has",
        ),
        ("text,verdict\nx,a\n", {}, "a.csv has no column 'label'; .*Name another with --label-columns"),
        ("text,label\nx,a\n,b\n", {}, "a.csv, row 2 \\(column 'text'\\): The text is empty"),
        ("text,label\nx,a\n" + "y" * 20_001 + ",b\n", {}, "a.csv, row 2 \\(column 'text'\\): .*20,001 characters"),
        ("text,label\nx,\n", {}, "a.csv, column 'label' has no row with a label"),
        ("text,label\nx,a\n", {"label_columns": ("text",)}, "cannot hold both the texts and the labels"),
        ("text,label\nx,a\n", {"tasks": ("one", "two")}, "must be as many: one, two for label"),
        ("text,label\nx,a\n", {"validation_share": 1.5}, "validation share of 1.5"),
        ("text,label\nx,a\n", {"validation": "nowhere.csv"}, "No file nowhere.csv"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_refused_with_the_place(
    content: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.csv", **options)


def test_a_cell_that_is_no_label_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": ["a", "b"]}\n')
    with pytest.raises(InputError, match=r"a.jsonl, row 2, column 'label': \['a', 'b'\] is not a label"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("up\ndown", r"row 2, column 'label': label 'up\\ndown' has line breaks"),
        (
            "x" * 201,
            "row 2, column 'label': every label must have a name of its own, of 1 to 200 char.*--label-columns",
        ),
    ],
)
def test_a_label_that_no_model_could_be_loaded_with_is_refused_with_its_row(
    label: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x", "label": name}) + "\n" for name in ("a", label)))
    with pytest.raises(InputError, match=f"a.jsonl, {message}"):
        read(path)


def test_a_numbered_label_with_an_empty_name_is_refused(tmp_path: Path) -> None:
    note = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["up", ""]}}}})}
    table = pa.table({"text": TEXTS, "label": [i % 2 for i in range(40)]})
    pyarrow.parquet.write_table(table.replace_schema_metadata(note), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 2, column 'label': label number 1 has an empty name"):
        read(tmp_path / "a.parquet")


def test_a_rare_label_keeps_two_texts_to_train_on(tmp_path: Path) -> None:
    texts = [*TEXTS[:36], "same", "same", "same", "another"]
    labels: list[str | None] = ["common"] * 36 + ["rare"] * 4
    source = read(write(tmp_path / "a.csv", texts, label=labels), validation_share=0.9)["label"]
    assert {t for t, label in zip(source.train.texts, labels_of(source.train), strict=True) if label == "rare"} == {
        "same",
        "another",
    }


def test_a_validation_label_that_no_training_row_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "validation.csv", ["x", "y"], label=["up", "upp"])
    with pytest.raises(
        InputError, match="train.csv, column 'label' has no row with the label 'upp', the label of 1 validation row"
    ):
        split(read(tmp_path)["label"], 0.1, 1)


def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no task. Add one folder per task"):
        read(tmp_path)
    with pytest.raises(InputError, match="No folder and no file"):
        read(tmp_path / "nowhere")
    write(tmp_path / "mood" / "train.csv")
    write(tmp_path / "mood" / "train.jsonl")
    with pytest.raises(InputError, match="holds train.csv and train.jsonl. Keep one"):
        read(tmp_path)
    (tmp_path / "mood" / "train.jsonl").unlink()
    with pytest.raises(InputError, match="name one label column at most"):
        read(tmp_path, label_columns=("a", "b"))
    with pytest.raises(InputError, match="'topic'"):
        read(tmp_path, tasks=("topic",))
    write(tmp_path / "train.csv")
    with pytest.raises(InputError, match="holds train.csv and folders of tasks \\(mood\\)"):
        read(tmp_path)


def test_the_example_is_the_same_for_everybody_and_has_no_text_twice() -> None:
    rows = example_rows()
    assert rows == example_rows()
    assert len(rows) == len({text for text, _ in rows}) == 500
    counts = Counter(label for _, label in rows)
    assert set(counts) == {"billing", "technical"}
    assert min(counts.values()) > 225
