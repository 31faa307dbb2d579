"""The one-page summary: what to ship and why on one A4 page, as HTML that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dashboard import answer
from dashboard.answer import TaskLines
from dashboard.charts import overview
from dashboard.charts.formatting import many, requirements
from dashboard.charts.style import short
from dashboard.templating import asset, render
from inference.compare.overall import Overall, decide_overall, is_timed
from inference.compare.verdict import SHIP, ShipLimits
from inference.errors import InputError
from ui.look import tokens

MAX_LINES = 18  # of the table: tasks times backends
MAX_NOTES = 6  # with so many lines; each two lines less leave room for a note more


def summary_of_files(paths: Sequence[Path], receipts: Sequence[Mapping[str, Any]], limits: ShipLimits) -> str:
    """Return the summary of the model of these receipts.

    Raises:
        InputError: they are of different models.
    """
    named = {
        f"{path.stem} ({number})" if path.stem in {p.stem for p in paths[:number]} else path.stem: receipt
        for number, (path, receipt) in enumerate(zip(paths, receipts, strict=True))
    }
    overall = decide_overall(named, limits)
    if others := [name for name, why in overall.left_out.items() if why.startswith("another model")]:
        raise InputError(f"{others[0]} is of another model than {paths[0].stem}. A summary is of one model: write two.")
    return summary(overall)


def summary(overall: Overall) -> str:
    """Return the summary as HTML. It says what it leaves out so as to fit on the page."""
    blocks, left_out = _fitting(answer.task_lines(overall))
    blocks = [replace(block, task=short(block.task, 40), source=short(block.source, 70)) for block in blocks]
    notes = [short(note, 130) for note in [*answer.sources(overall), *overall.caveats]]
    most = MAX_NOTES + (MAX_LINES - sum(len(block.lines) for block in blocks)) // 2
    if len(notes) > most:
        notes = [*notes[: most - 1], f"{len(notes) - most + 1} more notes are in the full report."]
    task = next(task for task in overall.used)
    drawing = overview.speedup(overall.receipt(task)) if is_timed(overall.receipt(task)) and not left_out else None
    first = overall.receipt(task)
    return render(
        "summary.html",
        **answer.shown(overall),
        title=f"Which runtime to ship: {short(first['model']['name'], 60)}",
        measured=max(receipt["created"] for receipt in overall.receipts.values())[:10],
        style=Markup(tokens()) + asset("overview.css") + asset("summary.css"),
        requirements=requirements(overall.limits),
        blocks=blocks,
        reference=overall.reference,
        bounds="",  # the last line of the page says what all intervals are
        left_out=left_out,
        drawing=drawing if drawing and len(blocks) <= 4 else None,
        drawn_task=short(task, 60) if len(overall.used) > 1 else "",
        notes=notes,
    )


def _fitting(blocks: list[TaskLines]) -> tuple[list[TaskLines], str]:
    """Return the tasks that fit on the page, those that decide first, and a sentence about the others."""
    if sum(len(block.lines) for block in blocks) <= MAX_LINES:
        return blocks, ""

    def passes(block: TaskLines) -> bool:
        return all(line.decision == SHIP for line in block.lines)

    ranked = sorted(blocks, key=passes)
    room = MAX_LINES // max(len(block.lines) for block in blocks)
    shown, others = [block for block in blocks if block in ranked[:room]], ranked[room:]
    failing = [block.task for block in others if not passes(block)]
    verdict = "every limit is met there" if not failing else f"limits are not met on {len(failing)}"
    return shown, f"{many(len(others), 'task').capitalize()} more: {verdict}. The full report has them."
