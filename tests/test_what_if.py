"""What follows from an answer: the pinned text, words that are dropped, links, code to copy, and corrections."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fakes
import pytest
from chromium import Visit, sync_api
from conftest import ROOT
from fastapi import FastAPI
from test_app import HOSTILE, IMAGE, SCRIPT, models
from test_pairs import of_pairs
from threads import running

from inference.api import create_app
from inference.api.front import Access
from inference.compare.rows import read_data
from inference.formats.bundle import Task
from inference.loading import Models
from inference.tables.reading import open_table, read_columns
from training.sources import Request, read_sources
from ui import render
from ui.files import temporary_files
from ui.page import build
from ui.site import CONTENT, mount_page
from ui.what_if import Api, WhatIf, changes

# Everything that a shell, a language or a reader could take for something else.
TRICKY = "it's \"a\" \\ \\n $HOME `id` !x %PATH% {a} é 😀 \u202eabc\u2028\t\n-- @x ${b} '' \\' \U000e0041"


@contextmanager
def served(given: Models, key: str | None = None) -> Iterator[str]:
    """The address of the page with the API beside it."""
    with temporary_files() as files:
        site = FastAPI(openapi_url=None)
        api = create_app(given, prefix="", backend="int8", api_key=key)
        site.mount("/api", api)
        requests_to = Api("api/predict", has_key=api.state.has_key, is_gradio=False)
        page = mount_page(site, build(given, api=requests_to), files)
        access = Access(frame_ancestors="'self'", content=CONTENT)
        with running(site, access, page.stop_event.set) as address:
            yield address
        api.state.service.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(models(int8=2.0)) as url:
        yield url


# --- The comparison


def compared(before: str, now: str, given: Models) -> str:
    answers = given.compare(now, None)
    what_if = WhatIf.__new__(WhatIf)
    what_if._models = given
    return what_if._compared(now, [before], answers, {}, lambda: True)


def test_comparison_shows_what_moved_and_which_labels_changed() -> None:
    html = compared("good", "bad", models())
    assert html.count("was positive") == 3  # on every runtime
    assert "Δ +0.7616" in html
    assert html.count("nothing changed") == 3  # emotion
    assert "The text is the pinned one" in compared("good", "good", models())
    assert compared("", "good", models()) == ""


def test_task_of_many_labels_shows_those_that_moved_most_and_counts_the_rest() -> None:
    tasks = {"topic": Task(tuple(f"label{i}" for i in range(20)), fakes.SINGLE, 0.1)}
    given = models(tasks=tasks)
    earlier, now = (given.compare(text, None) for text in ("good", "bad good"))
    (before,), (after,) = earlier["int8"].predictions["topic"], now["int8"].predictions["topic"]  # type: ignore[union-attr]
    after.scores.update({"label3": 0.9, "label7": 0.8})  # type: ignore[attr-defined]
    (change,) = changes(given.bundle, {"int8": earlier["int8"]}, {"int8": now["int8"]})  # type: ignore[dict-item]
    assert change.labels[:2] == ["label3", "label7"]
    assert before.label in change.labels
    assert len(change.labels) + change.rest == 20


@pytest.mark.parametrize(
    ("limits", "threshold", "is_exact"),
    [
        ({}, None, True),
        ({"emotion": 0.9}, None, False),
        ({"emotion": 0.9, "sentiment": 0.9}, 0.9, True),
        ({"emotion": 0.9, "sentiment": 0.8}, None, False),
    ],
)
def test_copied_request_has_the_threshold_that_all_tasks_share(
    limits: dict[str, float], threshold: float | None, is_exact: bool
) -> None:
    given = models()
    what_if = WhatIf.__new__(WhatIf)
    what_if._models, what_if._shown, what_if._result = given, "shown", "result"  # type: ignore[assignment]
    html = what_if.show("good", [""], given.compare("good", None), "int8", limits, 1, lambda: True)["shown"]  # type: ignore[arg-type, index]
    shown = json.loads(unescape(html.split('data-shown="')[1].split('"')[0]))
    assert (shown["threshold"], shown["isExact"]) == (threshold, is_exact)


def test_labels_cannot_break_out_of_the_comparison_or_of_what_the_browser_reads() -> None:
    given = models(tasks=HOSTILE)
    html = compared("good", f"{SCRIPT} bad", given)
    html += render.fill("shown", shown=json.dumps({"text": IMAGE + '"'}))
    assert "<script" not in html
    assert "<img" not in html


# --- The words of an explanation


def test_click_on_a_word_drops_it_and_the_pinned_text_is_one_click_away(visit: Visit) -> None:
    visit.ask("good film, bad")
    visit.page.locator("#why .words[data-text='good film, bad'] [data-at]").get_by_text("good").click()
    sync_api.expect(visit.box).to_have_value("film, bad")
    changed = visit.page.locator("#changes table")
    changed.get_by_text("was positive").first.wait_for()
    assert "good film, bad" in visit.page.locator("#pinned").inner_text()
    visit.page.get_by_role("button", name="Back to it").click()
    sync_api.expect(visit.box).to_have_value("good film, bad")
    visit.see("The text is the pinned one")
    visit.page.get_by_role("button", name="Unpin").click()
    sync_api.expect(visit.page.locator("#pinned .pinned")).to_be_hidden()


def test_words_of_the_text_before_cannot_be_dropped_while_a_newer_one_is_asked(visit: Visit) -> None:
    visit.ask("good film")
    words = visit.page.locator("#why .words[data-text='good film']")
    words.wait_for()
    for is_waiting, text in ((True, "good film"), (False, "film")):
        words.evaluate("(words, on) => words.closest('.why').classList.toggle('waiting', on)", is_waiting)
        words.get_by_text("good").dispatch_event("click")
        assert visit.box.input_value() == text


def test_the_keys_alone_reach_a_word_drop_it_and_replace_it(visit: Visit) -> None:
    visit.ask("good 😀 film bad")
    visit.page.locator("#why .words").get_by_text("film").wait_for()
    assert visit.page.locator("#why .words [tabindex='0']").count() == 1
    visit.page.locator("#why .words [tabindex='0']").focus()
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight"):
        visit.page.keyboard.press(key)
    visit.page.keyboard.press("Enter")
    sync_api.expect(visit.box).to_have_value("good 😀 film ")
    visit.page.keyboard.type("glad")  # the focus is where a word can be put in its place
    visit.page.keyboard.press("Enter")
    sync_api.expect(visit.box).to_have_value("good 😀 film glad")
    visit.page.locator("#why .words").get_by_text("glad").wait_for()


def test_a_pinned_text_stays_beside_every_text_that_is_asked(visit: Visit) -> None:
    visit.ask("good")
    visit.page.locator("#why .words").get_by_text("good").wait_for()
    visit.page.get_by_role("button", name="Pin this text").click()
    visit.ask("bad")
    visit.page.locator("#changes").get_by_text("was positive").first.wait_for()
    visit.ask("glad bad bad")
    visit.page.locator("#changes").get_by_text("sadness").first.wait_for()


# --- Code


class Echo(BaseHTTPRequestHandler):
    """Answers with the body and the headers that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(json.dumps({"body": json.loads(body), "key": self.headers["Authorization"]}).encode())

    def do_OPTIONS(self) -> None:
        self.send_response(204)
        for name in ("Origin", "Headers"):
            self.send_header(f"Access-Control-Allow-{name}", "*" if name == "Origin" else "content-type,authorization")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/it's/api/predict"
    server.shutdown()
    thread.join()
    server.server_close()


SHARE = base64.b64encode((ROOT / "ui" / "share.js").read_bytes()).decode()
WRITTEN = f"""async ([how, asked, to]) => (await import("data:text/javascript;base64,{SHARE}"))[how](asked, to)"""


def printed(page: sync_api.Page, how: str, code: str) -> Any:
    """What this code prints: a JSON object."""
    if how == "asJavaScript":
        with page.expect_console_message() as message:
            page.evaluate(code)
        return message.value.args[0].json_value()
    curl = [shutil.which("bash") or "sh", "-c", code]
    command = curl if how == "asCurl" else [sys.executable, "-I", "-c", code]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


@pytest.mark.parametrize("how", ["asCurl", "asPython", "asJavaScript"])
@pytest.mark.parametrize("text", [TRICKY, ["first 'a'", TRICKY], "😀" * 20_000])
def test_copied_code_sends_the_very_text_whatever_signs_are_in_it(
    browser: sync_api.Browser, echo: str, how: str, text: Any
) -> None:
    if how == "asCurl" and not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    page = browser.new_page()
    asked = {"text": text, "backend": "int8", "threshold": 0.25}
    code = page.evaluate(WRITTEN, [how, asked, {"url": echo, "hasKey": True, "isGradio": False}])
    assert not any(sign in code for sign in "\u202e\u2028\U000e0041")  # nothing that hides or turns what is pasted
    sent = printed(page, how, code)
    assert sent == {"body": asked | {"return_scores": True}, "key": "Bearer YOUR_API_KEY"}
    page.close()


def copied(visit: Visit, name: str) -> str:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_role("button", name=name, exact=True).click()
    visit.page.locator(".share .done").get_by_text("opied").wait_for()
    return str(visit.page.evaluate("navigator.clipboard.readText()"))


def test_copied_code_gives_the_answer_that_is_shown(visit: Visit, address: str) -> None:
    visit.ask("good film 'n $HOME")
    visit.page.locator("#why .words").get_by_text("film").wait_for()
    for name, how in (("curl", "asCurl"), ("Python", "asPython"), ("JavaScript", "asJavaScript")):
        if name != "curl" or shutil.which("curl"):
            answer = printed(visit.page, how, copied(visit, name))
            assert answer["predictions"]["sentiment"]["label"] == "positive"
            assert answer["predictions"]["emotion"]["label"] == "neutral"  # INT8's: PyTorch says joy
            assert answer["backend"] == "int8"
    link = copied(visit, "Copy link")
    assert parse_qs(urlsplit(link).query)["text"] == ["good film 'n $HOME"]
    assert link.startswith(f"{address}/?")


def test_where_no_api_is_served_the_code_asks_the_page_itself(browser: sync_api.Browser) -> None:
    from test_app import served as page_alone

    with page_alone(models(int8=2.0)) as url:
        visit = Visit(browser, url)
        visit.ask('it\'s good \\ "film"')
        visit.page.locator("#why .words").get_by_text("film").wait_for()
        if shutil.which("curl"):
            stream = subprocess.run(
                ["bash", "-c", copied(visit, "curl")], capture_output=True, text=True, check=True, timeout=300
            ).stdout
            (answer,) = json.loads(stream.partition("event: complete\ndata: ")[2])
            assert answer["predictions"]["emotion"]["label"] == "neutral"
        code = copied(visit, "Python").replace("print(", "import json; print(json.dumps(", 1)[:-1] + ")"
        answer = printed(visit.page, "asPython", code.replace("Client(", "Client(verbose=False, src="))
        assert answer["predictions"]["emotion"]["label"] == "neutral"
        with visit.page.expect_console_message() as message:
            visit.page.evaluate(copied(visit, "JavaScript"))
        assert '"label": "neutral"' in message.value.text
        visit.page.close()


def test_a_required_key_is_left_to_be_filled_in(browser: sync_api.Browser) -> None:
    with served(models(), key="secret-key") as url:
        visit = Visit(browser, url)
        visit.ask("good film")
        visit.page.locator("#why .words").get_by_text("film").wait_for()
        for name in ("curl", "Python", "JavaScript"):
            code = copied(visit, name)
            assert "YOUR_API_KEY" in code
        assert "secret-key" not in visit.page.content()
        visit.page.close()


# --- Corrections


def correct(visit: Visit, task: str, label: str) -> None:
    form = visit.page.locator("#correction")
    if form.is_hidden():
        visit.page.get_by_role("button", name="Wrong?").click()
    form.locator("[name=task]").select_option(task)
    form.locator("[name=label]").select_option(label)
    form.get_by_role("button", name="Record").click()
    visit.see(f"Recorded: the right {task} is “{label}”.")


def test_corrections_are_a_file_that_compare_and_training_read(visit: Visit, tmp_path: Path) -> None:
    texts = ["=good()", " '@bad", "'-bad", "- good, \"glad\"\nbad; 'x'", "good 😀"] + [f"good {i}" for i in range(20)]
    for text in texts[:5]:
        visit.ask(text)
        visit.page.wait_for_function(
            "text => JSON.parse(document.querySelector('[data-shown]')?.dataset.shown ?? 'null')?.text === text",
            arg=text,
        )
        correct(visit, "sentiment", "negative")
        correct(visit, "sentiment", "positive")  # instead
    correct(visit, "emotion", "sadness")
    with visit.page.expect_download() as event:
        visit.page.get_by_role("button", name="Download CSV").click()
    file = tmp_path / "corrections.csv"
    event.value.save_as(file)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.reader(lines))
    assert not any(cell.strip()[:1] in tuple("=+-@") for row in rows for cell in row if cell)
    table = open_table(file)
    assert read_columns(table, ["text", "emotion"]) == {"text": texts[:5], "emotion": [*[""] * 4, "sadness"]}
    assert read_columns(table, ["sentiment", "sentiment by int8"])["sentiment"] == ["positive"] * 5

    with file.open("a", encoding="utf-8", newline="") as lines:  # `compare` needs 20 rows
        csv.writer(lines).writerows([text, "positive"] for text in texts[5:])
    labelled = read_data(file, fakes.TASKS)
    assert labelled.texts == texts
    assert labelled.labels == {"sentiment": [1] * 25}
    sources, _ = read_sources(Request(str(file), label_columns=("sentiment", "emotion"), validation_share=0.0))
    assert sources["sentiment"].train.texts == texts
    assert sources["emotion"].train.texts == [texts[4]]


def test_corrections_are_kept_in_the_tab_and_can_be_removed(visit: Visit) -> None:
    asked = []
    visit.page.on("request", lambda request: asked.append(request.post_data or ""))
    visit.ask("good film")
    visit.page.locator("#why .words").get_by_text("film").wait_for()
    visit.page.get_by_role("button", name="Wrong?").click()
    visit.page.get_by_role("button", name="Record").click()
    visit.see("Choose the right label first")
    asked.clear()
    correct(visit, "sentiment", "negative")
    assert asked == []  # nothing leaves the browser
    visit.page.reload()
    visit.page.locator("#why .words").wait_for()
    visit.page.get_by_role("button", name="Wrong?").click()
    visit.see("1 corrected text")
    visit.page.get_by_role("button", name="Remove all").click()
    visit.page.get_by_role("button", name="Click again to remove them").click()
    sync_api.expect(visit.page.locator("#correction .kept")).to_be_hidden()


def test_both_texts_of_a_pair_are_pinned_linked_and_corrected(browser: sync_api.Browser, tmp_path: Path) -> None:
    given = of_pairs()
    with served(Models(given.bundle, lambda name: of_pairs())) as url:
        visit = Visit(browser, f"{url}/?text=good&second=bad%20film")
        second = visit.page.get_by_role("textbox", name="Second text")
        visit.page.locator("#why .words[data-text='bad film'] [data-at]").last.click()
        visit.page.wait_for_function("document.querySelector('#second textarea').value === 'bad '")
        assert "good / bad film" in visit.page.locator("#pinned").inner_text()
        visit.page.locator("#changes table").wait_for()
        visit.page.get_by_role("button", name="Back to it").click()
        visit.page.locator("[data-shown*='bad film']").wait_for(state="attached")
        assert (visit.box.input_value(), second.input_value()) == ("good", "bad film")
        visit.page.get_by_role("button", name="Wrong?").click()
        visit.page.locator("#correction [name=label]").select_option(index=1)
        visit.page.get_by_role("button", name="Record").click()
        with visit.page.expect_download() as event:
            visit.page.get_by_role("button", name="Download CSV").click()
        event.value.save_as(tmp_path / "corrections.csv")
        table = open_table(tmp_path / "corrections.csv")
        assert read_columns(table, ["text", "text_pair"]) == {"text": ["good"], "text_pair": ["bad film"]}
        assert visit.errors == []
        visit.page.close()


def test_cells_of_other_files_keep_their_apostrophes(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,formula_escaped\n'=1,\n'quoted' words,yes\n'=2,yes\n''=3,yes\n", encoding="utf-8")
    table = open_table(file)
    assert read_columns(table, ["text"])["text"] == ["'=1", "'quoted' words", "=2", "'=3"]
    assert any("without the '" in remark for remark in table.remarks)
