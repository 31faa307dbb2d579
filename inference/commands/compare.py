"""The commands compare, verdict and receipt."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference import cpu
from inference.assets import python_command
from inference.backends import BACKENDS, RUNTIMES, TITLES
from inference.commands.options import add_command, add_json, add_model_command, names, print_json, require_writable
from inference.errors import InputError
from inference.formats.describe import describe


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(
        commands,
        "compare",
        compare_command,
        "Measure the runtimes of one model or of several on labelled rows, and write the measurements.",
        several=True,
    )
    p.add_argument(
        "--data", help="a file as `score` reads it, or hf://datasets/OWNER/NAME/PATH (default: the showcase)"
    )
    p.add_argument("--task", help="task of the label column (default: the one that has its labels)")
    p.add_argument("--text-column", help="default: the column named like texts, such as text, or the only one")
    p.add_argument("--pair-column", help="the second text of each row, for a model that takes pairs of texts")
    p.add_argument(
        "--label-column",
        help="default: the column named like the task, else label, class, target …, else the only one that has labels "
        "of a task",
    )
    p.add_argument(
        "--label-map",
        metavar="MINE=THEIRS,…",
        help="labels of the file and what they are called in the model, nothing for rows to leave out; or a .json file",
    )
    p.add_argument(
        "--backends",
        type=names,
        help=f"comma-separated, of {', '.join(BACKENDS)} (default: all that the model has)",
    )
    choices = {dtype for r in RUNTIMES.values() if len(r.dtypes["cpu"]) > 1 for dtype in r.dtypes["cpu"]}
    p.add_argument("--dtype", choices=sorted(choices), help="of the runtimes that have a choice (default: float32)")
    p.add_argument("--threads", type=int, help="CPU threads per runtime (default: all cores)")
    p.add_argument(
        "--quick", action="store_true", help="at most 500 rows, fewer samples, and a time limit of 60 s for speed"
    )
    p.add_argument(
        "--time-limit",
        type=seconds,
        metavar="SECONDS",
        help="stop timing after so long; accuracy comes first and is always complete. 0: accuracy only (default: none; "
        "60 with --quick)",
    )
    p.add_argument("--rows", type=int, help="measure a random sample of this many rows (default: all)")
    p.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    p.add_argument("--keep-texts", action="store_true", help="store the texts in the measurement, readable by everyone")
    _add_price(p)
    p.add_argument(
        "--out",
        type=Path,
        help="file to write (default: receipt.json); of several models a folder (receipts)",
    )

    p = add_command(
        commands,
        "verdict",
        verdict_command,
        "Decide SHIP, NO or INCONCLUSIVE (exit code 0, 1 or 3) per runtime, or whether one model may replace another.",
    )
    p.add_argument("receipt", type=Path)
    p.add_argument(
        "candidate",
        type=Path,
        nargs="?",
        help="of another model, or of this one after a change, measured on the same rows",
    )
    add_limits(p)
    p.add_argument(
        "--backend",
        choices=BACKENDS,
        help="runtime that sets the exit code (default: worst but the reference); of two models: the runtime of both",
    )
    add_json(p)

    help = "Show, check and compare measurements."
    kinds = commands.add_parser("receipt", help=help, description=help).add_subparsers(required=True, metavar="COMMAND")
    p = add_command(kinds, "show", show_command, "Show the figures of measurements of one model as a table.")
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    _add_price(p)
    p = add_command(
        kinds, "check", check_command, "Compute every figure of measurements again; exit code 2 if one differs."
    )
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    p = add_command(
        kinds, "diff", diff_command, "Show what changed between two measurements; exit code 1 if anything beyond noise."
    )
    p.add_argument("before", type=Path)
    p.add_argument("after", type=Path)
    p = add_command(
        kinds, "slices", slices_command, "Show the accuracy by length, right label, negation and column of the file."
    )
    p.add_argument("receipt", type=Path)
    p.add_argument("--task", help="default: the first")
    p.add_argument("--backend", choices=BACKENDS, help="compared with the reference (default: the last)")
    p.add_argument("--data", type=Path, metavar="FILE", help="the measured file, to part the rows by its columns too")


def add_limits(p: argparse.ArgumentParser) -> None:
    """Add the limits that `ship_limits` reads."""
    help = "largest allowed drop in accuracy, in percentage points (default: %(default)s)"
    p.add_argument("--max-drop", type=percentage_points, default="0.5pp", metavar="PP", help=help)
    p.add_argument("--max-p95-ms", type=positive, metavar="MS", help="largest allowed p95 latency")
    p.add_argument("--max-size-mb", type=positive, metavar="MB", help="largest allowed size of the model's files")
    p.add_argument("--max-flips", type=int, metavar="ROWS", help="most labels that may differ from the reference's")
    p.add_argument("--min-speedup", type=positive, metavar="TIMES", help="least speed-up over the reference")


def _add_price(p: argparse.ArgumentParser) -> None:
    p.add_argument("--price-per-hour", type=positive, help="price of the machine; adds the cost of a million texts")


def positive(text: str) -> float:
    """Parse a finite number above zero."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Parse a finite number of seconds, at least zero."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def percentage_points(text: str) -> float:
    """Parse "0.5pp" or "0.5" as the share 0.005."""
    number = float(text.strip().removesuffix("pp"))
    if not 0 <= number <= 100:
        raise ValueError(text)
    return number / 100


def ship_limits(args: argparse.Namespace) -> Any:
    from inference.compare.verdict import ShipLimits

    return ShipLimits(args.max_drop, args.max_p95_ms, args.max_size_mb, args.max_flips, args.min_speedup)


def compare_command(args: argparse.Namespace) -> None:
    """Measure each model; of several, print a table of all and a verdict on each against the first."""
    if args.rows is not None and args.rows < 1:
        raise InputError(f"--rows {args.rows} must be at least 1.")
    if not args.data and (args.task or args.rows or args.pair_column is not None or args.label_map is not None):
        raise InputError(
            "--task, --rows, --pair-column and --label-map need --data; without it, all tasks of the showcase are "
            "measured."
        )
    if len(args.models) > 1:
        _compare_models(args)
        return
    from inference.compare.results import unmeasured
    from inference.compare.summary import summary
    from inference.compare.verdict import decide

    out = args.out or Path("receipt.json")
    require_writable(out)
    receipt = _measure(args, *_read(args, args.model), out)
    if args.json:
        print_json(receipt["results"], indent=None)
        return
    print(summary([receipt], args.price_per_hour))
    verdict = decide(receipt)
    print(f"\n{verdict.sentence}")
    for caveat in verdict.caveats:
        print(f"  note: {caveat}")
    if (why := unmeasured(receipt)) is not None:
        print(
            f"\n{why[:1].upper()}{why[1:]}. Accuracy is above. Try again on a quiet machine, or with --time-limit 600."
        )
    command = python_command("inference", "verdict", out, "--max-drop", "1pp")
    print(f"\nReceipt: {out}. Decide with your own limits: {command}")


def _compare_models(args: argparse.Namespace) -> None:
    from inference.compare.candidates import check_labels, decide_pair
    from inference.compare.summary import leaderboard
    from inference.compare.verdict import ShipLimits

    if not args.data:
        raise InputError("Several models need --data, so that all are measured on the same rows.")
    folder = args.out or Path("receipts")
    outs = [folder / f"{number}-{model.name}.json" for number, model in enumerate(args.models, 1)]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file. Pass a folder, for the measurements of several models.")
    rows = [_read(args, model) for model in args.models]  # before minutes are spent on the first
    first, *others = ({task: data.known[task] for task in data.labels} for _, data in rows)
    for other in others:
        check_labels(first, other)
    folder.mkdir(parents=True, exist_ok=True)
    receipts = [_measure(args, bundle, data, out) for (bundle, data), out in zip(rows, outs, strict=True)]
    named = [receipt["model"]["name"] for receipt in receipts]
    named = named if len({*named}) == len(named) else [out.stem for out in outs]
    verdicts = [
        verdict
        for receipt, name in zip(receipts[1:], named[1:], strict=True)
        for verdict in decide_pair(receipts[0], receipt, ShipLimits(), names=(named[0], name))
    ]
    if args.json:
        print_json(
            {"receipts": [str(out) for out in outs], "verdicts": [asdict(verdict) for verdict in verdicts]}, indent=None
        )
        return
    print(leaderboard(dict(zip(named, receipts, strict=True))))
    for note in dict.fromkeys(note for receipt in receipts for note in receipt["data"]["notes"]):
        print(f"  note: {note}")
    for verdict in verdicts:
        print(f"\n{verdict.sentence}")
        for caveat in verdict.caveats:
            print(f"  note: {caveat}")
    command = python_command("inference", "verdict", *outs[:2])
    print(f"\nMeasurements: {folder}. Decide with your own limits: {command}")


def _read(args: argparse.Namespace, model: Path) -> tuple[Any, Any]:
    """Return the description of a model, and the rows that the command names; None for the showcase."""
    from inference.compare.labels import read_label_map
    from inference.compare.rows import read_data

    bundle = describe(model, args.base, pairs=args.pairs)
    if not args.data:
        return bundle, None
    label_map = None if args.label_map is None else read_label_map(args.label_map)
    columns = args.text_column, args.label_column, args.pair_column
    data = read_data(args.data, bundle.tasks, args.task, *columns, label_map)
    return bundle, data.sample(args.rows, args.seed) if args.rows else data


def _measure(args: argparse.Namespace, bundle: Any, data: Any, out: Path) -> dict[str, Any]:
    """Measure one model on these rows, and write the receipt."""
    from inference.compare.receipt import write_receipt
    from inference.compare.run import measure

    receipt = measure(
        bundle,
        data,
        backends=args.backends or None,
        dtype=args.dtype,
        threads=args.threads,
        quick=args.quick,
        seed=args.seed,
        cache=args.cache,
        base=args.base,
        keep_texts=args.keep_texts,
        progress=args.progress,
        time_limit=args.time_limit,
    )
    write_receipt(receipt, out)
    return receipt


def verdict_command(args: argparse.Namespace) -> int:
    from inference.compare.receipt import read_receipt
    from inference.compare.verdict import decide, unknown_places

    receipt = read_receipt(args.receipt)
    if args.candidate is not None:
        return _verdict_on_pair(args, receipt)
    if args.backend and args.backend not in receipt["settings"]["backends"]:
        raise InputError(f"{args.receipt} has no {args.backend}; it has {', '.join(receipt['settings']['backends'])}.")
    verdict = decide(receipt, ship_limits(args))
    if not cpu.matches(receipt["machine"]):
        processor = receipt["machine"]["cpu"]
        verdict.caveats.append(
            f"Measured on a different processor ({processor}): times and INT8's rounding are its own."
        )
    code = verdict.exit_code(args.backend)
    if args.json:
        print_json(asdict(verdict) | {"exit_code": code})
        return code
    print(verdict.sentence)
    for name, backend in verdict.backends.items():
        print(f"\n{TITLES[name]}: {verdict.in_words(name)}")
        for reason in backend.reasons:
            print(f"  {reason.decision:<12} {reason.text}")
    if (unknown := unknown_places(receipt)) is not None:
        print(f"\n{unknown}")
    else:
        print("\nWhich runtime for which use")
        for situation, choice in verdict.recommended.items():
            print(f"  {situation:<12} {TITLES[choice.backend] if choice.backend else 'none':<8} {choice.why}")
    for caveat in verdict.caveats:
        print(f"note: {caveat}")
    return code


def _verdict_on_pair(args: argparse.Namespace, receipt: dict[str, Any]) -> int:
    """Print the verdict on the second model, or of one model measured twice on each of its runtimes."""
    from inference.compare.candidates import decide_pair
    from inference.compare.comparable import is_one_model
    from inference.compare.diff import setting_changes
    from inference.compare.receipt import read_receipt
    from inference.compare.summary import pair_table
    from inference.compare.verdict import EXIT_CODES, worst

    candidate = read_receipt(args.candidate)
    names = str(args.receipt), str(args.candidate)
    verdicts = decide_pair(receipt, candidate, ship_limits(args), args.backend, names)
    code = EXIT_CODES[worst(verdict.decision for verdict in verdicts)]
    is_one = is_one_model(receipt, candidate)
    if args.json:
        content = {"runtimes": [asdict(verdict) for verdict in verdicts]} if is_one else asdict(verdicts[0])
        print_json(content | {"exit_code": code})
        return code
    if is_one:
        print(f"Both measurements are of one model, {receipt['model']['name']}: each runtime is compared with itself.")
        changes = [f"{change.what} {change.before} → {change.after}" for change in setting_changes(receipt, candidate)]
        print(f"Changed: {'; '.join(changes) or 'no setting, file or version'}.\n")
    print((pair_table(receipt, candidate) or "The measurements have no runtime in common to show side by side.") + "\n")
    for verdict in verdicts:
        print(f"{verdict.sentence}\n\n{verdict.second} in place of {verdict.first}: {verdict.decision}")
        for reason in verdict.reasons:
            print(f"  {reason.decision:<12} {reason.text}")
        print(end="\n" if len(verdicts) > 1 else "")
    for caveat in dict.fromkeys(caveat for verdict in verdicts for caveat in verdict.caveats):
        print(f"note: {caveat}")
    return code


def show_command(args: argparse.Namespace) -> None:
    from inference.compare.receipt import read_receipt
    from inference.compare.summary import summary

    print(summary([read_receipt(path) for path in args.receipts], args.price_per_hour))


def check_command(args: argparse.Namespace) -> None:
    from inference.compare.receipt import read_receipt

    for path in args.receipts:
        read_receipt(path)
        print(f"{path}: all figures follow from its samples and answers.")


def diff_command(args: argparse.Namespace) -> int:
    from inference.compare.diff import CHANGED, diff
    from inference.compare.receipt import read_receipt

    changes, notes = diff(read_receipt(args.before), read_receipt(args.after))
    for change in changes:
        print(f"{change.status:<12}  {change.what}: {change.before} → {change.after}")
    for note in notes:
        print(f"note: {note}")
    changed = sum(change.status == CHANGED for change in changes)
    print(f"{changed} of {len(changes)} changed beyond noise.")
    return int(changed > 0)


def slices_command(args: argparse.Namespace) -> None:
    from inference.calls.formatting import percent, points
    from inference.compare.disagreements import attach_texts
    from inference.compare.receipt import read_receipt
    from inference.compare.slices import groups, row_columns, slices

    receipt = read_receipt(args.receipt)
    task, backends = args.task or next(iter(receipt["data"]["labels"])), receipt["settings"]["backends"]
    backend = args.backend or backends[-1]
    if task not in receipt["data"]["labels"] or backend not in backends:
        has = f"tasks {', '.join(receipt['data']['labels'])}; runtimes {', '.join(backends)}"
        raise InputError(f"{args.receipt} has no {backend} answers for {task!r}; it has {has}.")
    columns = {}
    if args.data:
        if not args.data.is_file():
            raise InputError(f"No file {args.data}. Pass the file that {args.receipt} was measured on.")
        content = args.data.read_bytes()
        receipt = attach_texts(receipt, args.data.name, content)
        columns = row_columns(receipt, args.data.name, content)
    reference = TITLES[receipt["settings"]["reference"]]
    print("The intervals of all groups of a kind hold together with 95% confidence.\n")
    print(f"| rows | n | {reference} | {TITLES[backend]} | difference |\n| --- | ---: | ---: | ---: | ---: |")
    for way, of_rows in groups(receipt, task, columns).items():
        for part in slices(receipt, task, backend, of_rows):
            change, name = part.difference, f"{way}: {part.name}".replace("|", "\\|")
            print(
                f"| {name} | {part.rows:,} | {percent(part.reference.value)} | {percent(part.backend.value)} "
                f"| {points(change.value)} ({points(change.low)} to {points(change.high)}) |"
            )
