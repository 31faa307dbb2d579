"""How long a text takes: percentiles, their distribution, by length, in batches, part by part, from a cold start."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import floor
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.formatting import Estimate, Receipt, each, ends, many, names, overlap, sentence
from dashboard.charts.style import Chart, Rows, finish, label, limit, log_axis, marker, named, whiskers
from dashboard.charts.traces import grouped, line_style, lines, stacked
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits, joined, ms, percent, times
from inference.compare.results import PERCENTILES, blocks_of, noise_is_assumed
from inference.compare.stats import enough_samples, min_samples

CURVE = np.concatenate([np.linspace(0, 95, 96), np.linspace(95.5, 100, 10)])  # percentiles at which a curve is drawn
Points = dict[str, list[tuple[Any, Estimate]]]


def missing(latency: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which percentiles are left out, and why; "" if none."""
    fewest = min(int(figures["texts"]) for figures in latency.values())
    left_out = [p for p in PERCENTILES if not any(f"p{p}_ms" in figures for figures in latency.values())]
    return " ".join(f"p{p} needs {min_samples(p):,} different texts; {fewest:,} were timed." for p in left_out)


def percentiles(receipt: Receipt, max_p95_ms: float | None = None) -> Chart:
    """Bars of the percentiles that the samples support, and the limit on p95 if there is one."""
    latency = receipt["results"]["latency"]
    shown = [p for p in PERCENTILES if any(f"p{p}_ms" in figures for figures in latency.values())]
    values = {name: [figures.get(f"p{p}_ms") for p in shown] for name, figures in latency.items()}
    figure = grouped([f"p{p}" for p in shown], values, y="ms per text, one at a time")
    limit(figure, "limit on p95", y=max_p95_ms)
    present = {name: [(p, e) for p, e in zip(shown, all_, strict=True) if e] for name, all_ in values.items()}
    table: Rows = [
        {"runtime": TITLES[name], "percentile": f"p{p}", "ms": estimate["value"], **ends(estimate)}
        for name, pairs in present.items()
        for p, estimate in pairs
    ]
    order = sorted(latency, key=lambda name: float(latency[name]["p50_ms"]["value"]))
    medians = [f"{ms(latency[name]['p50_ms']['value'])} on {TITLES[name]}" for name in order]
    takeaway = f"Half of the texts take at most {', '.join([medians[0], *filter(None, [joined(medians[1:])])])}"
    ratios = receipt["results"]["ratios"]
    if alike := [names([a, b]) for a, b in pairwise(order) if not ratios[a][b]["different"]]:
        takeaway += f"; the order of {joined(alike)} is not settled"
    alt = each(present, lambda pairs: ", ".join(f"p{p} {digits(estimate['value'])}" for p, estimate in pairs))
    details = (
        "p50: half of the texts take at most this long; p95: 95 of 100. Error bars: 95% intervals, from "
        f"{many(receipt['settings']['launches'], 'start')} of each process."
    )
    described = f"Bars of latency percentiles in ms: {'; '.join(alt)}."
    return Chart(figure, f"{takeaway}.", described, table, missing(latency), details)


def distribution(receipt: Receipt) -> Chart:
    """The share of texts answered within a time, from every single sample."""
    samples = {name: np.sort(blocks_of(receipt, name)[0].ravel()) for name in receipt["settings"]["backends"]}
    figure = go.Figure()
    table: Rows = []
    for name, times_ms in samples.items():
        figure.add_scatter(
            name=TITLES[name],
            x=np.percentile(times_ms, CURVE).round(4).tolist(),
            y=(CURVE / 100).tolist(),
            mode="lines",
            line=line_style(name),
            hovertemplate=f"{named(name)}: %{{y:.0%}} within %{{x:.3g}} ms<extra></extra>",
        )
        # The backend's shape on its line: the dash alone is hard to tell apart on short lines.
        marks = [10, 50, 90]
        figure.add_scatter(
            x=np.percentile(times_ms, marks).tolist(),
            y=[mark / 100 for mark in marks],
            mode="markers",
            marker=marker(name, 9),
            showlegend=False,
            hoverinfo="skip",
        )
        shares = [0, 10, 25, 50, 75, 90, 100]
        table += [
            {"runtime": TITLES[name], "share of calls, %": share, "within, ms": float(f"{value:.4g}")}
            for share, value in zip(shares, np.percentile(times_ms, shares), strict=True)
        ]
    finish(figure, height=380, x="ms per text (log scale)", y="share of calls answered", legend=True)
    low, high = (float(f(every[end] for every in samples.values())) for f, end in ((min, 0), (max, -1)))
    log_axis(figure, low / 1.1, high * 1.1)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.01])
    reference = receipt["settings"]["reference"]
    fastest, base = samples[reference][0], TITLES[reference]
    comparisons = []
    for name, times_ms in samples.items():
        ahead = float((times_ms < fastest).mean())
        if name == reference:
            continue
        if ahead == 1:
            comparisons.append(f"even the slowest answer of {TITLES[name]} is faster than {base}'s fastest")
        elif ahead > 0:
            comparisons.append(f"{percent(ahead, 0)} of {TITLES[name]}'s answers are faster than {base}'s fastest")
        else:
            comparisons.append(f"no answer of {TITLES[name]} is faster than {base}'s fastest")
    takeaway = sentence("; ".join(comparisons) or f"{base} takes {ms(fastest)} at best")
    alt = joined(each(samples, lambda times_ms: f"from {digits(times_ms[0])} to {digits(times_ms[-1])} ms"))
    details = (
        f"{len(samples[reference]):,} calls per runtime with the same texts, one per call. Markers: 10, 50 and 90%."
    )
    return Chart(figure, takeaway, f"Cumulative curves of the time per text: {alt}.", table, details=details)


def by_length(receipt: Receipt) -> Chart:
    """The median by the text's length."""
    bands = receipt["results"]["latency_by_length"]
    backends = receipt["settings"]["backends"]
    points: Points = {
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
            "runtime": TITLES[name],
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
    if not drawn:
        takeaway = "No length was timed often enough to draw."
    elif len(drawn) == 1:
        takeaway = f"Only texts of {drawn[0]['length']} were timed often enough to draw."
    else:
        short, long = drawn[0], drawn[-1]
        changes = []
        for name in backends:
            first, last = (band["backends"][name]["p50_ms"] for band in (short, long))
            ratio = f"{times(last['value'] / first['value'])} as long"
            changes.append(f"{'no measurably longer' if overlap(first, last) else ratio} on {TITLES[name]}")
        takeaway = f"Compared with a text of {short['length']}, one of {long['length']} takes {joined(changes)}."
    alt = each(points, lambda pairs: ", ".join(f"{at} tokens {ms(estimate['value'])}" for at, estimate in pairs))
    return Chart(figure, takeaway, f"Lines of the median time by text length: {'; '.join(alt)}.", table, note.strip())


def batches(receipt: Receipt) -> Chart:
    """Texts per second by batch size."""
    throughput = receipt["results"]["throughput"]
    sweeps = {name: throughput[name]["sweep"] for name in receipt["settings"]["backends"]}
    points: Points = {
        name: [(step["batch_size"], step["texts_per_s"]) for step in sweep] for name, sweep in sweeps.items()
    }
    figure = lines(points, x="texts in a batch", y="texts per second", say=digits)
    table: Rows = [
        {
            "runtime": TITLES[name],
            "batch size": step["batch_size"],
            "texts per second": step["texts_per_s"]["value"],
            **ends(step["texts_per_s"]),
            "padding, % of tokens": round(step["padded_share"] * 100, 1),
        }
        for name, sweep in sweeps.items()
        for step in sweep
    ]
    sizes = {name: throughput[name]["best_batch_size"] for name in points}
    best = {name: dict(pairs)[sizes[name]] for name, pairs in points.items()}
    order = sorted(best, key=lambda name: -best[name]["value"])
    rates = [f"{digits(best[name]['value'])}/s on {TITLES[name]} (batches of {sizes[name]})" for name in order]
    takeaway = f"The highest throughput is {joined(rates)}."
    samples = min(step["texts_per_s"]["samples"] for sweep in sweeps.values() for step in sweep)
    if enough_samples(samples, 50):
        unsure = [TITLES[name] for name in order if overlap(points[name][0][1], best[name])]
        note = (
            f"{joined(unsure)}: batches are not measurably faster than single texts."
            if unsure
            else "On each runtime its best batch is measurably faster than single texts."
        )
        details = "Error bars: 95% intervals."
    else:
        note, details = "", f"Error bars: the range of {samples} calls each, too few for an interval."
    alt = each(points, lambda pairs: ", ".join(f"{size}: {digits(rate['value'])}" for size, rate in pairs))
    return Chart(figure, takeaway, f"Lines of texts per second by batch size: {'; '.join(alt)}.", table, note, details)


PARTS = {"tokenize_ms": "tokenise", "forward_ms": "forward", "rest_ms": "rest"}


def stages(receipt: Receipt) -> Chart:
    """Where the time of one text goes."""
    stages = receipt["results"]["stages"]
    values = {name: [(part, medians[key]) for key, part in PARTS.items()] for name, medians in stages.items()}
    totals = {name: " + ".join(digits(length, 2) for _, length in parts) for name, parts in values.items()}
    figure = stacked(values, x="median ms of one text", say=ms, totals=totals)
    table: Rows = [
        {"runtime": TITLES[name], **{f"{part}, ms": length for part, length in parts}} for name, parts in values.items()
    ]
    least = min(medians["forward_ms"] / (sum(medians[key] for key in PARTS) or 1) for medians in stages.values())
    takeaway = f"On every runtime the model itself takes at least {floor(least * 100)}% of the time" + (
        ": there is little to gain elsewhere." if least > 0.75 else "."
    )
    alt = f"Bars in three parts, tokenise, forward and rest, in ms: {'; '.join(each(totals, str))}."
    note = "In order: tokenising, the model, the rest."
    details = "The rest is checking the text, padding it, and reading the answer."
    return Chart(figure, takeaway, alt, table, note, details)


STEPS = {"import_s": "import", "load_s": "load", "first_answer_s": "first answer"}


def cold_start(receipt: Receipt) -> Chart:
    """The time from starting the process to the first answer."""
    starts = receipt["results"]["start"]
    totals = {name: _seconds(starts[name]["total_s"]) for name in sorted(starts, key=lambda n: starts[n]["total_s"])}
    figure = stacked(
        {name: [(step, start[key]) for key, step in STEPS.items()] for name, start in starts.items()},
        x="seconds from the start of the process",
        say=_seconds,
        totals=totals,
        intervals={
            name: {"value": start["total_s"], "low": start["min_s"], "high": start["max_s"]}
            for name, start in starts.items()
        },
    )
    table: Rows = [
        {
            "runtime": TITLES[name],
            **{f"{step}, s": start[key] for key, step in STEPS.items()},
            "in all, s": start["total_s"],
            "fastest, s": start["min_s"],
            "slowest, s": start["max_s"],
            "starts": start["runs"],
        }
        for name, start in starts.items()
    ]
    (first, total), *others = totals.items()
    takeaway = f"{TITLES[first]} gives its first answer {total} after its process starts"
    takeaway += "".join(f", {TITLES[name]} after {after}" for name, after in others) + "."
    alt = f"Bars in three parts, import, load and first answer: {joined(each(totals, str))}."
    runs = {name: start["runs"] for name, start in starts.items()}
    details = (
        f"Medians; number of starts: {joined(each(runs, str))}. Error bars: fastest to slowest. The files were in the "
        "disk cache."
    )
    if len(set(runs.values())) > 1:
        details += f" {TITLES[receipt['settings']['reference']]} has more, because it was also measured against itself."
    return Chart(figure, takeaway, alt, table, details=details)


def _seconds(value: float) -> str:
    return f"{digits(value, 2)} s"


def threads(receipt: Receipt) -> Chart | None:
    """The median by number of threads; None if only one number was tried."""
    if not receipt["other_threads"]:
        return None
    threads = receipt["results"]["threads"]
    medians = {name: list(tried["median_ms"].items()) for name, tried in threads.items()}
    points: Points = {
        name: [(count, {"value": value, "low": value, "high": value}) for count, value in pairs]
        for name, pairs in medians.items()
    }
    figure = lines(points, x="threads", y="median ms per text", say=ms, height=320)
    table: Rows = [
        {"runtime": TITLES[name], "threads": int(count), "median, ms": value}
        for name, pairs in medians.items()
        for count, value in pairs
    ]
    own = receipt["settings"]["threads"]
    faster = {name: many(tried["best"], "thread") for name, tried in threads.items() if tried["best"] != own}
    takeaway = (
        f"More than 10% faster than with {own}: {joined(each(faster, lambda count: f'with {count}'))}."
        if faster
        else f"No other number of threads than {own} is more than 10% faster."
    )
    alt = each(medians, lambda pairs: ", ".join(f"{count}: {ms(value)}" for count, value in pairs))
    note = f"All other figures use {many(own, 'thread')} per runtime."
    details = "One start, the same texts each time."
    return Chart(figure, takeaway, f"Lines of the median time by threads: {'; '.join(alt)}.", table, note, details)


def shapes(receipt: Receipt) -> Chart | None:
    """Forward passes over exact shapes; None in a quick run, which leaves them out."""
    shapes = receipt["results"]["shapes"]
    if not shapes:
        return None
    backends, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    estimates = {name: [_estimate(shape, name) for shape in shapes] for name in backends}
    figure = go.Figure()
    for name, medians in estimates.items():
        figure.add_scatter(
            name=TITLES[name],
            x=[median["value"] for median in medians],
            y=[f"{shape['texts']} × {shape['tokens']}" for shape in shapes],
            error_x=whiskers(medians) | {"color": RUNTIMES[name].color, "thickness": 1, "width": 3},
            mode="markers",
            marker=marker(name, 10),
            hovertemplate=f"{named(name)}, %{{y}}: %{{x:.3g}} ms<extra></extra>",
        )
    height = 110 + 26 * len(shapes)
    finish(figure, height=height, x="median ms of a forward pass (log scale)", y="texts × tokens", legend=True)
    every = [median for medians in estimates.values() for median in medians]
    log_axis(figure, min(median["low"] for median in every) / 1.3, max(median["high"] for median in every) * 1.3)
    figure.update_yaxes(type="category", autorange="reversed")
    table: Rows = [
        {
            "texts": shape["texts"],
            "tokens": shape["tokens"],
            "runtime": TITLES[name],
            "median, ms": estimates[name][i]["value"],
            **ends(estimates[name][i]),
        }
        for i, shape in enumerate(shapes)
        for name in backends
    ]
    speedups = []
    for name in backends:
        if name != reference:
            gains = [shape["median_ms"][reference] / shape["median_ms"][name] for shape in shapes]
            span = f"{digits(min(gains))} to {times(max(gains))}" if len(gains) > 1 else times(gains[0])
            speedups.append(f"{TITLES[name]} is {span} as fast as {TITLES[reference]}")
    takeaway = f"Depending on the shape, {joined(speedups)}." if speedups else f"Only {TITLES[reference]} was measured."
    alt = f"Dots of the median time of a forward pass for {len(shapes)} shapes of texts by tokens. {label(takeaway)}"
    details = (
        "Every text has exactly this length, without padding, for comparison with other publications. Error bars: 95% "
        "intervals."
    )
    return Chart(figure, takeaway, alt, table, details=details)


def noise(receipt: Receipt) -> tuple[str, str]:
    """Say how large a difference is noise, and how that was measured."""
    control, reference = receipt["results"]["control"], TITLES[receipt["settings"]["reference"]]
    how = (
        f"Two processes of {reference} were measured like two runtimes; their medians differ by at most this."
        if not noise_is_assumed(control)
        else "Each process was started once. Two starts of a process are assumed to differ by at most this."
    )
    return f"Differences below {percent(control['noise'] - 1, 0)} are noise.", how


def _estimate(shape: Mapping[str, Any], name: str) -> Estimate:
    low, high = shape["interval_ms"][name]
    return {"value": shape["median_ms"][name], "low": low, "high": high}
