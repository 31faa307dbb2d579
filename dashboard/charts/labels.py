"""Label by label: which labels are confused, and what a backend changes in that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.charts.formatting import Receipt, many
from dashboard.charts.style import Chart, Rows, finish, label, short
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import percent
from inference.compare.results import answers

MAX_SHOWN = 10  # labels in a confusion matrix: a phone has no room for more
MAX_NAMED = 3  # labels whose names fit below a matrix


def scores(receipt: Receipt, task: str) -> Rows:
    """Return precision, recall and F1 of each label on each backend."""
    accuracy = receipt["results"]["accuracy"][task]
    return [
        {"label": rows[0]["label"], "rows": rows[0]["rows"]}
        | {
            f"{TITLES[name]} {score}": row[score]
            for name, row in zip(accuracy, rows, strict=True)
            for score in ("precision", "recall", "f1")
        }
        for rows in zip(*(of["per_class"] for of in accuracy.values()), strict=True)
    ]


def changes(receipt: Receipt, task: str, name: str, max_shown: int = MAX_SHOWN) -> Chart:
    """The confusion matrix of a backend minus that of the reference: only what changed, with its sign."""
    labels, reference = receipt["model"]["tasks"][task]["labels"], receipt["settings"]["reference"]
    base, title = TITLES[reference], TITLES[name]
    cells: Counter[tuple[int, int]] = Counter()
    for of, sign in ((name, 1), (reference, -1)):
        for right, given, rows in receipt["results"]["accuracy"][task][of]["confusion"]:
            cells[right, given] += sign * rows
    cells = Counter({cell: rows for cell, rows in cells.items() if rows})
    swaps = _swaps(receipt, task, name)
    largest = [*(pair for pair, _ in swaps.most_common()), *sorted(cells, key=lambda cell: -abs(cells[cell]))]
    ranked = list(dict.fromkeys(position for pair in largest for position in pair))
    shown = sorted(ranked[:max_shown])
    figure = _matrix([[cells[right, given] for given in shown] for right in shown], [labels[i] for i in shown], name)
    pair = receipt["results"]["paired"][task][name]
    table: Rows = [
        {"right label": labels[right], "label given": labels[given], f"rows more than {base}": rows}
        for (right, given), rows in sorted(cells.items(), key=lambda cell: (-abs(cell[1]), cell[0]))
    ]
    takeaway = f"{title} changes {percent(pair['flips'] / pair['rows'])} of the labels"
    if swaps:
        (before, after), rows = swaps.most_common(1)[0]
        takeaway += f", mostly {short(labels[before], 30)} → {short(labels[after], 30)} ({many(rows, 'row')})"
    note = f"Row: the right label. Column: the label given. +: {title} gives it more often than {base}; −: less often."
    if len(ranked) > len(shown):
        note += f" Shown: {len(shown)} of {len(ranked)} labels."
    details = "The title counts individual changes. In the matrix, opposite changes within a row cancel out."
    alt = f"Confusion matrix of {title} minus that of {base}, {many(len(shown), 'label')}. {takeaway}."
    return Chart(figure, f"{takeaway}.", alt, table, note, details)


def _swaps(receipt: Receipt, task: str, name: str) -> Counter[tuple[int, int]]:
    """Count the labelled rows by the reference's label and the backend's, where they differ."""
    (true, first, _), (_, second, _) = (answers(receipt, task, of) for of in (receipt["settings"]["reference"], name))
    differs = (first != second) & (true >= 0)
    return Counter(zip(first[differs].tolist(), second[differs].tolist(), strict=True))


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
    totals = [support[right] for right in shown]
    figure = _matrix(cells, [labels[position] for position in shown], name, totals)
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


def _matrix(
    cells: Sequence[Sequence[int]], names: Sequence[str], backend: str, totals: Sequence[int] | None = None
) -> go.Figure:
    """Draw rows per cell in the backend's colour; what the backend has fewer of is grey and has a minus.

    Args:
        totals: of the lines, to shade each cell by its share of them; by default cells are signed differences.
    """
    # Numbers and not names as places: two labels may be cut to the same text.
    places = list(range(len(names)))
    texts = [label(short(name, 13)) for name in names]
    below, beside = texts, texts
    if len(names) > MAX_NAMED:  # names below would be upright and take the room of the cells
        below = [str(place + 1) for place in places]
        beside = [f"{text} {number}" for text, number in zip(texts, below, strict=True)]
    if totals is None:
        largest = max((abs(count) for line in cells for count in line), default=1) or 1
        shares = [[count / largest for count in line] for line in cells]
        written = [[f"{count:+,}".replace("-", "−") if count else "" for count in line] for line in cells]
    else:
        shares = [[count / (total or 1) for count in line] for line, total in zip(cells, totals, strict=True)]
        written = [[f"{count:,}" if count else "" for count in line] for line in cells]
    red, green, blue = (int(RUNTIMES[backend].color[at : at + 2], 16) for at in (1, 3, 5))
    # The backend's colour, light enough for the text of either theme.
    none, most = f"rgba({red},{green},{blue},0)", f"rgba({red},{green},{blue},0.65)"
    colors = [(0.0, none), (1.0, most)]
    if totals is None:
        colors = [(0.0, "rgba(128,128,128,0.55)"), (0.5, "rgba(128,128,128,0)"), (0.5, none), (1.0, most)]
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=places,
            z=shares,
            zmin=-1 if totals is None else 0,
            zmax=1,
            colorscale=colors,
            showscale=False,
            text=written,
            texttemplate="%{text}",
            customdata=[[f"{label(right)} taken for {label(given)}" for given in names] for right in names],
            hovertemplate="%{customdata}: %{text}" + ("" if totals is None else " (%{z:.1%})") + "<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    finish(figure, height=110 + 28 * len(names), x="label given")
    common = {"tickvals": places, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**common, ticktext=below, tickangle=0)
    figure.update_yaxes(**common, ticktext=beside, autorange="reversed", tickfont={"size": 10})
    return figure
