"""What a manager sees first, drawn in HTML: speed against accuracy, the speed-up with its noise, the cost.

These drawings need no script, so that the first page loads quickly and the summary prints as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10, sqrt
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from dashboard.charts.formatting import Estimate, Receipt, each, ends, names, overlap, sentence, span
from dashboard.charts.style import GREY, Rows
from dashboard.templating import render
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import digits, fixed, joined, mb, ms, percent, points, times
from inference.compare.benchmark import CONTROL
from inference.compare.results import cost_per_million, noise_is_assumed
from inference.compare.stats import enough_samples

Key = TypeVar("Key")
LARGEST = 38  # pixels across the marker of the largest model


@dataclass(frozen=True)
class Drawing:
    """A chart in HTML; the other fields are those of `Chart`."""

    html: Markup
    takeaway: str
    alt: str
    table: Rows
    note: str = ""
    details: str = ""


class Bar(NamedTuple):
    """A bar with its interval; lengths in percent of the track."""

    name: str
    glyph: str
    color: str
    value: float
    low: float
    high: float
    amount: str
    title: str
    is_faint: bool = False


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


def pareto(receipt: Receipt, task: str) -> Drawing:
    """Median latency against accuracy; the marker's area is the model's size; the best trade-offs are joined."""
    results = receipt["results"]
    best = front(receipt, task)
    p50: dict[str, Estimate] = {name: of["p50_ms"] for name, of in results["latency"].items()}
    right: dict[str, Estimate] = {name: results["accuracy"][task][name]["accuracy"] for name in p50}
    size = {name: results["size"][name]["model_bytes"] for name in p50}
    table: Rows = [
        {
            "runtime": TITLES[name],
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
    note = "Lines at a marker: 95% intervals. Area: size of the model."
    if len(best) > 1:
        note += " Joined: no other is both faster and more accurate."
    return Drawing(_scatter(p50, right, size, best, alt), _trade(receipt, task), alt, table, note)


def _scatter(
    p50: Mapping[str, Estimate], right: Mapping[str, Estimate], size: Mapping[str, int], best: Sequence[str], alt: str
) -> Markup:
    first, last = (
        log10(end) for end in (min(e["low"] for e in p50.values()) / 1.4, max(e["high"] for e in p50.values()) * 1.4)
    )
    bottom, top = min(e["low"] for e in right.values()), max(e["high"] for e in right.values())
    pad = max(0.15 * (top - bottom), 0.001)
    bottom, top = bottom - pad, top + pad

    def x(value: float) -> float:
        return _share((log10(value) - first) / (last - first))

    def y(value: float) -> float:
        return _share((value - bottom) / (top - bottom))

    dots: list[dict[str, Any]] = []
    for name in sorted(p50, key=lambda name: p50[name]["value"]):
        time, share = p50[name], right[name]
        # Names are above the markers, and below where one would touch the name before.
        is_close = bool(dots) and x(time["value"]) - dots[-1]["x"] < 25 and not dots[-1]["is_below"]
        dots.append(
            {
                "name": f"{RUNTIMES[name].glyph} {TITLES[name]}",
                "size": mb(size[name]),
                "color": RUNTIMES[name].color,
                "marker": RUNTIMES[name].marker,
                "across": max(10, round(LARGEST * sqrt(size[name] / max(size.values())))),
                "title": f"{TITLES[name]}: p50 {span(time, ms)}, accuracy {span(share, percent)}, {mb(size[name])}",
                "is_below": is_close,
                **{
                    key: place(e[end])
                    for place, e, keys in ((x, time, ("x", "x_low", "x_high")), (y, share, ("y", "y_low", "y_high")))
                    for key, end in zip(keys, ("value", "low", "high"), strict=True)
                },
            }
        )
    return Markup(
        render(
            "scatter.html",
            alt=alt,
            dots=dots,
            joins=[
                _join(*((x(p50[name]["value"]), y(right[name]["value"])) for name in pair)) for pair in pairwise(best)
            ],
            x_ticks=[(x(tick), f"{tick:,.10g}") for tick in _ticks_log(10**first, 10**last)],
            y_ticks=[(y(tick), f"{fixed(tick * 100, 1)}%") for tick in _ticks(bottom, top) if tick <= 1],
            x_title="median ms per text (log scale)",
            y_title="accuracy",
        )
    )


def _share(part: float) -> float:
    return round(100 * part, 2)


def _join(start: tuple[float, float], end: tuple[float, float]) -> dict[str, Any]:
    (x, y), (x_end, y_end) = start, end
    height = abs(y_end - y)
    slope = "flat" if height < 3 else "up" if y_end > y else "down"
    return {"x": x, "width": round(x_end - x, 2), "y": min(y, y_end), "height": round(height, 2), "slope": slope}


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values between two ends."""
    rough = (high - low) / 4
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(step * i, 10) for i in range(ceil(low / step), floor(high / step) + 1)]


def _ticks_log(low: float, high: float) -> list[float]:
    ticks = [mantissa * 10.0**power for power in range(-4, 7) for mantissa in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _trade(receipt: Receipt, task: str) -> str:
    """Compare the fastest backend with the reference: how much faster, and whether its accuracy differs."""
    results, reference = receipt["results"], receipt["settings"]["reference"]
    p50 = {name: float(of["p50_ms"]["value"]) for name, of in results["latency"].items()}
    fastest = min(p50, key=p50.__getitem__)
    if fastest == reference:
        return f"No runtime is faster than {TITLES[reference]}, at {ms(p50[reference])} per text."
    gain, pair = results["speedup"][fastest], results["paired"][task][fastest]
    change = points(pair["delta_accuracy"]["value"])
    if not gain["different"]:
        return f"No runtime is measurably faster than {TITLES[reference]} here."
    if pair["flips"] == 0:
        then = f"gives the same label on all {pair['rows']:,} rows"
    elif pair["mcnemar_p"] >= 0.05:
        then = f"its accuracy is not measurably different ({change} on {pair['rows']:,} rows)"
    else:
        then = f"its accuracy changes by {change}"
    return f"{TITLES[fastest]} is {times(gain['value'])} as fast as {TITLES[reference]}, and {then}."


def speedup(receipt: Receipt) -> Drawing:
    """How many times as fast as the reference, with the noise between two processes of the reference."""
    results, reference = receipt["results"], receipt["settings"]["reference"]
    base, control = TITLES[reference], results["control"]
    gains = {name: gain for name, gain in results["speedup"].items() if name != reference}
    again = f"{base} against itself"
    noise = control["noise"]
    longest = max([float(gain["high"]) for gain in (*gains.values(), control)] + [noise])
    bars = [_bar(name, gain, times, longest) for name, gain in gains.items()]
    bars.append(_bar(reference, control, times, longest)._replace(name=again, color=GREY, glyph="○", is_faint=True))
    bars[-1] = bars[-1]._replace(title=f"{again} {span(control, times)}")
    rows = {TITLES[name]: (gain, "yes" if gain["different"] else "no") for name, gain in gains.items()}
    table: Rows = [
        {"runtime": title, "times as fast": gain["value"], **ends(gain), "beyond noise": beyond}
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
    described = [bar.title for bar in bars]
    reason = (
        "each process was started once, and two starts are assumed to differ by up to"
        if noise_is_assumed(control)
        else f"two processes of {base}, measured like any two runtimes, differ by up to"
    )
    note = f"Grey band: {reason} {percent(noise - 1, 0)}. A gain inside it is noise."
    alt = f"Bars of the speed-up over {base}: {joined(described)}."
    band = [_share(1 / noise / longest), _share(noise / longest)]
    html = Markup(render("bars.html", alt=alt, bars=bars, band=band, one=_share(1 / longest)))
    return Drawing(html, takeaway, alt, table, note)


def _bar(name: str, estimate: Estimate, text: Callable[[float], str], longest: float) -> Bar:
    value, low, high = (_share(estimate[key] / longest) for key in ("value", "low", "high"))
    title = f"{TITLES[name]} {span(estimate, text)}"
    return Bar(
        TITLES[name], RUNTIMES[name].glyph, RUNTIMES[name].color, value, low, high, text(estimate["value"]), title
    )


def cost(receipt: Receipt, price_per_hour: float, currency: str = "$") -> Drawing:
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
        return currency + digits(value, 3)

    table: Rows = [
        {
            "runtime": TITLES[name],
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
    note = "Each runtime at its best batch size, with the machine always busy. A service with idle hours costs more."
    samples = min(step["texts_per_s"]["samples"] for of in throughput.values() for step in of["sweep"])
    if not enough_samples(samples, 50):
        note += f" Error bars: the range of {samples} calls each, too few for an interval."
    longest = max(estimate["high"] for estimate in values.values())
    bars = [_bar(name, estimate, money, longest) for name, estimate in values.items()]
    html = Markup(render("bars.html", alt=alt, bars=bars, band=None, one=None))
    return Drawing(html, f"{takeaway}.", alt, table, note)
