"""Scoring takes little memory, however long the texts are and whatever stands beside them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import scored
from conftest import ROOT
from scored import run, write_csv

from inference.errors import InputError
from inference.score.annotate import AnswerOptions
from inference.tables import cutting, groups
from inference.tables.cutting import BLOCK_BYTES, TEXT_LETTERS
from inference.tables.reading import open_table

resource = pytest.importorskip("resource", reason="this system does not say how much memory a process had")

ENCODED = """
import resource, sys
sys.path[:0] = sys.argv[1:]
import fakes
classifier = fakes.classifier()
texts = ["a " * 10_000] * 300
classifier.predict_all_tasks(texts[:20])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = classifier.predict_all_tasks(texts)["emotion"]
assert len(answers) == 300 and all(answer.truncated for answer in answers)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
READ = """
import sys
import pyarrow
from pathlib import Path
from inference.tables import groups
from inference.tables import reading
groups.SPAN_BYTES = int(sys.argv[2])
rows = sum(len(block.texts) for block in reading.open_table(Path(sys.argv[1])).blocks(1_000))
print(rows, pyarrow.default_memory_pool().max_memory())
"""


def printed(*command: object) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
def test_tokens_past_the_limit_are_not_kept() -> None:
    (growth,) = printed(ENCODED, ROOT, ROOT / "tests")
    unit = 1 if sys.platform == "darwin" else 1024
    assert growth * unit < 60_000_000  # some 500 MB where all texts are encoded at once


@pytest.mark.slow
def test_columns_of_a_large_row_group_are_not_unpacked_together(tmp_path: Path) -> None:
    draw = random.Random(1)
    cells = ["".join(draw.choices("0123456789abcdef", k=20_000)) for _ in range(100)]
    columns = {f"column {number}": cells[number:] + cells[:number] for number in range(20)}
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good"] * 100, **columns}), tmp_path / "in.parquet")
    rows, together = printed(READ, tmp_path / "in.parquet", 1_000_000_000)
    assert rows == 100
    rows, apart = printed(READ, tmp_path / "in.parquet", 4_000_000)
    assert rows == 100
    assert apart < together / 2


def test_columns_read_apart_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = pyarrow.struct([("x", pyarrow.int64()), ("y", pyarrow.list_(pyarrow.string()))])
    arrays = [
        pyarrow.array([f"good {number}" for number in range(100)]),
        pyarrow.array([{"x": number, "y": ["a"] * (number % 3)} for number in range(100)], point),
        pyarrow.array(["red", "green"] * 50).dictionary_encode(),
        pyarrow.array([None, 1.5] * 50),
        pyarrow.array([[("a", number)] for number in range(100)], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    ]
    table = pyarrow.Table.from_arrays(arrays, names=["text", "a.b", "a", "a.b", "map"])
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=30)
    run(tmp_path / "in.parquet", tmp_path / "together.parquet")
    monkeypatch.setattr(groups, "SPAN_BYTES", 1)
    spools: list[Any] = []
    real = groups.tempfile.TemporaryFile

    def spool(**options: Any) -> Any:
        spools.append(options)
        return real(**options)

    monkeypatch.setattr(groups.tempfile, "TemporaryFile", spool)
    run(tmp_path / "in.parquet", tmp_path / "apart.parquet")
    assert spools == [{"dir": tmp_path}] * 5 * 4
    assert (tmp_path / "apart.parquet").read_bytes() == (tmp_path / "together.parquet").read_bytes()
    assert pyarrow.parquet.ParquetFile(tmp_path / "apart.parquet").read().slice(0, 100).columns[:5] == table.columns


def written(path: Path, columns: dict[str, list[str]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".csv":
        write_csv(path, list(columns), list(zip(*columns.values(), strict=True)))
    else:
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_blocks_are_cut_by_letters_and_memory_too(tmp_path: Path, ending: str) -> None:
    texts = [f"{number} " + "x" * 20_000 for number in range(30)]
    path = written(tmp_path / f"long.{ending}", {"text": texts})
    blocks = list(open_table(path).blocks(1_000))
    assert [text for block in blocks for text in block.texts] == texts
    assert all(sum(map(len, block.texts)) <= TEXT_LETTERS for block in blocks)
    assert len(blocks) <= 12
    path = written(tmp_path / f"wide.{ending}", {"text": ["good"] * 30, "beside": ["x" * 1_000_000] * 30})
    blocks = list(open_table(path).blocks(1_000))
    assert sum(len(block.texts) for block in blocks) == 30
    assert all(0 < block.weight <= BLOCK_BYTES for block in blocks)
    assert len(blocks) <= 16


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_row_that_is_too_large_is_refused(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / f"in.{ending}", {"text": ["good"], **{name: ["x\n" * 2_000_000] for name in "abcde"}})
    with pytest.raises(InputError, match="6,000,000"):
        run(path, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_answers_with_many_labels_make_blocks_smaller(tmp_path: Path) -> None:
    tasks = scored.model().bundle.tasks
    few, all_scores = (AnswerOptions(tuple(tasks), all_scores=every).weight(tasks) for every in (False, True))
    assert few < all_scores
    path = written(tmp_path / "in.csv", {"text": ["good"] * 1_000})
    assert [len(block.texts) for block in open_table(path).blocks(1_000)] == [1_000]
    assert max(len(block.texts) for block in open_table(path).blocks(1_000, beside=BLOCK_BYTES // 10)) == 9


def test_large_cells_are_counted_as_they_are_in_memory() -> None:
    assert cutting.weight(letters=0, columns=10_000) * cutting.BLOCK_ROWS > BLOCK_BYTES
