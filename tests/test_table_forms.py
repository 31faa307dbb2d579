"""Files as people have them: separator x encoding x header x container, the same rows through every entrance.

A further form is one entry in `FORMS` if it is read, and one in `REFUSED` if it is not.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from scored import read_jsonl, run

from dashboard.upload import read_upload
from inference.compare.rows import read_data
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables import reading, source
from inference.tables.reading import assumed, open_table
from inference.tables.source import Source
from training.sources import Request, read_sources
from ui.scoring import looked_at

TEXTS = [f'{"café, good" if i % 2 else "naïve; bad"} "row" {i}' for i in range(20)]
LABELS = ["up" if i % 2 else "down" for i in range(20)]
TASKS = {"mood": Task(("down", "up"), "single_label_classification", 0.5)}
ROWS = list(zip(TEXTS, LABELS, strict=True))


def delimited(
    separator: str = ",",
    encoding: str = "utf-8",
    header: Sequence[str] = ("text", "label"),
    line_end: str = "\n",
    before: str = "",
    tail: str = "",
    numbered: bool = False,
) -> bytes:
    """Return a table as text.

    Args:
        before: what stands before the header.
        tail: what stands at the end of every line.
        numbered: whether a column without a name counts the rows, as pandas writes it.
    """
    out = io.StringIO(newline="")
    rows = [(i, *row) for i, row in enumerate(ROWS)] if numbered else ROWS
    csv.writer(out, delimiter=separator, lineterminator=tail + line_end).writerows([header, *rows])
    return (before + out.getvalue()).encode(encoding)


def objects(header: Sequence[str] = ("text", "label")) -> list[dict[str, str]]:
    return [dict(zip(header, row, strict=True)) for row in ROWS]


def lines(encoding: str = "utf-8", line_end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + line_end for row in objects()).encode(encoding)


def sheet(header: Sequence[str] = ("text", "label"), skip: int = 0, others: int = 0) -> bytes:
    """Return an .xlsx file with empty rows before its header and with further sheets."""
    book = openpyxl.Workbook()
    for row in [*[[None, None]] * skip, header, *ROWS]:
        book.active.append(row)
    for _ in range(others):
        book.create_sheet().append(["text", "another sheet"])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


UNNAMED = ("", "text", "label")
FORMS: dict[str, tuple[bytes, str]] = {
    "semicolon windows.csv": (delimited(";", "cp1252", line_end="\r\n"), "Windows-1252"),
    "comma windows.csv": (delimited(",", "cp1252"), "Windows-1252"),
    "tab windows.csv": (delimited("\t", "cp1252"), "separated by tabs"),
    "semicolon utf-8.csv": (delimited(";"), "separated by semicolons"),
    "bar.csv": (delimited("|"), "separated by bars"),
    "mark.csv": (delimited(encoding="utf-8-sig"), ""),
    "semicolon mark.csv": (delimited(";", "utf-8-sig", line_end="\r\n"), "separated by semicolons"),
    "utf-16.csv": (delimited(encoding="utf-16"), "UTF-16"),
    "big end.csv": (b"\xfe\xff" + delimited(encoding="utf-16-be"), "UTF-16"),
    "excel unicode.csv": (delimited("\t", "utf-16", line_end="\r\n"), "UTF-16, separated by tabs"),
    "semicolon utf-16.csv": (delimited(";", "utf-16"), "UTF-16, separated by semicolons"),
    "tab.tsv": (delimited("\t"), ""),
    "tab windows.tsv": (delimited("\t", "cp1252"), "Windows-1252"),
    "comma.tsv": (delimited(","), "separated by commas"),
    "UPPER.TSV": (delimited("\t"), ""),
    "title case.csv": (delimited(header=("Review Text", "Label")), ""),
    "underscore.csv": (delimited(header=("review_text", "label")), ""),
    "tweet.csv": (delimited(header=("TWEET", "label")), ""),
    "title.csv": (delimited(";", header=("Title", "label")), "separated by semicolons"),
    "spaces.csv": (delimited(header=(" Comment ", "label")), ""),
    "sep.csv": (delimited(";", before="sep=;\r\n", line_end="\r\n"), ""),
    "sep comma.csv": (delimited(",", "utf-8-sig", before="sep=,\n"), ""),
    "blank lines.csv": (delimited(before="\n\n\r\n"), ""),
    "pandas index.csv": (delimited(header=UNNAMED, numbered=True), ""),
    "comma at the end.csv": (delimited(tail=","), "empty cells at the end"),
    "semicolons at the end.csv": (delimited(";", tail=";;;", line_end="\r\n"), "empty cells at the end"),
    "old Mac.csv": (delimited(line_end="\r"), ""),
    "packed.csv.gz": (gzip.compress(delimited()), ""),
    "packed windows.csv.gz": (gzip.compress(delimited(";", "cp1252")), "Windows-1252"),
    "packed utf-16.tsv.gz": (gzip.compress(delimited("\t", "utf-16")), "UTF-16"),
    "two members.csv.gz": (gzip.compress(delimited()[:99]) + gzip.compress(delimited()[99:]), ""),
    "packed.jsonl.gz": (gzip.compress(lines()), ""),
    "packed.json.gz": (gzip.compress(json.dumps(objects()).encode()), ""),
    "lines.ndjson": (lines(), ""),
    "mark.jsonl": (lines("utf-8-sig", "\r\n"), ""),
    "utf-16.jsonl": (lines("utf-16"), "UTF-16"),
    "lines.json": (lines(), ""),
    "array.json": (json.dumps(objects()).encode(), ""),
    "indented.json": (json.dumps(objects(), indent=2, ensure_ascii=False).encode("utf-8-sig"), ""),
    "review.json": (json.dumps(objects(("Review", "label"))).encode(), ""),
    "sheet.xlsx": (sheet(), ""),
    "second sheet.xlsx": (sheet(others=2), "the first of 3 sheets"),
    "empty rows.xlsx": (sheet(("Review Text", "Label"), skip=3), ""),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_entrance_reads_the_same_rows_and_says_what_was_assumed(tmp_path: Path, name: str) -> None:
    content, remark = FORMS[name]
    path = tmp_path / name
    path.write_bytes(content)
    opened = open_table(path)
    column = opened.text_column
    assert remark.lower() in assumed(opened).lower()
    assert bool(remark) == bool(assumed(opened))

    assert [row[column] for row in read_jsonl(run(path, tmp_path / "out.jsonl").out)] == TEXTS

    rows = read_data(path, TASKS)
    assert rows.texts == TEXTS
    assert [TASKS["mood"].labels[label] for label in rows.label_ids] == LABELS
    assert set(opened.remarks) <= set(rows.notes)

    (source,) = read_sources(Request(str(path), validation_share=0.0))[0].values()
    assert (source.train.texts, source.train.label_ids) == (TEXTS, rows.label_ids)

    shown, chosen, doubt = looked_at(path)
    assert (shown.row_count, chosen, doubt, assumed(shown)) == (20, column, "", assumed(opened))

    columns = read_upload(name, content)
    assert columns[column] == TEXTS
    uploaded = read_data(Source(name, content), TASKS)
    assert (uploaded.texts, uploaded.labels, uploaded.notes) == (TEXTS, rows.labels, rows.notes)


def zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return out.getvalue()


def with_sheet(xml: bytes, others: dict[str, bytes] | None = None) -> bytes:
    """Return an .xlsx file whose first sheet is this XML, with these other parts."""
    with zipfile.ZipFile(io.BytesIO(sheet())) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    return zipped(parts | {"xl/worksheets/sheet1.xml": xml} | (others or {}))


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
BILLION = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]><worksheet>&l11;</worksheet>'.encode()
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty"),
    "only a mark.csv": (b"\xef\xbb\xbf", "is empty"),
    "only lines.csv": (b"\n\n\n", "is empty"),
    "gzip by content.csv.gz": (b"text,label\na,up\n", "not a gzip file"),
    "cut.csv.gz": (gzip.compress(delimited())[:-9], "damaged gzip"),
    "sum.csv.gz": (gzip.compress(delimited())[:-8] + bytes(8), "damaged gzip"),
    "twice.csv.gz": (gzip.compress(gzip.compress(delimited())), "packed with gzip twice"),
    "styles.xlsx": (with_sheet(b"<worksheet/>", {"xl/styles.xml": b"<font/>" * 200_000}), "too many styles"),
    "sheet.csv": (sheet(), "correct its extension"),
    "text.xlsx": (delimited(), "not an .xlsx file"),
    "archive.xlsx": (zipped({"in.csv": delimited()}), "cannot be read as .xlsx"),
    "laughs.xlsx": (with_sheet(BILLION), "cannot be read as .xlsx"),
    "title.xlsx": (sheet(("Report 2024",)), "Delete the rows above the header"),
    "unicode.txt": (delimited(encoding="utf-16"), "rename a table saved as text to .tsv"),
    "old.xls": (b"\xd0\xcf\x11\xe0", "Save it as .xlsx"),
    "sheet.ods": (zipped({"content.xml": b""}), "Save it as .xlsx"),
    "greek.csv": (delimited().decode().replace("good", "καλό").encode("iso8859-7", "replace"), ""),
    "no mark.csv": (delimited(encoding="utf-16-le"), "UTF-16 without a byte-order mark"),
    "half a letter.csv": (delimited(encoding="utf-16")[:-1], ""),
    "long row.csv": (b"text,label\na,up\nb,up,more\n", "line 3: 3 cells, and the header has 2"),
    "open quote.csv": (b'text,label\n"a,up\nb,up\n', "line 2"),
    "deep.jsonl": (b"[" * 200_000 + b"\n", "line 1"),
    "deep.json": (b"[" * 200_000, "nested too deeply"),
    "deeper.json": (b'[{"text":' + b'{"a":' * 200_000, "nested too deeply"),
    "array of lists.json": (b'[["a", "up"]]', "element 1 is not a JSON object but a list"),
    "cut.json": (b'[{"text": "a"}, {"text": ', "element 2 is not valid JSON"),
    "no comma.json": (b'[{"text": "a"} {"text": "b"}]', "comma"),
    "two arrays.json": (b'[{"text": "a"}][]', "after the end of its array"),
    "columns.json": (b'{"text": {"0": "a"}, "label": {"0": "up"}}', "records"),
    "data.json": (b'{"data": [{"text": "a"}]}', "records"),
    "several lines.json": (b'{\n"text": "a"\n}', "records"),
    "wide.csv": (b"text" + b",c" * 10_000 + b"\n", "columns"),
    "word.docx": (b"PK\x03\x04", "unsupported file type"),
}
PAGES_LIMIT_DIFFERS = {"wide.csv"}


@pytest.mark.parametrize("name", REFUSED)
def test_every_entrance_refuses_a_file_in_the_same_short_line(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    readers: list[Callable[[], Any]] = [
        lambda: open_table(path),
        lambda: read_data(path, TASKS),
        lambda: read_sources(Request(str(path))),
        lambda: run(path, tmp_path / "out.jsonl"),
    ]
    if name not in PAGES_LIMIT_DIFFERS:
        readers += [lambda: looked_at(path), lambda: read_upload(name, content)]
    messages = set()
    for read in readers:
        with pytest.raises(InputError) as raised:
            read()
        messages.add(str(raised.value))
    (message,) = messages
    assert message.startswith(name)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 300
    assert str(tmp_path) not in message


def test_a_gzip_bomb_is_refused_at_every_entrance_while_it_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MIN_GZIP_LIMIT", 1_000_000)
    monkeypatch.setattr(reading, "MAX_UPLOAD_BYTES", 1_000_000)
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"a\n" * 1_000_000))
    readers: list[Callable[[], Any]] = [
        lambda: open_table(path),
        lambda: read_data(path, TASKS),
        lambda: read_sources(Request(str(path))),
        lambda: run(path, tmp_path / "out.jsonl"),
        lambda: looked_at(path),
        lambda: read_upload(path.name, path.read_bytes()),
    ]
    for read in readers:
        with pytest.raises(InputError, match=r"in.csv.gz unpacks to more than 1 MB\."):
            read()


def test_elements_of_an_array_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(b'[{"text": "a",\r\n "x": 1e999, "y": 0.1000000000000000000001}, {"text": "\\ud800"}]')
    first, second = run(path, tmp_path / "out.jsonl").out.read_text().splitlines()
    assert first.startswith('{"text": "a",   "x": 1e999, "y": 0.1000000000000000000001, ')
    assert second.startswith('{"text": "\\ud800", ')


def test_a_long_first_line_does_not_make_a_file_a_single_object(tmp_path: Path) -> None:
    content = json.dumps({"text": "x" * 100_000}) + "\n" + json.dumps({"text": "b"})
    assert open_table(Source("in.json", content.encode())).row_count == 2
