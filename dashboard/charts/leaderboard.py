"""All measurements side by side: models, runtimes and data in one table, and speed against accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from dashboard.charts.formatting import Receipt, many
from dashboard.charts.overview import unbeaten
from dashboard.charts.style import GREY, Chart, Rows, finish, label, log_axis, marker, named, short, whiskers
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import joined, mb, ms, percent, times
from inference.compare.comparable import machine_difference
from inference.compare.results import unmeasured


def table(receipts: Mapping[str, Receipt]) -> Rows:
    """Return a row per measurement, task and backend.

    Args:
        receipts: name of the measurement -> receipt.
    """
    return [
        {
            "model": receipt["model"]["name"],
            "runtime": TITLES[backend],
            "task": task,
            "accuracy, %": scores[backend]["accuracy"]["value"] * 100,
            "p50, ms": _time(receipt, backend, "p50_ms"),
            "p95, ms": _time(receipt, backend, "p95_ms"),
            "speed-up": receipt["results"]["speedup"][backend]["value"] if unmeasured(receipt) is None else None,
            "model, MB": receipt["results"]["size"][backend]["model_bytes"] / 1e6,
            "macro-F1": scores[backend]["macro_f1"]["value"],
            "measurement": name,
            "data": receipt["data"]["name"],
            "rows": scores[backend]["rows"],
            "processor": receipt["machine"]["cpu"],
            "measured": receipt["created"][:10],
        }
        for name, receipt in receipts.items()
        for task, scores in receipt["results"]["accuracy"].items()
        for backend in receipt["settings"]["backends"]
    ]


def _time(receipt: Receipt, backend: str, key: str) -> float | None:
    if unmeasured(receipt) is not None:
        return None
    estimate = receipt["results"]["latency"][backend].get(key)
    return estimate["value"] if estimate else None


CARD = ("Accuracy", "Typical (p50)", "Slow (p95)", "Speed-up", "Size")


@dataclass(frozen=True)
class Group:
    """Lines under a heading, see cards.html.

    Attributes:
        lines: backend, and its figures as text.
    """

    name: str
    source: str
    lines: list[tuple[str, list[str]]]


def cards(receipts: Mapping[str, Receipt], rows: Rows) -> list[Group]:
    """Return these rows of the receipts' `table` by measurement and task, with the figures of `CARD`."""
    wanted = {(row["measurement"], row["task"], row["runtime"]) for row in rows}
    groups = []
    for name, receipt in receipts.items():
        for task, scores in receipt["results"]["accuracy"].items():
            backends = [of for of in receipt["settings"]["backends"] if (name, task, TITLES[of]) in wanted]
            if not backends:
                continue
            count, day = scores[backends[0]]["rows"], receipt["created"][:10]
            source = short(f"{name}: {many(count, 'row')} of {receipt['data']['name']}, {day}", 120)
            lines = [(of, _figures(receipt, task, of)) for of in backends]
            groups.append(Group(short(f"{receipt['model']['name']}, {task}", 80), source, lines))
    return groups


def _figures(receipt: Receipt, task: str, backend: str) -> list[str]:
    results, is_timed = receipt["results"], unmeasured(receipt) is None
    p50, p95 = (_time(receipt, backend, key) for key in ("p50_ms", "p95_ms"))
    return [
        percent(results["accuracy"][task][backend]["accuracy"]["value"]),
        "–" if p50 is None and is_timed else "not measured" if p50 is None else ms(p50),
        "–" if p95 is None else ms(p95),
        times(results["speedup"][backend]["value"]) if is_timed else "–",
        mb(results["size"][backend]["model_bytes"]),
    ]


def compares(a: Receipt, b: Receipt) -> bool:
    """Return whether accuracy and latency of two measurements compare: both timed, same rows, same machine."""
    if unmeasured(a) is not None or unmeasured(b) is not None:
        return False
    return not machine_difference(a, b) and all(a["data"][key] == b["data"][key] for key in ("sha256", "row_numbers"))


def best(receipts: Mapping[str, Receipt], task: str) -> list[tuple[str, str]]:
    """Return the measurements and backends, fastest first, that no other beats in both speed and accuracy."""
    return unbeaten(
        {
            (name, backend): (
                receipt["results"]["latency"][backend]["p50_ms"]["value"],
                receipt["results"]["accuracy"][task][backend]["accuracy"]["value"],
            )
            for name, receipt in receipts.items()
            if task in receipt["results"]["accuracy"]
            for backend in receipt["settings"]["backends"]
        }
    )


def pareto(receipts: Mapping[str, Receipt], task: str) -> Chart:
    """Median latency against accuracy of every measurement that has the task; the best trade-offs are joined."""
    receipts = {name: receipt for name, receipt in receipts.items() if task in receipt["results"]["accuracy"]}
    front = best(receipts, task)
    figure = go.Figure()

    def latency(name: str, backend: str) -> Mapping[str, float]:
        return receipts[name]["results"]["latency"][backend]["p50_ms"]  # type: ignore[no-any-return]

    def accuracy(name: str, backend: str) -> Mapping[str, float]:
        return receipts[name]["results"]["accuracy"][task][backend]["accuracy"]  # type: ignore[no-any-return]

    if len(front) > 1:
        x, y = ([of(*key)["value"] for key in front] for of in (latency, accuracy))
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for backend in RUNTIMES:
        names = [name for name, receipt in receipts.items() if backend in receipt["settings"]["backends"]]
        if not names:
            continue
        slow, right = ([of(name, backend) for name in names] for of in (latency, accuracy))
        figure.add_scatter(
            x=[each["value"] for each in slow],
            y=[each["value"] for each in right],
            error_x=whiskers(slow) | {"color": RUNTIMES[backend].color},
            error_y=whiskers(right) | {"color": RUNTIMES[backend].color},
            mode="markers",
            marker=marker(backend, 12),
            name=TITLES[backend],
            text=[label(short(name, 60)) for name in names],
            hovertemplate=f"{named(backend)}, " + "%{text}: %{x:.3g} ms, %{y:.1%}<extra></extra>",
        )
    finish(figure, height=420, x="median ms per text (log scale)", y=f"accuracy on {label(task)}", legend=True)
    times = [latency(name, backend) for name, r in receipts.items() for backend in r["settings"]["backends"]]
    log_axis(figure, min(e["low"] for e in times) / 1.4, max(e["high"] for e in times) * 1.4)
    figure.update_yaxes(tickformat=".1%")
    several = len(receipts) > 1
    shares = [accuracy(name, backend)["value"] for name, backend in front]
    places = 1 if len({percent(share) for share in shares}) == len(shares) else 2  # each is better than the one before
    words = [
        f"{TITLES[backend]}{f' of {short(name, 40)}' if several else ''} ({ms(latency(name, backend)['value'])}, "
        f"{percent(share, places)})"
        for (name, backend), share in zip(front, shares, strict=True)
    ]
    alt = f"Scatter of median time, logarithmic, against accuracy on {task}, for {len(receipts)} measurements."
    note = "Dotted line: the best trade-offs."
    details = (
        "Nothing is both faster and more accurate than these, by the values alone. Error bars: 95% intervals. Only "
        "measurements of the selected one's rows and machine are drawn, because others do not compare."
    )
    return Chart(figure, f"Best trade-offs for {task}: {joined(words)}.", alt, [], note, details)
