"""A scored file beside its right labels: what they mean to the model, and the rows and counts that the page shows."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.compare.labels import (
    GUESS_ROWS,
    MAX_LABEL_LETTERS,
    fitting_tasks,
    guesses,
    match_labels,
    spellings,
)
from inference.compare.rows import MIN_ROWS, find_label_column, label_remarks
from inference.errors import InputError, counted, shown
from inference.formats.bundle import SINGLE, Task
from inference.score.annotate import Answers
from inference.score.writing import as_text
from inference.tables.parquet import class_names
from inference.tables.reading import read_columns, unique
from inference.tables.table import LABEL_NAMES, Block, Table, find_column, shortened

MAX_TABLE_BYTES = 16_000_000  # of the rows that a browser gets, unpacked
MAX_UNKNOWN = 50  # labels to map by hand; more are a wrong column
MAX_MAP_LINES = 200
MAX_COLUMN_LETTERS = 200
MAX_LISTED = 3  # unknown labels in a sentence
NOT_SHOWN = "Accuracy is not shown: "


@dataclass(frozen=True)
class RightLabels:
    """The right labels of one task, from a column of the file."""

    column: str
    ids: Sequence[int] = ()
    """Per row the position of its label in the task; -1 if it has none. Empty if some labels have no meaning yet."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """Label in the file that the task does not have -> its number of rows."""
    remarks: Sequence[str] = ()
    """What was assumed about the labels."""

    @property
    def problem(self) -> str | None:
        """Why these labels cannot be compared with answers; None if they can."""
        if self.unknown:
            listed = list(self.unknown.items())
            examples = ", ".join(f"{shown(label)} ({counted(rows, 'row')})" for label, rows in listed[:MAX_LISTED])
            more = ", …" if len(listed) > MAX_LISTED else ""
            is_column = len(listed) <= MAX_UNKNOWN
            remedy = "Say below the column what they mean." if is_column else "Choose another column."
            return (
                f"{NOT_SHOWN}the column {shortened(self.column)} has {counted(len(listed), 'label')} that this task "
                f"does not have: {examples}{more}. {remedy}"
            )
        labelled = sum(position >= 0 for position in self.ids)
        if labelled < MIN_ROWS:
            return f"{NOT_SHOWN}{counted(labelled, 'row')} with a label, and at least {MIN_ROWS} are needed."
        return None


def label_tasks(tasks: Mapping[str, Task]) -> list[str]:
    """Return the tasks whose answers can be right or wrong: those that give a text one label."""
    return [name for name, task in tasks.items() if task.problem_type == SINGLE]


def named_columns(table: Table) -> list[str]:
    """Return the columns that can be chosen: the browser gets their names once for each task, so they must be short."""
    return [column for column in unique(table.columns) if len(column) <= MAX_COLUMN_LETTERS]


def guess_label_columns(table: Table, tasks: Mapping[str, Task], taken: Collection[str]) -> dict[str, str]:
    """Guess which column holds the right labels of which task, by names as `compare` does, else by what they hold.

    Args:
        taken: columns that hold texts. Columns with a model's answers, as `score` adds them, are no right labels.
    """
    names = [name for name in named_columns(table) if name not in taken and f"{name}_confidence" not in table.columns]
    by_task = {task: column for task in label_tasks(tasks) if (column := find_label_column(names, task))}
    likely = find_column(names, LABEL_NAMES)
    if by_task or not names:
        return by_task
    cells = read_columns(table, [likely] if likely else names, GUESS_ROWS)
    numbered = class_names(table)
    for column in cells:
        named = _names_of(cells[column], numbered[column]) if column in numbered else cells[column]
        fits = fitting_tasks(column, named, {task: tasks[task] for task in label_tasks(tasks)})
        if not fits and column == likely and len(tasks) == 1:
            fits = label_tasks(tasks)  # labels of other names, which the visitor maps
        if len(fits) == 1:
            return {fits[0]: column}
    return {}


def _names_of(cells: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Return the names of numbered labels, as far as there are such names."""
    return [names[cell] if type(cell) is int and 0 <= cell < len(names) else None for cell in cells]


def read_right_labels(
    table: Table, tasks: Mapping[str, Task], columns: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]
) -> dict[str, RightLabels]:
    """Read the right labels of the file.

    Args:
        columns: task -> the column of its labels.
        maps: task -> label in the file -> the task's label, or "" to leave its rows out.

    Raises:
        InputError: there is no such column, a cell is not a label, or a map names a label that the task does not have.
    """
    cells = read_columns(table, list(dict.fromkeys(columns.values())))
    names = class_names(table)
    right = {}
    for task, column in columns.items():
        labels = spellings(table.name, column, cells[column], names.get(column))
        given, mapping = Counter(labels), maps.get(task, {})
        matching = match_labels(given, tasks[task].labels, mapping, column=column, has_names=column in names)
        if matching.unknown:
            right[task] = RightLabels(column, unknown=matching.unknown)
            continue
        remarks = label_remarks(given, task, tasks[task], matching, mapping)
        right[task] = RightLabels(column, [matching.positions[label] for label in labels], remarks=remarks)
    return right


def map_as_text(unknown: Mapping[str, int], task: Task) -> str:
    """Return a line "label in the file = label of the task" for each unknown label, with the most similar one."""
    short = (label for label in unknown if len(label) <= MAX_LABEL_LETTERS and len(label.splitlines()) == 1)
    guessed = guesses(short, task.labels)
    return "\n".join(f"{label} = {guess}".rstrip() for label, guess in guessed.items())


def read_map(text: str) -> dict[str, str]:
    """Parse such lines; nothing behind the = leaves rows with this label out.

    Raises:
        InputError: a line has no =, a label is mapped twice, or there are too many lines.
    """
    mapping: dict[str, str] = {}
    if len(lines := text.splitlines()) > MAX_MAP_LINES:
        raise InputError(f"The map has {len(lines):,} lines; the maximum is {MAX_MAP_LINES}. Choose another column.")
    for line in lines:
        label, equals, theirs = (part.strip() for part in line.rpartition("="))
        if not line.strip():
            continue
        if not equals or not label:
            raise InputError(f"{shown(line)} does not say what a label means. Write: label in the file = label here.")
        if label in mapping:
            raise InputError(f"{shown(label)} is mapped twice. Keep one of the lines.")
        mapping[label] = theirs
    return mapping


class ScoredRows:
    """The rows of a file with their answers, written for the table of the page as they are scored.

    The file is JSON Lines, packed with gzip: first what the columns and labels are, then a line per row: its cells as
    text, per task [label, confidence, uncertain, right label] (labels by position, -1 without one), and why it has no
    answer. `ui/scored.js` reads it.

    Attributes:
        rows: answered so far.
        listed: rows in the file of the table, which is limited to `MAX_TABLE_BYTES`.
        confusion: task -> (right label, given label) by position -> rows, for the rows with both.
    """

    def __init__(
        self,
        path: Path,
        table: Table,
        texts: Sequence[str],
        tasks: Mapping[str, Task],
        right: Mapping[str, RightLabels],
    ) -> None:
        self.path = path
        self.rows = self.listed = 0
        # Labels that the model lacks, and for which the visitor has given no meaning, are compared with nothing.
        self._right = right = {task: labels for task, labels in right.items() if not labels.unknown}
        self.confusion: dict[str, Counter[tuple[int, int]]] = {task: Counter() for task in right}
        self._positions = {name: {label: at for at, label in enumerate(task.labels)} for name, task in tasks.items()}
        self._left_bytes = MAX_TABLE_BYTES
        self._file = gzip.open(path, "wt", compresslevel=4, encoding="ascii")  # noqa: SIM115
        self._write(
            {
                "columns": table.columns,
                "texts": [table.columns.index(name) for name in texts],
                "tasks": [
                    {"name": name, "labels": task.labels, "right": right[name].column if name in right else None}
                    for name, task in tasks.items()
                ],
            }
        )

    def __enter__(self) -> ScoredRows:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, block: Block, answers: Answers) -> None:
        """Add the rows of a block; the first that does not fit, and all after it, are counted only."""
        prefix = next(reversed(answers.columns)).removesuffix("error")  # the last of the added columns
        columns = {
            task: [answers.columns[f"{prefix}{task}{end}"] for end in ("", "_confidence", "_uncertain")]
            for task in self._positions
        }
        errors = answers.columns[f"{prefix}error"]
        for at, cells in enumerate(block.cells()):
            given = [self._answer(task, *(column[at] for column in of_task)) for task, of_task in columns.items()]
            if self._left_bytes > 0:
                self._write([[as_text(cell) for cell in cells], given, errors[at] or ""])
                self.listed += self._left_bytes > 0
            self.rows += 1

    def _answer(self, task: str, label: str | None, confidence: float | None, uncertain: bool | None) -> list[Any]:
        right = self._right[task].ids[self.rows] if task in self._right else -1
        given = -1 if label is None else self._positions[task][label]
        if given >= 0 and right >= 0:
            self.confusion[task][right, given] += 1
        return [given, confidence or 0, int(uncertain or False), right]

    def _write(self, line: Any) -> None:
        text = json.dumps(line, separators=(",", ":"))  # ASCII alone: no half of a character, no line separator
        self._left_bytes -= len(text)
        if self._left_bytes > 0:
            self._file.write(text + "\n")
