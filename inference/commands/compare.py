"""The commands of a comparison: compare, verdict, receipt."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from inference.backends import EVERY, EXTRA
from inference.commands.options import add_command, add_json, add_model_command
from inference.errors import InputError
from inference.formats.describe import describe


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(
        commands, "compare", compare_command, "Measure the backends on labelled rows and write a receipt."
    )
    p.add_argument("--data", help="a .csv, .jsonl or .parquet file, or hf://datasets/OWNER/NAME/PATH (the showcase)")
    p.add_argument("--task", help="whose labels the label column holds, where the model has several tasks")
    p.add_argument("--text-column", default="text", help="(default: %(default)s)")
    p.add_argument("--label-column", help="(default: the column named like the task, else label)")
    p.add_argument(
        "--backends",
        help=f"comma-separated, of {', '.join(EVERY)} (default: all that the model has but {', '.join(EXTRA)})",
    )
    p.add_argument("--threads", type=int, help="CPU threads of each backend (default: all cores)")
    p.add_argument("--quick", action="store_true", help="under a minute: fewer samples, at most 500 rows")
    p.add_argument("--rows", type=int, help="draw so many of the rows")
    p.add_argument("--seed", type=int, default=0, help="of every draw (default: %(default)s)")
    p.add_argument(
        "--keep-texts", action="store_true", help="put the texts in the receipt, for whoever gets it to read"
    )
    p.add_argument("--price-per-hour", type=positive, help="of a machine like this: prints the cost per million")
    p.add_argument("--out", type=Path, default=Path("receipt.json"), help="(default: %(default)s)")

    p = add_command(
        commands,
        "verdict",
        verdict_command,
        "SHIP, NO or INCONCLUSIVE for each backend of a receipt; exit code 0, 1 or 3.",
    )
    p.add_argument("receipt", type=Path)
    add_limits(p)
    p.add_argument("--backend", choices=EVERY, help="whose verdict is the exit code (default: the worst of all)")
    add_json(p)

    receipt = commands.add_parser("receipt", help="Look at receipts.", description="Look at receipts.")
    kinds = receipt.add_subparsers(required=True, metavar="COMMAND")
    p = add_command(kinds, "show", show_command, "The figures of one or more receipts of the same model as a table.")
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    p.add_argument("--price-per-hour", type=positive, help="adds the cost per million predictions")
    p = add_command(
        kinds, "check", check_command, "Work out every figure of receipts again; exit code 2 if one does not follow."
    )
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    p = add_command(
        kinds, "diff", diff_command, "What changed between two receipts beyond noise; exit code 1 if anything did."
    )
    p.add_argument("before", type=Path)
    p.add_argument("after", type=Path)


def add_limits(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--max-drop",
        type=percentage_points,
        default="0.5pp",
        metavar="PP",
        help="largest fall in accuracy, in percentage points (default: %(default)s)",
    )
    p.add_argument("--max-p95-ms", type=positive, metavar="MS", help="95 %% of texts must be answered within")
    p.add_argument("--max-size-mb", type=positive, metavar="MB", help="files of the model at most")
    p.add_argument(
        "--max-flips", type=int, metavar="ROWS", help="answers with another label than the reference's at most"
    )
    p.add_argument("--min-speedup", type=positive, metavar="TIMES", help="times as fast as the reference at least")


def positive(text: str) -> float:
    """A number above zero, which neither NaN nor infinity is."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def percentage_points(text: str) -> float:
    """ "0.5pp" or "0.5" as the share 0.005."""
    number = float(text.strip().removesuffix("pp"))
    if not 0 <= number <= 100:
        raise ValueError(text)
    return number / 100


def ship_limits(args: argparse.Namespace) -> Any:
    from inference.compare.verdict import ShipLimits

    return ShipLimits(args.max_drop, args.max_p95_ms, args.max_size_mb, args.max_flips, args.min_speedup)


def compare_command(args: argparse.Namespace) -> None:
    from inference.compare.receipt import write_receipt
    from inference.compare.rows import read_data
    from inference.compare.run import measure
    from inference.compare.summary import summary
    from inference.compare.verdict import decide

    if not args.out.parent.is_dir() or args.out.is_dir():  # said now and not after minutes
        what = "is a folder" if args.out.is_dir() else f"there is no folder {args.out.parent}"
        raise InputError(f"--out {args.out}: {what}. Name a file.")
    if args.rows is not None and args.rows < 1:
        raise InputError(f"--rows {args.rows} must be at least 1.")
    bundle = describe(args.model, args.base)
    tasks = bundle.tasks
    data = None
    if args.data:
        data = read_data(args.data, tasks, args.task, args.text_column, args.label_column)
    elif args.task or args.rows:
        raise InputError("--task and --rows are for --data; without it all tasks of the showcase are measured.")
    if data and args.rows:
        data = data.sample(args.rows, args.seed)
    receipt = measure(
        bundle,
        data,
        backends=[name.strip() for name in args.backends.split(",")] if args.backends else None,
        threads=args.threads,
        quick=args.quick,
        seed=args.seed,
        cache=args.cache,
        base=args.base,
        keep_texts=args.keep_texts,
        progress=args.progress,
    )
    write_receipt(receipt, args.out)
    if args.json:
        print(json.dumps(receipt["results"], ensure_ascii=False))
        return
    print(summary([receipt], args.price_per_hour))
    found = decide(receipt)
    print(f"\n{found.sentence}")
    for caveat in found.caveats:
        print(f"  note: {caveat}")
    print(
        f"\nThe receipt is {args.out}. With limits of your own: python -m inference verdict {args.out} --max-drop 1pp"
    )


def made_elsewhere(receipt: Any) -> list[str]:
    """What to know of a receipt from another processor than this machine's; nothing otherwise."""
    from inference import cpu

    if cpu.matches(receipt["machine"]):
        return []
    return [f"Measured on another processor ({receipt['machine']['cpu']}): times, and INT8's rounding, are that one's."]


def verdict_command(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from inference.backends import TITLES
    from inference.compare.receipt import read_receipt
    from inference.compare.verdict import decide

    receipt = read_receipt(args.receipt)
    if args.backend and args.backend not in receipt["settings"]["backends"]:
        raise InputError(f"{args.receipt} has no {args.backend}; it has {', '.join(receipt['settings']['backends'])}.")
    found = decide(receipt, ship_limits(args))
    found.caveats.extend(made_elsewhere(receipt))
    code = found.exit_code(args.backend)
    if args.json:
        print(json.dumps(asdict(found) | {"exit_code": code}, indent=1, ensure_ascii=False))
        return code
    print(found.sentence)
    for name, judged in found.backends.items():
        print(f"\n{TITLES[name]}: {judged.decision}{' (the reference)' if name == found.reference else ''}")
        for reason in judged.reasons:
            print(f"  {reason.decision:<12} {reason.text}")
    print("\nFor")
    for situation, choice in found.recommended.items():
        print(f"  {situation:<12} {TITLES[choice.backend] if choice.backend else 'none':<8} {choice.why}")
    for caveat in found.caveats:
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
        print(f"{path}: every figure follows from the samples and answers in it.")


def diff_command(args: argparse.Namespace) -> int:
    from inference.compare.diff import CHANGED, diff
    from inference.compare.receipt import read_receipt

    changes, notes = diff(read_receipt(args.before), read_receipt(args.after))
    for change in changes:
        print(f"{change.status:<12}  {change.what}: {change.before} → {change.after}")
    for note in notes:
        print(f"note: {note}")
    beyond = sum(change.status == CHANGED for change in changes)
    print(f"{beyond} of {len(changes)} changed beyond noise.")
    return int(beyond > 0)
