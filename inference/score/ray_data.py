"""Score on Ray Data: actors that hold the model answer batches of a Parquet file, on this machine or on many.

Without RAY_ADDRESS a cluster on this machine is started for the run. It listens on the loopback address only, requires
Ray's token, has no dashboard and reports no usage statistics. With RAY_ADDRESS that cluster is used as it is.
The calling process receives the rows in their order and writes them. A worker that dies is restarted with its batch. A
run whose own process is killed starts again: unlike the local scorer, this one keeps no journal.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, BinaryIO

from inference.errors import InferenceError, InputError, MissingDependencyError
from inference.jobs import Progress
from inference.score.annotate import AnswerOptions, Tally, answer
from inference.score.journal import free_name, write
from inference.score.run import Meter, Model, Report, ScoreJob, check_out, format_of, outset, plan
from inference.score.workers import Opener
from inference.score.writing import schema_of, with_answers, write_groups
from inference.tables.cutting import BLOCK_BYTES, LETTER_BYTES
from inference.tables.parquet import ParquetTable
from inference.tables.reading import open_table

OBJECT_STORE_BYTES = 200_000_000  # of a local cluster; a few batches fit
TASK_BLOCKS = 5  # blocks of rows in a task, which a worker repeats if it dies
TALLY = "__tally"  # a column that brings the counts back; it is not written
# Read when Ray is imported; variables that the user has set stay.
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes it listen on the loopback address only
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the rest is in its logs
}


class Answering:
    """An actor that opens the model once and answers many batches."""

    def __init__(self, open_one: Opener, options: AnswerOptions, text_columns: list[str]) -> None:
        self._classifier = open_one()
        self._options = options
        self._text_columns = text_columns

    def __call__(self, batch: Any) -> Any:
        """Return the batch, a pyarrow table, with its answers, and their counts in its first row."""
        import pyarrow

        first, *second = (batch.column(name).to_pylist() for name in self._text_columns)
        answers = answer(self._classifier, list(zip(first, *second, strict=True)) if second else first, self._options)
        tallies = [json.dumps(asdict(answers.tally)), *[None] * (len(batch) - 1)]
        table = with_answers(batch, answers.columns, self._options.columns(self._classifier.tasks))
        return table.append_column(TALLY, pyarrow.array(tallies, pyarrow.string()))


def score(
    job: ScoreJob,
    model: Model,
    workers: int = 1,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Answer every row of a Parquet file on Ray; otherwise like `inference.score.run.score`.

    Raises:
        InputError: the input or the output is not Parquet, and as there.
        MissingDependencyError: Ray is not installed.
        InferenceError: the run failed on the cluster.
    """
    started = time.monotonic()
    out = check_out(job.source, job.out)
    if job.source.suffix.lower() != ".parquet" or format_of(job) != "parquet":
        raise InputError("--engine ray reads and writes Parquet. Name .parquet files, or leave --engine out.")
    table = open_table(job.source, job.text_column)
    assert isinstance(table, ParquetTable)
    options = plan(job, model.bundle, table)
    kinds = options.columns(model.bundle.tasks)
    for sentence in outset(job, model, table):
        say(sentence)
    row_bytes = LETTER_BYTES * table.unpacked_bytes // max(1, table.row_count) + options.weight(model.bundle.tasks)
    batch_rows = min(job.block_rows, max(1, BLOCK_BYTES // row_bytes))
    total, meter = Tally(), Meter(table.row_count, 0, model.backend, progress)

    def tables(answered: Any) -> Iterator[Any]:
        meter.add(0)
        for batch in answered.iter_batches(batch_size=batch_rows, batch_format="pyarrow", prefetch_batches=1):
            for tally in batch.column(TALLY).drop_null().to_pylist():
                total.add(Tally.of_dict(json.loads(tally)))
            meter.add(len(batch))
            yield batch.drop_columns(TALLY)

    with _cluster(workers) as ray:
        # By default a row group is one task, which one worker does alone and whose rows come all at the end.
        tasks = max(1, table.row_count // (TASK_BLOCKS * batch_rows))
        # Without partitioning, because a folder called "year=2026" must not add a column.
        rows = ray.data.read_parquet(str(job.source.resolve()), override_num_blocks=tasks, partitioning=None)
        answered = rows.map_batches(
            Answering,
            batch_size=batch_rows,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_args=(
                model.open,
                options,
                [table.text_column, *([] if job.pair_column is None else [job.pair_column])],
            ),
            num_cpus=1,
        )

        def fill(file: BinaryIO) -> None:
            write_groups(tables(answered), schema_of(table, kinds), file)
            check_rows(total.rows, table.row_count)  # before OUT is replaced

        try:
            write(out, fill, free_name(out))
        except ray.exceptions.RayError as error:
            raise InferenceError(f"The run failed on Ray: {_cause(error)}. Its logs are in /tmp/ray.") from None
        except OSError as error:
            raise InferenceError(f"Cannot write {out}: {error.strerror or error}. Name another place.") from None
    return Report(
        out, "parquet", table.text_column, options.prefix, total, 0, time.monotonic() - started, table.row_count
    )


def check_rows(answered: int, rows: int) -> None:
    """Raise InferenceError unless every row was returned."""
    if answered != rows:
        raise InferenceError(f"Ray returned {answered:,} of {rows:,} rows. See its logs in /tmp/ray and start again.")


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Connect to Ray; on exit, stop the cluster if it was started here."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"--engine ray needs the library {error.name}. Install it: pip install -r requirements-scale.txt"
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # One CPU more than workers, because reading needs one too.
        ray.init(
            num_cpus=workers + 1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            address="local",
            **quiet,
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _cause(error: BaseException) -> str:
    """Return the last line of Ray's message, which is the error of the worker."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
