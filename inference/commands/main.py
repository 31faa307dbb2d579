"""The command line, run as `python -m inference`.

    python -m inference predict --task sentiment "what a lovely film"

The exit code is 0 on success and 2 on an error, which goes to stderr; `verdict` returns 0, 1 or 3, `receipt diff` 1 if
anything changed, and `doctor` 1 if the model has errors. With --json, stdout is a single JSON document.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from inference.commands import compare, doctor, explain, files, model, options, score, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    return options.run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        "python -m inference",
        description="Run, build, compare, explain and serve a text classifier, and score files with it.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in (model, compare, files, explain, score, serve, doctor):
        module.add(commands)
    return top
