"""From a model to its ONNX and INT8 files, and the proof that they agree with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference import cpu
from inference.assets import calibration_texts, showcase_texts
from inference.bundle import Bundle
from inference.errors import BundleError, ExportError
from inference.tokenizer import TOKENIZER, read_tokenizer, write_tokenizer

FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx"}

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""


def build(bundle: Bundle, folder: Path, progress: Progress, base: Path | None = None) -> dict[str, Any]:
    """Write the files of `FILES` and the tokenizer into `folder`; returns how they were made and how far they agree.

    Raises:
        BundleError: the model is damaged.
        ExportError: the build failed, or its result does not agree with PyTorch.
    """
    from inference import parity
    from inference.classifier import Classifier, pad
    from inference.ladder import climb
    from inference.onnx_backend import OnnxBackend
    from inference.onnx_io import read_graph

    threads = cpu.cores()
    tokenizer_file = folder / TOKENIZER
    write_tokenizer(bundle, tokenizer_file, base)
    texts = showcase_texts()

    def on_onnx(name: str, path: Path) -> Classifier:
        backend = OnnxBackend(name, read_graph(path), tokenizer_file, threads=threads)
        return Classifier(bundle, backend, read_tokenizer(bundle, tokenizer_file))

    if bundle.format == "onnx":
        progress("joining the graphs of the tasks", 0.0)
        fused = _join(bundle, "", folder / FILES["onnx"])
        reference = on_onnx("onnx", folder / FILES["onnx"])
        for task, logits in reference.backend.logits(**pad(reference.tokenize(texts[:1]).ids)).items():
            if logits.shape != (1, len(bundle.tasks[task].labels)):
                raise BundleError(
                    f"{bundle.folder / f'{task}.onnx'} gives logits of shape {logits.shape} for one text, and "
                    f"{task}_config.json names {len(bundle.tasks[task].labels)} labels. Correct id2label."
                )
        comparable: list[Classifier] = []
    else:
        from inference.export import export_onnx
        from inference.sequence import load_merged, load_served
        from inference.torch_backend import TorchBackend

        progress("loading the model in PyTorch", 0.0)
        network = load_served(bundle, base)
        plain = load_merged(bundle, base) if hasattr(network, "switches") else network
        served = TorchBackend(network, tokenizer_file, threads=threads)
        reference = Classifier(bundle, served, read_tokenizer(bundle, tokenizer_file))
        progress("exporting to ONNX", 0.1)
        fused = export_onnx(plain, folder / FILES["onnx"])
        comparable = [on_onnx("onnx", folder / FILES["onnx"])]
    progress("quantising to INT8", 0.3)
    expected = parity.score_matrix(reference, texts)
    if bundle.format == "onnx" and all(f"{task}_int8.onnx" in bundle.files for task in bundle.tasks):
        quantized: dict[str, Any] = {"recipe": "as found", "summary": "the folder's own INT8 files", "held": True}
        quantized |= {"counts": _join(bundle, "_int8", folder / FILES["int8"])}
    else:
        quantized = climb(
            folder / FILES["onnx"],
            folder / FILES["int8"],
            [pad([ids]) for ids in reference.tokenize(calibration_texts()).ids],
            lambda path: parity.judge(expected, on_onnx("int8", path), texts),
            reduce_range=cpu.saturates(),
        )
    progress("comparing them on the showcase", 0.6)
    found = parity.report(reference, [*comparable, on_onnx("int8", folder / FILES["int8"])], texts)
    exact = found["backends"].get("onnx")
    allowed = parity.FP32_TOLERANCE if not bundle.four_bit else parity.FOUR_BIT_TOLERANCE
    if exact and (exact["max_abs_dp"] > allowed or (exact["label_agreement"] < 1 and not bundle.four_bit)):
        raise ExportError(
            f"The ONNX model does not agree with PyTorch: largest |Δprobability| {exact['max_abs_dp']:.1e} (allowed "
            f"{allowed:.0e}), equal labels {exact['label_agreement']:.2%}. It was not kept."
        )
    flips = found["backends"]["int8"]["batch_flips"]
    if flips and quantized["recipe"] != "as found":  # other people's INT8 is shown as it is, flips and all
        raise ExportError(
            f"{flips} INT8 labels depend on the texts beside them, which INT8 here never may. It was not kept."
        )
    progress("done", 1.0)
    return {"fused": fused, "quantized": quantized, "parity": found}


def _join(bundle: Bundle, ending: str, target: Path) -> dict[str, int]:
    """One graph of the exported ones of all tasks; how often each of ONNX Runtime's own operators is in it."""
    from inference.onnx_io import load_model
    from inference.onnx_merge import merge_graphs

    graphs = {task: bundle.folder / f"{task}{ending}.onnx" for task in bundle.tasks}
    merge_graphs(graphs, target, within=bundle.folder, digests=bundle.files)
    nodes = load_model(target).graph.node
    return dict(Counter(node.op_type for node in nodes if node.domain == "com.microsoft"))
