"""One reader for everybody: `score`, `compare`, training and both upload pages read the same files alike."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from scored import read_jsonl, run

from dashboard.upload import guess, read_upload
from inference.compare.rows import read_data
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.tables import json_formats, reading
from inference.tables.reading import open_table, read_columns
from inference.tables.source import Source
from training.sources import Request, read_sources
from ui.scoring import looked_at

TEXTS = [f'{"good" if i % 2 else "bad"}, "row" {i}' for i in range(40)]
LABELS = ["up" if i % 2 else "down" for i in range(40)]
TASKS = {"mood": Task(("down", "up"), "single_label_classification", 0.5)}


def as_csv(text: str, label: str, delimiter: str = ",", line_end: str = "\n", mark: bytes = b"") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([(text, label), *zip(TEXTS, LABELS, strict=True)])
    return mark + out.getvalue().encode()


def as_jsonl(text: str, label: str) -> bytes:
    rows = zip(TEXTS, LABELS, strict=True)
    return "".join(json.dumps({text: cell, label: name}) + "\n" for cell, name in rows).encode()


def as_parquet(**columns: Sequence[object]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def as_sheet(text: str, label: str) -> bytes:
    book = openpyxl.Workbook()
    for row in [(text, label), *zip(TEXTS, LABELS, strict=True)]:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


FILES = {
    "sheet.xlsx": as_sheet("Text", "Label"),
    "plain.csv": as_csv("text", "label"),
    "semicolon.csv": as_csv("text", "label", ";"),
    "tab.csv": as_csv("text", "label", "\t"),
    "capital.csv": as_csv("Text", "label"),
    "capitals.csv": as_csv("TEXT", "Label", ";"),
    "sentence.csv": as_csv("sentence", "label"),
    "review.csv": as_csv("Review", "label"),
    "content.csv": as_csv("content", "label"),
    "comment.csv": as_csv("comment", "label"),
    "spaces.csv": as_csv(" text ", "label"),
    "task.csv": as_csv("text", "mood"),
    "mark.csv": as_csv("text", "label", mark=b"\xef\xbb\xbf"),
    "windows.csv": as_csv("Sentence", "label", ";", "\r\n", b"\xef\xbb\xbf"),
    "UPPER.CSV": as_csv("text", "label"),
    "lines.jsonl": as_jsonl("text", "label"),
    "blank lines.jsonl": b"\xef\xbb\xbf" + as_jsonl("Review", "label").replace(b"\n", b"\r\n\r\n"),
    "table.parquet": as_parquet(text=TEXTS, label=LABELS),
    "utterance.parquet": as_parquet(utterance=TEXTS, Label=LABELS),
}


@pytest.mark.parametrize("name", FILES)
def test_score_compare_training_and_both_pages_read_the_same_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    text_column = open_table(path).text_column

    report = run(path, tmp_path / "out.jsonl")
    assert report.text_column == text_column
    assert [row[text_column] for row in read_jsonl(report.out)] == TEXTS

    rows = read_data(path, TASKS)
    assert rows.texts == TEXTS
    assert [TASKS["mood"].labels[label] for label in rows.label_ids] == LABELS
    assert any(repr(text_column) in note for note in rows.notes) == (text_column != "text")

    tasks = ("mood",) if name == "task.csv" else ()
    (source,) = read_sources(Request(str(path), tasks, validation_share=0.0))[0].values()
    assert source.train.texts == TEXTS
    assert [source.train.known[next(iter(source.train.known))][i] for i in source.train.label_ids] == LABELS

    _, chosen, doubt = looked_at(path)
    assert (chosen, doubt) == (text_column, "")

    columns = read_upload(name, FILES[name])
    guessed = guess(columns, TASKS)
    assert guessed.text_column == text_column
    uploaded = read_data(Source(name, FILES[name]), TASKS, guessed.task, guessed.text_column, guessed.label_column)
    assert (uploaded.texts, uploaded.labels, uploaded.sha256) == (TEXTS, rows.labels, rows.sha256)


BROKEN = {
    "long row.csv": b"text,label\na,up,more\n",
    "quote.csv": b'text,label\n"a,up\n',
    "cyrillic.csv": "text,label\n\u0434\u0430,up\n".encode("cp1251"),
    "packed.csv": b"\x1f\x8b\x08\x00",
    "empty.csv": b"",
    "unknown columns.csv": b"phrase,label\na,up\n",
    "twice.csv": b"text,text,label\na,b,up\n",
    "list.jsonl": b'["a"]\n',
    "cut.jsonl": b'{"text": "a"\n',
    "cut.parquet": b"PAR1",
    "numbers.parquet": as_parquet(text=[1], label=["up"]),
    "huge line.csv": b"text,label\n" + b"x" * 6_000_001,
    "table.xlsx": b"PK\x03\x04",
    "table.tsv.gz": b"",
    "table.ods": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", BROKEN)
def test_score_compare_training_and_both_pages_refuse_a_file_in_the_same_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    readers: list[Callable[[], object]] = [
        lambda: run(path, tmp_path / "out.csv"),
        lambda: read_data(path, TASKS),
        lambda: read_sources(Request(str(path))),
    ]
    if name != "unknown columns.csv":  # the pages ask which column it is
        readers += [lambda: looked_at(path), lambda: read_upload(name, BROKEN[name])]
    messages = set()
    for read in readers:
        with pytest.raises(InputError) as raised:
            read()
        messages.add(str(raised.value))
    assert len(messages) == 1, messages


BOMBS = {
    "zeros.csv.gz": gzip.compress(b"text\n" + b"a\n" * 150_000_000),
    "spaces.json.gz": gzip.compress(b"[" + b" " * 300_000_000),
    "nested.json": b'[{"text": ' + b"[" * 1_000_000,
    "open string.json": b'[{"text": "' + b"a" * 7_000_000,
    "trailing.json": b'[{"text": "a"}] [{"text": "b"}]',
    "missing comma.json": b'[{"text": "a"} {"text": "b"}]',
    "cut.json": b'[{"text": "a"}, {"text": ',
    "numbers.json": b"[1, 2]",
    "object.json": b'{\n "text": {"0": "a"}\n}',
    "columns.csv": b"text" + b"," * 600 + b"\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_hostile_file_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as raised:
        reading.open_upload(Source(name, BOMBS[name]), "score")
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def sheet_with(name: str, part: bytes) -> bytes:
    """A spreadsheet in which one part is replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILES["sheet.xlsx"])) as old, zipfile.ZipFile(out, "w", 8) as new:
        for info in old.infolist():
            new.writestr(info.filename, part if info.filename == name else old.read(info))
    return out.getvalue()


def test_a_first_sheet_without_the_rows_is_named_with_the_others() -> None:
    for cells, message in (
        ([], "has no rows in its first sheet"),
        (["Report", "2026"], "which column holds the texts"),
    ):
        book = openpyxl.Workbook()
        book.active.title = "Cover"
        book.active.append(cells)
        book.create_sheet("Data").append(["text"])
        out = io.BytesIO()
        book.save(out)
        with pytest.raises(InputError, match=message) as error:
            open_table(Source("a.xlsx", out.getvalue()))
        assert str(error.value).endswith(" If the rows are in another sheet ('Data'), move it to the front.")


SHEET = "xl/worksheets/sheet1.xml"
XML = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData></worksheet>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n", "is not an .xlsx file"),
        (sheet_with(SHEET, b"<worksheet"), "cannot be read as .xlsx"),
        (sheet_with(SHEET, b" " * 26_000_000), "unpacks to more than 25 MB"),
        (sheet_with(SHEET, XML % b'<row r="999999999"><c><v>1</v></c></row>'), "more rows than a sheet can have"),
        (sheet_with("[Content_Types].xml", b""), "cannot be read as .xlsx"),
        (
            sheet_with(
                SHEET,
                b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
                + b"".join(b'<!ENTITY %c "%s">' % (i + 1, b"&%c;" % i * 10) for i in range(97, 110))
                + b"]>"
                + XML % b'<row><c t="inlineStr"><is><t>&n;</t></is></c></row>',
            ),
            "cannot be read as .xlsx",
        ),
    ],
)
def test_damaged_or_hostile_spreadsheet_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reading.open_upload(Source("a.xlsx", content), "score")


def test_cells_of_a_spreadsheet_are_text_as_a_csv_export_has_it() -> None:
    book = openpyxl.Workbook()
    book.active.append(["text", "number", "share", "flag", "day", "formula", None])
    book.active.append(["good", 3.0, 0.25, True, datetime(2026, 1, 2), "=1+1", None])
    book.active.append([7, None, None, None, datetime(2026, 1, 2, 3, 4), None, None])
    out = io.BytesIO()
    book.save(out)
    table = open_table(Source("a.xlsx", out.getvalue()))
    assert table.columns == ["text", "number", "share", "flag", "day", "formula"]
    (block,) = table.blocks(10)
    assert list(block.cells()) == [
        ["good", "3", "0.25", "TRUE", "2026-01-02", ""],
        ["7", "", "", "", "2026-01-02 03:04:00", ""],
    ]


def test_pages_ask_which_column_holds_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(as_csv("phrase", "verdict"))
    table, chosen, question = looked_at(path)
    assert (table.columns, chosen) == (["phrase", "verdict"], None)
    assert question.startswith("Which column of in.csv holds the texts?")
    assert guess(read_upload("in.csv", path.read_bytes()), TASKS).text_column == "phrase"
    parquet = as_parquet(id=range(40), phrase=TEXTS, verdict=LABELS)
    assert guess(read_upload("in.parquet", parquet), TASKS).text_column == "phrase"


def test_a_label_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    content = b"text,label,label\n" + b"a,up,down\n" * 40
    with pytest.raises(InputError, match="in.csv has 2 columns named 'label'. Rename all but one."):
        read_data(Source("in.csv", content), TASKS)


def test_an_exact_column_name_comes_before_one_in_other_case() -> None:
    rows = read_data(Source("in.csv", b"text,Label,label\n" + b"a,down,up\nb,down,up\n" * 20), TASKS)
    assert set(rows.label_ids) == {1}


def test_columns_read_as_a_whole_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_COLUMN_BYTES", 5_000)
    table = open_table(Source("in.csv", FILES["plain.csv"]))
    assert read_columns(table, ["label"])["label"] == LABELS
    with pytest.raises(InputError, match="in.csv: its columns 'text', 'label' take more than"):
        read_columns(table, ["text", "label"])
    assert read_columns(table, ["text", "label"], max_rows=2) == {"text": TEXTS[:2], "label": LABELS[:2]}


@pytest.mark.parametrize("letters", [1, 2, 7, 40, 1 << 16])
def test_an_array_is_read_alike_wherever_its_pieces_are_cut(letters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_formats, "CHUNK_LETTERS", letters)
    rows = [{"text": "a" * 90, "n": 1}, {"n": 12.5e3, "text": 'b, ]" {'}, {"text": "c"}, {"text": "", "n": None}]
    for content in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps(rows, separators=(",", ":")) + " \r\n"):
        table = open_table(Source("in.json", b"\r\n " + content.encode()))
        assert read_columns(table, ["text", "n"]) == {key: [row.get(key) for row in rows] for key in ("text", "n")}
    assert open_table(Source("in.json", b" [ ] ")).row_count == 0


def test_a_further_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.FORMATS, ".dat", reading.FORMATS[".csv"])
    path = tmp_path / "in.dat"
    path.write_bytes(FILES["tab.csv"])
    assert read_data(path, TASKS).texts == TEXTS
    assert run(path, tmp_path / "out.csv").tally.rows == 40
    assert read_sources(Request(str(path), validation_share=0.0))[0]["label"].train.texts == TEXTS


WESTERN = {
    "German": "Größe und Straße: schön, aber zu spät für München. „Nie wieder“, sagt Jürgen.",
    "French": "Très déçu, l’été à Noël où ça a coûté 5 €. Où êtes-vous ? « Jamais plus » dit le garçon.",
    "Spanish": "¿Por qué tarda? El niño está aquí mañana. ¡Qué rápido! Versión nº5, 1.ª edición.",
    "Portuguese": "A informação não chegou: três operações, duas reclamações, atenção.",
    "Danish": "Leveringen på lørdag var meget sød. Ærgerligt, åh nej.",
    "Icelandic": "Það er ekki gott að bíða, þjónustan var ágæt. Ég ætla að kvarta núna því ég má það.",
    "Finnish": "Tämä šakkipeli on hyvä, mutta hyllyssä näkyy pölyä ja myös tämän päivän säätä.",
    "Estonian": "Õhtul väga hea šokolaad, sõbralik töötaja, võõras mõõt ja jõulud.",
    "English": "It’s “great” – £5 for a Triptych™ café… 20 °C, 5½ m², Škoda, naïve, Word®s",
    "several": "Größe, schön, für, über, très, été, où, août, informação, não, mañana, está, aquí, p\xe5 l\xf8rdag",
}
OTHER = {
    "German of Macintosh": ("Die Lieferung für die Straße war größer als schön.", "mac_roman"),
    "French of DOS": ("Très déçu par la qualité, le colis est arrivé cassé à Noël.", "cp850"),
    "Spanish of DOS": ("El niño está muy contento, el envío llegó mañana.", "cp850"),
    "Swedish of DOS": ("Leveransen var för sen, kundtjänsten är väldigt trevlig på lördag.", "cp437"),
    "Polish": ("Obsługa była bardzo miła, źle się czuję, będę narzekać.", "iso8859-2"),
    "Czech": ("Zboží přišlo pozdě, podpora byla velmi příjemná. Děkuji, všechno v pořádku.", "cp1250"),
    "Hungarian": ("Az ügyfélszolgálat őszintén szörnyű, hűvös. Később írok.", "cp1250"),
    "Romanian": ("Asistenţa a fost foarte drăguţă. Mulţumesc şi sănătate.", "cp1250"),
    "Turkish": ("Müşteri hizmetleri çok iyiydi, hiç beğenmedim, kırık ürün.", "cp1254"),
    "Lithuanian": ("Klientų aptarnavimas malonus. Ačiū, šiandien gavau užsakymą.", "cp1257"),
    "Russian": ("Доставка опоздала", "cp1251"),
    "Chinese": ("送貨遲到了,但是客服非常好", "big5"),
}


@pytest.mark.parametrize("language", WESTERN)
def test_every_western_language_is_read_as_windows_1252(language: str) -> None:
    content = f'text\n"{WESTERN[language]}"\n'.encode("cp1252")
    table = open_table(Source("in.csv", content))
    assert read_columns(table, ["text"])["text"] == [WESTERN[language]]
    assert table.remarks == ["read as Windows-1252, because it is not UTF-8"]


@pytest.mark.parametrize("language", OTHER)
@pytest.mark.parametrize("lines", [0, 30])
def test_text_of_another_code_page_is_refused_also_among_english(language: str, lines: int) -> None:
    text, encoding = OTHER[language]
    content = "text\n" + "the delivery came late\n" * lines + f'"{text}"\n'
    with pytest.raises(InputError, match="not UTF-8 .* and not plausible as Windows-1252. Save it as UTF-8"):
        open_table(Source("in.csv", content.encode(encoding)))
