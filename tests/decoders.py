"""Tiny classifiers on decoders: random weights, and byte-level tokenizers as the families have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 260  # 256 bytes, "!!" and three special tokens
BOS, EOS, PAD = 257, 258, 259
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_OLD = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_BLOOM = {name: value for name, value in _OLD.items() if name not in ("n_embd", "n_positions")} | {"hidden_size": 32}
_MPT = {**_OLD, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}
_MPT = {name: value for name, value in _MPT.items() if name not in _OLD or name.endswith(("_id", "vocab_size"))}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_EXPERTS = {
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {"mamba_dt_rank": 4, "mamba_d_state": 4, "mamba_expand": 2, "n_mamba_heads": 2}
_PLAIN = (
    *("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "arcee", "diffllama"),
    *("doge", "exaone4", "glm", "glm4", "helium", "hunyuan_v1_dense", "ministral", "ministral3", "modernbert-decoder"),
    *("nemotron", "olmo", "olmo2", "olmo3", "persimmon", "seed_oss", "smollm3", "stablelm", "starcoder2"),
)
# What a config of each family needs beside `SIZES`; None for a name that it must not have.
DECODERS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in _PLAIN},
    **{kind: {"head_dim": None} for kind in ("gpt_neox", "falcon", "biogpt")},
    "opt": {"head_dim": None, "word_embed_proj_dim": 32, "ffn_dim": 64},
    **dict.fromkeys(("gpt2", "gpt-sw3", "gpt_bigcode", "openai-gpt"), _OLD),
    "gptj": {**_OLD, "rotary_dim": 4},
    "ctrl": {**_OLD, "dff": 64},
    "bloom": _BLOOM,
    "mpt": _MPT,
    "gpt_neo": {
        "head_dim": None,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "minicpm3": _LATENT,
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "hunyuan_v1_moe", "minimax", "phimoe"), _EXPERTS),
    "jetmoe": {**_EXPERTS, "kv_channels": 8, "num_key_value_heads": 4},
    **{kind: {**_LATENT, **_EXPERTS} for kind in ("deepseek_v2", "deepseek_v3", "axk1", "axk2")},
    "mistral4": {**_LATENT, **_EXPERTS, "head_dim": None},
    "qwen3_5_text": _LINEAR,
    "qwen3_next": {**_LINEAR, **_EXPERTS},
    "jamba": {**_MAMBA, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "zamba": {
        **_MAMBA,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {
        **_MAMBA,
        "layers_block_type": ["linear_attention", "hybrid"],
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
    },
}


def config(kind: str, **fields: Any) -> Any:
    from transformers import CONFIG_MAPPING

    needed = DECODERS[kind] if "vocab_size" in DECODERS[kind] else SIZES | DECODERS[kind]
    return CONFIG_MAPPING[kind](**{name: value for name, value in needed.items() if value is not None} | fields)


def write_tokenizer(folder: Path, template: str = "$A", **settings: Any) -> None:
    """A byte-level tokenizer, as `save_pretrained` leaves it.

    Args:
        template: what is added to a text, as in "<s> $A".
        settings: of tokenizer_config.json.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing

    letters = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(letters | {"!!": 256}, [("!", "!")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    if template != "$A":
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(defaults | {"pad_token": "<pad>"} | settings))
