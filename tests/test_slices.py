"""Accuracy on parts of the rows, on receipts whose parts can be counted by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import made
import pytest

from inference.commands.main import main
from inference.compare.receipt import seal, write_receipt
from inference.compare.slices import (
    AFFIRMED,
    EMPTY,
    FEW_ROWS,
    LABEL,
    LENGTH,
    MAX_COLUMNS,
    NEGATED,
    NEGATION,
    groups,
    row_columns,
    slices,
)
from inference.errors import InputError

TEXTS = ["it is fine", "it isn't fine"] * 60
FILE = "\n".join(["text,label,shop,id", *(f"{text},x,{i % 3 or ''},{i}" for i, text in enumerate(TEXTS))]).encode()


def receipt(texts: list[str] | None = TEXTS, **changes: Any) -> Any:
    """120 rows, of which ten are wrong and six more have no label; INT8 breaks the first two right ones."""
    true, first = made.answers(120, 10)
    broken = [i for i in range(120) if true[i] == first[i]][:2]
    true[-6:] = [-1] * 6
    one = made.receipt(true, {"pytorch": first, "int8": made.flip(first, broken)}, texts=texts, **changes)
    one["data"]["sha256"] = hashlib.sha256(FILE).hexdigest()
    return seal(one)


def test_slices_of_a_grouping_add_up_to_all_labelled_rows() -> None:
    whole = receipt()
    pair = whole["results"]["paired"]["mood"]["int8"]
    ways = groups(whole, "mood", row_columns(whole, "rows.csv", FILE))
    assert list(ways) == [LENGTH, LABEL, NEGATION, "shop"]
    for of_rows in ways.values():
        parts = slices(whole, "mood", "int8", of_rows)
        assert sum(part.rows for part in parts) == pair["rows"] == 114
        assert sum(part.broken for part in parts) == pair["broken"] == 2
        assert all(part.difference.low <= part.difference.value <= part.difference.high for part in parts)


def test_slice_has_the_accuracies_of_its_own_rows() -> None:
    whole = receipt()
    parts = {part.name: part for part in slices(whole, "mood", "int8", groups(whole, "mood")[LABEL])}
    rows = [i for i, true in enumerate(whole["data"]["labels"]["mood"]) if true == 0]
    given = whole["backends"]["int8"]["predictions"]["mood"]["label_ids"]
    assert parts["no"].rows == len(rows)
    assert parts["no"].backend.value == sum(given[i] == 0 for i in rows) / len(rows)
    assert parts["no"].has_few_rows is (len(rows) < FEW_ROWS)


def test_lengths_are_in_order_and_other_groups_by_size() -> None:
    whole = receipt(tokens=[80] * 90 + [10] * 10 + [20] * 20)
    ways = groups(whole, "mood", {"shop": ["b"] * 10 + ["a"] * 110})
    assert [part.name for part in slices(whole, "mood", "int8", ways[LENGTH])] == [
        "1–16 tokens", "17–32 tokens", "65 tokens and more",
    ]  # fmt: skip
    assert [part.name for part in slices(whole, "mood", "int8", ways["shop"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "is_negated"),
    [
        ("I do not like it", True),
        ("Never again!", True),
        ("you can’t park here", True),
        ("didnt work", True),
        ("a knot, a note and another", False),
        ("nothing-like", True),
        ("Noah cannoli", False),
    ],
)
def test_negation_is_found_as_a_word(text: str, is_negated: bool) -> None:
    whole = receipt([text, "fine" if is_negated else "not fine"] * 60)
    assert groups(whole, "mood")[NEGATION][0] == (NEGATED if is_negated else AFFIRMED)


@pytest.mark.parametrize(("broken", "changes"), [(4, False), (5, False), (6, True)])
def test_few_rows_change_beyond_chance_only_if_the_exact_test_agrees(broken: int, changes: bool) -> None:
    true = [0] * 20
    whole = made.receipt(true, {"pytorch": true, "int8": made.flip(true, range(broken))})
    (part,) = slices(whole, "mood", "int8", ["all"] * 20)
    assert part.difference.high < 0
    assert part.changes is changes  # exact p: 0.125, 0.0625, 0.031


def test_exact_test_allows_for_the_number_of_groups() -> None:
    true = [0] * 40
    whole = made.receipt(true, {"pytorch": true, "int8": made.flip(true, range(6))})
    parts = slices(whole, "mood", "int8", ["first"] * 20 + ["second"] * 20)
    assert not any(part.changes for part in parts)


def test_grouping_that_parts_nothing_is_left_out() -> None:
    whole = receipt(["fine"] * 120, tokens=[8] * 120)
    assert list(groups(whole, "mood", {"same": ["a"] * 120})) == [LABEL]
    assert NEGATION not in groups(receipt(None), "mood")


def test_column_that_repeats_the_label_is_left_out() -> None:
    whole = receipt()
    copied = ["0" if true == 0 else "1" for true in whole["data"]["labels"]["mood"]]
    assert "copied" not in groups(whole, "mood", {"copied": copied})


def test_only_columns_with_few_values_are_read_from_the_measured_file() -> None:
    columns = row_columns(receipt(), "rows.csv", FILE)
    assert set(columns) == {"shop"}
    assert columns["shop"][:4] == [EMPTY, "1", "2", EMPTY]


def test_only_so_many_columns_are_offered() -> None:
    whole = receipt()
    rows = [",".join([text, *str(i % 2) * 40]) for i, text in enumerate(TEXTS)]
    content = "\n".join([",".join(["text", *(f"c{n}" for n in range(40))]), *rows]).encode()
    whole["data"]["sha256"] = hashlib.sha256(content).hexdigest()
    assert list(row_columns(whole, "rows.csv", content)) == [f"c{n}" for n in range(MAX_COLUMNS)]


def test_columns_of_another_file_are_rejected() -> None:
    with pytest.raises(InputError, match=r"rows.csv is not the file of this measurement"):
        row_columns(receipt(), "rows.csv", FILE + b"\n")


def test_command_prints_every_slice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_receipt(receipt(None), tmp_path / "receipt.json")
    (tmp_path / "rows.csv").write_bytes(FILE)
    assert main(["receipt", "slices", str(tmp_path / "receipt.json"), "--data", str(tmp_path / "rows.csv")]) == 0
    printed = capsys.readouterr().out
    assert "| Negation: with a negation | 57 |" in printed
    assert "| shop: (empty) |" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "topic"], "has no int8 answers for 'topic'; it has tasks mood; runtimes pytorch, int8"),
        (["--backend", "onnx"], "has no onnx answers for 'mood'"),
        (["--data", "missing.csv"], "No file missing.csv. Pass the file that"),
    ],
)
def test_command_names_what_the_receipt_has(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_receipt(receipt(None), tmp_path / "receipt.json")
    assert main(["receipt", "slices", str(tmp_path / "receipt.json"), *options]) == 2
    assert message in capsys.readouterr().err
