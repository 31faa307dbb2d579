"""Shared parts of the commands: common options, running a command, and printing JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.artifacts.cache import default_cache
from inference.assets import DEMO_MODEL
from inference.backends import DTYPES
from inference.errors import InferenceError, InputError
from inference.jobs import ProgressLine, print_any_text

if TYPE_CHECKING:
    from inference.classifier import Classifier

LOAD_OPTIONS = (
    "device",
    "dtype",
    "compile",
    "threads",
    "base",
    "load_in_4bit",
    "pairs",
    "cache",
    "progress",
    "content",
)
Run = Callable[[argparse.Namespace], "int | None"]


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name and return its exit code. Errors go to stderr as one line."""
    print_any_text()
    args = parser.parse_args(arguments)
    code = 128 + 13  # of a program that SIGPIPE ends, as long as the command has none: 0 would be an answer
    try:
        if "cache" in args:
            args.cache = args.cache or default_cache()
        if "model" in args:
            if isinstance(args.model, list):
                args.models = args.model
                args.model = args.model[0]
            args.model = _model(args)
            args.models = vars(args).get("models") or [args.model]
        with ProgressLine() as line:  # ends before an error is printed
            args.progress = None if vars(args).get("json") else line
            code = args.run(args) or 0
        print(end="", flush=True)  # not when Python ends, which would change the exit code
    except BrokenPipeError:  # the reader closed the pipe, such as `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except (InferenceError, OSError) as error:  # OSError: a folder that is not writable, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


def add_command(commands: Any, name: str, run: Run, help: str) -> argparse.ArgumentParser:
    """Add a command to the subparsers and return its parser."""
    p: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    p.set_defaults(run=run)
    return p


def add_model_command(
    commands: Any,
    name: str,
    run: Run,
    help: str,
    *,
    positional: bool = False,
    several: bool = False,
    cache: bool = True,
) -> argparse.ArgumentParser:
    """Add a command with the options of `add_model` and return its parser."""
    p = add_command(commands, name, run, help)
    add_model(p, positional=positional, several=several, cache=cache)
    return p


def add_model(
    p: argparse.ArgumentParser, *, positional: bool = False, several: bool = False, cache: bool = True
) -> None:
    """Add --model, --base, --pairs and --json.

    Args:
        positional: also accept the model as MODEL.
        several: --model may be repeated; `args.models` has all of them.
        cache: add --cache.
    """
    if positional:
        p.add_argument("folder", nargs="?", type=Path, metavar="MODEL", help="the same as --model")
    p.add_argument(
        "--model",
        type=Path,
        action="append" if several else "store",
        help="model folder, or OWNER/NAME on the Hub (default: $TRIPTYCH_MODEL, else the demo model)"
        + ("; repeat it for several models" if several else ""),
    )
    p.add_argument(
        "--base",
        default=os.environ.get("TRIPTYCH_BASE") or None,
        type=Path,
        help="folder of an adapter's base model (default: $TRIPTYCH_BASE, else what the adapter names)",
    )
    p.add_argument(
        "--pairs",
        action=argparse.BooleanOptionalAction,
        help="the model was trained on pairs of texts, or on single ones (default: what its folder says)",
    )
    if cache:
        p.add_argument("--cache", type=Path, help="folder of built models (default: ~/.cache/triptych)")
    add_json(p)


def add_json(p: argparse.ArgumentParser) -> None:
    """Add --json."""
    p.add_argument("--json", action="store_true", help="print a single JSON document to stdout")


def add_device(p: argparse.ArgumentParser) -> None:
    """Add --threads, --device and --dtype."""
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … or auto (default: %(default)s)")
    p.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, half precision on a GPU")


def add_content(p: argparse.ArgumentParser) -> None:
    """Add --content, with which a server ensures that a command reads the model that it serves."""
    p.add_argument("--content", metavar="KEY", help="refuse a model with another content key")


def load_model(args: argparse.Namespace, backend: str | None) -> Classifier:
    """Load the model on this backend, with the command's options for `load`."""
    from inference.loading import load

    return load(args.model, backend, **{name: getattr(args, name) for name in LOAD_OPTIONS if name in args})


def read_stdin() -> str:
    """Return all of stdin, without a byte-order mark. Bytes that are not UTF-8 are replaced, with a note on stderr."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # of the object: it has no byte-order mark
        print(f"stdin is not UTF-8, first in line {line:,}: unreadable bytes are replaced by U+FFFD.", file=sys.stderr)
    return content.decode("utf-8-sig", errors="replace")


def require_writable(path: Path) -> None:
    """Raise InputError if no file can be written at this path: before the work, not after minutes of it."""
    if not path.parent.is_dir() or path.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"--out {path}: {what}. Pass a file name.")


def names(text: str) -> list[str]:
    """Parse a comma-separated list of names."""
    return [name.strip() for name in text.split(",")] if text else []


def print_json(document: Any, indent: int | None = 1) -> None:
    """Print a JSON document to stdout, with escapes where its encoding may lack a letter."""
    has_all_letters = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(json.dumps(document, indent=indent, ensure_ascii=not has_all_letters))


def _model(args: argparse.Namespace) -> Path:
    """Return the model given as MODEL or --model, else the default."""
    folder: Path | None = vars(args).get("folder")
    if folder is not None and args.model is not None:
        raise InputError(f"Two models are given: {folder} and --model {args.model}. Leave one out.")
    return folder or args.model or Path(os.environ.get("TRIPTYCH_MODEL") or DEMO_MODEL)
