"""The pages Disagreements, Your data and Method, as Streamlit runs them."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tomllib
from pathlib import Path
from typing import Any

import made
import pytest
from conftest import ROOT
from streamlit.testing.v1 import AppTest

from dashboard import receipts
from dashboard.components import plain
from dashboard.upload import MAX_MB, guess, read_upload
from inference.compare.receipt import seal, write_receipt
from inference.compare.results import results
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables.text_formats import as_csv

TEXTS = [f"text of row {i + 1}" for i in range(120)]
FILE = "\n".join(["text,label", *(f"{text},x" for text in TEXTS)]).encode()
SENTIMENTS = "\n".join(
    ["review,verdict", *(f"review {i},{('negative', 'positive')[i % 2]}" for i in range(40))]
).encode()


def receipt(texts: bool = False, name: str = "rows.csv") -> dict[str, Any]:
    """INT8 breaks three rows and fixes one; ONNX changes none."""
    true, first = made.answers(120, 10)
    right = [i for i in range(120) if true[i] == first[i]][:3]
    wrong = [i for i in range(120) if true[i] != first[i]][:1]
    given = {"pytorch": first, "onnx": first, "int8": made.flip(first, [*right, *wrong])}
    one = made.receipt(true, given, texts=TEXTS if texts else None)
    one["data"] |= {"sha256": hashlib.sha256(FILE).hexdigest(), "name": name}
    return seal(one)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the dashboard looks for receipts: one without texts."""
    write_receipt(receipt(), tmp_path / "mine.json")
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    monkeypatch.delenv("TRIPTYCH_RECEIPTS", raising=False)
    monkeypatch.delenv("TRIPTYCH_MODEL", raising=False)
    return tmp_path


def page(name: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300).run()
    at.switch_page(f"views/{name}.py").run()
    assert not at.exception
    return at


def said(at: AppTest) -> str:
    """What there is to read, without the escapes of Markdown."""
    shown = [*at.markdown, *at.caption, *at.info, *at.error, *at.success, *at.warning]
    return " ".join(one.value for one in shown).replace("\\", "").replace("\u2060", "")


def press(at: AppTest, label: str) -> AppTest:
    return next(one for one in at.button if one.label == label).click().run()


def test_server_accepts_uploads_up_to_the_size_on_the_pages() -> None:
    settings = tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["maxUploadSize"] == MAX_MB


# --- Disagreements


def test_differing_rows_are_listed_with_counts_and_meaning() -> None:
    at = page("disagreements")
    assert "### INT8 changes 4 of 120 labels of rows.csv (3.3%): 3 broken and 1 fixed." in said(at)
    helps = [one.help.replace("\\", "") for one in at.markdown if one.help]
    assert any("3 broken and 1 fixed: if neither were right more often" in text for text in helps)
    assert list(at.dataframe[0].value["Kind"]) == ["✗ broken"] * 3 + ["✓ fixed"]
    assert "Text" not in at.dataframe[0].value


def test_page_without_disagreements_says_what_that_proves() -> None:
    at = page("disagreements")
    at.segmented_control(key="against").set_value("onnx").run()
    assert "ONNX gives all 120 rows the same label as PyTorch. Of rows like these, at most" in said(at)
    assert not at.dataframe


def test_filters_narrow_the_rows_down_to_none() -> None:
    at = page("disagreements")
    at.pills(key="kind").set_value(["fixed"]).run()
    assert len(at.dataframe[0].value) == 1
    at.pills(key="kind").set_value(["both wrong"]).run()
    assert "No row matches these filters" in said(at)


@pytest.mark.parametrize(
    ("address", "rows"),
    [
        ({"kind": "Fixed"}, 1),
        ({"kind": ["Fixed", "Broken"]}, 4),
        ({"label": "no such label"}, 4),
        ({"against": "ONNX"}, 0),
    ],
)
def test_filters_are_read_from_the_address(address: dict[str, str | list[str]], rows: int) -> None:
    at = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300).run()
    at.switch_page("views/disagreements.py")
    for name, value in address.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    assert sum(len(one.value) for one in at.dataframe) == rows


def test_measured_file_shows_the_texts_and_another_file_is_refused() -> None:
    at = page("disagreements")
    at.file_uploader(key="texts_file").set_value(("other.csv", FILE + b"\n", "text/csv")).run()
    assert "other.csv is not the file of this measurement" in said(at)
    at.file_uploader(key="texts_file").set_value(("rows.csv", FILE, "text/csv")).run()
    next(one for one in at.button if one.label == "Show the texts").click().run()
    at.toggle(key="tables").set_value(True).run()
    table = at.dataframe[0].value
    assert list(table["Text"]) == [TEXTS[row - 1] for row in table["Row"]]
    cards = [one.proto.body for one in at.main.get("html") if "disagreement" in one.proto.body]
    assert [f">{TEXTS[row - 1]}<" in card for row, card in zip(table["Row"], cards, strict=True)] == [True] * 4


def test_page_opens_with_the_texts_of_another_measurement_of_the_model(folder: Path) -> None:
    write_receipt(receipt(texts=True, name="worded.csv"), folder / "words.json")
    at = page("disagreements")
    assert at.selectbox(key="receipt").value == "mine"
    assert "4 of 120 labels of worded.csv" in said(at)
    assert sum("disagreement" in one.proto.body for one in at.main.get("html")) == 4
    assert at.segmented_control(key="rows_of").options == [plain("mine (120 rows)"), plain("words (120 rows)")]
    at.segmented_control(key="rows_of").set_value("mine").run()
    assert "4 of 120 labels of rows.csv" in said(at)
    assert not [one for one in at.main.get("html") if "disagreement" in one.proto.body]


def test_texts_of_another_model_are_not_shown(folder: Path) -> None:
    other = receipt(texts=True)
    other["model"]["files"] = {"heads.safetensors": "9" * 64}
    write_receipt(seal(other), folder / "words.json")
    at = page("disagreements")
    assert not [one for one in at.main.get("html") if "disagreement" in one.proto.body]


def test_rows_without_a_right_label_are_a_kind_of_their_own(folder: Path) -> None:
    one = receipt(texts=True)
    changed = [i for i, pair in enumerate(zip(*labels_of(one), strict=True)) if pair[0] != pair[1]]
    one["data"]["labels"]["mood"][changed[0]] = -1
    one["results"] = results(one)
    write_receipt(seal(one), folder / "mine.json")
    at = page("disagreements")
    assert "1 more row without a right label changed too." in said(at)
    at.pills(key="kind").set_value(["label changed"]).run()
    cards = [one.proto.body for one in at.main.get("html") if "disagreement" in one.proto.body]
    assert len(cards) == 1
    assert "≠ label changed" in cards[0]


def labels_of(one: dict[str, Any]) -> list[list[int]]:
    return [one["backends"][name]["predictions"]["mood"]["label_ids"] for name in ("pytorch", "int8")]


def test_slices_are_chosen_and_the_measured_file_brings_its_columns(folder: Path) -> None:
    content = "\n".join(["text,label,:red[shop]", *(f"{text},x,{i % 3}" for i, text in enumerate(TEXTS))]).encode()
    one = receipt(texts=True)
    one["data"]["sha256"] = hashlib.sha256(content).hexdigest()
    write_receipt(seal(one), folder / "mine.json")
    at = page("disagreements")
    assert at.pills(key="slices").options == ["Length", "Right label"]
    at.file_uploader(key="texts_file").set_value(("rows.csv", content, "text/csv")).run()
    press(at, "Slice by the file's other columns")
    assert at.pills(key="slices").options == ["Length", "Right label", plain(":red[shop]")]
    at.pills(key="slices").set_value(":red[shop]").run()
    assert "Accuracy of ■ INT8:" not in said(at)  # its parts are too small for a best and a worst
    assert not at.exception


def test_markdown_in_a_file_name_is_shown_literally(folder: Path) -> None:
    write_receipt(receipt(name="![x](http://evil/x.png) <b>.csv"), folder / "mine.json")
    at = page("disagreements")
    assert "](http" not in " ".join(one.value for one in [*at.markdown, *at.caption, *at.expander[:0]])
    assert all("](http" not in one.label for one in at.expander)


def test_downloaded_cells_are_not_formulas() -> None:
    rows = [{"a": cell, "b": 0.5} for cell in ("=1+1", "+1", "-1", "@x", "\tx", "\rx", 'fine, "quoted"', "a=b")]
    content = as_csv(rows, ["a", "b"]).decode("utf-8-sig")
    cells = [row[0] for row in csv.reader(io.StringIO(content, newline=""))]
    assert cells == ["a", "'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", 'fine, "quoted"', "a=b"]


# --- Method


def test_method_page_has_every_section_with_its_values() -> None:
    at = page("method")
    assert [one.label for one in at.expander][:3] == ["The rows", "Latency", "Noise: the A/A control"]
    assert "4 starts of each" in said(at)
    assert "p99 would be a guess" in said(at)


# --- Reading an upload


TASKS = {
    "mood": Task(("down", "up"), "single_label_classification", 0.5, None),
    "topic": Task(("down", "food", "up"), "single_label_classification", 0.5, None),
}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"mood": ["up"], "text": ["a"]}, ("text", None, None)),
        ({"id": ["1"], "Sentence": ["a b"], "label": ["up"]}, ("Sentence", "label", "mood")),
        ({"x": ["up"], "y2": ["a longer text"]}, ("y2", "x", "mood")),
        ({"a": ["a longer text"], "b": ["food"], "c": ["zzz"]}, ("a", "b", "topic")),
        ({"a": ["only texts here"]}, ("a", "a", None)),
    ],
)
def test_columns_and_task_are_guessed(
    columns: dict[str, list[str]], expected: tuple[str, str | None, str | None]
) -> None:
    one = guess(columns, TASKS)
    assert (one.text_column, one.label_column, one.task) == expected


@pytest.mark.slow
def test_files_that_would_exhaust_memory_are_refused() -> None:
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(InputError, match="more than 500 columns"):
        read_upload("many.jsonl", b"".join(b'{"k%d":1}\n' % i for i in range(2_000)))
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 1_000_000] * 400}), packed)
    assert len(packed.getvalue()) < 5_000_000
    with pytest.raises(InputError, match="unpacks to more than 200 MB"):
        read_upload("packed.parquet", packed.getvalue())


@pytest.mark.parametrize("text", ["[a](http://b)", "<b>", ":smile:", ":material/home:", "# x", "$x$", "`x`", "a_b_c"])
def test_escaped_text_has_no_markup_left(text: str) -> None:
    shown = plain(text).replace("\u2060", "")
    assert shown.replace("\\", "") == text
    assert ":\u2060" in plain(text) if ":" in text else shown != text


@pytest.mark.parametrize("text", ["www.evil.example", "WWW.evil.example", "write to me@evil.example"])
def test_addresses_do_not_become_links(text: str) -> None:
    assert plain(text).replace("\\", "").replace("\u2060", "") == text
    assert not re.search(r"(?i)(www\\?\.|@\w)", plain(text))
