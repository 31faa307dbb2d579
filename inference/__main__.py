"""`python -m inference COMMAND`: see `inference.commands.main`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from inference import cpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 2 if a library cannot be imported, since 1 means NO from `verdict`."""
    try:
        from inference.commands.main import main as run
    except ImportError as error:
        print(
            f"error: {sys.executable} cannot import what Triptych needs: {error}. Use the Python that has it "
            f"(.venv/bin/python after `make demo`), or {sys.executable} -m pip install -r requirements.txt",
            file=sys.stderr,
        )
        return 2
    return run(arguments)


if __name__ == "__main__":
    cpu.restart_with_huge_pages()
    sys.exit(main())
