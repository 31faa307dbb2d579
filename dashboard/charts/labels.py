"""Label by label: whose F1 changes, and which labels are taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import many, points
from dashboard.charts.style import GREY, Chart, Rows, finish, label, named, short
from inference.backends import RUNTIMES, TITLES

Receipt = Mapping[str, Any]
MOST = 10  # labels in a confusion matrix: three of them side by side leave no room for more
FEW = 3  # labels whose names fit below a matrix


def per_class(receipt: Receipt, task: str, most: int = 12) -> Chart:
    """F1 by label: those labels where a backend differs most from the reference, the table has all."""
    found, reference = receipt["results"]["accuracy"][task], receipt["settings"]["reference"]
    by_label = {name: {one["label"]: one for one in scores["per_class"]} for name, scores in found.items()}

    def moved(one: str) -> float:
        changes = [abs(float(by_label[name][one]["f1"] - by_label[reference][one]["f1"])) for name in by_label]
        return max(changes)

    labels = list(by_label[reference])
    shown = sorted(labels, key=lambda one: (-moved(one), by_label[reference][one]["f1"]))[:most]
    figure = go.Figure()
    for place, one in enumerate(shown):
        values = [by_label[name][one]["f1"] for name in by_label]
        figure.add_scatter(
            x=[min(values), max(values)],
            y=[place] * 2,
            mode="lines",
            line={"color": GREY, "width": 2},
            showlegend=False,
            hoverinfo="skip",
        )
    for number, (name, rows) in enumerate(by_label.items()):
        figure.add_scatter(
            name=TITLES[name],
            x=[rows[one]["f1"] for one in shown],
            y=list(range(len(shown))),  # and not names: two labels may be cut to the same words
            customdata=[label(one) for one in shown],
            mode="markers",
            # The first is the largest and hollow, so that equal ones show as a mark within a ring.
            marker={
                "color": RUNTIMES[name].color,
                "symbol": RUNTIMES[name].marker + ("-open" if number == 0 else ""),
                "size": 16 if number == 0 else 9,
                "line": {"width": 2.5 if number == 0 else 0, "color": RUNTIMES[name].color},
            },
            hovertemplate=f"{named(name)}, %{{customdata}}: F1 %{{x:.1%}}<extra></extra>",
        )
    finish(figure, height=110 + 30 * len(shown), x="F1 of the label", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[label(short(one, 28)) for one in shown],
        range=[len(shown) - 0.5, -0.5],
        zeroline=False,
    )
    table: Rows = []
    for one in labels:
        line: dict[str, Any] = {"label": one, "rows": by_label[reference][one]["rows"]}
        for name, rows in by_label.items():
            line |= {f"{TITLES[name]} {score}": rows[one][score] for score in ("precision", "recall", "f1")}
        for name in by_label:
            if name != reference:
                line[f"{TITLES[name]} F1 change, pp"] = (
                    by_label[name][one]["f1"] - by_label[reference][one]["f1"]
                ) * 100
        table.append(line)
    changed = [one for one in labels if moved(one) > 0]
    if not changed:
        takeaway = f"No label's F1 changes between the backends ({len(labels)} labels)."
    else:
        worst = max(changed, key=moved)
        name = max(by_label, key=lambda n: abs(by_label[n][worst]["f1"] - by_label[reference][worst]["f1"]))
        change = by_label[name][worst]["f1"] - by_label[reference][worst]["f1"]
        takeaway = (
            f"F1 changes for {len(changed)} of {len(labels)} labels, most for {short(worst, 40)}: {points(change, 1)} "
            f"on {TITLES[name]}, with {many(by_label[reference][worst]['rows'], 'row')}."
        )
    note = (
        f"Shown: the {len(shown)} labels that change most, or are hardest, of {len(labels)}."
        if len(labels) > most
        else ""
    )
    alt = f"Dots of F1 for {len(shown)} labels, one per backend. {takeaway}"
    return Chart(figure, takeaway, alt, table, note)


def confused_labels(receipt: Receipt, task: str, most: int = MOST) -> list[int]:
    """Positions of the labels that confusion matrices show: all if they are few, else those most often in a mistake."""
    found = receipt["results"]["accuracy"][task]
    present = {
        position for one in found.values() for right, given, _ in one["confusion"] for position in (right, given)
    }
    if len(present) <= most:
        return sorted(present)
    mistakes = dict.fromkeys(present, 0)
    for one in found.values():
        for right, given, rows in one["confusion"]:
            if right != given:
                mistakes[right] += rows
                mistakes[given] += rows
    return sorted(sorted(present, key=lambda position: (-mistakes[position], position))[:most])


def confusion(receipt: Receipt, task: str, name: str, most: int = MOST) -> Chart:
    """One backend's confusion matrix: rows in a cell, shaded by their share of the right label's rows."""
    labels = receipt["model"]["tasks"][task]["labels"]
    counts = {(right, given): rows for right, given, rows in receipt["results"]["accuracy"][task][name]["confusion"]}
    shown = confused_labels(receipt, task, most)
    support = {right: sum(rows for (r, _), rows in counts.items() if r == right) for right in shown}
    cells = [[counts.get((right, given), 0) for given in shown] for right in shown]
    shares = [
        [count / support[right] if support[right] else 0 for count in line]
        for right, line in zip(shown, cells, strict=True)
    ]
    # Numbers and not names as places: two labels may be cut to the same words.
    places = list(range(len(shown)))
    words = [label(short(labels[one], 13)) for one in shown]
    numbered = len(shown) > FEW  # names below would stand on their heads and take the room of the cells
    below = [str(place + 1) for place in places] if numbered else words
    beside = [f"{word} {number}" for word, number in zip(words, below, strict=True)] if numbered else words
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=places,
            z=shares,
            zmin=0,
            zmax=1,
            colorscale=[[0, _clear(name, 0)], [1, _clear(name, 0.65)]],
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
    missed, asked = sum(wrong.values()), sum(counts.values())
    takeaway = f"{TITLES[name]} is wrong on {many(missed, 'row')} of {asked:,}."
    note = "Lines: the right label. "
    if wrong:
        (right, given), rows = max(wrong.items(), key=lambda pair: pair[1])
        note += f"Most often: {short(labels[right], 40)} taken for {short(labels[given], 40)} ({many(rows, 'row')})."
    present = {position for cell in counts for position in cell}
    if len(present) > len(shown):
        note += f" Shown: the {len(shown)} labels most often in a mistake, of {len(present)}."
    alt = f"Confusion matrix of {many(len(shown), 'label')}. {takeaway} {note}".strip()
    return Chart(figure, takeaway, alt, table, note.strip())


def _clear(name: str, opacity: float) -> str:
    """The backend's colour, so clear that text of either theme is read upon it."""
    red, green, blue = (int(RUNTIMES[name].color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
