"""PyTorch network to FP32 ONNX: one graph, one output per task, attention fused for known architectures."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from inference.errors import ExportError
from inference.formats.architectures import FUSED, has_segments
from inference.onnx.backend import INPUTS, OUTPUT_PREFIX
from inference.onnx.graph import MICROSOFT
from inference.onnx.io import LIMIT, save_model
from inference.onnx.join import join_graphs

# Past this many bytes of weights, tables are withheld from the optimizer, which holds its input seven times.
MAX_WEIGHTS_BYTES = LIMIT - 64 * 2**20
TABLE_BYTES = 64 * 2**20  # smaller ones do not matter, and can be indexed by a constant


def export_onnx(network: nn.Module, target: Path, *, token_types: bool = False) -> dict[str, int]:
    """Write `network` to `target` and return the number of fused operators of each kind.

    Inputs `input_ids` and `attention_mask`, int64 (batch, tokens), both axes free; outputs `logits_<task>`, float32
    (batch, labels).

    Args:
        token_types: add the input `token_type_ids`, if the model distinguishes segments.

    Raises:
        ExportError: the exporter fails, or an architecture known to fuse did not, which would be correct but slow.
    """
    tasks: list[str] = list(network.tasks)  # type: ignore[arg-type]
    if len(tasks) > 1 and hasattr(network, "alone"):
        return _export_each(network.alone(), target, token_types)  # type: ignore[operator]
    config: Any = network.config
    has_types = token_types and has_segments(config.model_type, getattr(config, "type_vocab_size", 0))
    inputs = INPUTS if has_types else INPUTS[:2]
    example = torch.ones((2, 8), dtype=torch.int64)
    names = [OUTPUT_PREFIX + task for task in tasks]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        traced = Path(folder) / "traced.onnx"
        try:
            # The tracing exporter, not dynamo's: the optimizer fuses nothing in the graph of the latter.
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    network.eval(),
                    (example,) * len(inputs),
                    str(traced),
                    input_names=list(inputs),
                    output_names=names,
                    dynamic_axes={
                        **{name: {0: "batch", 1: "tokens"} for name in inputs},
                        **{name: {0: "batch"} for name in names},
                    },
                    opset_version=17,
                    dynamo=False,
                )
        except Exception as error:  # the traced code and the exporter's passes raise any class
            raise ExportError(f"PyTorch could not export this network to ONNX: {error}") from error
        return _fuse(traced, target, network)


def _export_each(networks: Sequence[nn.Module], target: Path, token_types: bool) -> dict[str, int]:
    # The optimizer assumes a single encoder per graph: fuse each before joining them.
    fused: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        graphs = {str(network.tasks[0]): Path(folder) / f"{i}.onnx" for i, network in enumerate(networks)}  # type: ignore[index]
        for network, path in zip(networks, graphs.values(), strict=True):
            fused.update(export_onnx(network, path, token_types=token_types))
        join_graphs(graphs, target, token_types=token_types)
    return dict(fused)


def _fuse(traced: Path, target: Path, network: nn.Module) -> dict[str, int]:
    """Replace attention, layer norms and GELU by ONNX Runtime's fused operators."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    tables = _take_tables(traced) if _weights_bytes(network) > MAX_WEIGHTS_BYTES else None
    config: Any = network.config
    model_type = "bert"  # the optimizer's name for all such encoders; it leaves what it cannot fuse
    options = FusionOptions(model_type)
    options.enable_embed_layer_norm = False  # its table must be float; INT8 keeps the table in 8 bits
    with _quiet("onnxruntime.transformers"):
        model = optimize_model(
            str(traced),
            model_type=model_type,
            num_heads=config.num_attention_heads,  # it would guess both sizes, wrongly
            hidden_size=config.hidden_size,
            opt_level=1,
            optimization_options=options,
        )
        model.topological_sort()
    for tensor in model.model.graph.initializer:
        if tables and tensor.name in tables:
            dims, file = tables.pop(tensor.name)
            tensor.dims[:] = dims
            tensor.raw_data = file.read_bytes()
    if tables:
        raise ExportError(f"ONNX Runtime's optimizer lost a table of this network: {', '.join(tables)}.")
    if all(opset.domain != MICROSOFT for opset in model.model.opset_import):
        model.model.opset_import.add(domain=MICROSOFT, version=1)
    save_model(model.model, target)
    fused = Counter(node.op_type for node in model.model.graph.node if node.domain == MICROSOFT)
    if tables is not None:
        del model, tensor
        gc.collect()  # a reference cycle, possibly of gigabytes
    layers = config.num_hidden_layers
    fuses = config.model_type in FUSED and not getattr(config, "is_decoder", False)  # a causal mask is not fused
    if fuses and (fused["Attention"] != layers or fused["SkipLayerNormalization"] < 2 * layers):
        raise ExportError(
            f"Of {layers} layers, ONNX Runtime fused {fused['Attention']} attentions and "
            f"{fused['SkipLayerNormalization']} layer norms ({dict(fused)}). The graph would run at the unfused speed: "
            "check the versions in requirements.txt."
        )
    return dict(fused)


def _weights_bytes(network: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def _take_tables(traced: Path) -> dict[str, tuple[list[int], Path]]:
    """Replace each large lookup table by a row of zeros; return their shapes and files.

    PyTorch has written each to a file of its own beside the graph.
    """
    model = onnx.load(traced, load_external_data=False)
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            readers.setdefault(name, set()).add(f"{node.op_type} {number}")
    tables = {}
    for tensor in model.graph.initializer:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not location or readers.get(tensor.name) != {"Gather 0"} or len(tensor.dims) != 2:
            continue
        file = traced.parent / location
        if file.stat().st_size >= TABLE_BYTES and tensor.data_type == onnx.TensorProto.FLOAT:
            tables[tensor.name] = (list(tensor.dims), file)
            row = np.zeros((1, tensor.dims[1]), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(row, tensor.name))
    onnx.save(model, traced)
    return tables


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
