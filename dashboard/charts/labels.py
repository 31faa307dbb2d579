"""Label by label: whose F1 changes, and which labels are confused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import Receipt, many
from dashboard.charts.style import GREY, Chart, Rows, finish, label, marker, named, short
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import points

MAX_SHOWN = 10  # labels in a confusion matrix: three of them side by side leave no room for more
MAX_NAMED = 3  # labels whose names fit below a matrix


def per_class(receipt: Receipt, task: str, max_shown: int = 12) -> Chart:
    """F1 by label: the labels on which a backend differs most from the reference; the table has all."""
    scores, reference = receipt["results"]["accuracy"][task], receipt["settings"]["reference"]
    by_label = {name: {row["label"]: row for row in of["per_class"]} for name, of in scores.items()}
    labels = list(by_label[reference])

    def change(name: str, of: str) -> float:
        return float(by_label[name][of]["f1"] - by_label[reference][of]["f1"])

    largest = {of: max((change(name, of) for name in by_label), key=abs) for of in labels}
    shown = sorted(labels, key=lambda of: (-abs(largest[of]), by_label[reference][of]["f1"]))[:max_shown]
    figure = _f1_figure(by_label, shown)
    table: Rows = []
    for of in labels:
        line: dict[str, Any] = {"label": of, "rows": by_label[reference][of]["rows"]}
        for name, rows in by_label.items():
            line |= {f"{TITLES[name]} {score}": rows[of][score] for score in ("precision", "recall", "f1")}
        line |= {f"{TITLES[name]} F1 change, pp": change(name, of) * 100 for name in by_label if name != reference}
        table.append(line)
    changed = sum(map(bool, largest.values()))
    takeaway = f"No label's F1 changes between the backends ({len(labels)} labels)."
    if changed:
        worst = max(largest, key=lambda of: abs(largest[of]))
        name = max(by_label, key=lambda name: abs(change(name, worst)))
        support = many(by_label[reference][worst]["rows"], "row")
        takeaway = (
            f"F1 changes for {changed} of {len(labels)} labels, most for {short(worst, 40)}: "
            f"{points(change(name, worst), 1)} on {TITLES[name]}, with {support}."
        )
    note = ""
    if len(labels) > max_shown:
        note = f"Shown: the {len(shown)} labels that change most, or are hardest, of {len(labels)}."
    alt = f"Dots of F1 for {len(shown)} labels, one per backend. {takeaway}"
    return Chart(figure, takeaway, alt, table, note)


def _f1_figure(by_label: dict[str, dict[str, dict[str, Any]]], labels: list[str]) -> go.Figure:
    """Draw a line per label from the lowest F1 to the highest, with a mark per backend."""
    figure = go.Figure()
    for place, of in enumerate(labels):
        values = [rows[of]["f1"] for rows in by_label.values()]
        figure.add_scatter(
            x=[min(values), max(values)],
            y=[place] * 2,
            mode="lines",
            line={"color": GREY, "width": 2},
            showlegend=False,
            hoverinfo="skip",
        )
    for number, (name, rows) in enumerate(by_label.items()):
        # The first is the largest and hollow, so that equal values show as a mark within a ring.
        style = marker(name, 9 if number else 16) | {
            "line": {"width": 0 if number else 2.5, "color": RUNTIMES[name].color}
        }
        figure.add_scatter(
            name=TITLES[name],
            x=[rows[of]["f1"] for of in labels],
            y=list(range(len(labels))),  # not names: two labels may be cut to the same text
            customdata=[label(of) for of in labels],
            mode="markers",
            marker=style if number else style | {"symbol": f"{style['symbol']}-open"},
            hovertemplate=f"{named(name)}, %{{customdata}}: F1 %{{x:.1%}}<extra></extra>",
        )
    finish(figure, height=110 + 30 * len(labels), x="F1 of the label", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[label(short(of, 28)) for of in labels],
        range=[len(labels) - 0.5, -0.5],
        zeroline=False,
    )
    return figure


def confused_labels(receipt: Receipt, task: str, max_shown: int = MAX_SHOWN) -> list[int]:
    """Return the positions of the labels that confusion matrices show: those most often in a mistake."""
    mistakes: Counter[int] = Counter()
    for of in receipt["results"]["accuracy"][task].values():
        for right, given, rows in of["confusion"]:
            for position in (right, given):
                mistakes[position] += rows if right != given else 0
    return sorted(sorted(mistakes, key=lambda position: (-mistakes[position], position))[:max_shown])


def confusion(receipt: Receipt, task: str, name: str, max_shown: int = MAX_SHOWN) -> Chart:
    """One backend's confusion matrix: rows per cell, shaded by their share of the right label's rows."""
    labels = receipt["model"]["tasks"][task]["labels"]
    counts = {(right, given): rows for right, given, rows in receipt["results"]["accuracy"][task][name]["confusion"]}
    shown = confused_labels(receipt, task, max_shown)
    support: Counter[int] = Counter()
    for (right, _), rows in counts.items():
        support[right] += rows
    cells = [[counts.get((right, given), 0) for given in shown] for right in shown]
    # Numbers and not names as places: two labels may be cut to the same text.
    places = list(range(len(shown)))
    texts = [label(short(labels[position], 13)) for position in shown]
    below, beside = texts, texts
    if len(shown) > MAX_NAMED:  # names below would be upright and take the room of the cells
        below = [str(place + 1) for place in places]
        beside = [f"{text} {number}" for text, number in zip(texts, below, strict=True)]
    red, green, blue = (int(RUNTIMES[name].color[at : at + 2], 16) for at in (1, 3, 5))
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=places,
            z=[
                [count / support[right] if support[right] else 0 for count in line]
                for right, line in zip(shown, cells, strict=True)
            ],
            zmin=0,
            zmax=1,
            # The backend's colour, light enough for the text of either theme.
            colorscale=[[0, f"rgba({red},{green},{blue},0)"], [1, f"rgba({red},{green},{blue},0.65)"]],
            showscale=False,
            text=[[f"{count:,}" if count else "" for count in line] for line in cells],
            texttemplate="%{text}",
            customdata=[
                [f"{label(labels[right])} taken for {label(labels[given])}" for given in shown] for right in shown
            ],
            hovertemplate="%{customdata}: %{text} (%{z:.1%})<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    finish(figure, height=110 + 28 * len(shown), x="label given")
    common = {"tickvals": places, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**common, ticktext=below, tickangle=0)
    figure.update_yaxes(**common, ticktext=beside, autorange="reversed", tickfont={"size": 10})
    table: Rows = [
        {"right label": labels[right], "label given": labels[given], "rows": rows}
        for (right, given), rows in sorted(counts.items(), key=lambda pair: (pair[0][0] == pair[0][1], -pair[1]))
    ]
    wrong = {cell: rows for cell, rows in counts.items() if cell[0] != cell[1]}
    takeaway = f"{TITLES[name]} is wrong on {many(sum(wrong.values()), 'row')} of {sum(counts.values()):,}."
    note = "Rows: the right label."
    if wrong:
        (right, given), rows = max(wrong.items(), key=lambda pair: pair[1])
        note += f" Most often: {short(labels[right], 40)} taken for {short(labels[given], 40)} ({many(rows, 'row')})."
    present = {position for cell in counts for position in cell}
    if len(present) > len(shown):
        note += f" Shown: the {len(shown)} labels most often in a mistake, of {len(present)}."
    alt = f"Confusion matrix of {many(len(shown), 'label')}. {takeaway} {note}"
    return Chart(figure, takeaway, alt, table, note)
