"""A scored file beside its right labels: which columns hold them, what they mean, and what the page shows of them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import fakes
import pytest
from conftest import ROOT
from scored import model, write_csv

from inference import InputError
from inference.formats.bundle import Task
from inference.score.annotate import TaskTally
from inference.score.run import Report, ScoreJob, score
from inference.tables.reading import open_table
from inference.tables.table import Table
from inference.tables.text_formats import harmless, is_number
from ui import figures, scored
from ui.right_labels import LabelFields
from ui.scored import RightLabels, ScoredRows, guess_label_columns, map_as_text, read_map, read_right_labels

MANY = Task(tuple(f"label {number}" for number in range(30)), fakes.SINGLE, 0.6)


def table_of(folder: Path, header: list[str], rows: list[list[str]]) -> Table:
    return open_table(write_csv(folder / "in.csv", header, rows))


def scored_rows(table: Table, right: dict[str, RightLabels], folder: Path) -> tuple[Report, ScoredRows]:
    with ScoredRows(folder / "rows.gz", table, [table.text_column], fakes.TASKS, right) as rows:
        report = score(ScoreJob(folder / table.name, folder / f"out.{table.format}"), model(), keep=rows.add)
    return report, rows


def lines_of(rows: ScoredRows) -> list[Any]:
    return [json.loads(line) for line in gzip.open(rows.path, "rt")]


# --- Which column


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (["text", "label"], ["good", "positive"], {"sentiment": "label"}),
        (["text", "y"], ["good", "Sadness"], {"emotion": "y"}),
        (["text", "Emotion", "sentiment"], ["good", "joy", "?"], {"emotion": "Emotion", "sentiment": "sentiment"}),
        (["text", "judged"], ["good", "negative"], {"sentiment": "judged"}),
        (["text", "author"], ["good", "Jane"], {}),
        (["text", "label"], ["good", "of neither task"], {}),
        (["text"], ["good"], {}),
        (["text", "sentiment", "sentiment_confidence"], ["good", "positive", "0.9"], {}),  # answers of a model
    ],
)
def test_label_columns_are_found_by_their_names_and_by_their_labels(
    tmp_path: Path, header: list[str], row: list[str], expected: dict[str, str]
) -> None:
    table = table_of(tmp_path, header, [row] * 3)
    assert guess_label_columns(table, fakes.TASKS, ["text"]) == expected


def test_a_task_with_several_labels_per_text_has_no_right_label_column(tmp_path: Path) -> None:
    tasks = {"topics": Task(("a", "b"), "multi_label_classification", 0.5)}
    assert guess_label_columns(table_of(tmp_path, ["text", "topics"], [["good", "a"]]), tasks, ["text"]) == {}


# --- What its labels mean


def read(table: Table, column: str = "label", lines: str = "") -> RightLabels:
    return read_right_labels(table, fakes.TASKS, {"sentiment": column}, {"sentiment": read_map(lines)})["sentiment"]


def test_labels_are_read_as_compare_reads_them(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "label"], [["good", "POS"], ["bad", "negative"], ["good", ""]])
    right = read(table)
    assert list(right.ids) == [1, 0, -1]
    assert any("'POS' as 'positive'" in remark for remark in right.remarks)


def test_unknown_labels_are_listed_with_a_map_that_reads_back(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "label"], [["good", "happy=good"], ["bad", "negativ"]] * 15)
    right = read(table)
    assert right.problem is not None
    assert "2 labels that this task does not have: 'happy=good' (15 rows)" in right.problem
    assert "Say below the column what they mean." in right.problem
    assert map_as_text(right.unknown, fakes.TASKS["sentiment"]) == "happy=good =\nnegativ = negative"
    mapped = read(table, lines="happy=good = positive\nnegativ = negative\n\n")
    assert mapped.problem is None
    assert list(mapped.ids) == [1, 0] * 15
    assert list(read(table, lines="happy=good =\nnegativ = negative").ids) == [-1, 0] * 15


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("happy", "'happy' does not say what a label means"),
        ("= positive", "does not say what a label means"),
        ("a = positive\na = negative", "'a' is mapped twice"),
        ("a = positive\n" * 201, "The map has 201 lines; the maximum is 200"),
        ("happy = glad", "names 'glad', which the task does not have"),
        (f"{'x' * 5000} = {'y' * 5000}", "a string of 5,000 characters"),
    ],
)
def test_a_map_that_cannot_be_used_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        read(table_of(tmp_path, ["text", "label"], [["good", "happy"]]), lines=lines)
    assert len(str(refused.value)) < 400


def test_a_column_of_texts_asks_for_another_column(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "label"], [["good", f"a text {number}"] for number in range(80)])
    assert "Choose another column." in str(read(table).problem)


def test_long_labels_and_columns_are_not_repeated_to_the_browser(tmp_path: Path) -> None:
    import gradio as gr

    table = table_of(tmp_path, ["text", "label", "x" * 100_000], [["good", "y" * 100_000, "positive"]] * 30)
    with gr.Blocks(), gr.Row():
        fields = LabelFields(fakes.TASKS)
    assert len(str(fields.guess(table, {"sentiment": "label"}).values())) < 5_000
    assert guess_label_columns(table, fakes.TASKS, ["text"]) == {}
    with pytest.raises(InputError) as refused:
        read(table, column="z" * 100_000)
    assert len(str(refused.value)) < 1_000


def test_too_few_labelled_rows_give_no_accuracy(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "label"], [["good", "positive"]] * 19)
    assert read(table).problem == "Accuracy is not shown: 19 rows with a label, and at least 20 are needed."


def test_fields_show_a_map_for_unknown_labels_and_keep_it_while_it_is_edited(tmp_path: Path) -> None:
    import gradio as gr

    table = table_of(tmp_path, ["text", "label"], [["good", "happy"]] * 30)
    with gr.Blocks(), gr.Row():
        fields = LabelFields(fakes.TASKS)
    shown = fields.guess(table, {"sentiment": "label"})
    assert shown[fields.maps[0]]["value"] == "happy ="
    assert [shown[use]["visible"] for use in fields.uses] == [True, False]
    used = fields.check(table, ["label", "happy = positive", True, "", "", False], is_new=False)
    assert list(used) == [fields.note]
    assert "sentiment: 30 rows with a right label in column &#39;label&#39;." in used[fields.note]
    wrong = fields.check(table, ["label", "happy = glad", True, "", "", False], is_new=False)
    assert "names &#39;glad&#39;" in wrong[fields.note]


# --- The rows that the browser gets


def test_rows_come_with_their_answers_and_right_labels(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["id", "text", "label"], [["1", "good", "positive"], ["2", "", ""], ["3", "bad", "pos"]])
    right = {"sentiment": RightLabels("label", [1, -1, 1])}
    _, rows = scored_rows(table, right, tmp_path)
    about, *lines = lines_of(rows)
    assert about["columns"] == ["id", "text", "label"]
    assert about["texts"] == [1]
    assert [task["right"] for task in about["tasks"]] == ["label", None]
    assert lines[0] == [["1", "good", "positive"], [[1, 0.880797, 0, 1], [0, 0.333333, 1, -1]], ""]
    assert lines[1][1:] == [[[-1, 0, 0, -1], [-1, 0, 0, -1]], "The text is empty: give it at least one word."]
    assert rows.confusion["sentiment"] == {(1, 1): 1, (1, 0): 1}
    assert (rows.rows, rows.listed) == (3, 3)


def test_columns_of_the_file_that_are_named_like_answers_change_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "sentiment", "error"], [["good", "negative", "x"]])
    _, rows = scored_rows(table, {"sentiment": RightLabels("sentiment", [0])}, tmp_path)
    assert lines_of(rows)[1] == [["good", "negative", "x"], [[1, 0.880797, 0, 0], [0, 0.333333, 1, -1]], ""]


def test_rows_beyond_the_limit_are_counted_and_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "MAX_TABLE_BYTES", 3_000)
    table = table_of(tmp_path, ["text", "label"], [["good " * 20, "positive"]] * 40)
    report, rows = scored_rows(table, {"sentiment": RightLabels("label", [1] * 40)}, tmp_path)
    sent = gzip.decompress(rows.path.read_bytes())
    assert len(sent) <= 3_000
    assert 5 < rows.listed == len(sent.splitlines()) - 1 < 40
    assert rows.confusion["sentiment"].total() == 40
    assert f"the table below has the first {rows.listed} rows" in figures.summary(report, "int8", rows.listed)


def test_half_characters_and_line_separators_stay_in_their_row(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a\ud800b\u2028c\nd"}) + "\n")
    _, rows = scored_rows(open_table(tmp_path / "in.jsonl"), {}, tmp_path)
    assert lines_of(rows)[1][0] == ["a\ud800b\u2028c\nd"]


def test_rows_whose_labels_the_model_lacks_are_scored_and_compared_with_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["text", "label"], [["good", "praise"]] * 30)
    _, rows = scored_rows(table, read_right_labels(table, fakes.TASKS, {"sentiment": "label"}, {}), tmp_path)
    about, first, *_ = lines_of(rows)
    assert [task["right"] for task in about["tasks"]] == [None, None]
    assert [right for *_, right in first[1]] == [-1, -1]


@pytest.mark.smoke
def test_browser_and_python_agree_what_a_spreadsheet_would_run(browser: Any) -> None:
    signs = [chr(code) for code in (*range(0x2070), 0xFEFF, *range(0xFF00, 0xFF60))]
    cells = [f"{sign}{rest}" for sign in signs for rest in ("", "1", "=1", " 1")]
    cells += ["-5", "-.5e-3", "+1.", "-5 ", "-1,5", "--5", "-٥", "-1_0", "-inf", "'=1", "''=1", "a=1"]
    source = (ROOT / "ui" / "csv.js").read_text(encoding="utf-8")
    page = browser.new_page()
    written = page.evaluate(
        """async ([source, cells]) => {
          const { harmless } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
          return cells.map(harmless);
        }""",
        [source, cells],
    )
    assert written == [cell if is_number(cell) else harmless(cell) for cell in cells]
    page.close()


# --- The cards


def card(tmp_path: Path, labels: list[str]) -> str:
    table = table_of(tmp_path, ["text", "label"], [["good", label] for label in labels])
    right = read_right_labels(table, fakes.TASKS, {"sentiment": "label"}, {})
    report, rows = scored_rows(table, right, tmp_path)
    return figures.report(report, "int8", fakes.bundle(), dict.fromkeys(fakes.TASKS, 0.5), right, rows)


def test_accuracy_has_its_interval_and_its_confusions(tmp_path: Path) -> None:
    html = card(tmp_path, ["positive"] * 30 + ["negative"] * 10)
    assert "<b>75.0%</b> right" in html
    assert "10 wrong" in html
    assert "59.8% to 85.8% with 95% confidence, on 40 labelled rows" in html  # Wilson's interval
    assert 'aria-label="10 rows labelled negative, answered positive. Show them."' in html


def test_without_wrong_rows_there_is_no_confusion_to_look_at(tmp_path: Path) -> None:
    html = card(tmp_path, ["positive"] * 30)
    assert "<b>100%</b> right" in html
    assert "confusion" not in html


def test_with_many_labels_the_most_confused_pairs_are_listed() -> None:
    tally = TaskTally()
    confusion = {"sentiment": {(number, (number + 1) % 30): number + 1 for number in range(30)} | {(0, 0): 50}}
    bundle = fakes.bundle({"sentiment": MANY})
    rows = type("Rows", (), {"confusion": {task: figures.Counter(of) for task, of in confusion.items()}})
    result = type("Result", (), {"tally": type("Tally", (), {"rows": 1, "errors": 0, "tasks": {"sentiment": tally}})})
    right = {"sentiment": RightLabels("label", [0] * 30)}
    html = figures.report(result, "int8", bundle, {"sentiment": 0.5}, right, rows)  # type: ignore[arg-type]
    assert "labels confused most often (12 of 30 pairs)" in html
    assert html.index("30 rows labelled label 29, answered label 0") < html.index("29 rows labelled label 28")


@pytest.mark.parametrize("labels", [{}, {"joy": 50}, {f"label {number}": 1 for number in range(97)}])
def test_bars_are_shares_of_the_answers_and_the_rest_is_one_bar(labels: dict[str, int]) -> None:
    bars = figures.shares(TaskTally(labels=labels))
    assert sum(rows for _, rows in bars) == sum(labels.values())
    assert len(bars) == min(len(labels), figures.MAX_BARS + 1)


def test_every_bin_with_rows_has_a_bar_that_can_be_seen() -> None:
    counts = TaskTally()
    counts.confidence = [0, 1, *[0] * 17, 10_000]
    bars = figures.histogram(counts)
    assert [bar["height"] for bar in bars if bar["rows"]] == [1.0, figures.CHART_HEIGHT]
    assert bars[1]["range"] == "0.05 to 0.10"


def test_a_stopped_file_says_how_many_rows_the_download_has(tmp_path: Path) -> None:
    report, _ = scored_rows(table_of(tmp_path, ["text"], [["good"]] * 3), {}, tmp_path)
    stopped = Report(**{**vars(report), "rows_in_file": 9})
    assert "stopped after 3 of 9: the download has these alone" in figures.summary(stopped, "int8", 3)
