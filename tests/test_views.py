"""The whole product in a browser: what a first load weighs, and what axe finds on every view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: requirements-dev.txt")

from axe import AXE, findings
from chromium import PATIENCE_MS
from conftest import ROOT
from views import MAX_BYTES, OVERVIEW, PAGE, product, weigh

from inference import InputError
from inference.artifacts.npm import fetch_package

PAGES = ["", "docs", "dashboard/"]
PAGES += [f"dashboard/{path.stem}" for path in sorted((ROOT / "dashboard" / "views").glob("[!_]*.py"))]
SCREENS = {"light": (1366, 650), "dark": (1366, 650), "phone": (390, 844)}
OVERFLOW = """() => Math.max(...[document.documentElement, ...document.querySelectorAll("[data-testid=stMain]")]
  .map(element => element.scrollWidth - element.clientWidth))"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with product() as address:
        yield address


def opened(browser: Any, address: str, screen: str) -> Any:
    """A page with all that it draws."""
    width, height = SCREENS[screen]
    scheme = "dark" if screen == "dark" else "light"
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.locator("[data-testid=stMain] h2" if "/dashboard" in address else "h1").first.wait_for()
    page.wait_for_timeout(2_000)  # the page keeps streams open, so its network is never idle
    page.locator("[data-stale=true], [data-testid=stSkeleton], [data-testid=stSpinner], .coming").first.wait_for(
        state="detached"
    )
    return page


@pytest.mark.parametrize("view", [PAGE, OVERVIEW], ids=["page", "dashboard"])
def test_first_load_is_light(browser: Any, address: str, view: Any) -> None:
    weight = weigh(browser, address, view)
    assert weight["bytes"] < MAX_BYTES
    assert weight["layout_shift"] < 0.1


@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(browser: Any, address: str, screen: str) -> None:
    try:
        fetch_package(AXE)
    except InputError as error:
        pytest.skip(str(error))
    problems_of: dict[str, list[str]] = {}
    for path in PAGES:
        page = opened(browser, address + path, screen)
        if not path:
            page.get_by_role("tab", name="Score a file").wait_for()
        problems = findings(page) + ([f"{wider} px wider"] if (wider := page.evaluate(OVERFLOW)) > 0 else [])
        if not path:  # its second view
            page.get_by_role("tab", name="Score a file").click()
            page.wait_for_timeout(2_000)
            problems += findings(page)
        if problems:
            problems_of[path or "page"] = problems
        page.close()
    assert problems_of == {}
