"""Files and measurements in the static page: tables as `score` reads and writes them, and two versions in turns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from chromium import sync_api
from static_site import IMAGE, SCRIPT, TASKS, Visiting, choose, downloaded

from inference.score.annotate import NUMBER, TEXT
from inference.score.writing import open_writer
from inference.tables.reading import open_table
from inference.tables.table import Source

pytestmark = pytest.mark.browser


def score(page: sync_api.Page, name: str, content: str | bytes) -> list[list[str]]:
    """Score a file; return the rows of the download."""
    return list(csv.reader(io.StringIO(downloaded(page, name, content).decode("utf-8-sig"), newline="")))


# --- Measure here


def test_measuring_compares_both_versions_and_names_the_labels_that_differ(page: sync_api.Page) -> None:
    page.get_by_role("link", name="Measure here").click()
    page.get_by_role("button", name="Measure (fetches FP32 first, 83.0 MB)").click()
    summary = page.locator("#measured .summary")
    summary.wait_for()
    assert "INT8 is 1.9× as fast as FP32 in this browser" in summary.inner_text()
    assert "2 of 62 labels differ" in summary.inner_text()
    page.locator("#measured summary").click()
    page.get_by_role("cell", name="bad wobbly").first.wait_for()


def test_measuring_stops(browser: sync_api.Browser, static_address: str) -> None:
    with Visiting(browser) as page:
        page.goto(f"{static_address}?slow=200#tab=measure")
        page.get_by_role("button", name="Measure (fetches").click()
        page.get_by_text("Fetching FP32").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        sync_api.expect(page.get_by_role("button", name="Measure")).to_be_enabled()


# --- Score a file


@pytest.mark.smoke
def test_csv_of_300_rows_gets_the_columns_of_score_and_its_accuracy(page: sync_api.Page) -> None:
    lines = [f"{n},{'good' if n % 3 else 'bad'},{'Positive' if n % 3 else 'negative'}" for n in range(300)]
    rows = score(page, "tickets.csv", "id,text,label\n" + "\n".join(lines) + "\n")
    added = [f"{task}{end}" for task in TASKS for end in ("", "_confidence", "_uncertain")]
    assert rows[0] == ["id", "text", "label", *added, "error"]
    assert len(rows) == 301
    assert rows[2] == ["1", "good", "Positive", "positive", "0.880797", "false", "joy", "0.805974", "false", ""]
    page.get_by_label("Right sentiment label").select_option("label")
    page.get_by_role("button", name="Score the file").click()
    page.get_by_text("98.7% to 100% with 95% confidence, on 300 labelled rows").wait_for()
    assert "66.7%" in page.locator("#score-status .card[data-task=sentiment]").inner_text()


CELLS = ["=1+1", "-5", "+x", " @y", "a,b", "a;b", '"q"', "2\n3", "NA", "", "'s", "\u200b=z", "\t1", "é😀", "1e5", "\0"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "plain.csv",
            "text,n\n" + "".join(f'good,"{quoted}"\n' for quoted in (cell.replace('"', '""') for cell in CELLS)),
        ),
        ("excel.csv", b'\xef\xbb\xbfsep=;\r\ntext;=n\r\n"two; lines\r\nhere";1\r\nbad\r\n\r\ngood;-1'),
        ("tabs.tsv", "\nn\ttext\t\n-5\tgood\nx,y\tbad\t\t\n"),
        ("wide.csv", "text,n\ngood,\u4e2d\n".encode("utf-16")),
        ("bars.csv", "text|n\rgood|1\rbad|2,5"),
    ],
)
def test_csv_is_read_and_written_byte_for_byte_as_score_does(
    page: sync_api.Page, tmp_path: Path, name: str, content: str | bytes
) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    table = open_table(Source(name, content))
    got = downloaded(page, name, content)
    rows = list(csv.reader(io.StringIO(got.decode("utf-8-sig"), newline=""), delimiter=table.delimiter))
    added = rows[0][len(table.columns) :]
    kinds = {column: NUMBER if column.endswith("_confidence") else TEXT for column in added}
    answers = list(zip(*(row[len(table.columns) :] for row in rows[1:]), strict=True))
    columns = {
        column: [(float(cell) if cell else None) if kind == NUMBER else cell for cell in cells]
        for (column, kind), cells in zip(kinds.items(), answers, strict=True)
    }
    writer = open_writer("csv", table, kinds)
    part, out = tmp_path / "part", io.BytesIO()
    part.write_bytes(b"".join(writer.part(block, columns) for block in table.blocks(table.row_count)))
    writer.join([part], out)
    assert got == out.getvalue()


def test_jsonl_becomes_csv_with_numbers_and_columns_as_they_are_written(page: sync_api.Page) -> None:
    lines = '{"7":1,"text":"good","n":12345678901234567890}\n\n{"text":"bad","z":{"a":[1.50, "}"]},"n":null}\n'
    rows = score(page, "e.jsonl", lines)
    assert rows[0][:4] == ["7", "text", "n", "z"]
    assert [row[:4] for row in rows[1:]] == [
        ["1", "good", "12345678901234567890", ""],
        ["", "bad", "", '{"a":[1.50, "}"]}'],
    ]


def test_rows_that_cannot_be_read_keep_their_place_and_say_why(page: sync_api.Page) -> None:
    rows = score(page, "a.jsonl", '{"text":"good"}\n{"text":""}\n{"text":7}\n{"text":"bad"}\n')
    assert [row[1] for row in rows] == ["sentiment", "positive", "", "", "negative"]
    assert [row[-1] for row in rows[2:4]] == [
        "The text is empty: give it at least one word.",
        "The text must be a string, not int.",
    ]


def test_names_that_the_file_has_already_get_the_prefix_of_score(page: sync_api.Page) -> None:
    rows = score(page, "a.csv", "text,sentiment\ngood,foo\n")
    assert rows[0][2:5] == ["predicted_sentiment", "predicted_sentiment_confidence", "predicted_sentiment_uncertain"]
    page.get_by_text("has 1 label that this task does not have: ‘foo’ (1 row)").wait_for()


def test_scoring_stops_and_the_download_has_the_rows_so_far(browser: sync_api.Browser, static_address: str) -> None:
    with Visiting(browser) as page:
        page.goto(f"{static_address}?slow=1000")
        choose(page, "a.csv", "text\n" + "good\n" * 1000)
        page.get_by_role("button", name="Score the file").click()
        page.get_by_text("of 1,000 rows, about").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator("#score-status").get_by_text("stopped after").wait_for()


REFUSED = [
    ("a.csv", "", "is empty. It needs a header and rows."),
    ("a.csv", "text\n", "has no rows"),
    ("a.csv", 'text,n\n"never closed,1\n', "line 2 cannot be read as CSV: unexpected end of data"),
    ("a.csv", "text,n\ngood,1,2\n", "line 2: 3 cells, and the header has 2"),
    ("a.csv", b"text\nna\xefve\n", "is not UTF-8"),
    ("a.csv", "text\ngood\n".encode("utf-16-le"), "seems to be UTF-16 without a byte-order mark"),
    ("a.csv", b"PK\x03\x04xx", "contains a ZIP file or a spreadsheet"),
    ("a.csv.gz", b"\x1f\x8b\x08", "is packed with gzip"),
    ("a.exe", "text\ngood\n", "unsupported file type"),
    ("a.csv", "a," * 200_000 + "\n", "has more than 500 columns"),
    ("a.csv", "text\n" + "x\n" * 20_001, "has more than 20,000 rows"),
    ("a.csv", b"x" * 10_000_001, "has 10.0 MB; the maximum is 10 MB"),
    ("a.jsonl", "[" * 200_000, "line 1 is not valid JSON"),
    ("a.jsonl", '{"text":"good"}\n[1]\n', "line 2 is not a JSON object"),
    ("a.jsonl", '{"text":NaN}\n', "line 1 is not valid JSON"),
    ("a.csv", f"{IMAGE},{SCRIPT}\ngood,1\n", "Which column of a.csv holds the texts? Choose it."),
]


def test_files_that_cannot_be_read_say_why(page: sync_api.Page) -> None:
    for name, content, reason in REFUSED:
        choose(page, name, content)
        page.get_by_role("alert").get_by_text(reason).wait_for()
        sync_api.expect(page.get_by_role("button", name="Score the file")).to_be_disabled()
    assert page.evaluate("window.hacked") is None


def test_question_for_the_column_goes_when_it_is_answered(page: sync_api.Page) -> None:
    choose(page, "a.csv", "Kommentar;n\ngood;1\n")
    question = page.get_by_text("Which column of a.csv holds the texts?")
    sync_api.expect(question).to_be_visible()
    page.get_by_label("Text column").select_option("Kommentar")
    sync_api.expect(question).to_be_hidden()


def test_hostile_cells_and_file_names_are_shown_as_text(page: sync_api.Page) -> None:
    score(page, f"{IMAGE}.csv", f'text,"{IMAGE}",__proto__\n{SCRIPT},\0,{IMAGE}\n')
    assert IMAGE in page.locator(".preview").inner_text()
    assert page.evaluate("window.hacked") is None
