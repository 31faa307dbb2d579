"""Receipts of other people's models: no base, a base without a Hub id, and no PyTorch among the backends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import pytest
from test_dashboard import MINE, PAGES, charts, html, opened, words

from dashboard import receipts
from dashboard.method import method
from dashboard.report_page import report
from inference.compare.diff import diff
from inference.compare.receipt import Receipt, seal, write_receipt
from inference.compare.summary import base_in_words, summary
from inference.compare.verdict import decide
from inference.errors import InputError
from training.card import write_card

PINNED = {"hub_id": "nobody/base", "revision": "0" * 40, "files": {"config.json": "4" * 64}}
BASES: list[tuple[Any, str]] = [
    (None, "a complete model without a base"),
    (PINNED | {"hub_id": None, "revision": None}, "on a base without a Hub id"),
    (PINNED | {"revision": None}, "on nobody/base at no pinned revision"),
    (PINNED, "on nobody/base at revision " + "0" * 40),
]


def receipt(backends: tuple[str, ...] = ("pytorch", "onnx", "int8"), **model: Any) -> Receipt:
    """200 rows on which the last backend breaks one."""
    true, first = made.answers(200, 20)
    given = dict.fromkeys(backends, first) | {backends[-1]: made.flip(first, [true.index(1)])}
    measured = made.receipt(true, given)
    measured["model"] |= model
    return seal(measured)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder of receipts that the dashboard sees."""
    monkeypatch.setattr(receipts, "RECORDED", tmp_path / "none")
    monkeypatch.setenv("TRIPTYCH_RECEIPTS", str(tmp_path))
    yield tmp_path
    receipts._read.clear()


@pytest.mark.parametrize(("base", "message"), BASES)
def test_method_and_report_describe_any_base(folder: Path, base: Any, message: str) -> None:
    one = receipt(base=base)
    write_receipt(one, folder / "one.json")
    test = opened("method")
    assert not test.exception
    assert base_in_words(one["model"]) == message
    (hashes,) = (section for section in method(one) if section.heading == "Hashes")
    assert f"The model is made, {message}. " in hashes.paragraphs[0]
    for text in (words(test), report([one]), summary([one, one])):
        assert not re.search("(on|at|revision) None", text)
    assert message in report([one])


@pytest.mark.parametrize("base", [base for base, _ in BASES])
def test_receipts_with_any_base_are_compared(base: Any) -> None:
    one = receipt(base=base)
    assert not any(change.what == "base files" for change in diff(one, one)[0])
    changes = {change.what: (change.before, change.after) for change in diff(one, receipt(base=PINNED))[0]}
    assert changes.get("base files") == (("none", "4" * 8) if base is None else None)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_a_receipt_of_a_folder_of_onnx_files(folder: Path, page: str) -> None:
    write_receipt(receipt(("onnx", "int8"), base=None), folder / "one.json")
    test = opened(page)
    assert not test.exception
    assert "PyTorch" not in words(test) + html(test)
    if page in MINE:
        drawn = charts(test)
        assert len(drawn) >= 3
        assert not any("PyTorch" in proto.spec + proto.alt for proto in drawn)
    if page == "overview":
        assert "as fast as ONNX" in html(test)
        assert "Stay with ONNX" in html(test) or "Ship INT8" in html(test)


def test_report_and_table_of_onnx_files_do_not_mention_pytorch() -> None:
    one = receipt(("onnx", "int8"), base=None)
    html = report([one])
    assert "as fast as ONNX" in html
    assert "PyTorch" not in html + summary([one])


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        (("pytorch", "onnx", "int8"), "PyTorch and ONNX run on GPUs"),
        (("onnx", "int8"), "ONNX runs on GPUs"),
        (("pytorch", "int8"), "PyTorch runs on GPUs"),
        (("int8",), "INT8 does not run on GPUs"),
    ],
)
def test_no_runtime_is_recommended_for_a_gpu_that_was_not_measured(backends: tuple[str, ...], message: str) -> None:
    choice = decide(receipt(backends)).recommended["GPU service"]
    assert choice.backend is None
    assert message in choice.why


def test_model_card_needs_a_model_trained_here(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "mine", "base": {"folder": "encoder", "files": {}}}))
    with pytest.raises(InputError, match="was not trained by python -m training"):
        write_card(tmp_path)
