"""A headless Chromium for the tests of the page, and a visit that notes what the page complains about or asks for.

Modules that import this are skipped if Playwright is not installed. The fixtures `browser` and `visit` are in
conftest.py; a test that uses one of them is skipped if there is no Chromium, and has the marker `browser`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: requirements-dev.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE_MS = 300_000  # a busy machine is no broken page
sync_api.expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[sync_api.Browser]:
    """A browser for as long as the block lasts; the test is skipped if there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        arguments.append("--host-resolver-rules=MAP *.example 127.0.0.1")  # other names of this machine
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


class Visit:
    """A page that is open, and everything it complained about or asked another machine for."""

    def __init__(self, browser: sync_api.Browser, url: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.outside: list[str] = []
        self._asked = 0
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(url)
        self.box = self.page.locator("#text textarea")
        self.box.wait_for()
        for role in ("button", "radio", "tab"):  # each kind of control arrives in a file of its own
            self.page.get_by_role(role).first.wait_for()
        self.page.get_by_role("button", name="Classify").wait_for()

    def _note(self, request: sync_api.Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.outside.append(request.url)

    def ask(self, text: str) -> None:
        self._asked = self.page.evaluate("window.triptychAsked ?? 0")
        self.box.fill(text)
        self.box.press("Enter")

    def answered(self) -> None:
        """Wait until every runtime has answered what was asked last."""
        self.page.wait_for_function(
            """before => {
              const answers = document.querySelector("#side-by-side .triptych:not(.waiting)");
              return answers && !answers.querySelector(".coming") && Number(answers.dataset.asked) > before;
            }""",
            arg=self._asked,
        )

    def cell(self, task: str, backend: str = "int8") -> sync_api.Locator:
        """The answer of a runtime for a task."""
        return self.page.locator(f"#side-by-side td.{backend}[data-task='{task}']")

    def open_settings(self) -> None:
        self.page.get_by_role("button", name="Thresholds and runtime").click()
        self.page.get_by_role("radio", name="PyTorch").first.wait_for()

    def leave(self, link: str, url: str) -> None:
        """Follow a link to another page. That open streams are cut off then is an error of neither page."""
        count = len(self.errors)
        self.page.get_by_role("link", name=link, exact=True).click()
        self.page.wait_for_url(url, wait_until="commit")
        del self.errors[count:]

    def see(self, text: str) -> None:
        # Gradio's tables hold a hidden copy of their first row, to measure it.
        self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
