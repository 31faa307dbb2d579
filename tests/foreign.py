"""Tiny models in other people's formats, made with the libraries that they come from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import decoders
import encoders
import pytest

from inference.formats.architectures import HEAD_WEIGHT

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{x}" for x in LETTERS)]
TEXTS = ["it was so good", "a bad lamp, twice!", "soup", "why did the bus not come at 7.30?", "fine " * 40]
_SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pad_token_id": 0}
# What a config of each kind needs beside `_SIZES`.
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "distilbert": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "deberta": _RELATIVE,
    "deberta-v2": {**_RELATIVE, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "mpnet": {"pad_token_id": 1},
    "modernbert": {
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        **{f"{name}_token_id": 2 for name in ("cls", "bos")},
        **{f"{name}_token_id": 3 for name in ("sep", "eos")},
    },
}

# One that ONNX Runtime fuses, one that counts positions from its padding, and one that is not fused; the rest is slow.
ARCHITECTURE_PARAMS = [
    pytest.param(kind, marks=() if kind in ("bert", "roberta", "deberta-v2") else pytest.mark.slow) for kind in KINDS
]


def write_tokenizer(folder: Path, max_length: int | None = 32, template: str = "[CLS] $A [SEP]") -> None:
    """A letter-by-letter tokenizer, as `save_pretrained` leaves it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    if max_length is not None:
        config["model_max_length"] = max_length
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def config(kind: str, **fields: Any) -> Any:
    from transformers import CONFIG_MAPPING

    if kind in decoders.DECODERS:
        return decoders.config(kind, **fields)
    if kind in encoders.FAMILIES:
        return encoders.config(kind, len(WORDS), **fields)
    return CONFIG_MAPPING[kind](**{**_SIZES, **KINDS[kind], **fields})


def spread(model: Any) -> None:
    """Widen the random weights, so that hidden states differ from text to text."""
    import torch

    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:
                value.mul_(6)


def spread_answers(model: Any, head: str) -> None:
    """Scale the head, so that the logits of random texts have mean 0 and deviation 1: else all answers are the same."""
    import torch

    layer = model.get_submodule(head)
    vectors: list[Any] = []
    hook = layer.register_forward_hook(lambda _, inputs, __: vectors.append(inputs[0]))
    with torch.no_grad():
        ids = torch.randint(4, len(WORDS), (32, 12))
        ids[:, -1] = WORDS.index("[SEP]")
        batches = ids.split(1 if model.config.pad_token_id is None else 32)  # a decoder may refuse batches
        model.eval()
        logits = torch.cat([model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits for rows in batches])
        hook.remove()
        if layer.bias is not None:
            layer.bias.sub_(logits.mean(0)).div_(logits.std(0))
        else:  # a decoder's: take the mean vector of the last tokens out of its weights
            mean = torch.cat(vectors)[:, -1].mean(0)
            layer.weight.sub_((layer.weight @ mean)[:, None] * mean / mean.square().sum())
        layer.weight.div_(logits.std(0)[:, None])


def classifier(folder: Path, kind: str = "bert", labels: tuple[str, ...] = ("bad", "good"), **fields: Any) -> Path:
    """A Hugging Face classifier with random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = AutoModelForSequenceClassification.from_config(config(kind, **{**named, **fields}))
    spread(model)
    spread_answers(model, sorted(filter(HEAD_WEIGHT.search, model.state_dict()))[0].removesuffix(".weight"))
    model.save_pretrained(folder)
    if kind in encoders.TEMPLATES:
        write_tokenizer(folder, template=encoders.TEMPLATES[kind])
    else:
        (decoders.write_tokenizer if kind in decoders.DECODERS else write_tokenizer)(folder)
    return folder


def base(folder: Path, kind: str = "bert", **fields: Any) -> Path:
    """A bare encoder, as adapters are trained on."""
    import torch
    from transformers import AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    model = AutoModel.from_config(config(kind, **fields))
    spread(model)
    model.save_pretrained(folder)
    (decoders.write_tokenizer if kind in decoders.DECODERS else write_tokenizer)(folder)
    return folder


def adapter(
    folder: Path, on: Path, labels: int = 2, seed: int = 2, peft: Any = None, head: str = "classifier", **options: Any
) -> Path:
    """A PEFT adapter on the base in `on`, with random weights that are not zero. `head` is the module of its labels."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForSequenceClassification.from_pretrained(on, num_labels=labels, ignore_mismatched_sizes=True)
        made = peft or LoraConfig
        defaults = {"target_modules": ["query", "value"]} | ({"r": 4} if peft is None else {})
        adapted = get_peft_model(model, made(task_type="SEQ_CLS", **{**defaults, **options}))
        with torch.no_grad():
            for name, value in adapted.named_parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value) * (0.5 if "modules_to_save" in name else 0.1))
        spread_answers(adapted, f"base_model.model.{head}.modules_to_save.default")
        adapted.save_pretrained(folder)
    return folder


def peft_model(folder: Path, **options: Any) -> Any:
    """The adapter as PEFT's own class loads it, unmerged."""
    from peft import AutoPeftModelForSequenceClassification

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoPeftModelForSequenceClassification.from_pretrained(folder, **options)


def by_hand(model: Any, tokenizer_folder: Path, texts: list[str] = TEXTS, max_length: int = 32) -> Any:
    """Probabilities (texts, labels) as the libraries' own code gives them, text by text."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    typed = model.config.model_type in encoders.TEMPLATES and model.config.transformers_version < "5"
    rows = []
    for text in texts:
        limits = {"truncation": True, "max_length": max_length}
        fed = tokenizer(text, return_tensors="pt", return_token_type_ids=typed, **limits)
        with torch.no_grad():
            types = {"token_type_ids": fed["token_type_ids"]} if typed else {}
            logits = model.eval()(input_ids=fed["input_ids"], attention_mask=fed["attention_mask"], **types).logits
        rows.append(torch.softmax(logits.double(), -1)[0].numpy())
    import numpy as np

    return np.array(rows)
