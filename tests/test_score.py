"""A file in, the same rows with the model's answers out: what is added, what is kept, what is said."""

from __future__ import annotations

import errno
import os
import tracemalloc
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import pytest
import scored
from conftest import ROOT, Tiny
from hypothesis import given
from hypothesis import strategies as st
from scored import ADDED, model, read_csv, run, write_csv

from inference.calls.texts import MAX_CHARS
from inference.errors import InferenceError, InputError
from inference.formats import files
from inference.formats.bundle import Task
from inference.formats.files import digest
from inference.jobs import Cancelled
from inference.score.annotate import AnswerOptions, Tally, answer
from inference.score.run import Model, ScoreJob, score
from inference.score.workers import answering
from inference.tables.reading import open_table
from inference.tables.text_formats import harmless

TEXTS = ["good", "bad glad", "sad sad sad", "book", "good bad good"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirty rows, each with its number."""
    rows = [[str(i), TEXTS[i % 5], "x"] for i in range(30)]
    return write_csv(tmp_path / "in.csv", ["id", "text", "more"], rows)


# --- What is added


def test_every_row_gets_the_answers_that_the_classifier_gives(source: Path, tmp_path: Path) -> None:
    report = run(source, tmp_path / "out.csv")
    rows = read_csv(report.out)
    classifier = fakes.classifier()
    assert list(rows[0]) == ["id", "text", "more", *ADDED]
    assert [row["id"] for row in rows] == [str(i) for i in range(30)]
    for row in rows:
        for task, predictions in classifier.predict_all_tasks(row["text"]).items():
            assert row[task] == predictions.label
            assert row[f"{task}_confidence"] == f"{predictions.confidence:.6f}"
            assert row[f"{task}_uncertain"] == str(predictions.uncertain).lower()
        assert row["error"] == ""
    assert (report.tally.rows, report.tally.errors, report.text_column) == (30, 0, "text")
    assert report.tally.tasks["sentiment"].labels == {"positive": 12, "negative": 18}
    assert sum(report.tally.tasks["sentiment"].confidence) == 30


def test_all_scores_have_a_column_for_each_label(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.csv", all_scores=True, tasks=("emotion",))
    row = read_csv(tmp_path / "out.csv")[1]
    assert list(row)[6:] == ["emotion_joy", "emotion_sadness", "emotion_neutral", "error"]
    assert float(row["emotion_joy"]) == pytest.approx(fakes.classifier().predict("bad glad", "emotion").scores["joy"])


def test_a_threshold_replaces_the_models_own(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.csv", threshold=1.0)
    assert {row["sentiment_uncertain"] for row in read_csv(tmp_path / "out.csv")} == {"true"}


def test_columns_that_are_there_already_are_kept_and_the_answers_get_a_prefix(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["text", "sentiment"], [["good", "positive?"]])
    report = run(source, tmp_path / "out.csv")
    (row,) = read_csv(tmp_path / "out.csv")
    assert row["sentiment"] == "positive?"
    assert row["predicted_sentiment"] == "positive"
    assert list(row)[2:] == [f"predicted_{name}" for name in ADDED]
    assert report.prefix == "predicted_"
    run(tmp_path / "out.csv", tmp_path / "again", tasks=("emotion",), text_column="text", format="jsonl")


def test_a_name_that_is_taken_twice_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["text", "error", "predicted_error"], [["good", "", ""]])
    with pytest.raises(InputError, match="The file already has a column 'predicted_error'"):
        run(source, tmp_path / "out.csv")
    tasks = {"a": Task(("confidence", "x"), fakes.SINGLE, 0.5)}
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]])
    with pytest.raises(InputError, match="Two added columns would be called 'a_confidence'"):
        score(ScoreJob(source, tmp_path / "out.csv", all_scores=True), scored.model(tasks))


# --- Rows that cannot be answered


def test_a_row_that_cannot_be_answered_says_why_and_the_others_are_as_without_it(tmp_path: Path) -> None:
    texts = ["good", "", "bad", "   ", "x" * (MAX_CHARS + 1), "glad"]
    run(write_csv(tmp_path / "in.csv", ["text", "n"], [[text, "1"] for text in texts]), tmp_path / "out.csv")
    kept = [text for text in texts if text.strip() and len(text) < MAX_CHARS]
    run(write_csv(tmp_path / "few.csv", ["text", "n"], [[text, "1"] for text in kept]), tmp_path / "fewer.csv")
    rows = read_csv(tmp_path / "out.csv")
    assert [row["error"].partition(":")[0].partition(";")[0] for row in rows] == [
        "",
        "The text is empty",
        "",
        "The text is empty",
        "The text has 20,001 characters",
        "",
    ]
    assert rows[1]["sentiment"] == rows[1]["sentiment_confidence"] == rows[1]["sentiment_uncertain"] == ""
    assert [row for row in rows if not row["error"]] == read_csv(tmp_path / "fewer.csv")


def test_only_the_text_without_tokens_gets_no_answer(tiny: Tiny) -> None:
    from inference import load

    classifier = load(tiny.folder, base=tiny.base, threads=1)
    options = AnswerOptions(("mood",))
    predictions = answer(classifier, ["so good", "\x00\x01", "\u200b", "so bad"], options)
    assert predictions.columns["error"][0] is predictions.columns["error"][3] is None
    assert "nothing to classify" in predictions.columns["error"][1]
    assert predictions.columns["mood"][1] is None
    assert predictions.tally.errors == 2
    alone = answer(classifier, ["so good", "so bad"], options)
    assert [predictions.columns["mood_confidence"][i] for i in (0, 3)] == alone.columns["mood_confidence"]


@pytest.mark.parametrize("value", [None, 3, 2.5, True, ["good"], {"a": 1}, "\ud800", float("nan"), "a\udfffb"])
def test_value_that_is_not_text_is_an_error_in_its_row(value: object) -> None:
    options = AnswerOptions(("sentiment",))
    predictions = answer(fakes.classifier(), ["good", value, "bad"], options)
    assert predictions.columns["error"][1]
    assert predictions.columns["sentiment"] == ["positive", None, "negative"]


def test_rows_that_all_lack_a_text_are_all_errors(tmp_path: Path) -> None:
    report = run(write_csv(tmp_path / "in.csv", ["id", "text"], [["1", ""]] * 20), tmp_path / "out.csv")
    assert (report.tally.rows, report.tally.errors) == (20, 20)


def test_texts_that_are_cut_are_counted(tmp_path: Path) -> None:
    rows = [["good " * 30], ["good"], [""]]
    assert run(write_csv(tmp_path / "in.csv", ["text"], rows), tmp_path / "out.csv").tally.truncated == 1


def test_texts_without_a_known_word_are_counted(source: Path, tmp_path: Path) -> None:
    rows = [["qwertz"], ["qwertz asdf"], ["good qwertz"], ["good"], [""]] * 3
    tally = run(write_csv(tmp_path / "in.csv", ["text"], rows), tmp_path / "out.csv").tally
    assert (tally.unknown, tally.rows) == (6, 15)
    assert Tally.of_dict(asdict(tally)) == tally


# --- Nothing depends on who answers


@pytest.mark.slow
def test_workers_and_blocks_change_nothing(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "one.csv")
    run(source, tmp_path / "two.csv", workers=2)
    run(source, tmp_path / "three.csv", block_rows=4)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "three.csv").read_bytes()


def _broken() -> object:
    raise InferenceError("The weights are damaged.")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_kind_of_worker_reports_a_model_that_cannot_be_opened(source: Path, tmp_path: Path, workers: int) -> None:
    with pytest.raises(InferenceError, match="^The weights are damaged.$"):
        score(ScoreJob(source, tmp_path / "out.csv"), scored.model(open_one=_broken), workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def _ended() -> object:
    os._exit(9)


def test_a_worker_that_is_ended_from_outside_is_one_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="A worker process was killed.*--workers continues from here"):
        score(ScoreJob(source, tmp_path / "out.csv"), scored.model(open_one=_ended), 2)


def _open_without_hashing(path: Path) -> object:
    if ("sha256", path.resolve()) not in files.digests():
        raise InferenceError("This process would hash the model's files again.")
    return fakes.classifier()


def test_workers_know_the_digests_of_this_process(source: Path, tmp_path: Path) -> None:
    digest(ROOT / "LICENSE")
    opener = partial(_open_without_hashing, ROOT / "LICENSE")
    assert score(ScoreJob(source, tmp_path / "out.csv"), scored.model(open_one=opener), 2).tally.errors == 0


@pytest.mark.slow
def test_a_pool_that_is_broken_already_says_the_same(source: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(InferenceError, match="A worker process was killed.*--workers continues from here"),
        answering(_ended, AnswerOptions(tuple(fakes.TASKS)), 2) as submit,  # type: ignore[arg-type]
    ):
        assert submit(["good"]).exception(300) is not None
        submit(["bad"])


def test_a_file_that_changes_while_it_is_looked_through_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*arguments: Any) -> Any:
        table = open_table(*arguments)
        source.write_text(source.read_text() + "late,good\n")
        return table

    monkeypatch.setattr("inference.score.run.open_table", change)
    with pytest.raises(InputError, match="in.csv changed while it was being scored"):
        run(source, tmp_path / "out.csv")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = write_csv(tmp_path / f"{rows}.csv", ["id", "text"], [[str(i), f"good {i}"] for i in range(rows)])
        tracemalloc.start()
        run(path, tmp_path / "out.csv", block_rows=250)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    peak(250)  # what is imported and cached once
    assert peak(20_000) < peak(2_000) + 1_000_000  # kept, these rows would take some 4 MB


def test_progress_names_rows_and_rate_and_ends_at_one(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    run(source, tmp_path / "out.csv", progress=lambda step, share: seen.append((step, share)))
    assert seen[0] == ("0 of 30 rows on INT8", 0)
    assert seen[-1][0].startswith("30 of 30 rows on INT8, ")
    assert "rows/s" in seen[-1][0]
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    assert seen[-1][1] == 1


@pytest.mark.parametrize("keep_partial", [True, False])
def test_a_cancelled_run_writes_the_rows_answered_until_then_if_asked_to(
    source: Path, tmp_path: Path, keep_partial: bool
) -> None:
    def progress(step: str, share: float) -> None:
        if share >= 0.5:
            raise Cancelled

    kept: list[Any] = []
    job = ScoreJob(source, tmp_path / "out.csv", block_rows=7, keep_partial=keep_partial)
    with nullcontext() if keep_partial else pytest.raises(Cancelled):
        report = score(job, model(), progress=progress, keep=lambda block, answers: kept.extend(block.texts))
        assert [row["id"] for row in read_csv(report.out)] == [str(i) for i in range(21)]
        assert (report.tally.rows, report.rows_in_file) == (21, 30)
    assert kept == [TEXTS[i % 5] for i in range(21)]


def test_a_run_cancelled_before_its_first_block_has_no_result(source: Path, tmp_path: Path) -> None:
    def progress(step: str, share: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(source, tmp_path / "out.csv", progress=progress, keep_partial=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


# --- What is refused, in one line


def test_out_must_be_a_file_other_than_the_input(source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(source)
    for out, message in (
        (source, "is the input"),
        (link, "is the input"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out.csv", "there is no folder"),
        (Path("/dev/null"), "is not a regular file"),
    ):
        with pytest.raises(InputError, match=message):
            run(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "link.csv"]


def test_full_disk_gives_one_line_and_the_run_resumes_once_there_is_room(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if sum(path.name.startswith("part-") for path in (tmp_path / "out.csv.partial").iterdir()) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InferenceError, match="Cannot write .*out.csv: No space left on device. Free"):
            run(source, tmp_path / "out.csv")
    assert run(source, tmp_path / "out.csv").resumed_rows == 14
    run(source, tmp_path / "other.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_invalid_tasks_and_thresholds_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown task 'mood'. This model has: sentiment, emotion."):
        run(source, tmp_path / "out.csv", tasks=("mood",))
    with pytest.raises(InputError, match="threshold=2.0 is not a probability"):
        run(source, tmp_path / "out.csv", threshold=2)
    with pytest.raises(InputError, match="Unknown format 'xlsx'. Known: csv, jsonl, parquet."):
        run(source, tmp_path / "out", format="xlsx")


def test_a_model_whose_answers_are_nan_is_an_error_and_no_answer(source: Path, tmp_path: Path) -> None:
    model = Model(fakes.bundle(), "int8", _nan)
    with pytest.raises(InferenceError, match="NaN or infinity"):
        score(ScoreJob(source, tmp_path / "out.csv"), model)


def _nan() -> object:
    backend = fakes.FakeBackend()
    for table in backend._tables.values():
        table[:] = float("nan")
    return fakes.classifier(backend)


# --- Formulas


@given(st.text(), st.sampled_from("=+-@\t\r\n＝＋－＠"), st.text(alphabet=" \t\r\n\x0b\x0c\xa0\u2003\u200b\ufeff\x00"))
def test_no_cell_begins_like_a_formula_behind_white_space(rest: str, sign: str, before: str) -> None:
    assert harmless(f"{before}{sign}{rest}") == f"'{before}{sign}{rest}"


@given(st.text(alphabet=st.characters(categories=["L", "N"])))
def test_words_and_numbers_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text
