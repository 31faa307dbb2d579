"""Which of two models to ship: planted cases whose right answer is known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import pytest
from conftest import Tiny

from inference.commands.main import main
from inference.compare import benchmark
from inference.compare.candidates import ModelVerdict, decide_models, decide_pair, side_by_side
from inference.compare.receipt import seal, write_receipt
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, ShipLimits
from inference.errors import InputError

ROWS = 5000
FAST = made.MS | {"int8": 1.0}


def model(rows: int = ROWS, wrong: int = 500, fixed: int = 0, broken: int = 0, **options: Any) -> Any:
    """A measurement of a model that fixes and breaks so many rows of the one with the given number of wrong rows."""
    true, given = made.answers(rows, wrong)
    bad = [i for i in range(rows) if true[i] != given[i]][:fixed]
    good = [i for i in range(rows) if true[i] == given[i]][:broken]
    answers = made.flip(given, {*bad, *good})
    return made.receipt(true, {"pytorch": answers, "int8": answers}, **options)


def of_another(receipt: Any, digest: str = "9") -> Any:
    """The same measurement, of other weights."""
    return seal({**receipt, "model": {**receipt["model"], "files": {"heads.safetensors": digest * 64}}})


def later(receipt: Any) -> Any:
    """The same measurement, made at another time."""
    return seal({**receipt, "created": "2026-02-03T04:05:06Z"})


def verdict(a: Any, b: Any, backend: str | None = "int8", **limits: Any) -> ModelVerdict:
    return decide_models(a, b, ShipLimits(**limits), backend, ("a", "b"))


def test_model_with_fewer_errors_ships() -> None:
    result = verdict(model(), model(fixed=80, broken=20))
    assert (result.decision, result.exit_code) == (SHIP, 0)
    assert result.sentence.startswith("Ship b (INT8) instead of a (INT8): accuracy mood +1.20 pp (+0.")
    assert "not measurably faster or slower" in result.sentence


def test_model_with_more_errors_is_kept_out() -> None:
    result = verdict(model(), model(fixed=20, broken=80))
    assert (result.decision, result.exit_code) == (NO, 1)
    assert result.sentence.startswith("Keep a (INT8). b (INT8) breaks a limit: mood: accuracy −1.20 pp")
    assert verdict(model(), model(fixed=20, broken=80), max_drop=0.02).decision == SHIP


def test_too_few_rows_settle_nothing_and_the_number_that_would_is_named() -> None:
    result = verdict(model(60, 6), model(60, 6, fixed=1, broken=1))
    assert (result.decision, result.exit_code) == (INCONCLUSIVE, 3)
    words = result.reasons[0].text.rpartition("; ")[2]
    assert words.endswith("labelled rows in all would settle whether accuracy on mood stays within the limit")
    assert f"Not settled between a (INT8) and b (INT8): {words}." in result.sentence


def test_equal_model_may_replace_the_first_without_gain() -> None:
    assert verdict(model(), model()).sentence.startswith("b (INT8) may replace a (INT8), with no measured gain")


def test_faster_model_ships_and_its_speed_can_be_required() -> None:
    result = verdict(model(), model(ms=FAST), min_speedup=1.5)
    assert result.decision == SHIP
    assert "2.0× as fast;" in result.sentence
    assert verdict(model(), model(), min_speedup=1.5).decision == NO


def test_backends_are_those_that_each_model_would_ship() -> None:
    result = verdict(model(), model(ms=made.MS | {"int8": 100.0}), None)
    assert (result.first.backend, result.second.backend) == ("int8", "pytorch")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpu": "another"}, "another processor, another"),
        ({"flags": []}, "another processor, Made CPU"),
        ({"huge_pages": True}, "with huge pages"),
        ({"huge_pages": False}, "without huge pages"),
    ],
)
def test_speeds_of_different_machines_are_not_compared(change: dict[str, Any], reason: str) -> None:
    other = of_another(model(ms=FAST))
    other["machine"] |= change
    result = verdict(model(), other, min_speedup=1.5)
    assert result.decision == INCONCLUSIVE
    assert "of unknown speed in comparison" in result.sentence
    assert any(f"different conditions ({reason}" in caveat for caveat in result.caveats)


def test_labels_in_another_order_are_matched_by_name() -> None:
    true, given = made.answers(ROWS, 500)
    turned = [1 - i for i in given]
    swapped = made.receipt([1 - i for i in true], {"pytorch": turned, "int8": turned}, labels=("yes", "no"))
    result = verdict(model(), swapped)
    assert result.decision == SHIP
    assert "accuracy mood numerically the same" in result.sentence


def test_only_rows_that_both_have_are_compared() -> None:
    half = model()
    for values in (half["data"]["row_numbers"], half["data"]["labels"]["mood"]):
        del values[: ROWS // 2]
    for entry in half["backends"].values():
        for values in (entry["predictions"]["mood"][key] for key in ("label_ids", "confidence")):
            del values[: ROWS // 2]
    result = verdict(model(), half)
    assert result.caveats == [
        "Speeds are not compared: other rows were timed.",
        "Accuracy is compared on the 2,500 rows that both measurements have.",
    ]
    assert "numerically the same" in result.sentence


def test_incomparable_measurements_are_refused_with_the_reason() -> None:
    other_file, other_rows, other_labels, other_task = model(), model(), of_another(model(labels=("a", "b"))), model()
    other_file["data"]["sha256"] = "0" * 64
    other_rows["data"]["row_numbers"] = [number + ROWS for number in other_rows["data"]["row_numbers"]]
    other_task["data"]["labels"] = {"x": [], "y": []}
    other_task["model"]["tasks"] = dict.fromkeys("xy", other_task["model"]["tasks"]["mood"])
    disagreeing = model()
    disagreeing["data"]["labels"]["mood"] = [1 - i for i in disagreeing["data"]["labels"]["mood"]]
    for receipt, message in [
        (other_file, "measurements are of different files"),
        (other_rows, "0 rows in common"),
        (other_labels, "different labels for mood"),
        (model(labels=("no", "si")), r"labels of mood were renamed between the two .* of this model \(yes; then si\)"),
        (other_task, r"no task in common \(mood; x, y\)"),
        (disagreeing, "The rows have other labels of mood"),
    ]:
        with pytest.raises(InputError, match=message):
            verdict(model(), receipt)
    with pytest.raises(InputError, match="has no ONNX; it has PyTorch, INT8"):
        verdict(model(), model(), "onnx")


def test_command_has_the_exit_code_of_the_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, receipt in zip(paths, (model(), of_another(model(fixed=20, broken=80))), strict=True):
        write_receipt(receipt, path)
    a, b = map(str, paths)
    assert main(["verdict", a, b, "--backend", "int8"]) == 1
    out = capsys.readouterr().out
    assert "| INT8 | mood | 90.0% → 88.8% | −1.20 pp (" in out
    assert f"\nKeep {a} (INT8)" in out
    assert f"{b} (INT8) in place of {a} (INT8): NO" in out
    assert main(["verdict", b, a, "--backend", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == SHIP


def test_of_one_model_measured_twice_each_runtime_is_compared_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    true, given = made.answers(ROWS, 500)
    right = [i for i in range(ROWS) if true[i] == given[i]]
    before = made.receipt(true, {"pytorch": given, "int8": given})
    after = made.receipt(true, {"pytorch": given, "int8": made.flip(given, right[:100])})
    after["versions"]["torch"] = "2.14.0"
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, receipt in zip(paths, (before, seal(after)), strict=True):
        write_receipt(receipt, path)
    a, b = map(str, paths)
    assert main(["verdict", a, b]) == 1
    out = capsys.readouterr().out
    assert out.startswith("Both measurements are of one model, made: each runtime is compared with itself.\nChanged: ")
    assert "torch version 2.13.0 → 2.14.0" in out
    assert f"{b} (PyTorch) in place of {a} (PyTorch): SHIP" in out
    assert f"mood: numerically the same as {a} (PyTorch): all 5,000 labels are equal, and no confidence" in out
    assert f"{b} (INT8) in place of {a} (INT8): NO" in out
    assert main(["verdict", a, b, "--backend", "pytorch", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["second"]["backend"] for one in content["runtimes"]] == ["pytorch"]
    assert main(["verdict", a, a]) == 2
    assert "This is one measurement, named twice" in capsys.readouterr().err


def test_speed_of_one_model_is_compared_across_threads_and_machines_because_they_are_the_change() -> None:
    other = later(model(ms=made.MS | {"pytorch": 1.0}))
    other["machine"]["cpu"] = "another"
    other["settings"]["threads"] = 1
    first, second = decide_pair(model(), other, ShipLimits(min_speedup=2))
    assert (first.decision, second.decision) == (SHIP, NO)
    assert "12.0× as fast" in first.sentence
    assert "speed-up is known" in verdict(model(), of_another(other), min_speedup=2).reasons[-1].text


def test_both_are_shown_side_by_side_on_every_runtime_that_both_have() -> None:
    true, given = made.answers(ROWS, 500)
    a = made.receipt(true, dict.fromkeys(("pytorch", "onnx", "int8"), given))
    b = of_another(model(fixed=10, ms=FAST))
    lines = side_by_side(a, b)["mood"]
    assert list(lines) == ["pytorch", "int8"]
    accuracy, difference, times, size = lines["int8"]
    assert (accuracy, size) == ("90.0% → 90.2%", "16.0 MB → 8.0 MB")
    assert difference.startswith("+0.20 pp (+0.")
    assert times == "2.00 ms → 0.998 ms"
    assert side_by_side(a, made.without_speed(b))["mood"]["int8"][2] == "not measured"


def test_few_rows_settle_it_if_one_model_gives_every_answer_again() -> None:
    assert verdict(model(60, 6), model(60, 6)).decision == SHIP
    moved, shorter = model(60, 6), model(60, 6)
    moved["backends"]["int8"]["predictions"]["mood"]["confidence"][0] -= 0.001
    shorter["model"]["max_tokens"] -= 1
    for changed in (moved, shorter, of_another(model(60, 6))):
        result = verdict(model(60, 6), changed)
        assert result.decision == INCONCLUSIVE
        assert "numerically the same" not in result.sentence + result.reasons[0].text


@pytest.mark.parametrize("copies", [0, 23])
def test_rows_of_one_label_settle_nothing_between_two_models(copies: int) -> None:
    receipts = [
        made.receipt(
            [1] * 24, dict.fromkeys(("pytorch", "int8"), [1] * 24), confidence=dict.fromkeys(made.MS, [p] * 24)
        )
        for p in (0.99995, 0.99998)
    ]
    for receipt in receipts:
        receipt["data"]["copies"] = copies
    assert verdict(receipts[0], of_another(receipts[1])).decision == INCONCLUSIVE


def test_models_without_a_common_runtime_have_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true, given = made.answers(ROWS, 500)
    a, b = made.receipt(true, {"pytorch": given}), of_another(made.receipt(true, {"int8": given}))
    assert side_by_side(a, b) == {}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, receipt in zip(paths, (a, b), strict=True):
        write_receipt(receipt, path)
    assert main(["verdict", *map(str, paths)]) == 0
    assert capsys.readouterr().out.startswith("The measurements have no runtime in common to show side by side.\n\n")


def test_runtimes_of_one_model_are_measured_together() -> None:
    true, given = made.answers(ROWS, 500)
    alone = [made.receipt(true, {name: given}) for name in ("pytorch", "int8")]
    with pytest.raises(InputError, match=r"no runtime in common \(PyTorch; INT8\).* compare --backends pytorch,int8"):
        decide_pair(*alone, ShipLimits())


def test_runtime_that_is_compared_without_times_is_said_to_be_a_default() -> None:
    untimed = [made.without_speed(receipt) for receipt in (model(), of_another(model(fixed=80)))]
    assert "so PyTorch is compared; another can be chosen" in decide_pair(*untimed, ShipLimits())[0].caveats[-1]
    assert len(decide_pair(*untimed, ShipLimits(), "int8")[0].caveats) == 1


def test_several_models_are_refused_before_any_is_measured_if_their_labels_differ(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(tiny.folder, renamed)
    described = json.loads((renamed / "bundle.json").read_text())
    described["tasks"]["mood"]["labels"].append("sideways")
    (renamed / "bundle.json").write_text(json.dumps(described))
    (tmp_path / "rows.csv").write_text("text,mood\n" + "bad day,down\nfine day,up\n" * 15)
    monkeypatch.setattr("inference.compare.run.measure", None)  # calling it would fail
    models = ["--model", str(tiny.folder), "--model", str(renamed), "--base", str(tiny.base)]
    arguments = ["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    assert main(["compare", *models, *arguments]) == 2
    assert "The models have different labels for mood" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_models_are_measured_on_the_same_rows_in_one_go(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "QUICK", replace(benchmark.QUICK, rounds=2, texts=8, sweep_texts=8, wait_s=0))
    copied = tmp_path / "again"
    shutil.copytree(tiny.folder, copied)
    (tmp_path / "rows.csv").write_text("text,mood\n" + "bad day,down\nfine day,up\n" * 15)
    arguments = ["--base", str(tiny.base), "--cache", str(tiny.cache), "--backends", "pytorch", "--quick"]
    models = ["--model", str(tiny.folder), "--model", str(copied)]
    out = tmp_path / "measured"
    assert main(["compare", *models, "--data", str(tmp_path / "rows.csv"), *arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [f"1-{tiny.folder.name}.json", "2-again.json"]
    assert f"| 1-{tiny.folder.name} | PyTorch |" in printed
    assert "| 2-again | PyTorch |" in printed
    assert "2-again (PyTorch) may replace 1-" in printed
    assert printed.count("note: 28 rows repeat the text of another") == 1
    assert main(["compare", *models]) == 2
    assert "Several models need --data" in capsys.readouterr().err
