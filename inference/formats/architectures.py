"""What is known of the architectures of transformers, and the checks that a model's config must pass.

There is no list of them: a config may name any `model_type`. The PyTorch room serves those for which transformers
itself has a text classifier, never code of the folder, and bounds what it builds by what the files hold. ONNX and INT8
are served without transformers, if they were built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.files import (
    TOKENIZER_CONFIG,
    check_folder,
    inside,
    read_json,
    read_json_in,
    refuse_code,
)

# ONNX Runtime's optimizer turns every layer's attention of these into one operator; an export in which it did not is
# refused. Of all others it fuses what it can.
FUSED = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra")
# Families of which the tests serve a tiny model. Any other is proved on the model itself, when it is loaded and built.
TESTED = frozenset(
    (
        *("albert", "arcee", "axk1", "axk2", "bart", "bert", "big_bird", "bigbird_pegasus", "biogpt", "bloom"),
        *("camembert", "canine", "cohere_compass_text", "convbert", "ctrl", "data2vec-text", "deberta"),
        *("deberta-v2", "deepseek_v2", "deepseek_v3", "diffllama", "distilbert", "doge", "electra", "ernie"),
        *("esm", "esmc", "eurobert", "exaone4", "falcon", "flaubert", "fnet", "funnel", "gemma", "gemma2"),
        *("gemma3", "gemma3_text", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox"),
        *("gpt_oss", "gptj", "gte", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "ibert", "jamba", "jetmoe"),
        *("jina_embeddings_v3", "llama", "longformer", "luke", "mbart", "megatron-bert", "minicpm3", "minimax"),
        *("ministral", "ministral3", "mistral", "mistral4", "mixtral", "mobilebert", "modernbert"),
        *("modernbert-decoder", "mpnet", "mpt", "mt5", "mvp", "nemotron", "nomic_bert", "nystromformer", "olmo"),
        *("olmo2", "olmo3", "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "plbart", "qwen2"),
        *("qwen2_moe", "qwen3", "qwen3_5_text", "qwen3_moe", "qwen3_next", "rembert", "roberta"),
        *("roberta-prelayernorm", "roformer", "seed_oss", "smollm3", "squeezebert", "stablelm", "starcoder2"),
        *("t5", "t5gemma", "ultrabert", "umt5", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod"),
        *("zamba", "zamba2"),
    )
)
# They count positions from their padding id, so that the first ones can belong to no token.
COUNT_FROM_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "data2vec-text",
    "mpnet",
    "longformer",
    "luke",
    "ibert",
    "xmod",
    "esm",
)
# Its tokenizer puts [CLS] into a segment of its own, also that of a single text. Since transformers 5 the model is not
# given it.
SEGMENTED = ("xlnet",)
# The modules of a classification head, and the last tensor in one: its rows are the labels.
HEADS = ("classifier", "score", "classification_head", "logits_proj", "sequence_summary", "pooler", "pre_classifier")
HEAD_WEIGHT = re.compile(
    r"(^|\.)(score|(classifier|classification_head|score)\.(out_proj|linear_out)|classifier|logits_proj"
    r"|sequence_summary\.summary)\.weight$"
)
# The values of position_embedding_type, beside "absolute", that transformers still obeys.
KEPT_POSITIONS = {"esm": ("rotary",), "granitemoehybrid": ("rope", "nope"), "evolla": ("rotary",)}
# Configs of different architectures have different names for one size.
POSITIONS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_encoder_position_embeddings"),
    "seq_length",  # BLOOM's: it has no table of positions
)
_KIND = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_HEAD_SIZE = re.compile(r"head_(dim|size)|kv_channels")
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
    "max_position_embeddings": 16_777_216,
    "position_buckets": 65_536,
    "type_vocab_size": 1_024,
    "max_relative_positions": 1_048_576,
    "relative_attention_num_buckets": 65_536,
    "pooler_hidden_size": 16_384,
    "conv_kernel_size": 99,
    # Texts are padded to multiples of these.
    "attention_window": 65_536,
    "block_size": 65_536,
    "lsh_attn_chunk_length": 65_536,
    "local_attn_chunk_length": 65_536,
    "num_hashes": 64,
    "num_labels": 10_000,
}
DTYPES = ("float32", "float16", "bfloat16", "float64")  # in which weights are stored
# Sizes that are 0 or -1 in a model without the part.
ABSENT = ("type_vocab_size", "position_buckets", "max_relative_positions", "conv_kernel_size")
SHORTEST = 8  # tokens, special ones included, that every model must be able to read
MAX_NUMBER = 10_000_000  # of any number in a config, whose sizes may have names that are not in the table


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless this is the config of a model of a plausible size, without custom code."""
    without_labels = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    check_no_code(without_labels, path)
    for name, value in _entries(without_labels):
        limit = LIMITS.get(name, MAX_NUMBER)
        if isinstance(value, int) and abs(value) > limit and not name.endswith("theta"):  # a base of powers
            raise BundleError(f"{path}: {name[:60]} is {str(value)[:30]}, above the limit of {limit:,}. Restore it.")
        if name in ("dtype", "torch_dtype") and not _is_dtype(value):
            raise BundleError(f"{path}: {name} is {str(value)[:60]!r}; known: {', '.join(DTYPES)}. Correct it.")
    if config.get("transformers_weights"):
        raise BundleError(
            f"{path} names other files for the weights (transformers_weights). Put them into model.safetensors."
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise BundleError(f"{path}: model_type {str(kind)[:60]!r} is not the name of an architecture. Restore it.")
    _check_obeyed(config, kind, path)
    for name, largest in LIMITS.items():
        value, smallest = config.get(name, 1), -1 if name in ABSENT else 1
        if value is None and name in ("intermediate_size", "num_labels"):  # the defaults of GPT-Neo and transformers
            continue
        values = value if name == "attention_window" and isinstance(value, list) else [value]
        if not all(type(number) is int and smallest <= number <= largest for number in values):
            raise BundleError(
                f"{path}: {name} is {str(value)[:60]}; it must be a whole number from {smallest} to {largest:,}."
            )
    hidden = config.get("hidden_size", config.get("dim"))
    heads = config.get("num_attention_heads", config.get("n_heads"))
    divides = not any(_HEAD_SIZE.search(name) for name in config)
    if divides and isinstance(hidden, int) and isinstance(heads, int) and hidden % heads:
        raise BundleError(f"{path}: hidden_size {hidden} cannot be divided among {heads} attention heads. Restore it.")


def _check_obeyed(config: Mapping[str, Any], kind: str, path: Path) -> None:
    """Raise BundleError for settings that change the answers and that transformers 5 no longer obeys."""
    attention = config.get("_attn_implementation")
    if attention not in (None, "eager", "sdpa"):
        raise BundleError(
            f"{path}: _attn_implementation is {str(attention)[:60]!r}, which needs a library of its own. Remove that "
            "setting: it changes no answer."
        )
    ignored = [name for name in ("pruned_heads",) if config.get(name)]
    positions = config.get("position_embedding_type", "absolute")
    if not isinstance(positions, str | None):
        raise BundleError(f"{path}: position_embedding_type is {str(positions)[:60]}; it must be a name. Restore it.")
    if positions not in (None, "absolute", *KEPT_POSITIONS.get(kind, ())):
        ignored.append("position_embedding_type")
    for name in ignored:
        raise BundleError(
            f"{path}: {name} is {str(config[name])[:60]!r}, which transformers ignores since version 5, so that the "
            "answers would differ from those of training. Serve this model with transformers 4.57, the last version "
            "that reads it, or train it again without."
        )


def _is_dtype(value: Any) -> bool:
    """Return whether a config may name this type of the weights; one of several networks names it for each."""
    if isinstance(value, dict):
        return all(_is_dtype(part) and not isinstance(part, dict) for part in value.values())
    return value is None or (isinstance(value, str) and value in DTYPES)


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


def check_padding(config: Mapping[str, Any], rows: Any, path: Path) -> None:
    """Raise BundleError if the padding token of the config in `path` has no embedding, or leaves no positions.

    Args:
        rows: of the embedding table.
    """
    pad_id, positions = config.get("pad_token_id", 0), max_positions(config)
    if positions < SHORTEST:
        raise BundleError(
            f"{path}: with its sizes and pad_token_id {str(pad_id)[:30]}, the model has positions for {positions} "
            "tokens only. Restore it."
        )
    if isinstance(pad_id, int) and isinstance(rows, int) and pad_id >= rows:
        raise BundleError(
            f"{path}: pad_token_id is {pad_id}, and the model has embeddings for {rows:,} tokens, from 0 to "
            f"{rows - 1:,}. Correct it. For an added token, train after model.resize_token_embeddings(len(tokenizer))."
        )


def max_positions(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model has positions for."""
    named = [config[name] for name in POSITIONS if type(config.get(name)) is int and config[name] > 0]
    padding = config.get("pad_token_id")
    counted = config.get("model_type") in COUNT_FROM_PADDING
    return min(named, default=512) - (1 + (padding if type(padding) is int else 1) if counted else 0)


def has_segments(model_type: Any, type_vocab_size: Any) -> bool:
    """Return whether a model with these values in its config tells the texts of a pair apart by `token_type_ids`."""
    return int(type_vocab_size or 0) > 1 or model_type in SEGMENTED


def segments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Bundle` that say whether the model is given `token_type_ids`, also of a single text."""
    kind = config.get("model_type")
    return {
        "token_types": has_segments(kind, config.get("type_vocab_size")),
        "typed": kind in SEGMENTED
        and str(config.get("transformers_version") or 4) < "5",  # before 4.0 there was no such field
    }
