"""The Leaderboard's "Compare two": which measurements it offers, and what it says of a pair."""

from __future__ import annotations

from pathlib import Path

import made
import pytest
from opened import html, one, opened, words

from dashboard import comparing
from inference.compare.receipt import seal, write_receipt

pytestmark = pytest.mark.usefixtures("folder")


def test_two_receipts_of_different_rows_are_not_compared(folder: Path) -> None:
    other = one(calls=10)
    other["data"]["sha256"] = "9" * 64
    write_receipt(seal(other), folder / "other.json")
    test = opened("leaderboard", receipt="good", candidate="other")
    assert "measurements are of different files" in test.main.info[0].value
    assert test.selectbox(key="candidate").options == []
    assert test.selectbox(key="candidate").value is None


def test_candidates_are_the_measurements_that_compare_and_the_others_are_named_with_the_reason(folder: Path) -> None:
    other = one(calls=10)
    other["data"]["sha256"] = "9" * 64
    write_receipt(seal(other), folder / "other file.json")
    write_receipt(one(seed=1), folder / "again.json")
    write_receipt(one(labels=("x", "y")), folder / "other labels.json")
    test = opened("leaderboard", receipt="good")
    assert test.selectbox(key="candidate").options == ["again"]
    assert not test.main.info
    assert "Not offered: 2 measurements" in test.main.expander[-1].label
    (why,) = test.main.expander[-1].markdown
    assert "**other file**: The measurements are of different files" in why.value.replace("\\", "")
    assert "**other labels**: The labels of mood were renamed" in why.value.replace("\\", "")


def test_runtimes_of_one_model_are_each_compared_with_themselves_unless_one_is_chosen(folder: Path) -> None:
    write_receipt(one(seed=1), folder / "again.json")
    test = opened("leaderboard", receipt="good", candidate="again")
    assert "each runtime is compared with itself" in words(test)
    (both,) = [body for element in test.main.get("html") if "Side by side" in (body := element.proto.body)]
    assert both.count("→") == 7  # accuracy and time of three runtimes, and the heading
    assert [title for title in ("PyTorch", "ONNX", "INT8") if f"again ({title})" in words(test).replace("\\", "")] == [
        "PyTorch",
        "ONNX",
        "INT8",
    ]
    test.segmented_control(key="runtime_of_both").set_value("int8").run()
    assert "again (PyTorch)" not in words(test).replace("\\", "")


def test_two_models_without_a_common_runtime_have_no_table(folder: Path) -> None:
    true, given = made.answers(200, 20)
    for name, digest in (("pytorch", "8"), ("int8", "9")):
        receipt = made.receipt(true, {name: given})
        receipt["model"]["files"] = {"heads.safetensors": digest * 64}
        write_receipt(seal(receipt), folder / f"{name}.json")
    test = opened("leaderboard", receipt="pytorch", candidate="int8")
    assert not test.exception
    assert "no runtime in common" in words(test)
    assert "Side by side" not in html(test)


def test_two_receipts_are_compared_once_for_all_runs_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_receipt(one(seed=1), folder / "again.json")
    write_receipt(one(seed=2), folder / "third.json")
    test = opened("leaderboard", receipt="good", candidate="again")
    for name in ("check_comparable", "decide_pair", "side_by_side", "diff"):
        monkeypatch.setattr(comparing, name, None)  # calling it would fail
    before = words(test)
    test.run()
    assert not test.exception
    assert words(test) == before and "may replace" in before


def test_two_receipts_of_the_same_rows_are(folder: Path) -> None:
    write_receipt(one(seed=1), folder / "again.json")
    test = opened("leaderboard", receipt="good", candidate="again")
    assert not test.main.warning
    assert any("differ beyond noise" in element.label for element in test.main.expander)
    assert "may replace" in words(test) or "Not settled between" in words(test)
