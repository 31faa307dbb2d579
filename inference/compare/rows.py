"""Labelled rows from a CSV, JSONL or Parquet file, or from a data set on the Hub."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.classifier import check_texts
from inference.errors import InputError
from inference.formats.bundle import Task
from inference.formats.hub import fetch_data_file
from inference.tables.columns import read_table

MIN_ROWS = 20  # below this no figure means anything, and every chart of it would


@dataclass(frozen=True)
class LabelledData:
    """Texts and, per task, the true label of each; rows without any label are left out."""

    name: str
    sha256: str
    """Of the file's bytes."""
    rows_in_file: int
    row_numbers: list[int]
    """Which data row of the file each text is, from 1, the header not counted."""
    texts: list[str]
    labels: Mapping[str, list[int]]
    """Task -> position of the label in the task's labels; -1 where the row has none for this task."""
    remarks: list[str] = field(default_factory=list)
    """How they came about, where that is not plain: what was left out, drawn, or read in a special way."""
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> its labels in the order of their positions."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know about the rows."""
        found = list(self.remarks)
        for task, ids in self.labels.items():
            present = set(ids) - {-1}
            if len(present) == 1:
                only = self.known[task][present.pop()]
                found.append(f"every {task} row has the label {only!r}: a loss in the others cannot be seen")
        if self.copies:
            found.append(f"{self.copies:,} rows repeat the text of another")
        return found

    @property
    def copies(self) -> int:
        """Rows whose text an earlier row has already."""
        return len(self) - len(set(self.texts))

    def sample(self, rows: int, seed: int) -> LabelledData:
        """At most `rows` of them, drawn without replacement and kept in file order.

        Raises:
            InputError: too few are wanted.
        """
        if rows >= len(self):
            return self
        keep = np.sort(np.random.default_rng(seed).permutation(len(self))[:rows]).tolist()
        return self._only(keep, f"{rows:,} of {len(self):,} labelled rows, drawn at random with seed {seed}")

    def without(self, texts: Collection[str], why: str) -> LabelledData:
        """Those whose text is none of these; `why` the others are left out goes into the notes, with their number.

        Raises:
            InputError: fewer than `MIN_ROWS` are left.
        """
        keep = [i for i, text in enumerate(self.texts) if text not in texts]
        left_out = len(self) - len(keep)
        return self._only(keep, f"{left_out:,} rows are left out: {why}") if left_out else self

    def _only(self, keep: Sequence[int], remark: str) -> LabelledData:
        return replace(
            self,
            row_numbers=[self.row_numbers[i] for i in keep],
            texts=[self.texts[i] for i in keep],
            labels={task: [ids[i] for i in keep] for task, ids in self.labels.items()},
            remarks=[*self.remarks, remark],
        ).checked()

    def checked(self) -> LabelledData:
        """The same without tasks that have next to no labels here.

        Raises:
            InputError: no task has `MIN_ROWS` labelled rows.
        """
        counts = {task: sum(i >= 0 for i in ids) for task, ids in self.labels.items()}
        few = [task for task, count in counts.items() if count < MIN_ROWS]
        if len(few) == len(counts):
            most = max(counts.values(), default=0)
            raise InputError(
                f"{self.name} has {most} labelled row{'' if most == 1 else 's'}"
                + (f" ({'; '.join(self.remarks)})" if self.remarks else "")
                + f". {MIN_ROWS} are the least that figures can be made of, and a verdict wants hundreds. Label more."
            )
        if not few:
            return self
        kept = {task: ids for task, ids in self.labels.items() if task not in few}
        rows = [i for i in range(len(self)) if any(ids[i] >= 0 for ids in kept.values())]
        told = ", ".join(f"{task} ({counts[task]})" for task in few)
        return replace(self, labels=kept)._only(rows, f"too few rows are labelled to judge {told}")


def read_data(
    source: str | Path,
    tasks: Mapping[str, Task],
    task: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
) -> LabelledData:
    """The labelled rows of a file or of `hf://datasets/OWNER/NAME/path/in/it.parquet`.

    Args:
        tasks: those of the model; labels must be theirs, by name or by position.
        task: whose labels are meant; every task that has a column of its name if left out.
        label_column: where the labels of that one task are. Left out, in the column named like it, else in "label".

    Raises:
        InputError: the file or a column is missing, it cannot be read, a label is not the model's, a text is
            empty, or there are fewer than `MIN_ROWS` rows.
    """
    if str(source).startswith("hf://"):
        path = fetch_data_file(str(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(f"No file {path}. A CSV, JSONL or Parquet file with a text and a label column is wanted.")
    return parse_data(path.name, path.read_bytes(), tasks, task, text_column, label_column)


def parse_data(
    name: str,
    content: bytes,
    tasks: Mapping[str, Task],
    task: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
) -> LabelledData:
    """Like `read_data`, for a file that is in memory. `name` tells its format by how it ends.

    Raises:
        InputError: as in `read_data`.
    """
    columns = read_table(name, content)
    holders = _label_columns(name, list(columns), tasks, task, text_column, label_column)
    rows = len(columns[text_column])
    notes: list[str] = []
    labels = {key: _label_ids(name, column, columns[column], key, tasks[key], notes) for key, column in holders.items()}
    kept = [i for i in range(rows) if any(ids[i] >= 0 for ids in labels.values())]
    texts = []
    for i in kept:
        try:
            texts += check_texts([columns[text_column][i]])
        except InputError as error:
            raise InputError(f"{name}, row {i + 1} (column {text_column}): {error}") from None
    if rows > len(kept):
        notes.append(f"{rows - len(kept):,} of {rows:,} rows have no label and are left out")
    return LabelledData(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        rows_in_file=rows,
        row_numbers=[i + 1 for i in kept],
        texts=texts,
        labels={key: [ids[i] for i in kept] for key, ids in labels.items()},
        remarks=notes,
        known={key: tasks[key].labels for key in labels},
    ).checked()


def _label_columns(
    name: str,
    columns: Sequence[str],
    tasks: Mapping[str, Task],
    task: str | None,
    text_column: str,
    label_column: str | None,
) -> dict[str, str]:
    """Task -> the column with its labels."""
    if task is not None and task not in tasks:
        raise InputError(f"Unknown task {task!r}. This model has: {', '.join(tasks)}.")
    has = f"it has {', '.join(map(repr, columns)) or 'none'}"
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        has += ". Its cells seem to be separated by something else than commas: save it with commas"
    if text_column not in columns:
        raise InputError(f"{name} has no column {text_column!r}; {has}.")
    wanted = [task] if task is not None else list(tasks)
    if label_column is not None and label_column not in columns:
        raise InputError(f"{name} has no column {label_column!r}; {has}.")
    if label_column is None and any(key in columns for key in wanted):
        found = {key: key for key in wanted if key in columns}
    else:
        column = label_column or "label"
        if column not in columns:
            raise InputError(f"{name} has no column of labels ('label', or {', '.join(wanted)}); {has}.")
        if len(wanted) > 1:
            raise InputError(f"{name} has a column {column!r}; say whose labels it holds: one of {', '.join(tasks)}.")
        found = {wanted[0]: column}
    for key in found:
        if tasks[key].problem_type != "single_label_classification":
            raise InputError(f"Task {key!r} gives a text several labels at once, which cannot be compared yet.")
    return found


def _label_ids(name: str, column: str, cells: Sequence[Any], key: str, task: Task, notes: list[str]) -> list[int]:
    """Position of each cell's label in the task's labels; -1 for an empty cell.

    Names first. Whole numbers are taken as positions where no cell is a name, as data sets on the Hub have them.
    """
    given = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]  # NaN differs from itself
    positions = {label: i for i, label in enumerate(task.labels)}
    counts = Counter(given)
    del counts[""]
    unknown = [label for label in counts if label not in positions]
    numbers = {str(i): i for i in range(len(task.labels))}
    if counts and len(unknown) == len(counts) and set(counts) <= set(numbers):
        notes.append(f"the labels of {key} are numbers, read as positions: 0 is {task.labels[0]!r}")
        positions, unknown = numbers, []
    if unknown:
        shown = ", ".join(f"{label!r} ({counts[label]:,} rows)" for label in unknown[:5])
        near = difflib.get_close_matches(unknown[0], task.labels, 1)
        known = ", ".join(task.labels[:10]) + (", …" if len(task.labels) > 10 else "")
        raise InputError(
            f"{name}, column {column!r}: {len(unknown):,} label(s) that task {key!r} does not have: {shown}"
            + (f". Is {near[0]!r} meant?" if near else ".")
            + f" It has {known}. Rename them, or empty the cell to leave the row out."
        )
    return [positions[label] if label else -1 for label in given]
