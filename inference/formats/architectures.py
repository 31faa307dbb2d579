"""The known encoder architectures, and the checks that a model's config must pass.

An architecture is listed once a tiny model of it went through PyTorch, ONNX and INT8 in the tests. A config can name
any class of transformers, and not all of them classify texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.files import TOKENIZER_CONFIG, check_folder, inside, read_json, read_json_in, refuse_code


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
# Sizes in a config -> an upper limit well above that of any real model.
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
# Sizes that are 0 or -1 in a model without the part.
ABSENT = ("type_vocab_size", "position_buckets", "max_relative_positions", "conv_kernel_size")
MAX_NUMBER = 10_000_000  # of any number in a config, whose sizes may have names that are not in the table


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless this is the config of a known architecture, of a plausible size, without custom code."""
    without_labels = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    check_no_code(without_labels, path)
    for name, value in _entries(without_labels):
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise BundleError(
                f"{path}: {name[:60]} is {str(value)[:30]}, above the limit of {MAX_NUMBER:,}. Restore it."
            )
    if config.get("transformers_weights"):
        raise BundleError(
            f"{path} names other files for the weights (transformers_weights). Put them into model.safetensors."
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise BundleError(f"{path}: model_type {str(kind)[:60]!r} is not known. Known: {', '.join(ARCHITECTURES)}.")
    for name, largest in LIMITS.items():
        value, smallest = config.get(name, 1), -1 if name in ABSENT else 1
        if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
            raise BundleError(
                f"{path}: {name} is {str(value)[:60]}; it must be a whole number from {smallest} to {largest:,}."
            )
    hidden = config.get("hidden_size", config.get("dim"))
    heads = config.get("num_attention_heads", config.get("n_heads"))
    if isinstance(hidden, int) and isinstance(heads, int) and hidden % heads:
        raise BundleError(f"{path}: hidden_size {hidden} cannot be divided among {heads} attention heads. Restore it.")


def check_no_code(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError if the JSON object in `path` names custom code at any depth."""
    for name, value in _entries(config):
        if name in ("auto_map", "trust_remote_code") and value:
            raise BundleError(
                f"{path} asks for code of its own ({name}), which is never run here. Use a model and a tokenizer that "
                "transformers itself has."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of the whole model in a folder after checking that nothing in the folder can do harm."""
    check_folder(folder)
    refuse_code(folder)
    config = read_json(inside(folder, "config.json"))
    check_config(config, folder / "config.json")
    check_tokenizer(folder)
    if (folder / "adapter_config.json").exists():  # transformers would load it, from wherever it points
        raise BundleError(
            f"{folder} is a whole model with an adapter_config.json in it. Put the adapter into a folder of its own."
        )
    return config


def check_tokenizer(folder: Path) -> None:
    """Raise BundleError if the tokenizer in a folder asks for custom code."""
    check_no_code({"auto_map": read_json_in(folder, TOKENIZER_CONFIG).get("auto_map")}, folder / TOKENIZER_CONFIG)


def _entries(raw: Any) -> Iterator[tuple[str, Any]]:
    """Yield every name and value of a JSON value at any depth; the elements of a list have no name."""
    waiting = [raw]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            yield from (("", element) for element in value)
            waiting += value


def max_positions(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model has positions for."""
    return int(config.get("max_position_embeddings", 512)) - ARCHITECTURES[config["model_type"]].taken


def check_size(config: Mapping[str, Any], stored: int, path: Path) -> None:
    """Raise BundleError if a config describes far more weights than the `stored` numbers of its files.

    transformers would allocate the missing ones, at a size that an untrusted file chose.
    """

    def size(default: int, *names: str) -> int:
        # Some sizes have two names; do not guess which one transformers uses.
        return max((max(0, config[name]) for name in names if name in config), default=default)

    hidden = size(768, "hidden_size", "dim")
    layers = size(12, "num_hidden_layers", "n_layers")
    if config["model_type"] == "albert":  # its layers share their weights
        layers = config.get("num_hidden_groups", 1) * config.get("inner_group_num", 1)
    inner = size(4 * hidden, "intermediate_size", "hidden_dim")
    table = size(30_000, "vocab_size") + size(512, "max_position_embeddings") + size(0, "max_relative_positions")
    described = layers * (4 * hidden * hidden + 2 * hidden * inner) + table * (config.get("embedding_size") or hidden)
    described += hidden * (size(0, "pooler_hidden_size") + hidden * size(0, "conv_kernel_size"))
    if described > 2 * stored + 1_000_000:  # two 4-bit weights are stored in one number
        raise BundleError(
            f"{path} describes about {described:,} weights, and the files hold {stored:,}. They do not belong "
            "together. Restore the model folder."
        )
