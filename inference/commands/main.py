"""The command line.

    python -m inference predict --task sentiment "what a lovely film"

Exit code 0 on success and 2 on an error, which goes to stderr; `verdict` gives 0, 1 or 3, `receipt diff` 1 if anything
changed, and `doctor` 1 if the model has errors. With --json, stdout is one JSON document.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from inference.commands import compare, doctor, explain, files, model, options, score, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return options.run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        "python -m inference", description="Ask a text classifier, build and compare its runtimes, score files, serve."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in (model, compare, files, explain, score, serve, doctor):
        module.add(commands)
    return top
