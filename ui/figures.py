"""What a scored file holds, as charts and tables."""

from __future__ import annotations

from html import escape
from typing import Any

from inference.backends import TITLES
from inference.calls.formatting import percent
from inference.score.annotate import BINS, TaskTally
from inference.score.run import Report
from ui.render import fill, shorten

MAX_BARS = 10  # labels with their own bar
COLOR = "#0072B2"  # Okabe–Ito, at least 3:1 on both backgrounds
FAINT = "rgba(128,128,128,0.25)"
MAX_LABEL_CHARS = 24


def shares(counts: TaskTally) -> list[tuple[str, int]]:
    """Return the most frequent labels with their rows, and at the end all others together."""
    ordered = sorted(counts.labels.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = ordered[MAX_BARS:]
    return ordered[:MAX_BARS] + ([(f"{len(rest)} more labels", sum(rows for _, rows in rest))] if rest else [])


def label_shares(counts: TaskTally) -> Any:
    """Return a Plotly figure: the share of the answered rows per label."""
    bars = shares(counts)[::-1]
    total = sum(rows for _, rows in bars) or 1
    figure = _figure(130 + 26 * len(bars), "share of the answered rows")
    figure.add_bar(
        x=[rows / total for _, rows in bars],
        y=list(range(len(bars))),  # not names: two labels may be shortened to the same text
        orientation="h",
        text=[percent(rows / total) for _, rows in bars],
        textposition="outside",
        cliponaxis=False,
        customdata=[_plain(name) for name, _ in bars],
        hovertemplate="%{customdata}: %{text}<extra></extra>",
        marker={"color": COLOR},
    )
    widest = max((rows / total for _, rows in bars), default=1)
    # Room for the figure after the longest bar, without a tick there: a share ends at 100%.
    step = next(step for step in (0.02, 0.05, 0.1, 0.25) if widest / step <= 5)
    marks = [number * step for number in range(int(min(1, widest * 1.2) / step + 1e-9) + 1)]
    figure.update_xaxes(tickformat=".0%", range=[0, widest * 1.2], tickvals=marks)
    figure.update_yaxes(
        tickvals=list(range(len(bars))), ticktext=[_plain(shorten(name, MAX_LABEL_CHARS)) for name, _ in bars]
    )
    return figure


def confidence(counts: TaskTally, threshold: float) -> Any:
    """Return a Plotly figure: a histogram of confidence, with the threshold below which answers are uncertain."""
    figure = _figure(260, "confidence", "rows")
    edges = [number / BINS for number in range(BINS)]
    figure.add_bar(
        x=[edge + 0.5 / BINS for edge in edges],
        y=counts.confidence,
        width=1 / BINS,
        customdata=[f"{edge:.2f} to {edge + 1 / BINS:.2f}" for edge in edges],
        hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
        marker={"color": COLOR, "line": {"width": 1, "color": FAINT}},
    )
    if threshold:
        figure.add_vline(x=threshold, line={"color": "#808080", "width": 1.5, "dash": "dash"})
    figure.update_xaxes(range=[0, 1])
    return figure


def shares_table(task: str, counts: TaskTally) -> str:
    """Return what `label_shares` draws as a table."""
    bars = shares(counts)
    total = sum(rows for _, rows in bars)
    rows = [(name, f"{rows:,}", _share(rows, total)) for name, rows in bars]
    return fill("table", title=f"{task}: shares as a table", heads=("label", "rows", "share"), rows=rows, note="")


def confidence_table(task: str, counts: TaskTally, threshold: float) -> str:
    """Return what `confidence` draws as a table, without the empty bins."""
    rows = [
        (f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}", f"{rows:,}")
        for number, rows in enumerate(counts.confidence)
        if rows
    ]
    note = f"Below {threshold:.3g} an answer is uncertain." if threshold else ""
    return fill("table", title=f"{task}: confidence as a table", heads=("confidence", "rows"), rows=rows, note=note)


def summary(report: Report, backend: str) -> str:
    """Return the same figures in words and as a table."""
    tally = report.tally
    answered = tally.rows - tally.errors
    notes = [f"{tally.rows:,} rows on {TITLES[backend]} in {report.seconds:,.1f} s"]
    if tally.errors:
        notes.append(f"{tally.errors:,} without an answer (see the column {report.error_column})")
    if tally.truncated:
        notes.append(f"{tally.truncated:,} longer than the model reads, of which the rest was ignored")
    if tally.unknown:
        notes.append(f"{tally.unknown:,} without any word of the model's vocabulary, so their answers are meaningless")
    if report.prefix:
        notes.append(f"the file already has a column with such a name, so the added columns begin with {report.prefix}")
    rows = [(task, _most(counts, answered), _share(counts.uncertain, answered)) for task, counts in tally.tasks.items()]
    return fill("score_summary", notes=notes, rows=rows)


def _most(counts: TaskTally, answered: int) -> str:
    return ", ".join(f"{name} {_share(rows, answered)}" for name, rows in shares(counts)[:3]) or "nothing"


def _share(rows: int, of: int) -> str:
    return percent(rows / of) if of else "–"


def _plain(text: str) -> str:
    """Escape a text for Plotly, which reads a subset of HTML in every label."""
    return escape(text, quote=False)


def _figure(height: int, x: str, y: str = "") -> Any:
    import plotly.graph_objects as go  # takes half a second, needed only for files

    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 16, "t": 36, "b": 8, "pad": 2},  # at the top: Gradio's label
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        dragmode=False,
        bargap=0.3,
    )
    figure.update_xaxes(title_text=x, title_standoff=8, automargin=True, gridcolor=FAINT, zerolinecolor=FAINT)
    figure.update_yaxes(title_text=y, title_standoff=8, automargin=True, gridcolor=FAINT, zerolinecolor=FAINT)
    return figure
