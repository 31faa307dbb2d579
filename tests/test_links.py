"""Links to what the page shows: what they carry, and what a hostile one can do."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from chromium import PATIENCE_MS, Visit, sync_api
from test_app import IMAGE, SCRIPT, models
from test_what_if import served


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


def opened(browser: sync_api.Browser, address: str, query: str) -> Visit:
    return Visit(browser, f"{address}/?{query}")


def test_a_link_opens_its_text_task_and_view(browser: sync_api.Browser, address: str) -> None:
    visit = opened(browser, address, "text=glad%20%3Cb%3E&task=emotion&view=why")
    sync_api.expect(visit.box).to_have_value("glad <b>")
    visit.see("Why joy")
    visit.page.locator("#side-by-side .triptych:not(.waiting)[data-asked='1']").wait_for()
    sync_api.expect(visit.page.locator("#reasons")).to_be_in_viewport()
    visit.page.close()
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{address}/?text=bad&view=file")
    page.locator("button[role=tab][aria-selected=true]", has_text="Score a file").wait_for()
    page.close()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("text=good&text=bad", "names “text” more than once"),
        (f"text=good&task={quote(IMAGE)}", "no task of the name"),
        ("text=good&task=__proto__", "no task of the name"),
        (f"text={'x' * 20_001}", "20,000"),
        ("text=good&limit.sentiment=0.9&limit.sentiment=0.8", "names a threshold more than once"),
        ("text=good&limit.sentiment=NaN", "not a number from 0 to 1"),
        ("text=good&limit.sentiment=1e999", "not a number from 0 to 1"),
        ("text=good&limit.sentiment=1.01", "not a number from 0 to 1"),
        ("text=good&limit.sentiment=-0.1", "not a number from 0 to 1"),
        ("text=good&limit.sentiment=1.0000000000000002", "not a number from 0 to 1"),
        ("text=good&limit.sentiment=0x1", "not a number from 0 to 1"),
        ("text=good&limit.__proto__=0.5", "no task of the name"),
        (f"text={quote(SCRIPT + IMAGE)}%00%ED%A0%80", SCRIPT),
        ("view=constructor&text=good", "positive"),
    ],
)
def test_whatever_a_link_holds_is_only_ever_a_text(
    browser: sync_api.Browser, address: str, query: str, message: str
) -> None:
    visit = opened(browser, address, query)
    visit.page.wait_for_function("said => document.body.innerText.includes(said)", arg=message, timeout=PATIENCE_MS)
    assert visit.page.evaluate("window.hacked") is None
    assert visit.errors == []
    visit.page.close()


def test_the_address_follows_what_is_shown_and_keeps_what_else_it_has(browser: sync_api.Browser, address: str) -> None:
    visit = opened(browser, address, "__theme=dark")
    visit.ask("good & bad + é")
    visit.page.wait_for_function("location.search.includes('text=')", timeout=PATIENCE_MS)
    query = parse_qs(urlsplit(visit.page.url).query)
    assert query == {"__theme": ["dark"], "text": ["good & bad + é"], "task": ["sentiment"]}
    visit.ask("good " * 500)
    visit.page.wait_for_function("!location.search.includes('text=')", timeout=PATIENCE_MS)
    visit.page.get_by_role("button", name="Copy link").click()
    visit.see("too long for a link")
    assert visit.errors == []
    visit.page.close()


def test_a_link_carries_the_thresholds_that_are_not_the_models_own(browser: sync_api.Browser, address: str) -> None:
    query = "text=good&limit.sentiment=0.90000000000000002&limit.emotion=4e-1"  # the last is its own
    visit = opened(browser, address, query)
    visit.cell("sentiment", "pytorch").get_by_text("below 0.9").wait_for()
    visit.open_settings()
    slider = visit.page.get_by_role("spinbutton").first
    sync_api.expect(slider).to_have_value("0.9")
    slider.fill("0.3")
    slider.press("Tab")
    visit.page.wait_for_function("location.search.includes('limit.sentiment=0.3')", timeout=PATIENCE_MS)
    assert "limit.emotion" not in visit.page.url
    visit.page.get_by_role("button", name="Copy link").click()
    visit.see("Not in it: runtime, method, pinned text.")
    visit.page.reload()
    visit.page.locator("#side-by-side .triptych:not(.waiting) .facts").first.wait_for()
    assert "below 0.9" not in visit.page.locator("#side-by-side").inner_text()
    assert visit.errors == []
    visit.page.close()
