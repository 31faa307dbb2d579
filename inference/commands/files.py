"""The commands export, quantize, merge and import."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from inference.assets import python_command
from inference.commands.options import add_command, add_json, add_model_command, load_model, names, print_json

EXTERNAL_DATA = {"auto": None, "always": True, "never": False}


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(
        commands, "export", export_command, "Write ONNX files that run with onnxruntime, tokenizers and NumPy alone."
    )
    p.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    p.add_argument("--tasks", type=names, help="comma-separated (default: all)")
    p.add_argument("--quantize", action="store_true", help="also write the INT8 files")
    p.add_argument(
        "--external-data",
        choices=EXTERNAL_DATA,
        default="auto",
        help="store the weights in a separate file (default: %(default)s, if the graph would exceed 2 GB)",
    )
    p = add_command(
        commands,
        "quantize",
        quantize_command,
        "Make an INT8 version of an FP32 ONNX file in a folder with its tokenizer.",
    )
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--out", type=Path, help="default: FILE with _int8 before its suffix")
    add_json(p)
    p = add_model_command(
        commands, "merge", merge_command, "Merge an adapter into its base as a Hugging Face classifier.", cache=False
    )
    p.add_argument("out", type=Path, metavar="OUT", help="new or empty folder")
    p.add_argument("--task", help="task of the adapter, if there are several")
    p.add_argument("--max-tokens", type=int, help="token limit of the tokenizer (default: the model's)")
    p.add_argument("--load-in-4bit", action="store_true", help="load the base in 4-bit NF4, as QLoRA trained it")
    _add_import(commands)


def _add_import(commands: Any) -> None:
    help = "Convert a RapidFit checkpoint, a SetFit model, or a folder with *.bin weights, to a folder without pickles."
    kinds = commands.add_parser("import", help=help, description=help).add_subparsers(required=True, metavar="KIND")

    def kind(name: str, help: str) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = kinds.add_parser(name, help=help, description=help)
        p.set_defaults(run=import_command, kind=name)
        p.add_argument("folder", type=Path, metavar="DIR")
        p.add_argument("out", type=Path, metavar="OUT", help="new or empty folder")
        return p

    p = kind("rapidfit", "Convert what MultiheadClassifier.save wrote to a model folder.")
    help = "token limit used in training (default: what the tokenizer was last truncated to, else 128)"
    p.add_argument("--max-length", type=int, help=help)
    kind("setfit", "Convert what SetFit's save_pretrained wrote to a model folder.")
    kind("weights", "Convert the *.bin weights of a Hugging Face or PEFT folder to safetensors.")


def import_command(args: argparse.Namespace) -> None:
    from inference.artifacts.importing import import_rapidfit, import_setfit, import_weights

    if args.kind == "rapidfit":
        for note in import_rapidfit(args.folder, args.out, args.max_length):
            print(f"warning: {note}", file=sys.stderr)
    elif args.kind == "setfit":
        import_setfit(args.folder, args.out)
    if args.kind != "weights":
        command = python_command("inference", "predict", "--model", args.out, "TEXT")
        print(f"Wrote the model to {args.out}. Try it: {command}")
    else:
        import_weights(args.folder, args.out)
        print(f"Wrote the model to {args.out}, without pickles.")


def export_command(args: argparse.Namespace) -> None:
    classifier = load_model(args, "onnx")
    written = classifier.export_onnx(args.out, args.tasks or None, args.quantize, EXTERNAL_DATA[args.external_data])
    sizes = {str(path): path.stat().st_size for path in written}
    if args.json:
        print_json({"files": list(sizes), "size_bytes": sizes})
        return
    for name, size in sizes.items():
        print(f"{f'{size / 1e6:,.1f} MB' if size >= 1e5 else f'{size:,} bytes':>10}  {name}")


def quantize_command(args: argparse.Namespace) -> None:
    from inference.artifacts.export import quantize_graph

    path, made = quantize_graph(args.file, args.out)
    if args.json:
        print_json({"file": str(path), **made})
        return
    worst = made["tried"][-1]
    print(path)
    print(f"Recipe {made['recipe']!r}: {made['summary']}. {worst['why']}")
    print(
        f"Compared with {args.file.name} on the showcase, on the worst task: largest |Δprobability| "
        f"{worst['max_abs_dp']:.1e}, equal labels {worst['label_agreement']:.2%}, labels that depend on the batch "
        f"{worst['batch_flips']}."
    )


def merge_command(args: argparse.Namespace) -> None:
    from inference.artifacts.merging import export_merged

    figures = export_merged(
        args.model,
        args.out,
        task=args.task,
        base=args.base,
        load_in_4bit=args.load_in_4bit,
        max_tokens=args.max_tokens,
        pairs=args.pairs,
    )
    if args.json:
        print_json({"folder": str(args.out), **figures})
        return
    print(
        f"Wrote the merged model to {args.out}.\nCompared with the adapter on its base, on the showcase: largest "
        f"|Δprobability| {figures['max_abs_dp']:.1e}, equal labels {figures['label_agreement']:.2%}."
    )
