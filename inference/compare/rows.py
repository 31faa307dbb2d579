"""Labelled rows from a file, or from a data set on the Hub."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inference.assets import SHOWCASE
from inference.calls.formatting import joined
from inference.calls.texts import check_texts
from inference.compare.labels import (
    GUESS_ROWS,
    Matching,
    check_not_scores,
    explain_unknown,
    fitting_tasks,
    match_labels,
    spellings,
    unused,
)
from inference.errors import InputError, counted, shown
from inference.formats.bundle import SINGLE, Bundle, Task
from inference.formats.examples import FILE as EXAMPLES
from inference.formats.files import sha256
from inference.formats.hub import fetch_data_file
from inference.tables.parquet import class_names
from inference.tables.reading import open_table, read_columns, unique
from inference.tables.source import Source
from inference.tables.table import (
    LABEL_NAMES,
    Table,
    column_index,
    find_column,
    is_sentence,
    listed,
    pair_index,
    shortened,
)

MIN_ROWS = 20  # below this no figure means anything
MAX_SEARCHED = 100  # columns whose cells are looked at for labels
ANSWERS = re.compile("pred|model|output", re.IGNORECASE)  # in names of columns that hold answers, not right labels


@dataclass(frozen=True)
class LabelledRows:
    """Texts and, per task, the label of each; rows without any label are left out."""

    texts: list[Any]
    """Strings, or pairs of strings as tuples."""
    labels: Mapping[str, list[int]]
    """Task -> position of the label among the task's labels; -1 if the row has none for this task."""
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> its labels in the order of their positions."""
    name: str = ""
    """Of the file."""
    sha256: str = ""
    """Of the file's bytes."""
    rows_in_file: int = 0
    row_numbers: list[int] = field(default_factory=list)
    """The data row of the file that each text is from, counted from 1 without the header."""
    remarks: list[str] = field(default_factory=list)
    """What was assumed, left out or drawn."""
    pair_column: str | None = None
    """The column of the second texts, if the rows are pairs."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know about the rows."""
        notes = list(self.remarks)
        for task, ids in self.labels.items():
            present = set(ids) - {-1}
            if len(present) == 1:
                label = self.known[task][present.pop()]
                notes.append(
                    f"every {task} row is labelled {label!r}, so a drop on the other labels would go unnoticed"
                )
        if self.copies:
            notes.append(f"{self.copies:,} rows repeat the text of another")
        return notes

    @property
    def copies(self) -> int:
        """The number of rows whose text is that of an earlier row."""
        return len(self) - len(set(self.texts_as_strings))

    @property
    def texts_as_strings(self) -> list[str]:
        """The texts, those of a pair on a line each."""
        return [text if isinstance(text, str) else "\n".join(text) for text in self.texts]

    @property
    def label_ids(self) -> list[int]:
        """The label positions of rows of a single task."""
        (ids,) = self.labels.values()
        return ids

    def take(self, rows: Sequence[int]) -> LabelledRows:
        """Return the rows at these positions."""
        return replace(
            self,
            row_numbers=[self.row_numbers[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            labels={task: [ids[i] for i in rows] for task, ids in self.labels.items()},
        )

    def of_task(self, task: str) -> LabelledRows:
        """Return the rows labelled for a task, with its labels alone."""
        rows = replace(self, labels={task: self.labels[task]}, known={task: self.known[task]})
        return rows.take([i for i, label in enumerate(rows.label_ids) if label >= 0])

    def sample(self, rows: int, seed: int) -> LabelledRows:
        """Return at most `rows` rows, drawn without replacement, in file order.

        Raises:
            InputError: fewer than `MIN_ROWS` rows of every task are left.
        """
        if rows >= len(self):
            return self
        keep = np.sort(np.random.default_rng(seed).permutation(len(self))[:rows]).tolist()
        return self._only(keep, f"{rows:,} of {len(self):,} labelled rows, drawn at random with seed {seed}")

    def without(self, texts: Collection[str], why: str) -> LabelledRows:
        """Return the rows with other texts than these; the notes say how many were left out, and `why`.

        Raises:
            InputError: as in `sample`.
        """
        keep = [i for i, text in enumerate(self.texts) if text not in texts]
        left_out = len(self) - len(keep)
        return self._only(keep, f"{left_out:,} rows are left out: {why}") if left_out else self

    def _only(self, keep: Sequence[int], remark: str) -> LabelledRows:
        return replace(self.take(keep), remarks=[*self.remarks, remark]).checked()

    def judged(self) -> LabelledRows | None:
        """Return all rows with the tasks that have at least `MIN_ROWS` labels; None if no task has."""
        enough = {task: ids for task, ids in self.labels.items() if sum(i >= 0 for i in ids) >= MIN_ROWS}
        return replace(self, labels=enough) if enough else None

    def checked(self) -> LabelledRows:
        """Return the rows without the tasks that have fewer than `MIN_ROWS` labels.

        Raises:
            InputError: no task is left.
        """
        counts = {task: sum(i >= 0 for i in ids) for task, ids in self.labels.items()}
        few = [task for task, count in counts.items() if count < MIN_ROWS]
        if len(few) == len(counts):
            count = max(counts.values(), default=0)
            raise InputError(
                f"{self.name} has {counted(count, 'labelled row')}"
                + (f" ({'; '.join(self.remarks)})" if self.remarks else "")
                + f". At least {MIN_ROWS} are needed for any result, and hundreds for a verdict. Label more."
            )
        if not few:
            return self
        labels = {task: ids for task, ids in self.labels.items() if task not in few}
        rows = [i for i in range(len(self)) if any(ids[i] >= 0 for ids in labels.values())]
        names = ", ".join(f"{task} ({counts[task]})" for task in few)
        return replace(self, labels=labels)._only(rows, f"too few rows are labelled to judge {names}")


def read_data(
    source: str | Path | Source,
    tasks: Mapping[str, Task],
    task: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_column: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> LabelledRows:
    """Read the labelled rows of a table.

    Args:
        source: a file, hf://datasets/OWNER/NAME/path/in/it.parquet, or bytes in memory.
        tasks: the tasks of the model, whose labels are meant.
        task: whose labels to read; by default those of every task that has a column of its name, else of the one
            whose labels the column has.
        text_column: by default found by its name, see `open_table`.
        label_column: the labels of a single task; by default the column named like it, else `LABEL_NAMES`, or else the
            only one that has labels of a task.
        pair_column: the second text of each row, for a model of pairs.
        label_map: label in the file -> the label of the only task, or "" to leave the rows out; see `match_labels`.

    Raises:
        UnknownLabels: labels that the task does not have.
        InputError: the file or a column is missing, it cannot be read, a text is empty, or there are fewer than
            `MIN_ROWS` rows.
    """
    if task is not None and task not in tasks:
        raise InputError(f"Unknown task {task!r}. This model has: {', '.join(tasks)}.")
    table, digest, remarks = open_data(source, text_column)
    if pair_column is not None:
        pair_index(table, pair_column)
    holders, inferred = _label_columns(table, tasks, task, label_column, pair_column)
    remarks += inferred
    second = [] if pair_column is None else [pair_column]
    columns = read_columns(table, [table.text_column, *holders.values(), *second])
    texts = columns[table.text_column]
    if pair_column is not None:
        texts = list(zip(texts, columns[pair_column], strict=True))
    label_map = label_map or {}
    if label_map and len(holders) > 1:
        raise InputError(f"A label map is for one task. Name it: one of {', '.join(holders)}.")
    labels, names_of = {}, class_names(table)
    for key, column in holders.items():
        names = names_of.get(column)
        given = Counter(cells := spellings(table.name, column, columns[column], names))
        matching = match_labels(given, tasks[key].labels, label_map, column=column, has_names=names is not None)
        if matching.unknown:
            place = f"{table.name}, column {column!r}"
            check_not_scores(place, matching.unknown)
            raise explain_unknown(place, key, tasks[key].labels, matching.unknown)
        labels[key] = [matching.positions[cell] for cell in cells]
        remarks += label_remarks(given, key, tasks[key], matching, label_map)
    known = {key: tasks[key].labels for key in labels}
    rows = labelled_rows(table, digest, texts, labels, known)
    return replace(rows, remarks=[*remarks, *rows.remarks], pair_column=pair_column).checked()


def read_showcase(bundle: Bundle) -> LabelledRows:
    """Return the labelled texts that a model is measured on if no file is given.

    They are the model's own examples, or Triptych's showcase for a model that has all of its tasks.

    Raises:
        InputError: there are none, or fewer than `MIN_ROWS`.
    """
    examples = [example for example in bundle.examples if example.labels]
    if examples:
        known = {name: task.labels for name, task in bundle.tasks.items()}
        known = {name: labels for name, labels in known.items() if any(name in example.labels for example in examples)}
        return LabelledRows(
            texts=[example.text for example in examples],
            labels={
                name: [labels.index(example.labels[name]) if name in example.labels else -1 for example in examples]
                for name, labels in known.items()
            },
            known=known,
            name=EXAMPLES,
            sha256=sha256(bundle.folder / EXAMPLES),
            rows_in_file=len(bundle.examples),
            row_numbers=[number for number, example in enumerate(bundle.examples, start=1) if example.labels],
            pair_column="text_pair" if bundle.pairs else None,
        ).checked()
    with SHOWCASE.open(encoding="utf-8", newline="") as file:
        showcase_tasks = set(next(csv.reader(file))) - {"text"}
    if showcase_tasks <= set(bundle.tasks) and not bundle.pairs:
        return read_data(SHOWCASE, bundle.tasks)
    raise InputError(
        f"{bundle.name} ({', '.join(bundle.tasks)}) has no labelled examples of its own to measure on. Pass rows of "
        f"yours: --data FILE.csv{' --pair-column NAME' if bundle.pairs else ''} with the columns text and label."
    )


def open_data(source: str | Path | Source, text_column: str | None) -> tuple[Table, str, list[str]]:
    """Open a file of labelled rows, downloaded if it is on the Hub.

    Returns:
        The table, its SHA-256, and remarks on what was assumed about it.

    Raises:
        InputError: as in `open_table`.
    """
    if not isinstance(source, Source):
        source = fetch_data_file(str(source)) if str(source).startswith("hf://") else Path(source)
    table = open_table(source, text_column)
    digest = table.source.sha256()
    remarks = list(table.remarks)
    if text_column is None and table.text_column != "text":
        remarks.append(f"the texts are in the column {table.text_column!r}")
    if table.format == "csv" and is_sentence(table.text_column):
        remarks.append(f"the first line is read as column names, although {shortened(table.text_column)} may be a text")
    return table, digest, remarks


def labelled_rows(
    table: Table,
    sha256: str,
    texts: Sequence[Any],
    labels: Mapping[str, Sequence[int]],
    known: Mapping[str, tuple[str, ...]],
) -> LabelledRows:
    """Return the rows of a table that have a label of any task, with a remark on how many have none.

    Raises:
        InputError: the text of such a row cannot be classified, with its row; or the file has changed.
    """
    if table.source.sha256() != sha256:
        raise InputError(f"{table.name} changed while it was read. Run the command again.")
    keep = [i for i in range(len(texts)) if any(ids[i] >= 0 for ids in labels.values())]
    for i in keep:
        try:
            check_texts([texts[i]])
        except InputError as error:
            raise InputError(f"{table.name}, row {i + 1:,} (column {table.text_column!r}): {error}") from None
    left_out = len(texts) - len(keep)
    remark = f"{left_out:,} of {len(texts):,} rows have no label and are left out"
    return LabelledRows(
        remarks=[remark] if left_out else [],
        texts=[texts[i] for i in keep],
        labels={task: [ids[i] for i in keep] for task, ids in labels.items()},
        known=known,
        name=table.name,
        sha256=sha256,
        rows_in_file=len(texts),
        row_numbers=[i + 1 for i in keep],
    )


def find_label_column(columns: Sequence[str], name: str) -> str | None:
    """Return the column of that name, or else one that differs only in case."""
    return name if name in columns else find_column(columns, [name])


def _label_columns(
    table: Table, tasks: Mapping[str, Task], task: str | None, label_column: str | None, pair_column: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return task -> the column with its labels, and a remark if it was inferred from the labels."""
    taken = (table.text_column, pair_column)
    columns = [name for name in table.columns if name not in taken and not _is_scored(table, name)]
    asked = [task] if task is not None else list(tasks)
    by_task = {key: column for key in asked if (column := find_label_column(columns, key))}
    remarks: list[str] = []
    if label_column is not None:
        column_index(table.name, table.columns, label_column)
    column = label_column or find_label_column(columns, "label") or find_column(columns, LABEL_NAMES)
    if label_column is None and by_task:
        holders = by_task
    elif column is not None and len(asked) == 1:
        holders = {asked[0]: column}
    else:
        likely = [name for name in unique(columns) if not ANSWERS.search(name)] if column is None else [column]
        key, column = _fitting_column(table, {name: tasks[name] for name in asked}, likely, column is not None)
        holders = {key: column}
        remarks.append(
            f"the column {shown(column)} is taken for the right labels of {key}; if it is not, name another with "
            "--label-column"
        )
    for key in holders:
        if tasks[key].problem_type != SINGLE:
            raise InputError(f"Task {key!r} gives a text several labels at once, which cannot be compared yet.")
    return holders, remarks


def _is_scored(table: Table, name: str) -> bool:
    """Return whether a column has a model's answers with confidences beside it, as `score` writes them."""
    return f"{name}_confidence" in table.columns


def _fitting_column(table: Table, tasks: Mapping[str, Task], columns: Sequence[str], is_named: bool) -> tuple[str, str]:
    """Return the only task whose labels are in the only column that has labels of a task.

    Args:
        is_named: the column is known to hold labels.

    Raises:
        InputError: there is none, or several.
    """
    single = {name: task for name, task in tasks.items() if task.problem_type == SINGLE}
    fits: list[tuple[str, str]] = []
    if is_named or len(columns) <= MAX_SEARCHED:
        cells, names_of = read_columns(table, columns, GUESS_ROWS), class_names(table)
        for column in columns:
            try:
                labels = spellings(table.name, column, cells[column], names_of.get(column))
            except InputError:
                continue
            is_numbered = all(re.fullmatch(r"[-+.\d\s]*", label) for label in labels)  # it may be of any task
            fits += [] if is_numbered else [(name, column) for name in fitting_tasks(column, labels, single)]
    if len(fits) == 1:
        return fits[0]
    if not fits and not is_named:
        raise InputError(
            f"{table.name} has no label column ('label', or {', '.join(tasks)}); {listed(table.columns)}"
            + (f" ({'; '.join(table.remarks)})" if table.remarks else "")
            + "".join(
                f". The column {shown(name)} is read as a model's answers, because of {shown(name + '_confidence')}"
                for name in list(filter(partial(_is_scored, table), table.columns))[:1]
            )
            + ". Name it with --label-column."
        )
    if not is_named:
        likely = _listed(f"{shown(column)} ({name})" for name, column in fits)
        raise InputError(
            f"{table.name}: several columns may hold the labels: {likely}. Name one with --label-column, and its task "
            "with --task."
        )
    what = f"may be those of {joined([name for name, _ in fits])}" if fits else "do not show which task is meant"
    raise InputError(
        f"{table.name}: the labels in the column {shown(columns[0])} {what}. Name the task with --task: one of "
        f"{', '.join([name for name, _ in fits] or tasks)}."
    )


def label_remarks(
    given: Counter[str], key: str, task: Task, matching: Matching, label_map: Mapping[str, str]
) -> list[str]:
    """Return what was assumed about the labels of a task, as remarks."""
    remarks = unused(label_map, given)
    remarks += [
        f"{given[label]:,} rows labelled {shown(label)} are left out"
        for label, position in matching.positions.items()
        if label and position < 0
    ]
    pairs = [(label, task.labels[i]) for label, i in matching.positions.items() if i >= 0]
    if matching.by_position and all(label.isdecimal() for label, _ in pairs):
        numbers = _listed(f"{i} is {task.labels[i]!r}" for i in sorted(matching.labels))
        return [*remarks, f"the labels of {key} are numbers, read as positions: {numbers}"]
    by = "as positions" if matching.by_position else "by their meaning"
    read: dict[str, list[str]] = {}
    for label, name in pairs:
        if label.casefold() != name.casefold():
            how = "by the label map" if label in label_map else by
            read.setdefault(how, []).append(f"{shown(label)} as {name!r}")
    return [*remarks, *(f"labels of {key} are read {how}: {_listed(parts)}" for how, parts in read.items())]


def _listed(parts: Iterable[str]) -> str:
    parts = list(parts)
    return ", ".join(parts[:10]) + (", …" if len(parts) > 10 else "")
