"""What the commands share: their parser, the options that several have, and how one is run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.artifacts.cache import default_cache
from inference.assets import DEMO_MODEL
from inference.errors import InferenceError, InputError
from inference.jobs import ProgressLine

if TYPE_CHECKING:
    from inference.classifier import Classifier

LOADING = ("device", "dtype", "compile", "threads", "base", "load_in_4bit", "cache", "progress", "content")
Run = Callable[[argparse.Namespace], "int | None"]


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns its exit code. Errors go to stderr as one line."""
    args = parser.parse_args(arguments)
    try:
        if "cache" in args:
            args.cache = args.cache or default_cache()
        if "model" in args:
            args.model = _model(args)
        with ProgressLine() as line:  # ends before an error is printed
            args.progress = None if vars(args).get("json") else line
            return args.run(args) or 0
    except InferenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a folder that cannot be written, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add_command(commands: Any, name: str, run: Run, help: str) -> argparse.ArgumentParser:
    """Add a command to the subparsers; returns its parser."""
    p: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    p.set_defaults(run=run)
    return p


def add_model_command(
    commands: Any, name: str, run: Run, help: str, *, positional: bool = False, cache: bool = True
) -> argparse.ArgumentParser:
    """Add a command with the options of `add_model`; returns its parser."""
    p = add_command(commands, name, run, help)
    add_model(p, positional=positional, cache=cache)
    return p


def add_model(p: argparse.ArgumentParser, *, positional: bool = False, cache: bool = True) -> None:
    """Add --model, --base and --json.

    Args:
        positional: accept the model as MODEL too.
        cache: add --cache.
    """
    if positional:
        p.add_argument("folder", nargs="?", type=Path, metavar="MODEL", help="the same as --model")
    p.add_argument(
        "--model",
        type=Path,
        help="model folder, or OWNER/NAME on the Hub (default: $TRIPTYCH_MODEL, else the demo model)",
    )
    p.add_argument(
        "--base",
        default=os.environ.get("TRIPTYCH_BASE") or None,
        type=Path,
        help="folder of an adapter's base model, if it is not where the adapter says (default: $TRIPTYCH_BASE)",
    )
    if cache:
        p.add_argument("--cache", type=Path, help="folder of built models (default: ~/.cache/triptych)")
    add_json(p)


def add_json(p: argparse.ArgumentParser) -> None:
    """Add --json."""
    p.add_argument("--json", action="store_true", help="print one JSON document to stdout and nothing else")


def add_content(p: argparse.ArgumentParser) -> None:
    """Add --content, with which a server makes sure that a command reads the model that it serves."""
    p.add_argument("--content", metavar="KEY", help="refuse any model but the one with this content key")


def load_model(args: argparse.Namespace, backend: str | None) -> Classifier:
    """Load the model on this backend, with those options of `load` that the command has."""
    from inference.loading import load

    return load(args.model, backend, **{name: getattr(args, name) for name in LOADING if name in args})


def _model(args: argparse.Namespace) -> Path:
    """The model named by MODEL or --model, else the default."""
    folder: Path | None = vars(args).get("folder")
    if folder is not None and args.model is not None:
        raise InputError(f"Two models are named: {folder} and --model {args.model}. Leave one out.")
    return folder or args.model or Path(os.environ.get("TRIPTYCH_MODEL") or DEMO_MODEL)
