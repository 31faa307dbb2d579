"""`python -m inference COMMAND`: see `inference.commands.main`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 2 without a library it needs, since 1 would be a NO of `verdict`."""
    try:
        from inference.commands import main as commands

        return commands.main(arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "inference"):
            raise
        print(
            f"error: the library {library} is not installed for {sys.executable}. Install what Triptych needs, or use "
            "the Python that has it: python -m pip install -r requirements.txt",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
