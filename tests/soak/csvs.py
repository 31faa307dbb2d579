"""Change CSV files at random, score them, and see that no row was lost, doubled, reordered or altered.

python tests/soak/csvs.py --files 50000

Each file has quotation marks and line ends in its cells, one of three separators, a byte-order mark or none; in most
some bytes were then replaced, doubled, moved or cut out. It is refused in one line, or the rows that Python's own
reader finds in it are the rows of the output, cell by cell; JSONL holds the same cells.
"""

from __future__ import annotations

import argparse
import codecs
import csv
import io
import json
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fakes  # noqa: E402
import scored  # noqa: E402

from inference.errors import InputError  # noqa: E402
from inference.score.run import ScoreJob, score  # noqa: E402
from inference.tables.text_formats import harmless  # noqa: E402

CELLS = (
    "good",
    "bad glad",
    "",
    " ",
    "NA",
    "null",
    "None",
    "nan",
    "-1.5",
    "1e400",
    "=1+1",
    " @x",
    "a,b;c\td",
    'say "good"',
    "two\nlines",
    "two\r\nlines",
    "a\rb",
    "\x00",
    "é 你好 😀",
    "'",
    '"',
    "＝1",
    "x" * 300,
)


def draw_file(draw: random.Random) -> bytes:
    """A CSV file of a few rows, changed in up to four places."""
    delimiter, line_end = draw.choice(",,,;\t"), draw.choice(["\n", "\n", "\r\n"])
    header = draw.choice([["id", "text"], ["id", "text", "more"], ["text"], ["id", "id", "text"], ["id", "text", ""]])
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=draw.choice([0, 0, 1]))
    writer.writerow(header)
    writer.writerows([[str(i), *draw.choices(CELLS, k=len(header) - 1)] for i in range(draw.randint(0, 12))])
    content = bytearray(("\ufeff" if draw.random() < 0.2 else "").encode() + out.getvalue().encode())
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
        at, length = draw.randrange(len(content) + 1), draw.randint(1, 12)
        piece = content[at : at + length]
        kind = draw.randrange(5)
        if kind == 0:
            del content[at : at + length]
        elif kind == 1:
            content[at:at] = piece
        elif kind == 2:
            content[at:at] = draw.choice(
                [b'"', b",", b"\n", b"\r", b"\r\n", b"\x00", b'""', b"\n\n", b";", b"=", b"\xe2"]
            )
        elif kind == 3:
            content[at : at + 1] = bytes([draw.randrange(256)])
        else:
            del content[at : at + length]
            to = draw.randrange(len(content) + 1)
            content[to:to] = piece
    return bytes(content)


def decoded(content: bytes) -> str:
    """The text, of Windows-1252 if it is not UTF-8."""
    return content.decode("utf-8-sig" if is_utf8(content) else "cp1252")


def is_utf8(content: bytes) -> bool:
    """Whether these bytes are UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def header_of(content: bytes, delimiter: str) -> list[str]:
    """The first record, however odd its quotation marks are with this separator."""
    records = csv.reader(io.StringIO(decoded(content), newline=""), delimiter=delimiter)
    return next(cells for cells in records if any(map(str.strip, cells)))


def rows_of(content: bytes, delimiter: str) -> list[list[str]]:
    """The rows as Python's reader finds them, short ones filled up; the header is the first."""
    rows = list(csv.reader(io.StringIO(decoded(content), newline=""), delimiter=delimiter, strict=True))
    while not any(map(str.strip, rows[0])):
        del rows[0]
    named = max((at for at, name in enumerate(rows[0], 1) if name.strip()), default=len(rows[0]))
    width = max(named, *(at for row in rows for at, cell in enumerate(row, 1) if cell.strip()))
    return [(row + [""] * width)[:width] for row in rows]


def check(content: bytes, folder: Path) -> bool:
    """Whether the file was scored; if so, its rows are there as they were.

    Raises:
        AssertionError: they are not, or an error is not one line.
    """
    source, out, lines = folder / "in.csv", folder / "out.csv", folder / "out.jsonl"
    source.write_bytes(content)
    try:
        report = score(ScoreJob(source, out, block_rows=5), MODEL)
    except InputError as error:
        assert "\n" not in str(error)
        assert not out.exists()
        return False
    delimiter = next(one for one in ",;\t|" if report.text_column in header_of(content, one))
    given = rows_of(content, delimiter)
    width = len(given[0])
    rows = rows_of(out.read_bytes(), delimiter)
    assert len(rows) == len(given)
    for before, after in zip(given, rows, strict=True):
        for one, other in zip(before, after[:width], strict=True):
            assert other in (one, f"'{one}"), (one, other)
            assert harmless(other) == other or other == one  # what is left as it is, is a number
    is_marked = out.read_bytes().startswith(codecs.BOM_UTF8)
    assert is_marked == (content.startswith(codecs.BOM_UTF8) or not is_utf8(content))
    at = given[0].index(report.text_column)
    tasks = dict.fromkeys(rows[0][width:])
    for before, after in zip(given[1:], rows[1:], strict=True):
        answers = dict(zip(tasks, after[width:], strict=True))
        text = before[at]
        error = answers[f"{report.prefix}error"]
        assert bool(error) == (not text.strip()), (text, error)
        if not error:
            assert answers[f"{report.prefix}sentiment"] == CLASSIFIER.predict(text, "sentiment").label
    if len(set(given[0])) == width:
        score(ScoreJob(source, lines, block_rows=3), MODEL)
        written = [json.loads(line) for line in lines.read_text(encoding="utf-8").split("\n")[:-1]]
        assert [list(row.values())[:width] for row in written] == given[1:]
        lines.unlink()
    out.unlink()
    return True


CLASSIFIER = fakes.classifier()
MODEL = scored.model(open_one=partial(getattr, sys.modules[__name__], "CLASSIFIER"))


def mutate(files: int, seed: int = 0) -> dict[str, int]:
    """How many of so many files were scored and how many refused; it raises where one of them breaks a rule."""
    draw = random.Random(seed)
    counts = {"scored": 0, "refused": 0}
    with tempfile.TemporaryDirectory(dir=scored.MEMORY) as home:
        for _ in range(files):
            content = draw_file(draw)
            try:
                counts["scored" if check(content, Path(home)) else "refused"] += 1
            except Exception as error:
                raise AssertionError(f"{error!r} with the file {content!r}") from error
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    found = mutate(options.files, options.seed)
    print(", ".join(f"{name} {count:,}" for name, count in found.items()), f"in {time.monotonic() - started:.0f} s")
