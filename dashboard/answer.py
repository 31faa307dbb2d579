"""What to ship, as the Overview and the one-page summary show it: the figures, and a line per task and backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dashboard.charts.formatting import Estimate, many
from inference.backends import TITLES
from inference.calls.formatting import joined, mb, ms, percent, points, times
from inference.compare.overall import (
    LIMITS,
    MAX_NAMED,
    Overall,
    RuntimeVerdict,
    is_timed,
    least_known,
    nearest_in_words,
    size_in_words,
    size_share,
    speedups,
    spread,
    timed_tasks,
)
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, is_same, most_rows_in_words

UNTIMED = "not measured"


class Cell(NamedTuple):
    """A figure of a table, with its interval if it has one."""

    value: str
    interval: str = ""


class Figure(NamedTuple):
    """A large figure: its value, what it is, and how sure it is."""

    value: str
    label: str
    note: str


@dataclass(frozen=True)
class Line:
    """A task on a backend: its figures, and the decision by this task alone in words."""

    backend: str
    cells: list[Cell]
    decision: str
    words: str


@dataclass(frozen=True)
class TaskLines:
    """The lines of a task, and the rows that they were measured on."""

    task: str
    source: str
    lines: list[Line]


class Standing(NamedTuple):
    """The decision on a backend over all tasks, in words, and what would settle it or let it pass."""

    backend: str
    decision: str
    words: str
    nearest: str


def standings(overall: Overall) -> list[Standing]:
    """Return the decision on each backend."""
    return [
        Standing(name, verdict.decision, overall.status(name), "; ".join(_ways_out(overall, verdict)))
        for name, verdict in overall.backends.items()
    ]


def _ways_out(overall: Overall, verdict: RuntimeVerdict) -> list[str]:
    """Return how many labelled rows would settle what is open, and the limits that would be met, in words."""
    is_open = verdict.decision == INCONCLUSIVE
    remedy = most_rows_in_words([each.reason for each in verdict.reasons]) if is_open else ""
    ways = [remedy] if remedy else []
    if verdict.nearest:
        ways.append(f"would pass with {nearest_in_words(overall.limits, verdict.nearest)}")
    return ways


def candidate(overall: Overall) -> str | None:
    """Return the backend that the large figures are of: the recommended one, else the fastest that was compared."""
    if overall.recommended not in (None, overall.reference):
        return overall.recommended
    others = [name for name in overall.backends if name != overall.reference and overall.measured(name)]

    def slowest_gain(name: str) -> float:
        return min((float(gain["value"]) for gain in speedups(overall, name)), default=0.0)

    return max(others, key=slowest_gain, default=None)


def figures(overall: Overall) -> list[Figure]:
    """Return the speed-up, the size and the difference in accuracy of `candidate`; none if nothing was compared."""
    name = candidate(overall)
    if name is None:
        return []
    reference = TITLES[overall.reference]
    return [_speed(overall, name, reference), _size(overall, name, reference), _accuracy(overall, name, reference)]


def _speed(overall: Overall, name: str, reference: str) -> Figure:
    gains = speedups(overall, name)
    if not gains:
        return Figure(UNTIMED, "speed", "Measure on a quiet machine.")
    tasks = timed_tasks(overall, name)
    where = f" on {joined(tasks, MAX_NAMED)}" if tasks != overall.measured(name) else ""
    label = f"as fast as {reference}{where}, one text at a time"
    low, high = min(gain["low"] for gain in gains), max(gain["high"] for gain in gains)
    note = f"95% interval{'s from' if len(gains) > 1 else ''} {times(low)} to {times(high)}"
    if not all(gain["different"] for gain in gains):
        note += "; within noise" if not any(gain["different"] for gain in gains) else "; on some tasks within noise"
    return Figure(spread([gain["value"] for gain in gains]), label, note)


def _size(overall: Overall, name: str, reference: str) -> Figure:
    sizes = overall.receipt(overall.measured(name)[0])["results"]["size"]
    words = size_in_words(overall, name)
    is_same_size = round(size_share(overall, name), 2) == 1
    value, _, word = (words, "", f"as {reference}") if is_same_size else words.rpartition(" ")
    ours, theirs = (mb(sizes[each]["model_bytes"]) for each in (name, overall.reference))
    return Figure(value, word, f"{ours}; {reference} takes {theirs}")


def _accuracy(overall: Overall, name: str, reference: str) -> Figure:
    task, measured = least_known(overall, name), overall.measured(name)
    if task is None:
        rows = sum(overall.receipt(each)["results"]["paired"][each][name]["rows"] for each in measured)
        return Figure("0 pp", f"accuracy: numerically the same as {reference}", f"every label equal on {rows:,} rows")
    pair = overall.receipt(task)["results"]["paired"][task][name]
    change = pair["delta_accuracy"]
    which = f" on {task}, the least certain of {len(measured)} tasks" if len(measured) > 1 else ""
    interval = f"{points(change['low'])} to {points(change['high'])}, each bound at 95%"
    return Figure(points(change["value"]), f"accuracy{which}", f"{interval}, {many(pair['rows'], 'row')}")


def task_lines(overall: Overall) -> list[TaskLines]:
    """Return a line per task and backend, in the model's order of tasks."""
    return [
        TaskLines(
            task, _source(overall, task), [_line(overall, task, name) for name in overall.backends if name in backends]
        )
        for task in overall.used
        for backends in [overall.receipt(task)["settings"]["backends"]]
    ]


def _source(overall: Overall, task: str) -> str:
    receipt = overall.receipt(task)
    rows = sum(label >= 0 for label in receipt["data"]["labels"][task])
    which = f", measurement {overall.used[task]}" if len(overall.receipts) + len(overall.left_out) > 1 else ""
    return f"{many(rows, 'row')} of {receipt['data']['name']}{which}"


def _line(overall: Overall, task: str, name: str) -> Line:
    results, is_reference = overall.receipt(task)["results"], name == overall.reference
    timed = is_timed(overall.receipt(task))
    latency = results["latency"][name] if timed else {}
    pair = None if is_reference else results["paired"][task][name]
    speed = Cell(UNTIMED)
    if timed:
        gain = results["speedup"][name]
        speed = Cell("1×") if is_reference else _cell(gain, times)
        if not is_reference and not gain["different"]:
            speed = Cell("within noise", speed.interval)
    cells = [
        speed,
        _cell(latency.get("p50_ms"), ms) if timed else Cell(UNTIMED),
        _cell(latency.get("p95_ms"), ms) if timed else Cell(UNTIMED),
        Cell(mb(results["size"][name]["model_bytes"])),
        _cell(results["accuracy"][task][name]["accuracy"], percent),
        Cell("") if pair is None else Cell("same") if is_same(pair) else _cell(pair["delta_accuracy"], points),
    ]
    return Line(name, cells, overall.backends[name].by_task[task], _words(overall, task, name))


def _cell(estimate: Estimate | None, text: Callable[[float], str]) -> Cell:
    if estimate is None:
        return Cell("too few texts")
    value, low, high = (text(estimate[key]) for key in ("value", "low", "high"))
    unit = value.rpartition(" ")[2] if " " in value else ""
    return Cell(value, f"{low.removesuffix(f' {unit}') if unit else low} to {high}")


def _words(overall: Overall, task: str, name: str) -> str:
    verdict = overall.backends[name]
    decision = verdict.by_task[task]
    if decision == SHIP:
        return "reference" if name == overall.reference else "passes"
    against = [each.reason for each in verdict.reasons if each.task == task and each.reason.decision == decision]
    limits = joined(list(dict.fromkeys(LIMITS[reason.limit] for reason in against)))
    return f"{'fails' if decision == NO else 'not settled'}: {limits}"


def sources(overall: Overall) -> list[str]:
    """Return what was measured where, a sentence per measurement that counts, and those that were left out."""
    texts = []
    for name in dict.fromkeys(overall.used.values()):
        receipt: Mapping[str, Any] = overall.receipts[name]
        machine, settings, data = receipt["machine"], receipt["settings"], receipt["data"]
        tasks = ", ".join(task for task, used in overall.used.items() if used == name)
        texts.append(
            f"{tasks}: {many(len(data['row_numbers']), 'row')} of {data['name']}, {receipt['created'][:10]}, "
            f"{machine['cpu']}, {many(settings['threads'], 'thread')}, one text at a time"
            f"{', a quick run' if settings['quick'] else ''}."
        )
    others = [name for name in overall.receipts if name not in overall.used.values()]
    if others:
        texts.append(
            f"Counted only where a limit is broken: {', '.join(others)}. Another was chosen, is complete or timed, "
            "or has more rows."
        )
    return texts + [f"Left out: {name} ({why})." for name, why in overall.left_out.items()]


def notes(overall: Overall) -> list[str]:
    """Return the limits that measurements which do not count break, and what was measured where."""
    broken = [
        f"{TITLES[name]}: {each.reason.text}."
        for name, verdict in overall.backends.items()
        for each in verdict.objections
    ]
    return [*dict.fromkeys(broken), *sources(overall), *overall.caveats]


def displaced(usual: Overall, chosen: Overall) -> list[str]:
    """Return the measurements that count in the usual decision and not, for the same tasks, in that by a chosen one."""
    return list(dict.fromkeys(name for task, name in usual.used.items() if chosen.used.get(task) != name))


def counting(overall: Overall) -> dict[str, Mapping[str, Any]]:
    """Return the measurements that count, by name, in the order of their tasks."""
    return {name: overall.receipts[name] for name in dict.fromkeys(overall.used.values())}


def shown(overall: Overall) -> dict[str, Any]:
    """Return what the template of the answer shows."""
    return {
        "overall": overall,
        "figures": figures(overall),
        "candidate": candidate(overall),
        "standings": standings(overall),
    }
