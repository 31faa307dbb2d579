"""A file with right labels is scored in a real browser: its wrong rows are found, opened and downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Visit, sync_api
from scored import read_csv, write_csv
from test_app import models, served
from test_score_page import upload
from test_why_page import choose

RIGHT = [["good", "positive"]] * 20 + [["bad", "negative"]] * 20
WRONG = [["good good", "negative"], ["bad bad", "positive"], ["bad", "positive"]]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models()) as url:
        yield url


def scored(visit: Visit, path: Path) -> sync_api.Locator:
    """The table of the rows of a scored file."""
    upload(visit, path)
    button = visit.page.get_by_role("button", name="Score the file")
    sync_api.expect(button).to_be_enabled()
    button.click()
    visit.page.locator("#score-rows .rows").wait_for()
    return visit.page.locator("#score-rows")


def texts(table: sync_api.Locator) -> list[str]:
    return table.locator(".body .text").all_inner_texts()


def count(table: sync_api.Locator) -> str:
    return table.get_by_role("status").inner_text()


@pytest.mark.smoke
def test_wrong_rows_are_found_sorted_filtered_and_downloaded(visit: Visit, tmp_path: Path) -> None:
    table = scored(visit, write_csv(tmp_path / "my rows.csv", ["text", "label"], RIGHT + WRONG))
    card = visit.page.locator("#score-report .card[data-task=sentiment]")
    assert "93.0% right, 3 wrong" in card.inner_text()
    sync_api.expect(card).to_be_in_viewport(ratio=1)  # the page scrolls to what was waited for
    assert "81.4% to 97.6% with 95% confidence, on 43 labelled rows" in card.inner_text()
    table.get_by_role("button", name="≠ Wrong (3)").click()
    assert count(table) == "3 of 43 rows"
    confidence = table.get_by_role("button", name="sentiment: confidence")
    confidence.click()
    assert texts(table) == ["bad", "good good", "bad bad"]
    confidence.click()
    assert texts(table)[2] == "bad"
    sync_api.expect(table.get_by_role("columnheader", name="sentiment: confidence")).to_have_attribute(
        "aria-sort", "descending"
    )
    table.get_by_role("combobox", name="Right label").select_option("positive (2)")
    assert sorted(texts(table)) == ["bad", "bad bad"]
    with visit.page.expect_download() as waiting:
        table.get_by_role("button", name="Download these 2 rows").click()
    assert waiting.value.suggested_filename == "my_rows.rows.csv"
    rows = read_csv(Path(waiting.value.path()))
    assert [[row[name] for name in ("row", "text", "label", "sentiment", "sentiment_right")] for row in rows] == [
        ["42", "bad bad", "positive", "negative", "positive"],
        ["43", "bad", "positive", "negative", "positive"],
    ]


def test_figures_of_the_cards_and_the_confusion_matrix_filter_the_rows(visit: Visit, tmp_path: Path) -> None:
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text", "label"], RIGHT + WRONG))
    report = visit.page.locator("#score-report")
    report.get_by_role("button", name="2 rows labelled positive, answered negative. Show them.").click()
    assert texts(table) == ["bad bad", "bad"]
    report.get_by_role("button", name="3 wrong").click()
    assert count(table) == "3 of 43 rows"
    report.get_by_role("button", name="joy").click()  # a bar of the other task
    sync_api.expect(table.get_by_role("combobox", name="Task")).to_have_value("1")
    table.get_by_role("searchbox").fill("BAD B")
    sync_api.expect(table.get_by_role("status")).to_have_text("1 of 43 rows")
    table.get_by_role("button", name="Show all").click()
    assert count(table) == "43 rows"


def opened_row(visit: Visit, table: sync_api.Locator, how: str = "click") -> None:
    """Open the row "bad bad" among those whose emotion is wrong."""
    table.get_by_role("combobox", name="Task").select_option("emotion")
    table.get_by_role("button", name="≠ Wrong (3)").click()
    if how == "click":
        table.get_by_role("row").get_by_text("bad bad").click()
    else:
        table.get_by_role("grid").focus()
        for key in ("End", "ArrowUp", "Enter"):
            visit.page.keyboard.press(key)
    sync_api.expect(visit.box).to_have_value("bad bad")
    visit.cell("sentiment").get_by_text("0.9820").wait_for()


EMOTION = [[text, "sadness"] for text, _ in WRONG]  # to every one of them the model says joy


@pytest.mark.parametrize("how", ["click", "keyboard"])
def test_a_row_opens_side_by_side_with_the_reason_and_the_correction_of_its_task(
    visit: Visit, tmp_path: Path, how: str
) -> None:
    rows = [[text, "joy"] for text, _ in RIGHT] + EMOTION
    opened_row(visit, scored(visit, write_csv(tmp_path / "in.csv", ["text", "emotion"], rows)), how)
    visit.see("Row 42. The right emotion label in the file: sadness.")
    wrong = visit.page.locator("#side-by-side .wrong")
    sync_api.expect(wrong).to_have_text(["≠ File: sadness"] * 3)  # on each runtime, and on no other task
    visit.page.locator("#why .words[data-text='bad bad']").wait_for()
    visit.see("Why joy")  # a label of this task, which is not the first of the model
    visit.page.get_by_role("button", name="Wrong?").click()
    sync_api.expect(visit.page.locator("#correction [name=task]")).to_have_value("emotion")
    visit.box.fill("bad")
    sync_api.expect(visit.page.locator("#opened .row")).to_have_text("")  # it is another text
    sync_api.expect(wrong).to_have_count(0)
    visit.page.locator("#correction [name=label]").select_option("sadness")
    visit.page.get_by_role("button", name="Record").click()
    visit.see("The text in the box has no answer yet.")
    assert visit.errors == []


@pytest.mark.parametrize("how", ["button", "browser"])
def test_the_way_back_leads_to_the_rows_as_they_were_left(visit: Visit, tmp_path: Path, how: str) -> None:
    rows = [[f"bad {number}", "sadness"] for number in range(300)]
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text", "emotion"], rows))
    sync_api.expect(visit.page.get_by_role("button", name="Back to the rows")).to_be_hidden()
    table.get_by_role("button", name="≠ Wrong (300)").click()
    table.get_by_role("button", name="text", exact=True).click()
    grid = table.locator(".rows")
    grid.focus()
    for key in ("End", "PageUp"):
        visit.page.keyboard.press(key)
    seen = "grid => [grid.scrollTop, grid.querySelector('[aria-selected=true] .text').innerText]"
    top, text = left = grid.evaluate(seen)
    assert top > 0
    visit.page.keyboard.press("Enter")
    back = visit.page.get_by_role("button", name="Back to the rows")
    sync_api.expect(back).to_be_focused()
    visit.page.locator(f"#why .words[data-text='{text}']").wait_for()
    for _ in range(2):
        back.press("Enter") if how == "button" else visit.page.go_back()
        sync_api.expect(grid).to_be_focused()
        sync_api.expect(grid).to_be_in_viewport()
        assert grid.evaluate(seen) == left
        assert count(table) == "300 rows"
        assert "view=file" in visit.page.url
        assert "text=" not in visit.page.url
        visit.page.go_forward()
        sync_api.expect(visit.box).to_be_visible()
        assert "text=bad" in visit.page.url
    visit.ask("good")
    visit.answered()
    visit.page.go_back()
    sync_api.expect(grid).to_be_focused()
    grid.press("Enter")
    sync_api.expect(visit.box).to_have_value(text)
    assert visit.errors == []


def in_address(visit: Visit, part: str) -> None:
    visit.page.wait_for_function("part => location.search.includes(part)", arg=part)


def test_a_row_that_is_asked_again_does_not_keep_its_task(visit: Visit, tmp_path: Path) -> None:
    rows = [[text, "joy"] for text, _ in RIGHT] + EMOTION
    opened_row(visit, scored(visit, write_csv(tmp_path / "in.csv", ["text", "emotion"], rows)))
    in_address(visit, "task=emotion")
    visit.page.locator("#why .words[data-text='bad bad']").wait_for()
    visit.box.fill("not asked")
    visit.page.go_back()
    sync_api.expect(visit.page.locator("#score-rows .rows")).to_be_focused()
    visit.page.go_forward()
    sync_api.expect(visit.box).to_have_value("bad bad")  # with the same answer as before
    visit.page.locator("#why .why.waiting").wait_for(state="detached")
    choose(visit, "Task", "sentiment")
    visit.page.locator("#why").get_by_text("Why negative").wait_for()
    in_address(visit, "task=sentiment")
    assert visit.errors == []


# A click on the row of this number, the answer to the question before, which comes then, and what the history has.
LATE = """async (number) => {
  document.querySelectorAll("#score-rows .body [role=row]")[number].click();
  window.triptych.answered();
  await new Promise((done) => setTimeout(done));
  return history.state.triptych.texts;
}"""


def test_a_late_answer_to_the_question_before_is_not_taken_for_that_of_the_row(visit: Visit, tmp_path: Path) -> None:
    scored(visit, write_csv(tmp_path / "in.csv", ["text"], [["good good"], ["bad bad"]]))
    assert visit.page.evaluate(LATE, 0) == ["good good"]
    sync_api.expect(visit.box).to_have_value("good good")
    visit.page.locator("#why .words[data-text='good good']").wait_for()
    visit.page.go_back()
    sync_api.expect(visit.page.locator("#score-rows .rows")).to_be_focused()
    assert visit.page.evaluate(LATE, 1) == ["bad bad"]
    sync_api.expect(visit.box).to_have_value("bad bad")
    assert visit.errors == []


def test_back_and_forward_restore_the_thresholds(visit: Visit, tmp_path: Path) -> None:
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text"], [["bad bad"]]))
    table.get_by_role("row").get_by_text("bad bad").click()
    visit.page.locator("#why .words[data-text='bad bad']").wait_for()
    visit.open_settings()
    slider = visit.page.get_by_role("spinbutton").first
    slider.fill("0.99")
    slider.press("Tab")
    visit.cell("sentiment").get_by_text("below 0.99").wait_for()
    in_address(visit, "limit.sentiment=0.99")
    visit.page.go_back()
    visit.page.get_by_role("tab", name="Try").click()
    visit.page.get_by_role("button", name="Use the model's own thresholds").click()
    visit.page.wait_for_function("!location.search.includes('limit')")
    visit.page.go_forward()
    visit.cell("sentiment").get_by_text("below 0.99").wait_for()
    sync_api.expect(slider).to_have_value("0.99")
    in_address(visit, "limit.sentiment=0.99")
    visit.page.go_back()  # to the model's own
    visit.page.wait_for_function("!location.search.includes('limit')")
    sync_api.expect(slider).to_have_value("0.6")
    assert visit.errors == []


def test_back_from_the_tab_of_the_file_shows_the_row_again(visit: Visit, tmp_path: Path) -> None:
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text"], [["bad bad"]]))
    grid = table.locator(".rows")
    grid.press("Enter")
    visit.page.locator("#why .words[data-text='bad bad']").wait_for()
    visit.page.get_by_role("tab", name="Score a file").click()
    in_address(visit, "view=file")
    visit.page.go_back()
    sync_api.expect(visit.box).to_be_visible()
    sync_api.expect(visit.page.get_by_role("button", name="Back to the rows")).to_be_visible()
    visit.page.go_back()
    sync_api.expect(grid).to_be_focused()
    assert visit.errors == []


def test_labels_of_other_names_are_mapped_by_hand(visit: Visit, tmp_path: Path) -> None:
    names = {"positive": "praise", "negative": "negativ"}
    upload(visit, write_csv(tmp_path / "in.csv", ["text", "label"], [[text, names[label]] for text, label in RIGHT]))
    visit.page.get_by_label("Right sentiment label").click()
    visit.page.get_by_role("option", name="label").click()
    visit.see("has 2 labels that this task does not have: 'praise' (20 rows), 'negativ' (20 rows)")
    mapping = visit.page.get_by_label("What the sentiment labels mean")
    sync_api.expect(mapping).to_have_value("praise =\nnegativ = negative")
    mapping.fill("praise = positive\nnegativ = negative")
    visit.page.get_by_role("checkbox", name="Use this mapping").check()
    visit.see("sentiment: 40 rows with a right label in column 'label'.")
    visit.page.get_by_role("button", name="Score the file").click()
    visit.page.locator("#score-report").get_by_text("100% right").wait_for()


def test_20_000_rows_scroll_with_few_of_them_in_the_document(visit: Visit, tmp_path: Path) -> None:
    rows = [[f"{'good' if number % 2 else 'bad'} {number}"] for number in range(20_000)]
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text"], rows))
    assert count(table) == "20,000 rows"
    table.get_by_role("grid").focus()
    visit.page.keyboard.press("End")
    table.locator(".body").get_by_text("good 19999").wait_for()
    assert table.locator(".body [role=row]").count() < 60
    table.get_by_role("searchbox").fill("1999")
    sync_api.expect(table.get_by_role("status")).to_have_text("12 of 20,000 rows")


def test_progress_does_not_run_backwards(visit: Visit, tmp_path: Path) -> None:
    visit.page.evaluate(
        """() => {
          window.shares = [];
          new MutationObserver(() => {
            const bar = document.querySelector("#score-status progress");
            if (bar) window.shares.push(bar.value);
          }).observe(document.body, { childList: true, subtree: true, attributes: true });
        }"""
    )
    scored(visit, write_csv(tmp_path / "in.csv", ["text"], [["good"]] * 3_000))
    shares = visit.page.evaluate("window.shares")
    assert shares[0] == 0
    assert shares == sorted(shares)


def test_cells_that_look_like_formulas_are_disarmed_in_the_rows_that_are_downloaded(
    visit: Visit, tmp_path: Path
) -> None:
    rows = [["=1+1 good", "-2.5", "@x"], ['a "quoted", good\nline', "+3", "\t=2"]]
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text", "=number", "more"], rows))
    with visit.page.expect_download() as waiting:
        table.get_by_role("button", name="Download these 2 rows").click()
    found = read_csv(Path(waiting.value.path()))
    assert [[row["text"], row["'=number"], row["more"]] for row in found] == [
        ["'=1+1 good", "-2.5", "'@x"],
        ['a "quoted", good\nline', "+3", "'\t=2"],
    ]


def test_a_click_before_the_columns_are_known_scores_nothing(visit: Visit, tmp_path: Path) -> None:
    button = visit.page.get_by_role("button", name="Score the file")
    upload(visit, write_csv(tmp_path / "in.csv", ["a", "b"], [["good", "1"]]))
    visit.page.locator("#score-preview [role=alert]").wait_for()
    sync_api.expect(button).to_be_disabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_the_answers_below_each_text(
    browser: sync_api.Browser, address: str, tmp_path: Path, theme: str
) -> None:
    visit = Visit(browser, f"{address}/?__theme={theme}", width=390)
    table = scored(visit, write_csv(tmp_path / "in.csv", ["text", "label"], RIGHT + WRONG))
    line = table.locator(".body [role=row]").first
    places = "(line) => ['text', 'given'].map((name) => line.querySelector(`.${name}`).getBoundingClientRect())"
    text, label = line.evaluate(places)  # at once: the page still scrolls
    assert label["top"] >= text["bottom"]
    assert label["right"] <= 390
    sync_api.expect(line.locator("[role=gridcell]").first).to_have_text("1")  # the number of the row
    assert visit.overflow() <= 0
    visit.page.close()
