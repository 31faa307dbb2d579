"""Tiny classifiers on encoders and encoder-decoders: what a config of each family needs beside the usual sizes."""

from __future__ import annotations

from typing import Any

# The sizes of a tiny network under every name that families have for them; each config takes those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "emb_dim", "dim", "n_embd"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    "embedding_size": 16,
    "max_position_embeddings": 64,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
_FROM_PADDING = {"pad_token_id": 1}
_T5 = {"decoder_start_token_id": 0, "initializer_factor": 0.1}
_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
_GEMMA = {**_SMALL, "head_dim": 8, "intermediate_size": 64, "max_position_embeddings": 64, "sliding_window": 8}
_GEMMA |= {"vocab_size": 86, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "attn_logit_softcapping": None}
_VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_VISION |= {"image_size": 28, "patch_size": 14}

ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "bart": {},
    "mbart": {},
    "plbart": {},
    "mvp": {},
    "bigbird_pegasus": {"block_size": 8, "num_random_blocks": 1},
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "t5gemma": {"encoder": _GEMMA, "decoder": _GEMMA, "vocab_size": 86},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "longformer": {**_FROM_PADDING, "attention_window": 8},
    "big_bird": {"block_size": 8, "num_random_blocks": 1},
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "convbert": {},
    "ernie": {},
    "data2vec-text": _FROM_PADDING,
    "roberta-prelayernorm": _FROM_PADDING,
    "xlm-roberta-xl": _FROM_PADDING,
    "xmod": {**_FROM_PADDING, "languages": ["en_XX"], "default_language": "en_XX"},
    "ibert": _FROM_PADDING,
    "luke": {**_FROM_PADDING, "entity_vocab_size": 10, "entity_emb_size": 8},
    "esm": {**_FROM_PADDING, "position_embedding_type": "absolute"},
    "esmc": {},
    "xlm": {},
    "flaubert": {},
    "roformer": {},
    "nystromformer": {"segment_means_seq_len": 8, "num_landmarks": 8, "conv_kernel_size": 5},
    "squeezebert": {"embedding_size": 32},
    "fnet": {},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "type_vocab_size": 3},
    "eurobert": {},
    "nomic_bert": {},
    "gte": {},
    "jina_embeddings_v3": {},
    "megatron-bert": {},
    "ultrabert": {},
    "xlnet": {},
    "canine": {"num_hash_functions": 4, "num_hash_buckets": 50, "downsampling_rate": 2, "upsampling_kernel_size": 2},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attention_head_size": 8,
        "hash_seed": 0,
        "feed_forward_size": 64,
        "attn_layers": ["local", "lsh"],
    },
    "mra": {},
    "yoso": {},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "layoutlm": {},
    "markuplm": {},
    "tapas": {},
    "gemma3": {"text_config": _GEMMA, "vision_config": _VISION},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
}
# Tokenizers that put [CLS] into a segment of its own.
TEMPLATES = {"xlnet": "$A:0 [SEP]:0 [CLS]:2"}
FAMILIES = ENCODER_DECODERS | ENCODERS


def config(kind: str, vocabulary: int, **fields: Any) -> Any:
    from transformers import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    known = {name for parent in made.__mro__ for name in getattr(parent, "__annotations__", {})}
    sizes = {name: value for name, value in SIZES.items() if name in known or name.endswith("token_id")}
    return made(**{"vocab_size": vocabulary, **sizes, **FAMILIES[kind], **fields})
