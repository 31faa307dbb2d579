"""Head and look are in the HTML that Streamlit and Gradio serve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import streamlit as st
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.testclient import TestClient
from test_app import models

from dashboard.frame import EARLY, PAGES, framed
from inference.api.html import CompletedPages
from ui.files import temporary_files
from ui.page import build
from ui.site import mount_page

STREAMLIT = Path(st.__file__).parent / "static" / "index.html"


def test_streamlits_page_gets_the_head_before_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_PAGE_URL", raising=False)
    monkeypatch.delenv("TRIPTYCH_DOCS_URL", raising=False)
    given = STREAMLIT.read_text(encoding="utf-8")
    html = framed(given)
    assert 0 < html.index("--paper:") < html.index('<nav class="head"') < html.index('<div id="root">')
    assert "<title>Triptych: compare</title>" in html
    assert given.count('as="font"') == 1
    assert 'as="font"' not in html
    assert 'class="places"' not in html  # alone, there is nowhere to go
    early = re.findall(r'modulepreload" crossorigin href="\./static/js/([\w.-]+)"', html)
    assert all((STREAMLIT.parent / "static" / "js" / name).is_file() for name in early)
    assert {name.rsplit(".", 2)[0] for name in early} >= set(EARLY)


def test_dashboard_links_to_page_and_documentation_where_they_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PAGE_URL", "../?a=1&b=2")
    monkeypatch.setenv("TRIPTYCH_DOCS_URL", "../docs")
    html = framed(STREAMLIT.read_text(encoding="utf-8"))
    assert '<a href="../?a=1&amp;b=2" target="_self">Try</a>' in html
    assert '<a href="../docs" target="_self">Docs</a>' in html


@pytest.mark.parametrize("path", ["/", "/latency", "/behind/a/prefix/"])
def test_pages_of_the_dashboard_are_completed(path: str) -> None:
    assert PAGES.fullmatch(path)


@pytest.mark.parametrize(
    "path", ["/media/report.html", "/static/js/index.abc.js", "/_stcore/health", "/a/_stcore/health"]
)
def test_files_and_streams_are_left_alone(path: str) -> None:
    assert not PAGES.fullmatch(path)


def test_completed_page_is_whole_and_is_never_taken_for_the_librarys_file(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>old</p>", encoding="utf-8")
    app = FastAPI()
    app.get("/")(lambda: FileResponse(tmp_path / "page.html"))
    app.get("/data")(lambda: {"p": "old"})
    app.add_middleware(GZipMiddleware, minimum_size=1)
    client = TestClient(CompletedPages(app, re.compile("/|/data"), lambda page: page.replace("old", "new and longer")))
    first = client.get("/")
    assert first.text == "<p>new and longer</p>"
    assert "etag" not in first.headers
    again = client.get("/", headers={"If-None-Match": "*", "Range": "bytes=0-3"})
    assert (again.status_code, again.text) == (200, first.text)
    assert client.get("/data").json() == {"p": "old"}


def test_gradios_page_gets_the_head_before_the_app() -> None:
    site = FastAPI()
    with temporary_files() as files:
        mount_page(site, build(models()), files, {"Try": "./", "Compare": "dashboard/"})
        html = TestClient(site).get("/").text
    assert 0 < html.index('<nav class="head"') < html.index("<gradio-app")
    assert html.count("<h1>") == 1
    assert '<a href="dashboard/" target="_self">Compare</a>' in html
