"""The dashboard in a real browser: texts that differ and why, and every page in one tap on a phone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import made
import pytest
from chromium import PATIENCE_MS, sync_api
from conftest import ROOT, Tiny
from ports import on_a_free_port

from inference.compare.receipt import seal, write_receipt
from inference.formats.bundle import Bundle


@pytest.fixture(scope="module")
def address(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard beside the tiny model, with a measurement of it: INT8 changes one label."""
    folder = tmp_path_factory.mktemp("receipts")
    bundle = Bundle.read(tiny.folder)
    task, spec = next(iter(bundle.tasks.items()))
    true = [0, 1] * 30
    texts = [f"good text {i} <img src=x onerror=alert(1)>" for i in range(60)]
    receipt = made.receipt(
        true, {"onnx": true, "int8": made.flip(true, [3])}, labels=spec.labels, texts=texts, task=task
    )
    receipt["model"]["files"] = dict(bundle.files)
    write_receipt(seal(receipt), folder / "mine.json")
    settings = {"TRIPTYCH_RECEIPTS": folder, "TRIPTYCH_MODEL": tiny.folder, "TRIPTYCH_BASE": tiny.base}
    environment = {
        **os.environ,
        **{name: str(path) for name, path in settings.items()},
        "TRIPTYCH_CACHE": str(tiny.cache),
    }
    arguments = ["run", str(ROOT / "dashboard/main.py"), "--server.headless=true", "--server.address=127.0.0.1"]

    def start(port: int) -> tuple[subprocess.Popen[bytes], str]:
        log = folder / "log"
        with log.open("w") as output:
            command = [sys.executable, "-m", "streamlit", *arguments, f"--server.port={port}"]
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=10):
                    return process, url
            except OSError:
                time.sleep(0.25)
        raise RuntimeError(log.read_text())

    process, url = on_a_free_port(start, "is not available")
    yield url
    process.terminate()
    process.wait(timeout=300)


@pytest.fixture
def phone(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


def test_row_with_another_label_is_shown_in_words_and_explained_on_both_backends(
    address: str, phone: sync_api.Page
) -> None:
    phone.goto(f"{address}/disagreements?receipt=mine")
    card = phone.locator(".disagreement")
    card.get_by_text("good text 3 <img src=x onerror=alert(1)>").wait_for()
    assert card.count() == 1
    assert card.bounding_box()["height"] < 200  # the labels stand beside each other
    phone.get_by_role("button", name="Why").first.click()
    phone.locator(".why.int8 .words").wait_for()
    sides = phone.locator(".why .words").all_inner_texts()
    assert len(sides) == 2
    assert all("good" in side and "onerror" in side for side in sides)
    assert not phone.locator(".why img, .disagreement img").count()
    assert phone.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390


def test_every_page_is_one_tap_away_on_a_phone_and_keeps_the_selection(address: str, phone: sync_api.Page) -> None:
    phone.goto(f"{address}/?receipt=mine&max_drop=1.5")
    # Streamlit keeps in the address what its widgets hold, once they are there: on a phone, in the closed sidebar.
    phone.locator("[data-testid=stSlider]").first.wait_for(state="attached")
    for name in ("Leaderboard", "Latency", "Size", "Accuracy", "Disagreements", "Your data", "Method", "Overview"):
        phone.locator(".st-key-phone_pages").get_by_role("link", name=name, exact=True).click()
        if name != "Overview":
            phone.get_by_role("heading", level=2, name=name).wait_for()
        path = "/" if name == "Overview" else f"/{name.lower().replace(' ', '_')}"
        phone.wait_for_url(lambda url, path=path: urlsplit(url).path == path and "max_drop=1.5" in url)
        assert phone.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390


def test_leaderboard_is_cards_in_a_scroll_area_of_their_own_on_a_phone(address: str, phone: sync_api.Page) -> None:
    phone.goto(f"{address}/leaderboard?receipt=mine")
    cards = phone.get_by_role("region", name="All measurements")
    cards.wait_for()
    assert "INT8" in cards.inner_text() and "Accuracy" in cards.inner_text()
    assert cards.get_attribute("tabindex") == "0"
    assert cards.evaluate("e => e.scrollWidth <= e.clientWidth && e.clientHeight <= 420")
    assert not phone.locator("[data-testid=stDataFrame]").first.is_visible()
    phone.set_viewport_size({"width": 1200, "height": 844})
    phone.locator("[data-testid=stDataFrame]").first.wait_for()
    assert not cards.is_visible()


def test_address_of_a_page_is_opened_without_an_error_in_the_console(address: str, phone: sync_api.Page) -> None:
    errors: list[str] = []
    phone.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    phone.goto(f"{address}/method?receipt=mine")
    phone.get_by_role("heading", level=2, name="Method").wait_for()
    assert urlsplit(phone.url).path == "/method"
    assert errors == []


@pytest.mark.slow
def test_own_rows_are_measured_and_found_again_after_a_reload(address: str, phone: sync_api.Page) -> None:
    lines = [f"it was {word} {i},{label}" for i in range(50) for word, label in (("bad", "down"), ("fine", "up"))]
    phone.goto(f"{address}/your_data")
    content = "\n".join(["text,mood", *lines]).encode()
    phone.locator("input[type=file]").set_input_files({"name": "mine.csv", "mimeType": "text/csv", "buffer": content})
    phone.get_by_text("100 rows labelled for mood").wait_for()
    phone.get_by_role("button", name="Measure", exact=True).click()
    phone.get_by_role("button", name="Cancel").wait_for()
    assert 0 < phone.get_by_role("progressbar").first.bounding_box()["y"] < 844
    phone.reload()
    verdict = phone.get_by_role("heading", name="The verdict")
    verdict.wait_for()
    assert 0 < verdict.bounding_box()["y"] < 844
    assert "job=" not in phone.url
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.locator("[data-testid=stMain]").get_by_role("link", name="Disagreements").last.click()
    phone.get_by_role("heading", name="Disagreements").wait_for()
    assert phone.locator(".stException").count() == 0
