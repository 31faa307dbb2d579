"""The page in a real browser: what a person sees, on a screen and on a phone, and what leaves the machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import fakes
import pytest
from test_app import HOSTILE, IMAGE, SCRIPT, models, served

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: requirements-dev.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

PATIENCE_MS = 60_000  # a busy machine is no broken page


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


class Visit:
    """A page that is open, and everything it complained about or asked another machine for."""

    def __init__(self, browser: sync_api.Browser, url: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(url)
        self.box = self.page.get_by_role("textbox", name="Text")
        self.box.wait_for()
        for role in ("button", "radio", "slider", "tab"):  # each kind of control arrives in a file of its own
            self.page.get_by_role(role).first.wait_for()
        self.page.get_by_role("button", name="Classify").wait_for()

    def _note(self, request: sync_api.Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.outside.append(request.url)

    def ask(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def see(self, text: str) -> None:
        # Gradio's tables hold a hidden copy of their first row, to measure it.
        self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def compare(self) -> None:
        self.page.get_by_role("tab", name="Side by side").press("Enter")
        self.page.locator(".triptych table").wait_for()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@pytest.fixture
def visit(browser: sync_api.Browser, address: str) -> Iterator[Visit]:
    opened = Visit(browser, address)
    yield opened
    opened.page.close()
    assert opened.errors == []
    assert opened.outside == []


def test_a_text_and_enter_give_an_answer_for_every_task(visit: Visit) -> None:
    visit.ask("good glad")
    for task in fakes.TASKS:
        visit.page.locator(f".verdict[data-task={task}]").wait_for()
    assert "positive · 0.9820" in visit.page.locator(".verdict[data-task=sentiment]").inner_text()
    visit.see("98%")  # gr.Label rounds; the figure above does not
    visit.see("tokenise")


def test_moving_the_threshold_calls_an_answer_uncertain_and_the_models_own_come_back(visit: Visit) -> None:
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
    visit.see("INT8 gives another label for emotion")
    assert visit.page.locator(".triptych td.changed").inner_text().count("PyTorch: joy") == 1


def test_enter_fills_the_tab_that_is_open(visit: Visit) -> None:
    visit.box.fill("good")
    visit.compare()
    visit.ask("bad")
    visit.page.locator(".triptych td").filter(has_text="negative").first.wait_for()


def test_another_runtime_answers_as_soon_as_it_is_chosen(visit: Visit) -> None:
    visit.ask("good")
    visit.see("INT8 answered:")
    visit.page.get_by_role("radio", name="PyTorch").check()
    visit.see("PyTorch answered:")


def test_an_example_fills_the_box_and_is_answered(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Irony").click()
    visit.page.locator(".verdict").first.wait_for()
    assert visit.box.input_value().startswith("Oh wonderful")


def test_every_score_can_be_reached(visit: Visit) -> None:
    visit.ask("good")
    visit.page.locator(".verdict").first.wait_for()
    visit.page.get_by_role("button", name="Every score").click()
    visit.see("0.982014")


def test_an_empty_text_gives_the_message_and_the_next_text_an_answer(visit: Visit) -> None:
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
    visit.compare()
    assert visit.overflow() <= 0
    assert visit.errors == []
    visit.page.close()


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
