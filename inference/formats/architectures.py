"""The encoders that are known: where their head is, and what of them ONNX Runtime can fuse.

A list and not a rule: an architecture is in it once a tiny model of it went through PyTorch, ONNX and INT8 in the
tests. A config can ask for any class of transformers, and not all of them are classifiers of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.files import check_folder, inside, read_json, refuse_code


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
    "max_relative_positions": 1_048_576,
    "relative_attention_num_buckets": 65_536,
    "pooler_hidden_size": 16_384,
    "conv_kernel_size": 99,
}
# 0 or -1 where a model has none
ABSENT = ("type_vocab_size", "position_buckets", "max_relative_positions", "conv_kernel_size")
MAX_NUMBER = 10_000_000  # no number in a config is larger; a size may have a name that is not in the table


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless this is the config of a model that is known, of a size that can be."""
    for name, value in _entries({key: value for key, value in config.items() if key not in ("id2label", "label2id")}):
        if name in ("auto_map", "trust_remote_code") and value:
            raise BundleError(
                f"{path} asks for code of its own ({name}), which is never run here. Use a model whose architecture "
                "transformers itself has."
            )
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise BundleError(
                f"{path}: {name[:60]} is {str(value)[:30]}; no such number is larger than {MAX_NUMBER:,}. Restore it."
            )
    if config.get("transformers_weights"):
        raise BundleError(
            f"{path} names files of its own for the weights (transformers_weights). Put them into model.safetensors."
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
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
        raise BundleError(f"{path}: hidden_size {hidden} cannot be divided among {heads} attention heads. Restore it.")


def read_config(folder: Path) -> dict[str, Any]:
    """The config of the whole model in a folder, of which nothing asks for code or leads out.

    Raises:
        BundleError: it does, or the config is that of no model that is known.
    """
    check_folder(folder)
    refuse_code(folder)
    config = read_json(inside(folder, "config.json"))
    check_config(config, folder / "config.json")
    check_tokenizer(folder)
    if (folder / "adapter_config.json").exists():  # transformers would put it on, from wherever it says
        raise BundleError(
            f"{folder} is a whole model with an adapter_config.json in it. Put the adapter into a folder of its own."
        )
    return config


def check_tokenizer(folder: Path) -> None:
    """Raise BundleError where the tokenizer in a folder asks for code of its own."""
    name = "tokenizer_config.json"
    if (folder / name).exists() and read_json(inside(folder, name), 20_000_000).get("auto_map"):
        raise BundleError(
            f"{folder / name} asks for code of its own (auto_map), which is never run here. Use a tokenizer that "
            "transformers itself has."
        )


def _entries(raw: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value of a JSON object, however deep."""
    waiting = [raw]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            yield from (("", value) for value in one)
            waiting += one


def max_positions(config: Mapping[str, Any]) -> int:
    """How many tokens a model has positions for."""
    found = config.get("max_position_embeddings", 512)
    return int(found) - ARCHITECTURES[config["model_type"]].taken


def check_size(config: Mapping[str, Any], stored: int, path: Path) -> None:
    """Raise BundleError where a config describes far more weights than the `stored` numbers of the files.

    Whatever the files lack would be made up, at a size that a stranger chose.
    """

    def size(default: int, *names: str) -> int:
        # Some sizes have two names. Which of them transformers takes is not for us to guess.
        return max((max(0, config[name]) for name in names if name in config), default=default)

    hidden = size(768, "hidden_size", "dim")
    layers = size(12, "num_hidden_layers", "n_layers")
    if config["model_type"] == "albert":  # its layers share their weights
        layers = config.get("num_hidden_groups", 1) * config.get("inner_group_num", 1)
    inner = size(4 * hidden, "intermediate_size", "hidden_dim")
    table = size(30_000, "vocab_size") + size(512, "max_position_embeddings") + size(0, "max_relative_positions")
    described = layers * (4 * hidden * hidden + 2 * hidden * inner) + table * (config.get("embedding_size") or hidden)
    described += hidden * (size(0, "pooler_hidden_size") + hidden * size(0, "conv_kernel_size"))
    if described > 2 * stored + 1_000_000:  # 4-bit weights lie two in a number
        raise BundleError(
            f"{path} describes about {described:,} weights, and the files hold {stored:,}. They do not belong "
            "together. Restore the model folder."
        )
