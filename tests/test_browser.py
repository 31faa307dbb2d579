"""The page in a real browser: what a person sees, on a screen and on a phone, and what leaves the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import fakes
import pytest
from chromium import Visit, sync_api
from test_app import HOSTILE, IMAGE, SCRIPT, models, served

from inference.loading import Models


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


@pytest.mark.smoke
def test_a_text_and_enter_give_an_answer_for_every_task(visit: Visit) -> None:
    visit.ask("good glad")
    for task in fakes.TASKS:
        visit.page.locator(f".verdict[data-task={task}]").wait_for()
    assert "positive · 0.9820" in visit.page.locator(".verdict[data-task=sentiment]").inner_text()
    visit.see("98%")  # gr.Label rounds; the figure above does not
    visit.see("tokenise")


def test_moving_the_threshold_changes_uncertain_and_the_models_own_come_back(visit: Visit) -> None:
    visit.ask("good")
    verdict = visit.page.locator(".verdict[data-task=sentiment]")
    verdict.wait_for()
    assert "Uncertain" not in verdict.inner_text()
    number = visit.page.get_by_role("spinbutton")
    number.fill("0.99")
    number.press("Enter")
    verdict.get_by_text("Uncertain").wait_for()
    own = visit.page.get_by_role("checkbox", name="Use the model's own thresholds")
    sync_api.expect(own).not_to_be_checked()
    own.check()
    verdict.get_by_text("Uncertain").wait_for(state="detached")


def test_the_three_runtimes_stand_side_by_side_with_the_difference_marked(visit: Visit) -> None:
    visit.box.fill("good")
    visit.compare()
    heads = visit.page.locator(".triptych thead th").all_inner_texts()
    assert [head.split()[1] for head in heads] == ["PyTorch", "ONNX", "INT8"]
    visit.see("INT8 predicts a different label for emotion")
    assert visit.page.locator(".triptych td.changed").inner_text().count("PyTorch: joy") == 1


def test_enter_fills_the_tab_that_is_open(visit: Visit) -> None:
    visit.box.fill("good")
    visit.compare()
    visit.ask("bad")
    visit.page.locator(".triptych td").filter(has_text="negative").first.wait_for()


def test_selecting_a_runtime_answers_again(visit: Visit) -> None:
    visit.ask("good")
    visit.see("INT8 answered:")
    visit.page.get_by_role("radio", name="PyTorch").check()
    visit.see("PyTorch answered:")


class Held(fakes.FakeBackend):
    """A fake that answers when it is let."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.on = threading.Event()

    def logits(self, *arguments: Any, **named: Any) -> Any:
        self.on.wait(300)
        return super().logits(*arguments, **named)


def test_questions_asked_while_waiting_are_replaced_by_the_last(browser: sync_api.Browser) -> None:
    held = Held("int8")
    with served(Models(fakes.bundle(), lambda name: fakes.classifier(held))) as url:
        visit = Visit(browser, url)
        with visit.page.expect_request("**/queue/join*"):
            visit.ask("good")
        visit.ask("good bad")
        visit.ask("bad")
        held.on.set()
        visit.see("negative · 0.8808")
        visit.page.close()


def test_an_example_fills_the_box_and_is_answered(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Irony").click()
    visit.page.locator(".verdict").first.wait_for()
    assert visit.box.input_value().startswith("Oh wonderful")


def test_text_of_unknown_words_gets_a_warning(visit: Visit) -> None:
    visit.ask("😡😡😡 🤮")
    visit.see("No word of this text is in the model's vocabulary")
    visit.compare()
    visit.see("No word of this text is in the model's vocabulary")
    visit.ask("good 🤮")
    visit.page.locator(".triptych").get_by_text("vocabulary").wait_for(state="detached")


def test_every_score_can_be_reached(visit: Visit) -> None:
    visit.ask("good")
    visit.page.locator(".verdict").first.wait_for()
    visit.page.get_by_role("button", name="Every score").click()
    visit.see("0.982014")


def test_empty_text_gives_an_error_and_the_next_text_an_answer(visit: Visit) -> None:
    visit.ask("  ")
    visit.page.get_by_role("alert").get_by_text("The text is empty").wait_for()
    visit.ask("good")
    visit.page.locator(".verdict").first.wait_for()
    assert visit.page.get_by_role("alert").count() == 0


def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit.page
    visit.box.focus()
    page.keyboard.type("good")
    page.keyboard.press("Tab")
    sync_api.expect(page.get_by_role("button", name="Classify")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.locator(".verdict").first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: sync_api.Browser, address: str, theme: str
) -> None:
    visit = Visit(browser, f"{address}/?__theme={theme}", width=390)
    visit.ask("good glad")
    visit.page.locator(".verdict").first.wait_for()
    assert visit.overflow() <= 0
    sync_api.expect(visit.page.locator(".verdict").first).to_be_in_viewport()
    sync_api.expect(visit.page.get_by_role("button", name="Classify")).to_be_in_viewport()
    visit.compare()
    assert visit.overflow() <= 0
    assert visit.errors == []
    visit.page.close()


@pytest.mark.smoke
def test_scripts_in_texts_and_labels_are_shown_and_not_run(browser: sync_api.Browser) -> None:
    with served(models(int8=5.0, tasks=HOSTILE)) as url:
        visit = Visit(browser, url)
        visit.ask(f"{SCRIPT} {IMAGE} bad ${{window.hacked=1}} {{{{hacked}}}}")
        verdict = visit.page.locator(".verdict")
        verdict.wait_for()
        assert IMAGE in verdict.inner_text()
        visit.page.get_by_role("button", name="Every score").click()
        visit.see(IMAGE)
        visit.compare()
        assert SCRIPT in visit.page.locator(".triptych").inner_text()
        assert visit.page.evaluate("window.hacked") is None
        assert visit.outside == []
        visit.page.close()
