"""The static page in a browser: what a visitor sees and does, on an engine whose answers can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromium import sync_api
from static_site import IMAGE, PAGES, SCRIPT, Visiting, ask, card, served, site_json, stage

from inference.tables.reading import open_table, read_columns

pytestmark = pytest.mark.browser


# --- Try


@pytest.mark.smoke
def test_page_opens_with_an_example_answered_for_every_task(page: sync_api.Page) -> None:
    assert "positive · 0.9820" in card(page, "sentiment").inner_text()
    assert "At or above the threshold 0.6" in card(page, "sentiment").inner_text()
    assert card(page, "emotion").locator("li").count() == 3
    assert "INT8 answered in this browser: 4.30 ms" in page.locator(".timing").inner_text()


def test_enter_answers_and_a_low_score_is_uncertain(page: sync_api.Page) -> None:
    ask(page, "nothing known in here")
    card(page, "sentiment").get_by_text("Uncertain").wait_for()
    assert "Below the threshold 0.6" in card(page, "sentiment").inner_text()


def test_text_of_unknown_words_gets_the_warning_of_the_other_page(page: sync_api.Page) -> None:
    ask(page, "xyzzy")
    page.get_by_text("No word of this text is in the model's vocabulary").wait_for()


def test_text_that_cannot_be_read_gives_the_reason_and_the_next_text_an_answer(page: sync_api.Page) -> None:
    ask(page, "  ")
    page.get_by_role("alert").get_by_text("The text is empty: give it at least one word.").wait_for()
    assert page.locator("#answer .card").count() == 0
    ask(page, "bad")
    card(page, "sentiment").get_by_text("negative").first.wait_for()
    assert page.get_by_role("alert").count() == 0


def test_answer_is_shown_as_stale_while_the_text_is_edited(page: sync_api.Page) -> None:
    page.locator("#text").fill("another text")
    page.locator("#answer.stale").wait_for()
    page.locator("#text").fill("good glad day")
    page.locator("#answer:not(.stale)").wait_for()


def test_why_marks_the_words_and_explains_other_tasks_and_labels(page: sync_api.Page) -> None:
    ask(page, "good but glad bad")
    page.locator("#why .word.for", has_text="good").wait_for()
    page.locator("#why .word.against", has_text="bad").wait_for()
    assert "supported most by good and glad" in page.locator("#why .summary").inner_text()
    page.locator("#why-task").select_option("emotion")
    page.locator("#why-label").select_option("anger")
    page.locator("#why .summary").get_by_text("the model predicts").wait_for()
    assert "task=emotion" in page.url


def test_correction_is_kept_in_the_tab_and_downloaded_as_labelled_rows(page: sync_api.Page, tmp_path: Path) -> None:
    ask(page, "=good, bad")
    page.locator("#why .word.for").first.wait_for()
    page.get_by_text("Wrong?").click()
    page.get_by_label("Task").first.select_option("emotion")
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Choose the right label first").wait_for()
    page.get_by_label("Right label").select_option("anger")
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Recorded: the right emotion is “anger”").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "corrections.csv")
    table = open_table(tmp_path / "corrections.csv")
    assert table.columns[:2] == ["text", "emotion"]
    assert read_columns(table, ["text", "emotion"]) == {"text": ["=good, bad"], "emotion": ["anger"]}


def test_link_opens_its_text_and_task(browser: sync_api.Browser, static_address: str) -> None:
    with Visiting(browser) as page:
        page.goto(f"{static_address}#tab=try&task=emotion&text={quote('bad & <b>bold</b>')}")
        page.locator("#why .words").wait_for()
        assert page.locator("#text").input_value() == "bad & <b>bold</b>"
        assert page.locator("#why-task").input_value() == "emotion"
        page.goto(f"{static_address}#tab=measure")
        page.get_by_role("heading", name="In your browser").wait_for()


def test_link_with_nonsense_or_an_endless_text_does_no_harm(browser: sync_api.Browser, static_address: str) -> None:
    with Visiting(browser) as page:
        page.goto(f"{static_address}#tab=__proto__&task=constructor&text={'good,' * 2000}")
        page.get_by_text("The text of this link has 10,000 characters; a link may have 2,000.").wait_for()
        ask(page, "good")
        card(page, "sentiment").wait_for()


def test_console_gets_predictions_in_plain_types(page: sync_api.Page) -> None:
    answers = page.evaluate("window.triptych.predict(['good', 'bad'])")
    assert [one["label"] for one in answers["sentiment"]] == ["positive", "negative"]


def test_any_text_is_shown_as_text_or_refused(page: sync_api.Page) -> None:
    for text in (SCRIPT, IMAGE, "x" * 50_000, "good \0 bad \0", "\u202egood\u2066 bad"):
        ask(page, text)
        page.locator("#message .message, #reasons:not(.stale) #why .words").first.wait_for()
        page.locator("#answer:not([aria-busy])").wait_for(state="attached")
    assert page.evaluate("window.hacked") is None


@pytest.mark.smoke
def test_hostile_labels_are_shown_as_text(browser: sync_api.Browser, tmp_path: Path) -> None:
    tasks = {"a task": {"labels": [SCRIPT, IMAGE], "threshold": 0.6}}
    stage(tmp_path / "site", site_json(tasks), PAGES)
    with served(tmp_path / "site") as (url, _), Visiting(browser) as page:
        page.goto(url)
        page.locator("#why .words").wait_for()
        assert IMAGE in page.locator(".card").inner_text()
        assert page.evaluate("window.hacked") is None


def test_policy_forbids_other_machines_and_scripts_in_the_page(browser: sync_api.Browser, static_address: str) -> None:
    seen = Visiting(browser)
    with seen as page:
        page.goto(static_address)
        page.locator("#why .words").wait_for()
        assert page.evaluate("fetch('http://127.0.0.1:9/x').then(() => 'sent', () => 'refused')") == "refused"
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=1'}))"
        )
        assert page.evaluate("window.hacked") is None
        seen.errors.clear()


# --- The way of the model


def test_phone_is_asked_before_the_model_is_fetched(browser: sync_api.Browser, static_address: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with Visiting(browser, **phone) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(static_address)
        page.get_by_role("button", name="Download the model (25.4 MB)").wait_for()
        ask(page, "good")
        page.get_by_text("Download the model first; your text is then answered.").wait_for()
        assert not any("/model/" in url for url in asked)
        page.get_by_role("button", name="Download the model").click()
        card(page, "sentiment").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_text_typed_while_the_model_comes_is_answered_when_it_is_there(
    browser: sync_api.Browser, static_address: str
) -> None:
    with Visiting(browser) as page:
        page.goto(f"{static_address}?slow=400")
        page.get_by_text("of 25.4 MB").wait_for()
        ask(page, "bad")
        card(page, "sentiment").get_by_text("negative").first.wait_for()


def test_failed_download_of_the_model_is_reported_and_can_be_retried(
    browser: sync_api.Browser, static_address: str
) -> None:
    seen = Visiting(browser, service_workers="block")
    with seen as page:
        page.route("**/model/**", lambda route: route.abort())
        page.goto(static_address)
        page.get_by_role("button", name="Try again").wait_for()
        page.unroute("**/model/**")
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("INT8 runs in this browser").wait_for()
        seen.errors.clear()  # the browser's own line about the request


def test_second_visit_needs_no_network(browser: sync_api.Browser, tmp_path: Path) -> None:
    stage(tmp_path / "site", site_json(), PAGES)
    seen = Visiting(browser)
    with served(tmp_path / "site") as (url, server), seen as page:
        page.goto(f"{url}?from=somewhere")
        page.locator("#why .words").wait_for()
        page.wait_for_timeout(1000)
        server.shutdown()
        server.server_close()
        page.goto(url)
        ask(page, "good")
        card(page, "sentiment").get_by_text("positive").first.wait_for()
        page.reload()
        page.locator("#why .words").wait_for()


def test_new_version_replaces_the_cached_file_and_pages_below_are_not_cached(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    stage(tmp_path / "site", site_json(), PAGES)
    (tmp_path / "site/model/other.bin").write_text("right")
    (tmp_path / "site/blog").mkdir()
    (tmp_path / "site/blog/index.html").write_text("<link rel=icon href=data:,>another page")
    with served(tmp_path / "site") as (url, _), Visiting(browser) as page:
        page.goto(url)
        page.locator("#why .words").wait_for()
        while not page.evaluate("Boolean(navigator.serviceWorker.controller)"):
            page.wait_for_timeout(50)
        keep = """async () => {
            const cache = await caches.open((await caches.keys())[0]);
            await cache.put("model/other.bin?v=1", new Response("an error"));
        }"""
        page.evaluate(keep)
        read = "async (cache) => await (await fetch('model/other.bin?v=1', { cache })).text()"
        assert [page.evaluate(read, cache) for cache in ("default", "reload")] == ["an error", "right"]
        while page.evaluate("async () => await (await caches.match('model/other.bin?v=1')).text()") != "right":
            page.wait_for_timeout(50)  # it is kept while it streams on
        page.goto(f"{url}blog/")
        names = "async () => (await (await caches.open((await caches.keys())[0])).keys()).map(({ url }) => url)"
        kept = page.evaluate(names)
        assert f"{url}model/other.bin?v=1" in kept
        assert not [name for name in kept if "blog" in name]
        assert "another page" not in page.evaluate("async (url) => await (await caches.match(url)).text()", url)


def test_page_works_in_a_frame_of_another_site(browser: sync_api.Browser, static_address: str, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    frame = f'<iframe src="{static_address}" width="1000" height="800"></iframe>'
    (tmp_path / "outer" / "index.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{frame}')
    with served(tmp_path / "outer") as (outer, _), Visiting(browser) as page:
        page.goto(outer.replace("127.0.0.1", "localhost"))
        inner = page.frame_locator("iframe")
        inner.locator("#text").fill("bad")
        inner.locator("#text").press("Enter")
        inner.locator(".card[data-task=sentiment]").get_by_text("negative").first.wait_for()


# --- Look


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_shows_every_view_without_scrolling_sideways(
    browser: sync_api.Browser, static_address: str, theme: Any
) -> None:
    with Visiting(browser, viewport={"width": 390, "height": 844}, color_scheme=theme) as page:
        page.goto(static_address)
        page.locator("#why .words").wait_for()
        for tab in ("try", "measure", "file"):
            page.goto(f"{static_address}#tab={tab}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_keyboard_alone_reaches_box_button_and_tabs(page: sync_api.Page) -> None:
    page.locator("#text").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("bad")
    page.keyboard.press("Tab")
    sync_api.expect(page.get_by_role("button", name="Classify")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    card(page, "sentiment").get_by_text("negative").first.wait_for()


def test_nothing_jumps_while_the_page_loads(browser: sync_api.Browser, static_address: str) -> None:
    observer = (
        "window.shift = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries()) "
        "if (!entry.hadRecentInput) window.shift += entry.value; }).observe({type: 'layout-shift', buffered: true})"
    )
    with Visiting(browser) as page:
        page.add_init_script(observer)
        page.goto(f"{static_address}?slow=100")
        page.locator("#why .words").wait_for()
        assert page.evaluate("window.shift") < 0.1
