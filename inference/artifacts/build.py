"""Build the ONNX and INT8 files of a model, and measure how far they agree with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference import cpu
from inference.artifacts import parity
from inference.assets import calibration_texts, showcase_texts
from inference.backends import RUNTIMES
from inference.calls.texts import Text, Tokens
from inference.classifier import Classifier, probabilities
from inference.errors import BundleError, ExportError, MissingDependencyError, NoGraphError, importing, without_folders
from inference.formats.architectures import FUSED
from inference.formats.bundle import Bundle
from inference.formats.tokenizer import TOKENIZER, read_tokenizer, write_tokenizer
from inference.jobs import Progress

if TYPE_CHECKING:
    from inference.onnx.backend import OnnxBackend

ONNX, INT8 = RUNTIMES["onnx"].file, RUNTIMES["int8"].file
LONGEST = 1024  # tokens of the longest text that a graph is checked with: more would take gigabytes
LARGE_BYTES = 2**30  # a larger graph is tried with every eighth text: with all of them it would take an hour
JOINED_TEXTS = 96  # of the showcase, to compare a joined graph with its parts


class _Source(NamedTuple):
    """The FP32 graph that was written, and what it is compared with."""

    reference: Classifier
    fused: dict[str, int]
    """How often each of ONNX Runtime's own operators is in the graph."""
    notes: dict[str, Any]
    """More figures for the manifest's `parity`."""
    long_texts: list[str]
    """To compare beside the showcase: a graph that was traced may have the length of the example in it."""
    refusal: type[ExportError] = ExportError
    """What to raise if the graph does not agree. NoGraphError for an architecture that may have none."""
    export: Callable[[bool], dict[str, int]] = lambda fuse_attention: {}
    """Writes the graph again, with or without fused attention, and returns `fused`."""


def build(bundle: Bundle, folder: Path, progress: Progress, base: Path | None = None) -> dict[str, Any]:
    """Write `ONNX`, `INT8` and the tokenizer into `folder`.

    Returns:
        For the manifest: the `fused` operators, how INT8 was made (`quantized`), how far each file agrees (`parity`),
        and, if the architecture has no such file that answers as PyTorch does, the reasons (`missing`).

    Raises:
        BundleError: the model is damaged.
        ExportError: the build failed; of an architecture known to work, its result does not agree with PyTorch.
    """
    try:
        return _build(bundle, folder, progress, base)
    except NoGraphError as error:
        for path in folder.iterdir():
            if path.name != TOKENIZER:
                path.unlink()
        progress("done", 1.0)
        return {
            "fused": {},
            "parity": {"texts": 0, "reference": "pytorch", "backends": {}},
            "missing": dict.fromkeys(("onnx", "int8"), str(error)),
        }


def _build(bundle: Bundle, folder: Path, progress: Progress, base: Path | None) -> dict[str, Any]:
    """Do the same, or raise NoGraphError if there is no FP32 graph that agrees."""
    write_tokenizer(bundle, folder / TOKENIZER, base)
    is_export = bool(bundle.graphs)
    source = join_exported(bundle, folder, progress) if is_export else _export_network(bundle, folder, progress, base)
    texts = parity.as_read(bundle, _affordable(showcase_texts(), folder) + source.long_texts)
    progress("comparing ONNX on the showcase", 0.3)
    expected = parity.score_matrix(source.reference, texts)
    figures: dict[str, dict[str, Any]] = {}

    def judge(name: str) -> dict[str, Any]:
        figures[name] = parity.judge(expected, _open_file(bundle, folder, name), texts)
        return figures[name]

    fused = source.fused
    if not is_export:
        try:
            _check_exact(judge, source.refusal)
        except NoGraphError:
            # The optimizer takes the attention of some decoders for that of an encoder.
            fused = source.export(False)
            _check_exact(judge, source.refusal)
    progress("quantising to INT8, and comparing it", 0.45)
    notes, reference, refusal = source.notes, source.reference.backend.name, source.refusal
    del source  # the network's memory is needed
    result: dict[str, Any] = {"fused": fused}
    try:
        result["quantized"] = _write_int8(bundle, folder, judge)
        if not bundle.graphs and (flips := figures["int8"]["batch_flips"]):  # files of others are served with theirs
            raise ExportError(
                f"{flips} INT8 labels depend on the texts beside them, which must never happen. It was not kept."
            )
    except Exception as error:  # ONNX Runtime's own classes share no public base
        if refusal is not NoGraphError or _is_passing(error):
            raise
        result["missing"] = {"int8": f"it could not be made from the ONNX graph: {_reason(error)}"}
        figures.pop("int8", None)
        for path in folder.glob(f"{Path(INT8).stem}*"):
            path.unlink()
    progress("done", 1.0)
    return result | {"parity": {"texts": len(texts), "reference": reference, "backends": figures} | notes}


def _write_int8(bundle: Bundle, folder: Path, judge: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Write the INT8 graph; return how it was made."""
    with importing("Building ONNX and INT8", "-r requirements.txt"):
        from inference.onnx.recipes import check_bounds, quantize_best

    if bundle.graphs and all(f"{task}_int8.onnx" in bundle.files for task in bundle.tasks):
        return _join_int8(bundle, folder) | check_bounds(judge("int8"))
    return quantize_best(
        folder / ONNX,
        folder / INT8,
        _calibration_feeds(bundle, folder),
        lambda path: judge("int8"),
        reduce_range=cpu.saturates(),
    )


def _is_passing(error: Exception) -> bool:
    """Return whether an error may not occur again: no room in memory or on the disk, a library that is missing."""
    return isinstance(error, OSError | MemoryError | MissingDependencyError) or "allocate" in str(error)


def _reason(error: Exception) -> str:
    return without_folders(" ".join(str(error).split()))[:200] or type(error).__name__


def _check_exact(judge: Callable[[str], dict[str, Any]], refusal: type[ExportError]) -> None:
    """Raise `refusal` unless the FP32 graph runs and answers as its source does."""
    try:
        exact = judge("onnx")
    except Exception as error:  # ONNX Runtime's own classes share no public base
        if refusal is not NoGraphError or _is_passing(error):
            raise
        raise NoGraphError(f"Its ONNX graph does not run on every text: {_reason(error)}") from error
    largest = max(exact["max_abs_dp"], exact["batch_max_abs_dp"])
    if not largest <= parity.FP32_TOLERANCE or exact["label_agreement"] < 1:
        raise refusal(
            f"The ONNX model does not agree with PyTorch: largest |Δprobability| {largest:.1e} "
            f"(allowed {parity.FP32_TOLERANCE:.0e}), equal labels {exact['label_agreement']:.2%}. It was not kept."
        )


def _calibration_feeds(bundle: Bundle, folder: Path) -> list[dict[str, NDArray[np.int64]]]:
    """Return the inputs of the FP32 graph for each calibration text."""
    plain = _open_backend(folder, "onnx")
    classifier = Classifier(bundle, plain, read_tokenizer(bundle, folder / TOKENIZER))
    tokens = classifier.tokenize(parity.as_read(bundle, _affordable(calibration_texts(), folder)))
    return [plain.feed(*tokens.feed([row]).values()) for row in range(len(tokens.ids))]


def _affordable(texts: list[str], folder: Path) -> list[str]:
    """Return the texts to try the graph in `folder` with."""
    return texts[:: 8 if sum(path.stat().st_size for path in folder.iterdir()) > LARGE_BYTES else 1]


def _open_file(bundle: Bundle, folder: Path, name: str) -> Classifier:
    """Open the built file of a runtime on a CPU."""
    return Classifier(bundle, _open_backend(folder, name), read_tokenizer(bundle, folder / TOKENIZER))


def _open_backend(folder: Path, name: str) -> OnnxBackend:
    from inference.onnx.backend import OnnxBackend
    from inference.onnx.io import read_graph

    return OnnxBackend(name, read_graph(folder / RUNTIMES[name].file), cpu.cores())


def _export_network(bundle: Bundle, folder: Path, progress: Progress, base: Path | None) -> _Source:
    """Write the FP32 graph of a PyTorch network; the reference is the network that PyTorch serves."""
    with importing("Building ONNX and INT8", "-r requirements.txt"):
        from inference.onnx.export import export_onnx
        from inference.pytorch.backend import TorchBackend
        from inference.pytorch.huggingface import AdapterNetwork, load_merged, load_served

    def on_torch(network: Any) -> Classifier:
        backend = TorchBackend(network, threads=cpu.cores())
        return Classifier(bundle, backend, read_tokenizer(bundle, folder / TOKENIZER))

    progress("loading the model in PyTorch", 0.0)
    network: Any = load_served(bundle, base)
    merged = load_merged(bundle, base) if bundle.four_bit or isinstance(network, AdapterNetwork) else network
    reference = on_torch(network)
    notes = {}
    if bundle.four_bit:
        # The 4-bit kernels round differently: ONNX is compared with the dequantised weights, and their drift is noted.
        texts, served, reference = parity.as_read(bundle, showcase_texts()), reference, on_torch(merged)
        expected = parity.score_matrix(served, texts)
        notes["four_bit_drift"] = parity.differences(expected, parity.score_matrix(reference, texts))
    progress("exporting to ONNX", 0.1)

    def export(fuse_attention: bool) -> dict[str, int]:
        try:
            return export_onnx(merged, folder / ONNX, token_types=bundle.token_types, fuse_attention=fuse_attention)
        except NoGraphError:
            raise
        except ExportError as error:
            if _is_passing(error):
                raise
            raise NoGraphError(str(error)) from error

    fused = export(True)
    if network.config.model_type in FUSED:  # tests compare long texts of these, and unfused they would be slow
        return _Source(reference, fused, notes, [], NoGraphError)
    return _Source(reference, fused, notes, _long_texts(bundle), NoGraphError, export)


def _long_texts(bundle: Bundle) -> list[str]:
    """Return texts that have more tokens than any of the showcase, at most `LONGEST` or the model's limit."""
    words = " ".join(showcase_texts()).split()
    most = min(bundle.max_tokens, LONGEST)
    return [" ".join((words * (1 + count // len(words)))[:count]) for count in (most, most // 2)]


def join_exported(bundle: Bundle, folder: Path, progress: Progress) -> _Source:
    """Write one FP32 graph from the exported ones of all tasks; it is its own reference.

    Raises:
        BundleError: a graph does not fit the tokenizer, whose file is in `folder`, or the length of texts.
        ExportError: the joined graph does not agree with those of the tasks.
    """
    progress("joining the graphs of the tasks", 0.0)
    fused = _join(bundle, "", folder / ONNX)
    reference = _open_file(bundle, folder, "onnx")
    _check_limits(bundle, reference)
    figures = check_joined(bundle, reference, parity.as_read(bundle, showcase_texts()[:JOINED_TEXTS]))
    return _Source(reference, fused, {"single_graphs": figures}, [])


def _join_int8(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Write one INT8 graph from the exported ones of all tasks; return how it was made."""
    counts = _join(bundle, "_int8", folder / INT8)
    return {"recipe": "as found", "summary": "the folder's own INT8 files", "counts": counts}


def _join(bundle: Bundle, ending: str, target: Path) -> dict[str, int]:
    """Join the graphs of all tasks; count ONNX Runtime's own operators in the result."""
    from inference.onnx.io import load_model
    from inference.onnx.join import join_graphs

    paths = {task: bundle.folder / name for task, name in bundle.graphs.items()}
    graphs = {task: path.with_stem(path.stem + ending) for task, path in paths.items()}
    join_graphs(graphs, target, within=bundle.folder, digests=bundle.files, token_types=bundle.token_types)
    nodes = load_model(target).graph.node
    return dict(Counter(node.op_type for node in nodes if node.domain == "com.microsoft"))


def _check_limits(bundle: Bundle, joined: Classifier) -> None:
    """Raise BundleError unless the graph has an embedding for every token and positions for the longest text."""
    last, token = max((number, token) for token, number in joined.tokenizer.get_vocab().items())
    length = min(bundle.max_tokens, LONGEST)
    tokens = Tokens([[last] * length], [[0] * length] if bundle.token_types else None, [], [])
    try:
        joined.backend.logits(**tokens.feed([0], bundle.pad_id))
    except Exception as error:  # ONNX Runtime's own classes share no public base
        reason = str(error).rpartition("Message: ")[2].partition("\n")[0]
        raise BundleError(
            f"The graph in {bundle.folder} cannot read {length} tokens (max_length) like the last of its tokenizer, "
            f"{token[:40]!r} ({last}): {reason[:200]}. Put the tokenizer and the max_length from training there."
        ) from None


def check_joined(bundle: Bundle, joined: Classifier, texts: Sequence[Text]) -> dict[str, dict[str, float]]:
    """Compare a joined graph with each of its parts in padded batches, as `parity.differences`.

    Raises:
        ExportError: they do not agree.
    """
    from inference.onnx.backend import ForeignGraph
    from inference.onnx.io import read_graph

    tokens = joined.tokenize(texts)
    feeds = [tokens.feed(range(len(texts))[start : start + 32], bundle.pad_id) for start in range(0, len(texts), 32)]
    answers = [joined.backend.logits(**feed) for feed in feeds]
    figures: dict[str, dict[str, float]] = {}
    for task, spec in bundle.tasks.items():
        path = bundle.folder / bundle.graphs[task]
        single = ForeignGraph("onnx", read_graph(path, bundle.folder, bundle.files), joined.backend.threads)
        name, rows = single.names[0], range(len(texts))
        expected = np.concatenate([single.logits(**feed)[name] for feed in feeds])
        alone = np.concatenate([single.logits(**tokens.feed([row], bundle.pad_id))[name] for row in rows])
        actual = np.concatenate([answer[task] for answer in answers])
        apart, joint, same = ({task: probabilities(logits, spec.problem_type)} for logits in (alone, expected, actual))
        moved = parity.differences(apart, joint)[task]["max_abs_dp"]
        if moved > parity.FP32_TOLERANCE:
            raise ExportError(
                f"The answers of {path} depend on the other texts of a batch: probabilities move by up to {moved:.1e}. "
                "It reads padding as text: export it so that the logits depend on attention_mask alone."
            )
        figures |= parity.differences(joint, same)
        if figures[task]["max_abs_dp"] > parity.FP32_TOLERANCE:
            raise ExportError(
                f"The graph joined from those in {bundle.folder} does not answer as {path.name} does: largest "
                f"|Δprobability| {figures[task]['max_abs_dp']:.1e} (allowed {parity.FP32_TOLERANCE:.0e}). It was not "
                "kept: export the tasks again."
            )
    return figures
