"""`score`: every row of a file answered, in a file that has them all in their order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.backends import TITLES
from inference.errors import InferenceError, InputError, shown
from inference.formats.bundle import Bundle
from inference.formats.files import sha256
from inference.formats.identity import content_key
from inference.jobs import Progress
from inference.score.annotate import PREFIX, Answers, Tally, Wanted
from inference.score.journal import Journal
from inference.score.workers import Opener, answering
from inference.score.writing import FORMATS, Writer, open_writer
from inference.tables.cutting import BLOCK_BYTES, BLOCK_ROWS, CUT
from inference.tables.reading import open_table
from inference.tables.table import Block, Table, is_sentence, shortened
from inference.version import __version__


@dataclass(frozen=True)
class ScoreJob:
    """What is to be scored, and how."""

    source: Path
    out: Path
    text_column: str | None = None
    """Left out, it is found by its name; see `open_table`."""
    tasks: tuple[str, ...] | None = None
    """All if left out."""
    threshold: float | None = None
    """The model's own if left out."""
    all_scores: bool = False
    format: str | None = None
    """Left out: what the ending of `out` says, else that of `source`."""
    block_rows: int = BLOCK_ROWS
    """Rows answered and kept at a time; of large ones fewer, see `inference.tables.cutting`."""


@dataclass(frozen=True)
class Model:
    """The model that answers."""

    bundle: Bundle
    backend: str
    open: Opener


@dataclass(frozen=True)
class Report:
    """What came of it."""

    out: Path
    format: str
    text_column: str
    prefix: str
    """Before the names of the added columns; "" where the file had none of them."""
    tally: Tally
    resumed_rows: int
    """Of these, rows that an earlier run had done."""
    seconds: float

    @property
    def error_column(self) -> str:
        """The column that says why a row has no answer."""
        return f"{self.prefix}error"


def score(
    job: ScoreJob,
    model: Model,
    workers: int = 1,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Answer every row and write the file; an interrupted run goes on where it was when it is called again.

    The columns of the file stay as they are, and for each task `<task>`, `<task>_confidence` and `<task>_uncertain`
    are added, with `all_scores` also `<task>_<label>`; in the end `error`, which says why a row has no answer. Where
    the file has one of these names already, all of them begin with `predicted_`. Probabilities have six digits. Blocks
    of rows are the same whoever answers them, so workers and kills change nothing.

    Args:
        workers: see `answering`.
        progress: called with what is done, and the share of the file that is; an exception that it raises ends the
            run, which can be gone on with.
        say: called before the first row with each sentence of `outset`.

    Raises:
        InputError: the file, the column, a task or the place to write to is none; naming the line where one is wrong.
        InferenceError: the model cannot be opened or is damaged, or the disk is full.
    """
    started = time.monotonic()
    out = check_out(job.source, job.out)
    before = _state(job.source)  # first: a change while it is looked through counts
    table = open_table(job.source, job.text_column)
    wanted = plan(job, model.bundle, table)
    format = format_of(job)
    writer = open_writer(format, table, wanted.columns(model.bundle.tasks))
    about = {
        "input": sha256(job.source),
        "model": content_key(model.bundle),
        "backend": model.backend,
        "tasks": wanted.tasks,
        "thresholds": {
            name: model.bundle.tasks[name].threshold if wanted.threshold is None else wanted.threshold
            for name in wanted.tasks
        },
        "all scores": wanted.all_scores,
        "text column": table.text_column,
        "format": format,
        "rows in a block": job.block_rows,
        "limits of a block": CUT,
        "version": __version__,
    }
    try:
        with Journal(out, about) as journal:
            for sentence in outset(job, model, table):
                say(sentence)
            resumed = sum(one.rows for one in journal.done.values())
            parts = _Run(writer, journal, Meter(table.row_count, resumed, model.backend, progress))
            with answering(model.open, wanted, workers) as submit:
                blocks = table.blocks(job.block_rows, wanted.weight(model.bundle.tasks), out.parent)
                parts.fill(blocks, submit, ahead=workers + 1)
            if _state(job.source) != before:
                raise InputError(f"{job.source} has changed meanwhile. Delete {journal.folder} and start anew.")
            total = Tally()
            for number in sorted(journal.done):
                total.add(journal.done[number])
            journal.finish(lambda file: writer.join(map(journal.path, sorted(journal.done)), file))
    except OSError as error:
        raise InferenceError(
            f"{out} cannot be written: {error.strerror or error}. Make room or name another place; the same command "
            "goes on from what is done."
        ) from None
    return Report(out, format, table.text_column, wanted.prefix, total, resumed, time.monotonic() - started)


def check_out(source: Path, out: Path) -> Path:
    """The file to write, with links followed.

    Raises:
        InputError: it cannot be one, or it is the input.
    """
    if not out.parent.is_dir() or out.is_dir():  # said now and not after an hour
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise InputError(f"--out {out}: {what}. Name a file.")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is no plain file. Name one.")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"--out {out} is the input. Name another file.")
    out = out.resolve()
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: the folder cannot be written to. Name another.")
    return out


def format_of(job: ScoreJob) -> str:
    """The format to write.

    Raises:
        InputError: the ending of `out` is that of another format than the one that is named, or of none.
    """
    ending = job.out.suffix.lower()[1:]
    if ending in FORMATS:
        if job.format not in (None, ending):
            raise InputError(f"--out {job.out} ends in .{ending}, and --format says {job.format}. Change one of them.")
        return ending
    if job.format:
        return job.format
    if ending:
        raise InputError(
            f"--out {job.out}: .{ending} is none of {', '.join(FORMATS)}. Name a file that ends in one of them, or say "
            "with --format what to write into it."
        )
    given = job.source.suffix.lower()[1:]
    return given if given in FORMATS else FORMATS[0]


def rows_in_words(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def doubtful_header(table: Table) -> str | None:
    """A sentence where the first line of a CSV, taken for column names, may be a row."""
    if table.format != "csv" or not is_sentence(table.text_column):
        return None
    return (
        f"The first line of {table.name} was taken for column names, and {shortened(table.text_column)} reads "
        "like a text: if it is one, give the file a header."
    )


def outset(job: ScoreJob, model: Model, table: Table) -> Iterator[str]:
    """What to know before the first row is answered: what was taken for what, what is replaced, and how much it is."""
    if job.text_column is None and (doubt := doubtful_header(table)):
        yield doubt
    if job.out.exists():
        yield f"{job.out} exists and is replaced at the end."
    rows = f"{rows_in_words(table.row_count)} of column {shortened(table.text_column)}"
    yield f"Scoring {rows} on {TITLES[model.backend]} …"


def plan(job: ScoreJob, bundle: Bundle, table: Table) -> Wanted:
    """What is asked about each text, in columns that the file does not have yet."""
    tasks = tuple(bundle.tasks if job.tasks is None else dict.fromkeys(job.tasks))
    unknown = [name for name in tasks if name not in bundle.tasks]
    if unknown or not tasks:
        raise InputError(
            f"Unknown task {shown(unknown[0] if unknown else '')}. This model has: {', '.join(bundle.tasks)}."
        )
    if job.threshold is not None and not 0 <= job.threshold <= 1:
        raise InputError(f"threshold={job.threshold} is not a probability between 0 and 1.")
    wanted = Wanted(tasks, job.threshold, job.all_scores)
    if set(wanted.columns(bundle.tasks)) & set(table.columns):
        wanted = Wanted(tasks, job.threshold, job.all_scores, PREFIX)
    wanted.check(bundle.tasks, table.columns)
    return wanted


class _Run:
    """Blocks that are answered ahead while others are written."""

    def __init__(self, writer: Writer, journal: Journal, meter: Meter) -> None:
        self._writer = writer
        self._journal = journal
        self._meter = meter
        self._waiting: deque[tuple[int, Block, Future[Answers]]] = deque()

    def fill(self, blocks: Iterator[Block], submit: Callable[[Any], Future[Answers]], ahead: int) -> None:
        """Write every part that is missing; at most `ahead` blocks wait in memory, and fewer where rows are large."""
        self._meter.tell(0)
        for number, block in enumerate(blocks):
            if number not in self._journal.done:
                self._waiting.append((number, block, submit(block.texts)))
            del block  # else it is there until the next is read
            while len(self._waiting) > ahead or sum(one.weight for _, one, _ in self._waiting) > 2 * BLOCK_BYTES:
                self._keep()
        while self._waiting:
            self._keep()

    def _keep(self) -> None:
        number, block, promised = self._waiting.popleft()
        answers = promised.result()
        self._journal.commit(number, self._writer.part(block, answers.columns), answers.tally)
        self._meter.tell(answers.tally.rows)


class Meter:
    """How far a run is: rows, the rate of this run, and the share of the file that is done."""

    def __init__(self, rows: int, resumed: int, backend: str, progress: Progress | None) -> None:
        self._rows = rows
        self._resumed = resumed
        self._done = 0
        self._backend = backend
        self._progress = progress
        self._started = time.monotonic()

    def tell(self, rows: int) -> None:
        """Count so many rows more, and say so."""
        self._done += rows
        if self._progress is None:
            return
        spent = time.monotonic() - self._started
        rate = f", {self._done / spent:,.0f} rows/s" if self._done else ""
        gone_on = f" ({self._resumed:,} done before)" if self._resumed else ""
        done = self._resumed + self._done
        share = done / self._rows if self._rows else 1.0
        self._progress(f"{done:,} of {rows_in_words(self._rows)} on {TITLES[self._backend]}{rate}{gone_on}", share)


def _state(path: Path) -> tuple[int, int] | None:
    """What tells that a file has changed; None where there is none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_size, told.st_mtime_ns
