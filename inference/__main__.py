"""Commands: predict, explain, score, build, info, doctor; compare, verdict, receipt, report; import; space; serve.

    python -m inference predict --task sentiment "what a lovely film"

Exit code 0 on success and 2 on an error, which goes to stderr; `verdict` gives 0, 1 or 3, `receipt diff` 1
where something changed, and `doctor` 1 where the model has errors. With --json, stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference import space
from inference.api.commands import add as add_api
from inference.artifacts import Artifact, check_content, default_cache, find, model_sizes, obtain
from inference.assets import DEMO_MODEL
from inference.backends import DTYPES, EVERY, TITLES
from inference.bundle import Bundle
from inference.classifier import Prediction
from inference.commands import add as add_files
from inference.commands import add_content, load_asked
from inference.compare.commands import add as add_compare
from inference.compare.commands import add_limits, limits_of
from inference.doctor import add as add_doctor
from inference.errors import InferenceError, InputError, MissingDependencyError
from inference.explain.commands import add as add_explain
from inference.formats.describe import describe
from inference.formats.importing import add as add_import
from inference.progress import ProgressLine
from inference.score.commands import add as add_score

REPORT = "One HTML file with verdict, charts, disagreements and method, to hand over."


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        if "cache" in args:
            args.cache = args.cache or default_cache()
        if "model" in args:
            args.model = _model(args)
        with ProgressLine() as line:  # ended before an error is told
            args.progress = None if vars(args).get("json") else line
            return args.run(args) or 0
    except InferenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a folder that cannot be written, a disk that is full
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m inference", description=(__doc__ or "").split("\n\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, *, positional: bool = False, built: bool = True) -> Any:
        """A command about a model, with --model, --base and --json.

        Args:
            positional: it takes the model as MODEL too.
            built: it reads built files: with --cache.
        """
        p = commands.add_parser(name, help=help, description=help)
        p.set_defaults(run=run)
        if positional:
            p.add_argument("folder", nargs="?", type=Path, metavar="MODEL", help="the same as --model")
        p.add_argument(
            "--model",
            type=Path,
            help="the model folder, or OWNER/NAME on the Hub (default: $TRIPTYCH_MODEL, else the demo model)",
        )
        p.add_argument(
            "--base",
            default=os.environ.get("TRIPTYCH_BASE") or None,
            type=Path,
            help="folder of an adapter's base model, where it is not where the adapter says (default: $TRIPTYCH_BASE)",
        )
        if built:
            p.add_argument("--cache", type=Path, help="folder of built models (default: ~/.cache/triptych)")
        p.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else")
        return p

    p = command("predict", predict, "Label and confidence of each text.")
    p.add_argument(
        "texts", nargs="+", metavar="TEXT", help="a text; - reads one text per line from stdin, blank lines left out"
    )
    p.add_argument("--backend", choices=EVERY, help="the runtime (default: the model's first, mostly pytorch)")
    p.add_argument("--task", help="all tasks if left out")
    p.add_argument("--threshold", type=float, help="uncertain below this confidence (default: the model's own)")
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … or auto (default: %(default)s)")
    p.add_argument("--dtype", choices=DTYPES, help="(default: float32 on a CPU, half precision on a GPU)")
    p.add_argument("--compile", action="store_true", help="compile PyTorch's network first: for many texts")
    p.add_argument("--load-in-4bit", action="store_true", help="hold an adapter's base in 4-bit NF4 (QLoRA)")
    add_content(command("build", build, "Build the ONNX and INT8 files if they are not there yet, and check them."))
    command("info", info, "What a model is: tasks, labels, sizes, parity; with --json the hashes of its files too.")
    add_compare(commands, command)
    add_files(commands, command)
    add_explain(command)
    add_score(commands, command)
    add_api(command)
    add_import(commands)
    add_doctor(command)
    p = commands.add_parser("report", help=REPORT, description=REPORT)
    p.set_defaults(run=report)
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    p.add_argument("--out", type=Path, default=Path("report.html"), help="(default: %(default)s)")
    add_limits(p)
    p = command("space", space.run, "Stage a Hugging Face Space, start it from its folder, and upload it if told to.")
    p.add_argument("--out", type=Path, required=True, help="a new or empty folder, or an earlier staging")
    p.add_argument("--kind", choices=space.KINDS, default="gradio", help="(default: %(default)s)")
    p.add_argument("--to", metavar="OWNER/NAME", help="upload to this Space")
    p.add_argument("--token", help="of an account that may write there (default: $HF_TOKEN)")
    return top


def predict(args: argparse.Namespace) -> None:
    texts = [line for text in args.texts for line in (_stdin_lines() if text == "-" else [text])]
    for text in texts:
        if "/" in text and len(text) < 1000 and Path(text).is_dir():  # the demo model would answer, as if nothing were
            raise InputError(f"{text} is a folder and no text. To ask the model in it: --model {text}")
    classifier = load_asked(args, args.backend)
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


def build(args: argparse.Namespace) -> None:
    bundle = describe(args.model, args.base)
    check_content(bundle, args.content)
    artifact = obtain(bundle, args.cache, args.progress, args.base)
    if args.json:
        _print_json({"folder": str(artifact.folder), **artifact.manifest})
        return
    print(f"{bundle.name}: built in {artifact.manifest['build_seconds']} s on {artifact.manifest['built']}")
    print(f"  folder  {artifact.folder}")
    _print_parity(artifact)


def info(args: argparse.Namespace) -> None:
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


def report(args: argparse.Namespace) -> None:
    from inference.compare.receipt import read_receipt

    receipts = [read_receipt(path) for path in args.receipts]
    try:
        from dashboard.report import report as render
    except ImportError as error:
        raise MissingDependencyError(
            f"A report needs {error.name}, which is not here. Make it where the whole of Triptych and "
            "requirements.txt are installed; a receipt is all that it takes."
        ) from None
    args.out.write_text(render(receipts, limits_of(args)), encoding="utf-8")
    print(f"The report is {args.out}.")


def _model(args: argparse.Namespace) -> Path:
    """The model that is named in one way or the other; else the default."""
    folder: Path | None = vars(args).get("folder")
    if folder is not None and args.model is not None:
        raise InputError(f"Two models are named: {folder} and --model {args.model}. Leave one out.")
    return folder or args.model or Path(os.environ.get("TRIPTYCH_MODEL") or DEMO_MODEL)


def _base(bundle: Bundle) -> str:
    """The base's Hub id and revision, or where it is."""
    if bundle.base is None:
        return "none, the folder is a whole model"
    revision = f" at {bundle.base.revision[:12]}" if bundle.base.revision else ""
    return f"{bundle.base.hub_id or bundle.base.folder}{revision}"


def _line(task: str, p: Prediction) -> str:
    notes = [note for note, said in (("uncertain", p.uncertain), ("cut at the token limit", p.truncated)) if said]
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


if __name__ == "__main__":
    sys.exit(main())
