"""The tab "Score a file": its limits, and in a real browser an upload, its answers, a stop, and files that attack."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pyarrow
import pyarrow.parquet
import pytest
from chromium import Visit, sync_api
from conftest import ROOT
from scored import read_csv, write_csv
from served import wait_until
from test_app import HOSTILE, IMAGE, SCRIPT, models, served

from inference import InputError
from inference.loading import Models
from inference.tables.unpacking import unpacked
from ui import scoring
from ui.files import MAX_UPLOAD_MB
from ui.site import LAUNCH


class Slow(fakes.FakeBackend):
    """A fake that answers questions, and of a file the first batches; then it waits to be let on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.on = threading.Event()

    def logits(self, input_ids: Any, attention_mask: Any) -> Any:
        if sum(rows > 1 for rows, _ in self.shapes) > 10 and len(input_ids) > 1:
            self.on.wait(300)
        return super().logits(input_ids, attention_mask)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


def upload(visit: Visit, path: Path) -> None:
    visit.page.get_by_role("tab", name="Score a file").press("Enter")
    visit.page.locator("#score-file input[type=file]").set_input_files(path)


def begin(visit: Visit, path: Path) -> None:
    upload(visit, path)
    visit.page.locator("#score-preview table").wait_for()
    visit.page.get_by_role("button", name="Score the file").click()


def scored_file(visit: Visit) -> Path:
    button = visit.page.locator("#score-download")
    button.wait_for()
    with visit.page.expect_download() as waiting:
        button.click()
    path = Path(waiting.value.path())
    return path.rename(path.with_name(waiting.value.suggested_filename))


@pytest.mark.smoke
def test_file_is_uploaded_scored_and_downloaded_with_its_charts(visit: Visit, tmp_path: Path) -> None:
    rows = [[str(i), ["good", "bad", ""][i % 3]] for i in range(700)]
    begin(visit, write_csv(tmp_path / "my rows.csv", ["id", "text"], rows))
    scored_rows = scored_file(visit)
    assert scored_rows.name == "my_rows.scored.csv"
    assert [[row["id"], row["text"]] for row in read_csv(scored_rows)] == rows
    assert [row["sentiment"] for row in read_csv(scored_rows)][:3] == ["positive", "negative", ""]
    status = visit.page.locator("#score-status").inner_text()
    assert "700 rows on INT8" in status
    assert "233 without an answer" in status
    assert visit.page.locator("#score-report .card svg[role=img]").count() == 2


def test_selected_column_runtime_and_format_are_used(visit: Visit, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["said", "number"], [["good", "1"], ["bad", "2"]])
    upload(visit, source)
    visit.page.locator("#score-runtime").get_by_role("radio", name="PyTorch").check()
    visit.page.locator("#score-preview table").wait_for()
    visit.page.get_by_label("Text column").click()
    visit.page.get_by_role("option", name="said").click()
    visit.page.get_by_role("radio", name="JSONL").check()
    visit.page.get_by_role("checkbox", name="Include the probability of every label").check()
    visit.page.get_by_role("button", name="Score the file").click()
    scored_rows = scored_file(visit)
    first = json.loads(scored_rows.read_text().splitlines()[0])
    assert first["said"] == "good"
    assert first["sentiment_positive"] == pytest.approx(0.880797)
    assert "2 rows on PyTorch" in visit.page.locator("#score-status").inner_text()


def test_missing_header_is_pointed_out(visit: Visit, tmp_path: Path) -> None:
    upload(visit, write_csv(tmp_path / "in.csv", ["what a good book it is"], [["bad"]]))
    visit.page.locator("#score-preview [role=alert]").get_by_text("If it is one, add a header to the file").wait_for()
    visit.page.locator("#score-preview table").wait_for()


def test_text_column_must_be_selected_if_it_is_unclear(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("1,what a good film\n2,bad\n3,good\n")
    upload(visit, tmp_path / "in.csv")
    alert = visit.page.locator("#score-preview [role=alert]")
    alert.get_by_text("Which column of in.csv holds the texts?").wait_for()
    assert "If 'what a good film' is a text, the file has no header: add one." in alert.inner_text()
    column, button = (
        visit.page.get_by_label("Text column"),
        visit.page.get_by_role("button", name="Score the"),
    )
    sync_api.expect(column).to_have_value("")
    sync_api.expect(button).to_be_disabled()
    column.click()
    visit.page.get_by_role("option", name="what a good film").click()
    sync_api.expect(button).to_be_enabled()
    button.click()
    assert [row["sentiment"] for row in read_csv(scored_file(visit))] == ["negative", "positive"]


def test_unknown_column_is_refused_with_a_message(visit: Visit, tmp_path: Path) -> None:
    upload(visit, write_csv(tmp_path / "in.csv", ["text", "id"], [["good", "1"]]))
    column = visit.page.get_by_label("Text column")
    sync_api.expect(column).to_have_value("text")
    column.fill("author")
    column.press("Tab")
    visit.page.get_by_role("button", name="Score the file").click()
    visit.page.get_by_role("alert").get_by_text("in.csv has no column 'author'; it has 'text', 'id'.").wait_for()
    assert visit.page.locator(".toast-body").count() == 0


def test_spreadsheet_is_refused_with_a_remedy(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "in.xlsx").write_bytes(b"PK\x03\x04")
    upload(visit, tmp_path / "in.xlsx")
    visit.page.get_by_role("alert").get_by_text("Save its sheet as UTF-8 CSV").wait_for()


def test_next_file_is_scored_after_an_unreadable_one(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,text\n1,g\xc3\xb6od b\xe4d\n")
    upload(visit, tmp_path / "in.csv")
    visit.page.locator("#score-preview [role=alert]").get_by_text("line 2 is not UTF-8").wait_for()
    sync_api.expect(visit.page.get_by_role("button", name="Score the file")).to_be_disabled()
    visit.page.locator("#score-file").get_by_role("button", name="Clear").first.click()
    visit.page.locator("#score-preview [role=alert]").wait_for(state="detached")
    begin(visit, write_csv(tmp_path / "next.csv", ["text"], [["good"]]))
    assert len(read_csv(scored_file(visit))) == 1


def test_file_can_be_stopped_and_does_not_block_questions(browser: sync_api.Browser, tmp_path: Path) -> None:
    slow = Slow("int8")
    given = Models(fakes.bundle(), lambda name: fakes.classifier(slow if name == "int8" else fakes.FakeBackend(name)))
    with served(given) as url:
        visit = Visit(browser, url)
        begin(visit, write_csv(tmp_path / "in.csv", ["text"], [["good"]] * 5_000))
        visit.page.locator("#score-status progress").wait_for()
        other = Visit(browser, url)
        other.ask("good")
        other.cell("sentiment", "pytorch").get_by_text("positive").wait_for()
        visit.page.get_by_role("button", name="Stop").click()
        slow.on.set()
        visit.page.locator("#score-status").get_by_text("stopped after").wait_for()
        sync_api.expect(visit.page.get_by_role("button", name="Score the file")).to_be_enabled()
        assert 0 < len(read_csv(scored_file(visit))) < 5_000
        other.page.close()
        visit.page.close()


@pytest.mark.slow
def test_files_wait_for_each_other_and_the_page_shows_how_many_are_ahead(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    slow = Slow("int8")
    given = Models(fakes.bundle(), lambda name: fakes.classifier(slow))
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]] * 1_000)
    with served(given) as url:
        first, second, third = (Visit(browser, url) for _ in range(3))
        begin(first, source)
        first.page.locator("#score-status progress").wait_for()
        begin(second, source)
        second.see("Waiting for the file of another visitor")
        begin(third, source)
        third.see("Waiting for the files of 2 other visitors")
        second.page.get_by_role("button", name="Stop").click()
        second.page.locator("#score-status").get_by_text("Stopped.").wait_for()
        third.see("Waiting for the file of another visitor")
        slow.on.set()
        for visit in (first, third):
            assert len(read_csv(scored_file(visit))) == 1_000
        for visit in (first, second, third):
            visit.page.close()


@pytest.mark.slow
def test_visitor_who_leaves_leaves_no_files_and_blocks_nobody(
    browser: sync_api.Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (working := tmp_path / "working").mkdir()
    monkeypatch.setattr(scoring.tempfile, "tempdir", str(working))
    monkeypatch.setattr(scoring, "PATIENCE_S", 10)
    slow = Slow("int8")
    given = Models(fakes.bundle(), lambda name: fakes.classifier(slow))
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]] * 1_000)
    with served(given) as url:
        first, second = Visit(browser, url), Visit(browser, url)
        begin(first, source)
        first.page.locator("#score-status progress").wait_for()
        begin(second, source)
        second.see("Waiting for the file of another visitor")
        assert len([path for path in working.rglob("triptych-score-*") if path.is_dir()]) == 2
        first.page.close()
        slow.on.set()
        assert len(read_csv(scored_file(second))) == 1_000
        second.page.close()
        wait_until(lambda: not any(path.is_dir() for path in working.rglob("triptych-score-*")))


def test_charts_can_be_read_as_text_and_tables(visit: Visit, tmp_path: Path) -> None:
    begin(visit, write_csv(tmp_path / "in.csv", ["text"], [["good"], ["good"], ["bad"]]))
    card = visit.page.locator("#score-report .card[data-task=sentiment]")
    bars = card.get_by_role("list", name="sentiment: share of each label").get_by_role("listitem")
    bars.first.wait_for()
    assert [bar.split() for bar in bars.all_inner_texts()] == [["positive", "66.7%"], ["negative", "33.3%"]]
    card.get_by_text("Confidence as a table").focus()
    visit.page.keyboard.press("Enter")
    rows = card.locator("details[open] tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["0.50", "to", "0.55", "1"], ["0.95", "to", "1.00", "2"]]


def test_scripts_in_texts_columns_labels_and_file_names_are_shown_and_not_run(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    rows = [[f"{SCRIPT} bad", IMAGE, "=1+1"], [f"${{window.hacked=1}} {{{{hacked}}}} {IMAGE}", SCRIPT, "@x"]]
    source = write_csv(tmp_path / f"{IMAGE.replace('/', '')}.csv", ["text", SCRIPT, IMAGE], rows)
    with served(models(int8=5.0, tasks=HOSTILE)) as url:
        visit = Visit(browser, url)
        begin(visit, source)
        assert IMAGE in str(visit.page.locator("#score-preview").text_content())
        assert SCRIPT in str(visit.page.locator("#score-preview thead").text_content())
        scored_rows = scored_file(visit)
        assert scored_rows.name == "img_src_x_onerror_window.hacked_1.scored.csv"
        assert IMAGE in visit.page.locator("#score-report").inner_text()  # the label given most often
        visit.page.locator("#score-rows").get_by_role("row").get_by_text(SCRIPT).first.wait_for()
        with scored_rows.open(newline="") as file:
            assert [row[:3] for row in csv.reader(file)][1] == [rows[0][0], IMAGE, "'=1+1"]
        assert visit.page.evaluate("window.hacked") is None
        assert visit.outside == []
        visit.page.close()


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_phone_shows_the_tab_without_scrolling_sideways(
    browser: sync_api.Browser, address: str, tmp_path: Path, theme: str
) -> None:
    visit = Visit(browser, f"{address}/?__theme={theme}", width=390)
    begin(visit, write_csv(tmp_path / "in.csv", ["a" * 40, "text", "c"], [["x " * 60, "good", "z" * 60]] * 3))
    visit.page.locator("#score-rows [role=row]").nth(3).wait_for()
    assert visit.overflow() <= 0
    visit.page.close()


# --- What is too much for a page


def test_tab_states_the_upload_limit_of_the_server() -> None:
    assert LAUNCH["max_file_size"] == f"{MAX_UPLOAD_MB}mb"
    assert f"at most {MAX_UPLOAD_MB} MB" in scoring.fill(
        "score_intro", max_mb=MAX_UPLOAD_MB, max_rows=scoring.MAX_ROWS, pairs=False
    )


def test_files_above_the_limits_are_refused(tmp_path: Path) -> None:
    many = write_csv(tmp_path / "many.csv", ["text"], [["good"]] * (scoring.MAX_ROWS + 1))
    with pytest.raises(InputError, match="many.csv has 20,001 rows; the maximum is 20,000. Use the command line"):
        scoring.examine(many)
    wide = write_csv(tmp_path / "wide.csv", ["text", *map(str, range(500))], [])
    with pytest.raises(InputError, match="wide.csv has more than 500 columns"):
        scoring.examine(wide)
    with pytest.raises(InputError, match="none.csv has no rows"):
        scoring.examine(write_csv(tmp_path / "none.csv", ["text"], []))
    bomb = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 1_000_000] * 300}), bomb)
    assert bomb.stat().st_size < 5_000_000
    with pytest.raises(InputError, match="bomb.parquet unpacks to more than 200 MB"):
        scoring.examine(bomb)


def one_text(path: Path, letters: int, rows: int = 16) -> Path:
    """A small Parquet file: one large text that every row names."""
    written = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * letters])
    pyarrow.parquet.write_table(
        pyarrow.table({"text": written}), path, compression="zstd", dictionary_pagesize_limit=2**30
    )
    assert path.stat().st_size < 1_000_000
    return path


@pytest.mark.parametrize(
    ("letters", "rows"), [(2_000_000, 1_000), pytest.param(100_000_000, 16, marks=pytest.mark.slow)]
)
def test_large_text_shared_by_all_rows_does_not_fill_memory(tmp_path: Path, letters: int, rows: int) -> None:
    assert scoring.examine(one_text(tmp_path / "in.parquet", 2_000_000))[0].row_count == 16
    path = one_text(tmp_path / "bomb.parquet", letters, rows)
    done = subprocess.run([sys.executable, "-c", EXAMINED, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, most = done.stdout.splitlines()
    assert answer.startswith("The file unpacks to more than 200 MB. Use the command line")
    assert int(most) < 1_000_000  # kB of the process that read it first


EXAMINED = """
import resource, sys
from pathlib import Path
from inference import InputError
from inference.tables.unpacking import check_unpacked
try:
    check_unpacked("The file", Path(sys.argv[1]).read_bytes(), 200_000_000, "Use the command line.")
except InputError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_cells_are_counted_as_they_are_when_they_are_written_out() -> None:
    text = pyarrow.array(["x" * 1_000])
    named = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 50, pyarrow.int8()), text)
    assert unpacked(named) >= 50_000
    assert unpacked(pyarrow.StructArray.from_arrays([named], ["a"])) >= 50_000
    assert unpacked(pyarrow.ListArray.from_arrays([0, 20, 50], named)) >= 50_000
    assert unpacked(pyarrow.nulls(1_000)) == unpacked(pyarrow.array([True] * 1_000)) == 8_000


def test_damaged_parquet_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="in.parquet cannot be read as Parquet: .*. Fix the file or export it again.$"):
        scoring.examine(tmp_path / "in.parquet")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/rows.csv", "rows.scored.csv"),
        ("../../etc/passwd", "passwd.scored.csv"),
        ("<script>.csv", "script.scored.csv"),
        ("你好.csv", "file.scored.csv"),
        (f"{'x' * 300}.csv", f"{'x' * 60}.scored.csv"),
    ],
)
def test_download_has_a_plain_name(path: str, name: str) -> None:
    assert scoring.file_name(path, "csv") == name


def test_deleted_upload_must_be_uploaded_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has deleted the file. Upload it again"):
        scoring.own_copy(str(tmp_path / "gone.csv"), tmp_path)
