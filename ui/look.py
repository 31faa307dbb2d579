"""The look that the pages share: `tokens.css`, `look.css`, and the colours of the runtimes."""

from __future__ import annotations

from pathlib import Path

from inference.backends import RUNTIMES

SCRIPTS = ("csv.js", "corrections.js")  # of the page and of the static page


def tokens() -> str:
    """Return the design tokens, the colour of each runtime among them."""
    colors = " ".join(f"--{name}: {runtime.color};" for name, runtime in RUNTIMES.items())
    return f"{read('tokens.css')}:root {{ {colors} }}\n"


def look() -> str:
    """Return the rules for answers and explanations, and a class for each runtime."""
    return read("look.css") + "".join(f".{name} {{ --runtime: var(--{name}); }}\n" for name in RUNTIMES)


def read(name: str) -> str:
    """Return a file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
