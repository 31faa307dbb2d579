"""Match the labels that a file holds with those of a model, however they are spelt."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import InputError, shown

LEAVE_OUT = ""
"""In a label map: rows with this label are left out."""
MAX_MAP_BYTES = 1_000_000
MAX_LABEL_LETTERS = 200
SYNONYMS = (
    ("pos", "positive"),
    ("neg", "negative"),
    ("neu", "neutral"),
    ("true", "t", "yes", "y"),
    ("false", "f", "no", "n"),
)
POLARITY = (("true", "positive"), ("false", "negative"))
"""What yes and no mean to a task with two labels that has neither."""
MISSING = frozenset({"nan", "na", "n/a", "<na>", "nat", "none", "null"})
"""Spellings of no label, unless the task has a label of this name."""
_INTEGRAL = re.compile(r"-?(\d+)(\.0*)?", re.ASCII)
_PLACEHOLDER = re.compile(r"label[ _-]?(\d+)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Matching:
    """What the labels of a file mean to a task."""

    positions: Mapping[str, int]
    """Spelling in the file -> position of the task's label; -1 for a row to leave out."""
    unknown: Mapping[str, int]
    """Spelling without a meaning -> its number of rows."""
    by_position: bool = False
    """The labels are numbers, read as positions."""

    @property
    def labels(self) -> set[int]:
        """The positions of the labels that occur."""
        return set(self.positions.values()) - {-1}


class UnknownLabels(InputError):
    """A column has labels that the task does not have.

    Args:
        task: name of the task.
        labels: of the task.
        unknown: spelling in the file -> its number of rows.
    """

    def __init__(self, message: str, task: str, labels: Sequence[str], unknown: Mapping[str, int]) -> None:
        super().__init__(message)
        self.task = task
        self.labels = list(labels)
        self.unknown = dict(unknown)


def spellings(file: str, column: str, cells: Sequence[Any], names: Sequence[str] | None = None) -> list[str]:
    """Return the labels in the cells of a column as text, "" where there is none.

    Args:
        file: its name, for errors, as is `column`.
        names: of numbered labels, if the file has them, see `class_names`.

    Raises:
        InputError: a cell is not a label, or there is no label of that number; with its row.
    """
    labels = []
    for row, cell in enumerate(cells, 1):
        if type(cell) is str:
            labels.append(cell.strip())
            continue
        try:
            labels.append(_spelling(cell, names))
        except InputError as error:
            raise InputError(f"{file}, row {row:,}, column {column!r}: {error}") from None
    given = set(labels) - {""}
    if given and all(map(_INTEGRAL.fullmatch, given)):  # pandas turns 1 into 1.0 if the column has an empty cell
        numbers = {label: label.partition(".")[0] for label in given} | {"": ""}
        return [numbers[label] for label in labels]
    return labels


def _spelling(cell: Any, names: Sequence[str] | None) -> str:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, list | tuple | dict | bytes):
        raise InputError(f"{str(cell)[:40]} is not a label. Give each text one, as a string or a number.")
    if names is None or isinstance(cell, str | bool):
        return str(cell).strip()
    if cell == -1:  # the label is withheld, as data sets mark it
        return ""
    if cell not in range(len(names)):
        raise InputError(f"there is no label number {str(cell)[:40]}.")
    if not names[int(cell)].strip():
        raise InputError(f"label number {int(cell)} has an empty name.")
    return names[int(cell)].strip()


def match_labels(given: Counter[str], labels: Sequence[str], mapping: Mapping[str, str] | None = None) -> Matching:
    """Match the spellings of a column with the labels of a task; an ambiguous one stays unknown.

    A name comes first: exactly, then ignoring case, spaces, hyphens and underscores, then as a synonym (pos, positive).
    Only if no spelling is a name, whole numbers, LABEL_n and truth values are read as positions, which data sets on the
    Hub have.

    Args:
        given: spelling -> its number of rows; "" is no label.
        mapping: spelling -> the task's label, or `LEAVE_OUT`. It takes precedence.
    """
    mapped = _mapped(given, labels, mapping or {})
    named = _named([label for label in given if label and label not in mapped], labels)
    rest = [label for label in given if label and label not in mapped and label not in named]
    missing = {label: -1 for label in rest if label.casefold() in MISSING or (label == "-1" and "0" in rest)}
    rest = [label for label in rest if label not in missing]
    numbers = {} if named else _numbered(rest, len(labels))
    is_complete = bool(rest) and len(numbers) == len(rest)
    positions = {"": -1} | mapped | named | missing | (numbers if is_complete else {})
    return Matching(positions, {label: given[label] for label in rest if label not in positions}, is_complete)


def read_label_map(text: str) -> dict[str, str]:
    """Parse "mine=theirs,other=", or read a JSON object of that kind from a .json file.

    Raises:
        InputError: it is neither.
    """
    if text.lower().endswith(".json"):
        try:
            with Path(text).open("rb") as file:
                mapping = json.loads(file.read(MAX_MAP_BYTES + 1)[: MAX_MAP_BYTES + 1])
        except OSError as error:
            raise InputError(f"--label-map {text}: {error.strerror}. Name a JSON file.") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"--label-map {text} is not valid JSON of at most 1 MB: {error}.") from None
    else:
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        if not all(equals for _, equals, _ in pairs):
            raise InputError(f"--label-map {shown(text)}: write MINE=THEIRS,MINE=THEIRS or name a .json file.")
        mapping = {mine.strip(): theirs.strip() for mine, _, theirs in pairs}
    if not isinstance(mapping, dict) or not all(isinstance(label, str | None) for label in mapping.values()):
        raise InputError(f'--label-map {shown(text)}: the file must hold an object, such as {{"mine": "theirs"}}.')
    return {key.strip(): label or LEAVE_OUT for key, label in mapping.items()}


def guesses(unknown: Iterable[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the most similar label of the task for each spelling, `LEAVE_OUT` if none is similar."""
    folded = {_fold(label): label for label in labels}
    near = {label: difflib.get_close_matches(_fold(label[:MAX_LABEL_LETTERS]), folded, 1) for label in unknown}
    return {label: folded[names[0]] if names else LEAVE_OUT for label, names in near.items()}


def explain_unknown(place: str, task: str, labels: Sequence[str], unknown: Mapping[str, int]) -> UnknownLabels:
    """Return the error for labels that the task does not have, with the option that maps them."""
    first = list(unknown)[:5]
    examples = ", ".join(f"{shown(label)} ({unknown[label]:,} rows)" for label in first)
    known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
    guessed = guesses(first, labels)
    parts = ",".join(f"{label}={guessed[label]}" for label in first) + (",…" if len(unknown) > len(first) else "")
    is_simple = not any(sign in label for label in first for sign in ",='\n") and len(parts) < MAX_LABEL_LETTERS
    example = f"--label-map '{parts}'" if is_simple else '--label-map FILE.json with {"mine": "theirs"}'
    numbers = sorted(int(label) for label in unknown if label.isdecimal() and len(label) < 9)
    one_based = numbers == list(range(1, len(labels) + 1)) and len(numbers) == len(unknown)
    message = (
        f"{place}: {len(unknown):,} label(s) that task {task!r} does not have: {examples}. It has {known}. "
        + (f"Positions count from 0, so 1 to {len(labels)} are not read as such. " if one_based else "")
        + (_placeholder_advice(labels) if all(map(_PLACEHOLDER.fullmatch, labels)) else "")
        + f"Map them, or leave rows out with nothing after the =: {example}"
    )
    return UnknownLabels(message, task, labels, unknown)


def _placeholder_advice(labels: Sequence[str]) -> str:
    names = ", ".join(f'"{i}": "…"' for i in range(min(3, len(labels)))) + (", …" if len(labels) > 3 else "")
    return (
        f'The model has no label names: add {{"id2label": {{{names}}}}} to its config.json, in the order used in '
        "training, and repeat what was exported from it, which keeps the old names. Or: "
    )


def _fold(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


def _mapped(given: Iterable[str], labels: Sequence[str], mapping: Mapping[str, str]) -> dict[str, int]:
    """Return the positions that the user's mapping gives; targets that other tasks have do not count here."""
    targets = {LEAVE_OUT: -1} | {label: i for i, label in enumerate(labels)}
    folded = {_fold(key): target for key, target in mapping.items()}
    wanted = {label: mapping.get(label, folded.get(_fold(label))) for label in given if label}
    return {label: targets[target] for label, target in wanted.items() if target is not None and target in targets}


def _named(given: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the positions of the spellings that name a label, and one label only."""
    exact = {label: i for i, label in enumerate(labels)}
    by_fold = Counter(map(_fold, labels))
    folded = {_fold(label): i for i, label in enumerate(labels) if by_fold[_fold(label)] == 1}
    synonyms: dict[str, int] = {}
    for group in SYNONYMS:
        known = [name for name in group if name in folded]
        if len(known) == 1:
            synonyms |= dict.fromkeys(group, folded[known[0]])
    if len(labels) == 2:
        for name, label in POLARITY:
            group = next(group for group in SYNONYMS if name in group)
            if label in synonyms and name not in synonyms:
                synonyms |= dict.fromkeys(group, synonyms[label])
    positions = {label: exact.get(label, folded.get(_fold(label), synonyms.get(_fold(label)))) for label in given}
    return {label: position for label, position in positions.items() if position is not None}


def _numbered(given: Iterable[str], count: int) -> dict[str, int]:
    """Return the positions that whole numbers, LABEL_n and, of two labels, truth values stand for."""
    truth = {name: int(group[0] == "true") for group in SYNONYMS[-2:] for name in group} if count == 2 else {}
    positions = {}
    for label in given:
        number = _INTEGRAL.fullmatch(label) or _PLACEHOLDER.fullmatch(label)
        position = int(number[1][:9]) if number else truth.get(label.casefold(), -1)
        if 0 <= position < count and not label.startswith("-"):
            positions[label] = position
    return positions
