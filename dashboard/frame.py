"""Put the head and the look of Triptych into the HTML that Streamlit serves."""

from __future__ import annotations

import os
import re
from pathlib import Path

import streamlit as st
from markupsafe import Markup

from dashboard.templating import asset, render
from ui.look import look, tokens
from ui.render import head

PAGES = re.compile(r"(/(?!_stcore/)[\w-]+)*/?", re.ASCII)  # a file has a dot in its name
ROOT = '<div id="root"></div>'
FONT = re.compile(r'<link\s+rel="preload"[^>]*\bas="font"[^>]*>')  # 170 kB that no page of ours uses
# Streamlit fetches these when a script has drawn what needs them. Then everything below moves down.
EARLY = ("Html", "purify.es", "PageLink", "Selectbox", "Slider", "NumberInput", "Checkbox")


def framed(page: str) -> str:
    """Return Streamlit's page with title, look and head."""
    scripts = Path(st.__file__).parent / "static" / "static" / "js"
    early = [path.name for name in EARLY for path in scripts.glob(f"{name}.*.js")]
    style = Markup(tokens() + look()) + asset("overview.css")
    frame = render("frame.html", look=style, head=Markup(head("Compare", _links(), "h1")), early=early)
    page = FONT.sub("", page).replace("<title>Streamlit</title>", "<title>Triptych: compare</title>")
    return page.replace(ROOT, frame + ROOT)


def _links() -> dict[str, str]:
    """Return the places to go; a dashboard that runs alone has no others."""
    page, docs = os.environ.get("TRIPTYCH_PAGE_URL"), os.environ.get("TRIPTYCH_DOCS_URL")
    return ({"Try": page} if page else {}) | {"Compare": "./"} | ({"Docs": docs} if docs else {})
