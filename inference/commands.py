"""The commands that make other files of a model: export, quantize, merge."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.classifier import Classifier

EXTERNAL = {"auto": None, "always": True, "never": False}
LOADING = ("device", "dtype", "compile", "threads", "base", "load_in_4bit", "cache", "progress", "content")


def load_asked(args: argparse.Namespace, backend: str | None) -> Classifier:
    """The model on this backend, loaded as those options say that the command has."""
    from inference.loading import load

    return load(args.model, backend, **{name: getattr(args, name) for name in LOADING if name in args})


def add_content(parser: argparse.ArgumentParser) -> None:
    """Add --content, by which a server asks about the model that it serves and about no other."""
    parser.add_argument("--content", metavar="KEY", help="refuse any model but the one with this content key")


def add(commands: Any, with_model: Callable[..., Any]) -> None:
    """Add the commands to the parser. `with_model` makes one that has --model, --base, --cache and --json."""
    p = with_model("export", export, "Write ONNX files that run with onnxruntime, tokenizers and NumPy alone.")
    p.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    p.add_argument("--tasks", help="comma-separated; all if left out")
    p.add_argument("--quantize", action="store_true", help="write the INT8 files too")
    p.add_argument(
        "--external-data",
        choices=EXTERNAL,
        default="auto",
        help="weights in a file beside the graph (default: %(default)s, where one cannot hold them)",
    )
    help = "An INT8 version of an FP32 ONNX file that has its tokenizer beside it."
    p = commands.add_parser("quantize", help=help, description=help)
    p.set_defaults(run=quantize)
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--out", type=Path, help="(default: FILE with _int8 before its ending)")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else")
    p = with_model("merge", merge, "An adapter and its base as one plain Hugging Face classifier.", built=False)
    p.add_argument("out", type=Path, metavar="OUT", help="a new or an empty folder")
    p.add_argument("--task", help="whose adapter, where there are several")
    p.add_argument("--max-tokens", type=int, help="written into the tokenizer (default: the model's own limit)")
    p.add_argument("--load-in-4bit", action="store_true", help="take the base as QLoRA trained it: in 4-bit NF4")


def export(args: argparse.Namespace) -> None:
    classifier = load_asked(args, "onnx")
    tasks = args.tasks.split(",") if args.tasks else None
    written = classifier.export_onnx(args.out, tasks, args.quantize, EXTERNAL[args.external_data])
    sizes = {str(path): path.stat().st_size for path in written}
    if args.json:
        print(json.dumps({"files": list(sizes), "size_bytes": sizes}, indent=1, ensure_ascii=False))
        return
    for name, size in sizes.items():
        print(f"{_shown(size):>10}  {name}")


def quantize(args: argparse.Namespace) -> None:
    from inference.onnx.files import quantize_graph

    path, made = quantize_graph(args.file, args.out)
    if args.json:
        print(json.dumps({"file": str(path), **made}, indent=1, ensure_ascii=False))
        return
    worst = made["tried"][-1]
    print(path)
    print(f"Recipe {made['recipe']!r}: {made['summary']}. {worst['why']}")
    print(
        f"Against {args.file.name} on the showcase, the task that fares worst: largest |Δprobability| "
        f"{worst['max_abs_dp']:.1e}, equal labels {worst['label_agreement']:.2%}, labels that depend on the texts "
        f"beside them {worst['batch_flips']}."
    )


def merge(args: argparse.Namespace) -> None:
    from inference.merging import merge as run

    found = run(
        args.model,
        args.out,
        task=args.task,
        base=args.base,
        load_in_4bit=args.load_in_4bit,
        max_tokens=args.max_tokens,
    )
    if args.json:
        print(json.dumps({"folder": str(args.out), **found}, indent=1, ensure_ascii=False))
        return
    print(f"The merged model is {args.out}.")
    print(
        f"Against the adapter on its base, on the showcase: largest |Δprobability| {found['max_abs_dp']:.1e}, "
        f"equal labels {found['label_agreement']:.2%}."
    )


def _shown(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"
