"""The rows to train on: from folders, one file or the Hub, with the labels of one task or of several."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.classifier import check_texts
from inference.compare.metrics import LabelledRows
from inference.errors import InputError
from inference.formats.bundle import check_labels, check_name
from inference.formats.hub import fetch_data_file
from inference.tables.columns import FORMATS, read_table


@dataclass(frozen=True)
class Source:
    """The labelled rows of one task, and where they are from."""

    place: str
    """File and column, for messages."""
    sha256: str
    """Of the bytes of the training file."""
    train: LabelledRows
    validation: LabelledRows | None = None
    order: tuple[str, ...] = ()
    """The labels in the order of the data set, where it has one (`ClassLabel` on the Hub)."""
    measure: tuple[str, ...] = ()
    """Arguments of `python -m inference compare` that read the validation rows again; empty if there is no file."""


@dataclass(frozen=True)
class Request:
    """What of which data is wanted."""

    data: str
    """A folder, a file, or hf://datasets/OWNER/NAME/PATH."""
    tasks: tuple[str, ...] = ()
    text_column: str = "text"
    label_columns: tuple[str, ...] = ()
    validation: str | None = None
    """A file of validation rows beside a single training file."""
    validation_share: float | None = None
    """Of the training rows, where there are no validation rows; left out, 0.2 of a single file, none of a folder."""
    seed: int = 13


@dataclass(frozen=True)
class _File:
    name: str
    sha256: str
    columns: Mapping[str, list[Any]]
    names: Mapping[str, list[str]]
    """Column -> the names of its numbered labels."""


@dataclass(frozen=True)
class _Row:
    text: str
    labels: dict[str, str]  # task -> label; a task that the row says nothing of is not in it


SPLIT_OFF = 0.2  # of a single file, to report on


def read_sources(request: Request) -> tuple[dict[str, Source], list[dict[str, str]]]:
    """Task -> its rows; and the rows split off for validation, as a table of text and labels.

    Raises:
        InputError: nothing to read, a column that is not there, or a cell that is no text or no label, with its row.
    """
    folder = Path(request.data)
    share = request.validation_share
    if share is not None and not 0 <= share < 1:
        raise InputError(f"A validation share of {share:g} must be at least 0 and below 1.")
    if request.data.startswith("hf://") or folder.is_file():
        return _one_file(request, request.data, request.validation, SPLIT_OFF if share is None else share)
    if not folder.is_dir():
        raise InputError(f"No folder and no file {folder}. Name a file with texts and labels, or a folder of such.")
    alone = _part(folder, "train")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _part(path, "train"))
    if alone and names:
        raise InputError(f"{folder} holds {alone.name} and folders of tasks ({', '.join(names)}). Name one of them.")
    if alone:
        validation = request.validation or _part(folder, "validation")
        return _one_file(request, str(alone), str(validation) if validation else None, share or 0.0)
    return _task_folders(request, folder, list(request.tasks) or names, share or 0.0)


def _task_folders(
    request: Request, folder: Path, names: Sequence[str], share: float
) -> tuple[dict[str, Source], list[dict[str, str]]]:
    if not names:
        raise InputError(
            f"{folder} holds no task: one folder per task is wanted, each with a train.csv, .jsonl or .parquet; "
            "or such a file right in it."
        )
    if len(request.label_columns) > 1 or request.validation:
        raise InputError(f"{folder} has a folder per task: name one label column at most, and no validation file.")
    found: dict[str, Source] = {}
    split_off: list[dict[str, str]] = []
    for name in names:
        train = _part(folder / name, "train")
        if train is None:
            raise InputError(f"{folder / name} holds no train.csv, .jsonl or .parquet for the task {name!r}.")
        validation = _part(folder / name, "validation")
        column = request.label_columns or ("label",)
        one = Request(request.data, (name,), request.text_column, column, seed=request.seed)
        sources, rest = _one_file(one, str(train), str(validation) if validation else None, share)
        found |= sources
        split_off += rest
    return found, split_off


def _one_file(
    request: Request, train: str, validation: str | None, share: float
) -> tuple[dict[str, Source], list[dict[str, str]]]:
    """The tasks of one training file: one for each of its label columns."""
    file = _read(train)
    holders = _label_columns(file, request)
    rows = _rows(file, request.text_column, holders)
    held_out: list[_Row] = []
    split_off: list[dict[str, str]] = []
    if validation is not None:
        held_out = _rows(_read(validation), request.text_column, holders)
    elif share:
        rows, held_out = _hold_out(rows, share, request.seed)
        split_off = [{"text": row.text, **row.labels} for row in held_out]
    found = {}
    for task, column in holders.items():
        measure: list[str] = []
        if validation is not None:
            measure = ["--data", validation, "--task", task]
            measure += ["--text-column", request.text_column] if request.text_column != "text" else []
            measure += ["--label-column", column] if column not in (task, "label") else []
        found[task] = Source(
            place=f"{file.name}, column {column!r}",
            sha256=file.sha256,
            train=_of_task(rows, task),
            validation=_of_task(held_out, task) if any(task in row.labels for row in held_out) else None,
            order=tuple(file.names.get(column, ())),
            measure=tuple(measure),
        )
        if not found[task].train.texts:
            raise InputError(f"{found[task].place} has no row with a label.")
    return found, split_off


def _part(folder: Path, name: str) -> Path | None:
    """The file `name`.csv, .jsonl or .parquet in a folder."""
    found = [folder / f"{name}{ending}" for ending in FORMATS if (folder / f"{name}{ending}").is_file()]
    if len(found) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in found)}. Keep one of them.")
    return found[0] if found else None


def _read(source: str) -> _File:
    path = fetch_data_file(source) if source.startswith("hf://") else Path(source)
    if not path.is_file():
        raise InputError(f"No file {path}. A CSV, JSONL or Parquet file with texts and labels is wanted.")
    content = path.read_bytes()
    columns = read_table(path.name, content)
    names = _class_names(content) if path.suffix.lower() == ".parquet" else {}
    return _File(path.name, hashlib.sha256(content).hexdigest(), columns, names)


def _class_names(content: bytes) -> dict[str, list[str]]:
    """Column -> names of its numbered labels, which the library `datasets` writes into a Parquet file's schema."""
    import pyarrow.parquet

    written = (pyarrow.parquet.read_schema(io.BytesIO(content)).metadata or {}).get(b"huggingface")
    try:
        features = json.loads(written)["info"]["features"] if written else {}
        return {column: [str(name) for name in kind["names"]] for column, kind in features.items() if "names" in kind}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # a note of somebody else's; the numbers are labels then


def _label_columns(file: _File, request: Request) -> dict[str, str]:
    """Task -> the column with its labels."""
    columns = list(file.columns)
    has = f"it has {', '.join(map(repr, columns)) or 'none'}"
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        has += ". Its cells seem to be separated by something else than commas: save it with commas"
    chosen = list(request.label_columns)
    if not chosen:
        chosen = list(request.tasks) if request.tasks and set(request.tasks) <= set(columns) else ["label"]
    for column in (request.text_column, *chosen):
        if column not in columns:
            option = "--text-column" if column == request.text_column else "--label-columns"
            raise InputError(f"{file.name} lacks the column {column!r}; {has}. Name another with {option}.")
    if request.text_column in chosen:
        raise InputError(f"The column {request.text_column!r} cannot hold both the texts and the labels.")
    names = list(request.tasks) or chosen
    if len(names) != len(chosen) or len(set(names)) != len(names):
        raise InputError(f"{len(names)} task(s) ({', '.join(names)}) for {len(chosen)} column(s) of labels.")
    try:
        return {check_name(name, "task"): column for name, column in zip(names, chosen, strict=True)}
    except ValueError as error:
        raise InputError(f"{error} Name the task with --tasks.") from None


def _rows(file: _File, text_column: str, holders: Mapping[str, str]) -> list[_Row]:
    """The rows that have a label of a task. The row numbers of messages count from 1, the header not counted."""
    for column in (text_column, *holders.values()):
        if column not in file.columns:
            raise InputError(f"{file.name} lacks the column {column!r}; it has {', '.join(map(repr, file.columns))}.")
    found = []
    for i, text in enumerate(file.columns[text_column]):
        labels = {}
        for task, column in holders.items():
            label = _label(file, column, i)
            if label:
                labels[task] = label
        if not labels:
            continue
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{file.name}, row {i + 1}: the text is empty (column {text_column!r}).")
        try:
            check_texts([text])
        except InputError as error:
            raise InputError(f"{file.name}, row {i + 1} (column {text_column!r}): {error}") from None
        found.append(_Row(text, labels))
    return found


def _label(file: _File, column: str, row: int) -> str:
    """The label in a cell, empty if there is none."""
    cell = file.columns[column][row]
    if cell is None or cell != cell:  # NaN differs from itself
        return ""
    if isinstance(cell, list | dict | bytes):
        raise InputError(
            f"{file.name}, row {row + 1}, column {column!r}: {str(cell)[:40]} is no label. Give each text one, "
            "as a string or a number."
        )
    names = file.names.get(column)
    if names is None or isinstance(cell, str):
        label = str(cell).strip()
        if not label:
            return ""
    elif cell == -1:  # how data sets mark a row whose label is kept secret
        return ""
    elif not 0 <= cell < len(names):
        raise InputError(f"{file.name}, row {row + 1}, column {column!r}: there is no label number {cell}.")
    else:
        label = names[cell]
    try:
        check_labels((label,))
    except ValueError as error:  # no model folder with such a label could be read
        raise InputError(
            f"{file.name}, row {row + 1}, column {column!r}: {error} Mend it, or name another column with "
            "--label-columns."
        ) from None
    return label


def _hold_out(rows: Sequence[_Row], share: float, seed: int) -> tuple[list[_Row], list[_Row]]:
    """The rows to train on and about `share` of them to report on, in file order.

    Drawn in proportion to the labels. Rows with the same text stay on the same side, and no label is
    left with fewer than two texts to train on.
    """
    same: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        same.setdefault(row.text, []).append(i)
    groups = list(same.values())
    random.Random(seed).shuffle(groups)
    groups.sort(key=lambda group: sorted(rows[group[0]].labels.items()))
    pairs = [{pair for row in group for pair in rows[row].labels.items()} for group in groups]
    left = Counter(pair for of_group in pairs for pair in of_group)
    held: set[int] = set()
    for i, group in enumerate(groups):
        if int((i + 1) * share) == int(i * share):  # every so many rows of the sorted ones: in proportion
            continue
        if all(left[pair] > 2 for pair in pairs[i]):
            left.subtract(pairs[i])
            held.update(group)
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def _of_task(rows: Collection[_Row], task: str) -> LabelledRows:
    kept = [row for row in rows if task in row.labels]
    return LabelledRows([row.text for row in kept], [row.labels[task] for row in kept])
