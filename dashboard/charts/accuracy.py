"""How often a backend is right, and what changes against the reference: intervals, calibration, thresholds."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, Receipt, each, ends, many, names, overlap, sentence, span
from dashboard.charts.style import FAINT, GREY, Chart, Rows, finish, marker, named
from dashboard.charts.traces import dots, line_style
from inference.backends import TITLES
from inference.calls.formatting import joined, percent, points
from inference.compare.caveats import HARD, is_of_showcase
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, accuracy_decision, is_same

MEANING = {SHIP: "within the limit", NO: "beyond the limit", INCONCLUSIVE: "not settled whether within the limit"}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def scores(receipt: Receipt, task: str, score: str = "accuracy") -> Chart:
    """A dot per backend with its interval, on a zoomed axis. `score` is "accuracy" or "macro_f1"."""
    title = SCORES[score]
    values: dict[str, Estimate] = {name: of[score] for name, of in receipt["results"]["accuracy"][task].items()}
    # A bootstrap over labels with one or two rows each can miss the value itself; such an interval misleads.
    off = [name for name, e in values.items() if not e["low"] <= e["value"] <= e["high"]]
    figure = dots(values, x=f"{title} (zoomed axis)", say=percent, bare=off, min_reach=0.02)
    figure.update_xaxes(tickformat=".1%")
    table: Rows = [{"runtime": TITLES[name], title: e["value"], **ends(e)} for name, e in values.items()]
    worst, best = (f(values, key=lambda name: values[name]["value"]) for f in (min, max))
    lowest, highest = values[worst]["value"], values[best]["value"]
    if len(values) == 1:
        takeaway = f"{TITLES[best]} reaches {percent(highest)} {title}."
    elif lowest == highest:
        takeaway = f"{names(list(values))} reach the same {title}, {percent(highest)}."
    elif percent(lowest) == percent(highest):
        takeaway = f"{names(list(values))} all reach {percent(highest)}; the differences are too small to show."
    else:
        takeaway = f"From {percent(lowest)} on {TITLES[worst]} to {percent(highest)} on {TITLES[best]}" + (
            ": the intervals overlap; the differences on the same rows say more."
            if overlap(values[worst], values[best])
            else ", beyond chance."
        )
    rows = receipt["results"]["accuracy"][task][receipt["settings"]["reference"]]["rows"]
    alt = f"Dots of {title} on {task}, {many(rows, 'row')}: {joined(each(values, lambda e: span(e, percent)))}."
    method = "Wilson" if score == "accuracy" else "bootstrap"
    note = f"No interval for {names(off)}: too few rows per label." if off else ""
    details = f"{rows:,} rows. Error bars: 95% intervals of each runtime on its own ({method})."
    details += f" {HARD}" if is_of_showcase(receipt) else ""
    return Chart(figure, takeaway, alt, table, note, details)


def differences(receipt: Receipt, task: str, max_drop: float) -> Chart | None:
    """Accuracy minus the reference's on the same rows, with the largest drop allowed; None without other backends."""
    pairs, reference = receipt["results"]["paired"][task], receipt["settings"]["reference"]
    if not pairs:
        return None
    changes = {name: pair["delta_accuracy"] for name, pair in pairs.items()}
    figure = dots(changes, x=f"difference from {TITLES[reference]}, pp", say=points, scale=100)
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5})
    figure.add_vline(
        x=-max_drop * 100,
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        annotation={"text": f"limit {points(-max_drop, 1)}", "yanchor": "top", "font": {"size": 11}},
        annotation_position="top left",
    )
    reach = max([max_drop, *(abs(change[end]) for change in changes.values() for end in ("low", "high"))]) * 115
    figure.update_xaxes(range=[-reach, reach], ticksuffix="")
    table: Rows = [
        {
            "runtime": TITLES[name],
            "rows": pair["rows"],
            "changed labels": pair["flips"],
            "broken": pair["broken"],
            "fixed": pair["fixed"],
            "both wrong": pair["both_wrong"],
            "accuracy, pp": pair["delta_accuracy"]["value"] * 100,
            "from": pair["delta_accuracy"]["low"] * 100,
            "to": pair["delta_accuracy"]["high"] * 100,
            "macro-F1, pp": pair["delta_macro_f1"]["value"] * 100,
            "macro-F1 from": pair["delta_macro_f1"]["low"] * 100,
            "macro-F1 to": pair["delta_macro_f1"]["high"] * 100,
            "McNemar p": pair["mcnemar_p"],
            "largest change of a probability": pair["max_abs_dp"],
        }
        for name, pair in pairs.items()
    ]

    def change(name: str) -> str:
        pair = pairs[name]
        if not pair["flips"]:
            return f"{TITLES[name]} gives the same label on every row"
        neither = f", {pair['both_wrong']:,} wrong on both" if pair["both_wrong"] else ""
        return (
            f"{TITLES[name]} changes {pair['flips']:,} of {pair['rows']:,} labels ({pair['broken']:,} broken, "
            f"{pair['fixed']:,} fixed{neither}): {MEANING[accuracy_decision(receipt, task, name, max_drop).decision]}"
        )

    described = joined(each(changes, lambda e: span(e, points)))
    alt = f"Dots of the difference in accuracy on the same rows: {described}. Limit {points(-max_drop, 1)}."
    details = (
        "Error bars: each end is a one-sided bound of about 95%, so the left end is the most that accuracy may have "
        "dropped."
    )
    note = ""
    equal = [pair for pair in pairs.values() if pair["flips"] == 0 and not is_same(pair)]
    if any(pair["delta_accuracy"]["low"] <= -max_drop for pair in equal):
        note = "All rows agree, but unseen rows may differ: measure more rows."
    return Chart(figure, sentence("; ".join(map(change, pairs))), alt, table, note, details)


def reliability(receipt: Receipt, task: str) -> Chart:
    """Confidence against accuracy in bins: on the diagonal, confidence means what it says."""
    accuracy = receipt["results"]["accuracy"][task]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False, hoverinfo="skip"
    )
    table: Rows = []
    for name, of in accuracy.items():
        bins = of["reliability"]
        largest = max(bin_["rows"] for bin_ in bins)
        sizes = [5 + 10 * (bin_["rows"] / largest) ** 0.5 for bin_ in bins]
        figure.add_scatter(
            name=TITLES[name],
            x=[bin_["confidence"] for bin_ in bins],
            y=[bin_["accuracy"] for bin_ in bins],
            mode="lines+markers",
            line=line_style(name) | {"width": 1.5},
            marker=marker(name, 0) | {"size": sizes, "opacity": 0.75},
            customdata=[bin_["rows"] for bin_ in bins],
            hovertemplate=(
                f"{named(name)}: confidence %{{x:.1%}}, accuracy %{{y:.1%}}, %{{customdata}} rows<extra></extra>"
            ),
        )
        table += [
            {
                "runtime": TITLES[name],
                "confidence from": bin_["low"],
                "to": bin_["high"],
                "rows": bin_["rows"],
                "mean confidence": bin_["confidence"],
                "accuracy": bin_["accuracy"],
            }
            for bin_ in bins
        ]
    finish(figure, height=420, x="confidence", y="accuracy", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    errors = {name: of["calibration_error"] for name, of in accuracy.items()}
    if max(errors.values()) - min(errors.values()) < 0.0005:
        distance = f"{_distance(min(errors.values()))} on every runtime"
    else:
        distance = joined([f"{_distance(error)} on {TITLES[name]}" for name, error in errors.items()])
    takeaway = f"On average, confidence and accuracy differ by {distance}."
    note = "Below the dotted line a runtime is overconfident."
    details = "Larger marks: more rows. Expected calibration error with 15 bins; with few rows it comes out too large."
    return Chart(figure, takeaway, f"Reliability diagram of {task}. {takeaway}", table, note, details)


def _distance(share: float) -> str:
    return points(share, 1).lstrip("+")


def coverage(receipt: Receipt, task: str, threshold: float) -> Chart:
    """The share of rows answered, and the accuracy among them, if answers below a confidence are withheld."""
    figure = go.Figure()
    table: Rows = []
    shares = []
    heights: list[float] = []
    for name, of in receipt["results"]["accuracy"][task].items():
        curve = of["coverage_curve"]
        steps = list(zip(curve["coverage"], curve["accuracy"], curve["threshold"], strict=True))
        drawn = [step for step in steps if step[1] is not None]
        heights += [accuracy for _, accuracy, _ in drawn]
        figure.add_scatter(
            name=TITLES[name],
            x=[share for share, _, _ in drawn],
            y=[accuracy for _, accuracy, _ in drawn],
            mode="lines",
            line=line_style(name),
            customdata=[at for _, _, at in drawn],
            hovertemplate=(
                f"{named(name)}: threshold %{{customdata:.2f}}, answered %{{x:.1%}}, right %{{y:.1%}}<extra></extra>"
            ),
        )
        covered, right, _ = min(steps, key=lambda step: abs(step[2] - threshold))
        figure.add_scatter(
            showlegend=False,
            x=[covered],
            y=[right],
            mode="markers",
            marker=marker(name, 13) | {"line": {"color": FAINT, "width": 1}},
            hoverinfo="skip",
        )
        shares.append(
            f"{percent(covered)} on {TITLES[name]}" + ("" if right is None else f" ({percent(right)} of them right)")
        )
        table += [
            {"runtime": TITLES[name], "threshold": at, "answered": share, "right among them": accuracy}
            for share, accuracy, at in steps
            if round(at * 100) % 5 == 0
        ]
    finish(figure, height=400, x="share of rows answered", y="accuracy among them", legend=True)
    figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.03])
    pad = max(0.01, 0.05 * (max(heights) - min(heights)))
    figure.update_yaxes(tickformat=".1%", range=[min(heights) - pad, max(heights) + pad])
    takeaway = f"At a threshold of {threshold:.2f}, this share of rows is answered: {joined(shares)}."
    alt = f"Curves of accuracy among the answered rows against their share. {takeaway}"
    details = "Markers: the chosen threshold. Few rows are left at the left end, so the curves jump there."
    return Chart(figure, takeaway, alt, table, details=details)
