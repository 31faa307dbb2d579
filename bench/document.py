"""The page docs/performance.md, its picture and a sentence of the README, from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from pathlib import Path
from textwrap import fill
from typing import Any

from bench import BenchError, plan

BEGIN, END = "<!-- figures: written by bench/document.py -->", "<!-- end of figures -->"
SHORT_BEGIN, SHORT_END = "<!--bench-->", "<!--/bench-->"
PICTURE = "peers.svg"
SHAPES = [f"{texts}x{tokens}" for texts, tokens in plan.SHAPES]
ENDS = {"one": "one sentence", "mixed": "96 sentences"}
SHORT_NAMES = {
    plan.OUR_BEST: "Triptych",
    "openvino-latency": "OpenVINO for latency",
    "openvino-throughput": "OpenVINO for throughput",
    "optimum": "Optimum",
    "guide-int8": "one `quantize_dynamic` session a task",
}

Record = Mapping[str, Any]


def write(record: Record, page: Path, picture: Path, readme: Path | None = None, others: Sequence[Record] = ()) -> None:
    """Put the tables between the marks of the page and the sentence between those of `readme`; write the picture.

    Args:
        others: measured on other machines; only the page has them.

    Raises:
        BenchError: a file lacks its marks; nothing was written.
    """
    written = {page: _replaced(page, BEGIN, sections(record, others), END), picture: drawing(record)}
    if readme is not None:
        written[readme] = _replaced(readme, SHORT_BEGIN, short(record), SHORT_END)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")


def _replaced(page: Path, begin: str, lines: str, end: str) -> str:
    before, has_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise BenchError(f"{page} lacks the marks {begin} and {end}.")
    return f"{before}{begin}\n{lines}\n{end}{after}"


def short(record: Record) -> str:
    """Return the sentence of the README: the median times of INT8 here and of other ways to compute in 8 bits."""
    cells = {entry["key"]: entry["cells"] for entry in record["entries"] if "cells" in entry}

    def times(key: str) -> str:
        if key not in cells:
            return "not measured"
        return " and ".join(_ms(cells[key][cell]["median_ms"]["value"]) for cell in ENDS)

    figures = "; ".join(f"{name} {times(key)}" for key, name in SHORT_NAMES.items())
    what = f"median ms from text to labels for {' and for '.join(ENDS.values())} (another run)"
    return fill(f"INT8 [beside other runtimes](docs/performance.md), {what}: {figures}.", 120, break_on_hyphens=False)


def sections(record: Record, others: Sequence[Record] = ()) -> str:
    """Return all that stands between the marks: the picture and the tables, then those of the other machines."""
    parts = [f"{_place(record)}\n\n![Milliseconds of each, on a logarithmic scale](../assets/{PICTURE})"]
    parts += [tables(record), *_notes(record)]
    for other in others:
        parts += [f"### Another machine: {other['machine']['cpu']}", _place(other), tables(other)]
    return "\n\n".join(parts)


def _place(record: Record) -> str:
    """Return where and when a record was measured."""
    machine, settings = record["machine"], record["settings"]
    pages = ", with huge pages unless an entry says otherwise" if machine.get("huge_pages") else ""
    return (
        f"{record['date']}, commit {_short(record['commit'])}, {machine['cpu']}, {machine['cores']} cores "
        f"({', '.join(machine['flags'])}); {settings['rounds']} rounds, {settings['threads']} threads for each{pages}."
    )


def _notes(record: Record) -> list[str]:
    """Return what to know about the entries, which is the same on every machine."""
    notes = [
        f"- {entry['title']}: {entry['note']}." for entry in record["entries"] if "cells" in entry and entry["note"]
    ]
    flips = "A flip is a label that differs between a text alone and the same text in a list."
    return ["**The entries**", "\n".join([*notes, f"- {flips}"])]


def tables(record: Record) -> str:
    """Return the tables of a record."""
    measured = [entry for entry in record["entries"] if "cells" in entry]
    not_measured = [f"Not measured: {e['title']}: {e['not_measured']}." for e in record["entries"] if "cells" not in e]
    return "\n".join(
        [
            "**Forward pass for the logits of all three tasks**, texts × tokens, lowest tenth in ms (95% interval):",
            "",
            *_forward(record, measured),
            "",
            "**From texts to the labels of all three tasks**, and labels compared with PyTorch FP32:",
            "",
            *_ends(measured),
            *(["", *not_measured] if not_measured else []),
            "",
            "**Lists on lanes** (INT8; a lane is a pass on one core), the faster of two runs:",
            "",
            *_lanes(record),
            "",
            # A note is added by hand if this part of a record was measured again.
            f"**How threads wait** (INT8, lowest tenth / median, ms{record.get('spinning_note', '')}):",
            "",
            *_spinning(record),
        ]
    )


def _forward(record: Record, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [_row(["", *(shape.replace("x", " × ") for shape in SHAPES)]), _rule(len(SHAPES))]
    for entry in measured:
        if SHAPES[0] in entry["cells"]:
            lines.append(_row([entry["title"], *(_interval(entry["cells"][s]["lowest_tenth_ms"]) for s in SHAPES)]))
    floor = record["floor"]
    lines.append(_row(["Floor", *(_ms(floor["ms"][shape]) for shape in SHAPES)]))
    best = next((entry for entry in measured if entry["key"] == plan.OUR_BEST), None)
    if best:
        times = (best["cells"][s]["lowest_tenth_ms"]["value"] / floor["ms"][s] for s in SHAPES)
        lines.append(_row([f"{best['title']}, times the floor", *(f"{value:.1f}" for value in times)]))
    return [
        *lines,
        "",
        f"The floor is the model's multiplications at the highest rate that ONNX Runtime reaches here in a product of "
        f"8-bit numbers of 2,048 lines: {floor['peak_gmacs']:,.0f} billion a second.",
    ]


def _short(commit: str) -> str:
    """Return a commit in 12 digits, and whether files were changed."""
    digits, _, changed = commit.partition("-")
    return digits[:12] + (f", {changed}" if changed else "")


def _ends(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    head = [f"{title}, {what}" for title in ENDS.values() for what in ("lowest tenth, ms", "median, ms")]
    lines = [_row(["", *head, "times INT8, 96", "equal labels", "flips"]), _rule(len(head) + 3)]
    for entry in measured:
        figures = [_interval(entry["cells"][cell][of]) for cell in ENDS for of in ("lowest_tenth_ms", "median_ms")]
        times = entry["cells"]["mixed"].get("times_int8")
        labels = entry["agreement"]
        lines.append(
            _row(
                [
                    entry["title"],
                    *figures,
                    _interval(times) if times else "1" if entry["key"] == plan.OUR_BEST else "",
                    f"{labels['equal'] / labels['labels']:.2%}" if labels else "",
                    f"{labels['flips']} of {labels['labels']:,}" if labels else "",
                ]
            )
        )
    return lines


def _lanes(record: Record) -> list[str]:
    head = ["", "lanes", "processes", "texts/s", "peak memory, MB"]
    what = {"classify": "`classify`, 96 sentences", "score": "`score`, {:,} rows"}
    return [
        _row(head),
        _rule(len(head) - 1),
        *(
            _row(
                [
                    what[cell["what"]].format(cell["rows"]),
                    str(cell["lanes"] or "none: all threads on each batch"),
                    str(cell["workers"]),
                    f"{cell['rows_per_s']:,.0f}",
                    f"{cell['peak_mb']:,}",
                ]
            )
            for cell in record["lanes"]
        ),
    ]


def _spinning(record: Record) -> list[str]:
    names = list(dict.fromkeys(c["threads_wait"] for c in record["spinning"]))
    head = ["texts × tokens", "machine", *names]
    cells = {(tuple(c["shape"]), c["machine"], c["threads_wait"]): c for c in record["spinning"]}
    rows = dict.fromkeys((shape, load) for shape, load, _ in cells)
    lines = [_row(head), _rule(len(head) - 1)]
    for shape, load in rows:
        figures = [
            f"{_ms(cells[shape, load, name]['lowest_tenth_ms']['value'])} / "
            f"{_ms(cells[shape, load, name]['median_ms']['value'])}"
            for name in names
        ]
        lines.append(_row([f"{shape[0]} × {shape[1]}", load, *figures]))
    return lines


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{_ms(estimate['value'])} ({_ms(estimate['low'])}–{_ms(estimate['high'])})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return _row(["---", *["---:"] * numbers])


PANELS = {
    "1x16": "a pass, 1 × 16",
    "32x32": "a pass, 32 × 32",
    "one": "one sentence, in all",
    "mixed": "96 sentences, in all",
}
NAMES, WIDTH, GAP, LINE, TOP = 260, 180, 20, 24, 46
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1a1a1a}.small{font-size:11px;fill:#666}"
    ".grid{stroke:#808080;stroke-opacity:.25}.whisker{stroke:#808080;stroke-width:1.6}"
    ".floor{stroke:#808080;stroke-width:1.5;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#eee}.small{fill:#aaa}}"
)


def drawing(record: Record) -> str:
    """Return an SVG: a line an entry, a panel a cell, milliseconds to the right on a logarithmic scale."""
    measured = [entry for entry in record["entries"] if "cells" in entry]
    height, width = TOP + LINE * len(measured) + 24, NAMES + (WIDTH + GAP) * len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Milliseconds by runtime, lowest tenth with 95% interval; the numbers are in the tables">'
        f"<style>{STYLE}</style>"
    ]
    for number, entry in enumerate(measured):
        parts.append(f'<text x="0" y="{TOP + LINE * number + 17}">{escape(entry["title"])}</text>')
    for number, (cell, title) in enumerate(PANELS.items()):
        parts += _panel(record, measured, cell, title, NAMES + number * (WIDTH + GAP), height)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    record: Record, measured: Sequence[Mapping[str, Any]], cell: str, title: str, left: int, height: int
) -> list[str]:
    estimates = [entry["cells"].get(cell, {}).get("lowest_tenth_ms") for entry in measured]
    floor = record["floor"]["ms"].get(cell)
    edges = [e[side] for e in estimates if e for side in ("low", "high")] + ([floor] if floor else [])
    low, high = log10(min(edges)) - 0.05, log10(max(edges)) + 0.05

    def place(value: float) -> str:
        return f"{left + (log10(value) - low) / (high - low) * WIDTH:.1f}"

    bottom = height - 24
    ticks = [m * 10.0**power for power in range(-3, 6) for m in (1, 2, 5) if low <= log10(m * 10.0**power) <= high]
    parts = [f'<text x="{left}" y="14">{title}</text><text class="small" x="{left}" y="30">ms</text>']
    for tick in ticks[:: -(-len(ticks) // 5)]:
        x = place(tick)
        parts.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>'
            f'<text class="small" x="{x}" y="{height - 6}" text-anchor="middle">{tick:,.10g}</text>'
        )
    if floor:
        parts.append(
            f'<line class="floor" x1="{place(floor)}" x2="{place(floor)}" y1="{TOP - 8}" y2="{bottom}">'
            f"<title>floor: {_ms(floor)} ms</title></line>"
        )
    for number, (entry, estimate) in enumerate(zip(measured, estimates, strict=True)):
        if estimate:
            y = TOP + LINE * number + 12
            parts.append(
                f'<line class="whisker" x1="{place(estimate["low"])}" x2="{place(estimate["high"])}" y1="{y}" '
                f'y2="{y}"/><circle cx="{place(estimate["value"])}" cy="{y}" r="5" fill="{entry["color"]}">'
                f"<title>{escape(entry['title'])}: {_interval(estimate)} ms</title></circle>"
            )
    return parts
