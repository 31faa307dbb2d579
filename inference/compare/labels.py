"""Match the labels that a file holds with those of a model, however they are spelt."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import InputError, counted, shown
from inference.formats.bundle import Task
from inference.formats.labels import names_entry

LEAVE_OUT = ""
"""In a label map: rows with this label are left out."""
MAX_MAP_BYTES = 1_000_000
MAX_LABEL_LETTERS = 200
GUESS_ROWS = 2_000  # that a guess looks at
MAX_PASTED = 10  # labels in the option that a message suggests
NUMBERS = (
    "Numbers are positions only if they count from 0 and neither the column nor the labels suggest something else. "
)
SYNONYMS = (
    ("pos", "positive"),
    ("neg", "negative"),
    ("neu", "neutral"),
    ("true", "yes"),
    ("false", "no"),
)
TRUTH = SYNONYMS[-2:]
POLARITY = (("true", "positive"), ("false", "negative"))
"""What yes and no mean to a task with two labels that has neither."""
AFFIRMED = ("real", "genuine", "correct", "valid", "spam", "toxic", "hate", "offensive", "abusive", "fraud", "ironic")
DENIED = ("fake", "wrong", "incorrect", "invalid", "ham", "clean")
"""Labels that, as the first or the second of two, mean 1 and 0 or true and false the other way round."""
MISSING = frozenset({"nan", "na", "n/a", "<na>", "nat", "none", "null"})
"""Spellings of no label, unless the task has a label of this name."""
WITHHELD = "-1"
"""How data sets mark rows whose label is not published."""
_INTEGRAL = re.compile(r"-?(\d+)(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_PLACEHOLDER = re.compile(r"label[ _-]?(\d+)", re.IGNORECASE | re.ASCII)
_NEGATION = re.compile(r"(not?|non|never|anti) ")
_SEPARATORS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")  # between words: A- is not A


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
    given = {label for label in labels if label and label.casefold() not in MISSING}
    if given and all(map(_INTEGRAL.fullmatch, given)):  # pandas turns 1 into 1.0 if the column has an empty cell
        numbers = {label: label.partition(".")[0] for label in given}
        return [numbers.get(label, label) for label in labels]
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


def match_labels(
    given: Counter[str],
    labels: Sequence[str],
    mapping: Mapping[str, str] | None = None,
    *,
    column: str = "",
    has_names: bool = False,
) -> Matching:
    """Match the spellings of a column with the labels of a task; an ambiguous one stays unknown.

    A name comes first: exactly, then ignoring case, spaces, hyphens and underscores, then as a synonym (pos, positive).
    Only if no spelling is a name, whole numbers, LABEL_n and truth values are read as positions, which data sets on the
    Hub have.

    Args:
        given: spelling -> its number of rows; "" is no label.
        mapping: spelling -> the task's label, or `LEAVE_OUT`. It takes precedence.
        column: name of the column: in "is_ham", true does not mean the label spam.
        has_names: the file names its labels, so they are neither positions nor empty cells.
    """
    mapped = _mapped(given, labels, mapping or {})
    rest = [label for label in given if label and label not in mapped]
    named = {} if _contradicts(column, labels, rest) else _named(rest, labels)
    rest = [label for label in rest if label not in named]
    if any(_INTEGRAL.fullmatch(label) for label in rest if label != WITHHELD):
        # 1 to 4 are no names of stars if there is a 0 beside them
        rest += [label for label in named if _INTEGRAL.fullmatch(label)]
        named = {label: position for label, position in named.items() if label not in rest}
    missing = {} if has_names else _missing(rest, named, len(labels))
    rest = [label for label in rest if label not in missing]
    is_clear = not has_names and not named and all(position < 0 for position in mapped.values())
    numbers = _numbered(rest, labels) if is_clear and not _contradicts(column, labels, rest) else {}
    is_complete = bool(rest) and len(numbers) == len(rest)
    positions = {"": -1} | mapped | named | missing | (numbers if is_complete else {})
    unknown = {label: rows for label, rows in given.most_common() if label not in positions}
    return Matching(positions, unknown, is_complete)


def fitting_tasks(column: str, cells: Sequence[Any], tasks: Mapping[str, Task]) -> list[str]:
    """Return the task whose labels fit these best, or several that fit alike; none knows less than half of the rows.

    Names count more than positions, and then the share of the task's labels that occur: 0 and 1 fit the task with two
    labels better than the one with seven. A misspelt label must not make this the column of another task, so not every
    label has to fit.
    """
    try:
        given = Counter(spellings("", "", cells[:GUESS_ROWS]))
    except InputError:
        return []
    del given[""]
    fits = {}
    for name, task in tasks.items():
        matching = match_labels(given, task.labels, column=column)
        rows = sum(count for label, count in given.items() if matching.positions.get(label, -1) >= 0)
        if 2 * rows > given.total():
            fits[name] = (rows, not matching.by_position, len(matching.labels) / len(task.labels))
    return [name for name, fit in fits.items() if fit == max(fits.values())]


def check_not_scores(place: str, labels: Iterable[str]) -> None:
    """Raise InputError if these labels are numbers, and one of them is not whole."""
    numbers = [label for label in labels if label and label.casefold() not in MISSING]
    score = next((label for label in numbers if not _INTEGRAL.fullmatch(label)), None)
    if score is not None and all(map(_NUMBER.fullmatch, numbers)):
        raise InputError(
            f"{place}: {shown(score)} is a score and not a label. Name the column of the labels, or write a label for "
            "each score."
        )


def read_label_map(text: str) -> dict[str, str]:
    """Parse "mine=theirs,other=", or read a JSON object of that kind from a .json file.

    Raises:
        InputError: it is neither, or maps a label twice.
    """
    pairs: Any
    if text.lower().endswith(".json"):
        try:
            with Path(text).open("rb") as file:
                content = file.read(MAX_MAP_BYTES + 1)
            if len(content) > MAX_MAP_BYTES:
                raise InputError(f"--label-map {text} has more than {MAX_MAP_BYTES:,} bytes. Name a smaller file.")
            pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
        except OSError as error:
            raise InputError(f"--label-map {text}: {error.strerror}. Name a JSON file.") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"--label-map {text} is not valid JSON: {str(error)[:200]}.") from None
    else:
        parts = [pair.rpartition("=") for pair in text.split(",")]
        if not all(equals and mine.strip() for mine, equals, _ in parts):
            raise InputError(f"--label-map {shown(text)}: write MINE=THEIRS,MINE=THEIRS or name a .json file.")
        pairs = _Pairs((mine, theirs) for mine, _, theirs in parts)
    if not isinstance(pairs, _Pairs) or not all(isinstance(label, str | None) for _, label in pairs):
        raise InputError(f'--label-map {shown(text)}: the file must hold an object, such as {{"mine": "theirs"}}.')
    mapping = {mine.strip(): (theirs or LEAVE_OUT).strip() for mine, theirs in pairs}
    if len(mapping) < len(pairs):
        twice = Counter(mine.strip() for mine, _ in pairs).most_common(1)[0][0]
        raise InputError(f"--label-map maps {shown(twice)} twice. Keep one of them.")
    return mapping


def unused(mapping: Iterable[str], given: Collection[str]) -> list[str]:
    """Return a remark for each spelling of a label map that no row has."""
    return [f"the label map has {shown(label)}, which no row is labelled" for label in mapping if label not in given]


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object as they are written, where a label may stand twice."""


def guesses(unknown: Iterable[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the most similar label of the task for each spelling, `LEAVE_OUT` if none is similar."""
    unknown = list(unknown)
    folded = {fold(label): label for label in labels}
    guessed = {}
    for label in unknown:
        if _INTEGRAL.fullmatch(label):  # 1 for "1 star"
            names = [name for name in labels if label in re.findall(r"-?[0-9]+", name)]
        else:
            names = [folded[name] for name in _similar(fold(label[:MAX_LABEL_LETTERS]), folded)]
        guessed[label] = names[0] if len(names) == 1 else LEAVE_OUT
    numbers = _numbers(unknown)
    for first in (-1, 0) if any(guessed.values()) else (-1, 0, 1):  # of two labels, 0 and 1 have been doubted
        if numbers == list(range(first, first + len(labels))) and (first or len(labels) > 2):
            guessed |= {label: labels[int(label) - first] for label in unknown}
    return guessed


def _similar(label: str, names: Iterable[str]) -> list[str]:
    """Return the most similar name, if any, without those that may mean the opposite: "unhappy", "not toxic"."""
    likely = [
        name
        for name in names
        if not name.endswith(label)
        and not label.endswith(name)
        and bool(_NEGATION.match(name)) == bool(_NEGATION.match(label))
    ]
    return difflib.get_close_matches(label, likely, 1)


def explain_unknown(place: str, task: str, labels: Sequence[str], unknown: Mapping[str, int]) -> UnknownLabels:
    """Return the error for labels that the task does not have, with the option that maps them."""
    examples = ", ".join(f"{shown(label)} ({counted(rows, 'row')})" for label, rows in list(unknown.items())[:5])
    known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
    listed = list(unknown)[:MAX_PASTED]
    guessed = guesses(listed, labels)
    blank = "LABEL" if len(unknown) > 1 and not any(guessed.values()) else ""  # an option that leaves out every row
    parts = ",".join(f"{label}={target or blank}" for label, target in guessed.items())
    is_simple = len(listed) == len(unknown) and len(parts) < MAX_LABEL_LETTERS
    is_simple = is_simple and not any(sign in label for pair in guessed.items() for label in pair for sign in ",='\n")
    example = f"--label-map='{parts}'" if is_simple else '--label-map FILE.json with {"mine": "theirs", "other": ""}'
    message = (
        f"{place}: {counted(len(unknown), 'label')} that task {task!r} does not have: {examples}. It has {known}. "
        + (NUMBERS if _numbers(unknown) else "")
        + (_placeholder_advice(labels) if all(map(_PLACEHOLDER.fullmatch, labels)) else "")
        + f"Map them, or leave rows out with nothing after the =: {example}"
    )
    return UnknownLabels(message, task, labels, unknown)


def _placeholder_advice(labels: Sequence[str]) -> str:
    return (
        f"The model has no label names: write them into its config.json: {names_entry(len(labels))}; then repeat what "
        "was exported before, which keeps the old names. Or: "
    )


def fold(label: str) -> str:
    """Return a label without case, spaces at its ends, and the kind of separator between its words."""
    label = _SEPARATORS.sub(" ", unicodedata.normalize("NFC", label)).strip().casefold()
    number, placeholder = _INTEGRAL.fullmatch(label), _PLACEHOLDER.fullmatch(label)
    if number:
        return label.partition(".")[0]
    return f"label {placeholder[1]}" if placeholder else label


def _mapped(given: Mapping[str, int], labels: Sequence[str], mapping: Mapping[str, str]) -> dict[str, int]:
    """Return the positions that the user's mapping gives.

    Raises:
        InputError: it names a label that the task does not have.
    """
    targets = {LEAVE_OUT: -1} | {label: i for i, label in enumerate(labels)}
    for theirs in mapping.values():
        if theirs not in targets:
            known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
            raise InputError(f"The label map names {shown(theirs)}, which the task does not have. It has {known}.")
    return {mine: targets[theirs] for mine, theirs in mapping.items() if mine in given}


def _named(given: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the positions of the spellings that name a label, and one label only."""
    exact = {label: i for i, label in enumerate(labels)}
    by_fold = Counter(map(fold, labels))
    folded = {fold(label): i for i, label in enumerate(labels) if by_fold[fold(label)] == 1}
    synonyms: dict[str, int] = {}
    for group in SYNONYMS:
        known = [name for name in group if by_fold[name]]
        if len(known) == 1 and known[0] in folded:
            synonyms |= dict.fromkeys(group, folded[known[0]])
    if len(labels) == 2:
        if by_fold["0"] and by_fold["1"]:
            for number, group in zip(("1", "0"), TRUTH, strict=True):
                synonyms |= dict.fromkeys(group, folded[number])
        for name, label in POLARITY:
            group = next(group for group in SYNONYMS if name in group)
            if label in synonyms and name not in synonyms:
                synonyms |= dict.fromkeys(group, synonyms[label])
    positions = {label: exact.get(label, folded.get(fold(label), synonyms.get(fold(label)))) for label in given}
    return {label: position for label, position in positions.items() if position is not None}


def _missing(rest: Sequence[str], named: Mapping[str, int], count: int) -> dict[str, int]:
    """Return the spellings of no label; -1 is one if the other labels are positions, and not three with 0 and 1."""
    missing = {label: -1 for label in rest if label.casefold() in MISSING}
    others = [label for label in rest if label not in missing and label != WITHHELD]
    numbers = _numbers(others)
    is_withheld = not others or (bool(numbers) and numbers[0] == 0 and (count == 2 or numbers != [0, 1]))
    return missing | ({WITHHELD: -1} if WITHHELD in rest and is_withheld and not named else {})


def _numbers(labels: Iterable[str]) -> list[int]:
    """Return whole numbers in order; none if a label is something else."""
    labels = list(labels)
    is_whole = all(len(label) < 10 and _INTEGRAL.fullmatch(label) for label in labels)
    return sorted(int(label.partition(".")[0]) for label in labels) if is_whole else []


def _contradicts(column: str, labels: Sequence[str], given: Sequence[str]) -> bool:
    """Whether 0 and 1, or true and false, seem to mean the two labels the other way round than they would be read.

    In the column "is_ham" of a task with ham and spam, 1 means ham; in "is_negative", true does not mean positive. Of
    (positive, negative) and (toxic, not toxic), 1 may mean either.
    """
    folded = [fold(label) for label in labels]
    binary = {name for group in TRUTH for name in group} | {"0", "1"}
    cells = {fold(label) for label in given} - MISSING
    if len(labels) != 2 or not cells or not cells <= binary - set(folded):
        return False
    is_number = not cells.isdisjoint(("0", "1"))
    positive = 1 if is_number else _named(["true"], labels).get("true", 1)
    about = fold(column).removeprefix("is ").removeprefix("has ")
    meant = [
        i for i, name in enumerate(folded) if about in next((group for group in SYNONYMS if name in group), [name])
    ]
    affirmative, negative = (*TRUTH[0], *SYNONYMS[0], *AFFIRMED), (*TRUTH[1], *SYNONYMS[1], *DENIED)
    is_reversed = folded[0] in affirmative or folded[1] in negative or _NEGATION.sub("", folded[1]) == folded[0]
    return (bool(meant) and positive not in meant) or (positive == 1 and is_reversed)


def _numbered(given: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Return the positions that whole numbers, LABEL_n and, of two labels, true and false stand for.

    Without a 0, numbers may count from 1; 0 and 1 alone may be no and yes where there are more than two labels; and
    where the labels are numbers, they are names: all stand for nothing. LABEL_n always counts from 0.
    """
    truth = {"false": 0, "true": 1} if len(labels) == 2 else {}
    positions = {}
    for label in given:
        number = _INTEGRAL.fullmatch(label) or _PLACEHOLDER.fullmatch(label)
        position = int(number[1][:9]) if number else truth.get(label.casefold(), -1)
        if 0 <= position < len(labels) and not label.startswith("-"):
            positions[label] = position
    numbers = [position for label, position in positions.items() if _INTEGRAL.fullmatch(label)]
    has_numbers = any(_INTEGRAL.fullmatch(label) for label in labels)
    is_binary = set(numbers) == {0, 1} and len(labels) > 2
    return {} if numbers and (0 not in numbers or has_numbers or is_binary) else positions
