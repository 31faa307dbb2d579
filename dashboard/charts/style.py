"""What every chart has in common: colours, a second cue for each, transparent backgrounds, a title and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from inference.backends import RUNTIMES, TITLES

GREY = "#808080"  # 3.9:1 on white, 4.6:1 on the dark background: for lines that belong to no backend
FAINT = "rgba(128,128,128,0.25)"

Cell = str | float | int | None
Rows = list[dict[str, Cell]]


@dataclass(frozen=True)
class Chart:
    """A figure with its title, alt text, table and note. All texts are plain.

    Attributes:
        takeaway: the title: one true sentence, computed from the same numbers.
        alt: describes the figure to people who do not see it.
        table: the numbers behind it, a mapping per line; units are in the column names.
        note: what the reader must know at first sight, such as what is missing and why; may be "".
        details: how it was computed and how to read it, shown on request; may be "".
    """

    figure: go.Figure
    takeaway: str
    alt: str
    table: Rows
    note: str = ""
    details: str = ""


def label(text: str) -> str:
    """Escape a text from outside for plotly, which reads a subset of HTML in every label."""
    return escape(text, quote=False)


def short(text: str, max_letters: int) -> str:
    """Cut a text that is longer than so many letters."""
    return text if len(text) <= max_letters else text[: max_letters - 1] + "…"


def log_axis(figure: go.Figure, low: float, high: float) -> None:
    """Make the x-axis logarithmic from `low` to `high`, with ticks at 1, 2 and 5 times powers of ten."""
    ticks = [mantissa * 10.0**power for power in range(-4, 7) for mantissa in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    figure.update_xaxes(
        type="log", range=[log10(low), log10(high)], tickvals=ticks, ticktext=[f"{tick:,.10g}" for tick in ticks]
    )


def limit(figure: go.Figure, text: str, *, x: float | None = None, y: float | None = None) -> None:
    """Draw a dashed line at the reader's limit, if there is one."""
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    words = {"text": text, "font": {"size": 11}}
    if y is not None:
        figure.add_hline(y=y, line=line, annotation=words, annotation_position="top right")
    if x is not None:
        figure.add_vline(x=x, line=line, annotation=words, annotation_position="top right")


def named(backend: str) -> str:
    """Return the backend's shape and name, for axes and labels; a legend has the shape already."""
    return f"{RUNTIMES[backend].glyph} {TITLES[backend]}"


def marker(backend: str, size: float) -> dict[str, Any]:
    """Return the keyword `marker` of a scatter: the backend's colour and shape."""
    return {"color": RUNTIMES[backend].color, "symbol": RUNTIMES[backend].marker, "size": size}


def bar_style(backend: str) -> dict[str, Any]:
    """Return the keyword `marker` of a bar: the backend's colour and hatching."""
    return {
        "color": RUNTIMES[backend].color,
        "pattern": {
            "shape": RUNTIMES[backend].hatching,
            "fillmode": "overlay",
            "fgcolor": "rgba(255,255,255,0.6)",
            "size": 7,
            "solidity": 0.25,
        },
        "line": {"width": 0},
    }


def whiskers(estimates: Sequence[Mapping[str, float] | None], scale: float = 1.0) -> dict[str, Any]:
    """Return the keyword `error_x` or `error_y`: the interval of each estimate; nothing for None."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [(e["high"] - e["value"]) * scale if e else 0 for e in estimates],
        "arrayminus": [(e["value"] - e["low"]) * scale if e else 0 for e in estimates],
        "color": GREY,
        "thickness": 1.6,
        "width": 5,
    }


def finish(figure: go.Figure, *, height: int = 360, x: str = "", y: str = "", legend: bool = False) -> go.Figure:
    """Apply the common layout and return the same figure. `x` and `y` are axis titles with units."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 16, "t": 40 if legend else 12, "b": 8, "pad": 2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
        barmode="group",
        bargap=0.3,
        bargroupgap=0.08,
        hoverlabel={"namelength": -1},
        dragmode=False,
    )
    figure.update_xaxes(title_text=x, title_standoff=8, automargin=True, gridcolor=FAINT, zerolinecolor=FAINT)
    figure.update_yaxes(title_text=y, title_standoff=8, automargin=True, gridcolor=FAINT, zerolinecolor=FAINT)
    return figure
