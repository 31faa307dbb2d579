"""The shapes of most charts: grouped bars, stacked bars, dots with intervals, lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, span
from dashboard.charts.style import GREY, bar_style, finish, label, marker, named, whiskers
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits

LETTER = 0.032  # width of a letter on a narrow screen, as a share of the longest bar
GROUP = 0.8  # share of a category's width that is bars

Say = Callable[[float], str]


def grouped(
    categories: Sequence[str],
    values: Mapping[str, Sequence[Estimate | None]],
    *,
    y: str,
    say: Say = digits,
    height: int = 380,
) -> go.Figure:
    """Draw bars from zero, a group per category and a bar per backend, each with its interval and its value.

    Args:
        values: per backend an estimate per category; None leaves the place empty.
    """
    figure = go.Figure()
    width = GROUP / len(values)
    for place, (name, estimates) in enumerate(values.items()):
        # Numbers on the axis, not names: only so can text stand above the whisker of one bar of a group.
        present = [(i, estimate) for i, estimate in enumerate(estimates) if estimate is not None]
        middles = [i + (place - (len(values) - 1) / 2) * width for i, _ in present]
        figure.add_bar(
            name=TITLES[name],
            legendgroup=name,
            x=middles,
            y=[estimate["value"] for _, estimate in present],
            width=width * 0.92,
            error_y=whiskers([estimate for _, estimate in present]),
            marker=bar_style(name),
            customdata=[[label(categories[i]), span(estimate, say)] for i, estimate in present],
            hovertemplate=f"{named(name)}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
        )
        figure.add_scatter(
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
            mode="text",
            x=middles,
            y=[max(estimate["high"], estimate["value"]) for _, estimate in present],
            text=[say(estimate["value"]) for _, estimate in present],
            textposition="top center",
            textfont={"size": 11},
            cliponaxis=False,
        )
    finish(figure, height=height, y=y, legend=True)
    places = list(range(len(categories)))
    ticks = [label(category) for category in categories]
    figure.update_xaxes(tickvals=places, ticktext=ticks, range=[-0.5, len(categories) - 0.5], showgrid=False)
    figure.update_yaxes(rangemode="tozero")
    return figure


def stacked(
    values: Mapping[str, Sequence[tuple[str, float]]],
    *,
    x: str,
    say: Say = digits,
    totals: Mapping[str, str] | None = None,
    intervals: Mapping[str, Estimate] | None = None,
) -> go.Figure:
    """Draw a bar per backend from zero, made of parts; each part is named inside it if there is room.

    Args:
        values: per backend its parts and their lengths, in order.
        totals: the text at the end of each bar; default: the sum.
        intervals: per backend the interval of the whole.
    """
    sums = {name: sum(length for _, length in parts) for name, parts in values.items()}
    words = totals or {name: say(total) for name, total in sums.items()}
    intervals = intervals or {}
    longest = max([*sums.values(), *(interval["high"] for interval in intervals.values())]) or 1.0
    figure = go.Figure()
    for name, parts in values.items():
        for number, (part, length) in enumerate(parts):
            has_room = length / longest > LETTER * (len(part) + 1) and len(parts) > 1
            line = {"color": "rgba(255,255,255,0.8)", "width": 1 if len(parts) > 1 else 0}
            figure.add_bar(
                name=part,
                orientation="h",
                y=[named(name)],
                x=[length],
                base=[sum(before for _, before in parts[:number])],
                marker={"color": RUNTIMES[name].color, "line": line},
                text=label(part) if has_room else "",
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                constraintext="none",
                textfont={"color": RUNTIMES[name].ink, "size": 12},
                hovertemplate=f"{named(name)}, {label(part)}: {say(length)}<extra></extra>",
            )
    for name, total in sums.items():
        interval = intervals.get(name)
        figure.add_scatter(
            x=[max(total, interval["high"]) if interval else total],
            y=[named(name)],
            mode="text",
            text=f"  {words[name]}",
            textposition="middle right",
            hoverinfo="skip",
            cliponaxis=False,
        )
        if interval and interval["high"] > interval["low"]:
            figure.add_scatter(
                x=[interval["value"]],
                y=[named(name)],
                error_x=whiskers([interval]),
                mode="markers",
                hoverinfo="skip",
                marker={"color": GREY, "size": 3},
            )
    finish(figure, height=70 + 52 * len(values), x=x)
    figure.update_layout(barmode="overlay", bargap=0.35, uniformtext={"mode": "hide", "minsize": 11})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    # Room for the text at the ends.
    figure.update_xaxes(range=[0, longest * (1.1 + LETTER * max(map(len, words.values())))])
    return figure


def dots(
    values: Mapping[str, Estimate],
    *,
    x: str,
    say: Say,
    scale: float = 1.0,
    bare: Sequence[str] = (),
    min_reach: float = 0.0,
) -> go.Figure:
    """Draw a dot with its interval per backend, on an axis that covers only the dots.

    Args:
        scale: of the axis relative to the estimates; `say` gets the estimates themselves.
        bare: backends whose interval is not drawn.
        min_reach: the smallest length of the axis, so that a small difference does not look large.
    """
    figure = go.Figure()
    for name, estimate in values.items():
        shown = say(estimate["value"]) if name in bare else span(estimate, say)
        bars = whiskers([None if name in bare else estimate], scale)
        figure.add_scatter(
            x=[estimate["value"] * scale],
            y=[named(name)],
            mode="markers+text",
            error_x=bars | {"color": RUNTIMES[name].color, "thickness": 2},
            marker=marker(name, 13),
            text=say(estimate["value"]),
            textposition="top center",
            hovertemplate=f"{named(name)}: {shown}<extra></extra>",
            cliponaxis=False,
        )
    finish(figure, height=80 + 58 * len(values), x=x)
    figure.update_yaxes(range=[len(values) - 0.5, -0.75])
    bounds = [e[end] for name, e in values.items() for end in (("value",) if name in bare else ("low", "high"))]
    middle = (min(bounds) + max(bounds)) / 2
    reach = max(min_reach, (max(bounds) - min(bounds)) * 1.12) / 2
    figure.update_xaxes(range=[(middle - reach) * scale, (middle + reach) * scale])
    return figure


def lines(
    points: Mapping[str, Sequence[tuple[Any, Estimate]]], *, x: str, y: str, say: Say, height: int = 360
) -> go.Figure:
    """Draw a line per backend through its estimates, each with its interval; the y-axis starts at zero."""
    figure = go.Figure()
    for name, pairs in points.items():
        figure.add_scatter(
            name=TITLES[name],
            x=[label(str(at)) for at, _ in pairs],
            y=[estimate["value"] for _, estimate in pairs],
            error_y=whiskers([estimate for _, estimate in pairs]),
            mode="lines+markers",
            line=line_style(name),
            marker=marker(name, 10),
            customdata=[span(estimate, say) for _, estimate in pairs],
            hovertemplate=f"{named(name)}, %{{x}}: %{{customdata}}<extra></extra>",
        )
    finish(figure, height=height, x=x, y=y, legend=True)
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(type="category", showgrid=False)
    return figure


def line_style(name: str) -> dict[str, Any]:
    """Return the keyword `line`: the backend's colour and dash."""
    return {"color": RUNTIMES[name].color, "dash": RUNTIMES[name].dash, "width": 2.2}
