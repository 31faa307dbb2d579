"""The bench measures what it says, its statistics are right, and its page shows its record."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from bench import BenchError, document, models, plan, statistics
from bench.__main__ import other_machines
from bench.environments import REQUIREMENTS, run
from bench.peers.plain import Heads, by_length, in_batches, padded
from bench.worker import Worker, times
from inference.assets import CALIBRATION

RECORD = ROOT / "assets" / "peers.json"
PAGE = ROOT / "docs" / "performance.md"


def test_percentiles_are_of_all_samples_and_intervals_of_the_rounds() -> None:
    rounds = [[float(value) for value in range(1, 101)]] * 5
    summary = statistics.summary(rounds, seed=1)
    assert summary["samples"] == 500
    assert summary["lowest_tenth_ms"]["value"] == pytest.approx(np.percentile(rounds, 10), abs=0.2)
    assert summary["median_ms"] == {"value": 50.5, "low": 50.5, "high": 50.5}  # the rounds do not differ
    slow_and_fast = statistics.summary([[1.0] * 10, [3.0] * 10], seed=1)["median_ms"]
    assert slow_and_fast["low"] < 1.0 and slow_and_fast["high"] > 3.0  # two rounds say little of others


def test_one_round_has_an_interval_without_width() -> None:
    median = statistics.summary([[2.0, 4.0, 9.0]], seed=1)["median_ms"]
    assert median == {"value": 4.0, "low": 4.0, "high": 4.0}


def test_ratio_is_of_medians_of_the_same_rounds() -> None:
    fast = [[1.0, 1.0, 1.0], [10.0, 10.0, 10.0], [2.0, 2.0, 2.0]]
    slow = [[3.0 * value for value in samples] + [3.0 * samples[0]] for samples in fast]
    assert statistics.ratio(slow, fast, seed=1) == pytest.approx({"value": 3.0, "low": 3.0, "high": 3.0})


def test_agreement_counts_labels_like_fp32_and_flips() -> None:
    reference = {"a": ["x", "y", "x"], "b": ["p", "p", "q"]}
    together = {"a": ["x", "x", "x"], "b": ["p", "p", "q"]}
    alone = {"a": ["x", "y", "x"], "b": ["q", "p", "p"]}
    assert statistics.agreement({"together": together, "alone": alone}, reference) == {
        "labels": 6,
        "equal": 5,
        "equal_by_task": {"a": 2, "b": 3},
        "flips": 3,
    }


def test_a_call_of_several_passes_is_divided_by_their_number() -> None:
    clock = itertools.count(0, 0.03)
    assert times(lambda: 3, seconds=0.2, clock=lambda: next(clock)) == pytest.approx([10.0] * 3)


def test_at_least_two_calls_are_timed() -> None:
    assert len(times(lambda: 1, seconds=0)) == 2


def test_labels_are_asked_for_together_and_alone() -> None:
    class Length:
        def forward(self, ids: Any, mask: Any) -> int:
            return 1

        def classify(self, texts: list[str]) -> dict[str, list[str]]:
            return {"texts": [str(len(texts))] * len(texts)}

    assert Worker(Length()).labels(["a", "b"]) == {"together": {"texts": ["2", "2"]}, "alone": {"texts": ["1", "1"]}}


def test_multiplications_are_those_of_the_products() -> None:
    config = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2}
    tokens = 3
    projections, feed_forward = 4 * (4 * 4) * tokens, 2 * (4 * 8) * tokens
    scores_and_mixing = 2 * (tokens * tokens * 4)
    assert models.multiply_adds(config, 1, tokens) == 2 * (projections + feed_forward + scores_and_mixing)
    assert models.multiply_adds(config, 5, tokens) == 5 * models.multiply_adds(config, 1, tokens)


def test_rows_keep_their_order_through_batches_of_similar_length() -> None:
    rows = [[5] * length for length in (4, 1, 3, 2, 5)]
    assert by_length(rows, 2) == [[1, 3], [2, 0], [4]]
    sums = in_batches(rows, 2, lambda ids, mask: {"sum": (ids * mask).sum(1, keepdims=True).astype(np.float32)})
    assert sums["sum"][:, 0].tolist() == [20, 5, 15, 10, 25]


def test_padding_is_left_out_of_the_mean(tmp_path: Path) -> None:
    np.savez(tmp_path / "heads.npz", **{"t.weight": np.eye(2, dtype=np.float32), "t.bias": np.float32([0, 1])})
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": {"t": ["no", "yes"]}, "max_tokens": 8}))
    ids, mask = padded([[7, 7], [7]])
    hidden = np.float32([[[1, 0], [3, 0]], [[0, 5], [99, 99]]])
    heads = Heads(tmp_path)
    logits = heads.logits(hidden, mask)
    assert logits["t"].tolist() == [[2, 1], [0, 6]]
    assert heads.named(logits) == {"t": ["no", "yes"]}
    assert (ids == [[7, 7], [7, 0]]).all()


def test_texts_are_a_fixed_list_and_no_calibration_texts() -> None:
    assert len(set(plan.mixed())) == plan.MIXED
    assert len(plan.sentence().split()) == plan.ONE_WORDS
    texts = plan.rows(None)
    assert len(set(texts)) == plan.ROWS
    assert not {*texts, *plan.mixed()} & set(CALIBRATION.read_text(encoding="utf-8").splitlines())


def test_rows_may_come_from_a_folder(tmp_path: Path) -> None:
    for task in ("a", "b"):
        (tmp_path / task).mkdir()
        lines = "".join(f"{task}{number},x\n" for number in range(400))
        (tmp_path / task / "validation.csv").write_text(f"text,label\n{lines}")
    texts = plan.rows(tmp_path)
    assert len(set(texts)) == 500
    assert {text[0] for text in texts} == {"a", "b"}


def test_requirements_are_pinned_and_torch_is_the_one_of_the_project() -> None:
    (torch,) = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch==")]
    for entry in plan.entries():
        if entry.environment != "ours":
            lines = (REQUIREMENTS / f"{entry.environment}.txt").read_text(encoding="utf-8").splitlines()
            pins = [line for line in lines if not line.startswith("#")]
            assert all(line.count("==") == 1 for line in pins)
            assert {line for line in pins if line.startswith("torch")} <= {torch}


def test_a_command_that_fails_gives_its_last_line() -> None:
    with pytest.raises(BenchError, match=r"^ValueError: no such peer$"):
        run([sys.executable, "-c", "raise ValueError('no such peer')"])


def recorded() -> dict[str, Any]:
    """A record with made-up figures: one entry of ours, one peer, and one that could not be measured."""
    cells = {}
    for number, cell in enumerate([*document.SHAPES, "one", "mixed"], 1):
        estimate = {"value": number * 1.5, "low": number * 1.25, "high": number * 2.0}
        cells[cell] = {"lowest_tenth_ms": estimate, "median_ms": estimate, "samples": 9}
    slower = {name: cell | {"times_int8": {"value": 1.5, "low": 1.4, "high": 1.6}} for name, cell in cells.items()}
    agreement = {"labels": 1500, "equal": 1485, "equal_by_task": {}, "flips": 4}
    about = {"note": "", "color": "#009E73"}
    spinning = [
        {"threads_wait": name, "machine": "idle", "shape": [1, 16]} | cells["1x16"] for name in ("spinning", "sleeping")
    ]
    lanes = [{"what": "score", "lanes": 0, "workers": 1, "rows": 9, "rows_per_s": 3.0, "seconds": [3], "peak_mb": 200}]
    return {
        "date": "2026-01-01 00:00 UTC",
        "commit": "0" * 40,
        "machine": {"cpu": "A & B", "cores": 2, "flags": ["avx2"]},
        "settings": {"rounds": 3, "threads": 2},
        "floor": {"peak_gmacs": 400.0, "ms": dict.fromkeys(document.SHAPES, 0.5)},
        "entries": [
            about | {"key": "int8", "title": "Triptych INT8", "cells": cells, "agreement": agreement},
            about | {"key": "peer", "title": "<Peer>", "note": "a remark", "cells": slower, "agreement": None},
            about | {"key": "other", "title": "Other", "not_measured": "no wheel"},
        ],
        "spinning": spinning,
        "lanes": lanes,
    }


def test_page_gets_the_figures_between_its_markers_and_keeps_the_rest(tmp_path: Path) -> None:
    page, readme = tmp_path / "docs" / "page.md", tmp_path / "README.md"
    picture = tmp_path / "assets" / document.PICTURE
    for folder in (page.parent, picture.parent):
        folder.mkdir()
    marked = {page: (document.BEGIN, document.END), readme: (document.SHORT_BEGIN, document.SHORT_END)}
    for path, (begin, end) in marked.items():
        path.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    other = {"cpu": "C", "cores": 4, "flags": ["amx_int8"]}
    for _ in range(2):  # the second time changes nothing
        document.write(recorded(), page, picture, readme, [recorded() | {"machine": other}])
        for path, (begin, end) in marked.items():
            text = path.read_text(encoding="utf-8")
            assert text.startswith(f"before\n{begin}\n") and text.endswith(f"{end}\nafter\n")
            assert "old" not in text
    sentence = " ".join(readme.read_text(encoding="utf-8").split())
    assert ": Triptych 10.5 and 12.0; OpenVINO for latency not measured; " in sentence
    text = page.read_text(encoding="utf-8")
    assert "| Triptych INT8 | 1.50 (1.25–2.00) |" in text
    assert "### Another machine: C\n\n2026-01-01 00:00 UTC, commit 000000000000, C, 4 cores (amx_int8); 3 r" in text
    assert text.count(document.PICTURE) == 1
    assert "| Triptych INT8, times the floor | 3.0 |" in text
    assert "Not measured: Other: no wheel." in text
    assert "99.00% | 4 of 1,500 |" in text
    svg = ET.fromstring(picture.read_text(encoding="utf-8"))
    dots = svg.iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(dots)) == 2 * len(document.PANELS)


@pytest.mark.parametrize("text", ["no marks", f"before\n{document.SHORT_BEGIN}\nno end\nafter\n"])
def test_readme_without_its_marks_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    page, readme = tmp_path / "page.md", tmp_path / "README.md"
    page.write_text(f"{document.BEGIN}\n{document.END}\n", encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match="lacks the marks"):
        document.write(recorded(), page, tmp_path / "peers.svg", readme)
    assert readme.read_text(encoding="utf-8") == text
    assert page.read_text(encoding="utf-8") == f"{document.BEGIN}\n{document.END}\n"


def test_page_shows_the_record() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(document.BEGIN)[2].partition(document.END)[0].strip()
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert shown == document.sections(record, other_machines(RECORD))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition(document.SHORT_BEGIN)[2].partition(document.SHORT_END)[0].strip()
    assert shown == document.short(record)
    assert (ROOT / "assets" / document.PICTURE).read_text(encoding="utf-8") == document.drawing(record)
    assert {entry["key"] for entry in record["entries"]} == {entry.key for entry in plan.entries()}


def test_records_of_other_machines_are_those_named_like_the_record(tmp_path: Path) -> None:
    for name in ("peers.json", "peers-b.json", "peers-a.json", "load.json"):
        (tmp_path / name).write_text(json.dumps({"from": name}), encoding="utf-8")
    assert other_machines(tmp_path / "peers.json") == [{"from": "peers-a.json"}, {"from": "peers-b.json"}]


@pytest.mark.slow
def test_bench_measures_our_own_runtimes_from_end_to_end(tmp_path: Path, demo: Path) -> None:
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    (tmp_path / "assets").mkdir()
    page.write_text(f"{document.BEGIN}\n{document.END}\n", encoding="utf-8")
    out = tmp_path / "assets" / "peers.json"
    only = "pytorch,onnx,int8,int8-without-lanes"
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--seconds", "0.01", "--rows", "12", "--only", only]
    command += ["--scored-rows", "60", "--out", str(out), "--page", str(page), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    entries = {entry["key"]: entry for entry in record["entries"]}
    assert list(entries) == only.split(",")
    assert set(entries["int8"]["cells"]) == {*document.SHAPES, "one", "mixed"}
    assert set(entries["int8-without-lanes"]["cells"]) == {"one", "mixed"}
    assert entries["pytorch"]["agreement"]["equal"] == entries["pytorch"]["agreement"]["labels"] == 12 * 3
    assert entries["int8"]["agreement"]["flips"] == 0
    assert record["floor"]["peak_gmacs"] > 0
    assert {(cell["what"], cell["lanes"], cell["workers"]) for cell in record["lanes"]} >= {
        ("score", 0, 1),
        ("score", 2, 1),
    }
    assert min(cell["peak_mb"] for cell in record["lanes"]) > 50
    assert len(record["spinning"]) == 3 * 2 * len(plan.SPINNING_SHAPES)
    assert document.tables(record) in page.read_text(encoding="utf-8")
