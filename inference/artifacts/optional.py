"""Make the file of an optional runtime from the built FP32 graph, and measure how far it agrees with it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from inference import cpu
from inference.artifacts import parity
from inference.artifacts.artifact import Artifact
from inference.artifacts.build import LARGE_BYTES
from inference.assets import calibration_texts, showcase_texts
from inference.backends import RUNTIMES, Backend, LoadOptions
from inference.classifier import Classifier
from inference.errors import MissingDependencyError, importing, without_folders
from inference.formats.bundle import Bundle
from inference.formats.tokenizer import read_tokenizer
from inference.jobs import Progress

MAX_TEXTS = 160  # for calibration: with three times as many the labels agree no better, and it takes a minute longer


def derive(bundle: Bundle, artifact: Artifact, backend: str, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the file of `backend` into `folder`.

    Args:
        artifact: the built files of the model; the FP32 graph is verified.

    Returns:
        For the manifest, as from `inference.artifacts.build.build`; `missing` if the result does not agree.

    Raises:
        MissingDependencyError: a library is not installed.
        InferenceError: the FP32 graph is damaged.
    """
    from inference.onnx import Graph
    from inference.onnx.backend import OnnxBackend

    runtime = RUNTIMES[backend]
    with importing(f"Building {runtime.title}", runtime.requirements):
        module = importlib.import_module(runtime.module)
    artifact.verify()
    tokenizer_file = artifact.tokenizer_file()
    plain = OnnxBackend("onnx", artifact.read("onnx"), cpu.cores())
    target = folder / runtime.file
    options = LoadOptions(backend, threads=cpu.cores())

    def classifier(on: Backend) -> Classifier:
        return Classifier(bundle, on, read_tokenizer(bundle, tokenizer_file), token_budget=runtime.pass_tokens)

    reference = classifier(plain)
    is_large = artifact.size_bytes("onnx") > LARGE_BYTES
    texts = parity.as_read(bundle, showcase_texts()[:: 8 if is_large else 1])
    chosen = calibration_texts()
    chosen = chosen[:: max(8 if is_large else 1, -(-len(chosen) // MAX_TEXTS))]
    tokens = reference.tokenize(parity.as_read(bundle, chosen))
    feeds = [plain.feed(*tokens.feed([row]).values()) for row in range(len(chosen))]
    progress(f"comparing ONNX on the showcase, for {runtime.title}", 0.0)
    expected = parity.score_matrix(reference, texts)
    figures: dict[str, Any] = {}

    def judge(path: Path) -> dict[str, Any]:
        progress(f"comparing {runtime.title} on the showcase", 0.6)
        weights = np.fromfile(path.with_name(f"{path.stem}_weights.bin"), np.uint8)
        opened = module.open_backend(bundle, options, Graph(path.read_bytes(), {"weights": weights}), None)
        figures[backend] = parity.judge(expected, classifier(opened), texts) | {
            "reference": "onnx",
            "texts": len(texts),
        }
        return dict(figures[backend])

    progress(f"quantising for {runtime.title}", 0.1)
    result: dict[str, Any] = {"runtime": backend, "fused": {}}
    try:
        graph = artifact.folder / RUNTIMES["onnx"].file
        result["quantized"] = module.quantize(graph, target, feeds, judge, reduce_range=cpu.saturates())
    except Exception as error:  # what these libraries raise shares no public base
        if isinstance(error, OSError | MemoryError | MissingDependencyError) or "allocate" in str(error):
            raise  # it may not occur again
        result["missing"] = {backend: without_folders(" ".join(str(error).split()))[:300]}
        figures.clear()
        for path in folder.iterdir():
            path.unlink()
    progress("done", 1.0)
    return result | {"parity": {"texts": len(texts), "reference": "onnx", "backends": figures}}
