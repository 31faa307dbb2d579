"""A comparison from end to end on the tiny model, and the commands around it."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import made
import pytest
from conftest import ROOT, Tiny

from dashboard import report
from inference import cpu
from inference.__main__ import main
from inference.backends import TITLES
from inference.compare import benchmark
from inference.compare.benchmark import CONTROL, Plan, group_by_length, turn_order
from inference.compare.processes import Process
from inference.compare.receipt import read_receipt, seal, write_receipt
from inference.compare.results import results
from inference.compare.rows import read_data
from inference.compare.run import measure
from inference.compare.summary import summary
from inference.compare.verdict import decide
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Bundle
from inference.onnx.recipes import MIN_AGREEMENT
from inference.tables.source import Source

# Each start loads every runtime in a process of its own, and takes longer than all that is timed in it: PyTorch's, the
# longest, are left to the slow comparison.
ONE_START = Plan(
    launches=1, rounds=3, texts=16, sweeps=1, sweep_texts=8, shape_rounds=1, alone_rows=10, best_threads=False, wait_s=0
)
TWO_STARTS = dataclasses.replace(ONE_START, launches=2, texts=8)


@pytest.fixture(
    scope="module",
    params=[
        (ONE_START, ["onnx", "int8"]),
        pytest.param((TWO_STARTS, ["pytorch", "onnx", "int8"]), marks=pytest.mark.slow),
    ],
    ids=["1", "2"],
)
def planned(request: pytest.FixtureRequest) -> tuple[Plan, list[str]]:
    """How much to measure, and which runtimes, the reference first."""
    return request.param


@pytest.fixture(scope="module")
def plan(planned: tuple[Plan, list[str]]) -> Plan:
    return planned[0]


@pytest.fixture(scope="module")
def backends(planned: tuple[Plan, list[str]]) -> list[str]:
    return planned[1]


@pytest.fixture(scope="module")
def rows(tiny: Tiny) -> Any:
    lines = [
        f"it was {word} {'a ' * (i % 9)}so,{label}"
        for i in range(20)
        for word, label in (("bad", "down"), ("fine", "up"))
    ]
    return read_data(Source("mood.csv", "\n".join(["text,mood", *lines]).encode()), Bundle.read(tiny.folder).tasks)


@pytest.fixture(scope="module")
def receipt(tiny: Tiny, rows: Any, plan: Plan, backends: list[str]) -> dict[str, Any]:
    steps: list[tuple[str, float]] = []
    measured = measure(
        tiny.folder,
        rows,
        backends=backends,
        cache=tiny.cache,
        base=tiny.base,
        threads=1,
        plan=plan,
        progress=lambda step, share: steps.append((step, share)),
    )
    shares = [share for _, share in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    right = ", ".join(f"{TITLES[name]} 40" for name in backends)
    assert any(f"accuracy: {right} of 40 rows" in step for step, _ in steps)
    return measured


def test_written_receipt_reads_back_unchanged(receipt: dict[str, Any], tmp_path: Path) -> None:
    write_receipt(receipt, tmp_path / "r.json")
    assert read_receipt(tmp_path / "r.json") == receipt
    assert results(receipt) == receipt["results"]


def test_every_backend_is_timed_on_the_same_texts_in_every_round(
    receipt: dict[str, Any], plan: Plan, backends: list[str]
) -> None:
    blocks = [b for b in receipt["latency"]["blocks"] if not b["disturbed"]]
    assert len(blocks) == plan.launches * 3 * (len(backends) + 1)  # starts, rounds, backends and the control
    assert {len(b["total_ns"]) for b in blocks} == {plan.texts}
    for block in blocks:
        for total, tokenize, forward in zip(block["total_ns"], block["tokenize_ns"], block["forward_ns"], strict=True):
            assert 0 < tokenize + forward < total
    first = [b["arm"] for b in blocks if b["launch"] == 0 and b["round"] == 0]
    second = [b["arm"] for b in blocks if b["launch"] == 0 and b["round"] == 1]
    assert first == second[::-1]


def test_starts_of_the_control_count_for_the_reference(
    receipt: dict[str, Any], plan: Plan, backends: list[str]
) -> None:
    assert receipt["settings"]["reference"] == backends[0]
    assert receipt["results"]["start"][backends[0]]["runs"] == 2 * plan.launches
    assert receipt["results"]["start"]["int8"]["runs"] == plan.launches
    assert receipt["results"]["control"]["low"] <= receipt["results"]["control"]["high"]


def test_answers_are_those_of_the_classifier(
    receipt: dict[str, Any], rows: Any, tiny: Tiny, backends: list[str]
) -> None:
    from inference import load

    for backend in ("onnx", "int8"):
        classifier = load(tiny.folder, backend, cache=tiny.cache, base=tiny.base)
        predictions = [classifier.predict(text, "mood") for text in rows.texts]
        kept = receipt["backends"][backend]["predictions"]["mood"]
        assert kept["label_ids"] == [classifier.tasks["mood"].labels.index(p.label) for p in predictions]
        assert kept["confidence"] == pytest.approx([p.confidence for p in predictions], abs=2e-6)
    assert set(receipt["results"]["paired"]["mood"]) == set(backends[1:])
    if "pytorch" in backends:
        assert receipt["results"]["paired"]["mood"]["onnx"]["max_abs_dp"] < 1e-4
    assert receipt["backends"]["int8"]["batch_flips"] == {"rows": 10, "tasks": {"mood": 0}}


@pytest.mark.slow
@pytest.mark.skipif(not cpu.has_bf16(), reason="this processor has no bfloat16")
def test_pytorch_is_measured_in_bfloat16(tiny: Tiny, rows: Any, tmp_path: Path) -> None:
    plan = dataclasses.replace(ONE_START, rounds=2, texts=8, shape_rounds=0)
    measured = measure(
        tiny.folder,
        rows,
        backends=["onnx", "pytorch"],
        dtype="bfloat16",
        cache=tiny.cache,
        base=tiny.base,
        threads=1,
        plan=plan,
    )
    write_receipt(measured, tmp_path / "r.json")
    assert read_receipt(tmp_path / "r.json")["settings"]["dtypes"] == {"pytorch": "bfloat16"}
    assert 1e-4 < measured["results"]["paired"]["mood"]["onnx"]["max_abs_dp"] < 0.05
    assert "torch" in measured["backends"]["pytorch"]["libraries"]
    assert decide(measured).backends["onnx"].reasons
    assert "in bfloat16" in summary([measured])


@pytest.mark.parametrize(
    ("dtype", "backends", "message"),
    [
        ("bfloat16", None, "this processor has no bfloat16 arithmetic"),
        ("bfloat16", ["onnx", "int8"], "dtype='bfloat16' is not for ONNX"),
        ("float16", None, "dtype='float16' is not for PyTorch on device='cpu'"),
    ],
)
def test_dtype_that_cannot_be_measured_is_refused(
    tiny: Tiny, rows: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, backends: list[str] | None, message: str
) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    with pytest.raises(InputError, match=message):
        measure(tiny.folder, rows, backends=backends, dtype=dtype, cache=tiny.cache, base=tiny.base)


def test_receipt_records_hashes_of_the_timed_files(receipt: dict[str, Any], tiny: Tiny, backends: list[str]) -> None:
    from inference.artifacts.cache import obtain
    from inference.formats.files import sha256

    artifact = obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)
    files = receipt["backends"]["int8"]["files"]
    assert files["model.int8.onnx"]["sha256"] == sha256(artifact.folder / "model.int8.onnx")
    assert files["tokenizer.json"]["kind"] == "tokenizer"
    assert "torch" not in receipt["backends"]["int8"]["libraries"]
    assert receipt["backends"]["int8"]["dtypes"]["int8"]["bytes"] > 0
    memory = receipt["results"]["memory"]
    assert memory["int8"]["peak_bytes"] > 1e6
    if "pytorch" in backends:
        assert "torch" in receipt["backends"]["pytorch"]["libraries"]
        assert memory["pytorch"]["peak_bytes"] > memory["int8"]["peak_bytes"]


def test_no_text_is_timed_twice_before_every_text_was_timed_once(receipt: dict[str, Any], rows: Any) -> None:
    timed = [row for launch in receipt["latency"]["rows"] for one in launch for row in one]
    assert len(timed) == 48
    assert set(timed[: len(rows)]) == set(range(len(rows)))
    assert receipt["results"]["latency"]["int8"]["texts"] == len(rows)


def test_rows_that_the_model_was_trained_on_are_refused(tiny: Tiny, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    bundle = replace(Bundle.read(tiny.folder), trained_on=frozenset({rows.sha256}))
    monkeypatch.setattr(Bundle, "read", lambda folder: bundle)
    with pytest.raises(InputError, match="mood.csv is the file that tiny was trained on"):
        measure(tiny.folder, rows, cache=tiny.cache, base=tiny.base)


def test_texts_are_stored_only_on_request(receipt: dict[str, Any], rows: Any) -> None:
    assert receipt["data"]["texts"] is None
    assert "it was bad" not in json.dumps(receipt)
    assert receipt["data"]["row_numbers"] == rows.row_numbers


def test_turn_order_is_abba_and_rotates() -> None:
    assert turn_order("abc", 0) == list("abc")
    assert turn_order("abc", 1) == list("cba")
    assert turn_order("abc", 2) == list("bca")
    assert turn_order("abc", 3) == list("acb")
    assert {turn_order("abc", number)[0] for number in range(6)} == set("abc")


def test_group_by_length_covers_every_length() -> None:
    groups = group_by_length([1, 16, 17, 32, 33, 64, 65, 500])
    assert list(groups.values()) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_disturbed_round_is_repeated_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick:
        ready: ClassVar = {"cores": [0]}

        def ask(self, order: str, **_: Any) -> dict[str, list[int]]:
            return {"total_ns": [5], "tokenize_ns": [1], "forward_ns": [2]}

    class Told:
        """A probe with scripted slowdowns."""

        def __init__(self, *slowdowns: float) -> None:
            self.slowdowns = list(slowdowns)

        def wait(self) -> None:
            pass

        def slowdown(self) -> float:
            return self.slowdowns.pop(0)

    shares = iter([0.0, 0.5, 0.0, 0.0])  # the host takes half of the first try of round 1
    probe = Told(1.0, 1.0, 1.5, 1.5)  # … and slows the second and the third
    monkeypatch.setattr(benchmark, "steal_share", lambda cores, before: next(shares))
    monkeypatch.setattr(benchmark, "PAUSE_S", 0)
    ticks = []
    pool = {"onnx": Quick(), CONTROL: Quick()}
    blocks = list(benchmark.latency_rounds(pool, [[0], [1]], 0, probe, lambda: ticks.append(1)))  # type: ignore[arg-type]
    assert [(b["round"], b["disturbed"]) for b in blocks[::2]] == [(0, False), (1, True), (1, True), (1, False)]
    assert blocks[-1]["slowdown"] == 1.5  # the third try counts, and tells how it was
    assert len(ticks) == 2


def test_probe_waits_for_a_busy_machine_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = benchmark.Probe(wait_s=1.0)
    monkeypatch.setattr(benchmark.time, "sleep", lambda seconds: None)
    for slowdowns, waited in (([1.0], 0.0), ([1.5, 1.0], 0.5), ([1.5, 1.5, 1.5], 1.0)):
        answers = iter(slowdowns)
        monkeypatch.setattr(probe, "slowdown", lambda answers=answers: next(answers))
        probe.wait()
        assert probe.waited_s == waited


def test_error_of_a_dead_process_quotes_its_last_line(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="No model folder"):
        Process(tmp_path / "none", "int8", cache=tiny.cache, threads=1)
    process = Process(tiny.folder, "int8", cache=tiny.cache, threads=1, base=tiny.base)
    try:
        with pytest.raises(InferenceError, match="runtime 'int8' ended .*no such order"):
            process.ask("dance")
    finally:
        process.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backends": ["onnx", "tflite"]}, "Unknown runtime 'tflite'"),
        ({"backends": ["onnx", "onnx"]}, "must name each runtime once"),
        ({"backends": []}, "must name each runtime once"),
        ({"threads": 0}, "threads=0, but this process may use 1 to"),
        ({"threads": 10_000}, "threads=10000"),
        ({"seed": -1}, "seed=-1 must not be negative"),
    ],
)
def test_invalid_arguments_are_rejected(tiny: Tiny, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(tiny.folder, **arguments)


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "inference", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Receipts on disk: a good one, the same with a broken INT8, one of few rows, and a damaged file."""
    true, given = made.answers(2000, 200)
    kept = {
        "good": made.receipt(true, {"pytorch": given, "onnx": given, "int8": made.flip(given, [3, 5])}),
        "again": made.receipt(true, {"pytorch": given, "onnx": given, "int8": made.flip(given, [3, 5])}, seed=9),
        "broken": made.receipt(true, {"pytorch": given, "onnx": given, "int8": [0] * 2000}),
        "few": made.receipt(true[:50], {"pytorch": given[:50], "int8": given[:50]}),
    }
    for name, one in kept.items():
        write_receipt(one, tmp_path / f"{name}.json")
    (tmp_path / "damaged.json").write_text((tmp_path / "good.json").read_text()[:5000])
    other = copy.deepcopy(kept["good"])
    other["model"]["name"] = "another"
    write_receipt(seal(other), tmp_path / "other.json")
    return {path.stem: str(path) for path in tmp_path.glob("*.json")}


def test_exit_code_of_verdict_is_the_decision(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verdict", files["good"]]) == 0
    assert "INT8: SHIP" in capsys.readouterr().out
    assert main(["verdict", files["broken"]]) == 1
    assert main(["verdict", files["broken"], "--backend", "onnx"]) == 0
    assert main(["verdict", files["few"]]) == 3
    assert main(["verdict", files["good"], "--min-speedup", "50"]) == 1
    assert main(["verdict", files["few"], "--max-drop", "20pp"]) == 0
    assert main(["verdict", files["few"], "--backend", "onnx"]) == 2
    assert "few.json has no onnx; it has pytorch, int8" in capsys.readouterr().err


def test_verdict_as_json(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verdict", files["broken"], "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["backends"]["int8"]["decision"] == "NO"
    assert verdict["exit_code"] == 1


def test_receipt_show_and_diff(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "show", files["good"], "--price-per-hour", "0.5"]) == 0
    assert "a million predictions at 0.5 per hour" in capsys.readouterr().out
    assert main(["receipt", "diff", files["good"], files["again"]]) == 0
    assert "0 of" in capsys.readouterr().out
    assert main(["receipt", "diff", files["good"], files["broken"]]) == 1
    assert "INT8: accuracy of mood: 0.8990 → 0.5000" in capsys.readouterr().out
    assert main(["receipt", "show", files["good"], files["other"]]) == 2
    assert "different models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(main, ["verdict"]), (main, ["receipt", "show"]), (report.main, [])],
    ids=["verdict", "receipt show", "report"],
)
def test_damaged_receipt_is_a_one_line_error(
    command: Callable[[list[str]], int], arguments: list[str], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([*arguments, files["damaged"]]) == 2
    assert capsys.readouterr().err.startswith(f"error: {files['damaged']} is not valid JSON: it is damaged")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "no/such/receipt.json"], "there is no folder no/such"),
        (["--out", "assets"], "--out assets: is a folder. Pass a file name"),
        (["--data", "nothing.csv", "--task", "mood"], "No file nothing.csv"),
        (["--task", "mood"], "--task, --rows, --pair-column and --label-map need --data"),
        (["--data", "x.csv", "--rows", "0"], "--rows 0 must be at least 1"),
        (["--backends", "tflite"], "Unknown runtime 'tflite'"),
    ],
)
def test_invalid_compare_options_are_rejected(
    tiny: Tiny, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--model", str(tiny.folder), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "1pp", "1 pp"])
def test_max_drop_is_parsed_as_percentage_points(text: str) -> None:
    from inference.commands.compare import percentage_points

    assert percentage_points(text) == pytest.approx(0.01)


@pytest.mark.slow
def test_quick_comparison_of_the_demo_model(demo: Path, demo_cache: Path, tmp_path: Path) -> None:
    """The quick run of the showcase as a user types it; how long it takes is recorded and not asserted here."""
    done = command("compare", "--quick", "--out", str(tmp_path / "r.json"), "--price-per-hour", "0.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| sentiment of showcase.csv: accuracy (247 rows) |" in done.stdout
    assert "is inconclusive: about" in done.stdout
    assert "% statistics" in done.stderr
    measured = read_receipt(tmp_path / "r.json")
    with (ROOT / "assets" / "showcase.csv").open(encoding="utf-8", newline="") as file:
        assert measured["data"]["texts"] == [row["text"] for row in csv.DictReader(file)]
    pair = measured["results"]["paired"]["intent"]["onnx"]
    assert (pair["flips"], pair["agreement"]["value"]) == (0, 1.0)
    for task, pairs in measured["results"]["paired"].items():  # other tests compare the demo's INT8 on a tenth of these
        assert pairs["int8"]["agreement"]["value"] >= MIN_AGREEMENT, task
