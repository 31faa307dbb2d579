"""Train a classifier on labelled texts, write it as a bundle and report how good it is.

    python -m training --data tickets.csv --out models/tickets

--data is a table (CSV, JSONL, Parquet, .xlsx …) with the columns text and label, a folder with train.* and optionally
validation.*, a folder with one such folder per task, or hf://datasets/OWNER/NAME/PATH. Validation rows are for
the report and never fitted. After an interruption, the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.assets import python_command
from inference.errors import InferenceError, InputError, counted
from inference.jobs import print_any_text
from training.licence import LANGUAGE_HELP, LICENCE_HELP, check_licence, unnamed

if TYPE_CHECKING:
    from training.data import TaskData
    from training.loop import Settings
    from training.sources import Source
    from training.teacher import Distillation, Matrix, SoftLabels

# The pinned base of every model trained here.
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
BASE_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
# Defaults: few rows need small batches and enough updates, many rows need few passes.
SMALL_ROWS = 5000
SMALL_BATCH, LARGE_BATCH = 16, 64
MIN_UPDATES = 200
MIN_EPOCHS = 3
LEARNING_RATES = {"lora": 4e-4, "qlora": 4e-4, "full": 1e-4, "heads": 4e-4}
HEAD_LEARNING_RATES = {"lora": 2e-3, "qlora": 2e-3, "full": 2e-3, "heads": 1e-2}
WEIGHTS = {"none": 0.0, "balanced": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    print_any_text()
    args = parser().parse_args(arguments)
    try:
        run(args)
    except (InferenceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m training", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--data", required=True, help="a file, a folder, or hf://datasets/OWNER/NAME/PATH: see above")
    p.add_argument("--out", type=Path, required=True, help="the model folder to write")
    p.add_argument("--tasks", help="comma-separated (default: the names of the folders or label columns)")
    p.add_argument("--text-column", help="(default: the column named like texts, such as text, or the only one)")
    p.add_argument(
        "--label-columns", default="", help="comma-separated, one per task; cells may be empty (default: label)"
    )
    p.add_argument(
        "--label-map",
        metavar="MINE=NEW,…",
        help="rename labels, nothing for rows to leave out; or a .json file",
    )
    p.add_argument("--validation", help="a file of validation rows for a single training file")
    p.add_argument("--validation-share", type=float, help="split off if there are none (default: 0.2 of a file)")
    p.add_argument("--tuning-share", default="0.1", help="share of the training rows to tune on; also task=share,…")
    p.add_argument("--method", choices=tuple(LEARNING_RATES), default="lora", help="(default: %(default)s)")
    p.add_argument("--epochs", help="a number, or task=number,… (default: 3, more for few rows)")
    p.add_argument(
        "--early-stopping", type=int, default=0, metavar="N", help="stop after N epochs without a better macro-F1"
    )
    p.add_argument("--class-weights", default="0.25", help="none, balanced, or a power of 1/frequency (%(default)s)")
    p.add_argument("--label-smoothing", type=float, default=0.05, help="(default: %(default)s)")
    p.add_argument(
        "--teacher",
        metavar="MODEL",
        help="learn from the scores of this model too, a folder or hf://OWNER/NAME",
    )
    p.add_argument("--distill", action="store_true", help="insist on a --teacher, which alone is enough")
    p.add_argument("--teacher-base", type=Path, help="folder of the teacher's base, if it is an adapter")
    p.add_argument(
        "--teacher-dtype",
        metavar="DTYPE",
        help="bfloat16 halves the time of a teacher on PyTorch (default: float32)",
    )
    p.add_argument(
        "--unlabelled",
        action="append",
        default=[],
        metavar="FILE",
        help="texts that only the teacher labels; repeatable",
    )
    p.add_argument(
        "--teacher-weight", type=float, help="of the KL divergence from the teacher in the loss (default: 0.7)"
    )
    p.add_argument("--label-weight", type=float, help="of the cross-entropy with the labels (default: 0.3)")
    p.add_argument("--temperature", type=float, help="softens the scores before they are compared (default: 2)")
    p.add_argument("--max-tokens", type=int, default=128, help="longer texts are truncated (default: %(default)s)")
    p.add_argument("--out-of-scope", default="", metavar="TASK=LABEL", help='the label that means "none of the others"')
    p.add_argument("--background", type=int, default=0, metavar="N", help="texts of other tasks to add to that label")
    p.add_argument("--rank", type=int, default=64, help="LoRA rank (default: %(default)s)")
    p.add_argument("--batch-size", type=int, help=f"(default: {LARGE_BATCH}; {SMALL_BATCH} below {SMALL_ROWS:,} rows)")
    p.add_argument("--learning-rate", type=float, help="of adapter or encoder (default: depends on --method)")
    p.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    p.add_argument("--seed", type=int, default=13)
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    p.add_argument("--base", type=Path, help="folder of the base model, if its wheel is not installed")
    p.add_argument("--licence", "--license", help=LICENCE_HELP)
    p.add_argument("--language", help=LANGUAGE_HELP)
    p.add_argument(
        "--publish-examples",
        type=int,
        default=0,
        metavar="N",
        help="put N validation rows into the model folder, as examples for its page (default: none)",
    )
    p.add_argument("--dataset", action="append", default=[], metavar="HUB_ID", help="named in the model card")
    return p


def settings_of(
    args: argparse.Namespace, rows: Mapping[str, int], distillation: Distillation | None = None
) -> Settings:
    """Return the settings of the arguments; defaults depend on the number of rows to fit of each task.

    Raises:
        InputError: a number is out of range.
    """
    from training.loop import Settings

    batch_size = args.batch_size
    if batch_size is None:
        batch_size = SMALL_BATCH if sum(rows.values()) < SMALL_ROWS else LARGE_BATCH
    for name, value, least in (("--batch-size", batch_size, 1), ("--rank", args.rank, 1)):
        if value < least:
            raise InputError(f"{name} {value} must be at least {least}.")
    if args.early_stopping < 0:
        raise InputError(f"--early-stopping {args.early_stopping} must be 0, for never, or more.")
    if not 0 <= args.label_smoothing < 1:
        raise InputError(f"--label-smoothing {args.label_smoothing:g} must be at least 0 and below 1.")
    epochs = {name: float(max(MIN_EPOCHS, math.ceil(MIN_UPDATES * batch_size / count))) for name, count in rows.items()}
    return Settings(
        epochs=epochs if args.epochs is None else _per_task("--epochs", args.epochs, list(rows), above_zero=True),
        seed=args.seed,
        rank=args.rank,
        batch_size=batch_size,
        learning_rate=LEARNING_RATES[args.method] if args.learning_rate is None else args.learning_rate,
        head_learning_rate=HEAD_LEARNING_RATES[args.method],
        label_smoothing=args.label_smoothing,
        class_weight_power=_power(args.class_weights),
        max_tokens=args.max_tokens,
        precision=args.precision,
        method=args.method,
        early_stopping=args.early_stopping,
        distillation=distillation,
    )


def run(args: argparse.Namespace) -> None:
    # PEFT imports bitsandbytes if it is installed, which then warns about a package that is not needed here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch
    from tokenizers import Tokenizer

    from inference import cpu, load
    from inference.formats.bundle import SINGLE, Base, locate_base
    from inference.formats.examples import MAX_EXAMPLES
    from inference.formats.files import check_digest
    from training.card import write_card
    from training.loop import answer, new_network, train
    from training.report import drift, markdown, validate
    from training.save import annotate, write_bundle, write_examples

    torch.set_num_threads(args.threads or cpu.cores())
    _check_out(args.out)
    check_licence(args.licence, list(_names(args.language)))
    if not 0 <= args.publish_examples <= MAX_EXAMPLES:
        raise InputError(f"--publish-examples {args.publish_examples} must be from 0 to {MAX_EXAMPLES:,}.")
    sources, split_off, tasks, outside = _read_tasks(args)
    if args.publish_examples and not any(data.validation for data in tasks.values()):
        raise InputError("--publish-examples takes validation rows, and there are none. Pass --validation-share.")
    tasks, soft, distillation, learnt = _learn_from_teacher(args, tasks)
    extra = {name: len(soft[name].unlabelled) if name in soft else 0 for name in tasks}
    settings = settings_of(args, {name: len(data.fit) + extra[name] for name, data in tasks.items()}, distillation)
    base = Base(HUB_ID, REVISION, BASE_FILES)
    folder = locate_base(base, args.base)
    for file, digest in BASE_FILES.items():
        check_digest(folder / file, digest, "training starts only from these bytes")
    started = time.time()
    network = new_network(folder, tasks, settings)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, data in tasks.items():
        for remark in sources[name].train.remarks:
            print(f"{sources[name].place}: {remark}.")
        print(
            f"{name}: {len(data.labels)} labels. {len(data.fit):,} rows for training"
            + (f" and {extra[name]:,} without a label" if extra[name] else "")
            + f", in {settings.epochs[name]:g} epochs; {len(data.tuning):,} for tuning, "
            f"{len(data.validation or ()):,} for the report."
        )
        if any(data.phrases.values()):
            print(
                f"{name}: whole sentences are tuned on; {data.phrases['moved']:,} phrases of them changed sides with "
                f"them, and {data.phrases['left_out']:,} that fitted sentences have too are left out."
            )
    history = train(network, tokenizer, tasks, settings, args.out / ".checkpoint", soft)
    write_bundle(
        network,
        args.out,
        name=args.out.resolve().name,
        tasks=tasks,
        out_of_scope=outside,
        base=base,
        settings=settings,
        notes={"run": history.written(), **_notes(args, sources, tasks), **learnt},
        base_folder=folder,
    )
    shutil.rmtree(args.out / ".checkpoint", ignore_errors=True)  # the run is over; the next one starts from the base
    classifier = load(args.out, base=None if settings.method == "full" else folder)
    report: dict[str, Any] = {"validation": validate(classifier, tasks)}
    if settings.method == "qlora":
        four_bit = {
            name: answer(network, tokenizer, name, (d.validation or d.tuning).texts, d.problem_type)
            for name, d in tasks.items()
        }
        report["drift"] = drift(classifier, tasks, four_bit)
    annotate(args.out, report)
    write_card(args.out)
    if args.publish_examples:
        write_examples(args.out, tasks, args.publish_examples)
    print(f"\n{markdown(report['validation'], report.get('drift'))}\n")
    print(f"Wrote {args.out} after {(time.time() - started) / 60:.1f} minutes.")
    for warning in unnamed(args.licence, args.language):
        print(f"warning: {warning}", file=sys.stderr)
    single = {name: source for name, source in sources.items() if tasks[name].problem_type == SINGLE}
    commands = _compare(args.out, single, split_off) if single else []
    print(f"  try it:     make demo MODEL={shlex.quote(str(args.out))}")
    for line in commands:
        print(f"  compare it: {line}")


def _read_tasks(
    args: argparse.Namespace,
) -> tuple[dict[str, Source], list[dict[str, str]], dict[str, TaskData], dict[str, str]]:
    """Return task -> source, the rows split off for validation, task -> split rows, and task -> out-of-scope label."""
    from inference.formats.bundle import check_name
    from training.data import add_background, split
    from training.sources import Request, read_sources

    sources, split_off = read_sources(
        Request(
            args.data,
            _names(args.tasks),
            args.text_column,
            _names(args.label_columns),
            args.validation,
            args.validation_share,
            args.seed,
            args.label_map,
        )
    )
    try:
        for name in sources:
            check_name(name, "task")
        check_name(args.out.resolve().name, "--out")
    except ValueError as error:
        raise InputError(str(error)) from None
    shares = _per_task("--tuning-share", args.tuning_share, list(sources))
    tasks = {name: split(source, shares[name], args.seed) for name, source in sources.items()}
    if args.out_of_scope and "=" not in args.out_of_scope:
        raise InputError(f"--out-of-scope {args.out_of_scope} must be TASK=LABEL.")
    outside = dict([args.out_of_scope.split("=", 1)]) if args.out_of_scope else {}
    for task, label in outside.items():
        add_background(tasks, task, label, args.background, args.seed)
    return sources, split_off, tasks, outside


def _learn_from_teacher(
    args: argparse.Namespace, tasks: dict[str, TaskData]
) -> tuple[dict[str, TaskData], dict[str, SoftLabels], Distillation | None, dict[str, Any]]:
    """Return the tasks, soft labels of those that the teacher knows, how they are learnt, and what the bundle records.

    Raises:
        InputError: an option is out of range, or needs a teacher; or the teacher knows no task.
        InferenceError: the teacher cannot be opened.
    """
    from inference import load
    from inference.artifacts.cache import default_cache
    from inference.formats.describe import describe
    from training.teacher import distillation_of, match_tasks, read_unlabelled, teach, write_soft_labels

    numbers = {name: getattr(args, name) for name in ("temperature", "teacher_weight", "label_weight")}
    given = [f"--{name.replace('_', '-')}" for name, value in numbers.items() if value is not None]
    if args.teacher is None:
        given += [
            f"--{name.replace('_', '-')}" for name in ("unlabelled", "distill", "teacher_dtype") if getattr(args, name)
        ]
        if given:
            raise InputError(f"{given[0]} needs a teacher. Name its folder with --teacher.")
        return tasks, {}, None, {}
    if Path(args.teacher).resolve() == args.out.resolve():
        raise InputError(f"--out {args.out} is the folder of the teacher. Name another folder for the student.")
    teacher = describe(args.teacher, args.teacher_base)
    distillation = distillation_of(teacher, **{name: value for name, value in numbers.items() if value is not None})
    lessons, alone = match_tasks(tasks, teacher)
    texts, remarks, digests = read_unlabelled(args.unlabelled, args.text_column)
    remarks += [f"{name}: {remark}" for name, lesson in lessons.items() for remark in lesson.remarks]
    for remark in [*(f"{remark}." for remark in remarks), *alone]:
        print(remark)

    def scores(names: Sequence[str], distinct: Sequence[str]) -> Matrix:
        folder, content = default_cache() / "soft-labels", distillation.content
        options: dict[str, Any] = {"base": args.teacher_base, "threads": args.threads, "content": content}
        options["dtype"] = args.teacher_dtype
        return write_soft_labels(
            teacher, names, distinct, folder, lambda: load(args.teacher, None, **options), args.teacher_dtype
        )

    soft = teach(tasks, lessons, texts, scores)
    for name, of_task in soft.items():
        if len(of_task.unlabelled) < len(texts):
            print(
                f"{name}: learns from {len(of_task.unlabelled):,} of {counted(len(texts), 'text')} without a label. "
                "The others are rows of the data, overlap with rows held out, or have no answer of the teacher."
            )
        if alone_count := int((~of_task.answered()).sum()):
            print(f"{name}: the teacher has no answer for {counted(alone_count, 'row')} to fit.")
    of_tasks = {name: {"task": lessons[name].name, "unlabelled": len(soft[name].unlabelled)} for name in soft}
    kinds = {name: lesson.task.problem_type for name, lesson in lessons.items()}
    tasks = {name: replace(data, problem_type=kinds.get(name, data.problem_type)) for name, data in tasks.items()}
    return (
        tasks,
        soft,
        distillation,
        {"teacher": {"tasks": of_tasks, "unlabelled_sha256": digests, "dtype": args.teacher_dtype}},
    )


def _notes(args: argparse.Namespace, sources: Mapping[str, Source], tasks: Mapping[str, TaskData]) -> dict[str, Any]:
    """Return what the bundle records about licence and data."""
    from training.data import equal_texts
    from training.qlora import QUANTISATION

    return {
        "licence": args.licence,
        "language": list(_names(args.language)),
        "datasets": args.dataset,
        "data": {
            name: {
                "rows": len(data.fit),
                "tuning_rows": len(data.tuning),
                "validation_rows": len(data.validation or ()),
                "train_csv_sha256": sources[name].train.sha256,
                "equal_texts": equal_texts(sources[name].train),
                "phrases": dict(data.phrases),
            }
            for name, data in tasks.items()
        },
        "background": args.background,
        **({"quantisation": QUANTISATION} if args.method == "qlora" else {}),
    }


def _check_out(out: Path) -> None:
    """Raise InputError if the folder holds anything but a model from training, or a checkpoint of one."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file. Name a folder.")
    ours = any((out / name).exists() for name in ("bundle.json", ".checkpoint", ".checkpoint.new"))
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise InputError(f"--out {out} holds files that are not a model. Name a new folder.")


def _compare(out: Path, sources: Mapping[str, Source], split_off: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the commands that measure the model on its validation rows; write rows that were split off to a file.

    The file is beside the model folder, because people share that folder and may not share the texts.
    """
    from inference.compare.rows import MIN_ROWS

    start = ["inference", "compare", "--model", out]
    if split_off:
        path = out.with_name(f"{out.name}.validation.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", *sources], restval="")
            writer.writeheader()
            writer.writerows(split_off)
        print(f"Wrote {path}: the {len(split_off):,} rows that were split off for validation.")
        if max(sum(bool(row.get(name)) for row in split_off) for name in sources) < MIN_ROWS:
            return [f"{python_command(*start, '--data', 'FILE')}, with at least {MIN_ROWS} labelled rows"]
        return [python_command(*start, "--data", path)]
    return [python_command(*start, *source.measure) for source in sources.values() if source.measure]


def _names(given: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def _power(given: str) -> float:
    """Return the power of 1/frequency for "none", "balanced" or a number."""
    try:
        power = WEIGHTS[given] if given in WEIGHTS else float(given)
    except ValueError:
        power = math.nan
    if not 0 <= power <= 2:
        raise InputError(f"--class-weights {given} must be none, balanced, or a power from 0 to 2.")
    return power


def _per_task(option: str, value: str, names: list[str], *, above_zero: bool = False) -> dict[str, float]:
    """Parse "3" or "a=3,b=5" into a number for each task."""
    try:
        given = (
            dict.fromkeys(names, float(value))
            if "=" not in value
            else {key: float(number) for key, _, number in (part.partition("=") for part in value.split(","))}
        )
    except ValueError:
        raise InputError(f"{value!r} is neither a number nor task=number,…") from None
    if not all(math.isfinite(number) and number >= 0 for number in given.values()) or (
        above_zero and 0 in given.values()
    ):
        raise InputError(f"{option} {value} must be {'above 0' if above_zero else '0 or more'} for every task.")
    if set(given) != set(names):
        raise InputError(f"{value!r} must name each task once: {', '.join(names)}.")
    return given


if __name__ == "__main__":
    sys.exit(main())
