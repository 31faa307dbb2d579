"""A report to share: one HTML file with verdict, charts, examples and method, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboard import answer
from dashboard.answer import Cell
from dashboard.charts import accuracy, latency, overview, size
from dashboard.charts.formatting import many, names, requirements
from dashboard.charts.overview import Drawing
from dashboard.charts.style import Chart
from dashboard.method import method
from dashboard.templating import asset, render
from inference.artifacts.npm import PLOTLY, fetch_package
from inference.backends import TITLES
from inference.calls.formatting import digits, mb, ms, percent, points, times
from inference.compare.comparable import huge_pages
from inference.compare.disagreements import disagreements
from inference.compare.overall import Overall, decide_overall
from inference.compare.results import unmeasured
from inference.compare.summary import provenance
from inference.compare.verdict import SITUATIONS, ShipLimits, decide, unknown_places
from ui.look import tokens

Receipt = Mapping[str, Any]
MAX_EXAMPLES = 8  # rows shown per task and backend


def report(
    receipts: Sequence[Receipt],
    limits: ShipLimits | None = None,
    library: str | None = None,
    home: str | None = None,
    overall: Overall | None = None,
) -> str:
    """Return the report as HTML. Each receipt has its own section: figures of different rows do not share a table.

    Args:
        library: the script that draws the charts; by default the one of the package plotly.
        home: the address of a page to link back to.
        overall: the decision on the model under these limits; by default the one by these receipts, if they compare.
    """
    limits = limits or ShipLimits()
    overall = overall or _decided(receipts, limits)
    number = count()
    sections = [_section(receipt, limits, number) for receipt in receipts]
    scripts = [Markup(library or get_plotlyjs()), asset("report.js")]
    return render(
        "report.html",
        title=f"Which runtime to ship: {', '.join(dict.fromkeys(receipt['model']['name'] for receipt in receipts))}",
        policy=f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(tokens()) + asset("report.css") + asset("overview.css"),
        scripts=scripts,
        home=home,
        requirements=requirements(limits),
        **(answer.shown(overall) | {"notes": answer.notes(overall)} if overall else {"overall": None}),
        differences=_differences(receipts),
        sections=sections,
        drawings=[
            json.loads(chart.figure.to_json())
            for section in sections
            for _, chart, _ in section["charts"]
            if isinstance(chart, Chart)
        ],
    )


def _decided(receipts: Sequence[Receipt], limits: ShipLimits) -> Overall | None:
    """Return the decision on the model, if several measurements of one model on one machine need one."""
    overall = decide_overall({f"section {number}": receipt for number, receipt in enumerate(receipts, 1)}, limits)
    return None if len(receipts) == 1 or overall.left_out else overall


def basic_plotly() -> str:
    """Return the part of plotly.js that the charts need, a fourth of the whole; fetched once, see `fetch_package`.

    Raises:
        InputError: it is not in the cache and cannot be fetched.
    """
    return fetch_package(PLOTLY)["plotly-basic.min.js"].decode()


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _differences(receipts: Sequence[Receipt]) -> list[str]:
    """Say why the sections cannot be compared with each other."""
    reasons: dict[str, list[Any]] = {
        "The measurements are of different models.": [json.dumps(one["model"], sort_keys=True) for one in receipts],
        "The measurements were made on different processors or with different numbers of threads.": [
            (one["machine"]["cpu"], *one["machine"]["flags"], one["settings"]["threads"]) for one in receipts
        ],
        "Not all measurements were made with huge pages, or it is not recorded.": [huge_pages(one) for one in receipts],
        "The measurements are of different rows.": [
            (one["data"]["sha256"], *one["data"]["row_numbers"]) for one in receipts
        ],
    }
    return [reason for reason, values in reasons.items() if len(set(values)) > 1]


def _section(receipt: Receipt, limits: ShipLimits, number: Iterator[int]) -> dict[str, Any]:
    """Return what the template shows of one receipt; `number` counts the charts of the report."""
    data, settings = receipt["data"], receipt["settings"]
    kind = "quick" if settings["quick"] else "full"
    extent = f"{many(len(data['row_numbers']), 'row').capitalize()} of {data['name']}, a {kind} run"
    return {
        "name": f"{data['name']} ({', '.join(data['labels'])})",
        "verdict": decide(receipt, limits),
        "unknown": unknown_places(receipt),
        "situations": SITUATIONS,
        "extent": extent,
        "source": f"{extent}. {provenance(receipt)}",
        "backends": settings["backends"],
        "others": names([name for name in settings["backends"] if name != settings["reference"]]),
        "figures": _figures(receipt),
        "charts": [
            (about, chart, next(number) if isinstance(chart, Chart) else None)
            for about, chart in _charts(receipt, limits)
        ],
        "has_texts": data["texts"] is not None,
        "examples": _examples(receipt),
        "method": method(receipt, limits),
    }


def _figures(receipt: Receipt) -> list[tuple[str, list[Cell]]]:
    """Return the table of figures: one line per figure, one cell per backend."""
    backends, results = receipt["settings"]["backends"], receipt["results"]
    reference = receipt["settings"]["reference"]

    def estimate(figure: Mapping[str, float] | None, text: Callable[[float], str]) -> Cell:
        if figure is None:
            return Cell("too few texts")
        return Cell(text(figure["value"]), f"{text(figure['low'])} to {text(figure['high'])}")

    def against(pairs: Mapping[str, Any], cell: Callable[[Any], Cell]) -> list[Cell]:
        return [cell(pairs[name]) if name != reference else Cell("") for name in backends]

    def plain(text: Callable[[str], str]) -> list[Cell]:
        return [Cell(text(name)) for name in backends]

    lines: list[tuple[str, list[Cell]]] = [("one text", plain(lambda _: "not measured"))]
    costs: list[tuple[str, list[Cell]]] = []
    if unmeasured(receipt) is None:
        lines = [
            *(
                (f"{p}, one text", [estimate(results["latency"][name].get(f"{p}_ms"), ms) for name in backends])
                for p in ("p50", "p95", "p99")
            ),
            (f"as fast as {TITLES[reference]}", against(results["speedup"], lambda gain: estimate(gain, times))),
        ]
        costs = [
            ("peak memory", plain(lambda name: mb(results["memory"][name]["peak_bytes"]))),
            ("cold start", plain(lambda name: f"{digits(results['start'][name]['total_s'])} s")),
            ("an hour in batches", plain(lambda name: f"{results['throughput'][name]['predictions_per_hour']:,.0f}")),
        ]
    for task, scores in results["accuracy"].items():
        pairs = results["paired"][task]
        lines += [
            (f"accuracy (95%): {task}", [estimate(scores[name]["accuracy"], percent) for name in backends]),
            (
                f"against {TITLES[reference]} (90%): {task}",
                against(pairs, lambda pair: estimate(pair["delta_accuracy"], points)),
            ),
            (f"macro-F1: {task}", [Cell(percent(scores[name]["macro_f1"]["value"])) for name in backends]),
            (f"changed labels: {task}", against(pairs, lambda pair: Cell(f"{pair['flips']:,}"))),
        ]
    return [
        *lines,
        ("model", plain(lambda name: mb(results["size"][name]["model_bytes"]))),
        ("libraries", plain(lambda name: mb(results["size"][name]["libraries_bytes"]))),
        *costs,
    ]


def _charts(receipt: Receipt, limits: ShipLimits) -> list[tuple[str, Chart | Drawing]]:
    """Return each chart with its subject."""
    tasks = list(receipt["data"]["labels"])
    timed: list[tuple[str, Chart | Drawing | None]] = []
    if unmeasured(receipt) is None:
        timed = [
            *((f"Speed and accuracy: {task}", overview.pareto(receipt, task)) for task in tasks),
            ("Speed-up", overview.speedup(receipt)),
            ("Latency", latency.percentiles(receipt, limits.max_p95_ms)),
            ("Latency by length", latency.by_length(receipt)),
        ]
    charts: list[tuple[str, Chart | Drawing | None]] = [
        *timed,
        *((f"Difference in accuracy: {task}", accuracy.differences(receipt, task, limits.max_drop)) for task in tasks),
        ("Size", size.model(receipt, limits.max_size_mb)),
    ]
    return [(about, chart) for about, chart in charts if chart is not None]


def _examples(receipt: Receipt) -> list[tuple[str, str, list[Any], str]]:
    """Return some rows on which they differ, per task and backend, and how many of how many are shown."""
    examples = []
    for task, pairs in receipt["results"]["paired"].items():
        for name in pairs:
            rows = disagreements(receipt, task, name)
            shown = "1 row" if len(rows) == 1 else f"all {len(rows)} rows"
            if len(rows) > MAX_EXAMPLES:
                shown = f"{MAX_EXAMPLES} of {len(rows):,} rows"
            if rows:
                examples.append((task, name, rows[:MAX_EXAMPLES], shown))
    return examples
