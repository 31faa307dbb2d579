"""Accuracy on parts of the rows: what a backend changes on each, against the reference."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.charts.formatting import Receipt, many, span
from dashboard.charts.style import GREY, Chart, Rows, finish, label, marker, named, short, whiskers
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import percent, points
from inference.compare.slices import FEW_ROWS, LABEL, LENGTH, Slice

MAX_SHOWN = 12
MIN_REACH = 0.01  # half of the axis, so that a small difference does not look large


def differences(receipt: Receipt, name: str, way: str, parts: Sequence[Slice], max_shown: int = MAX_SHOWN) -> Chart:
    """The difference in accuracy from the reference on each part, with its interval; the table has all parts."""
    title, base = TITLES[name], TITLES[receipt["settings"]["reference"]]
    shown = list(parts)
    if way != LENGTH:  # lengths keep their order
        shown = sorted(parts, key=lambda part: (-abs(part.fixed - part.broken) / part.rows, -part.flips, -part.rows))
    shown = shown[:max_shown]
    figure = go.Figure()
    for place, part in enumerate(shown):
        style = marker(name, 12)
        change = part.difference.to_dict()
        figure.add_scatter(
            x=[change["value"] * 100],
            y=[place],  # not names: two may be cut to the same text
            error_x=whiskers([change], 100) | {"color": RUNTIMES[name].color},
            mode="markers",
            marker=style | {"symbol": f"{style['symbol']}-open", "line": {"width": 2}} if part.has_few_rows else style,
            hovertemplate=(
                f"{label(short(part.name, 60))}, {many(part.rows, 'row')}: {span(change, points)}<extra></extra>"
            ),
        )
    finish(figure, height=90 + 40 * len(shown), x=f"pp from {base}")
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5})
    large = [part.difference for part in shown if not part.has_few_rows]
    ends = [abs(end) for change in large for end in (change.low, change.high)]
    reach = max([MIN_REACH, *ends, *(abs(part.difference.value) for part in shown)]) * 110
    figure.update_xaxes(range=[-reach, reach], zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[f"{label(short(part.name, 22))}<br><i>n = {part.rows:,}</i>" for part in shown],
        range=[len(shown) - 0.5, -0.5],
        zeroline=False,
        showgrid=False,
    )
    table: Rows = [
        {
            way.lower(): part.name,
            "rows": part.rows,
            f"{base}, %": round(part.reference.value * 100, 2),
            f"{title}, %": round(part.backend.value * 100, 2),
            "from, %": round(part.backend.low * 100, 2),
            "to, %": round(part.backend.high * 100, 2),
            "difference, pp": round(part.difference.value * 100, 2),
            "from, pp": round(part.difference.low * 100, 2),
            "to, pp": round(part.difference.high * 100, 2),
            "changed labels": part.flips,
        }
        for part in parts
    ]
    few = [part for part in shown if part.has_few_rows]
    note = f"Hollow: fewer than {FEW_ROWS} rows, too few to say much." if few else ""
    if len(parts) > len(shown):
        note += f" Shown: {len(shown)} of {len(parts)}."
    details = (
        f"The difference in accuracy on the same rows. All {len(parts)} intervals hold together with 95% confidence. "
        "Those of few rows may run off the chart, and are approximate: a change is beyond chance only if "
        "McNemar's exact test agrees."
    )
    takeaway = _takeaway(title, way, parts)
    alt = f"Dots of the difference in accuracy on {many(len(shown), 'part')} of the rows. {takeaway}"
    return Chart(figure, takeaway, alt, table, note.strip(), details)


def _takeaway(title: str, way: str, parts: Sequence[Slice]) -> str:
    """Name the part that changes most beyond chance, else the one that changes most."""
    most = max(parts, key=lambda part: (part.changes, abs(part.difference.value), part.flips))
    name, change = short(most.name, 40), points(most.difference.value)
    if most.changes:
        more = "more" if most.difference.value > 0 else "less"
        return f"{title} is right {more} often on {name} ({change}), beyond chance."
    none = "No label" if way == LABEL else "No part"
    if most.difference.value == 0:
        return f"{none} changes in accuracy."
    return f"{none} changes beyond chance. Largest difference: {name}, {change} ({many(most.rows, 'row')})."


def accuracies(parts: Sequence[Slice], name: str) -> str:
    """Return the best and the worst part in a sentence, of those with enough rows; "" if fewer than two have."""
    large = [part for part in parts if not part.has_few_rows]
    if len(large) < 2:
        return ""
    best, worst = (f(large, key=lambda part: part.backend.value) for f in (max, min))
    return (
        f"Accuracy of {named(name)}: {percent(best.backend.value)} at best ({short(best.name, 40)}), "
        f"{percent(worst.backend.value)} at worst ({short(worst.name, 40)})."
    )
