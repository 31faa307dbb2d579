"""`score`: answer every row of a file, and write all rows in their order to another."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.backends import TITLES
from inference.classifier import Threshold, checked_thresholds
from inference.errors import InferenceError, InputError, shown
from inference.formats.bundle import Bundle
from inference.formats.files import sha256
from inference.formats.identity import content_key
from inference.formats.pairs import PAIRS_REMEDY
from inference.jobs import Cancelled, Progress
from inference.score.annotate import PREFIX, AnswerOptions, Answers, Tally
from inference.score.journal import Journal
from inference.score.workers import Opener, answering
from inference.score.writing import FORMATS, Writer, open_writer
from inference.tables.cutting import BLOCK_BYTES, BLOCK_ROWS, CUT
from inference.tables.reading import assumed, open_table
from inference.tables.source import Source
from inference.tables.table import Block, Table, is_sentence, pair_index, shortened
from inference.version import __version__

ENDINGS = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
"""Extension of a file to write -> its format."""


@dataclass(frozen=True)
class ScoreJob:
    """What to score, and how."""

    source: Path
    out: Path
    text_column: str | None = None
    """By default found by its name, see `open_table`."""
    pair_column: str | None = None
    """The second text of each row, for a model of pairs."""
    tasks: tuple[str, ...] | None = None
    """By default all."""
    threshold: Threshold = None
    """By default the model's own."""
    all_scores: bool = False
    format: str | None = None
    """By default that of the extension of `out`, else of `source`."""
    block_rows: int = BLOCK_ROWS
    """Rows answered and stored at a time, fewer if they are large, see `inference.tables.cutting`."""
    keep_partial: bool = False
    """When the run is cancelled, write the rows answered until then."""


@dataclass(frozen=True)
class Model:
    """The model that answers."""

    bundle: Bundle
    backend: str
    open: Opener


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    out: Path
    format: str
    text_column: str
    prefix: str
    """Of the names of the added columns; "" if the file had none of these names."""
    tally: Tally
    resumed_rows: int
    """Rows that an earlier run had answered."""
    seconds: float
    rows_in_file: int
    """More than `tally` counts if the run was cancelled."""

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
    keep: Callable[[Block, Answers], object] = lambda block, answers: None,
) -> Report:
    """Answer every row and write the file; called again after an interruption, continue where it stopped.

    The columns of the file stay as they are. For each task, the columns `<task>`, `<task>_confidence` and
    `<task>_uncertain` are added, with `all_scores` also `<task>_<label>`, and at the end `error`, which says why a row
    has no answer. If the file already has one of these names, all of them get the prefix `predicted_`. Probabilities
    have six digits. Blocks depend on the file alone, so neither workers nor interruptions change the output.

    Args:
        workers: see `answering`.
        progress: called with a description and the share done; an exception that it raises ends the run, which can be
            continued later.
        say: called before the first row with each sentence of `outset`.
        keep: called in order with each block that this run has stored, and its answers.

    Raises:
        InputError: the file, a column, a task or the output path is invalid; with the line.
        InferenceError: the model cannot be opened or is damaged, or the disk is full.
    """
    started = time.monotonic()
    out = check_out(job.source, job.out)
    before = _state(job.source)  # first, so that a change while it is read is noticed
    table = open_table(job.source, job.text_column)
    options = plan(job, model.bundle, table)
    format = format_of(job)
    if job.out.suffix.lower() == ".tsv" and getattr(table, "delimiter", "") != "\t":
        raise InputError(f"--out {job.out}: the cells of {table.name} are not separated by tabs. Write a .csv file.")
    writer = open_writer(format, table, options.columns(model.bundle.tasks))
    about = {
        "input": sha256(job.source),
        "model": content_key(model.bundle),
        "backend": model.backend,
        "tasks": options.tasks,
        "thresholds": {name: model.bundle.tasks[name].threshold for name in options.tasks}
        | checked_thresholds(options.threshold, options.tasks),
        "all scores": options.all_scores,
        "text column": table.text_column,
        **({} if job.pair_column is None else {"pair column": job.pair_column}),
        "format": format,
        "rows in a block": job.block_rows,
        "limits of a block": CUT,
        "version": __version__,
    }
    try:
        with Journal(out, about) as journal:
            for sentence in outset(job, model, table):
                say(sentence)
            resumed = sum(tally.rows for tally in journal.done.values())
            second = None if job.pair_column is None else pair_index(table, job.pair_column)
            parts = _Run(writer, journal, Meter(table.row_count, resumed, model.backend, progress), second, keep)
            with parts.cancellable(job.keep_partial), answering(model.open, options, workers) as submit:
                blocks = table.blocks(job.block_rows, options.weight(model.bundle.tasks), out.parent)
                parts.fill(blocks, submit, ahead=workers + 1)
            if _state(job.source) != before:
                raise InputError(
                    f"{job.source} changed while it was being scored. Delete {journal.folder} and start again."
                )
            total = Tally()
            for number in sorted(journal.done):
                total.add(journal.done[number])
            journal.finish(lambda file: writer.join(map(journal.path, sorted(journal.done)), file))
    except OSError as error:
        raise InferenceError(
            f"Cannot write {out}: {error.strerror or error}. Free some disk space or name another place; the same "
            "command then continues where it stopped."
        ) from None
    spent = time.monotonic() - started
    return Report(out, format, table.text_column, options.prefix, total, resumed, spent, table.row_count)


def check_out(source: Path, out: Path) -> Path:
    """Return the file to write, with links resolved.

    Raises:
        InputError: it cannot be written, or it is the input.
    """
    if not out.parent.is_dir() or out.is_dir():  # checked now and not after an hour
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise InputError(f"--out {out}: {what}. Name a file.")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is not a regular file. Name one.")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"--out {out} is the input. Name another file.")
    out = out.resolve()
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: the folder cannot be written to. Name another.")
    return out


def format_of(job: ScoreJob) -> str:
    """Return the format to write.

    Raises:
        InputError: the extension of `out` contradicts the format, or belongs to none.
    """
    ending = job.out.suffix.lower()[1:]
    if format := ENDINGS.get(ending):
        if job.format not in (None, format):
            raise InputError(f"--out {job.out} ends in .{ending}, but --format is {job.format}. Change one of them.")
        return format
    if job.format:
        return job.format
    if ending:
        raise InputError(f"--out {job.out}: unsupported file type. Use .csv, .jsonl or .parquet, or set --format.")
    given = Source(job.source.name, job.source).extension[1:]
    return "jsonl" if given == "json" else ENDINGS.get(given, FORMATS[0])


def rows_in_words(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def doubtful_header(table: Table) -> str | None:
    """Return a warning if the first line of a CSV, read as column names, may be a row."""
    if table.format != "csv" or not is_sentence(table.text_column):
        return None
    return (
        f"The first line of {table.name} was read as column names, but {shortened(table.text_column)} looks like a "
        "text. If it is one, add a header to the file."
    )


def outset(job: ScoreJob, model: Model, table: Table) -> Iterator[str]:
    """Yield what to know before the first row is answered: what was assumed, what is replaced, and how many rows."""
    if job.text_column is None and (doubt := doubtful_header(table)):
        yield doubt
    if sentence := assumed(table):
        yield f"{table.name}: {sentence}"
    if job.out.exists():
        yield f"{job.out} exists and will be replaced at the end."
    if model.bundle.pairs and job.pair_column is None:
        yield (
            f"{model.bundle.name} was trained on pairs of texts, and each row is answered as a single one. Name the "
            "column of the second texts: --pair-column NAME."
        )
    for name, reason in model.bundle.missing.items():
        yield f"This model has no {TITLES[name]}: {reason}"
    rows = f"{rows_in_words(table.row_count)} of column {shortened(table.text_column)}"
    rows += "" if job.pair_column is None else f" with {shortened(job.pair_column)}"
    yield f"Scoring {rows} on {TITLES[model.backend]} …"


def check_pairs(job: ScoreJob, bundle: Bundle) -> None:
    """Raise InputError if the job names a pair column and the model takes single texts."""
    if job.pair_column is not None and not bundle.pairs:
        raise InputError(
            f"There is a pair column ({shown(job.pair_column)}), and nothing says that {bundle.name} takes pairs. "
            f"{PAIRS_REMEDY}"
        )


def plan(job: ScoreJob, bundle: Bundle, table: Table) -> AnswerOptions:
    """Return what to answer about each text, in columns that the file does not have yet."""
    tasks = tuple(bundle.tasks if job.tasks is None else dict.fromkeys(job.tasks))
    unknown = [name for name in tasks if name not in bundle.tasks]
    if unknown or not tasks:
        raise InputError(
            f"Unknown task {shown(unknown[0] if unknown else '')}. This model has: {', '.join(bundle.tasks)}."
        )
    checked_thresholds(job.threshold, tasks)
    check_pairs(job, bundle)
    if job.pair_column is not None:
        pair_index(table, job.pair_column)
    options = AnswerOptions(tasks, job.threshold, job.all_scores)
    if set(options.columns(bundle.tasks)) & set(table.columns):
        options = AnswerOptions(tasks, job.threshold, job.all_scores, PREFIX)
    options.check(bundle.tasks, table.columns)
    return options


class _Run:
    """Answers blocks ahead while earlier ones are written.

    Args:
        second: position of the column of the second texts, for pairs.
        keep: as in `score`.
    """

    def __init__(
        self,
        writer: Writer,
        journal: Journal,
        meter: Meter,
        second: int | None,
        keep: Callable[[Block, Answers], object],
    ) -> None:
        self._writer = writer
        self._journal = journal
        self._meter = meter
        self._second = second
        self._keep = keep
        self._waiting: deque[tuple[int, Block, Future[Answers]]] = deque()

    @contextmanager
    def cancellable(self, keep_partial: bool) -> Iterator[None]:
        """End the block without an error when it is cancelled, if the rows until then are wanted and there are any."""
        try:
            yield
        except Cancelled:
            if not (keep_partial and self._journal.done):
                raise

    def fill(self, blocks: Iterator[Block], submit: Callable[[Any], Future[Answers]], ahead: int) -> None:
        """Write every missing part; at most `ahead` blocks wait in memory, fewer if they are large."""
        self._meter.add(0)
        for number, block in enumerate(blocks):
            if number not in self._journal.done:
                self._waiting.append((number, block, submit(self._texts(block))))
            del block  # or it would stay in memory until the next is read
            while len(self._waiting) > ahead or sum(queued.weight for _, queued, _ in self._waiting) > 2 * BLOCK_BYTES:
                self._write_next()
        while self._waiting:
            self._write_next()

    def _texts(self, block: Block) -> list[Any]:
        if self._second is None:
            return block.texts
        return [(text, cells[self._second]) for text, cells in zip(block.texts, block.cells(), strict=True)]

    def _write_next(self) -> None:
        number, block, future = self._waiting.popleft()
        answers = future.result()
        self._journal.commit(number, self._writer.part(block, answers.columns), answers.tally)
        self._keep(block, answers)
        self._meter.add(answers.tally.rows)


class Meter:
    """Reports the progress of a run: rows, rows per second of this run, and the share done."""

    def __init__(self, rows: int, resumed: int, backend: str, progress: Progress | None) -> None:
        self._rows = rows
        self._resumed = resumed
        self._done = 0
        self._backend = backend
        self._progress = progress
        self._started = time.monotonic()

    def add(self, rows: int) -> None:
        """Count these rows, and report."""
        self._done += rows
        if self._progress is None:
            return
        spent = time.monotonic() - self._started
        rate = f", {self._done / spent:,.0f} rows/s" if self._done else ""
        before = f" ({self._resumed:,} done before)" if self._resumed else ""
        done = self._resumed + self._done
        share = done / self._rows if self._rows else 1.0
        self._progress(f"{done:,} of {rows_in_words(self._rows)} on {TITLES[self._backend]}{rate}{before}", share)


def _state(path: Path) -> tuple[int, int] | None:
    """Return what shows that a file has changed; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
