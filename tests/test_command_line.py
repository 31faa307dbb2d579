"""`python -m inference`: what it prints, where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEMO, ROOT, Tiny

from inference.__main__ import main
from inference.artifacts.cache import find
from inference.formats.bundle import Bundle

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(demo: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on the demo model, in this process."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


def test_module_runs_as_a_program_and_reads_utf_8_from_a_pipe(demo: Path, demo_cache: Path) -> None:
    command = [sys.executable, "-m", "inference", "predict", "--backend", "int8", "--json", "-"]
    for texts, code in (("it was dreadful 😡\n", 0), ("", 2)):
        done = subprocess.run(command, input=texts.encode(), capture_output=True, cwd=ROOT, check=False)
        assert done.returncode == code, done.stderr
        assert bool(done.stdout) == (code == 0)


def test_python_without_the_libraries_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "inference", "verdict", str(tmp_path)]  # -S: no installed packages
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot import what Triptych needs: No module named" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_answers_one_task_or_all(run: Run) -> None:
    done = run("predict", "--backend", "int8", "--task", "sentiment", "what a lovely film")
    assert done.returncode == 0
    assert done.stdout.split()[:2] == ["sentiment", "positive"]
    done = run("predict", "--backend", "int8", "what a lovely film")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["emotion", "intent", "sentiment"]
    assert ["out of scope" in line for line in lines] == [False, True, False]
    (line,) = run("predict", "--backend", "int8", "--task", "intent", "set an alarm for six").stdout.splitlines()
    assert line.split()[1] == "alarm"
    assert "out of scope" not in line


def test_model_folder_as_text_or_output_is_rejected(run: Run, tiny: Tiny) -> None:
    done = run("predict", str(tiny.folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"To use the model in it: --model {tiny.folder}" in done.stderr
    done = run("export", str(tiny.folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is the folder of a model (it has bundle.json)" in done.stderr
    assert not list(tiny.folder.glob("*.onnx"))


def test_json_output_is_a_single_document(run: Run) -> None:
    done = run("predict", "--backend", "int8", "--json", "--threshold", "1", "lovely", "it was dreadful 😡")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert [row["text"] for row in document["results"]] == ["lovely", "it was dreadful 😡"]
    answer = document["results"][1]["predictions"]["sentiment"]
    assert answer["label"] == "negative"
    assert answer["uncertain"] is True
    assert sum(answer["scores"].values()) == pytest.approx(1)


def test_dash_reads_one_text_per_line(run: Run) -> None:
    done = run("predict", "--backend", "int8", "--json", "-", stdin="lovely\n\nawful\n\n")
    assert [row["text"] for row in json.loads(done.stdout)["results"]] == ["lovely", "awful"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["predict", "--model", "no/such", "x"], "", "error: No model folder no/such"),
        (["predict", "--backend", "int8", "--task", "mood", "x"], "", "error: Unknown task 'mood'"),
        (["predict", "--backend", "int8", ""], "", "error: The text is empty"),
        (["predict", "--backend", "int8", "good", " "], "", "error: texts[1] is empty"),
        (["predict", "--backend", "int8", "-"], "", "error: texts is empty"),
        (["predict", "--backend", "int8", "--threshold", "2", "x"], "", "error: threshold=2.0"),
        (["predict", "--backend", "tflite", "x"], "", "invalid choice: 'tflite'"),
        (["info", "--model", "no/such"], "", "error: No model folder no/such"),
        (["doctor", "a", "--model", "b"], "", "error: Two models are given: a and --model b. Leave one out."),
        (["serve", "a", "--model", "b"], "", "error: Two models are given: a and --model b. Leave one out."),
        (["merge", "--cache", "x", "y"], "", "unrecognized arguments: --cache"),
    ],
)
def test_error_is_one_line_on_stderr_with_exit_code_2(run: Run, arguments: list[str], stdin: str, message: str) -> None:
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_invalid_utf8_is_replaced_and_reported(run: Run) -> None:
    done = run("predict", "--backend", "int8", "--json", "-", stdin=b"\xef\xbb\xbf\xc3\xbcber\ncaf\xe9 was lovely\n")
    assert [row["text"] for row in json.loads(done.stdout)["results"]] == ["\u00fcber", "caf\ufffd was lovely"]
    assert done.stderr == "stdin is not UTF-8, first in line 2: unreadable bytes are replaced by U+FFFD.\n"


def test_only_newlines_separate_texts(run: Run) -> None:
    done = run("predict", "--backend", "int8", "--json", "-", stdin="\ufeffone\u2028still one\r\ntwo")
    assert [row["text"] for row in json.loads(done.stdout)["results"]] == ["one\u2028still one", "two"]


def test_invalid_cache_folder_is_an_error_in_one_line(run: Run) -> None:
    done = run("build", "--cache", "README.md/cache")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_info_prints_tasks_sizes_hashes_and_parity(run: Run, demo_cache: Path, tmp_path: Path) -> None:
    built = find(Bundle.read(DEMO), demo_cache)
    assert built
    # A cache without the files of an optional runtime, which another test or the user may have built in the shared one.
    shutil.copytree(built.folder, tmp_path / built.folder.relative_to(demo_cache))
    done = run("info", "--json", "--cache", str(tmp_path))
    output = json.loads(done.stdout)
    assert set(output["tasks"]) == {"sentiment", "emotion", "intent"}
    assert len(output["tasks"]["intent"]["labels"]) == 151
    assert set(output["size_bytes"]) == {"pytorch", "onnx", "int8"}
    assert output["artifact"]["parity"]["backends"]["onnx"]["label_agreement"] == 1
    people = run("info", "--cache", str(tmp_path)).stdout
    assert "task    intent" in people
    assert "parity  INT8" in people


def test_build_prints_the_folder_and_builds_once(run: Run) -> None:
    output = json.loads(run("build", "--json").stdout)
    again = run("build")
    assert output["folder"] in again.stdout
    assert "quantising" not in again.stderr


def test_info_works_before_a_build(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(tiny.folder), "--cache", str(tmp_path)]) == 0
    assert "not built yet" in capsys.readouterr().out
