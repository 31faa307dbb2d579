"""The commands that ask a model: predict, build, info."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from inference.artifacts.cache import Artifact, find, model_sizes, obtain
from inference.backends import BACKENDS, DTYPES, TITLES
from inference.classifier import Prediction
from inference.commands.options import add_content, add_model_command, load_model
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import check_content


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(commands, "predict", predict_command, "Label and confidence of each text.")
    p.add_argument(
        "texts", nargs="+", metavar="TEXT", help="a text; - reads one text per line from stdin and skips blank lines"
    )
    p.add_argument("--backend", choices=BACKENDS, help="runtime (default: the model's first, usually pytorch)")
    p.add_argument("--task", help="(default: all)")
    p.add_argument("--threshold", type=float, help="uncertain below this confidence (default: the model's own)")
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … or auto (default: %(default)s)")
    p.add_argument("--dtype", choices=DTYPES, help="(default: float32 on a CPU, half precision on a GPU)")
    p.add_argument("--compile", action="store_true", help="compile PyTorch's network first: for many texts")
    p.add_argument("--load-in-4bit", action="store_true", help="hold an adapter's base in 4-bit NF4 (QLoRA)")
    add_content(
        add_model_command(commands, "build", build_command, "Build and check the ONNX and INT8 files if needed.")
    )
    add_model_command(
        commands,
        "info",
        info_command,
        "Describe a model: tasks, labels, sizes, parity; with --json its file hashes too.",
    )


def predict_command(args: argparse.Namespace) -> None:
    texts = [line for text in args.texts for line in (_stdin_lines() if text == "-" else [text])]
    for text in texts:
        if "/" in text and len(text) < 1000 and Path(text).is_dir():  # the demo model would answer, as if nothing were
            raise InputError(f"{text} is a folder and no text. To ask the model in it: --model {text}")
    classifier = load_model(args, args.backend)
    answer = classifier.classify(texts, [args.task] if args.task else None, args.threshold).predictions
    if args.json:
        rows = [
            {"text": text, "predictions": {task: found[i].to_dict() for task, found in answer.items()}}
            for i, text in enumerate(texts)
        ]
        _print_json({"model": classifier.bundle.name, "backend": classifier.backend.name, "results": rows})
        return
    for i, text in enumerate(texts):
        if len(texts) > 1:
            print(text)
        for task, found in answer.items():
            print(("  " if len(texts) > 1 else "") + _line(task, found[i]))


def build_command(args: argparse.Namespace) -> None:
    bundle = describe(args.model, args.base)
    check_content(bundle, args.content)
    artifact = obtain(bundle, args.cache, args.progress, args.base)
    if args.json:
        _print_json({"folder": str(artifact.folder), **artifact.manifest})
        return
    print(f"{bundle.name}: built in {artifact.manifest['build_seconds']} s on {artifact.manifest['built']}")
    print(f"  folder  {artifact.folder}")
    _print_parity(artifact)


def info_command(args: argparse.Namespace) -> None:
    bundle = describe(args.model, args.base)
    bundle.verify()
    artifact = find(bundle, args.cache)
    sizes = model_sizes(bundle, artifact, args.base)
    if args.json:
        _print_json(
            {
                "name": bundle.name,
                "tasks": {
                    name: {
                        "labels": task.labels,
                        "problem_type": task.problem_type,
                        "threshold": task.threshold,
                        "out_of_scope": task.out_of_scope,
                    }
                    for name, task in bundle.tasks.items()
                },
                "max_tokens": bundle.max_tokens,
                "pooling": bundle.pooling,
                "format": bundle.format,
                "base": bundle.base and {name: getattr(bundle.base, name) for name in ("hub_id", "revision", "files")},
                "files": dict(bundle.files),
                "size_bytes": sizes,
                "artifact": artifact.manifest if artifact else None,
            }
        )
        return
    print(f"{bundle.name}  ({bundle.folder})")
    about = [f"{bundle.pooling} pooling"] if bundle.pooling else []
    print(f"  base    {', '.join([_base(bundle), *about, f'{bundle.max_tokens} tokens at most'])}")
    for name, task in bundle.tasks.items():
        labels = ", ".join(task.labels[:7]) + (f", … {len(task.labels)} in all" if len(task.labels) > 7 else "")
        print(f"  task    {name}: {labels}{f'; uncertain below {task.threshold:.3f}' if task.threshold else ''}")
    print(f"  size    {', '.join(f'{TITLES[backend]} {size / 1e6:.1f} MB' for backend, size in sizes.items())}")
    if artifact is None:
        print(f"  ONNX and INT8 are not built yet. Build them: python -m inference build --model {bundle.folder}")
    else:
        _print_parity(artifact)


def _base(bundle: Bundle) -> str:
    """The base's Hub id and revision, or where it is."""
    if bundle.base is None:
        return "none, the folder is a whole model"
    revision = f" at {bundle.base.revision[:12]}" if bundle.base.revision else ""
    return f"{bundle.base.hub_id or bundle.base.folder}{revision}"


def _line(task: str, p: Prediction) -> str:
    flags = {
        "uncertain": p.uncertain,
        "cut at the token limit": p.truncated,
        "no word of it is in the vocabulary": p.unknown,
    }
    notes = [note for note, applies in flags.items() if applies]
    return f"{task:<12} {p.label:<24} {p.confidence:.4f}" + (f"  ({', '.join(notes)})" if notes else "")


def _print_parity(artifact: Artifact) -> None:
    parity = artifact.parity
    reference = TITLES[parity["reference"]]
    for name, found in parity["backends"].items():
        print(
            f"  parity  {TITLES[name]}: {reference}'s label on {found['label_agreement']:.2%} of {parity['texts']} "
            f"texts a task, probabilities within {found['max_abs_dp']:.2g} of its own, "
            f"{found['batch_flips'] or 'no'} labels that depend on the batch"
        )


def _stdin_lines() -> list[str]:
    lines = sys.stdin.buffer.read().decode("utf-8-sig", errors="replace").split("\n")
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))
