"""Proof that a network can be served: transformers has it, it is no larger than its files, and padding is harmless."""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from inference.errors import BundleError
from inference.formats.architectures import FUSED
from inference.formats.bundle import Bundle
from inference.formats.files import tensors
from inference.formats.weights import weight_files

Served = TypeVar("Served", bound=nn.Module)

# Inputs of forward that classifiers of documents, pages and pictures have.
MORE = ("bbox", "image", "xpath_tags_seq", "input_shape_ids")
REFUSED = {
    "mra": "without a CUDA kernel, which is code that transformers downloads, its attention is zero everywhere",
    "yoso": "on a GPU transformers downloads code for it",
    "reformer": "its hashes depend on the first text that it answered",
    "tapas": "it reads a table beside the question",
}
LENGTHS = (7, 33)  # tokens of the rows of the proof; odd, as some networks read pairs of tokens


def check_architecture(config: Mapping[str, Any], names: Mapping[str, str], what: str, path: Path) -> None:
    """Raise BundleError unless transformers has a class for this config that reads texts alone.

    Args:
        names: `model_type` -> name of the class, a table of transformers.
    """
    import transformers

    kind = str(config.get("model_type"))
    if kind not in names:
        raise BundleError(
            f"{path}: transformers {transformers.__version__} has no {what} for model_type {kind[:60]!r}, and code of "
            "a folder is never run here. Install the version that the model was saved with, if that has one: "
            f"transformers_version is {str(config.get('transformers_version'))[:20]}."
        )
    name = names[kind] if isinstance(names[kind], str) else names[kind][0]  # Funnel has several classes of models
    inputs = inspect.signature(getattr(transformers, name).forward).parameters
    reason = REFUSED.get(kind) or ", ".join(f"it reads more than texts ({name})" for name in MORE if name in inputs)
    if reason:
        raise BundleError(f"{path}: model_type {kind!r} is not served: {reason}. Use a model for texts alone.")


@contextlib.contextmanager
def bounded_build(folder: Path) -> Iterator[None]:
    """Refuse to build a network that is far larger than the weights in `folder`.

    transformers first builds it without memory, on the device "meta", and then allocates what the files lack at the
    size that an untrusted config chose. Every registered part is counted, so that the building ends early too.

    Raises:
        BundleError: it has too many weights, buffers or layers.
    """
    shapes = [shape for path in weight_files(folder) for _, shape, _ in tensors(path).values()]
    stored = sum(map(math.prod, shapes))
    # A table that is tied is built up to three times, and two 4-bit weights are stored in one number. A causal mask
    # takes some bytes for each two positions.
    limits = {"weights": 6 * stored + 1_000_000, "bytes": 16 * stored + 2**28, "parts": 100 * len(shapes) + 10_000}
    built = dict.fromkeys(limits, 0)
    thread = threading.get_ident()

    def count(what: str, size: int) -> None:
        if threading.get_ident() != thread:  # the hooks are those of all threads
            return
        built[what] += size
        if built[what] > limits[what]:
            raise BundleError(
                f"{folder / 'config.json'} describes more than {built[what]:,} {what}, and the files hold {stored:,} "
                f"weights in {len(shapes):,} tensors. They do not belong together. Restore the model folder."
            )

    def count_weights(_: nn.Module, __: str, weights: Tensor) -> None:
        if weights.is_meta:
            count("weights", weights.numel())

    def count_bytes(_: nn.Module, __: str, buffer: Tensor | None) -> None:
        if buffer is not None:
            count("bytes", buffer.numel() * buffer.element_size())

    with contextlib.ExitStack() as stack:
        for hook in (
            register_module_parameter_registration_hook(count_weights),
            register_module_buffer_registration_hook(count_bytes),
            register_module_module_registration_hook(lambda _, __, ___: count("parts", 1)),
        ):
            stack.callback(hook.remove)
        yield


def prove(network: Served, bundle: Bundle) -> Served:
    """Return the network in evaluation mode, after answering two made-up rows alone and beside each other.

    Some architectures answer a padded row differently: they mix tokens without a mask, or read the last position. Their
    attribute `pads` becomes False, and `TorchBackend` gives them rows of equal length only.

    Raises:
        BundleError: it does not run, or it gives different answers to the same row.
    """
    network.eval()
    config: Any = network.config
    network.pads = True  # type: ignore[assignment]
    if config.model_type in FUSED:  # covered by the tests, and the most frequent
        return network
    long = min(_attend_in_blocks(network, config), _scales_positions(config))
    places = {parameter.device for parameter in network.parameters() if not parameter.is_meta}
    device = next((place for place in places if place.type == "cuda"), torch.device("cpu"))
    rows = _rows(config, [min(length, bundle.max_tokens) for length in LENGTHS], bundle.pad_id)

    def answer(chosen: list[list[int]]) -> Tensor:
        longest = max(map(len, chosen))
        ids = [row + [bundle.pad_id] * (longest - len(row)) for row in chosen]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in chosen]
        with torch.inference_mode():
            outputs = network(torch.tensor(ids, device=device), torch.tensor(mask, device=device))
        return torch.cat([output.float().cpu() for output in outputs], dim=1)

    try:
        alone = torch.cat([answer([row]) for row in rows])
        again = answer(rows[:1])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the code of an architecture raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BundleError(
            f"{bundle.folder}: this {config.model_type} network does not answer a text of {len(rows[0])} tokens "
            f"({reason}). Restore its config.json, or use another architecture."
        ) from error
    # 16-bit weights round differently from shape to shape.
    exact = all(parameter.dtype in (torch.float32, torch.float64) for parameter in network.parameters())
    allowed = 1e-6 + (1e-4 if exact else 3e-2) * float(alone.abs().max())
    if not float((alone[:1] - again).abs().max()) <= allowed:
        raise BundleError(
            f"{bundle.folder}: this {config.model_type} network gives different answers to the same text, because "
            "it draws random numbers. Fix its seed in config.json if it has one, or use another architecture."
        )
    try:
        pads = float((alone - answer(rows)).abs().max()) <= allowed
        network.pads = pads and bundle.max_tokens < long  # type: ignore[assignment]
    except Exception:  # such as: all rows must have the same number of a token
        network.pads = False  # type: ignore[assignment]
    return network


def _attend_in_blocks(network: nn.Module, config: Any) -> float:
    """Let BigBird attend to long texts in blocks, whatever came before; return from how many tokens on it does.

    With the first short text, transformers switches the network to full attention for good.
    """
    if getattr(config, "attention_type", None) != "block_sparse":
        return math.inf
    longest = (5 + 2 * config.num_random_blocks) * config.block_size

    def reset(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None:
            module.set_attention_type("block_sparse" if ids.shape[1] > longest else "original_full")

    for module in network.modules():
        if hasattr(module, "set_attention_type") and hasattr(module, "get_input_embeddings"):
            module.register_forward_pre_hook(reset, with_kwargs=True)
    return float(longest + 1)


def _scales_positions(config: Any) -> float:
    """Return from how many tokens in the longest text of a batch a decoder scales the positions of all (LongRoPE)."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return math.inf
    limit = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
    return float(limit or text.max_position_embeddings) + 1


def _rows(config: Any, lengths: list[int], pad_id: int) -> list[list[int]]:
    """Return rows of token ids that end as a text does, without special tokens within."""
    text = config.get_text_config()
    special = {name: getattr(text, f"{name}_token_id", None) for name in ("bos", "cls", "eos", "sep", "pad")}
    taken = {pad_id, *(number for number in special.values() if isinstance(number, int))}
    size = getattr(text, "vocab_size", None) or 8
    words = [number for number in range(min(size, 200)) if number not in taken] or [0]
    ends = [number for number in (special["eos"], special["sep"]) if isinstance(number, int) and number < size][:1]
    return [[words[(7 * i + length) % len(words)] for i in range(length - len(ends))] + ends for length in lengths]
