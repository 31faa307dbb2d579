"""What the originals train on and answer: tiny encoders, generated rows, 200 texts. No network, no code of Triptych."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

MAX_LENGTH = 24
KEYWORDS = {
    "mood": {"down": ["bad", "awful", "sad"], "up": ["fine", "great", "lovely"]},
    "topic": {"food": ["soup", "bread"], "other": ["lamp", "paint"], "travel": ["bus", "island"]},
}
FILLERS = tuple(
    re.findall(r"\w+", "it was a the so and then very quite i think that this one is for you we had some of them")
)
WORDS = {
    "mood": {"down": ["bad", "awful", "sad"], "up": ["fine", "great", "lovely"]},
    "topic": {"food": ["soup", "bread"], "other": ["lamp", "paint"], "travel": ["bus", "island"]},
}
FILLERS = [
    "it",
    "was",
    "a",
    "the",
    "so",
    "and",
    "then",
    "very",
    "quite",
    "i",
    "think",
    "that",
    "this",
    "one",
    "is",
    "for",
    "you",
    "we",
    "had",
    "some",
    "of",
    "them",
]
WORDS = [*FILLERS, *(word for task in KEYWORDS.values() for words in task.values() for word in words)]
SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]  # padding is 1 and not 0, as it is for RoBERTa


def write_encoder(folder: Path, family: str = "bert", **config: Any) -> None:
    """A random two-layer encoder with its tokenizer, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIAL, *WORDS, *(x for x in letters if x not in WORDS), *(f"##{x}" for x in letters), ".", ",", "!"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", *(["token_type_ids"] if family == "bert" else []), "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(pieces),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 160,
        "pad_token_id": 1,
        "type_vocab_size": 2,
    }
    if family == "distilbert":
        ours = ("dim", "n_layers", "n_heads", "hidden_dim")
        theirs = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes.update(zip(ours, map(sizes.pop, theirs), strict=True))
        del sizes["type_vocab_size"]
    torch.manual_seed(0)
    made = AutoConfig.for_model(family, **sizes, **config)
    AutoModel.from_config(made).save_pretrained(folder)


def rows(task: str, count: int) -> list[dict[str, str]]:
    """Rows whose label one word decides."""
    draw, labels = random.Random(task), list(KEYWORDS[task])
    return [
        {
            "text": " ".join([*draw.choices(FILLERS, k=draw.randint(0, 6)), draw.choice(KEYWORDS[task][label])]),
            "label": label,
        }
        for label in (labels[i % len(labels)] for i in range(count))
    ]


def texts() -> list[str]:
    """200 texts that are not in the rows: short and long, with accents, capitals and what no vocabulary knows."""
    draw = random.Random(9)
    odd = ["GREAT", "Très", "naïve", "42", "🙂", "don't", "e-mail", "Straße", "xyzzy", "!!!", "日本", "…", "well."]
    return [" ".join(draw.choices(WORDS + odd, k=draw.choice([1, 2, 5, 9, 15, 40]))) for _ in range(200)]


def write_answers(path: Path, answers: dict[str, Any]) -> None:
    path.write_text(json.dumps(answers), encoding="utf-8")
