"""What the originals share: tiny random models, their tokenizers, and 200 texts and pairs. No network, no Triptych."""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

MAX_LENGTH = 24
KEYWORDS = {
    "mood": {"down": ["bad", "awful", "sad"], "up": ["fine", "great", "lovely"]},
    "topic": {"food": ["soup", "bread"], "other": ["lamp", "paint"], "travel": ["bus", "island"]},
}
FILLERS = re.findall(r"\w+", "it was a the so and then very quite i think that this one is for you we had some of them")
WORDS = [*FILLERS, *(word for task in KEYWORDS.values() for words in task.values() for word in words)]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]  # padding is 1 and not 0, as it is for RoBERTa
ODD = ["GREAT", "Très", "naïve", "42", "🙂", "don't", "e-mail", "Straße", "xyzzy", "!!!", "日本", "…", "well."]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
}
LABELS = ("Negative", "Positive")


# --- Texts


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
    return [" ".join(draw.choices(WORDS + ODD, k=draw.choice([1, 2, 5, 9, 15, 40]))) for _ in range(200)]


def pairs() -> list[tuple[str, str]]:
    """200 pairs of such texts, some with a long first and some with a long second text."""
    return list(zip(texts(), reversed(texts()), strict=True))


# --- Tokenizers


def wordpiece(folder: Path) -> None:
    pieces = [*SPECIAL, "[MASK]", *WORDS, *(x for x in LETTERS if x not in WORDS), *(f"##{x}" for x in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join([*pieces, ".", ",", "!"]) + "\n", encoding="utf-8")


def byte_pairs(folder: Path, *special: str) -> None:
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts(), vocab_size=400, special_tokens=list(special), show_progress=False)
    tokenizer.save_model(str(folder))


def sentencepiece(folder: Path, name: str, **options: Any) -> None:
    import io

    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    settings = {"vocab_size": 120, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | options
    SentencePieceTrainer.train(sentence_iterator=iter(texts()), model_writer=model, **settings)
    (folder / name).write_bytes(model.getvalue())


def _pieces(pad: int, bos: int, eos: int, unk: int, **options: Any) -> dict[str, Any]:
    return {"pad_id": pad, "bos_id": bos, "eos_id": eos, "unk_id": unk} | options


BRACKETS = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
# Class of transformers, without "Fast" -> writes its vocabulary.
VOCABULARIES: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "RoFormer", "Funnel"), wordpiece),
    **dict.fromkeys(
        ("Roberta", "Bart", "Longformer", "Deberta"),
        lambda folder: byte_pairs(folder, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    ),
    "GPT2": lambda folder: byte_pairs(folder, "<|endoftext|>"),
    "Qwen2": lambda folder: byte_pairs(folder, "<|endoftext|>"),
    **dict.fromkeys(
        ("XLMRoberta", "Camembert", "MBart"), lambda folder: sentencepiece(folder, "sentencepiece.bpe.model")
    ),
    "DebertaV2": lambda folder: sentencepiece(folder, "spm.model", **_pieces(0, 1, 2, 3, **BRACKETS)),
    "T5": lambda folder: sentencepiece(folder, "spiece.model", **_pieces(0, -1, 1, 2)),
    "Albert": lambda folder: sentencepiece(
        folder, "spiece.model", **_pieces(0, -1, -1, 1), control_symbols=["[CLS]", "[SEP]", "[MASK]"]
    ),
    "XLNet": lambda folder: sentencepiece(
        folder, "spiece.model", **_pieces(-1, 1, 2, 0), control_symbols=["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"]
    ),
    "BigBird": lambda folder: sentencepiece(
        folder, "spiece.model", **_pieces(0, 2, 1, 3), control_symbols=["[CLS]", "[SEP]", "[MASK]"]
    ),
    "RemBert": lambda folder: sentencepiece(
        folder, "sentencepiece.model", **_pieces(0, -1, -1, 1), control_symbols=["[CLS]", "[SEP]", "[MASK]"]
    ),
    "Llama": lambda folder: sentencepiece(
        folder, "tokenizer.model", **_pieces(-1, 1, 2, 0), model_type="bpe", vocab_size=400, byte_fallback=True
    ),
    "Gemma": lambda folder: sentencepiece(
        folder,
        "tokenizer.model",
        **_pieces(0, 2, 1, 3, user_defined_symbols=["<mask>"]),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
    ),
}


@cache
def _vocabulary(kind: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as made:
        VOCABULARIES[kind](Path(made))
        return {path.name: path.read_bytes() for path in Path(made).iterdir()}


def make_tokenizer(kind: str, fast: bool = True, **options: Any) -> Any:
    """The tokenizer of this class, made from its own vocabulary files."""
    import transformers

    with tempfile.TemporaryDirectory() as made:
        for name, content in _vocabulary(kind).items():
            (Path(made) / name).write_bytes(content)
        maker = getattr(transformers, f"{kind}Tokenizer{'Fast' * fast}")
        return maker.from_pretrained(made, **options)


def write_encoder(folder: Path, family: str = "bert", **config: Any) -> None:
    """A random two-layer encoder with its tokenizer, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    pieces = [*SPECIAL, *WORDS, *(x for x in LETTERS if x not in WORDS), *(f"##{x}" for x in LETTERS), ".", ",", "!"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", *(["token_type_ids"] if family == "bert" else []), "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)
    sizes = {**SIZES, "vocab_size": len(pieces), "pad_token_id": 1, "type_vocab_size": 2}
    if family == "distilbert":
        ours = ("dim", "n_layers", "n_heads", "hidden_dim")
        theirs = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes.update(zip(ours, map(sizes.pop, theirs), strict=True))
        del sizes["type_vocab_size"]
    torch.manual_seed(0)
    made = AutoConfig.for_model(family, **sizes, **config)
    model = AutoModel.from_config(made)
    widen(model)
    model.save_pretrained(folder)


# --- Models

_SIDES = ("encoder", "decoder")
_BART = {"d_model": 32, "eos_token_id": 2, **{f"{side}_layers": 2 for side in _SIDES}}
_BART |= {f"{side}_{name}": size for side in _SIDES for name, size in (("ffn_dim", 64), ("attention_heads", 4))}
_GROUPS = {"num_key_value_heads": 2, "head_dim": 8}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_V3 = {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
# Model type -> class of its tokenizer, and what its config needs beside `SIZES`.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "electra": ("Electra", {"embedding_size": 16}),
    "roberta": ("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1}),
    "camembert": ("Camembert", {"type_vocab_size": 1}),
    "data2vec-text": ("Roberta", {"type_vocab_size": 1}),
    "albert": ("Albert", {"embedding_size": 16}),
    "deberta": ("Deberta", _RELATIVE),
    "deberta-v2": (
        "DebertaV2",
        {
            **_RELATIVE,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "type_vocab_size": 0,
        },
    ),
    "longformer": ("Longformer", {"attention_window": [16, 16], "type_vocab_size": 1}),
    "big_bird": ("BigBird", {"attention_type": "original_full", "block_size": 4, "num_random_blocks": 1}),
    "mobilebert": ("MobileBert", {"embedding_size": 16, "intra_bottleneck_size": 16}),
    "rembert": ("RemBert", {"input_embedding_size": 16, "output_embedding_size": 16}),
    "convbert": ("ConvBert", {"embedding_size": 16}),
    "ernie": ("Bert", {}),
    "roformer": ("Bert", {"embedding_size": 32}),
    "fnet": ("Bert", {}),
    "nystromformer": ("Bert", {"segment_means_seq_len": 4, "num_landmarks": 4}),
    "xlnet": ("XLNet", {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "bart": ("Bart", {**_BART, "bos_token_id": 0}),
    "mbart": ("MBart", _BART),
    "t5": ("T5", {"decoder_start_token_id": 0, **_T5}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160}),
    "qwen2": ("Qwen2", _GROUPS),
    "qwen3": ("Qwen2", _GROUPS),
    "llama": ("Llama", _GROUPS),
    "mistral": ("Llama", {**_GROUPS, "sliding_window": 8}),
    "gemma": ("Gemma", _GROUPS),
    "gemma2": ("Gemma", _GROUPS),
    "gemma3_text": ("Gemma", _GROUPS),
    "phi3": ("Llama", {**_GROUPS, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": ("GPT2", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "gpt_neox": ("GPT2", {}),
    "bloom": ("GPT2", {"n_layer": 2, "n_head": 4}),
}


def widen(model: Any) -> None:
    """Widen random weights, so that hidden states differ from text to text."""
    import torch

    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1 and 0 < value.std() < 0.1:
                value.mul_(6)


def spread(model: Any, tokenizer: Any, inputs: Any = None, deviation: float = 1.0) -> None:
    """Turn the head so that the logits of the texts have this deviation and no offset: else all labels are the same.

    The head keeps its size if all texts have one hidden state, so that no head could tell them apart.
    """
    import torch
    from torch import nn

    calls: list[tuple[nn.Linear, torch.Tensor]] = []
    size = model.config.num_labels
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == size]
    hooks = [m.register_forward_hook(lambda m, x, _: calls.append((m, x[0]))) for m in heads]
    batch = texts()[:64] if inputs is None else inputs[:64]
    logits = torch.tensor(logits_of(model, tokenizer, batch, 1))
    for hook in hooks:
        hook.remove()
    head = calls[-1][0]
    hidden = torch.cat([x.reshape(-1, x.shape[-1]) for module, x in calls if module is head]).double()
    mean = hidden.mean(0)
    with torch.no_grad():
        weight = head.weight.double()
        weight -= (weight @ mean)[:, None] * mean / (mean @ mean)
        spans = (hidden @ weight.T).std(0)
        if spans.max() > 1e-4:  # below, all texts have one hidden state, and the head would magnify its rounding errors
            weight *= (deviation / spans.clamp_min(1e-6))[:, None]
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(torch.linspace(-0.1, 0.1, size))
    assert logits.shape[1] == size


def make_classifier(model_type: str, labels: Iterable[str] = LABELS, tokenizer: Any = None, **config: Any) -> Any:
    """A random classifier of two layers with named labels, for this tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = list(labels)
    torch.manual_seed(3)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    sizes.update(FAMILIES[model_type][1], **config)
    sizes = {name: value for name, value in sizes.items() if value is not None}
    numbers = {name: i for i, name in enumerate(names)}
    made = AutoConfig.for_model(model_type, id2label=dict(enumerate(names)), label2id=numbers, **sizes)
    model = AutoModelForSequenceClassification.from_config(made).eval()
    widen(model)
    return model


# --- Answers


def logits_of(model: Any, tokenizer: Any, inputs: Any, batch: int = 20) -> list[list[float]]:
    """Logits of texts, or of pairs, in padded batches; `batch=1` pads nothing."""
    import torch

    rows: list[list[float]] = []
    max_length = min(128, tokenizer.model_max_length)
    model.eval()
    for start in range(0, len(inputs), batch):
        part = list(inputs[start : start + batch])
        columns = [part] if isinstance(part[0], str) else [[p[0] for p in part], [p[1] for p in part]]
        encoded = tokenizer(*columns, return_tensors="pt", truncation=True, padding=batch > 1, max_length=max_length)
        if model.config.model_type == "fnet":  # it has no mask, and version 4 does not accept one
            encoded.pop("attention_mask", None)
        if model.config.model_type == "big_bird":  # it never leaves full attention after a short text
            model.bert.set_attention_type(model.config.attention_type)
        with torch.no_grad():
            rows += model(**encoded).logits.float().tolist()
    return rows


def scores_of(logits: list[list[float]], problem: str | None = None) -> list[list[float]]:
    """Probabilities, as the text classification pipeline of transformers reads them from logits."""
    import torch

    values = torch.tensor(logits, dtype=torch.float64)
    independent = problem == "multi_label_classification" or values.shape[1] == 1
    return (values.sigmoid() if independent else values.softmax(-1)).tolist()


def answer(model: Any, tokenizer: Any, inputs: Any = None, **options: Any) -> dict[str, Any]:
    """Labels, and a row of probabilities for each text."""
    logits = logits_of(model, tokenizer, texts() if inputs is None else inputs, **options)
    config = model.config
    return {
        "labels": [config.id2label[i] for i in range(config.num_labels)],
        "scores": scores_of(logits, config.problem_type),
    }


def write_answers(folder: Path, tasks: dict[str, Any] | None = None, pairs: bool = False, **more: Any) -> None:
    """Write what the original answers beside `folder`; a kind that must be refused has no tasks."""
    content = {"pairs": pairs, "tasks": tasks or {}, **more}
    folder.with_name(f"{folder.name}.expected.json").write_text(json.dumps(content), encoding="utf-8")


def main(makers: dict[str, Callable[[Path], None]]) -> None:
    """Make the kinds that the command line names: FOLDER KIND … ; errors are written down, and the rest is made."""
    folder, *names = sys.argv[1:]
    failed = 0
    for name in names or makers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                makers[name](Path(folder) / name)
            except Exception as error:
                import traceback

                traceback.print_exc()
                print(f"FAILED {name}: {type(error).__name__}: {error}"[:500])
                failed += 1
    sys.exit(failed > 0)
