"""A measurement without times: the machine was busy, or the time was over. Accuracy and size still count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made
import pytest

from dashboard.report_page import report
from inference.__main__ import main
from inference.compare.candidates import decide_models
from inference.compare.diff import diff
from inference.compare.receipt import parse_receipt, read_receipt, seal, write_receipt
from inference.compare.results import UNMEASURED, results
from inference.compare.summary import leaderboard, summary
from inference.compare.verdict import INCONCLUSIVE, SHIP, ShipLimits, decide, unknown_places
from inference.errors import InputError


def timed() -> dict[str, Any]:
    true, given = made.answers(2000, 200)
    return made.receipt(true, {"pytorch": given, "onnx": given, "int8": made.flip(given, [3, 5])})


@pytest.fixture
def untimed() -> dict[str, Any]:
    return made.without_speed(timed())


@pytest.mark.parametrize("reason", UNMEASURED)
def test_receipt_without_speed_reads_back(tmp_path: Path, reason: str) -> None:
    receipt = made.without_speed(timed(), reason)
    write_receipt(receipt, tmp_path / "r.json")
    assert read_receipt(tmp_path / "r.json") == receipt
    assert set(results(receipt)) == {"size", "accuracy", "paired"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unmeasured": "<b>luck</b>"}, "is not one of"),
        ({"unmeasured": None}, "is not one of"),
        ({"blocks": timed()["latency"]["blocks"]}, "does not have the rounds of the plan"),
    ],
)
def test_receipt_that_hides_its_times_is_rejected(untimed: dict[str, Any], change: Any, message: str) -> None:
    untimed["latency"] |= change
    with pytest.raises(InputError, match=message):
        parse_receipt(made.encoded(seal(untimed)), "r.json")


def test_a_reason_does_not_hide_times_that_are_there() -> None:
    receipt = timed()
    receipt["latency"]["unmeasured"] = "busy"
    with pytest.raises(InputError, match="does not match the number of starts"):
        parse_receipt(made.encoded(seal(receipt)), "r.json")


def test_accuracy_decides_and_the_sentence_says_that_speed_is_open(untimed: dict[str, Any]) -> None:
    verdict = decide(untimed)
    assert verdict.sentence.startswith("Speed was not measured: the machine was busy with other programs. ONNX meets")
    assert "Ship" not in verdict.sentence
    assert verdict.recommended["CPU service"].backend is None
    assert verdict.backends["int8"].decision == SHIP
    assert not any("starts" in caveat or "noisy" in caveat for caveat in verdict.caveats)


@pytest.mark.parametrize("limits", [ShipLimits(max_p95_ms=1e9), ShipLimits(min_speedup=0.001)])
def test_limit_on_speed_is_never_met_by_speed_that_was_not_measured(untimed: dict[str, Any], limits: Any) -> None:
    verdict = decide(untimed, limits)
    assert verdict.backends["int8"].decision == INCONCLUSIVE
    assert verdict.exit_code("int8") == 3
    assert "speed was not measured" in verdict.backends["int8"].reasons[-1].text


def test_tables_say_that_speed_was_not_measured(untimed: dict[str, Any]) -> None:
    table = summary([untimed], price_per_hour=1.0)
    assert "| one text of mood | not measured | not measured | not measured |" in table
    assert "texts/s" not in table
    assert "alone and in a batch" not in table
    assert "files of the model" in table
    assert "| not measured |" in leaderboard({"a": untimed})
    assert "texts/s" in summary([untimed, timed()])


def test_two_models_are_compared_by_accuracy_alone(untimed: dict[str, Any]) -> None:
    verdict = decide_models(timed(), untimed, ShipLimits(min_speedup=0.1), names=("a", "b"))
    assert verdict.first.backend == verdict.second.backend == "int8"
    assert verdict.decision == INCONCLUSIVE
    assert "of unknown speed in comparison" in verdict.sentence
    assert "in a measurement, speed was not measured" in verdict.caveats[0]
    assert decide_models(untimed, timed(), ShipLimits()).decision == SHIP


def test_difference_of_receipts_leaves_times_out(untimed: dict[str, Any]) -> None:
    changes, notes = diff(timed(), untimed)
    assert any("Times and memory are not compared: speed was not measured" in note for note in notes)
    assert not [change for change in changes if "ms" in change.what]
    assert [change for change in changes if "accuracy" in change.what]


def test_report_has_its_accuracy_and_says_that_speed_is_open(untimed: dict[str, Any]) -> None:
    html = report([untimed, timed()])
    assert "Speed was not measured: the machine was busy with other programs." in html
    assert "not measured" in html
    assert "Difference in accuracy: mood" in report([untimed])
    assert "Latency by length" not in report([untimed])


def test_commands_read_it(untimed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "r.json")
    write_receipt(untimed, tmp_path / "r.json")
    for arguments in (["check"], ["show"], ["diff", path]):
        assert main(["receipt", *arguments, path]) == 0
    assert main(["verdict", path, "--max-p95-ms", "5"]) == 3
    assert "limit of p95 5 ms" in capsys.readouterr().out


def test_where_it_will_run_is_one_sentence_without_times(
    untimed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = unknown_places(untimed)
    assert sentence == (
        "Speed was not measured: the machine was busy with other programs. Measure on a quiet machine to see which "
        "runtime fits where."
    )
    assert unknown_places(timed()) is None
    page = report([untimed], library="")
    assert page.count(sentence) == 1 and 'class="places"' not in page
    assert "GPU service <small>(a server with a graphics card)" in report([timed()], library="")
    write_receipt(untimed, tmp_path / "r.json")
    main(["verdict", str(tmp_path / "r.json")])
    printed = capsys.readouterr().out
    assert printed.count(sentence) == 1 and "GPU service" not in printed
