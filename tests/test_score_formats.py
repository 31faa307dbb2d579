"""What is read and written: each cell of a CSV, each byte of JSON lines, each type of Parquet; and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import random
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scored import read_csv, read_jsonl, run, write_csv
from soak import csvs

from inference.errors import InputError
from inference.tables.reading import open_table
from inference.tables.text_formats import harmless

# --- CSV


def test_cells_that_look_like_nothing_survive(tmp_path: Path) -> None:
    cells = ["NA", "null", "None", "nan", "", " ", "-1", "007", "1e5", "two\nlines", "a\rb", "a\r\nb", 'say "x"', "a,b"]
    rows = [[str(i), cell, "good"] for i, cell in enumerate(cells)]
    run(write_csv(tmp_path / "in.csv", ["id", "cell", "text"], rows), tmp_path / "out.csv")
    assert [row["cell"] for row in read_csv(tmp_path / "out.csv")] == cells
    run(tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert [row["cell"] for row in read_jsonl(tmp_path / "out.jsonl")] == cells


def test_empty_lines_are_rows_and_short_ones_are_filled_up(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,good\n\n2\n")
    report = run(tmp_path / "in.csv", tmp_path / "out.csv")
    assert [(row["id"], row["text"], bool(row["error"])) for row in read_csv(report.out)] == [
        ("1", "good", False),
        ("", "", True),
        ("2", "", True),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_separators_line_ends_and_the_byte_order_mark_stay(
    tmp_path: Path, line_end: str, delimiter: str, mark: bytes, quoting: Any
) -> None:
    source = tmp_path / "in.csv"
    rows = [["1", "good"], ["2", f"bad{delimiter}sad"]]
    write_csv(source, ["id", "text"], rows, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    source.write_bytes(mark + source.read_bytes())
    run(source, tmp_path / "out.csv", tasks=("sentiment",))
    content = (tmp_path / "out.csv").read_bytes()
    header = delimiter.join(["id", "text", "sentiment", "sentiment_confidence", "sentiment_uncertain", "error"])
    assert content.startswith(mark + header.encode() + line_end.encode())
    assert content.count(line_end.encode()) == content.count(b"\n") == 3
    assert [row["text"] for row in read_csv(tmp_path / "out.csv", delimiter=delimiter)] == ["good", rows[1][1]]


def test_columns_that_share_a_name_are_kept_in_csv_and_refused_where_they_cannot_be(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["a", "a", "text", "", ""], [["1", "2", "good", "3", "4"]])
    run(source, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        assert [row[:5] for row in csv.reader(file)] == [["a", "a", "text", "", ""], ["1", "2", "good", "3", "4"]]
    with pytest.raises(InputError, match="in.csv has two columns 'a', which jsonl cannot hold"):
        run(source, tmp_path / "out.jsonl")


def test_a_file_with_a_header_alone_gives_a_header_alone(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        report = run(write_csv(tmp_path / "in.csv", ["id", "text"], []), tmp_path / f"out.{ending}")
        assert report.tally.rows == 0
    assert (tmp_path / "out.csv").read_text().count("\n") == 1
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").shape == (0, 9)


@pytest.mark.parametrize("files", [250, pytest.param(2_000, marks=pytest.mark.slow)])
def test_changed_files_lose_double_and_reorder_no_row(files: int) -> None:
    counts = csvs.mutate(files, seed=1)
    assert counts["scored"] > 0.4 * files
    assert counts["refused"] > 0.1 * files


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8))
def test_any_cells_are_the_same_afterwards_but_for_a_mark_before_formulas(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    source = write_csv(tmp_path / "in.csv", ["text", "more"], rows, quoting=csv.QUOTE_ALL)
    run(source, tmp_path / "out.csv")
    run(source, tmp_path / "out.jsonl")
    assert [(row["text"], row["more"]) for row in read_jsonl(tmp_path / "out.jsonl")] == rows
    scored_rows = [(row["text"], row["more"]) for row in read_csv(tmp_path / "out.csv")]
    for before, after in zip(rows, scored_rows, strict=True):
        for one, other in zip(before, after, strict=True):
            assert other == harmless(one) or (other == one and float(one) is not None)


def test_formulas_are_disarmed_in_cells_and_headers_and_numbers_are_left(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["text", "=1+1"], [["=cmd|' /C calc'!A0", "-5"], ["good", "+1.5e3"]])
    run(source, tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    assert [row["text"] for row in rows] == ["'=cmd|' /C calc'!A0", "good"]
    assert [row["'=1+1"] for row in rows] == ["-5", "+1.5e3"]
    run(source, tmp_path / "out.jsonl")
    assert read_jsonl(tmp_path / "out.jsonl")[0]["text"] == "=cmd|' /C calc'!A0"


# --- JSONL


def test_a_json_line_is_kept_to_the_letter_with_the_answers_behind_it(tmp_path: Path) -> None:
    lines = [
        '{"text": "good", "n": 1.10, "deep": {"a": [1, {"b": null}]}, "big": 123456789012345678901234567890}',
        '{"n":1e400,"text":"bad \\ud83d\\ude00 é"}',
        '{ "n" : NaN , "n" : 2 , "text" : "sad" }',
        "{}",
        '{"text": "\\ud800 glad"}',
    ]
    (tmp_path / "in.jsonl").write_text("\ufeff" + "\r\n\n".join(lines) + "\n", encoding="utf-8")
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tasks=("sentiment",))
    scored_lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(scored_lines) == len(lines)
    for before, after in zip(lines, scored_lines, strict=True):
        assert after.startswith(before[:-1].rstrip())
    rows = [json.loads(line) for line in scored_lines]
    assert [row["sentiment"] for row in rows] == ["positive", "negative", "negative", None, None]
    assert "lone surrogate (U+D800" in rows[4]["error"]
    assert list(rows[3]) == ["sentiment", "sentiment_confidence", "sentiment_uncertain", "error"]


@pytest.mark.parametrize("out", ["csv", "jsonl", "parquet"])
def test_half_a_character_in_the_name_of_a_column_is_replaced_where_the_format_wants_it(
    tmp_path: Path, out: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"te\\ud800xt": "good", "\\udc00": 1}\n')
    report = run(tmp_path / "in.jsonl", tmp_path / f"out.{out}", text_column="te\ud800xt")
    assert (report.tally.rows, report.tally.errors) == (1, 0)
    if out == "parquet":
        assert pyarrow.parquet.read_table(report.out).column_names[:2] == ["te\ufffdxt", "\ufffd"]


@pytest.mark.parametrize("out", ["csv", "parquet"])
def test_a_cell_nested_too_deeply_to_be_written_again_is_refused(tmp_path: Path, out: str) -> None:
    deep = "[" * 900 + "NaN" + "]" * 900  # without NaN it is written as it was read
    (tmp_path / "in.jsonl").write_text(f'{{"text": "good", "a": {deep}}}\n')
    with pytest.raises(InputError, match=f"^in.jsonl has a value that cannot be written as {out}: maximum recursion"):
        run(tmp_path / "in.jsonl", tmp_path / f"out.{out}")
    assert run(tmp_path / "in.jsonl", tmp_path / "out.jsonl").tally.errors == 0


def test_json_lines_become_csv_with_what_is_nested_as_json(tmp_path: Path) -> None:
    rows = [{"text": "good", "a": {"b": [1, "é"]}, "c": True, "d": None}, {"text": "\ud800", "e": 0.1}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "in.jsonl", tmp_path / "out.csv")
    first, second = read_csv(tmp_path / "out.csv")
    assert [first[name] for name in ("text", "a", "c", "d", "e")] == ["good", '{"b": [1, "é"]}', "true", "", ""]
    assert (second["text"], second["e"]) == ("\ufffd", "0.1")


def test_json_lines_become_parquet_with_the_types_that_hold_all_values(tmp_path: Path) -> None:
    rows = [
        {"text": "good", "whole": 1, "part": 1, "flag": True, "mixed": 1, "deep": [1], "large": 2**70, "none": None},
        {"text": "bad", "whole": None, "part": 0.5, "flag": False, "mixed": "x", "deep": {}, "large": 1},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    scored_rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [scored_rows[0][name] for name in rows[0]] == ["good", 1, 1.0, True, "1", "[1]", str(2**70), None]
    assert [scored_rows[1][name] for name in rows[1]] == ["bad", None, 0.5, False, "x", "{}", "1"]


# --- Parquet


def parquet(path: Path) -> Path:
    table = pyarrow.table(
        {
            "text": pyarrow.array(["good", None, "bad"] * 10).dictionary_encode(),
            "when": [datetime(2026, 1, 2)] * 30,
            "deep": [{"a": [1, 2]}] * 30,
            "n": pyarrow.array(range(30), pyarrow.int8()),
            "f": [float("nan"), 1.5, None] * 10,
        }
    ).replace_schema_metadata({"made": "here"})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path


def test_parquet_keeps_its_types_and_its_order(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet")
    report = run(source, tmp_path / "out.parquet", all_scores=True)
    before, after = pyarrow.parquet.read_table(source), pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert after.schema.metadata[b"made"] == b"here"
    assert after.select(before.column_names).cast(before.schema).drop_columns("f").equals(before.drop_columns("f"))
    assert str(after.schema.field("sentiment_uncertain").type) == "bool"
    assert after["sentiment"].to_pylist()[:3] == ["positive", None, "negative"]
    assert after["emotion_joy"].to_pylist()[1] is None
    assert report.tally.errors == 10


def test_parquet_becomes_json_lines_and_csv(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet")
    run(source, tmp_path / "out.jsonl")
    row = read_jsonl(tmp_path / "out.jsonl")[0]
    assert (row["deep"], row["when"], row["n"], row["f"]) == ({"a": [1, 2]}, "2026-01-02 00:00:00", 0, None)
    run(source, tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv")[1]["deep"] == '{"a": [1, 2]}'


def test_two_columns_of_one_name_stay_in_parquet(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(one) for one in (["x"] * 20, [1] * 20, ["good"] * 20)], ["a", "a", "text"]
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    read_back = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").read()
    assert read_back.column_names[:3] == ["a", "a", "text"]
    assert [read_back.column(at).to_pylist() for at in (0, 1)] == [["x"] * 20, [1] * 20]


def test_values_without_a_json_number_become_null_at_any_depth(tmp_path: Path) -> None:
    nan = float("nan")
    table = pyarrow.table({"text": ["good"], "a": [[[nan, 1.5]]], "b": [{"c": float("inf")}], "d": [nan]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    row = read_jsonl(tmp_path / "out.jsonl")[0]
    assert (row["a"], row["b"], row["d"]) == ([[None, 1.5]], {"c": None}, None)
    run(tmp_path / "in.parquet", tmp_path / "out.csv")
    cells = read_csv(tmp_path / "out.csv")[0]
    assert (cells["a"], cells["b"], cells["d"]) == ("[[null, 1.5]]", '{"c": null}', "NaN")


def test_a_value_that_a_format_does_not_hold_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "good", "n": 0.5}\n{"text": "bad", "n": 1152921504606846977}\n')
    with pytest.raises(
        InputError, match="^in.jsonl has a value that cannot be written as parquet: .* --format jsonl.$"
    ):
        run(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    late = pyarrow.array([300_000_000_000], pyarrow.timestamp("s"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good"], "when": late}), tmp_path / "in.parquet")
    with pytest.raises(
        InputError, match="^in.parquet has a value that cannot be written as csv: .* --format parquet.$"
    ):
        run(tmp_path / "in.parquet", tmp_path / "out.csv")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")


def test_a_row_group_is_as_large_as_the_parts_together(tmp_path: Path) -> None:
    run(parquet(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1


MEMORY = """
import sys, pyarrow
from pathlib import Path
from inference.tables.reading import open_table
table = open_table(Path(sys.argv[1]))
rows = [(len(block.texts), block.batch.nbytes) for block in table.blocks(2_000)]
print(sum(count for count, _ in rows), max(size for _, size in rows), pyarrow.default_memory_pool().max_memory())
"""


def test_parquet_is_not_taken_into_memory_whole(tmp_path: Path) -> None:
    letters = "0123456789abcdef"
    draw = random.Random(1)
    with pyarrow.parquet.ParquetWriter(
        tmp_path / "in.parquet", pyarrow.schema([("text", pyarrow.string())]), compression="none", use_dictionary=False
    ) as writer:
        for _ in range(10):
            texts = ["".join(draw.choices(letters, k=20)) * 100 for _ in range(1_000)]
            writer.write_table(pyarrow.table({"text": texts}))
    size = (tmp_path / "in.parquet").stat().st_size
    assert size > 20_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "in.parquet"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows, _, most = map(int, done.stdout.split())
    assert rows == 10_000
    assert most < 0.7 * size  # 1.4 with what is read ahead by default


def test_large_cells_of_parquet_come_a_few_at_a_time_and_in_their_order(tmp_path: Path) -> None:
    texts = [f"{i} " + "x" * 1_000_000 for i in range(40)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "in.parquet")
    blocks = list(open_table(tmp_path / "in.parquet").blocks(2_000))
    assert [text for block in blocks for text in block.texts] == texts
    assert len(blocks) == 40  # a text longer than a block may have is a block


# --- What is refused, in one line and before anything is answered


REFUSED = [
    ("in.csv", b"id,text\n1,good\n2,a,b\n", "in.csv, line 3: 3 cells, and the header has 2"),
    ("in.csv", b'id,text\n1,"good\n2,bad\n', "in.csv, line 2 cannot be read as CSV: unexpected end of data"),
    ("in.csv", b'id,text\n1,"go"od\n', "in.csv, line 2 cannot be read as CSV"),
    ("in.csv", b"id,text\n1,g\xc3\xb6od\n2,b\xe4d\n", "in.csv, line 3 is not UTF-8 (byte 0xe4 at position 4)"),
    ("in.csv", "id,text\n1,good".encode("utf-16-le"), "in.csv seems to be UTF-16 without a byte-order mark"),
    ("in.csv", gzip.compress(b"id,text\n1,good")[:-9], "in.csv is a damaged gzip file"),
    ("in.csv", b"", "in.csv is empty"),
    ("in.csv", b"a,b\n1,2\n", "in.csv: which column holds the texts? Name it with --text-column; it has 'a', 'b'."),
    (
        "in.csv",
        b"id;beschreibung\n1;gut\n",
        "which column holds the texts? Name it with --text-column; it has 'id', 'bes",
    ),
    ("in.csv", b"text,text\n1,2\n", "2 columns named 'text'"),
    ("in.csv.gz", b"", "in.csv.gz is not a gzip file. Correct its extension."),
    ("in.zip", b"", "in.zip: unsupported file type"),
    ("in.XLSX", b"PK", "in.XLSX is not an .xlsx file. Save its sheet as UTF-8 CSV and use that."),
    ("in.jsonl", b'{"text": "good"}\n["bad"]\n', "in.jsonl, line 2 is not a JSON object but a list"),
    ("in.jsonl", b'{"text": "good"}\n\n"bad"\n', "in.jsonl, line 3 is not a JSON object but a string"),
    ("in.jsonl", b'{"text": "good"\n', "in.jsonl, line 1 is not valid JSON"),
    ("in.jsonl", b'{"a":' * 100_000, "in.jsonl, line 1 is not valid JSON"),
    ("in.jsonl", b'{"text": "\xc3\xb6b\xe4d"}', "in.jsonl, line 1 is not UTF-8"),
    ("in.jsonl", b'{"a": "b"}\n{"c": 1}', "in.jsonl: which column holds the texts?"),
    ("in.parquet", b"PAR1", "in.parquet cannot be read as Parquet"),
    ("in.parquet", b"", "in.parquet cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[f"{name}-{said}" for name, _, said in REFUSED])
def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        run(tmp_path / name, tmp_path / "out.csv")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_column_asked_for_must_be_there_and_hold_texts(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="in.parquet: column 'n' holds int8 and not texts. Name another."):
        run(source, tmp_path / "out.csv", text_column="n")
    with pytest.raises(InputError, match="in.parquet has no column 'words'; it has 'text', 'when', 'deep', 'n', 'f'."):
        run(source, tmp_path / "out.csv", text_column="words")
    with pytest.raises(InputError, match="No file"):
        run(tmp_path / "none.csv", tmp_path / "out.csv")


def test_a_parquet_file_that_is_cut_off_or_damaged_inside_is_one_line(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "in.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut.parquet cannot be read as Parquet"):
        run(tmp_path / "cut.parquet", tmp_path / "out.csv")
    (tmp_path / "bad.parquet").write_bytes(whole[:40] + bytes(len(whole) // 3) + whole[40 + len(whole) // 3 :])
    with pytest.raises(InputError, match="bad.parquet cannot be read as Parquet"):
        run(tmp_path / "bad.parquet", tmp_path / "out.csv")


def test_the_column_of_texts_is_found_by_its_name_or_because_it_is_the_only_one(tmp_path: Path) -> None:
    for header, expected in ((["id", "Text"], "Text"), (["review", "text"], "text"), (["anything"], "anything")):
        assert open_table(write_csv(tmp_path / "in.csv", header, [])).text_column == expected
    assert open_table(write_csv(tmp_path / "in.csv", ["a;b", "Review"], [], delimiter=";")).columns == ["a;b", "Review"]


def test_a_zip_that_calls_itself_a_table_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.csv", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.csv", "text\n" + "good\n" * 10_000)
    with pytest.raises(InputError, match="^in.csv contains a ZIP file or a spreadsheet. Unpack it, or correct"):
        run(tmp_path / "in.csv", tmp_path / "out.csv")


def test_a_line_without_end_is_not_taken_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("wb") as file:
        file.write(b"text\n")
        for _ in range(20):
            file.write(b"x" * 1_000_000)
    with pytest.raises(InputError, match="line 2 has more than 6,000,000 characters"):
        run(tmp_path / "in.csv", tmp_path / "out.csv")
