"""What a manager sees first: the trade of speed for accuracy, the gain with its noise, what a million answers cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log10, sqrt
from typing import Any

import plotly.graph_objects as go

from dashboard.charts.formatting import (
    Estimate,
    digits,
    joined,
    mb,
    ms,
    names,
    overlap,
    percent,
    points,
    sentence,
    times,
)
from dashboard.charts.style import FAINT, GREY, Chart, Rows, finish, label, log_axis, named, whiskers
from dashboard.charts.traces import grouped, told
from inference.backends import RUNTIMES, TITLES
from inference.compare import stats
from inference.compare.benchmark import CONTROL
from inference.compare.results import cost_per_million, noise_is_assumed

Receipt = Mapping[str, Any]
LARGEST = 46  # pixels across the marker of the largest model


def front(receipt: Receipt, task: str) -> list[str]:
    """The backends, fastest first, than which no other is both faster and more accurate, going by the values alone."""
    speed = {name: one["p50_ms"]["value"] for name, one in receipt["results"]["latency"].items()}
    right = {name: one["accuracy"]["value"] for name, one in receipt["results"]["accuracy"][task].items()}
    kept = [
        name
        for name in speed
        if not any(
            speed[other] <= speed[name]
            and right[other] >= right[name]
            and (speed[other], right[other]) != (speed[name], right[name])
            for other in speed
        )
    ]
    return sorted(kept, key=speed.__getitem__)


def pareto(receipt: Receipt, task: str) -> Chart:
    """Median latency against accuracy, the marker's area the model's size, the best trades joined."""
    figures = receipt["results"]
    best = front(receipt, task)
    p50: dict[str, Estimate] = {name: one["p50_ms"] for name, one in figures["latency"].items()}
    right: dict[str, Estimate] = {name: figures["accuracy"][task][name]["accuracy"] for name in p50}
    size = {name: figures["size"][name]["model_bytes"] for name in p50}
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
        figure.add_scatter(
            x=[p50[name]["value"]],
            y=[right[name]["value"]],
            error_x=whiskers([p50[name]]) | {"color": RUNTIMES[name].color},
            error_y=whiskers([right[name]]) | {"color": RUNTIMES[name].color},
            mode="markers",
            marker={"color": RUNTIMES[name].color, "symbol": RUNTIMES[name].marker, "size": across, "opacity": 0.85},
            hovertemplate=(
                f"{named(name)}<br>p50 {told(p50[name], ms)}<br>accuracy {told(right[name], percent)}"
                f"<br>{mb(size[name])}<extra></extra>"
            ),
        )
        figure.add_annotation(
            x=log10(p50[name]["value"]),
            y=right[name]["value"],
            text=f"<b>{named(name)}</b><br>{mb(size[name])}",
            showarrow=False,
            # Beside the marker, on the side where there is room.
            xanchor="right" if name == slowest else "left",
            align="right" if name == slowest else "left",
            # Above, and for the slowest below: on a narrow screen it stands beside the next.
            yanchor="top" if name == slowest else "bottom",
            xshift=(2 - across / 2) if name == slowest else (across / 2 - 2),
            yshift=(4 - across / 2) if name == slowest else (across / 2 - 4),
        )
    finish(figure, height=420, x="median ms per text (log scale)", y="accuracy")
    low, high = min(one["low"] for one in p50.values()), max(one["high"] for one in p50.values())
    log_axis(figure, low / 1.4, high * 1.4)
    bottom, top = min(one["low"] for one in right.values()), max(one["high"] for one in right.values())
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
            "best trade": "yes" if name in best else "no",
        }
        for name in p50
    ]
    alt = f"Scatter of median time, logarithmic, against accuracy on {task}. " + " ".join(
        f"{TITLES[name]}: {ms(p50[name]['value'])}, {percent(right[name]['value'])}, {mb(size[name])}." for name in p50
    )
    note = (
        "Lines: 95 % intervals. Area: size of the model's files. "
        + (
            "Dotted: those that no other equals in both and beats in one, by the values alone. "
            if len(best) > 1
            else ""
        )
        + "The accuracies are of the same rows, so their difference is known better than the lines say: see Accuracy."
    )
    return Chart(figure, _trade(receipt, task), alt, table, note)


def _trade(receipt: Receipt, task: str) -> str:
    """The fastest against the reference: how much faster, and whether its accuracy differs."""
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    p50 = {name: one["p50_ms"] for name, one in figures["latency"].items()}
    fastest = min(p50, key=lambda name: float(p50[name]["value"]))
    if fastest == reference:
        return f"Nothing is faster than {TITLES[reference]}, at {ms(p50[reference]['value'])} a text."
    gain, pair = figures["speedup"][fastest], figures["paired"][task][fastest]
    change = pair["delta_accuracy"]["value"]
    if not gain["different"]:
        return f"No backend is measurably faster than {TITLES[reference]} here."
    if pair["flips"] == 0:
        then = f"gives the same label on all {pair['rows']:,} rows"
    elif pair["mcnemar_p"] >= 0.05:
        then = f"its accuracy is not measurably different ({points(change)} on {pair['rows']:,} rows)"
    else:
        then = f"its accuracy changes by {points(change)}"
    return f"{TITLES[fastest]} is {times(gain['value'])} as fast as {TITLES[reference]}, and {then}."


def speedup(receipt: Receipt) -> Chart:
    """How many times as fast as the reference, with the noise that a second copy of the reference shows."""
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    control = figures["control"]
    gains = {name: one for name, one in figures["speedup"].items() if name != reference}
    figure = go.Figure()
    lines = {named(name): (RUNTIMES[name].color, one) for name, one in gains.items()}
    again = f"{TITLES[reference]} again"
    lines[again] = (GREY, control)
    for line, (color, one) in lines.items():
        figure.add_bar(
            orientation="h",
            x=[one["value"]],
            y=[line],
            error_x=whiskers([one]),
            marker={"color": color, "opacity": 0.55 if line == again else 1},
            hovertemplate=f"{line}: {told(one, times)}<extra></extra>",
        )
        figure.add_scatter(
            x=[one["high"]],
            y=[line],
            mode="text",
            text=f"  <b>{times(one['value'])}</b>",
            textposition="middle right",
            hoverinfo="skip",
            cliponaxis=False,
        )
    noise = control["noise"]
    figure.add_vrect(x0=1 / noise, x1=noise, fillcolor=FAINT, line_width=0, layer="below")
    figure.add_vline(x=1, line={"color": GREY, "width": 1.5})
    finish(figure, height=80 + 52 * len(lines), x=f"times as fast as {TITLES[reference]}")
    longest = max(float(one["high"]) for _, one in lines.values())
    figure.update_xaxes(range=[0, longest * 1.2])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    table: Rows = [
        {
            "backend": TITLES[name],
            "times as fast": one["value"],
            "from": one["low"],
            "to": one["high"],
            "beyond noise": "yes" if one["different"] else "no",
        }
        for name, one in gains.items()
    ]
    table.append(
        {
            "backend": f"{again} ({CONTROL})",
            "times as fast": control["value"],
            "from": control["low"],
            "to": control["high"],
            "beyond noise": None,
        }
    )
    real = sorted((name for name in gains if gains[name]["different"]), key=lambda name: -gains[name]["value"])
    lost = [name for name in gains if name not in real]
    said = [f"{TITLES[name]} is {times(gains[name]['value'])} as fast as {TITLES[reference]}" for name in real]
    if lost:
        said.append(f"{names(lost)} cannot be told from {TITLES[reference]}")
    ratios = figures["ratios"]
    said += [
        f"which of {names([a, b])} is faster is not settled" for a, b in pairwise(real) if not ratios[a][b]["different"]
    ]
    takeaway = sentence("; ".join(said)) if said else f"Only {TITLES[reference]} was measured."
    alt = f"Bars of the speed-up over {TITLES[reference]}: " + joined(
        [f"{label(line)} {told(one, times)}" for line, (_, one) in lines.items()]
    )
    assumed = noise_is_assumed(control)
    why = (
        f"each process was started once, and two starts are taken to differ by up to {percent(noise - 1, 0)}"
        if assumed
        else f"two processes of {TITLES[reference]}, measured like any two backends, differ by up to "
        + percent(noise - 1, 0)
    )
    note = f"Grey band: {why}. A gain inside it is no gain. Lines: ratios of medians, 95 % intervals."
    return Chart(figure, takeaway, sentence(alt), table, note)


def cost(receipt: Receipt, price_per_hour: float, currency: str = "$") -> Chart:
    """What a million texts cost at each backend's best batch size, on a machine with that price."""
    backends = receipt["settings"]["backends"]
    values: dict[str, Estimate] = {}
    batch: dict[str, int] = {}
    for name in backends:
        found = receipt["results"]["throughput"][name]
        batch[name] = found["best_batch_size"]
        rate = next(one["texts_per_s"] for one in found["sweep"] if one["batch_size"] == batch[name])
        price = cost_per_million(receipt, name, price_per_hour)
        # The cost goes with one over the rate: a high rate is a low cost.
        values[name] = {
            "value": price,
            "low": price * rate["value"] / rate["high"],
            "high": price * rate["value"] / rate["low"],
        }
    figure = grouped(
        [f"a million texts at {currency}{digits(price_per_hour, 2)} an hour"],
        {name: [one] for name, one in values.items()},
        y=f"{currency} per million texts",
        say=lambda value: currency + digits(value, 2),
        height=320,
    )
    table: Rows = [
        {
            "backend": TITLES[name],
            f"{currency} per million": one["value"],
            "from": one["low"],
            "to": one["high"],
            "batch size": batch[name],
            "texts per hour": round(receipt["results"]["throughput"][name]["predictions_per_hour"]),
        }
        for name, one in values.items()
    ]
    cheap = min(values, key=lambda name: values[name]["value"])
    dear = max(values, key=lambda name: values[name]["value"])
    said = f"{TITLES[cheap]} answers a million texts for {currency}{digits(values[cheap]['value'], 2)}"
    if dear != cheap:
        ratio = values[dear]["value"] / values[cheap]["value"]
        said += f"; {TITLES[dear]} costs {times(ratio)} as much"
        if overlap(values[dear], values[cheap]):
            said += ", but what was measured overlaps"
    each = [f"{TITLES[name]} {currency}{digits(one['value'], 2)}" for name, one in values.items()]
    alt = f"Bars of the cost of a million texts: {joined(each)}"
    note = "Each backend at its best batch size, the machine busy all the time. A service with idle hours costs more."
    samples = min(
        one["texts_per_s"]["samples"] for f in receipt["results"]["throughput"].values() for one in f["sweep"]
    )
    if not stats.enough_samples(samples, 50):
        note += f" Lines: the range of {samples} calls each, too few for an interval."
    return Chart(figure, said + ".", sentence(alt), table, note)
