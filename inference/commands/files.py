"""The commands that make other files of a model: export, quantize, merge, import."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from inference.commands.options import add_command, add_json, add_model_command, load_model

EXTERNAL = {"auto": None, "always": True, "never": False}


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(
        commands, "export", export_command, "Write ONNX files that run with onnxruntime, tokenizers and NumPy alone."
    )
    p.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    p.add_argument("--tasks", help="comma-separated; all if left out")
    p.add_argument("--quantize", action="store_true", help="write the INT8 files too")
    p.add_argument(
        "--external-data",
        choices=EXTERNAL,
        default="auto",
        help="weights in a file beside the graph (default: %(default)s, where one cannot hold them)",
    )
    p = add_command(
        commands,
        "quantize",
        quantize_command,
        "Make an INT8 version of an FP32 ONNX file with its tokenizer beside it.",
    )
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--out", type=Path, help="(default: FILE with _int8 before its ending)")
    add_json(p)
    p = add_model_command(
        commands, "merge", merge_command, "An adapter and its base as one plain Hugging Face classifier.", cache=False
    )
    p.add_argument("out", type=Path, metavar="OUT", help="a new or an empty folder")
    p.add_argument("--task", help="whose adapter, where there are several")
    p.add_argument("--max-tokens", type=int, help="written into the tokenizer (default: the model's own limit)")
    p.add_argument("--load-in-4bit", action="store_true", help="take the base as QLoRA trained it: in 4-bit NF4")
    _add_import(commands)


def _add_import(commands: Any) -> None:
    help = "A RapidFit checkpoint, or a folder with *.bin weights, as a folder without pickles."
    kinds = commands.add_parser("import", help=help, description=help).add_subparsers(required=True, metavar="KIND")

    def kind(name: str, help: str) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = kinds.add_parser(name, help=help, description=help)
        p.set_defaults(run=import_command, kind=name)
        p.add_argument("folder", type=Path, metavar="DIR")
        p.add_argument("out", type=Path, metavar="OUT", help="a new or an empty folder")
        return p

    p = kind("rapidfit", "What MultiheadClassifier.save wrote, as a model folder.")
    p.add_argument(
        "--max-length",
        type=int,
        help="tokens, as in training (default: those that the tokenizer was last cut to, else 128)",
    )
    kind("weights", "A Hugging Face or PEFT folder, with its *.bin weights as safetensors.")


def import_command(args: argparse.Namespace) -> None:
    from inference.artifacts.importing import import_rapidfit, import_weights

    if args.kind == "rapidfit":
        for note in import_rapidfit(args.folder, args.out, args.max_length):
            print(f"warning: {note}", file=sys.stderr)
        print(f"The model is {args.out}. Try it: python -m inference predict --model {args.out} TEXT")
    else:
        import_weights(args.folder, args.out)
        print(f"The model is {args.out}, without pickles.")


def export_command(args: argparse.Namespace) -> None:
    classifier = load_model(args, "onnx")
    tasks = args.tasks.split(",") if args.tasks else None
    written = classifier.export_onnx(args.out, tasks, args.quantize, EXTERNAL[args.external_data])
    sizes = {str(path): path.stat().st_size for path in written}
    if args.json:
        print(json.dumps({"files": list(sizes), "size_bytes": sizes}, indent=1, ensure_ascii=False))
        return
    for name, size in sizes.items():
        print(f"{_shown(size):>10}  {name}")


def quantize_command(args: argparse.Namespace) -> None:
    from inference.artifacts.export import quantize_graph

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


def merge_command(args: argparse.Namespace) -> None:
    from inference.artifacts.merging import export_merged

    found = export_merged(
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
