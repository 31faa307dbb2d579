"""The files that come with Triptych, and the Python that runs it."""

from __future__ import annotations

import csv
import shlex
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
_MODELS = ASSETS / "models"
# A staged Space has the model that it serves there, under its own name and alone.
DEMO_MODEL = next(filter(Path.is_dir, (_MODELS / "demo", *sorted(_MODELS.glob("*")))), _MODELS / "demo")
SHOWCASE = ASSETS / "showcase.csv"  # texts of the parity check
FAITHFULNESS = ASSETS / "faithfulness.json"  # record of `explain --check` on the showcase
CALIBRATION = ASSETS / "calibration.txt"  # texts that set the INT8 ranges; none of them is in the showcase


def showcase_texts() -> list[str]:
    """Return the texts of the showcase, in file order."""
    with SHOWCASE.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def calibration_texts() -> list[str]:
    """Return the texts that set the INT8 ranges, in file order."""
    return CALIBRATION.read_text(encoding="utf-8").splitlines()


def python_command(*arguments: object) -> str:
    """Return a shell command that runs a module with this Python, such as ".venv/bin/python -m inference info"."""
    program, here = Path(sys.executable), Path.cwd()
    name = program.relative_to(here).as_posix() if program.is_relative_to(here) else str(program)
    return shlex.join([name, "-m", *map(str, arguments)])
