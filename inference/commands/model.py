"""The commands predict, build and info."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.artifacts.cache import Artifact, find, model_sizes, obtain
from inference.assets import python_command
from inference.backends import BACKENDS, OPTIONAL, RUNTIMES, TITLES, read_optional
from inference.calls.formatting import mb
from inference.calls.texts import Text
from inference.classifier import Classifier, Prediction
from inference.commands.options import (
    add_content,
    add_device,
    add_model_command,
    load_model,
    print_json,
    read_stdin,
)
from inference.errors import BundleError, InferenceError, InputError
from inference.formats.architectures import TESTED
from inference.formats.bundle import MULTI, Bundle
from inference.formats.describe import describe
from inference.formats.files import read_json
from inference.formats.identity import check_content


def add(commands: Any) -> None:
    """Add the commands to the subparsers."""
    p = add_model_command(commands, "predict", predict_command, "Print label and confidence of each text.")
    p.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="text; - reads one text per line from stdin, without blank lines (a tab separates the texts of a pair)",
    )
    p.add_argument(
        "--pair", nargs="+", metavar="TEXT", help="the second text of each TEXT, for a model that takes pairs of texts"
    )
    p.add_argument("--backend", choices=BACKENDS, help="runtime (default: the model's first, usually pytorch)")
    p.add_argument("--task", help="default: all")
    p.add_argument(
        "--threshold", type=float, help="confidence below which an answer is uncertain (default: the model's)"
    )
    add_device(p)
    p.add_argument("--compile", action="store_true", help="compile PyTorch's network first; pays off for many texts")
    p.add_argument("--load-in-4bit", action="store_true", help="load an adapter's base in 4-bit NF4 (QLoRA)")
    p = add_model_command(commands, "build", build_command, "Build and check the ONNX and INT8 files if needed.")
    help = f"optional runtimes to build for too: {OPTIONAL} (default: $TRIPTYCH_RUNTIMES, else none)"
    p.add_argument("--runtimes", default=os.environ.get("TRIPTYCH_RUNTIMES"), help=help)
    add_content(p)
    help = "Describe a model: tasks, labels, sizes, parity; --json adds the hashes of its files."
    add_model_command(commands, "info", info_command, help)


def predict_command(args: argparse.Namespace) -> None:
    lines = [line for text in args.texts for line in (_stdin_lines() if text == "-" else [text])]
    if args.pair is not None and len(args.pair) != len(lines):
        raise InputError(f"--pair requires one text for each TEXT: {len(lines)}, not {len(args.pair)}.")
    for text in lines:
        if "/" in text and len(text) < 1000 and Path(text).is_dir():  # otherwise the demo model would answer
            raise InputError(f"{text} is a folder, not a text. To use the model in it: --model {text}")
    classifier = load_model(args, args.backend)
    texts: list[Text] = list(zip(lines, args.pair, strict=True)) if args.pair else _with_tabs(classifier, lines)
    answers = classifier.classify(texts, [args.task] if args.task else None, args.threshold).predictions
    if args.json:
        rows = [
            {"text": text, "predictions": {task: predictions[i].to_dict() for task, predictions in answers.items()}}
            for i, text in enumerate(texts)
        ]
        print_json({"model": classifier.bundle.name, "backend": classifier.backend.name, "results": rows})
        return
    for i, text in enumerate(texts):
        if len(texts) > 1:
            print(text if isinstance(text, str) else " | ".join(text))
        for task, predictions in answers.items():
            outside = classifier.tasks[task].out_of_scope
            print(("  " if len(texts) > 1 else "") + _line(task, predictions[i], outside))


def build_command(args: argparse.Namespace) -> None:
    runtimes = read_optional("--runtimes", args.runtimes)
    bundle = describe(args.model, args.base, pairs=args.pairs).with_runtimes(runtimes)
    check_content(bundle, args.content)
    artifact = obtain(bundle, args.cache, args.progress, args.base)
    if args.json:
        optional = {name: {"folder": str(other.folder), **other.manifest} for name, other in artifact.optional.items()}
        print_json({"folder": str(artifact.folder), **artifact.manifest} | ({"optional": optional} if optional else {}))
        return
    print(f"{bundle.name}: built in {artifact.manifest['build_seconds']} s on {artifact.manifest['built']}")
    print(f"  folder  {artifact.folder}")
    _print_parity(artifact)


def info_command(args: argparse.Namespace) -> None:
    bundle = describe(args.model, args.base, pairs=args.pairs)
    bundle.verify()
    every = bundle.with_runtimes(RUNTIMES)
    try:
        artifact = find(every, args.cache)
    except BundleError:  # perhaps only the file of an optional runtime, which was not asked for
        artifact = None
    if artifact is None:
        artifact = find(bundle, args.cache)
    else:
        bundle = every
    sizes = model_sizes(bundle, artifact, args.base)
    if args.json:
        print_json(
            {
                "name": bundle.name,
                "tasks": {name: asdict(task) for name, task in bundle.tasks.items()},
                "max_tokens": bundle.max_tokens,
                "pairs": bundle.pairs,
                "pooling": bundle.pooling,
                "format": bundle.format,
                "base": bundle.base and {name: getattr(bundle.base, name) for name in ("hub_id", "revision", "files")},
                "files": dict(bundle.files),
                "size_bytes": sizes,
                "findings": [asdict(finding) for finding in bundle.findings],
                "artifact": artifact.manifest if artifact else None,
            }
        )
        return
    print(f"{bundle.name}  ({bundle.folder})")
    about = [f"{bundle.pooling} pooling"] if bundle.pooling else []
    print(f"  base    {', '.join([_base(bundle), *about, f'{bundle.max_tokens} tokens at most'])}")
    if architecture := _architecture(bundle, args.base):
        print(f"  family  {architecture}")
    for name, task in bundle.tasks.items():
        labels = ", ".join(task.labels[:7]) + (f", … {len(task.labels)} in all" if len(task.labels) > 7 else "")
        kind = "; multi-label" if task.problem_type == MULTI else ""
        print(f"  task    {name}: {labels}{kind}{f'; uncertain below {task.threshold:.3f}' if task.threshold else ''}")
    if bundle.pairs:
        print("  reads   pairs of texts")
    print(f"  size    {', '.join(f'{TITLES[backend]} {mb(size)}' for backend, size in sizes.items())}")
    for finding in bundle.findings:
        print(f"  {finding.severity:<7} {finding}")
    if artifact is None:
        command = python_command("inference", "build", "--model", bundle.folder)
        print(f"  ONNX and INT8 are not built yet. Build them: {command}")
    else:
        _print_parity(artifact)


def _base(bundle: Bundle) -> str:
    """Return the base's Hub id and revision, or its folder."""
    if bundle.base is None:
        return "none, the folder is a complete model"
    revision = f" at {bundle.base.revision[:12]}" if bundle.base.revision else ""
    return f"{bundle.base.hub_id or bundle.base.folder}{revision}"


def _architecture(bundle: Bundle, base: Path | None) -> str:
    """Return the architecture, and whether the tests cover it; nothing for ONNX files and a base that is not here."""
    try:
        paths = bundle.paths(base, offline=True)
        kind = read_json(paths.get("base/config.json", paths["config.json"])).get("model_type")
    except (InferenceError, KeyError):
        return ""
    return f"{kind}, {'covered by tests' if kind in TESTED else 'proved on this build only'}"


def _line(task: str, p: Prediction, out_of_scope: str | None) -> str:
    flags = {
        "out of scope": p.labels == (out_of_scope,),
        "uncertain": p.uncertain,
        "truncated": p.truncated,
        "no word is in the vocabulary": p.unknown,
        "a single text, and the model was trained on pairs": p.unpaired,
    }
    notes = [note for note, applies in flags.items() if applies]
    others = [f"{label} {p.scores[label]:.4f}" for label in p.labels if label != p.label]  # of a multi-label task
    if others:
        notes.insert(0, f"also {', '.join(others)}")
    elif not p.labels:
        notes.insert(0, "no label reaches the threshold")
    return f"{task:<12} {p.label:<24} {p.confidence:.4f}" + (f"  ({', '.join(notes)})" if notes else "")


def _print_parity(artifact: Artifact) -> None:
    parity = artifact.parity
    for name, reason in artifact.missing.items():
        print(f"  missing {TITLES[name]}: {reason}")
    for name, figures in parity["backends"].items():
        reference, texts = (figures.get(key, parity[key]) for key in ("reference", "texts"))
        print(
            f"  parity  {TITLES[name]}: same label as {TITLES[reference]} on {figures['label_agreement']:.2%} of "
            f"{texts} texts per task, probabilities within {figures['max_abs_dp']:.2g}, "
            f"{figures['batch_flips'] or 'no'} labels depend on the batch"
        )


def _with_tabs(classifier: Classifier, lines: list[str]) -> list[Text]:
    """Return the texts, for a model of pairs as pairs if the lines have tabs."""
    tabs = ["\t" in line for line in lines]
    if not classifier.bundle.pairs or not any(tabs):
        return list(lines)
    if not all(tabs):
        raise InputError(
            f"Text {tabs.index(False) + 1} has no tab, which separates the two texts of a pair, and others have one. "
            "Give each one, or none."
        )
    return [(first, second) for first, _, second in (line.partition("\t") for line in lines)]


def _stdin_lines() -> list[str]:
    return [line.removesuffix("\r") for line in read_stdin().split("\n") if line.strip()]
