"""What is measured: the entries of the table, the shapes, and the texts."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environments import OURS
from inference import cpu
from inference.assets import ASSETS, CALIBRATION, showcase_texts

SHAPES = ((1, 16), (1, 32), (1, 128), (8, 32), (32, 32), (32, 128))
"""Texts and tokens of a forward pass."""
ONE_WORDS = 15
MIXED = 96
ROWS = 500
SPINNING_SHAPES = ((1, 16), (8, 32), (32, 32))


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        module: in `bench.peers`.
        options: of its `build` and `open_peer`.
        environment: name of a file in `bench/requirements`, or `OURS`.
        missing: why it cannot be measured here, if that is known before.
        huge_pages: whether it asks for them, as Triptych's own programs do (`inference.cpu`).
    """

    key: str
    title: str
    module: str
    environment: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    color: str = "#808080"
    missing: str = ""
    huge_pages: bool = True


REFERENCE = "pytorch"
OUR_BEST = "int8"
WITHOUT_LANES = "int8-without-lanes"


def entries() -> list[Entry]:
    """Return all entries, ours first."""
    from inference.backends import RUNTIMES

    has_openvino = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
    preset = "avx512_vnni" if "avx512_vnni" in cpu.int8_flags() else "avx2"
    ours = [
        Entry(
            name,
            f"Triptych {runtime.title}",
            "ours",
            OURS,
            {"backend": name},
            color=runtime.color,
            missing=""
            if has_openvino or not runtime.is_optional
            else "its packages are not installed (pip install -r requirements-openvino.txt)",
        )
        for name, runtime in RUNTIMES.items()
    ]
    calibration = {"calibration": str(CALIBRATION)}
    small = "in pages of 4 KB"
    no_small = "" if cpu.gives_huge_pages_on_request() else "huge pages of 2 MB are not given on request here"
    unpooled = "the encoder is its own, mean pooling and heads are NumPy"
    return [
        *ours,
        Entry(
            WITHOUT_LANES,
            "Triptych INT8, one batch at a time",
            "ours",
            OURS,
            {"backend": OUR_BEST, "lanes": False},
            "a list as it was answered before lanes: batches of up to 32 texts, each on all threads",
            RUNTIMES[OUR_BEST].color,
        ),
        Entry(
            "int8-small-pages",
            "Triptych INT8, small pages",
            "ours",
            OURS,
            {"backend": OUR_BEST},
            small,
            RUNTIMES[OUR_BEST].color,
            no_small,
            huge_pages=False,
        ),
        Entry(
            "openvino-latency",
            "OpenVINO INT8, latency",
            "openvino_nncf",
            "openvino",
            calibration | {"hint": "LATENCY"},
            "NNCF and OpenVINO with their own defaults, one graph with three heads",
        ),
        Entry(
            "openvino-throughput",
            "OpenVINO INT8, throughput",
            "openvino_nncf",
            "openvino",
            calibration | {"hint": "THROUGHPUT"},
            "as above, passes side by side in an AsyncInferQueue: of a forward pass, the time for many divided by "
            "their number, which is no latency",
        ),
        Entry(
            "openvino-small-pages",
            "OpenVINO INT8, throughput, small pages",
            "openvino_nncf",
            "openvino",
            calibration | {"hint": "THROUGHPUT"},
            small,
            missing=no_small,
            huge_pages=False,
        ),
        Entry("optimum", f"Optimum {preset}", "optimum_onnx", "optimum", {"preset": preset}, unpooled),
        Entry("ctranslate2", "CTranslate2 int8", "ctranslate", "ctranslate2", note=unpooled),
        Entry("compiled", "torch.compile bf16", "compiled", "transformers", note="one network with three heads"),
        Entry(
            "guide-int8",
            "Guide's recipe, INT8",
            "guide",
            "transformers",
            {"int8": True},
            "an ONNX session a task, `quantize_dynamic`, batches of 32 in the order of the texts",
        ),
        Entry(
            "guide-fp32",
            "Guide's recipe, FP32",
            "guide",
            "transformers",
            {"int8": False},
            "an ONNX session a task, batches of 32 in the order of the texts",
        ),
        Entry(
            "pipeline",
            "transformers pipeline",
            "pipelines",
            "transformers",
            note="a pipeline a task in FP32, text by text, as its documentation advises for CPUs",
        ),
    ]


def column(path: Path) -> list[str]:
    """Return the column `text` of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def spread(texts: list[str], count: int) -> list[str]:
    """Return so many texts at equal distances."""
    return [texts[len(texts) * place // count] for place in range(min(count, len(texts)))]


def mixed() -> list[str]:
    """Return 96 sentences of all lengths: half requests and chat from the showcase, half from `unlabelled.csv`."""
    halves = showcase_texts(), column(ASSETS / "unlabelled.csv")
    return [text for half in halves for text in spread(half, MIXED // 2)]


def sentence() -> str:
    """Return the first text of `unlabelled.csv` that has 15 words."""
    return next(text for text in column(ASSETS / "unlabelled.csv") if len(text.split()) == ONE_WORDS)


def rows(data: Path | None, count: int = ROWS) -> list[str]:
    """Return the texts on which labels are compared.

    Args:
        data: a folder with `<task>/validation.csv`; default: the texts in `assets`.
    """
    if data is None:
        texts = [*showcase_texts(), *column(ASSETS / "unlabelled.csv"), *column(ASSETS / "sentiment_test.csv")]
    else:
        texts = [text for path in sorted(data.glob("*/validation.csv")) for text in column(path)]
    return spread(texts, count)
