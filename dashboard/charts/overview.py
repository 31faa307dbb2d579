"""What a manager sees first: speed against accuracy, the speed-up with its noise, the cost of a million answers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log10, sqrt
from typing import TypeVar

import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, Receipt, each, ends, joined, names, overlap, sentence, span
from dashboard.charts.style import FAINT, GREY, Chart, Rows, finish, label, log_axis, marker, named, whiskers
from dashboard.charts.traces import grouped
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits, mb, ms, percent, points, times
from inference.compare.benchmark import CONTROL
from inference.compare.results import cost_per_million, noise_is_assumed
from inference.compare.stats import enough_samples

Key = TypeVar("Key")
LARGEST = 46  # pixels across the marker of the largest model


def front(receipt: Receipt, task: str) -> list[str]:
    """Return the backends, fastest first, that no other beats in both speed and accuracy, by the values alone."""
    right = receipt["results"]["accuracy"][task]
    return unbeaten(
        {
            name: (latency["p50_ms"]["value"], right[name]["accuracy"]["value"])
            for name, latency in receipt["results"]["latency"].items()
        }
    )


def unbeaten(points: Mapping[Key, tuple[float, float]]) -> list[Key]:
    """Return what no other beats in both latency and accuracy, fastest first; both are the values of `points`."""

    def is_beaten(key: Key) -> bool:
        slow, right = points[key]
        return any(other != points[key] and other[0] <= slow and other[1] >= right for other in points.values())

    return sorted((key for key in points if not is_beaten(key)), key=lambda key: points[key][0])


def pareto(receipt: Receipt, task: str) -> Chart:
    """Median latency against accuracy; the marker's area is the model's size; the best trade-offs are joined."""
    results = receipt["results"]
    best = front(receipt, task)
    p50: dict[str, Estimate] = {name: of["p50_ms"] for name, of in results["latency"].items()}
    right: dict[str, Estimate] = {name: results["accuracy"][task][name]["accuracy"] for name in p50}
    size = {name: results["size"][name]["model_bytes"] for name in p50}
    slowest = max(p50, key=lambda name: p50[name]["value"])
    figure = go.Figure()
    if len(best) > 1:
        figure.add_scatter(
            x=[p50[name]["value"] for name in best],
            y=[right[name]["value"] for name in best],
            mode="lines",
            line={"color": GREY, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
        )
    for name in p50:
        across = max(10.0, LARGEST * sqrt(size[name] / max(size.values())))
        _add_backend(figure, name, p50[name], right[name], mb(size[name]), across, name == slowest)
    finish(figure, height=420, x="median ms per text (log scale)", y="accuracy")
    log_axis(figure, min(e["low"] for e in p50.values()) / 1.4, max(e["high"] for e in p50.values()) * 1.4)
    bottom, top = min(e["low"] for e in right.values()), max(e["high"] for e in right.values())
    pad = 0.15 * (top - bottom)
    figure.update_yaxes(tickformat=".1%", range=[bottom - pad, top + pad])
    table: Rows = [
        {
            "backend": TITLES[name],
            "p50, ms": p50[name]["value"],
            "p50 from": p50[name]["low"],
            "p50 to": p50[name]["high"],
            "accuracy": right[name]["value"],
            "accuracy from": right[name]["low"],
            "accuracy to": right[name]["high"],
            "model, MB": round(size[name] / 1e6, 1),
            "best trade-off": "yes" if name in best else "no",
        }
        for name in p50
    ]
    alt = f"Scatter of median time, logarithmic, against accuracy on {task}. " + " ".join(
        f"{TITLES[name]}: {ms(p50[name]['value'])}, {percent(right[name]['value'])}, {mb(size[name])}." for name in p50
    )
    dotted = "Dotted line: backends that no other beats in both, by the values alone. " if len(best) > 1 else ""
    note = (
        f"Error bars: 95% intervals. Area: size of the model's files. {dotted}The accuracies are of the same rows, so "
        "their difference is known more precisely than the error bars suggest: see Accuracy."
    )
    return Chart(figure, _trade(receipt, task), alt, table, note)


def _add_backend(
    figure: go.Figure, name: str, p50: Estimate, right: Estimate, size: str, across: float, is_slowest: bool
) -> None:
    """Draw a marker with its intervals, and the name beside it; `across` is the marker's size in pixels."""
    figure.add_scatter(
        x=[p50["value"]],
        y=[right["value"]],
        error_x=whiskers([p50]) | {"color": RUNTIMES[name].color},
        error_y=whiskers([right]) | {"color": RUNTIMES[name].color},
        mode="markers",
        marker=marker(name, across) | {"opacity": 0.85},
        hovertemplate=(
            f"{named(name)}<br>p50 {span(p50, ms)}<br>accuracy {span(right, percent)}<br>{size}<extra></extra>"
        ),
    )
    # Right of the marker and above it; for the slowest left and below, where there is room on a narrow screen.
    side, edge, sign = ("right", "top", -1) if is_slowest else ("left", "bottom", 1)
    figure.add_annotation(
        x=log10(p50["value"]),
        y=right["value"],
        text=f"<b>{named(name)}</b><br>{size}",
        showarrow=False,
        xanchor=side,
        align=side,
        yanchor=edge,
        xshift=sign * (across / 2 - 2),
        yshift=sign * (across / 2 - 4),
    )


def _trade(receipt: Receipt, task: str) -> str:
    """Compare the fastest backend with the reference: how much faster, and whether its accuracy differs."""
    results, reference = receipt["results"], receipt["settings"]["reference"]
    p50 = {name: float(of["p50_ms"]["value"]) for name, of in results["latency"].items()}
    fastest = min(p50, key=p50.__getitem__)
    if fastest == reference:
        return f"No backend is faster than {TITLES[reference]}, at {ms(p50[reference])} per text."
    gain, pair = results["speedup"][fastest], results["paired"][task][fastest]
    change = points(pair["delta_accuracy"]["value"])
    if not gain["different"]:
        return f"No backend is measurably faster than {TITLES[reference]} here."
    if pair["flips"] == 0:
        then = f"gives the same label on all {pair['rows']:,} rows"
    elif pair["mcnemar_p"] >= 0.05:
        then = f"its accuracy is not measurably different ({change} on {pair['rows']:,} rows)"
    else:
        then = f"its accuracy changes by {change}"
    return f"{TITLES[fastest]} is {times(gain['value'])} as fast as {TITLES[reference]}, and {then}."


def speedup(receipt: Receipt) -> Chart:
    """How many times as fast as the reference, with the noise between two processes of the reference."""
    results, reference = receipt["results"], receipt["settings"]["reference"]
    base, control = TITLES[reference], results["control"]
    gains = {name: gain for name, gain in results["speedup"].items() if name != reference}
    again = f"{base} again"
    bars = {named(name): (RUNTIMES[name].color, gain) for name, gain in gains.items()} | {again: (GREY, control)}
    figure = go.Figure()
    for line, (color, gain) in bars.items():
        figure.add_bar(
            orientation="h",
            x=[gain["value"]],
            y=[line],
            error_x=whiskers([gain]),
            marker={"color": color, "opacity": 0.55 if line == again else 1},
            hovertemplate=f"{line}: {span(gain, times)}<extra></extra>",
        )
        figure.add_scatter(
            x=[gain["high"]],
            y=[line],
            mode="text",
            text=f"  <b>{times(gain['value'])}</b>",
            textposition="middle right",
            hoverinfo="skip",
            cliponaxis=False,
        )
    noise = control["noise"]
    figure.add_vrect(x0=1 / noise, x1=noise, fillcolor=FAINT, line_width=0, layer="below")
    figure.add_vline(x=1, line={"color": GREY, "width": 1.5})
    finish(figure, height=80 + 52 * len(bars), x=f"times as fast as {base}")
    figure.update_xaxes(range=[0, max(float(gain["high"]) for _, gain in bars.values()) * 1.2])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    rows = {TITLES[name]: (gain, "yes" if gain["different"] else "no") for name, gain in gains.items()}
    table: Rows = [
        {"backend": title, "times as fast": gain["value"], **ends(gain), "beyond noise": beyond}
        for title, (gain, beyond) in (rows | {f"{again} ({CONTROL})": (control, None)}).items()
    ]
    real = sorted((name for name in gains if gains[name]["different"]), key=lambda name: -gains[name]["value"])
    parts = [f"{TITLES[name]} is {times(gains[name]['value'])} as fast as {base}" for name in real]
    if within := [name for name in gains if name not in real]:
        parts.append(
            f"{names(within)} {'is' if len(within) == 1 else 'are'} not measurably faster or slower than {base}"
        )
    parts += [
        f"which of {names([a, b])} is faster is not settled"
        for a, b in pairwise(real)
        if not results["ratios"][a][b]["different"]
    ]
    takeaway = sentence("; ".join(parts)) if parts else f"Only {base} was measured."
    described = [f"{label(line)} {span(gain, times)}" for line, (_, gain) in bars.items()]
    reason = (
        "each process was started once, and two starts are assumed to differ by up to"
        if noise_is_assumed(control)
        else f"two processes of {base}, measured like any two backends, differ by up to"
    )
    note = (
        f"Grey band: {reason} {percent(noise - 1, 0)}. A gain inside it is noise. Bars: ratios of medians with 95% "
        "intervals."
    )
    return Chart(figure, takeaway, f"Bars of the speed-up over {base}: {joined(described)}.", table, note)


def cost(receipt: Receipt, price_per_hour: float, currency: str = "$") -> Chart:
    """The cost of a million texts at each backend's best batch size, on a machine with that price."""
    throughput = receipt["results"]["throughput"]
    values: dict[str, Estimate] = {}
    for name in receipt["settings"]["backends"]:
        best = throughput[name]["best_batch_size"]
        rate = next(step["texts_per_s"] for step in throughput[name]["sweep"] if step["batch_size"] == best)
        price = cost_per_million(receipt, name, price_per_hour)
        # The cost is inversely proportional to the rate: a high rate is a low cost.
        low, high = (price * rate["value"] / rate[end] for end in ("high", "low"))
        values[name] = {"value": price, "low": low, "high": high}

    def money(value: float) -> str:
        return currency + digits(value, 2)

    figure = grouped(
        [f"a million texts at {money(price_per_hour)} an hour"],
        {name: [estimate] for name, estimate in values.items()},
        y=f"{currency} per million texts",
        say=money,
        height=320,
    )
    table: Rows = [
        {
            "backend": TITLES[name],
            f"{currency} per million": estimate["value"],
            **ends(estimate),
            "batch size": throughput[name]["best_batch_size"],
            "texts per hour": round(throughput[name]["predictions_per_hour"]),
        }
        for name, estimate in values.items()
    ]
    cheap, dear = (f(values, key=lambda name: values[name]["value"]) for f in (min, max))
    takeaway = f"{TITLES[cheap]} answers a million texts for {money(values[cheap]['value'])}"
    if dear != cheap:
        takeaway += f"; {TITLES[dear]} costs {times(values[dear]['value'] / values[cheap]['value'])} as much"
        if overlap(values[dear], values[cheap]):
            takeaway += ", but the intervals overlap"
    alt = f"Bars of the cost of a million texts: {joined(each(values, lambda e: money(e['value'])))}."
    note = "Each backend at its best batch size, with the machine always busy. A service with idle hours costs more."
    samples = min(step["texts_per_s"]["samples"] for of in throughput.values() for step in of["sweep"])
    if not enough_samples(samples, 50):
        note += f" Error bars: the range of {samples} calls each, too few for an interval."
    return Chart(figure, f"{takeaway}.", alt, table, note)
