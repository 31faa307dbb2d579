"""HTML from the files in templates/. Values are escaped unless they are `Markup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from inference.backends import RUNTIMES
from inference.calls.formatting import confidence, digits, fixed, percent
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP

TEMPLATES = Path(__file__).with_name("templates")
# A word, a sign and a colour, so that readers who miss one have the others. Readable on both backgrounds.
DECISIONS = {SHIP: ("✔", "#009E73"), NO: ("✘", "#D5480B"), INCONCLUSIVE: ("?", "#B97A00")}


def render(template: str, **values: Any) -> str:
    """Fill in a template. Every template has the names, colours and marks of runtimes and decisions."""
    return _environment.get_template(template).render(values)


def asset(name: str) -> Markup:
    """Return a style sheet or script of templates/ as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _figure(value: Any) -> str:
    return "" if value is None else digits(value, 4) if isinstance(value, float) else str(value)


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters |= {"confidence": confidence, "signed": lambda value: fixed(value, 2, "+")}
_environment.filters |= {"figure": _figure, "percent": lambda share: percent(share, 0)}
_environment.globals |= {"runtimes": RUNTIMES, "decisions": DECISIONS}
