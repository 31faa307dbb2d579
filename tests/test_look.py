"""Page, dashboard and static page look like one product."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROOT

from ui.look import tokens

THEME = tomllib.loads((ROOT / "dashboard/.streamlit/config.toml").read_text(encoding="utf-8"))["theme"]


@pytest.mark.parametrize(
    ("option", "token"),
    [
        ("primaryColor", "strong"),
        ("backgroundColor", "paper"),
        ("secondaryBackgroundColor", "box"),
        ("textColor", "ink"),
        ("borderColor", "line"),
    ],
)
def test_the_dashboard_has_the_colors_of_the_page(option: str, token: str) -> None:
    light, dark = re.findall(rf"--{token}: light-dark\((\S+), (\S+)\);", tokens())[0]
    assert (THEME["light"][option], THEME["dark"][option]) == (light, dark)


def test_the_dashboard_has_the_corners_and_the_font_of_the_page() -> None:
    assert f"--radius: {THEME['baseRadius']};" in tokens()
    assert f"--sans: {THEME['font']};" in tokens().replace('"', "'")
    assert f"--mono: {THEME['codeFont']};" in tokens()


def test_the_mark_is_the_same_everywhere() -> None:
    drawn = re.findall(r"<rect [^>]*rx", (ROOT / "static/mark.svg").read_text(encoding="utf-8"))
    assert re.findall(r"<rect [^>]*rx", (ROOT / "ui/templates/head.html").read_text(encoding="utf-8")) == drawn
