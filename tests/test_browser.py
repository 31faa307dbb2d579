"""The page in a real browser: what a person sees, on a screen and on a phone, and what leaves the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fakes
import pytest
from chromium import Visit, sync_api
from test_app import HOSTILE, IMAGE, SCRIPT, models, served

from inference.backends import STANDARD
from inference.formats.bundle import Task
from inference.formats.examples import Example
from inference.loading import Models

THREE_TASKS = fakes.TASKS | {"intent": Task(tuple(f"intent_{i}" for i in range(151)), fakes.SINGLE, 0.55)}
TEN_EXAMPLES = tuple(Example("good glad", f"An example, {i}") for i in range(10))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


def three_tasks() -> Models:
    given = models(int8=2.0, tasks=THREE_TASKS)
    given.bundle = replace(given.bundle, examples=TEN_EXAMPLES)
    return given


# --- The first view


def test_the_page_opens_with_an_example_that_every_runtime_has_answered(browser: sync_api.Browser) -> None:
    with served(models(int8=2.0)) as url:
        first = Visit(browser, url)  # nobody has asked before, so the page asks by itself
        assert first.box.input_value().startswith("Oh wonderful")
        first.page.locator("#side-by-side .times").get_by_text("median of 5").nth(2).wait_for()
        first.page.locator(".why .words").wait_for()
        first.page.close()
        asked: list[str] = []
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.locator("#side-by-side td[data-task=emotion]").nth(2).wait_for()
        page.locator(".why .words").wait_for()
        page.get_by_role("button", name="Classify").wait_for()
        assert not [url for url in asked if "queue/join" in url]  # the answers came with the page
        page.close()


def test_box_and_all_answers_fit_on_a_small_laptop(browser: sync_api.Browser) -> None:
    with served(three_tasks()) as url:
        visit = Visit(browser, url)
        visit.page.set_viewport_size({"width": 1366, "height": 650})
        visit.page.locator("#side-by-side td[data-task=intent]").nth(2).wait_for()
        visit.page.locator("#side-by-side .times b").nth(2).wait_for()
        assert visit.page.evaluate("window.scrollY") == 0
        bottom = visit.page.locator("#side-by-side .times").bounding_box()
        assert bottom
        assert bottom["y"] + bottom["height"] <= 650
        sync_api.expect(visit.box).to_be_in_viewport()
        visit.page.close()


# --- Questions


@pytest.mark.smoke
def test_a_text_and_enter_give_the_answer_of_every_runtime(visit: Visit) -> None:
    visit.ask("good glad")
    visit.answered()
    for task in fakes.TASKS:
        for backend in STANDARD:
            sync_api.expect(visit.cell(task, backend)).to_be_visible()
    assert visit.cell("sentiment", "pytorch").inner_text().split()[:2] == ["positive", "0.8808"]
    visit.see("98%")  # gr.Label rounds; the figure above does not
    visit.see("tokenise")


def test_the_difference_between_runtimes_is_marked(visit: Visit) -> None:
    visit.ask("good")
    visit.answered()
    heads = visit.page.locator(".triptych thead th").all_inner_texts()
    assert [head.split()[1] for head in heads] == ["PyTorch", "ONNX", "INT8"]
    visit.see("INT8 predicts a different label for emotion")
    assert visit.page.locator(".triptych td.changed").inner_text().count("PyTorch: joy") == 1


def test_an_example_fills_the_box_at_once_and_is_answered(browser: sync_api.Browser) -> None:
    held = Held("int8")
    given = Models(fakes.bundle(), lambda name: fakes.classifier(held))
    with served(given) as url:
        visit = Visit(browser, url)
        visit.box.fill("something else")
        visit.page.get_by_role("button", name="Irony").click()
        sync_api.expect(visit.box).to_have_value(given.bundle.examples[0].text, timeout=2_000)  # before any answer
        held.on.set()
        visit.page.locator("#side-by-side td[data-task=emotion]").nth(2).wait_for()
        visit.page.close()


class Held(fakes.FakeBackend):
    """A fake that answers when it is let."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.on = threading.Event()

    def logits(self, *arguments: Any, **named: Any) -> Any:
        self.on.wait(300)
        return super().logits(*arguments, **named)


def test_answers_come_runtime_by_runtime_and_a_wait_shows_where(browser: sync_api.Browser) -> None:
    held = Held("pytorch")
    given = Models(
        fakes.bundle(), lambda name: fakes.classifier(held if name == "pytorch" else fakes.FakeBackend(name))
    )
    with served(given) as url:
        visit = Visit(browser, url)
        visit.ask("good")
        visit.cell("sentiment", "int8").get_by_text("0.8808").wait_for()
        visit.cell("sentiment", "onnx").get_by_text("0.8808").wait_for()
        visit.see("Asking PyTorch …")
        assert visit.page.locator("td.pytorch.coming").count() == len(fakes.TASKS) + 1
        before = visit.page.locator(".triptych").bounding_box()
        held.on.set()
        visit.cell("sentiment", "pytorch").get_by_text("0.8808").wait_for()
        after = visit.page.locator(".triptych").bounding_box()
        assert before
        assert after
        assert abs(before["height"] - after["height"]) < 4  # nothing below moves
        visit.page.close()


def test_the_newest_question_replaces_those_before_it(browser: sync_api.Browser) -> None:
    held = Held("int8")
    with served(Models(fakes.bundle(), lambda name: fakes.classifier(held))) as url:
        visit = Visit(browser, url)
        with visit.page.expect_request("**/queue/join*"):
            visit.ask("good")
        visit.ask("good bad")
        visit.ask("bad")
        held.on.set()
        visit.cell("sentiment").get_by_text(
            "negative"
        ).first.wait_for()  # an older answer may come before it, not after
        visit.answered()
        assert visit.cell("sentiment").inner_text().split()[:2] == ["negative", "0.8808"]
        visit.page.close()


def test_answers_fade_while_the_box_holds_another_text(visit: Visit) -> None:
    visit.ask("good")
    visit.answered()
    visit.page.locator("[data-shown*=good]").wait_for(state="attached")
    stale = visit.page.locator(".triptych.stale")
    visit.box.fill("good bad")
    stale.wait_for()
    visit.box.fill("good")
    stale.wait_for(state="detached")


def test_text_of_unknown_words_gets_a_warning(visit: Visit) -> None:
    visit.ask("😡😡😡 🤮")
    visit.see("No word of this text is in the model's vocabulary")
    visit.ask("Это очень bad")
    visit.see("barely covers this text")
    visit.ask("good 🤮")
    visit.page.locator(".triptych").get_by_text("No word of this text").wait_for(state="detached")


def test_every_score_can_be_reached(visit: Visit) -> None:
    visit.ask("good glad")
    visit.answered()
    visit.page.get_by_role("button", name="Every score").click()
    visit.see("0.982014")


def test_empty_text_gives_an_error_and_the_next_text_an_answer(visit: Visit) -> None:
    for _ in range(2):  # the same message twice
        visit.ask("  ")
        visit.page.get_by_role("alert").get_by_text("The text is empty").wait_for()
    visit.ask("good")
    visit.answered()
    assert visit.page.get_by_role("alert").count() == 0


# --- Settings


def test_a_task_has_one_threshold_whose_line_moves_and_the_models_own_comes_back(visit: Visit) -> None:
    visit.ask("good")
    visit.answered()
    cell = visit.cell("sentiment", "pytorch")
    assert "Uncertain" not in cell.inner_text()
    line = cell.locator(".limit")
    before = line.bounding_box()
    visit.open_settings()
    number = visit.page.get_by_role("spinbutton", name="sentiment")
    assert number.input_value() == "0.6"
    number.fill("0.99")
    number.press("Enter")
    cell.get_by_text("Uncertain").wait_for()
    cell.get_by_text("below 0.99").wait_for()
    after = line.bounding_box()
    assert before
    assert after
    assert after["x"] > before["x"] + 50
    assert "below 0.4" in visit.cell("emotion", "onnx").inner_text()  # of the other task nothing has changed
    visit.page.get_by_role("button", name="Use the model's own thresholds").click()
    cell.get_by_text("Uncertain").wait_for(state="detached")
    assert number.input_value() == "0.6"


def test_details_are_of_the_selected_runtime(visit: Visit) -> None:
    visit.ask("good")
    visit.see("INT8 in detail")
    visit.open_settings()
    visit.page.locator("#runtime").get_by_role("radio", name="PyTorch").check()
    visit.see("PyTorch in detail")


# --- For everybody


def test_the_keyboard_reaches_the_answers_in_few_steps(visit: Visit) -> None:
    page = visit.page
    visit.box.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("good")
    page.keyboard.press("Tab")
    sync_api.expect(page.get_by_role("button", name="Classify")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    visit.cell("sentiment").get_by_text("positive").wait_for()
    page.keyboard.press("Tab")
    skip = page.get_by_role("button", name="Go to the answers")
    sync_api.expect(skip).to_be_focused()
    sync_api.expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".triptych")).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: sync_api.Browser, address: str, theme: str
) -> None:
    visit = Visit(browser, f"{address}/?__theme={theme}", width=390)
    visit.ask("good glad")
    visit.answered()
    assert visit.overflow() <= 0
    sync_api.expect(visit.cell("sentiment")).to_be_in_viewport()
    visit.open_settings()
    assert visit.overflow() <= 0
    assert visit.errors == []
    visit.page.close()


def test_scripts_in_texts_and_labels_are_shown_and_not_run(browser: sync_api.Browser) -> None:
    with served(models(int8=5.0, tasks=HOSTILE)) as url:
        visit = Visit(browser, url)
        visit.ask(f"{SCRIPT} {IMAGE} bad ${{window.hacked=1}} {{{{hacked}}}}")
        visit.answered()
        assert IMAGE in visit.cell("sentiment").inner_text()
        assert SCRIPT in visit.page.locator(".triptych").inner_text()
        visit.page.get_by_role("button", name="Every score").click()
        visit.see(IMAGE)
        assert visit.page.evaluate("window.hacked") is None
        assert visit.outside == []
        visit.page.close()


# Replies to questions that come after their answers, which a stream that is open already brings.
LATE_REPLIES = """() => {
  const { fetch } = window;
  window.fetch = async (...request) => {
    const reply = await fetch(...request);
    const isLate = String(request[0]?.url ?? request[0]).includes("/queue/join") && window.replies++;
    if (isLate) await new Promise((done) => setTimeout(done, 3000));
    return reply;
  };
  window.replies = 0;
  document.querySelector("#classify").click();
  setTimeout(() => document.querySelector("#classify").click());
}"""


def test_a_page_that_gets_an_answer_before_the_reply_to_its_question_can_ask_again(visit: Visit) -> None:
    visit.ask("good")
    visit.answered()
    visit.page.evaluate(LATE_REPLIES)
    visit.page.wait_for_function("window.replies === 2")
    visit.page.wait_for_timeout(3500)
    visit.page.evaluate("window.replies = 0")
    visit.ask("bad film")
    visit.answered()
    assert visit.errors == []
