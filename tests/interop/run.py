"""Answers of the originals against those of Triptych, for the same checkpoints and the same 200 texts.

Two environments are made in a temporary folder: one with RapidFit 0.1.8 and the transformers of its time, one with
PEFT and transformers as they are here. Each trains small checkpoints from generated rows, saves them and answers the
texts. Here the same folders are imported or loaded and answer again: every label must be equal, and no probability
may differ by more than 1e-5. Nothing is left behind.

    make interop
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from common import MAX_LENGTH, texts  # noqa: E402

from inference import load  # noqa: E402
from inference.artifacts.importing import import_rapidfit, import_weights  # noqa: E402

TOLERANCE = 1e-5
# RapidFit 0.1.8 passes `warmup_ratio` to transformers, which 5 has no more.
RAPIDFIT = ("rapidfit==0.1.8", "transformers==4.57.6")
SHARED = ("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "accelerate", "safetensors")


def environment(folder: Path, packages: tuple[str, ...] = ()) -> Path:
    """The Python of a new environment that also sees what is installed here, so that nothing large is fetched."""
    command = [sys.executable, "-m", "venv", *([] if packages else ["--without-pip"]), str(folder)]
    run(command)
    python = folder / "bin" / "python"
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (inside / "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    if packages:
        pins = folder / "constraints.txt"
        pins.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in SHARED), encoding="utf-8")
        run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-compile",
                "-q",
                "-c",
                str(pins),
                *packages,
            ]
        )
    return python


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run it, silently unless it fails."""
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    settings["OMP_NUM_THREADS"] = "1"  # on models this small a second thread only waits for the first
    if cwd is not None:
        settings["HF_HOME"] = str(cwd / "hf")
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


def compare(name: str, folder: Path, answers: dict[str, list[dict[str, Any]]]) -> float:
    """Print how far the model in `folder` is from the answers of the original; returns the largest |Δp|."""
    classifier = load(folder, threads=1)
    flips, largest = 0, 0.0
    for task, expected in answers.items():
        found = classifier.predict(texts(), task)
        flips += sum(one.label != other["label"] for one, other in zip(found, expected, strict=True))
        # by the original's label: where two labels are as likely, a flip is no large difference
        gaps = [
            abs(a.scores[str(b["label"])] - float(str(b["confidence"]))) for a, b in zip(found, expected, strict=True)
        ]
        largest = max(largest, *gaps)
    kinds = {str(one["label"]) for expected in answers.values() for one in expected}
    print(
        f"{name:<36} {len(answers)} x {len(texts())} answers, {len(kinds)} labels, {flips} differ, |Δp| ≤ {largest:.1e}"
    )
    if flips or largest > TOLERANCE or len(kinds) < 2:
        raise SystemExit(f"{name} does not answer as the original does.")
    return largest


def rapidfit(folder: Path, python: Path) -> float:
    folder.mkdir()
    run([str(python), str(HERE / "original_rapidfit.py"), str(folder)], folder)
    largest = 0.0
    for name, answers in json.loads((folder / "answers.json").read_text(encoding="utf-8")).items():
        import_rapidfit(folder / name, folder / "imported" / name, MAX_LENGTH)
        largest = max(largest, compare(f"rapidfit {name}", folder / "imported" / name, answers))
    return largest


def peft(folder: Path, python: Path) -> float:
    folder.mkdir()
    run([str(python), str(HERE / "original_peft.py"), str(folder)], folder)
    largest = 0.0
    for name, answers in json.loads((folder / "answers.json").read_text(encoding="utf-8")).items():
        model = folder / name
        if name.startswith("pickled"):
            model = folder / "imported" / name
            import_weights(folder / name, model)
        largest = max(largest, compare(f"{folder.name} {name}", model, answers))
    return largest


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interop-") as made:
        folder = Path(made)
        theirs, plain = environment(folder / "env-rapidfit", RAPIDFIT), environment(folder / "env-peft")
        found = [
            rapidfit(folder / "rapidfit", theirs),
            peft(folder / "peft", plain),
            peft(folder / "peft-transformers-4", theirs),
        ]
    print(f"The largest |Δp| is {max(found):.1e} (allowed {TOLERANCE:.0e}); {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
