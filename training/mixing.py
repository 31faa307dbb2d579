"""Make texts without labels out of others, for a teacher to label: joined by a contrast, negated, with words left out.

    python -m training.mixing --data train.csv --rows 20000 --out mixed.csv

English only. Nobody knows the label of such a text, so only `python -m training --teacher … --unlabelled mixed.csv` can
use it.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from inference.compare.rows import open_data
from inference.errors import InferenceError, InputError
from inference.jobs import print_any_text
from inference.tables.reading import read_columns

SHORT, LONG = 3, 14  # words of a text to join
KEEP = 0.85  # of the words, where some are left out
JOINTS = ("{}, but {}", "{} but {}", "{}, though {}", "although {}, {}", "{}, however {}", "{} . {}")
# A pattern, and what it becomes: the first one that a text has is negated.
_NEGATIONS = [
    (re.compile(r"\b(is|are|was|were|does|did|has|have|had|would|could|should)\b(?! not| n't|n't)", re.I), r"\1 not"),
    (re.compile(r"\b(can)\b(?! not|not|'t)", re.I), r"\1 not"),
    (re.compile(r"^(a|an|the) (?=\w+)", re.I), r"not \1 "),
    (re.compile(r"\b(very|so|too|really|quite)\b", re.I), r"not \1"),
]
# Contractions as users write them, and as data sets that are split into words have them.
_CONTRACTED = {"is not": ("isn't", "is n't"), "does not": ("doesn't", "does n't"), "did not": ("didn't", "did n't")}


def mix(texts: Sequence[str], rows: int, seed: int = 13) -> list[str]:
    """Return up to this many different texts, as many of each kind, none of which is one of `texts`.

    Only texts of `SHORT` to `LONG` words are joined.

    Raises:
        InputError: no text has enough words.
    """
    rng = random.Random(seed)
    short = [text for text in texts if SHORT <= len(text.split()) <= LONG]
    longer = [text for text in texts if len(text.split()) > SHORT]
    if not longer:
        raise InputError(f"No text has more than {SHORT} words. Pass a file with longer texts.")
    makers: list[Callable[[], str | None]] = [
        lambda: _negated(rng.choice(longer), rng),
        lambda: _shortened(rng.choice(longer), rng),
    ]
    if short:
        makers.append(lambda: _joined(rng.choice(short), rng.choice(short), rng))
    given, made = set(texts), dict[str, None]()
    for i in range(rows * 3):  # some are refused: they are in `texts`, or made already
        if len(made) == rows:
            break
        text = makers[i % len(makers)]()
        if text and text not in given:
            made[text] = None
    return list(made)


def _joined(first: str, second: str, rng: random.Random) -> str:
    return rng.choice(JOINTS).format(first.strip(" .,"), second.strip(" .,"))


def _negated(text: str, rng: random.Random) -> str | None:
    """Return the text with a negation; None if there is no place for one."""
    for pattern, replacement in _NEGATIONS:
        negated, count = pattern.subn(replacement, text, count=1)
        if count:
            for full, contracted in _CONTRACTED.items():
                negated = re.sub(rf"\b{full}\b", rng.choice((full, *contracted)), negated, count=1)
            return negated
    return None


def _shortened(text: str, rng: random.Random) -> str | None:
    """Return the text without some of its words; None if that leaves fewer than `SHORT`."""
    words = [word for word in text.split() if rng.random() < KEEP]
    return " ".join(words) if len(words) >= SHORT else None


def main(arguments: Sequence[str] | None = None) -> int:
    print_any_text()
    p = argparse.ArgumentParser("python -m training.mixing", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--data", required=True, metavar="FILE", help="a table with texts; labels are not read")
    p.add_argument("--rows", type=int, default=20_000, help="texts to make, at most (default: %(default)s)")
    p.add_argument("--seed", type=int, default=13)
    p.add_argument("--out", type=Path, required=True, metavar="CSV")
    args = p.parse_args(arguments)
    try:
        if args.rows < 1:
            raise InputError(f"--rows {args.rows} must be at least 1.")
        table, _, _ = open_data(args.data, None)
        texts = mix(read_columns(table, [table.text_column])[table.text_column], args.rows, args.seed)
        with args.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["text"], *([text] for text in texts)])
    except (InferenceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {args.out}: {len(texts):,} texts.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
