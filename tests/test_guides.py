"""docs/guides.md: every command and every call in its tables is run, and every heading of the guides has its row."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import foreign
import pytest
from conftest import ROOT
from ports import on_a_free_port

from inference import InferenceError, load
from inference.__main__ import main
from inference.compare import benchmark
from training.__main__ import main as train

DOCUMENT = (ROOT / "docs" / "guides.md").read_text(encoding="utf-8")
SOURCES = ROOT.parent / "shared" / "reference"  # the guides are not ours to bring along
GUIDES = ("source-1-multihead-inference-guide.md", "source-2-peft-inference-guide.md")
LABELS = {"sentiment": ["Negative", "Positive"], "emotion": ["anger", "fear", "joy"], "intent": ["ask", "order"]}
# As little as a comparison can be, in place of the half minute of `--quick`.
SMALL = benchmark.Plan(
    launches=1, rounds=3, texts=8, sweeps=1, sweep_texts=8, shape_rounds=0, alone_rows=10, best_threads=False, wait_s=0
)


@dataclass(frozen=True)
class Row:
    """One row of a table: a heading of a guide, and the commands and calls beside it."""

    heading: str
    cells: list[str]

    @property
    def codes(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.cells[1])


def rows(section: str) -> list[Row]:
    lines = [line for line in section.splitlines() if line.startswith("| **")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [Row(re.match(r"\*\*(.+?)\*\*", row[0])[1], row) for row in cells]  # type: ignore[index]


TABLES = [rows(section) for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]]
ROWS = [row for table in TABLES for row in table]


@dataclass
class Workplace:
    """What the placeholders stand for, and the names that the calls use."""

    paths: dict[str, str]
    names: dict[str, Any] = field(default_factory=dict)
    pages: dict[str, tuple[int, subprocess.Popen[bytes], Path]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    home = tmp_path_factory.mktemp("guides")
    base = foreign.base(home / "base", hidden_size=64, intermediate_size=128)  # 64 wide: the block of 4-bit weights
    for seed, (task, labels) in enumerate(LABELS.items()):
        one = foreign.adapter(home / "model" / task, base, labels=len(labels), seed=seed)
        (one / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    adapter = foreign.adapter(home / "adapter", base)
    (adapter / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS["sentiment"]))}))
    checkpoints.write_checkpoint(home / "checkpoint")
    checkpoints.write_classifier(home / "pickled")
    things, words = ["soup", "film", "bus", "lamp", "song"], {"Negative": "bad", "Positive": "good"}
    labelled = [(f"the {a} and the {b} are {words[label]}", label) for a in things for b in things for label in words]
    with (home / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *labelled])
    (home / "texts.txt").write_text("what a lovely film\nthe parcel never came\n")
    placed = {
        "MODEL": home / "model",
        "ADAPTER": adapter,
        "CHECKPOINT": home / "checkpoint",
        "PICKLED": home / "pickled",
        "EXPORTED": home / "exported",
        "ROWS.csv": home / "rows.csv",
        "TEXTS.txt": home / "texts.txt",
        "RECEIPT.json": ROOT / "assets" / "receipts" / "sentiment.json",
    }
    made = Workplace({name: str(path) for name, path in placed.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setattr(benchmark, "QUICK", SMALL)
        for name in ("TRIPTYCH_MODEL", "TRIPTYCH_BASE"):
            patch.delenv(name, raising=False)
        load(home / "model", "onnx").export_onnx(home / "exported", quantize=True)
        (setup,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
        exec(filled(setup, made.paths), made.names)  # noqa: S102 (our own document)
        yield made
        for _, process, _ in made.pages.values():
            os.killpg(process.pid, signal.SIGINT)
            process.wait(300)


def filled(code: str, paths: dict[str, str]) -> str:
    """The code with paths in place of the placeholders; MODEL= is a variable of make and none of them."""
    names = "|".join(re.escape(name) for name in sorted(paths, key=len, reverse=True))
    return re.sub(rf"\b({names})\b(?!=)", lambda found: paths[found[1]], code)


@pytest.mark.docs
@pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{row.heading}" for i, row in enumerate(ROWS)])
def test_code_beside_each_heading_of_the_guide_runs(
    row: Row, workplace: Workplace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    paths = workplace.paths | {"OUT": str(tmp_path / "out")}
    port = 7860
    for written in row.codes:
        code = filled(written, paths).replace(":7860", f":{port}")
        shorter = next((more for start, more in SHORTER.items() if written.startswith(start)), [])
        if "4bit" in code:
            pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: requirements-qlora.txt")
        if written.startswith("make demo "):
            port = page(code, workplace)
        elif written.startswith("python -m training "):
            request.getfixturevalue("demo")  # skips where the base that training starts from is not here
            assert train([*shlex.split(code)[3:], *shorter]) == 0
        elif written.startswith("python -m inference ") and "<" not in written:
            assert main([*shlex.split(code)[3:], *shorter]) in ((0, 1, 3) if " verdict " in written else (0,))
        elif written.startswith("python "):
            here = re.sub("^python", shlex.quote(sys.executable), code)
            done = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        elif "cuda" in written and not has_gpu(written):
            with pytest.raises(InferenceError, match="device='cuda', but"):
                value(code, workplace.names)
        else:
            result = value(code, workplace.names)
            for piece, check in CHECKS.items():
                assert piece not in written or check(result), (written, result)


# What a call must have given, beyond that it ran: by a piece of it.
CHECKS = {
    ").truncated": lambda found: found is True,
    "explain(adapter, ": lambda found: [word for word, _ in found][:3] == ["this", "film", "was"],
    'task="mood"': lambda found: {p.label for p in found} <= {"down", "up"},
    "adapter.predict(texts[0]).label": lambda found: found in LABELS["sentiment"],
    "adapter.predict(texts[0]).scores": lambda found: list(found) == LABELS["sentiment"],
    "predict_all_tasks(": lambda found: set(found) == set(LABELS),
    'json={"texts": texts}': lambda found: [set(one["predictions"]) for one in found] == [set(LABELS)] * 2,
    'json={"texts": texts, "return_scores"': lambda found: (
        {"prediction", "confidence", "probabilities"} < set(found[1])
    ),
    'json={"text": texts[0]': lambda found: found in LABELS["sentiment"],
    '"Uncertain"': lambda found: {*found} <= {"Uncertain", *LABELS["sentiment"]},
}
# Added to a command so that it is short, and to none that a person would type.
SHORTER = {
    "python -m training ": ["--epochs", "1", "--precision", "fp32"],
    "python -m inference compare ": ["--threads", "1", "--backends", "onnx,int8"],
}


def value(code: str, names: dict[str, Any]) -> Any:
    """What the last expression of the code gives; None where it ends in a statement."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "guides.md", "exec"), names)  # noqa: S102 (our own document)
    return eval(compile(ast.Expression(last.value), "guides.md", "eval"), names) if last else None  # type: ignore[attr-defined]  # noqa: S307


def page(command: str, workplace: Workplace) -> int:
    """The port of the page that this `make demo` serves, started at its first mention and left on until the end."""

    def start(port: int) -> tuple[int, subprocess.Popen[bytes], Path]:
        listed = subprocess.run(
            ["make", "-n", *shlex.split(command)[1:], f"PORT={port}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        # Without the installing that make would do where there is no .venv.
        (line,) = (line for line in listed.stdout.splitlines() if line.endswith("serve.py"))
        line = re.sub(r"\S+/bin/python", shlex.quote(sys.executable), line)
        log = Path(workplace.paths["MODEL"]).parent / f"page-{port}.log"
        with log.open("w") as file:
            process = subprocess.Popen(["bash", "-c", line], cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        end = time.monotonic() + 300
        while "serves" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise RuntimeError(log.read_text())
            time.sleep(0.2)
        return port, process, log

    if command not in workplace.pages:
        workplace.pages[command] = on_a_free_port(start, "Cannot listen on")
    return workplace.pages[command][0]


def has_gpu(code: str) -> bool:
    """The runtime that this call asks for finds a GPU here."""
    if '"onnx"' in code:
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    import torch

    return torch.cuda.is_available()


def test_no_cell_is_empty_and_each_row_has_something_to_run() -> None:
    assert len(TABLES) == 2
    for row in ROWS:
        assert len(row.cells) == 3, row
        assert all(row.cells), row
        assert row.codes, row
        assert not re.sub(r"`[^`]+`|<br>", "", row.cells[1]).strip(), row


@pytest.mark.parametrize(("guide", "table"), list(zip(GUIDES, TABLES, strict=True)), ids=GUIDES)
def test_every_heading_of_a_guide_has_its_row(guide: str, table: list[Row]) -> None:
    path = SOURCES / guide
    if not path.is_file():
        pytest.skip(f"the guide is not part of the repository, and is not beside it (looked for {path})")
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = [(len(marks), title.strip()) for marks, title in re.findall(r"^(#+) (.+)$", text, re.MULTILINE)]
    # A heading with headings below it only groups them.
    depths = [*(depth for depth, _ in headings[1:]), 0]
    leaves = {title for (depth, title), following in zip(headings, depths, strict=True) if following <= depth}
    assert leaves == {row.heading for row in table}
