"""From a model to its ONNX and INT8 files, and the proof that they agree with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference import cpu
from inference.assets import calibration_texts, showcase_texts
from inference.backends import RUNTIMES
from inference.errors import ExportError, importing
from inference.formats.bundle import Bundle
from inference.formats.tokenizer import TOKENIZER, read_tokenizer, write_tokenizer
from inference.jobs import Progress

if TYPE_CHECKING:
    from inference.classifier import Classifier

ONNX, INT8 = RUNTIMES["onnx"].file, RUNTIMES["int8"].file
JOINED_TEXTS = 96  # of the showcase, by which a joined graph is compared with those it is made of


def build(bundle: Bundle, folder: Path, progress: Progress, base: Path | None = None) -> dict[str, Any]:
    """Write `ONNX`, `INT8` and the tokenizer into `folder`; returns how they were made and how far they agree.

    Raises:
        BundleError: the model is damaged.
        ExportError: the build failed, or its result does not agree with PyTorch.
    """
    with importing("Building ONNX and INT8", "-r requirements.txt"):
        from inference.artifacts import parity
        from inference.classifier import Classifier, pad
        from inference.onnx.backend import OnnxBackend
        from inference.onnx.io import read_graph
        from inference.onnx.recipes import climb, verdict

    threads = cpu.cores()
    tokenizer_file = folder / TOKENIZER
    write_tokenizer(bundle, tokenizer_file, base)
    texts = showcase_texts()
    more: dict[str, Any] = {}

    def on_onnx(name: str, path: Path) -> Classifier:
        backend = OnnxBackend(name, read_graph(path), threads)
        return Classifier(bundle, backend, read_tokenizer(bundle, tokenizer_file))

    if bundle.format == "onnx":
        progress("joining the graphs of the tasks", 0.0)
        fused = _join(bundle, "", folder / ONNX)
        reference = on_onnx("onnx", folder / ONNX)
        more["single_graphs"] = check_joined(bundle, reference, texts[:JOINED_TEXTS])
    else:
        with importing("Building ONNX and INT8", "-r requirements.txt"):
            from inference.onnx.export import export_onnx
            from inference.pytorch.backend import TorchBackend
            from inference.pytorch.huggingface import AdapterNetwork, load_merged, load_served

        def on_torch(network: Any) -> Classifier:
            backend = TorchBackend(network, threads=threads)
            return Classifier(bundle, backend, read_tokenizer(bundle, tokenizer_file))

        progress("loading the model in PyTorch", 0.0)
        network = load_served(bundle, base)
        plain = load_merged(bundle, base) if isinstance(network, AdapterNetwork) else network
        reference = on_torch(network)
        if bundle.four_bit:
            # The 4-bit kernels round on their own: ONNX is held to what those 4 bits stand for, and their part is told.
            served, reference = reference, on_torch(plain)
            expected = parity.score_matrix(served, texts)
            more["four_bit_drift"] = parity.compare(expected, parity.score_matrix(reference, texts))
        progress("exporting to ONNX", 0.1)
        fused = export_onnx(plain, folder / ONNX)
    progress("comparing ONNX on the showcase", 0.3)
    expected = parity.score_matrix(reference, texts)
    figures: dict[str, dict[str, Any]] = {}
    if bundle.format != "onnx":
        figures["onnx"] = parity.judge(expected, on_onnx("onnx", folder / ONNX), texts)
        exact = figures["onnx"]
        if exact["max_abs_dp"] > parity.FP32_TOLERANCE or exact["label_agreement"] < 1:
            raise ExportError(
                f"The ONNX model does not agree with PyTorch: largest |Δprobability| {exact['max_abs_dp']:.1e} "
                f"(allowed {parity.FP32_TOLERANCE:.0e}), equal labels {exact['label_agreement']:.2%}. It was not kept."
            )

    def judge_int8(path: Path) -> dict[str, Any]:
        figures["int8"] = parity.judge(expected, on_onnx("int8", path), texts)
        return figures["int8"]

    progress("quantising to INT8, and comparing it", 0.45)
    found_made = bundle.format == "onnx" and all(f"{task}_int8.onnx" in bundle.files for task in bundle.tasks)
    if found_made:
        quantized: dict[str, Any] = {"recipe": "as found", "summary": "the folder's own INT8 files"}
        quantized["counts"] = _join(bundle, "_int8", folder / INT8)
    else:
        quantized = climb(
            folder / ONNX,
            folder / INT8,
            [pad([ids]) for ids in reference.tokenize(calibration_texts()).ids],
            judge_int8,
            reduce_range=cpu.saturates(),
        )
    if found_made:
        quantized |= verdict(judge_int8(folder / INT8))
    flips = figures["int8"]["batch_flips"]
    if flips and not found_made:  # other people's INT8 is shown as it is, flips and all
        raise ExportError(
            f"{flips} INT8 labels depend on the texts beside them, which INT8 here never may. It was not kept."
        )
    progress("done", 1.0)
    found = {"texts": len(texts), "reference": reference.backend.name, "backends": figures}
    return {"fused": fused, "quantized": quantized, "parity": found | more}


def check_joined(bundle: Bundle, joined: Classifier, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """How far the one graph of a folder of ONNX files is from each of them, as `parity.compare`, in padded batches.

    Raises:
        ExportError: they do not agree.
    """
    from inference.artifacts import parity
    from inference.classifier import pad, probabilities
    from inference.onnx.backend import ForeignGraph
    from inference.onnx.io import read_graph

    ids = joined.tokenize(texts).ids
    feeds = [pad(ids[start : start + 32], bundle.pad_id) for start in range(0, len(ids), 32)]
    answers = [joined.backend.logits(**feed) for feed in feeds]
    found: dict[str, dict[str, float]] = {}
    for task, spec in bundle.tasks.items():
        path = bundle.folder / f"{task}.onnx"
        single = ForeignGraph(
            "onnx",
            read_graph(path, bundle.folder, bundle.files),
            joined.backend.threads,
        )
        expected, ours = (
            {task: probabilities(np.concatenate(logits), spec.problem_type)}
            for logits in (
                [single.logits(**feed)[single.names[0]] for feed in feeds],
                [answer[task] for answer in answers],
            )
        )
        found |= parity.compare(expected, ours)
        if found[task]["max_abs_dp"] > parity.FP32_TOLERANCE:
            raise ExportError(
                f"The graph joined of those in {bundle.folder} does not answer as {path.name} does: largest "
                f"|Δprobability| {found[task]['max_abs_dp']:.1e} (allowed {parity.FP32_TOLERANCE:.0e}). It was not "
                "kept: export the tasks again."
            )
    return found


def _join(bundle: Bundle, ending: str, target: Path) -> dict[str, int]:
    """One graph of the exported ones of all tasks; how often each of ONNX Runtime's own operators is in it."""
    from inference.onnx.io import load_model
    from inference.onnx.join import merge_graphs

    graphs = {task: bundle.folder / f"{task}{ending}.onnx" for task in bundle.tasks}
    merge_graphs(graphs, target, within=bundle.folder, digests=bundle.files)
    nodes = load_model(target).graph.node
    return dict(Counter(node.op_type for node in nodes if node.domain == "com.microsoft"))
