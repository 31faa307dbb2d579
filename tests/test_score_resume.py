"""A run that was killed goes on: with the same bytes in the end, and never with parts of something else."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import fakes
import openpyxl
import pytest
import scored
from conftest import ROOT
from scored import run, write_csv

from inference.errors import InputError
from inference.score.journal import Journal, free_name, write
from inference.score.run import ScoreJob, score

THRESHOLDS = {name: task.threshold for name, task in fakes.TASKS.items()}


class Stopped(BaseException):
    """What ends a run from within its progress, as Ctrl-C does."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [[str(i), ("good", "bad", "sad")[i % 3]] for i in range(50)]
    return write_csv(tmp_path / "in.csv", ["id", "text"], rows)


def stop_at(share: float) -> object:
    def progress(step: str, done: float) -> None:
        if done >= share:
            raise Stopped

    return progress


@pytest.fixture
def begun(source: Path, tmp_path: Path) -> Path:
    """An output of which 28 rows are done."""
    with pytest.raises(Stopped):
        run(source, tmp_path / "out.csv", progress=stop_at(0.5))
    return tmp_path / "out.csv"


def test_a_run_goes_on_where_it_was_stopped_and_says_so(source: Path, begun: Path, tmp_path: Path) -> None:
    assert not begun.exists()
    seen: list[tuple[str, float]] = []
    report = run(source, begun, progress=lambda step, share: seen.append((step, share)))
    assert report.resumed_rows == 28
    assert report.tally.rows == 50
    assert seen[0] == ("28 of 50 rows on INT8 (28 done before)", 28 / 50)
    assert seen[1][1] == pytest.approx(35 / 50)
    whole = run(source, tmp_path / "whole.csv")
    assert begun.read_bytes() == whole.out.read_bytes()
    assert report.tally == whole.tally
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "whole.csv"]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(source: Path, begun: Path, tmp_path: Path) -> None:
    assert run(source, begun, workers=2).resumed_rows == 28
    assert begun.read_bytes() == run(source, tmp_path / "whole.csv").out.read_bytes()


def sheet(rows: list[tuple[str, str]]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in.csv.gz", "in.tsv", "in.json", "in.xlsx"])
def test_a_run_over_any_container_goes_on_with_two_workers(name: str, tmp_path: Path) -> None:
    rows = [("id", "text"), *((str(i), ("good", "bad", "sad")[i % 3]) for i in range(50))]
    contents: dict[str, Callable[[], bytes]] = {
        "in.csv.gz": lambda: gzip.compress("".join(f"{i};{text}\n" for i, text in rows).encode()),
        "in.tsv": lambda: "".join(f"{i}\t{text}\r\n" for i, text in rows).encode("utf-16"),
        "in.json": lambda: json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]], indent=1).encode(),
        "in.xlsx": lambda: sheet(rows),
    }
    source = tmp_path / name
    source.write_bytes(contents[name]())
    with pytest.raises(Stopped):
        run(source, tmp_path / "out.csv", progress=stop_at(0.5))
    assert run(source, tmp_path / "out.csv", workers=2).resumed_rows == 28
    assert run(source, tmp_path / "whole.csv").tally.rows == 50
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_the_model_is_not_opened_when_all_is_done(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(source, tmp_path / "out.csv", progress=stop_at(1))

    def never() -> None:
        raise AssertionError

    report = score(ScoreJob(source, tmp_path / "out.csv", block_rows=7), scored.model(open_one=never))
    assert report.resumed_rows == 50


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 0.9}, f"thresholds (then {json.dumps(THRESHOLDS)})"),
        (
            {"tasks": ("emotion",)},
            f"tasks (then {json.dumps(list(THRESHOLDS))}), thresholds (then {json.dumps(THRESHOLDS)})",
        ),
        ({"all_scores": True}, "all scores (then false)"),
        ({"text_column": "id"}, 'text column (then "text")'),
        ({"block_rows": 8, "all_scores": True}, "all scores (then false), rows in a block (then 7)"),
    ],
)
def test_parts_of_another_setting_are_refused_and_stay(
    source: Path, begun: Path, change: dict[str, object], named: str
) -> None:
    message = re.escape(f"out.csv.partial holds 4 parts of another run: other {named}. Use the")
    with pytest.raises(InputError, match=message):
        run(source, begun, **change)
    assert run(source, begun).resumed_rows == 28


def test_parts_of_pairs_are_refused_without_the_second_column(source: Path, begun: Path) -> None:
    journal = begun.with_name("out.csv.partial") / "journal.jsonl"
    first, rest = journal.read_text().split("\n", 1)
    journal.write_text(json.dumps(json.loads(first) | {"pair column": "id"}) + "\n" + rest)
    with pytest.raises(InputError, match='of another run: other pair column .then "id".'):
        run(source, begun)


def test_parts_cut_by_other_limits_are_refused(source: Path, begun: Path) -> None:
    journal = begun.with_name("out.csv.partial") / "journal.jsonl"
    first, rest = journal.read_text().split("\n", 1)
    about = json.loads(first)
    del about["limits of a block"]  # as versions wrote that cut by rows alone
    journal.write_text(json.dumps(about) + "\n" + rest)
    with pytest.raises(InputError, match="holds 4 parts of another run: of another version. .* delete that folder"):
        run(source, begun)
    assert not begun.exists()


def test_parts_of_another_input_are_refused(source: Path, begun: Path) -> None:
    source.write_text(source.read_text().replace("49,bad", "49,sad"))
    with pytest.raises(InputError, match="parts of another run: other input. Use the same input and settings"):
        run(source, begun)


def test_input_that_changes_during_the_run_is_refused(source: Path, tmp_path: Path) -> None:
    def change(step: str, share: float) -> None:
        if share == 1:
            source.write_text(source.read_text() + "50,good\n")

    with pytest.raises(InputError, match="in.csv changed while .* Delete .*out.csv.partial and start again."):
        run(source, tmp_path / "out.csv", progress=change)


def test_a_part_that_is_damaged_or_lost_is_done_again(source: Path, begun: Path, tmp_path: Path) -> None:
    folder = begun.with_name("out.csv.partial")
    (folder / "part-000001").write_bytes(b"1,good\n")
    (folder / "part-000002").unlink()
    (folder / "part-000009").write_bytes(b"what no journal names")
    assert run(source, begun).resumed_rows == 14
    assert begun.read_bytes() == run(source, tmp_path / "whole.csv").out.read_bytes()


@pytest.mark.parametrize("end", [b"", b'{"part": 4, "sha', b'{"part": 4}x\n'])
def test_a_journal_whose_end_was_cut_off_is_read_to_there(
    source: Path, begun: Path, tmp_path: Path, end: bytes
) -> None:
    journal = begun.with_name("out.csv.partial") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + end)
    assert run(source, begun).resumed_rows == 28
    assert begun.read_bytes() == run(source, tmp_path / "whole.csv").out.read_bytes()


def test_a_kill_between_the_replacement_and_the_end_of_the_journal_changes_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, missing_ok: bool = False) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Stopped):
            run(source, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    assert (tmp_path / "out.csv.partial" / "journal.jsonl").exists()
    assert run(source, tmp_path / "out.csv").resumed_rows == 50
    assert (tmp_path / "out.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_existing_output_stays_until_the_run_is_complete(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("of yesterday")
    with pytest.raises(Stopped):
        run(source, tmp_path / "out.csv", progress=stop_at(1))
    assert (tmp_path / "out.csv").read_text() == "of yesterday"
    run(source, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,text,sentiment")


def test_two_runs_cannot_write_one_file(source: Path, begun: Path) -> None:
    with (
        Journal(begun, json.loads((begun.with_name("out.csv.partial") / "journal.jsonl").read_text().split("\n")[0])),
        pytest.raises(InputError, match="out.csv is being written by another process"),
    ):
        run(source, begun)
    assert run(source, begun).resumed_rows == 28


@pytest.mark.parametrize("name", ["thesis.txt", "notes.tmp", "part-00000-abc.csv", "part-1", "lock.tmp"])
def test_folder_with_files_of_other_programs_is_not_emptied(source: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out.csv.partial"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(InputError, match=f"out.csv.partial holds {name}, which is not part of a run"):
        run(source, tmp_path / "out.csv")
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("line", ["[]", "5", '"parts"'])
def test_a_journal_that_holds_something_else_counts_for_nothing(source: Path, begun: Path, line: str) -> None:
    (begun.with_name("out.csv.partial") / "journal.jsonl").write_text(f"{line}\n{line}\n")
    assert run(source, begun).resumed_rows == 0


def test_resume_without_a_journal_starts_again(source: Path, begun: Path) -> None:
    (begun.with_name("out.csv.partial") / "journal.jsonl").unlink()
    assert run(source, begun).resumed_rows == 0
    assert not begun.with_name("out.csv.partial").exists()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
def test_no_other_run_can_start_while_the_folder_is_deleted(
    source: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        with pytest.raises(InputError, match="is being written by another process"), Journal(begun, {}):
            pass
        refused.append(path.name)
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        run(source, begun)
    assert refused[0] == "journal.jsonl"
    assert refused[-1] == "lock"
    assert not begun.with_name("out.csv.partial").exists()


@pytest.mark.parametrize("error", [InputError("too few rows"), KeyboardInterrupt()])
def test_failure_during_writing_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out.parquet").write_text("of yesterday")
    (tmp_path / "out.parquet.tmp").write_text("mine")

    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        assert len(list(tmp_path.iterdir())) == 3
        raise error

    with pytest.raises(type(error)):
        write(tmp_path / "out.parquet", fill, free_name(tmp_path / "out.parquet"))
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"out.parquet": "of yesterday", "out.parquet.tmp": "mine"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("points", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_runs_end_in_the_bytes_of_one_that_was_not(points: int) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "soak" / "kills.py", "--points", str(points), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.match(r"points (\d+), kills (\d+),", done.stdout)
    assert counted and int(counted[2]) >= int(counted[1]) == points
    assert ", wrong 0 in " in done.stdout
