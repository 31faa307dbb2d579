"""The encoders that are known: where their head is, and what of them ONNX Runtime can fuse.

A list and not a rule: an architecture is in it once a tiny model of it went through PyTorch, ONNX and INT8 in the
tests. A config can ask for any class of transformers, and not all of them are classifiers of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import BundleError


@dataclass(frozen=True)
class Architecture:
    """One `model_type` of transformers."""

    head: str = "classifier.weight"
    """How the name of the tensor ends whose rows are the labels."""
    fuses: bool = False
    """ONNX Runtime's optimizer turns every layer's attention into one operator."""
    taken: int = 0
    """Positions that no token can have: RoBERTa counts from its padding id."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture(fuses=True),
    "roberta": Architecture("classifier.out_proj.weight", True, 2),
    "xlm-roberta": Architecture("classifier.out_proj.weight", True, 2),
    "camembert": Architecture("classifier.out_proj.weight", True, 2),
    "distilbert": Architecture(fuses=True),
    "electra": Architecture("classifier.out_proj.weight", True),
    "albert": Architecture(),
    "deberta": Architecture(),
    "deberta-v2": Architecture(),
    "mpnet": Architecture("classifier.out_proj.weight", taken=2),
    "modernbert": Architecture(),
}
# Names of sizes in configs -> the most that a real model has, with room.
LIMITS = {
    "hidden_size": 16_384,
    "dim": 16_384,
    "intermediate_size": 131_072,
    "hidden_dim": 131_072,
    "embedding_size": 16_384,
    "num_hidden_layers": 256,
    "n_layers": 256,
    "num_hidden_groups": 256,
    "inner_group_num": 256,
    "num_attention_heads": 512,
    "n_heads": 512,
    "vocab_size": 4_000_000,
    "max_position_embeddings": 1_048_576,
    "position_buckets": 65_536,
    "type_vocab_size": 1_024,
}
ABSENT = ("type_vocab_size", "position_buckets")  # 0 or -1 where a model has none


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless this is the config of a model that is known, of a size that can be."""
    if config.get("auto_map") or "trust_remote_code" in str(config)[:1_000_000]:
        raise BundleError(
            f"{path} asks for code of its own (auto_map or trust_remote_code), which is never run here. Use a model "
            "whose architecture transformers itself has."
        )
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise BundleError(f"{path}: model_type {str(kind)[:60]!r} is not known. Known: {', '.join(ARCHITECTURES)}.")
    for name, most in LIMITS.items():
        value = config.get(name, 1)
        least = -1 if name in ABSENT else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BundleError(
                f"{path}: {name} is {str(value)[:60]}; it must be a whole number from {least} to {most:,}."
            )
    hidden, heads = (
        config.get("hidden_size", config.get("dim")),
        config.get("num_attention_heads", config.get("n_heads")),
    )
    if isinstance(hidden, int) and isinstance(heads, int) and hidden % heads:
        raise BundleError(f"{path}: hidden_size {hidden} cannot be divided among {heads} attention heads.")


def max_positions(config: Mapping[str, Any]) -> int:
    """How many tokens a model has positions for."""
    found = config.get("max_position_embeddings", 512)
    return int(found) - ARCHITECTURES[config["model_type"]].taken


def check_size(config: Mapping[str, Any], stored: int, path: Path) -> None:
    """Raise BundleError where a config describes far more weights than the `stored` numbers of the files.

    Whatever the files lack would be made up, at a size that a stranger chose.
    """
    hidden = config.get("hidden_size", config.get("dim", 768))
    layers = config.get("num_hidden_layers", config.get("n_layers", 12))
    if config["model_type"] == "albert":  # its layers share their weights
        layers = config.get("num_hidden_groups", 1) * config.get("inner_group_num", 1)
    inner = config.get("intermediate_size", config.get("hidden_dim", 4 * hidden))
    table = config.get("vocab_size", 30_000) + config.get("max_position_embeddings", 512)
    described = layers * (4 * hidden * hidden + 2 * hidden * inner) + table * (config.get("embedding_size") or hidden)
    if described > 2 * stored + 1_000_000:  # 4-bit weights lie two in a number
        raise BundleError(
            f"{path} describes about {described:,} weights, and the files hold {stored:,}. They do not belong together."
        )
