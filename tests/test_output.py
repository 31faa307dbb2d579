"""Output on terminals and pipes that are not UTF-8: every command prints all of it, with the same exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import foreign
import pytest
from conftest import ROOT
from made import answers, flip, receipt
from ports import free_port
from served import Served

import training.__main__
from dashboard import report
from deploy import space
from inference.commands import main
from inference.compare.receipt import write_receipt
from inference.jobs import ProgressLine, print_any_text

LABELS = ("mécontent −", "好评 ✓")
ENCODINGS = pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier whose name and labels are not ASCII, a table, and room for what commands write."""
    folder = tmp_path_factory.mktemp("output")
    foreign.classifier(folder / "modèle−好", labels=LABELS)
    (folder / "tablé.csv").write_text("text\nsoup − was fine\nbad\n好\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def receipt_file(made: Path) -> str:
    """A small measurement whose verdict and table have letters that are not ASCII."""
    true, base = answers(200, 20)
    given = {"pytorch": base, "onnx": base, "int8": flip(base, [true.index(1)])}
    write_receipt(receipt(true, given, labels=LABELS, task="größe"), made / "r.json")
    return str(made / "r.json")


def printed(run: object, arguments: Sequence[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code, and stdout and stderr together, on streams of this encoding that raise for other letters."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = run(list(arguments))  # type: ignore[operator]
    text = ""
    for stream in streams:
        stream.flush()
        text += stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    return code, text


@pytest.mark.slow
@ENCODINGS
def test_every_command_on_a_model_prints_any_letter(
    encoding: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table, exported = made / "modèle−好", str(made / "tablé.csv"), tmp_path / "exporté−"
    model = ["--model", str(folder)]
    cached = [*model, "--cache", str(made / "cache")]
    commands = {
        "build": ["build", *cached],
        "predict": ["predict", *cached, "soup − was fine", "好"],
        "info": ["info", *cached],
        "doctor": ["doctor", *cached],
        "explain": ["explain", *cached, "soup − was fine"],
        "agreement": ["explain", *cached, "--compare", "onnx,int8", "soup − was fine"],
        "score": ["score", table, *cached, "--backend", "onnx", "--workers", "1", "--out", str(tmp_path / "é−.csv")],
        "export": ["export", str(exported), *cached],
        "quantize": ["quantize", str(exported / "label.onnx"), "--out", str(exported / "−.onnx")],
    }
    for name, arguments in commands.items():
        code, text = printed(main.main, arguments, encoding, monkeypatch)
        assert code == 0, (name, text)
        assert "Traceback" not in text
    for arguments, escaped in ((commands["predict"], "\\u597d"), (commands["explain"], "#")):
        assert escaped in printed(main.main, arguments, encoding, monkeypatch)[1]
    for refused in (["merge", "x−", *model], ["import", "weights", "好", "x"], ["predict", "--model", "好", "x"]):
        code, text = printed(main.main, refused, encoding, monkeypatch)
        assert (code, text.startswith("error: ")) == (2, True)


def test_every_command_on_a_receipt_keeps_its_exit_code(
    receipt_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = ["verdict", receipt_file, "--max-drop", "0.01"]
    expected, lines = printed(main.main, verdict, "utf-8", monkeypatch)
    for encoding in ("ascii", "cp1252"):
        code, text = printed(main.main, verdict, encoding, monkeypatch)
        assert (code, len(text.splitlines())) == (expected, len(lines.splitlines()))
    assert printed(main.main, ["receipt", "show", receipt_file], "ascii", monkeypatch)[0] == 0
    assert printed(main.main, ["receipt", "diff", receipt_file, receipt_file], "ascii", monkeypatch)[0] == 0
    copy = tmp_path / "é−.json"
    copy.write_bytes(Path(receipt_file).read_bytes())
    assert "\\xe9-.json" in printed(main.main, ["receipt", "check", str(copy)], "ascii", monkeypatch)[1]
    assert printed(report.main, [receipt_file, "--out", str(tmp_path / "é−.html")], "ascii", monkeypatch)[0] == 0


@ENCODINGS
def test_json_has_the_same_content_in_every_encoding(
    encoding: str, made: Path, receipt_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = ["--model", str(made / "modèle−好"), "--cache", str(made / "cache"), "--json"]
    for command in (
        ["predict", *cached, "soup − 😡"],
        ["info", *cached],
        ["doctor", *cached],
        ["verdict", receipt_file, "--json"],
    ):
        utf_8, text = (printed(main.main, command, name, monkeypatch)[1] for name in ("utf-8", encoding))
        assert text.isascii()
        assert json.loads(text) == json.loads(utf_8)


@ENCODINGS
def test_other_programs_refuse_in_any_encoding(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run, arguments in (
        (training.__main__.main, ["--data", "好−.csv", "--out", str(tmp_path / "好")]),
        (space.main, ["--model", "好", "--out", str(tmp_path / "好")]),
    ):
        code, text = printed(run, arguments, encoding, monkeypatch)
        assert (code, text.startswith("error: "), "\\u597d" in text) == (2, True, True)


def test_progress_prints_any_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    def show(arguments: list[str]) -> int:
        print_any_text()
        ProgressLine()("build: 好 …", 1.0)
        return 0

    assert printed(show, [], "ascii", monkeypatch)[1].strip() == "[####################] 100% build: \\u597d ..."


@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_a_closed_pipe_is_no_verdict(unbuffered: str, receipt_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    verdict = ["verdict", receipt_file, "--max-drop", "0.01"]
    done = subprocess.run(
        [sys.executable, "-m", "inference", *verdict],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    expected = 141 if unbuffered else printed(main.main, verdict, "utf-8", monkeypatch)[0]
    assert done.returncode == expected


@pytest.mark.slow
def test_processes_print_in_the_encoding_of_their_environment(
    receipt_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = ["verdict", receipt_file, "--max-drop", "0.01"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "inference", *verdict]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment, check=False)
    code, text = printed(main.main, verdict, "utf-8", monkeypatch)
    assert "−" in text
    assert (done.returncode, done.stderr) == (code, b"")
    assert done.stdout.decode("cp1252").replace("\r\n", "\n") == text.replace("−", "-")


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "inference", "serve", "--port", "0"], ["app.py"], ["serve.py"]])
def test_servers_start_in_any_encoding(program: list[str], made: Path) -> None:
    environment = {
        "PYTHONIOENCODING": "ascii",
        "TRIPTYCH_MODEL": str(made / "modèle−好"),
        "XDG_CACHE_HOME": str(made / "cache"),
        "PORT": str(free_port()),
    }
    with Served([sys.executable, *program], environment) as server:
        assert server.first_line.isascii()
        assert server.end()[0] == 0


@pytest.mark.slow
def test_compare_prints_any_letter(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "é.csv"
    rows = "".join(f"soup {i} −,{LABELS[i % 2]}\n" for i in range(24))
    table.write_text(f"text,label\n{rows}", encoding="utf-8")
    command = ["compare", "--model", str(made / "modèle−好"), "--cache", str(made / "cache"), "--data", str(table)]
    command += ["--quick", "--out", str(tmp_path / "−.json")]
    code, text = printed(main.main, command, "ascii", monkeypatch)
    assert code == 0, text
