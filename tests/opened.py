"""The dashboard as Streamlit runs it: a page with some choices, and what it shows."""

from __future__ import annotations

from typing import Any

import made
from conftest import ROOT
from streamlit.testing.v1 import AppTest

from inference import cpu
from inference.compare.receipt import seal


def one(here: bool = True, **changes: Any) -> Any:
    """A receipt of 200 rows on which INT8 breaks one, measured here or on a processor that nobody has."""
    true, base = made.answers(200, 20)
    receipt = made.receipt(true, {"pytorch": base, "onnx": base, "int8": made.flip(base, [true.index(1)])}, **changes)
    if here:
        receipt["machine"] |= {"cpu": cpu.model(), "flags": cpu.int8_flags()}
    return seal(receipt)


def opened(page: str = "overview", **choices: str) -> AppTest:
    """The dashboard on a page, with these choices in the address."""
    test = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300)
    for key, value in choices.items():
        test.query_params[key] = value
    test.run()
    if page != "overview":
        test.switch_page(f"views/{page}.py").run()
    return test


def charts(test: AppTest) -> list[Any]:
    return [element.proto for element in test.get("plotly_chart")]


def words(test: AppTest) -> str:
    """All that the page says in markdown, the sidebar's words left out."""
    kinds = (test.main.markdown, test.main.caption, test.main.header, test.main.warning, test.main.info)
    return "\n".join(element.value for kind in kinds for element in kind)


def html(test: AppTest) -> str:
    """All that the page says in HTML: the box of the verdict."""
    return "".join(element.proto.body for element in test.main.get("html"))
