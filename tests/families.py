"""Measure a tiny random classifier of every family that transformers has, and write the table of docs/models.md.

    PYTHONPATH=. python tests/families.py [--write] [FAMILY ...]

PyTorch is compared with transformers text by text, alone and in a padded batch; ONNX and INT8 as after any build.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import decoders
import encoders
import foreign
import numpy as np

from inference import BundleError, load
from inference.artifacts import build as building
from inference.artifacts.cache import obtain
from inference.artifacts.parity import score_matrix_mixed, score_rows
from inference.formats.describe import describe

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families: written by tests/families.py --write -->\n", "<!-- end of families -->\n"
HEADER = "| model_type | PyTorch | ONNX | attention | INT8 | why not |\n| --- | --- | --- | --- | --- | --- |\n"
KINDS = sorted({**foreign.KINDS, **decoders.DECODERS, **encoders.FAMILIES})


@dataclass(frozen=True)
class Family:
    """What was measured of one family. A difference is the largest |Δprobability|; None if there is no such file."""

    kind: str
    pytorch: float | None = None
    """Against transformers, alone and in a padded batch."""
    onnx: float | None = None
    fused: bool = False
    int8: float | None = None
    recipe: str = ""
    why: str = ""
    """Why there is no ONNX or no INT8, or why it is refused."""

    def line(self) -> str:
        """Return the row of the table."""
        cells = [
            f"`{self.kind}`",
            "refused" if self.pytorch is None else _bound(self.pytorch),
            "–" if self.onnx is None else _bound(self.onnx),
            "–" if self.onnx is None else "fused" if self.fused else "plain",
            "–" if self.int8 is None else f"{self.int8:.2f}, {self.recipe}",
            textwrap.shorten(self.why.replace("|", "\\|"), 130, placeholder=" …"),
        ]
        return f"| {' | '.join(cells)} |\n"


def _bound(difference: float) -> str:
    return next((f"≤ {bound}" for bound in ("1e-6", "1e-5", "1e-4") if difference <= float(bound)), f"{difference:.2g}")


def measure(kind: str, folder: Path) -> Family:
    """Make a tiny model of a family in `folder`, serve it, build it and compare all answers."""
    from transformers import AutoModelForSequenceClassification

    model = foreign.classifier(folder / "model", kind)
    try:
        classifier = load(model, cache=folder)
    except BundleError as error:
        return Family(kind, why=str(error).partition("is not served: ")[2].partition(". Use")[0] or str(error))
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    expected = foreign.by_hand(loaded, model)
    assert np.ptp(expected[:, 0]) > 0.01, f"{kind}: all texts have one answer, which proves nothing"
    alone = score_rows([classifier.predict(text) for text in foreign.TEXTS])
    batch = score_matrix_mixed(classifier, foreign.TEXTS)["label"]
    pytorch = float(max(np.abs(alone - expected).max(), np.abs(batch - expected).max()))
    artifact = obtain(describe(model), folder)
    figures, manifest = artifact.parity["backends"], artifact.manifest
    reasons = dict.fromkeys(artifact.missing.values())
    return Family(
        kind,
        pytorch,
        figures["onnx"]["max_abs_dp"] if "onnx" not in artifact.missing else None,
        manifest["fused"].get("Attention", 0) == 2,
        figures["int8"]["max_abs_dp"] if "int8" not in artifact.missing else None,
        manifest.get("quantized", {}).get("recipe", ""),
        " ".join(reasons),
    )


def _tenth(texts: Callable[[], list[str]]) -> list[str]:
    return texts()[::10]


def written() -> dict[str, str]:
    """Return the row of each family in the page."""
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in table.splitlines(keepends=True) if line.startswith("| `")]
    return {row.split("`")[1]: row for row in rows}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the rows into docs/models.md")
    parser.add_argument("kinds", nargs="*", metavar="FAMILY", help="default: all")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    for name in ("showcase_texts", "calibration_texts"):  # a tenth is enough for two layers
        setattr(building, name, partial(_tenth, getattr(building, name)))
    rows = written()
    for kind in options.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            family = measure(kind, Path(folder))
        print(family.line(), end="", flush=True)
        rows[kind] = family.line()
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        table = HEADER + "".join(rows[kind] for kind in sorted(rows))
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
