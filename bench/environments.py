"""Virtual environments of the peers: made once, kept in a cache folder, with pinned requirements."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from bench import BenchError

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
OURS = "ours"  # the environment that runs this


def environment(name: str, cache: Path) -> Path:
    """Return the Python of an environment, which is made first if there is none of these requirements.

    Raises:
        BenchError: it cannot be installed here.
    """
    if name == OURS:
        return Path(sys.executable)
    requirements = REQUIREMENTS / f"{name}.txt"
    content = requirements.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{sys.version}\n{content}".encode()).hexdigest()[:12]
    folder = cache / "environments" / f"{name}-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        print(f"Making the environment {name} …", file=sys.stderr, flush=True)
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # torch goes first and by its exact version: any looser spelling pulls gigabytes of CUDA libraries.
        for line in content.splitlines():
            if line.startswith("torch=="):
                run([*pip, line])
        run([*pip, "-r", str(requirements)])
        (folder / "complete").touch()
    return python


def run(command: list[str], settings: dict[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        BenchError: it failed; with the last line that it wrote.
    """
    done = subprocess.run(
        command,
        env=os.environ | (settings or {}),
        cwd=REQUIREMENTS.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BenchError((done.stdout.strip().splitlines() or ["no message"])[-1][:300])
