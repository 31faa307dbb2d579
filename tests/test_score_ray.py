"""The scorer on Ray: what one machine gives, whatever dies on the way. It needs requirements-scale.txt."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import fakes
import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from scored import model, run, write_csv
from test_pairs import classifier

from inference.errors import InferenceError, InputError, MissingDependencyError
from inference.score import ray_data
from inference.score.annotate import AnswerOptions
from inference.score.run import ScoreJob

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no ray: requirements-scale.txt")


@pytest.mark.ray
@needs_ray
def test_a_worker_that_is_killed_costs_no_row_and_changes_no_byte(tmp_path: Path) -> None:
    texts = ["good", "bad glad", None, "sad", "book"]
    table = pyarrow.table({"id": range(1_500), "text": [texts[i % 5] for i in range(1_500)]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=300)
    (tmp_path / "pids").mkdir()
    script = [ROOT / "tests" / "killed_ray.py", tmp_path / "in.parquet", tmp_path / "out.parquet", tmp_path / "pids"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, *script],
        capture_output=True,
        text=True,
        check=False,
        env=bare | {"HOME": str(tmp_path)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])
    assert lines["trouble"] is None
    assert (lines["rows"], lines["killed"], lines["opened"]) == (1_500, 1, 2), done.stderr
    assert lines["auth"] == "token"
    assert {"127.0.0.1"} <= set(lines["addresses"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    run(tmp_path / "in.parquet", tmp_path / "here.parquet", block_rows=50)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.parquet*")) == ["here.parquet", "in.parquet", "out.parquet"]


@pytest.mark.ray
@needs_ray
def test_pairs_on_ray_are_answered_as_here(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "nli")
    rows = {"first": ["it was so good", "soup", None] * 40, "second": ["a bad lamp, twice!", "fine", "good"] * 40}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "in.parquet")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for engine in ("local", "ray"):
        command = ["score", "in.parquet", "--model", str(folder), "--backend", "onnx", "--cache", "cache"]
        command += ["--text-column", "first", "--pair-column", "second", "--workers", "1", "--out", f"{engine}.parquet"]
        done = subprocess.run(
            [sys.executable, "-m", "inference", *command, "--engine", engine],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            env=bare | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    here, there = (pyarrow.parquet.read_table(tmp_path / f"{engine}.parquet") for engine in ("local", "ray"))
    assert there.equals(here)
    assert len(set(here["label_confidence"].to_pylist())) == 3  # two kinds of pairs, and the row without a text


def test_rows_that_do_not_come_back_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = ray_data.Answering(model().open, AnswerOptions(tuple(fakes.TASKS)), ["text"])(
        pyarrow.table({"text": ["good"]})
    )
    ray = MagicMock()
    ray.exceptions.RayError = ConnectionError
    ray.data.read_parquet().map_batches().iter_batches.return_value = [half]
    monkeypatch.setattr(ray_data, "_cluster", lambda workers: contextlib.nullcontext(ray))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good", "bad"]}), tmp_path / "in.parquet")
    (tmp_path / "out.parquet").write_text("of yesterday")
    with pytest.raises(InferenceError, match="Ray returned 1 of 2 rows. See its logs"):
        ray_data.score(ScoreJob(tmp_path / "in.parquet", tmp_path / "out.parquet"), model())
    assert (tmp_path / "out.parquet").read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_only_parquet_goes_to_ray(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]])
    with pytest.raises(InputError, match="--engine ray reads and writes Parquet. Name .parquet files"):
        ray_data.score(ScoreJob(source, tmp_path / "out.parquet"), model())
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good"]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="--engine ray reads and writes Parquet"):
        ray_data.score(ScoreJob(tmp_path / "in.parquet", tmp_path / "out.csv"), model())


def test_without_ray_it_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good"]}), tmp_path / "in.parquet")
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ray_data.SETTINGS:
        monkeypatch.setenv(name, "x")  # what is set stays, and is put back
    with pytest.raises(
        MissingDependencyError, match="needs the library ray. Install it: pip install -r requirements-scale"
    ):
        ray_data.score(ScoreJob(tmp_path / "in.parquet", tmp_path / "out.parquet"), model())
