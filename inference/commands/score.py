"""The command that scores a file."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import cpu
from inference.backends import BACKENDS, RUNTIMES, check_backend
from inference.commands.options import add_model_command, names, print_json
from inference.errors import InputError
from inference.formats.describe import describe
from inference.formats.identity import check_same
from inference.jobs import Progress
from inference.score.writing import FORMATS

if TYPE_CHECKING:
    from inference.formats.bundle import Bundle
    from inference.score.run import Report

DEFAULT = "int8"
ENGINES = ("local", "ray")
EMPTY = (
    "Every row of IN is a row of OUT. Empty and blank texts, null, missing fields and values that are not strings get "
    "no answer, and the column error says so; NA, NaN and null written as text in a CSV are texts like any other. An "
    "empty line of a CSV is a row with an empty text, also at its end; an empty line of JSONL is skipped."
)


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    p = add_model_command(
        commands, "score", score, "Score a file: add the model's answers to every row. Resumes after an interruption."
    )
    p.epilog = EMPTY
    p.add_argument(
        "file",
        type=Path,
        metavar="IN",
        help="a CSV, TSV, JSONL, JSON, Parquet or .xlsx file, text also with gzip (.csv.gz)",
    )
    p.add_argument("--out", type=Path, required=True, help="the file to write; an existing file is replaced at the end")
    p.add_argument("--text-column", help="default: the column named like texts, such as text, or the only one")
    p.add_argument("--pair-column", help="the second text of each row, for a model that takes pairs of texts")
    p.add_argument("--tasks", type=names, help="comma-separated (default: all)")
    p.add_argument("--backend", choices=BACKENDS, help=f"runtime (default: {DEFAULT}, else the model's first)")
    p.add_argument("--threshold", type=float, help="uncertain below this confidence (default: the model's own)")
    p.add_argument("--format", choices=FORMATS, help="default: that of the extension of OUT, or of IN if OUT has none")
    p.add_argument("--all-scores", action="store_true", help="add a column with the probability of each label")
    p.add_argument(
        "--workers",
        type=int,
        help="processes that share the cores, each with the model in memory (default: one per core, at most 8)",
    )
    p.add_argument(
        "--engine", choices=ENGINES, default="local", help="ray: Parquet on a cluster (default: %(default)s)"
    )


def score(args: argparse.Namespace) -> None:
    from inference.score import ray_data, run
    from inference.score.run import ScoreJob, check_out, check_pairs, format_of

    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers} must be at least 1.")
    check_out(args.file, args.out)
    job = ScoreJob(
        source=args.file,
        out=args.out,
        text_column=args.text_column,
        pair_column=args.pair_column,
        tasks=tuple(args.tasks) if args.tasks else None,
        threshold=args.threshold,
        all_scores=args.all_scores,
        format=args.format,
    )
    format_of(job)
    workers = args.workers or min(cpu.cores(), 8)
    # A Ray worker has one core, on a machine that is unknown here.
    threads = 1 if args.engine == "ray" else max(1, cpu.cores() // workers)
    bundle = describe(args.model, args.base, pairs=args.pairs)
    check_pairs(job, bundle)  # before it is built
    model = open_model(bundle, args.backend, args.base, args.cache, threads, args.progress)

    def say(sentence: str) -> None:
        if not args.json:
            print(sentence, file=sys.stderr)

    try:
        report = (ray_data if args.engine == "ray" else run).score(job, model, workers, args.progress, say)
    except KeyboardInterrupt:
        then = "starts again" if args.engine == "ray" else "continues from here"
        if args.progress is not None:
            args.progress.end()
        print(f"Stopped. The same command {then}.", file=sys.stderr)
        raise
    if args.json:
        print_json(asdict(report) | {"out": str(report.out)}, indent=None)
        return
    rows, before, duration = report.tally.rows, report.resumed_rows, f" in {report.seconds:,.1f} s"
    if before:
        duration = f", {rows - before:,} of them{duration} and {before:,} before"
    print(f"{args.out}: {run.rows_in_words(rows)}{duration}, texts from {report.text_column!r}.")
    if report.prefix:
        print(f"The file has a column with the name of an answer, so all added columns begin with {report.prefix}.")
    for line in report_lines(report):
        print(line)


def open_model(
    bundle: Bundle, backend: str | None, base: Path | None, cache: Path, threads: int, progress: Progress | None
) -> Any:
    """Return the model to score with, built but not yet opened; INT8 unless another backend is named.

    Raises:
        InferenceError: the folder is not a model, has no such backend, or its files cannot be built.
    """
    from inference.artifacts.cache import obtain
    from inference.loading import open_described
    from inference.score.run import Model

    bundle = bundle.with_runtimes([backend] if backend else [])
    if backend is None or RUNTIMES[backend].file:
        # Once and with progress, so that the workers find it built.
        bundle = obtain(bundle, cache, progress, base).served(bundle)
    if backend is None:
        backend = DEFAULT if DEFAULT in bundle.backends else bundle.backends[-1]
    check_backend(backend, bundle.backends, bundle.missing)
    check_same(bundle, base)  # as each worker does: with what it hashed here, they need not hash it again
    # All workers, here or on another machine, open the model of this description or fail.
    return Model(bundle, backend, partial(open_described, bundle, backend, threads=threads, base=base, cache=cache))


def report_lines(report: Report) -> list[str]:
    """Return the report as lines: one per task, and notes."""
    tally = report.tally
    answered = tally.rows - tally.errors
    lines = []
    for task, counts in tally.tasks.items():
        labels = sorted(counts.labels.items(), key=lambda pair: (-pair[1], pair[0]))
        shares = ", ".join(f"{label} {rows / answered:.1%}" for label, rows in labels[:5])
        more = f", {len(labels) - 5} more labels" if len(labels) > 5 else ""
        uncertain = f"; uncertain {counts.uncertain / answered:.1%}" if counts.uncertain else ""
        lines.append(f"  {task:<12} {shares or 'no answers'}{more}{uncertain}")
    if tally.errors:
        rows = "1 row has" if tally.errors == 1 else f"{tally.errors:,} rows have"
        lines.append(f"{rows} no answer; the column {report.error_column} says why.")
    if tally.truncated:
        texts = "1 text is" if tally.truncated == 1 else f"{tally.truncated:,} texts are"
        lines.append(f"{texts} longer than the model reads; the rest was ignored.")
    if tally.unknown:
        texts = "1 text has" if tally.unknown == 1 else f"{tally.unknown:,} texts have"
        lines.append(f"{texts} no word that is in the model's vocabulary, so the answer is meaningless.")
    return lines
