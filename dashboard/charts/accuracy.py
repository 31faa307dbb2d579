"""How often a backend is right, and what changes against the reference: intervals, calibration, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, joined, many, names, overlap, percent, points, sentence
from dashboard.charts.style import FAINT, GREY, Chart, Rows, finish, named
from dashboard.charts.traces import dots, line_style
from inference.backends import RUNTIMES, TITLES
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, accuracy_decision

Receipt = Mapping[str, Any]
SAID = {
    SHIP: "that keeps the limit",
    NO: "that breaks the limit",
    INCONCLUSIVE: "whether that keeps the limit is not settled",
}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def scores(receipt: Receipt, task: str, score: str = "accuracy") -> Chart:
    """A dot per backend with its interval, on a zoomed axis. `score` is "accuracy" or "macro_f1"."""
    found: dict[str, Estimate] = {name: one[score] for name, one in receipt["results"]["accuracy"][task].items()}
    # A bootstrap over labels with a row or two each can miss the value itself; such an interval misleads.
    off = [name for name, one in found.items() if not one["low"] <= one["value"] <= one["high"]]
    lines = {named(name): (name, one) for name, one in found.items()}
    figure = dots(
        lines, x=f"{SCORES[score]} (zoomed axis)", say=percent, bare=[named(name) for name in off], least=0.02
    )
    figure.update_xaxes(tickformat=".1%")
    table: Rows = [
        {"backend": TITLES[name], SCORES[score]: one["value"], "from": one["low"], "to": one["high"]}
        for name, one in found.items()
    ]
    reference = receipt["settings"]["reference"]
    rows = receipt["results"]["accuracy"][task][reference]["rows"]
    best = max(found, key=lambda name: found[name]["value"])
    values = {one["value"] for one in found.values()}
    if len(values) == 1:
        takeaway = f"{names(list(found))} reach the same {SCORES[score]}, {percent(found[best]['value'])}."
        if len(found) == 1:
            takeaway = f"{TITLES[best]} reaches {percent(found[best]['value'])} {SCORES[score]}."
    elif percent(min(values)) == percent(max(values)):
        takeaway = f"{names(list(found))} all reach {percent(max(values))}: they differ by less than can be shown."
    else:
        worst = min(found, key=lambda name: found[name]["value"])
        takeaway = (
            f"From {percent(found[worst]['value'])} on {TITLES[worst]} to {percent(found[best]['value'])} on "
            f"{TITLES[best]}"
        )
        takeaway += (
            ": the intervals overlap; the differences on the same rows say more."
            if overlap(found[worst], found[best])
            else ", beyond chance."
        )
    alt = f"Dots of {SCORES[score]} on {task}, {many(rows, 'row')}: " + joined(
        [
            f"{TITLES[n]} {percent(one['value'])} ({percent(one['low'])} to {percent(one['high'])})"
            for n, one in found.items()
        ]
    )
    method = "Wilson" if score == "accuracy" else "bootstrap"
    note = f"{rows:,} rows. Lines: 95 % intervals of each backend on its own ({method})."
    if off:
        note += f" None is drawn for {names(off)}: too few rows per label for one that holds."
    return Chart(figure, takeaway, alt + ".", table, note)


def differences(receipt: Receipt, task: str, max_drop: float) -> Chart | None:
    """Accuracy less the reference's on the same rows, with the largest fall allowed; None if there is only one."""
    found, reference = receipt["results"]["paired"][task], receipt["settings"]["reference"]
    if not found:
        return None
    lines = {named(name): (name, one["delta_accuracy"]) for name, one in found.items()}
    figure = dots(lines, x=f"accuracy less that of {TITLES[reference]}, pp", say=points, scale=100)
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5})
    figure.add_vline(
        x=-max_drop * 100,
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        annotation={"text": f"limit {points(-max_drop, 1)}", "yanchor": "top", "font": {"size": 11}},
        annotation_position="top left",
    )
    reach = max([max_drop, *(abs(one[end]) for _, one in lines.values() for end in ("low", "high"))]) * 115
    figure.update_xaxes(range=[-reach, reach], ticksuffix="")
    table: Rows = [
        {
            "backend": TITLES[name],
            "rows": one["rows"],
            "other label": one["flips"],
            "broken": one["broken"],
            "fixed": one["fixed"],
            "both wrong": one["both_wrong"],
            "accuracy, pp": one["delta_accuracy"]["value"] * 100,
            "from": one["delta_accuracy"]["low"] * 100,
            "to": one["delta_accuracy"]["high"] * 100,
            "macro-F1, pp": one["delta_macro_f1"]["value"] * 100,
            "macro-F1 from": one["delta_macro_f1"]["low"] * 100,
            "macro-F1 to": one["delta_macro_f1"]["high"] * 100,
            "McNemar p": one["mcnemar_p"],
            "largest change of a probability": one["max_abs_dp"],
        }
        for name, one in found.items()
    ]
    said = []
    for name, one in found.items():
        if one["flips"] == 0:
            said.append(f"{TITLES[name]} gives the same label on every row")
        else:
            said.append(
                f"{TITLES[name]} changes {one['flips']:,} of {one['rows']:,} labels ({one['broken']:,} broken, "
                f"{one['fixed']:,} fixed): "
                + SAID[accuracy_decision(receipt, task, name, max_drop).decision]
            )  # fmt: skip
    each = [
        f"{TITLES[n]} {points(one['delta_accuracy']['value'])} ({points(one['delta_accuracy']['low'])} to "
        f"{points(one['delta_accuracy']['high'])})"
        for n, one in found.items()
    ]
    alt = f"Dots of the difference in accuracy on the same rows: {joined(each)}. Limit {points(-max_drop, 1)}."
    few = [name for name, one in found.items() if one["delta_accuracy"]["low"] <= -max_drop and one["flips"] == 0]
    note = (
        "Lines: each end is a one-sided bound of about 95 %, so the left end is the most that accuracy may have fallen."
    )
    if few:
        note += " Even rows that all agree leave room for a difference on rows not seen: more rows make it smaller."
    return Chart(figure, sentence("; ".join(said)), alt, table, note)


def reliability(receipt: Receipt, task: str) -> Chart:
    """Confidence against accuracy in bins: on the diagonal a confidence means what it says."""
    found = receipt["results"]["accuracy"][task]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False, hoverinfo="skip"
    )
    table: Rows = []
    for name, one in found.items():
        bins = one["reliability"]
        largest = max(entry["rows"] for entry in bins)
        figure.add_scatter(
            name=TITLES[name],
            x=[entry["confidence"] for entry in bins],
            y=[entry["accuracy"] for entry in bins],
            mode="lines+markers",
            line=line_style(name) | {"width": 1.5},
            marker={
                "color": RUNTIMES[name].color,
                "symbol": RUNTIMES[name].marker,
                "size": [5 + 10 * (entry["rows"] / largest) ** 0.5 for entry in bins],
                "opacity": 0.75,
            },
            customdata=[entry["rows"] for entry in bins],
            hovertemplate=f"{named(name)}: sure %{{x:.1%}}, right %{{y:.1%}}, %{{customdata}} rows<extra></extra>",
        )
        table += [
            {
                "backend": TITLES[name],
                "confidence from": entry["low"],
                "to": entry["high"],
                "rows": entry["rows"],
                "mean confidence": entry["confidence"],
                "accuracy": entry["accuracy"],
            }
            for entry in bins
        ]
    finish(figure, height=420, x="confidence", y="share that is right", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    errors = {name: one["calibration_error"] for name, one in found.items()}
    low, high = min(errors.values()), max(errors.values())
    takeaway = (
        f"Confidence and accuracy lie {points(low, 1).lstrip('+')} apart on every backend, on average."
        if high - low < 0.0005
        else "On average, confidence and accuracy lie apart by "
        + joined([f"{points(error, 1).lstrip('+')} on {TITLES[name]}" for name, error in errors.items()])
        + "."
    )
    note = (
        "Below the dotted line a backend is surer than it is right. Larger marks: more rows. Expected calibration "
        "error, 15 bins; few rows make it larger than it is."
    )
    return Chart(figure, takeaway, f"Reliability diagram of {task}. {takeaway}", table, note)


def coverage(receipt: Receipt, task: str, threshold: float) -> Chart:
    """What is answered and how often that is right, if answers less sure than a threshold are held back."""
    found = receipt["results"]["accuracy"][task]
    figure = go.Figure()
    table: Rows = []
    at: dict[str, tuple[float, float | None]] = {}
    for name, one in found.items():
        curve = one["coverage_curve"]
        pairs = [(c, a, t) for c, a, t in zip(curve["coverage"], curve["accuracy"], curve["threshold"], strict=True)]
        drawn = [pair for pair in pairs if pair[1] is not None]
        figure.add_scatter(
            name=TITLES[name],
            x=[c for c, _, _ in drawn],
            y=[a for _, a, _ in drawn],
            mode="lines",
            line=line_style(name),
            customdata=[t for _, _, t in drawn],
            hovertemplate=(
                f"{named(name)}: threshold %{{customdata:.2f}}, answered %{{x:.1%}}, right %{{y:.1%}}<extra></extra>"
            ),
        )
        covered, right, _ = min(pairs, key=lambda pair: abs(pair[2] - threshold))
        at[name] = (covered, right)
        figure.add_scatter(
            showlegend=False,
            x=[covered],
            y=[right],
            mode="markers",
            marker={
                "color": RUNTIMES[name].color,
                "symbol": RUNTIMES[name].marker,
                "size": 13,
                "line": {"color": FAINT, "width": 1},
            },
            hoverinfo="skip",
        )
        table += [
            {"backend": TITLES[name], "threshold": t, "answered": c, "right among them": a}
            for c, a, t in pairs
            if round(t * 100) % 5 == 0
        ]
    finish(figure, height=400, x="share of rows answered", y="share of those that is right", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.03])
    heights = [a for one in found.values() for a in one["coverage_curve"]["accuracy"] if a is not None]
    pad = max(0.01, 0.05 * (max(heights) - min(heights)))
    figure.update_yaxes(tickformat=".1%", range=[min(heights) - pad, max(heights) + pad])
    said = [
        f"{percent(covered)} on {TITLES[name]}" + (f" ({percent(right)} right)" if right is not None else "")
        for name, (covered, right) in at.items()
    ]
    takeaway = f"At a threshold of {threshold:.2f}, this share is answered: {joined(said)}."
    alt = f"Curves of accuracy among the answered rows against their share. {takeaway}"
    note = "Marks: the threshold chosen. Few rows are left at the left end, so the curves jump there."
    return Chart(figure, takeaway, alt, table, note)
