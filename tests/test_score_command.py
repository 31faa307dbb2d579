"""`python -m inference score` on the demo model: what it prints, and that INT8 gives each text its own answer."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from scored import read_csv, read_jsonl, write_csv

from inference import cpu, load
from inference.__main__ import main
from inference.assets import SHOWCASE, showcase_texts
from inference.formats.describe import describe


@pytest.fixture(autouse=True)
def _built(demo: Path, demo_cache: Path) -> None:
    """The demo model's files are there, so that nothing is built while a command is timed out."""


def test_the_showcase_is_answered_as_predict_answers_it(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from inference import load

    assert main(["score", str(SHOWCASE), "--out", str(tmp_path / "out.csv"), "--workers", "1"]) == 0
    printed = capsys.readouterr()
    assert "388 rows in" in printed.out
    assert "all added columns begin with predicted_" in printed.out
    assert "388 of 388 rows on INT8" in printed.err
    rows = read_csv(tmp_path / "out.csv")
    alone = load(demo, "int8")
    for row in rows[::40]:
        for task, predictions in alone.predict_all_tasks(row["text"]).items():
            assert row[f"predicted_{task}"] == predictions.label
            assert row[f"predicted_{task}_confidence"] == f"{predictions.confidence:.6f}"


def test_error_column_is_named_in_the_message_as_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(tmp_path / "in.csv", ["text", "error"], [["good", "x"], ["", "y"]])
    assert main(["score", str(source), "--out", str(tmp_path / "out.csv"), "--workers", "1"]) == 0
    assert "1 row has no answer; the column predicted_error says why." in capsys.readouterr().out
    assert read_csv(tmp_path / "out.csv")[1]["predicted_error"]


def test_command_names_its_columns_and_the_file_it_replaces_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "in.csv", ["text"], [["good"], ["bad"]])
    command = ["score", "in.csv", "--out", "out.csv", "--workers", "1", "--tasks", "sentiment"]
    begins = "Scoring 2 rows of column 'text' on INT8 …"
    for expected in ([begins], ["out.csv exists and will be replaced at the end.", begins]):
        assert main(command) == 0
        assert capsys.readouterr().err.splitlines()[: len(expected)] == expected


def test_missing_header_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.csv"
    source.write_text("what a lovely film\nso slow\n")
    command = ["score", str(source), "--out", str(tmp_path / "out.csv"), "--workers", "1", "--tasks", "sentiment"]
    assert main(command) == 0
    warning = "The first line of in.csv was read as column names, but 'what a lovely film' looks like a text"
    assert capsys.readouterr().err.startswith(warning)
    assert main([*command, "--text-column", "what a lovely film"]) == 0
    assert warning not in capsys.readouterr().err
    source.write_text('"a lovely, lovely film",positive\n"so slow",negative\n')
    assert main(command) == 2
    assert "the file has no header" in capsys.readouterr().err


def test_rows_without_a_text_have_no_answer_and_na_is_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "in.csv": ('text,n\nNA,1\n\nnull,2\n"  ",3\n\n', ["NA", "null"], 3),
        "in.jsonl": ('{"text": "NA"}\n\n{"text": null}\n{"text": 5}\n{"n": 1}\n\n', ["NA"], 3),
    }
    for name, (content, answered, refused) in files.items():
        (tmp_path / name).write_text(content)
        out = tmp_path / f"out-{name}"
        assert main(["score", str(tmp_path / name), "--out", str(out), "--workers", "1", "--json"]) == 0
        rows = read_csv(out) if name == "in.csv" else read_jsonl(out)
        assert [row["text"] for row in rows if row["sentiment"]] == answered
        assert sum(bool(row["error"]) for row in rows) == refused


@pytest.mark.parametrize(("engine", "message"), [("local", "continues from here"), ("ray", "starts again")])
def test_stopped_run_says_what_the_same_command_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: str, message: str
) -> None:
    from inference.score import ray_data, run

    seen = []

    def stopped(job: run.ScoreJob, model: run.Model, *_: object) -> None:
        seen.append(model.open.keywords["threads"])  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_data if engine == "ray" else run, "score", stopped)
    command = ["score", str(SHOWCASE), "--out", str(tmp_path / "out.csv"), "--engine", engine, "--workers", "1"]
    with contextlib.suppress(KeyboardInterrupt):
        main(command)
    assert f"Stopped. The same command {message}." in capsys.readouterr().err
    assert seen == [1 if engine == "ray" else cpu.cores()]


@pytest.mark.slow
def test_resumed_run_says_which_rows_its_time_covers(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from inference.score import run

    source = write_csv(tmp_path / "in.csv", ["text"], [["so good"]] * 2_500)
    command = ["score", str(source), "--out", str(tmp_path / "out.csv"), "--workers", "1", "--tasks", "sentiment"]

    def stopped(step: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    bundle = describe(demo)
    model = run.Model(bundle, "int8", partial(load, bundle.folder, "int8", threads=1))
    with contextlib.suppress(KeyboardInterrupt):
        run.score(run.ScoreJob(source, tmp_path / "out.csv", tasks=("sentiment",)), model, progress=stopped)
    assert main([*command, "--tasks", "sentiment,sentiment"]) == 0  # named twice, answered once
    out = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r".*out\.csv: 2,500 rows, 500 of them in [\d.]+ s and 2,000 before, texts from 'text'\.", out)


@pytest.mark.parametrize(
    "backend", ["int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("onnx", "pytorch"))]
)
def test_workers_give_the_same_bytes_on_every_backend(tmp_path: Path, backend: str) -> None:
    source = write_csv(tmp_path / "in.csv", ["text"], [[text] for text in showcase_texts()[:60]])
    for workers in ("1", "2"):
        out = str(tmp_path / f"{workers}.jsonl")
        assert main(["score", str(source), "--out", out, "--backend", backend, "--workers", workers, "--json"]) == 0
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_json_output_is_a_single_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "sentiment", "--all-scores", "--threshold", "0.9", "--format", "jsonl", "--json"]
    assert main(["score", str(SHOWCASE), "--out", str(tmp_path / "out"), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert (report["tally"]["rows"], report["format"]) == (388, "jsonl")
    row = read_jsonl(tmp_path / "out")[0]
    assert row["predicted_sentiment_positive"] == row["predicted_sentiment_confidence"] > 0.9
    assert row["predicted_sentiment_uncertain"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.csv", "--out", "out.csv"], "error: No file no.csv."),
        (["in.csv", "--out", "in.csv"], "error: --out in.csv is the input."),
        (["in.csv", "--out", "no/out.csv"], "error: --out no/out.csv: there is no folder no."),
        (["in.csv", "--out", "out.csv", "--workers", "0"], "error: --workers 0 must be at least 1."),
        (["in.csv", "--out", "out.csv", "--tasks", "mood"], "error: Unknown task 'mood'."),
        (["in.csv", "--out", "out.csv", "--text-column", "x"], "error: in.csv has no column 'x'"),
        (["in.csv", "--out", "out.csv", "--threshold", "nan"], "error: threshold=nan is not a probability"),
        (["in.csv", "--out", "out.csv", "--model", "no/such"], "error: No model folder no/such"),
        (
            ["in.csv", "--out", "out.xlsx"],
            "error: --out out.xlsx: unsupported file type.",
        ),
        (
            ["in.csv", "--out", "out.csv.gz"],
            "error: --out out.csv.gz: unsupported file type.",
        ),
        (["in.csv", "--out", "out.parquet", "--format", "csv"], "error: --out out.parquet ends in .parquet, but"),
    ],
)
def test_an_error_is_one_line_with_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("text\ngood\n")
    assert main(["score", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.slow
def test_csv_and_json_lines_need_no_library_beyond_those_of_onnx(tmp_path: Path, demo: Path) -> None:
    hidden = ("torch", "transformers", "peft", "pandas", "pyarrow", "scipy", "sklearn", "tqdm", "plotly", "gradio")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({hidden!r}); from inference.__main__ import main; sys.exit(main())"
    )
    for out, code_of_exit in (("out.csv", 0), ("out.jsonl", 0), ("out.parquet", 2)):
        command = [sys.executable, "-c", code, "score", SHOWCASE, "--out", tmp_path / out, "--workers", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code_of_exit, done.stderr
    assert "Writing Parquet needs the library pyarrow" in done.stderr


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "".join(f"a text of some words and the number {i}\n" for i in range(40_000)))
    command = [sys.executable, "-m", "inference", "score", str(source), "--out", str(tmp_path / "out.csv")]
    with subprocess.Popen(
        [*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        journal = tmp_path / "out.csv.partial" / "journal.jsonl"
        while not journal.is_file() or journal.read_bytes().count(b"\n") < 2:  # a part is named there
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr.endswith("Stopped. The same command continues from here.\n")
    assert "Traceback" not in stderr
    shutil.rmtree(tmp_path / "out.csv.partial")
