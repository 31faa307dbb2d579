"""How long a text takes: percentiles, their distribution, by length, in batches, part by part, from a cold start."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import floor
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, digits, joined, many, ms, names, overlap, percent, sentence, times
from dashboard.charts.style import Chart, Rows, finish, label, limit, log_axis, named
from dashboard.charts.traces import grouped, line_style, lines, stacked
from inference.backends import RUNTIMES, TITLES
from inference.compare import stats
from inference.compare.results import PERCENTILES, blocks_of
from inference.compare.stats import min_samples

Receipt = Mapping[str, Any]
CURVE = np.concatenate([np.linspace(0, 95, 96), np.linspace(95.5, 100, 10)])  # shares, %, at which a curve is drawn


def missing(latency: Mapping[str, Mapping[str, Any]]) -> str:
    """Which percentiles are left out, and why; "" if none."""
    fewest = min(int(one["texts"]) for one in latency.values())
    left_out = [p for p in PERCENTILES if not any(f"p{p}_ms" in one for one in latency.values())]
    return " ".join(f"p{p} wants {min_samples(p):,} different texts; {fewest:,} were timed." for p in left_out)


def percentiles(receipt: Receipt, max_p95_ms: float | None = None) -> Chart:
    """Bars of the percentiles that the samples carry, and the limit on p95 if there is one."""
    latency = receipt["results"]["latency"]
    shown = [p for p in PERCENTILES if any(f"p{p}_ms" in one for one in latency.values())]
    values = {name: [one.get(f"p{p}_ms") for p in shown] for name, one in latency.items()}
    figure = grouped([f"p{p}" for p in shown], values, y="ms per text, one at a time", say=digits)
    limit(figure, "limit on p95", y=max_p95_ms)
    table: Rows = [
        {"backend": TITLES[name], "percentile": f"p{p}", "ms": e["value"], "from": e["low"], "to": e["high"]}
        for name, estimates in values.items()
        for p, e in zip(shown, estimates, strict=True)
        if e
    ]
    order = sorted(latency, key=lambda name: float(latency[name]["p50_ms"]["value"]))
    said = f"Half of the texts take at most {ms(latency[order[0]]['p50_ms']['value'])} on {TITLES[order[0]]}"
    if len(order) > 1:
        rest = [f"{ms(latency[name]['p50_ms']['value'])} on {TITLES[name]}" for name in order[1:]]
        said += f", {joined(rest)}"
    ratios = receipt["results"]["ratios"]
    alike = [names([a, b]) for a, b in pairwise(order) if not ratios[a][b]["different"]]
    if alike:
        said += f"; the order of {joined(alike)} is not settled"
    each = [
        f"{TITLES[name]} " + ", ".join(f"p{p} {digits(e['value'])}" for p, e in zip(shown, estimates, strict=True) if e)
        for name, estimates in values.items()
    ]
    note = f"Bars: 95 % intervals, from {many(receipt['settings']['launches'], 'start')} of each process. "
    return Chart(
        figure, said + ".", f"Bars of latency percentiles in ms: {'; '.join(each)}.", table, note + missing(latency)
    )


def distribution(receipt: Receipt) -> Chart:
    """Which share of the texts is answered after how long, from every single sample."""
    samples = {name: np.sort(blocks_of(receipt, name)[0].ravel()) for name in receipt["settings"]["backends"]}
    figure = go.Figure()
    table: Rows = []
    for name, times_ms in samples.items():
        at = np.percentile(times_ms, CURVE)
        figure.add_scatter(
            name=TITLES[name],
            x=at.round(4).tolist(),
            y=(CURVE / 100).tolist(),
            mode="lines",
            line=line_style(name),
            hovertemplate=f"{named(name)}: %{{y:.0%}} within %{{x:.3g}} ms<extra></extra>",
        )
        # The backend's shape upon its line: the line's dash alone is hard to tell where lines are short.
        marks = [10, 50, 90]
        figure.add_scatter(
            x=np.percentile(times_ms, marks).tolist(),
            y=[mark / 100 for mark in marks],
            mode="markers",
            marker={"symbol": RUNTIMES[name].marker, "size": 9, "color": RUNTIMES[name].color},
            showlegend=False,
            hoverinfo="skip",
        )
        table += [
            {"backend": TITLES[name], "share of calls, %": share, "within, ms": float(f"{value:.4g}")}
            for share, value in zip(
                [0, 10, 25, 50, 75, 90, 100], np.percentile(times_ms, [0, 10, 25, 50, 75, 90, 100]), strict=True
            )
        ]
    finish(figure, height=380, x="ms per text (log scale)", y="share of calls answered", legend=True)
    low, high = min(one[0] for one in samples.values()), max(one[-1] for one in samples.values())
    log_axis(figure, float(low) / 1.1, float(high) * 1.1)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.01])
    reference = receipt["settings"]["reference"]
    said = []
    for name, times_ms in samples.items():
        if name != reference:
            ahead = float((times_ms < samples[reference][0]).mean())
            slowest = float((samples[reference] > times_ms[-1]).mean())
            if ahead == 1:
                said.append(f"the slowest answer of {TITLES[name]} comes before the quickest of {TITLES[reference]}")
            elif slowest == 1 or ahead > 0:
                said.append(f"{percent(ahead, 0)} of {TITLES[name]}'s answers beat {TITLES[reference]}'s quickest")
            else:
                said.append(f"no answer of {TITLES[name]} beats {TITLES[reference]}'s quickest")
    takeaway = sentence("; ".join(said) or f"{TITLES[reference]} takes {ms(samples[reference][0])} at best")
    alt = "Cumulative curves of the time of a text: " + joined(
        [f"{TITLES[n]} from {digits(v[0])} to {digits(v[-1])} ms" for n, v in samples.items()]
    )
    count = len(samples[reference])
    note = f"{count:,} calls per backend, about the same texts, one text a call. Markers at 10, 50 and 90 %."
    return Chart(figure, takeaway, alt + ".", table, note)


def by_length(receipt: Receipt) -> Chart:
    """The median by the text's length."""
    bands = receipt["results"]["latency_by_length"]
    backends = receipt["settings"]["backends"]
    points: dict[str, list[tuple[Any, Estimate]]] = {
        name: [
            (band["length"].replace(" tokens", ""), band["backends"][name]["p50_ms"])
            for band in bands
            if "p50_ms" in band["backends"][name]
        ]
        for name in backends
    }
    figure = lines(points, x="tokens in the text", y="median ms per text", say=ms)
    table: Rows = [
        {
            "length": band["length"],
            "share of rows, %": round(band["share_of_rows"] * 100, 1),
            "calls": band["calls"],
            "backend": TITLES[name],
            **{f"p{p}, ms": band["backends"][name].get(f"p{p}_ms", {}).get("value") for p in PERCENTILES},
        }
        for band in bands
        for name in backends
    ]
    drawn = [band for band in bands if all("p50_ms" in band["backends"][name] for name in backends)]
    note = " ".join(
        f"{band['length']}: {many(band['calls'], 'call')}, too few to draw." for band in bands if band not in drawn
    )
    few = [
        f"{band['length']} ({band['calls']:,} calls)" for band in drawn if "p90_ms" not in band["backends"][backends[0]]
    ]
    if few:
        note += f" Few samples, wide intervals: {joined(few)}."
    if len(drawn) < 2:
        takeaway = (
            f"Only texts of {drawn[0]['length']} were timed often enough to draw."
            if drawn
            else "No length was timed often enough to draw."
        )
    else:
        first, last = drawn[0], drawn[-1]
        ends = {name: (first["backends"][name]["p50_ms"], last["backends"][name]["p50_ms"]) for name in backends}
        said = joined(
            [
                f"on {TITLES[name]} "
                + (
                    "no measurably longer"
                    if overlap(*pair)
                    else f"{times(pair[1]['value'] / pair[0]['value'])} the time"
                )
                for name, pair in ends.items()
            ]
        )
        takeaway = f"A text of {last['length']} takes, against one of {first['length']}, {said}."
    alt = "Lines of the median time by length of text: " + "; ".join(
        f"{TITLES[name]} " + ", ".join(f"{at} tokens {ms(one['value'])}" for at, one in pairs)
        for name, pairs in points.items()
    )
    return Chart(figure, takeaway, alt + ".", table, note.strip())


def batches(receipt: Receipt) -> Chart:
    """Texts per second by batch size."""
    found = receipt["results"]["throughput"]
    points: dict[str, list[tuple[Any, Estimate]]] = {
        name: [(one["batch_size"], one["texts_per_s"]) for one in found[name]["sweep"]]
        for name in receipt["settings"]["backends"]
    }
    figure = lines(points, x="texts in a batch", y="texts per second", say=digits)
    table: Rows = [
        {
            "backend": TITLES[name],
            "batch size": one["batch_size"],
            "texts per second": one["texts_per_s"]["value"],
            "from": one["texts_per_s"]["low"],
            "to": one["texts_per_s"]["high"],
            "padding, % of tokens": round(one["padded_share"] * 100, 1),
        }
        for name in found
        for one in found[name]["sweep"]
    ]
    best = {
        name: next(e for size, e in pairs if size == found[name]["best_batch_size"]) for name, pairs in points.items()
    }
    order = sorted(best, key=lambda name: -best[name]["value"])
    said = [
        f"{TITLES[name]} answers most in batches of {found[name]['best_batch_size']}: {digits(best[name]['value'])}/s"
        for name in order
    ]
    takeaway = sentence("; ".join([said[0], *(one.replace(" answers most", "", 1) for one in said[1:])]))
    gains = [name for name in order if not overlap(points[name][0][1], best[name])]
    samples = min(one["texts_per_s"]["samples"] for name in found for one in found[name]["sweep"])
    if not stats.enough_samples(samples, 50):
        gains, ends = order, f" Lines: the range of {samples} calls each, too few for an interval."
    else:
        ends = " Lines: 95 % intervals."
    note = (
        f"{joined([TITLES[n] for n in order if n not in gains])}: batches are not measurably faster than single texts."
        if len(gains) < len(order)
        else "On each backend its best batch is measurably faster than single texts."
        if stats.enough_samples(samples, 50)
        else ""
    )
    alt = "Lines of texts per second by batch size: " + "; ".join(
        f"{TITLES[name]} " + ", ".join(f"{size}: {digits(one['value'])}" for size, one in pairs)
        for name, pairs in points.items()
    )
    return Chart(figure, takeaway, alt + ".", table, (note + ends).strip())


PARTS = {"tokenize_ms": "tokenise", "forward_ms": "forward", "rest_ms": "rest"}


def stages(receipt: Receipt) -> Chart:
    """Where the time of one text goes."""
    found = receipt["results"]["stages"]
    values = {name: [(PARTS[key], one[key]) for key in PARTS] for name, one in found.items()}
    words = {name: " + ".join(digits(length, 2) for _, length in parts) for name, parts in values.items()}
    figure = stacked(values, x="median ms of one text", say=ms, totals=words)
    table: Rows = [
        {"backend": TITLES[name], **{f"{part}, ms": length for part, length in parts}} for name, parts in values.items()
    ]
    shares = {name: one["forward_ms"] / (sum(one[key] for key in PARTS) or 1) for name, one in found.items()}
    least = min(shares.values())
    takeaway = f"On every backend the model itself takes at least {floor(least * 100)} % of the time" + (
        ": there is little to gain beside it." if least > 0.75 else "."
    )
    alt = "Bars in three parts, tokenise, forward and rest, in ms: " + "; ".join(
        f"{TITLES[name]} {text}" for name, text in words.items()
    )
    note = "At the ends: tokenise + forward + rest. Rest is checking the text, padding it, and reading the answer."
    return Chart(figure, takeaway, alt + ".", table, note)


STEPS = {"import_s": "import", "load_s": "load", "first_answer_s": "first answer"}


def cold_start(receipt: Receipt) -> Chart:
    """From nothing to the first answer."""
    found = receipt["results"]["start"]
    values = {name: [(STEPS[key], one[key]) for key in STEPS] for name, one in found.items()}
    ends: dict[str, Estimate] = {
        name: {"value": one["total_s"], "low": one["min_s"], "high": one["max_s"]} for name, one in found.items()
    }
    words = {name: f"{digits(one['total_s'], 2)} s" for name, one in found.items()}
    figure = stacked(
        values, x="seconds from the start of the process", say=lambda s: f"{digits(s, 2)} s", totals=words, ends=ends
    )
    table: Rows = [
        {
            "backend": TITLES[name],
            **{f"{STEPS[key]}, s": one[key] for key in STEPS},
            "in all, s": one["total_s"],
            "quickest, s": one["min_s"],
            "slowest, s": one["max_s"],
            "starts": one["runs"],
        }
        for name, one in found.items()
    ]
    order = sorted(found, key=lambda name: float(found[name]["total_s"]))
    takeaway = f"{TITLES[order[0]]} gives its first answer {words[order[0]]} after its process starts"
    takeaway += "".join(f", {TITLES[name]} after {words[name]}" for name in order[1:]) + "."
    alt = "Bars in three parts, import, load and first answer: " + joined(
        [f"{TITLES[n]} {w}" for n, w in words.items()]
    )
    counts = joined([f"{TITLES[name]} {one['runs']}" for name, one in found.items()])
    note = f"Medians of these starts: {counts}. Lines: quickest to slowest. The files were in the disk cache."
    if len({one["runs"] for one in found.values()}) > 1:
        note += f" {TITLES[receipt['settings']['reference']]} has the starts of the control too."
    return Chart(figure, takeaway, alt + ".", table, note)


def threads(receipt: Receipt) -> Chart | None:
    """The median by number of threads; None where only one number was tried."""
    found = receipt["results"]["threads"]
    if not receipt["other_threads"]:
        return None
    points: dict[str, list[tuple[Any, Estimate]]] = {
        name: [(count, {"value": v, "low": v, "high": v}) for count, v in one["median_ms"].items()]
        for name, one in found.items()
    }
    figure = lines(points, x="threads", y="median ms per text", say=ms, height=320)
    table: Rows = [
        {"backend": TITLES[name], "threads": int(count), "median, ms": value}
        for name, one in found.items()
        for count, value in one["median_ms"].items()
    ]
    own = receipt["settings"]["threads"]
    said = [f"{TITLES[name]} with {many(one['best'], 'thread')}" for name, one in found.items() if one["best"] != own]
    takeaway = (
        f"More than 10 % faster than with {own}: {joined(said)}."
        if said
        else f"No other number of threads than {own} is more than 10 % faster."
    )
    alt = "Lines of the median time by threads: " + "; ".join(
        f"{TITLES[n]} " + ", ".join(f"{c}: {ms(v)}" for c, v in one["median_ms"].items()) for n, one in found.items()
    )
    note = (
        f"All other figures here are with {many(own, 'thread')} for every backend. One start, the same texts each time."
    )
    return Chart(figure, takeaway, alt + ".", table, note)


def shapes(receipt: Receipt) -> Chart | None:
    """Forward passes over exact shapes; None in a quick run, which leaves them out."""
    found = receipt["results"]["shapes"]
    if not found:
        return None
    backends, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    lines_of = [f"{one['texts']} × {one['tokens']}" for one in found]
    figure = go.Figure()
    for name in backends:
        figure.add_scatter(
            name=TITLES[name],
            x=[one["median_ms"][name] for one in found],
            y=lines_of,
            error_x={
                "array": [one["interval_ms"][name][1] - one["median_ms"][name] for one in found],
                "arrayminus": [one["median_ms"][name] - one["interval_ms"][name][0] for one in found],
                "thickness": 1,
                "width": 3,
            },
            mode="markers",
            marker={"color": RUNTIMES[name].color, "symbol": RUNTIMES[name].marker, "size": 10},
            hovertemplate=f"{named(name)}, %{{y}}: %{{x:.3g}} ms<extra></extra>",
        )
    finish(
        figure,
        height=110 + 26 * len(found),
        x="median ms of a forward pass (log scale)",
        y="texts × tokens",
        legend=True,
    )
    every = [end for one in found for name in backends for end in one["interval_ms"][name]]
    log_axis(figure, min(every) / 1.3, max(every) * 1.3)
    figure.update_yaxes(type="category", autorange="reversed")
    table: Rows = [
        {
            "texts": one["texts"],
            "tokens": one["tokens"],
            "backend": TITLES[name],
            "median, ms": one["median_ms"][name],
            "from": one["interval_ms"][name][0],
            "to": one["interval_ms"][name][1],
        }
        for one in found
        for name in backends
    ]
    said = []
    for name in backends:
        if name != reference:
            gains = [one["median_ms"][reference] / one["median_ms"][name] for one in found]
            reach = f"{digits(min(gains))} to {times(max(gains))}" if len(gains) > 1 else times(gains[0])
            said.append(f"{TITLES[name]} is {reach} as fast as {TITLES[reference]}")
    takeaway = sentence(f"Depending on the shape, {joined(said)}" if said else f"Only {TITLES[reference]} was measured")
    alt = f"Dots of the median time of a forward pass for {len(found)} shapes of texts by tokens. {label(takeaway)}"
    return Chart(
        figure,
        takeaway,
        alt,
        table,
        "Every text exactly this long, no padding: to compare with other publications. Lines: 95 % intervals.",
    )
