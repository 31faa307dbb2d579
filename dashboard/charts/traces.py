"""The few shapes that most charts are: bars side by side, bars in parts, dots with intervals, lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, digits
from dashboard.charts.style import GREY, bar_style, finish, label, named, whiskers
from inference.backends import RUNTIMES, TITLES

# Readable on the backend's colour: at least 4.5:1.
LETTER = 0.032  # of the longest bar is taken by a letter, on a narrow screen
GROUP = 0.8  # of a category's width is bars

Say = Callable[[float], str]


def told(one: Estimate, say: Say) -> str:
    """A figure with its interval, if it has one."""
    return say(one["value"]) + (f" ({say(one['low'])} to {say(one['high'])})" if one["high"] > one["low"] else "")


def grouped(
    categories: Sequence[str],
    values: Mapping[str, Sequence[Estimate | None]],
    *,
    y: str,
    x: str = "",
    say: Say = digits,
    height: int = 380,
) -> go.Figure:
    """Bars from zero, a group per category and a bar per backend, each with its interval and its value in words.

    Args:
        values: per backend an estimate per category; None leaves the place empty.
    """
    figure = go.Figure()
    width = GROUP / len(values)
    for place, (name, estimates) in enumerate(values.items()):
        # Numbers and not names on the axis: only so can a word stand above the whisker of one bar of a group.
        kept = [(i, one) for i, one in enumerate(estimates) if one is not None]
        middles = [i + (place - (len(values) - 1) / 2) * width for i, _ in kept]
        figure.add_bar(
            name=TITLES[name],
            legendgroup=name,
            x=middles,
            y=[one["value"] for _, one in kept],
            width=width * 0.92,
            error_y=whiskers([one for _, one in kept]),
            marker=bar_style(name),
            customdata=[[label(categories[i]), told(one, say)] for i, one in kept],
            hovertemplate=f"{named(name)}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
        )
        figure.add_scatter(
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
            mode="text",
            x=middles,
            y=[max(one["high"], one["value"]) for _, one in kept],
            text=[say(one["value"]) for _, one in kept],
            textposition="top center",
            textfont={"size": 11},
            cliponaxis=False,
        )
    finish(figure, height=height, x=x, y=y, legend=True)
    figure.update_xaxes(
        tickvals=list(range(len(categories))),
        ticktext=[label(one) for one in categories],
        range=[-0.5, len(categories) - 0.5],
        showgrid=False,
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def stacked(
    values: Mapping[str, Sequence[tuple[str, float]]],
    *,
    x: str,
    say: Say = digits,
    totals: Mapping[str, str] | None = None,
    ends: Mapping[str, Estimate] | None = None,
) -> go.Figure:
    """A bar per backend from zero, made of parts; each part's name is in it where there is room.

    Args:
        values: per backend its parts and their lengths, in order.
        totals: what stands at the end of each bar; the sum if left out.
        ends: per backend the interval of the whole.
    """
    reach = [one["high"] for one in (ends or {}).values()]
    longest = max([*(sum(length for _, length in parts) for parts in values.values()), *reach]) or 1.0
    words = {name: (totals or {}).get(name) or say(sum(one for _, one in parts)) for name, parts in values.items()}
    figure = go.Figure()
    for number in range(max(map(len, values.values()))):
        for name, parts in values.items():
            if number >= len(parts):
                continue
            part, length = parts[number]
            figure.add_bar(
                name=part,
                orientation="h",
                y=[named(name)],
                x=[length],
                base=[sum(one for _, one in parts[:number])],
                marker={
                    "color": RUNTIMES[name].color,
                    "line": {"color": "rgba(255,255,255,0.8)", "width": 1 if len(parts) > 1 else 0},
                },
                text=label(part) if length / longest > LETTER * (len(part) + 1) and len(parts) > 1 else "",
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                constraintext="none",
                textfont={"color": RUNTIMES[name].ink, "size": 12},
                hovertemplate=f"{named(name)}, {label(part)}: {say(length)}<extra></extra>",
            )
    for name, parts in values.items():
        total = sum(length for _, length in parts)
        end = (ends or {}).get(name)
        figure.add_scatter(
            x=[max(total, end["high"]) if end else total],
            y=[named(name)],
            mode="text",
            text=f"  {words[name]}",
            textposition="middle right",
            hoverinfo="skip",
            cliponaxis=False,
        )
        if end and end["high"] > end["low"]:
            figure.add_scatter(
                x=[end["value"]], y=[named(name)], error_x=whiskers([end]), mode="markers", hoverinfo="skip", opacity=1,
                marker={"color": GREY, "size": 3},
            )  # fmt: skip
    finish(figure, height=70 + 52 * len(values), x=x)
    figure.update_layout(barmode="overlay", bargap=0.35, uniformtext={"mode": "hide", "minsize": 11})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    # Room at the right for the words at the ends.
    figure.update_xaxes(range=[0, longest * (1.1 + LETTER * max(map(len, words.values())))])
    return figure


def dots(
    values: Mapping[str, tuple[str, Estimate]],
    *,
    x: str,
    say: Say,
    scale: float = 1.0,
    bare: Sequence[str] = (),
    least: float = 0.0,
) -> go.Figure:
    """A dot with its interval per line, on an axis that shows only where the dots are.

    Args:
        values: per line of the chart its backend and the estimate.
        scale: of the axis against the estimate; `say` gets the estimate as it is.
        bare: lines whose interval is not drawn.
        least: how much the axis spans at least, so that a small difference does not look large for want of others.
    """
    figure = go.Figure()
    for line, (name, one) in values.items():
        figure.add_scatter(
            x=[one["value"] * scale],
            y=[line],
            mode="markers+text",
            error_x=whiskers([None if line in bare else one], scale) | {"color": RUNTIMES[name].color, "thickness": 2},
            marker={"color": RUNTIMES[name].color, "symbol": RUNTIMES[name].marker, "size": 13},
            text=say(one["value"]),
            textposition="top center",
            hovertemplate=f"{line}: {say(one['value']) if line in bare else told(one, say)}<extra></extra>",
            cliponaxis=False,
        )
    finish(figure, height=80 + 58 * len(values), x=x)
    figure.update_yaxes(range=[len(values) - 0.5, -0.75])
    ends = [one[end] for line, (_, one) in values.items() for end in (("value",) if line in bare else ("low", "high"))]
    middle, reach = (min(ends) + max(ends)) / 2, max(least, (max(ends) - min(ends)) * 1.12) / 2
    figure.update_xaxes(range=[(middle - reach) * scale, (middle + reach) * scale])
    return figure


def lines(
    points: Mapping[str, Sequence[tuple[Any, Estimate]]], *, x: str, y: str, say: Say, height: int = 360
) -> go.Figure:
    """A line per backend through its estimates, each with its interval; the axis of `y` starts at zero."""
    figure = go.Figure()
    for name, pairs in points.items():
        figure.add_scatter(
            name=TITLES[name],
            x=[label(str(at)) for at, _ in pairs],
            y=[one["value"] for _, one in pairs],
            error_y=whiskers([one for _, one in pairs]),
            mode="lines+markers",
            line=line_style(name),
            marker={"symbol": RUNTIMES[name].marker, "size": 10},
            customdata=[told(one, say) for _, one in pairs],
            hovertemplate=f"{named(name)}, %{{x}}: %{{customdata}}<extra></extra>",
        )
    finish(figure, height=height, x=x, y=y, legend=True)
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(type="category", showgrid=False)
    return figure


def line_style(name: str) -> dict[str, Any]:
    """Keyword `line`: the backend's colour and dash."""
    return {"color": RUNTIMES[name].color, "dash": RUNTIMES[name].dash, "width": 2.2}
