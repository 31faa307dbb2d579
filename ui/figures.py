"""What a scored file holds: a card per task with its labels, its confidence and, beside right labels, its accuracy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from inference.backends import TITLES
from inference.calls.formatting import percent
from inference.errors import counted
from inference.formats.bundle import Bundle
from inference.score.annotate import BINS, TaskTally
from inference.score.run import Report
from ui.render import fill
from ui.scored import RightLabels, ScoredRows

MAX_BARS = 10  # labels with their own bar
MAX_MATRIX = 10  # labels in a confusion matrix; of more, the pairs confused most often are listed
MAX_PAIRS = 12
CHART_HEIGHT = 64  # of the histogram


def shares(counts: TaskTally) -> list[tuple[str, int]]:
    """Return the most frequent labels with their rows, and at the end all others together."""
    ordered = sorted(counts.labels.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = ordered[MAX_BARS:]
    return ordered[:MAX_BARS] + ([(f"{len(rest)} more labels", sum(rows for _, rows in rest))] if rest else [])


def report(
    result: Report,
    backend: str,
    bundle: Bundle,
    limits: Mapping[str, float],
    right: Mapping[str, RightLabels],
    rows: ScoredRows,
) -> str:
    """Return a card per task and, where the file has right labels, what was taken for what.

    Args:
        limits: task -> the threshold that decided what is uncertain; 0 for none.
    """
    answered = result.tally.rows - result.tally.errors
    cards = []
    for at, (task, counts) in enumerate(result.tally.tasks.items()):
        known = bundle.tasks[task].labels
        cards.append(
            {
                "task": task,
                "at": at,
                "uncertain": counts.uncertain,
                "uncertain_share": percent(counts.uncertain / answered) if answered else "–",
                "limit": limits[task],
                "bars": [
                    {
                        "label": label,
                        "rows": number,
                        "share": number / answered,
                        "percent": percent(number / answered),
                        "filter": json.dumps({"task": at, "label": known.index(label)}) if label in known else None,
                    }
                    for label, number in shares(counts)
                ],
                "bins": histogram(counts),
                **_judged(at, known, right.get(task), rows.confusion.get(task, Counter())),
            }
        )
    cards.sort(key=lambda card: card["accuracy"] is None)  # what the file was scored for comes first
    return fill("score_report", backend=backend, cards=cards, bin_width=1 / BINS, height=CHART_HEIGHT)


def histogram(counts: TaskTally) -> list[dict[str, Any]]:
    """Return per bin its range in words, its rows, and the height of its bar."""
    most = max(counts.confidence, default=0) or 1
    return [
        {
            "range": f"{at / BINS:.2f} to {(at + 1) / BINS:.2f}",
            "rows": rows,
            "left": at / BINS,
            "height": max(1.0, rows / most * CHART_HEIGHT) if rows else 0,  # a single row is visible too
        }
        for at, rows in enumerate(counts.confidence)
    ]


def _judged(
    at: int, known: tuple[str, ...], right: RightLabels | None, confusion: Counter[tuple[int, int]]
) -> dict[str, Any]:
    """Return accuracy with its interval and the confusions of a task; or why it has none."""
    judged: dict[str, Any] = {"problem": None, "accuracy": None, "matrix": None, "pairs": None, "remarks": []}
    labelled = confusion.total()
    if right is None:
        return judged
    if right.problem is not None or not labelled:
        return judged | {"problem": right.problem or "Accuracy is not shown: no row has both a label and an answer."}
    from inference.compare.stats import share  # takes a second, needed only for labelled files

    hits = sum(rows for (of, given), rows in confusion.items() if of == given)
    estimate = share(hits, labelled)
    judged |= {
        "accuracy": percent(estimate.value),
        "low": percent(estimate.low),
        "high": percent(estimate.high),
        "labelled": labelled,
        "wrong": labelled - hits,
        "remarks": [f"{remark[0].upper()}{remark[1:]}." for remark in right.remarks],
    }
    occurring = sorted({label for pair in confusion for label in pair})

    def cell(of: int, given: int) -> dict[str, Any]:
        number = confusion[of, given]
        total = sum(confusion[of, other] for other in occurring)
        return {
            "rows": number,
            "share": number / total if total else 0,
            "words": f"{counted(number, 'row')} labelled {known[of]}, answered {known[given]}",
            "of": known[of],
            "given": known[given],
            "is_right": of == given,
            "filter": json.dumps({"task": at, "label": given, "right": of}),
        }

    if len(occurring) <= MAX_MATRIX:
        matrix = [[cell(of, given) for given in occurring] for of in occurring]
        return judged | {"heads": [known[label] for label in occurring], "matrix": matrix}
    wrong = Counter({pair: rows for pair, rows in confusion.items() if pair[0] != pair[1]})
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:MAX_PAIRS]
    return judged | {"pairs": [cell(*pair) for pair, _ in ranked], "pair_count": len(wrong)}


def summary(result: Report, backend: str, listed: int) -> str:
    """Say how many rows were scored, and what to know about them.

    Args:
        listed: rows in the table of the page.
    """
    tally = result.tally
    notes = [f"{counted(tally.rows, 'row')} on {TITLES[backend]} in {result.seconds:,.1f} s"]
    if tally.rows < result.rows_in_file:
        notes.append(f"stopped after {tally.rows:,} of {result.rows_in_file:,}: the download has these alone")
    if tally.errors:
        notes.append(f"{tally.errors:,} without an answer (see the column {result.error_column})")
    if tally.truncated:
        notes.append(f"{tally.truncated:,} longer than the model reads, of which the rest was ignored")
    if tally.unknown:
        notes.append(f"{tally.unknown:,} without any word of the model's vocabulary, so their answers are meaningless")
    if result.prefix:
        notes.append(f"the file already has a column with such a name, so the added columns begin with {result.prefix}")
    if listed < tally.rows:
        notes.append(f"the table below has the first {listed:,} rows, because the file is large; the download has all")
    return fill("score_summary", notes=notes)
