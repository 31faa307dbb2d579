"""PyTorch network to FP32 ONNX: one graph, one output per task, attention fused for known architectures."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import torch
from torch import nn

from inference.errors import ExportError, NoGraphError, without_folders
from inference.formats.architectures import FUSED, has_segments
from inference.onnx.backend import INPUTS, OUTPUT_PREFIX
from inference.onnx.graph import MICROSOFT
from inference.onnx.io import save_model
from inference.onnx.join import join_graphs

# Past this many bytes, weights are withheld from the optimizer, which holds its input seven times.
MAX_WEIGHTS_BYTES = 2**30
TABLE_BYTES = 64 * 2**20  # smaller ones do not matter, and can be indexed by a constant
WEIGHT_BYTES = 2**20


def export_onnx(
    network: nn.Module, target: Path, *, token_types: bool = False, fuse_attention: bool = True
) -> dict[str, int]:
    """Write `network` to `target` and return the number of fused operators of each kind.

    Inputs `input_ids` and `attention_mask`, int64 (batch, tokens), both axes free; outputs `logits_<task>`, float32
    (batch, labels).

    Args:
        token_types: add the input `token_type_ids`, if the model distinguishes segments.

    Raises:
        ExportError: the exporter fails, or an architecture known to fuse did not, which would be correct but slow.
        NoGraphError: padding changes the answers of the network.
    """
    if not getattr(network, "pads", True):
        raise NoGraphError(
            "padding changes the answers of this architecture. PyTorch answers texts of equal length together; a graph "
            "would be given padded ones."
        )
    tasks: list[str] = list(network.tasks)  # type: ignore[arg-type]
    if len(tasks) > 1 and hasattr(network, "alone"):
        return _export_each(network.alone(), target, token_types, fuse_attention)  # type: ignore[operator]
    config: Any = network.config
    has_types = token_types and has_segments(config.model_type, getattr(config, "type_vocab_size", 0))
    inputs = INPUTS if has_types else INPUTS[:2]
    example = torch.ones((2, 8), dtype=torch.int64)
    names = [OUTPUT_PREFIX + task for task in tasks]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        traced = Path(folder) / "traced.onnx"
        with _exporting("PyTorch could not export this network to ONNX"):
            # The tracing exporter, not dynamo's: the optimizer fuses nothing in the graph of the latter.
            # It takes this function for its result, and prints the graph of a failed export past `sys.stdout`.
            silent = mock.patch.object(torch._C, "_jit_is_onnx_log_enabled", False)
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), silent:
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
        return _fuse(traced, target, network, fuse_attention)


def _export_each(
    networks: Sequence[nn.Module], target: Path, token_types: bool, fuse_attention: bool
) -> dict[str, int]:
    # The optimizer assumes a single encoder per graph: fuse each before joining them.
    fused: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        graphs = {str(network.tasks[0]): Path(folder) / f"{i}.onnx" for i, network in enumerate(networks)}  # type: ignore[index]
        for network, path in zip(networks, graphs.values(), strict=True):
            fused.update(export_onnx(network, path, token_types=token_types, fuse_attention=fuse_attention))
        join_graphs(graphs, target, token_types=token_types)
    return dict(fused)


def _fuse(traced: Path, target: Path, network: nn.Module, attention: bool) -> dict[str, int]:
    """Replace attention, layer norms and GELU by ONNX Runtime's fused operators."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    config: Any = network.config
    withheld = _withhold(traced, config.model_type in FUSED) if _weights_bytes(network) > MAX_WEIGHTS_BYTES else {}
    model_type = "bert"  # the optimizer's name for all such encoders; it leaves what it cannot fuse
    options = FusionOptions(model_type)
    options.enable_embed_layer_norm = False  # its table must be float; INT8 keeps the table in 8 bits
    options.enable_attention = attention
    with _quiet("onnxruntime.transformers"), _exporting("ONNX Runtime could not optimize this network"):
        model = optimize_model(
            str(traced),
            model_type=model_type,
            num_heads=getattr(config, "num_attention_heads", 0),  # it would guess both sizes, wrongly
            hidden_size=getattr(config, "hidden_size", 0),
            opt_level=1,
            optimization_options=options,
        )
        model.topological_sort()
    _give_back(model.model.graph, withheld)
    if all(opset.domain != MICROSOFT for opset in model.model.opset_import):
        model.model.opset_import.add(domain=MICROSOFT, version=1)
    save_model(model.model, target)
    fused = Counter(node.op_type for node in model.model.graph.node if node.domain == MICROSOFT)
    if withheld:
        del model
        gc.collect()  # a reference cycle, possibly of gigabytes
    layers = getattr(config, "num_hidden_layers", 0)
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


def _withhold(traced: Path, tables_only: bool) -> dict[str, Path]:
    """Make each large weight an input of the graph; return the files with their bytes.

    Args:
        tables_only: only lookup tables; the optimizer fuses attention only if it sees the other weights.
    """
    model = onnx.load(traced, load_external_data=False)  # past 2 GB, PyTorch has written each to a file of its own
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            readers.setdefault(name, set()).add(f"{node.op_type} {number}")
    withheld: dict[str, Path] = {}
    kept = []
    for tensor in model.graph.initializer:
        is_table = readers.get(tensor.name) == {"Gather 0"} and len(tensor.dims) == 2
        large = math.prod(tensor.dims) * 4 >= (TABLE_BYTES if tables_only else WEIGHT_BYTES)
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not large or tensor.data_type != onnx.TensorProto.FLOAT or (tables_only and not is_table):
            kept.append(tensor)
            continue
        withheld[tensor.name] = file = traced.parent / (location or f"{len(withheld)}.weights")
        if not location:
            file.write_bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, traced)
    return withheld


def _give_back(graph: onnx.GraphProto, withheld: Mapping[str, Path]) -> None:
    """Turn the inputs that `_withhold` has made into weights again."""
    inputs = list(graph.input)
    del graph.input[:]
    for value in inputs:
        if value.name in withheld:
            dims = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            weight = graph.initializer.add(name=value.name, data_type=onnx.TensorProto.FLOAT, dims=dims)
            weight.raw_data = withheld[value.name].read_bytes()
        else:
            graph.input.append(value)


@contextlib.contextmanager
def _exporting(problem: str) -> Iterator[None]:
    """Convert whatever the code in the block raises to an ExportError."""
    try:
        yield
    except Exception as error:  # the traced code, the exporter and the optimizer raise any class
        reason = without_folders(" ".join(str(error).split()))[:200] or type(error).__name__
        raise ExportError(f"{problem}: {reason}") from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
