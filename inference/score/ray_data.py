"""The scorer on Ray Data: actors that hold the model answer batches of a Parquet file, on this machine or on many.

Without RAY_ADDRESS a cluster of this machine is started for the run: it listens on the loopback address alone, wants
Ray's token, has no dashboard and tells nobody how it is used. With RAY_ADDRESS that cluster is used as it is set up.
Rows come back in their order to the process that was called, which writes them. A worker that dies is started again and
its batch with it. A run whose own process is killed begins anew: unlike the scorer of one machine it keeps no journal.
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
from inference.score.annotate import Tally, Wanted, answer
from inference.score.journal import free_name, write
from inference.score.run import Meter, Model, Report, ScoreJob, check_out, format_of, outset, plan
from inference.score.workers import Opener
from inference.score.writing import schema_of, with_answers, write_groups
from inference.tables.cutting import BLOCK_BYTES, LETTER_BYTES
from inference.tables.parquet import ParquetTable
from inference.tables.reading import open_table

OBJECT_STORE_BYTES = 200_000_000  # of a cluster of this machine: some batches and no more
TASK_BLOCKS = 5  # blocks of rows in a task: what a worker that dies has to do again
TALLY = "__tally"  # a column for the way back; it is not written
# Read when Ray is imported. A name that the user has set stays.
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its name for: listen on the loopback address
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what else it says is in its logs
}


class Answering:
    """An actor: a model that is opened once and asked about many batches."""

    def __init__(self, open_one: Opener, wanted: Wanted, text_column: str) -> None:
        self._classifier = open_one()
        self._wanted = wanted
        self._text_column = text_column

    def __call__(self, batch: Any) -> Any:
        """The batch, a pyarrow table, with its answers and in its first row what they hold in figures."""
        import pyarrow

        found = answer(self._classifier, batch.column(self._text_column).to_pylist(), self._wanted)
        told = [json.dumps(asdict(found.tally)), *[None] * (len(batch) - 1)]
        table = with_answers(batch, found.columns, self._wanted.columns(self._classifier.tasks))
        return table.append_column(TALLY, pyarrow.array(told, pyarrow.string()))


def score(
    job: ScoreJob,
    model: Model,
    workers: int = 1,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """Answer every row of a Parquet file; as `inference.score.run.score`, but on Ray.

    Raises:
        InputError: the input or the output is no Parquet, and as there.
        MissingDependencyError: Ray is not installed.
        InferenceError: the run failed on the cluster.
    """
    started = time.monotonic()
    out = check_out(job.source, job.out)
    if job.source.suffix.lower() != ".parquet" or format_of(job) != "parquet":
        raise InputError("--engine ray reads and writes Parquet. Name .parquet files, or leave --engine out.")
    table = open_table(job.source, job.text_column)
    assert isinstance(table, ParquetTable)
    wanted = plan(job, model.bundle, table)
    kinds = wanted.columns(model.bundle.tasks)
    for sentence in outset(job, model, table):
        say(sentence)
    row_bytes = LETTER_BYTES * table.unpacked_bytes // max(1, table.row_count) + wanted.weight(model.bundle.tasks)
    batch_rows = min(job.block_rows, max(1, BLOCK_BYTES // row_bytes))
    total, meter = Tally(), Meter(table.row_count, 0, model.backend, progress)

    def tables(answered: Any) -> Iterator[Any]:
        meter.tell(0)
        for batch in answered.iter_batches(batch_size=batch_rows, batch_format="pyarrow", prefetch_batches=1):
            for told in batch.column(TALLY).drop_null().to_pylist():
                total.add(Tally.of_dict(json.loads(told)))
            meter.tell(len(batch))
            yield batch.drop_columns(TALLY)

    with _cluster(workers) as ray:
        # Else one row group of a file is one task: nobody shares it, and its rows come when the last is answered.
        tasks = max(1, table.row_count // (TASK_BLOCKS * batch_rows))
        # A folder that is called "year=2026" is a folder, and gives no column.
        rows = ray.data.read_parquet(str(job.source.resolve()), override_num_blocks=tasks, partitioning=None)
        answered = rows.map_batches(
            Answering,
            batch_size=batch_rows,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_args=(model.open, wanted, table.text_column),
            num_cpus=1,
        )

        def fill(file: BinaryIO) -> None:
            write_groups(tables(answered), schema_of(table, kinds), file)
            check_rows(total.rows, table.row_count)  # here: OUT is replaced when this returns

        try:
            write(out, fill, free_name(out))
        except ray.exceptions.RayError as error:
            raise InferenceError(f"The run failed on Ray: {_cause(error)}. Its logs are in /tmp/ray.") from None
        except OSError as error:
            raise InferenceError(f"{out} cannot be written: {error.strerror or error}. Name another place.") from None
    return Report(out, "parquet", table.text_column, wanted.prefix, total, 0, time.monotonic() - started)


def check_rows(answered: int, rows: int) -> None:
    """Raise InferenceError unless every row came back."""
    if answered != rows:
        raise InferenceError(f"Ray gave {answered:,} rows of {rows:,}. Start again, and look at its logs in /tmp/ray.")


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Ray, connected; a cluster that was started for this is ended again."""
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
        # One processor more than workers: reading needs one too.
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
    """The last line of what Ray says, which is the error of the worker."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
