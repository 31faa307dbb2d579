"""The safetensors files that hold a model's weights, and the size of its table of embeddings, from their headers."""

from __future__ import annotations

import re
from pathlib import Path

from inference.errors import BundleError
from inference.formats.files import inside, read_json_in, tensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
# The table of token embeddings in the files of any architecture; in an adapter's, PEFT can have wrapped it.
_EMBEDDINGS = re.compile(
    r"(^|\.)(word_embeddings?|embed_tokens|tok_embeddings|tokens_embed|wte|embed_in|shared|embeddings)"
    r"(\.token_adapter)?(\.base_layer)?\.weight$"
)


def weight_names(folder: Path) -> list[str]:
    """Return the names of the files that PEFT or transformers loads from a folder; others may lie beside them.

    Raises:
        BundleError: the index of the shards is not one.
    """
    for marks, name in ((ADAPTER, ADAPTER[1]), ((WEIGHTS,), WEIGHTS)):  # in the order of the libraries
        if all((folder / mark).exists() for mark in marks):
            return [name]
    if not (folder / INDEX).exists():
        return []
    shards = read_json_in(folder, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(_SHARD.fullmatch(str(name)) for name in shards.values()):
        raise BundleError(f"{folder / INDEX} is not a list of weight files. Fetch the model again.")
    return sorted(set(shards.values()))


def weight_files(folder: Path) -> list[Path]:
    """Return the paths of these files."""
    return [inside(folder, name) for name in weight_names(folder)]


def embedding_rows(folder: Path) -> int | None:
    """Return how many tokens the weights in a folder hold an embedding for; None if they hold no table."""
    stored = [tensors(path) for path in weight_files(folder)]
    tables = [shape for header in stored for name, (_, shape, _) in header.items() if _EMBEDDINGS.search(name)]
    return min((shape[0] for shape in tables if len(shape) == 2), default=None)
