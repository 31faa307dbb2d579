"""A report to hand on: one HTML file with verdict, charts, examples and method, which asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

from dashboard.charts import accuracy, latency, overview, size
from dashboard.charts.formatting import asked, digits, many, mb, ms, names, percent, points, times
from dashboard.charts.style import Chart
from dashboard.method import method
from dashboard.report_style import SCRIPT, STYLE
from inference.backends import RUNTIMES, TITLES
from inference.compare.disagreements import disagreements
from inference.compare.summary import provenance
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, ShipLimits, Verdict, decide

Receipt = Mapping[str, Any]
EXAMPLES = 8  # rows shown of each task and backend
SIGNS = {SHIP: "✔", NO: "✘", INCONCLUSIVE: "?"}


def report(receipts: Sequence[Receipt], limits: ShipLimits | None = None) -> str:
    """The report as HTML. Each receipt has a section of its own: figures of different rows do not share a table."""
    limits = limits or ShipLimits()
    title = f"Which runtime to ship: {', '.join(dict.fromkeys(one['model']['name'] for one in receipts))}"
    figures: list[Chart] = []
    sections = "".join(_section(one, number, limits, figures) for number, one in enumerate(receipts, 1))
    kept = f"<p>To ship, a backend must keep these limits: {escape(asked(limits))}.</p>"
    library = get_plotlyjs()
    drawn = [json.loads(one.figure.to_json()) for one in figures]
    data = json.dumps(drawn, ensure_ascii=True).replace("<", "\\u003c")  # a label must not end the script element
    policy = (
        f"default-src 'none'; script-src {_digest(library)} {_digest(SCRIPT)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="generator" content="Triptych">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><header><h1>{escape(title)}</h1>{kept}{_differences(receipts)}</header>\n"
        f"{_contents(receipts, limits)}{sections}</main>\n"
        f'<script type="application/json" id="figures">{data}</script>\n'
        f"<script>{library}</script>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _differences(receipts: Sequence[Receipt]) -> str:
    """What forbids to compare the sections with each other."""
    told = []
    if len({json.dumps(one["model"], sort_keys=True) for one in receipts}) > 1:
        told.append("The receipts are of different models.")
    if len({(one["machine"]["cpu"], one["settings"]["threads"]) for one in receipts}) > 1:
        told.append("They were measured on different processors or with different numbers of threads.")
    if len({(one["data"]["sha256"], tuple(one["data"]["row_numbers"])) for one in receipts}) > 1:
        told.append("They are of different rows.")
    if not told:
        return ""
    return (
        f'<p class="note">{escape(" ".join(told))} Compare backends within a section, not sections with each other.</p>'
    )


def _contents(receipts: Sequence[Receipt], limits: ShipLimits) -> str:
    """The verdict of every receipt, where there are several."""
    if len(receipts) < 2:
        return ""
    lines = "".join(
        f'<li><a href="#receipt-{number}">{escape(_name(one))}</a>: {escape(decide(one, limits).sentence)}</li>'
        for number, one in enumerate(receipts, 1)
    )
    return f"<nav><h2>In short</h2><ol>{lines}</ol></nav>"


def _name(receipt: Receipt) -> str:
    return f"{receipt['data']['name']} ({', '.join(receipt['data']['labels'])})"


def _section(receipt: Receipt, number: int, limits: ShipLimits, figures: list[Chart]) -> str:
    found = decide(receipt, limits)
    parts = [
        _verdict(found),
        f'<p class="small">{escape(_from_where(receipt))}</p>',
        "<h3>The figures</h3>",
        _table(receipt),
        *(_chart(one, figures, about) for about, one in _charts(receipt, limits)),
        _examples(receipt),
        "<h3>How the numbers came about</h3>",
        *(_method(receipt, limits)),
    ]
    return f'<section id="receipt-{number}"><h2>{escape(_name(receipt))}</h2>{"".join(parts)}</section>\n'


def _from_where(receipt: Receipt) -> str:
    rows = many(len(receipt["data"]["row_numbers"]), "row").capitalize()
    kind = "quick" if receipt["settings"]["quick"] else "full"
    return f"{rows} of {receipt['data']['name']}, a {kind} run. {provenance(receipt)}"


def _verdict(found: Verdict) -> str:
    lines = "".join(
        f'<li><span class="decision">{SIGNS[one.decision]} {one.decision}</span> {_backend(name)}'
        f"{' (the reference)' if name == found.reference else ''}"
        f"<ul>{''.join(f'<li>{SIGNS[r.decision]} {escape(r.text)}</li>' for r in one.reasons)}</ul></li>"
        for name, one in found.backends.items()
    )
    places = "".join(
        f"<tr><th>{escape(place)}</th><td>{_backend(one.backend) if one.backend else 'none'}</td>"
        f"<td>{escape(one.why)}</td></tr>"
        for place, one in found.recommended.items()
    )
    caveats = "".join(f"<li>{escape(one)}</li>" for one in found.caveats)
    return (
        f'<div class="verdict"><p class="lead">{escape(found.sentence)}</p><ul class="decisions">{lines}</ul></div>'
        f'<h3>Which for what</h3><div class="wide"><table class="places">{places}</table></div>'
        + (f"<h3>Caveats</h3><ul>{caveats}</ul>" if caveats else "")
    )


def _backend(name: str) -> str:
    runtime = RUNTIMES[name]
    return f'<span class="backend"><span style="color:{runtime.color}">{runtime.glyph}</span> {runtime.title}</span>'


def _table(receipt: Receipt) -> str:
    """One line per figure, one column per backend."""
    backends, figures = receipt["settings"]["backends"], receipt["results"]
    reference = receipt["settings"]["reference"]

    def estimate(one: Mapping[str, float] | None, say: Callable[[float], str]) -> str:
        if one is None:
            return "too few texts"
        return f"{say(one['value'])} <small>({say(one['low'])} to {say(one['high'])})</small>"

    lines: list[tuple[str, list[str]]] = [
        (f"{p}, one text", [estimate(figures["latency"][name].get(f"{p}_ms"), ms) for name in backends])
        for p in ("p50", "p95", "p99")
    ]
    gains = ["" if name == reference else estimate(figures["speedup"][name], times) for name in backends]
    lines.append((f"as fast as {TITLES[reference]}", gains))
    for task, scores in figures["accuracy"].items():
        pairs = figures["paired"][task]
        lines.append((f"accuracy (95 %): {task}", [estimate(scores[name]["accuracy"], percent) for name in backends]))
        lines.append(
            (
                f"against {TITLES[reference]} (90 %): {task}",
                [estimate(pairs[name]["delta_accuracy"], points) if name in pairs else "" for name in backends],
            )
        )
        lines.append((f"macro-F1: {task}", [percent(scores[name]["macro_f1"]["value"]) for name in backends]))
        lines.append((f"other label: {task}", [f"{pairs[n]['flips']:,}" if n in pairs else "" for n in backends]))
    lines += [
        ("model", [mb(figures["size"][name]["model_bytes"]) for name in backends]),
        ("libraries", [mb(figures["size"][name]["libraries_bytes"]) for name in backends]),
        ("peak memory", [mb(figures["memory"][name]["peak_bytes"]) for name in backends]),
        ("cold start", [f"{digits(figures['start'][name]['total_s'])} s" for name in backends]),
        ("an hour in batches", [f"{figures['throughput'][name]['predictions_per_hour']:,.0f}" for name in backends]),
    ]
    head = "".join(f"<th>{_backend(name)}</th>" for name in backends)
    body = "".join(
        f"<tr><th>{escape(what)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>" for what, cells in lines
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _charts(receipt: Receipt, limits: ShipLimits) -> list[tuple[str, Chart]]:
    """Each chart with what it is about."""
    tasks = list(receipt["data"]["labels"])
    found: list[tuple[str, Chart | None]] = [
        *((f"Speed and accuracy: {task}", overview.pareto(receipt, task)) for task in tasks),
        ("Speed-up", overview.speedup(receipt)),
        ("Latency", latency.percentiles(receipt, limits.max_p95_ms)),
        ("Latency by length", latency.by_length(receipt)),
        *((f"Difference in accuracy: {task}", accuracy.differences(receipt, task, limits.max_drop)) for task in tasks),
        ("Size", size.model(receipt, limits.max_size_mb)),
    ]
    return [(about, one) for about, one in found if one is not None]


def _chart(one: Chart, figures: list[Chart], about: str) -> str:
    figures.append(one)
    note = f"<figcaption>{escape(one.note)}</figcaption>" if one.note else ""
    columns = list(one.table[0]) if one.table else []
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(row.get(c))}</td>' for c in columns)}</tr>" for row in one.table)
    return (
        f'<figure><p class="about">{escape(about)}</p><h4>{escape(one.takeaway)}</h4>'
        f'<div class="plot" role="img" aria-label="{escape(one.alt)}" data-figure="{len(figures) - 1}"></div>{note}'
        f'<details><summary>Table</summary><div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'
        "</figure>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(digits(value, 4) if isinstance(value, float) else str(value))


def _examples(receipt: Receipt) -> str:
    """Some rows on which they differ, per task and backend; texts only where the receipt holds them."""
    told, reference = [], receipt["settings"]["reference"]
    for task, pairs in receipt["results"]["paired"].items():
        for name in pairs:
            found = disagreements(receipt, task, name)
            if not found:
                continue
            rows = "".join(
                f"<tr><td>{one.row:,}</td>"
                + ("" if one.text is None else f'<td class="text">{escape(one.text)}</td>')
                + f"<td>{one.kind}</td><td>{escape(one.true)}</td>"
                f"<td>{escape(one.reference)} <small>{percent(one.reference_confidence, 0)}</small></td>"
                f"<td>{escape(one.backend)} <small>{percent(one.backend_confidence, 0)}</small></td></tr>"
                for one in found[:EXAMPLES]
            )
            text = "" if found[0].text is None else "<th>text</th>"
            shown = (
                f"{EXAMPLES} of {len(found):,}"
                if len(found) > EXAMPLES
                else f"all {len(found)}"
                if len(found) > 1
                else "one"
            )
            told.append(
                f"<h4>{escape(task)}, {_backend(name)}: {shown}</h4>"
                f'<div class="wide"><table><thead><tr><th>row</th>{text}<th>kind</th><th>right label</th>'
                f"<th>{TITLES[reference]}</th><th>{TITLES[name]}</th></tr></thead><tbody>{rows}</tbody></table></div>"
            )
    about = (
        f"Broken: only {TITLES[reference]} is right. Fixed: only the other is. The broken rows of which it is surest "
        "come first, each label with its confidence."
    )
    same = names([n for n in receipt["settings"]["backends"] if n != reference])
    if not same:
        return ""
    if not told:
        return f"<h3>Where they differ</h3><p>{same} gave every row the label that {TITLES[reference]} gave it.</p>"
    if receipt["data"]["texts"] is None:
        about += " The texts are not in the receipt; the row numbers lead to them in the file."
    return f"<h3>Where they differ</h3><p>{escape(about)}</p>{''.join(told)}"


def _method(receipt: Receipt, limits: ShipLimits) -> list[str]:
    return [
        f'<div class="method"><h4>{escape(one.heading)}</h4>'
        + "".join(f"<p>{escape(paragraph)}</p>" for paragraph in one.paragraphs)
        + (
            '<div class="wide"><table class="facts">'
            + "".join(f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in one.facts)
            + "</table></div>"
            if one.facts
            else ""
        )
        + "</div>"
        for one in method(receipt, limits)
    ]
