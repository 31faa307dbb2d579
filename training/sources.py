"""The rows to train on: from folders, one file or the Hub, with the labels of one task or of several."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference.compare.labels import check_not_scores, fold, read_label_map, spellings, unused
from inference.compare.rows import LabelledRows, find_label_column, labelled_rows, open_data
from inference.errors import InputError, shown
from inference.formats.bundle import check_labels, check_name
from inference.tables.parquet import class_names
from inference.tables.reading import FORMATS, read_columns
from inference.tables.table import LABEL_NAMES, Table, find_column, listed
from training.phrases import Phrases

SPLIT_OFF = 0.2  # share of a single file that is kept for validation
LEFT_OUT = "rows are left out: phrases of sentences for validation that sentences to train on have too"


@dataclass(frozen=True)
class Source:
    """The labelled rows of one task, and where they are from."""

    place: str
    """File and column, for messages."""
    train: LabelledRows
    validation: LabelledRows | None = None
    measure: tuple[str, ...] = ()
    """Arguments of `python -m inference compare` that read the validation rows again; empty if there is no file."""


@dataclass(frozen=True)
class Request:
    """Which data to read."""

    data: str
    """A folder, a file, or hf://datasets/OWNER/NAME/PATH."""
    tasks: tuple[str, ...] = ()
    text_column: str | None = None
    """By default found by its name, see `open_table`."""
    label_columns: tuple[str, ...] = ()
    validation: str | None = None
    """A file of validation rows beside a single training file."""
    validation_share: float | None = None
    """Of the training rows, if there are no validation rows; by default 0.2 of a single file, none of a folder."""
    seed: int = 13
    label_map: str | None = None
    """What labels of the only label column mean, as `read_label_map` parses it."""


def read_sources(request: Request) -> tuple[dict[str, Source], list[dict[str, str]]]:
    """Return task -> its rows, and the rows split off for validation as a table of text and labels.

    Raises:
        InputError: there is nothing to read, a column is missing, or a cell is not a text or a label; with its row.
    """
    folder = Path(request.data)
    share = request.validation_share
    if share is not None and not 0 <= share < 1:
        raise InputError(f"A validation share of {share:g} must be at least 0 and below 1.")
    if request.data.startswith("hf://") or folder.is_file():
        return _one_file(request, request.data, request.validation, SPLIT_OFF if share is None else share)
    if not folder.is_dir():
        raise InputError(
            f"No folder and no file {folder}. Name a file with texts and labels, or a folder of such files."
        )
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
            f"{folder} holds no task. Add one folder per task, each with a train.csv, .jsonl or the like, or put such "
            "a file directly into it."
        )
    if len(request.label_columns) > 1 or request.validation:
        raise InputError(f"{folder} has a folder per task: name one label column at most, and no validation file.")
    if request.label_map is not None and len(names) > 1:
        raise InputError("--label-map is for one task. Name it with --tasks, or train each task with its own.")
    sources: dict[str, Source] = {}
    split_off: list[dict[str, str]] = []
    for name in names:
        train = _part(folder / name, "train")
        if train is None:
            raise InputError(f"{folder / name} holds no train.csv, .jsonl or the like for the task {name!r}.")
        validation = _part(folder / name, "validation")
        column = request.label_columns or ("label",)
        of_task = replace(request, tasks=(name,), label_columns=column)
        source, rest = _one_file(of_task, str(train), str(validation) if validation else None, share)
        sources |= source
        split_off += rest
    return sources, split_off


def _one_file(
    request: Request, train: str, validation: str | None, share: float
) -> tuple[dict[str, Source], list[dict[str, str]]]:
    """Return the tasks of one training file: one for each of its label columns."""
    table, digest, remarks = open_data(train, request.text_column)
    holders = _label_columns(table, request)
    label_map = {} if request.label_map is None else read_label_map(request.label_map)
    if label_map and len(holders) > 1:
        raise InputError(f"--label-map is for one label column, and there are {len(holders)}. Train one task with it.")
    rows = _rows(table, digest, holders, label_map)
    rows = replace(rows, remarks=[*remarks, *rows.remarks])
    held_out: LabelledRows | None = None
    split_off: list[dict[str, str]] = []
    if validation is not None:
        held_out = _rows(*open_data(validation, request.text_column)[:2], holders, label_map)
    elif share:
        rows, held_out = _hold_out(rows, share, request.seed)
        split_off = [
            {"text": text, **labels} for text, labels in zip(held_out.texts, _label_names(held_out), strict=True)
        ]
    sources = {}
    for task, column in holders.items():
        measure: list[str] = []
        if validation is not None:
            measure = ["--data", validation, "--task", task]
            measure += ["--text-column", request.text_column] if request.text_column else []
            measure += ["--label-column", column] if column not in (task, "label") else []
            measure += ["--label-map", request.label_map] if request.label_map else []
        place = f"{table.name}, column {column!r}"
        of_task = held_out.of_task(task) if held_out else None
        sources[task] = Source(place, rows.of_task(task), of_task or None, tuple(measure))
        if not sources[task].train:
            raise InputError(f"{place} has no row with a label.")
    return sources, split_off


def _part(folder: Path, name: str) -> Path | None:
    """Return the table `name`.csv, .jsonl, .csv.gz or the like in a folder."""
    endings = [ending for extension in FORMATS for ending in (extension, f"{extension}.gz")]
    paths = [path for ending in endings if (path := folder / f"{name}{ending}").is_file()]
    if len(paths) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in paths)}. Keep one of them.")
    return paths[0] if paths else None


def _label_columns(table: Table, request: Request) -> dict[str, str]:
    """Return task -> the column with its labels."""
    asked = request.label_columns
    if not asked:
        by_task = [find_label_column(table.columns, task) for task in request.tasks]
        asked = request.tasks if by_task and all(by_task) else ("label",)
    columns = []
    for name in asked:
        column = find_label_column(table.columns, name)
        if column is None and not request.label_columns and name == "label":
            column = find_column([column for column in table.columns if column != table.text_column], LABEL_NAMES)
        if column is None:
            raise InputError(
                f"{table.name} has no column {name!r}; {listed(table.columns)}. Name another with --label-columns."
            )
        columns.append(column)
    if table.text_column in columns:
        raise InputError(f"The column {table.text_column!r} cannot hold both the texts and the labels.")
    tasks = list(request.tasks) or list(asked)
    if len(tasks) != len(columns) or len(set(tasks)) != len(tasks):
        raise InputError(f"Tasks and label columns must be as many: {', '.join(tasks)} for {', '.join(columns)}.")
    try:
        return {check_name(task, "task"): column for task, column in zip(tasks, columns, strict=True)}
    except ValueError as error:
        raise InputError(f"{error} Name the task with --tasks.") from None


def _rows(table: Table, sha256: str, holders: Mapping[str, str], label_map: Mapping[str, str]) -> LabelledRows:
    """Return the rows that have a label of any task; labels are known in the data set's order, else sorted."""
    holders = {task: find_label_column(table.columns, column) or column for task, column in holders.items()}
    columns = read_columns(table, [table.text_column, *holders.values()])
    known, ids, remarks = {}, {}, list[str]()
    names_of = class_names(table)
    for task, column in holders.items():
        names = names_of.get(column)
        labels = spellings(table.name, column, columns[column], names)
        if label_map:
            pairs = ", ".join(f"{shown(mine)} as {shown(theirs)}" for mine, theirs in label_map.items())
            remarks.append(f"{column!r}: labels are read by the label map: {pairs}")
            remarks += unused(label_map, set(labels))
            labels = [label_map.get(label, label) for label in labels]
        if names is None and (absent := {label for label in labels if label.casefold() in ("nan", "<na>", "nat")}):
            remarks.append(f"{column!r}: rows labelled {', '.join(sorted(absent))} are rows without a label")
            labels = ["" if label in absent else label for label in labels]
        present = {label for label in labels if label}
        by_fold = Counter(map(fold, present))
        alike = [label for label in sorted(present) if by_fold[fold(label)] > 1]
        if alike:
            remarks.append(f"{column!r}: labels that are spelled alike are different ones: {', '.join(alike[:10])}")
        check_not_scores(f"{table.name}, column {column!r}", present)
        for label in sorted(present):
            try:
                check_labels((label,))
            except ValueError as error:  # a model folder with such a label could not be loaded
                row = labels.index(label) + 1
                raise InputError(
                    f"{table.name}, row {row:,}, column {column!r}: {error} Correct it, or name another column with "
                    "--label-columns."
                ) from None
        ordered = [name for name in names or () if name in present]
        known[task] = (*ordered, *sorted(present.difference(ordered)))
        position = {label: i for i, label in enumerate(known[task])}
        ids[task] = [position.get(label, -1) for label in labels]
    rows = labelled_rows(table, sha256, columns[table.text_column], ids, known)
    return replace(rows, remarks=[*remarks, *rows.remarks])


def _label_names(rows: LabelledRows) -> list[dict[str, str]]:
    """Return task -> label of each row; tasks without a label for the row are left out."""
    return [
        {task: rows.known[task][ids[row]] for task, ids in rows.labels.items() if ids[row] >= 0}
        for row in range(len(rows))
    ]


def _hold_out(rows: LabelledRows, share: float, seed: int) -> tuple[LabelledRows, LabelledRows]:
    """Split into rows to train on and about `share` of them for validation, in file order.

    Drawn in proportion to the labels. Rows with the same text stay on the same side, phrases of a sentence on its side,
    and no label is left with fewer than two texts to train on. Phrases that both sides have are left out.
    """
    labels = _label_names(rows)
    phrases = Phrases(rows.texts)
    same: dict[str, list[int]] = {}
    for i, text in enumerate(rows.texts):
        if text in phrases.whole:
            same.setdefault(text, []).append(i)
    groups = list(same.values())
    random.Random(seed).shuffle(groups)
    groups.sort(key=lambda group: sorted(labels[group[0]].items()))
    pairs = [{pair for row in group for pair in labels[row].items()} for group in groups]
    left = Counter(pair for of_group in pairs for pair in of_group)
    drawn: set[str] = set()
    for i, group in enumerate(groups):
        if int((i + 1) * share) == int(i * share):  # every so many rows of the sorted ones: in proportion
            continue
        if all(left[pair] > 2 for pair in pairs[i]):
            left.subtract(pairs[i])
            drawn.add(rows.texts[group[0]])
    held_out, left_out = phrases.of(drawn)
    kept = [i for i, text in enumerate(rows.texts) if text not in held_out and text not in left_out]
    validation = rows.take([i for i, text in enumerate(rows.texts) if text in held_out])
    if missing := len(rows) - len(kept) - len(validation):
        rows = replace(rows, remarks=[*rows.remarks, f"{missing:,} {LEFT_OUT}"])
    return rows.take(kept), validation
