"""Run where transformers is installed, 5 or 4.57: save tiny classifiers as people do, and write what they answer.

Usage: original_transformers.py FOLDER [KIND …]
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import common
import torch
import transformers
from common import FAMILIES, LABELS, answer, make_classifier, make_tokenizer, pairs, spread, write_answers


def save(folder: Path, model: Any, tokenizer: Any, inputs: Any = None, **options: Any) -> None:
    """Spread the answers, save model and tokenizer, load them again and write what they answer."""
    spread(model, tokenizer, inputs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_loaded(folder, inputs, **options)


def write_loaded(folder: Path, inputs: Any = None, **options: Any) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, torch_dtype=torch.float32)
    if model.config.model_type in PADDED:
        options["batch"] = 1
    write_answers(folder, {"label": answer(model, tokenizer, inputs, **options)}, pairs=inputs is not None)


PADDED = (
    "big_bird",
    "convbert",
    "fnet",
    "nystromformer",
)  # their answers depend on the padding: right is what a text gets alone


def encoder(folder: Path, family: str = "bert", fast: bool = True, labels: Any = LABELS, **config: Any) -> None:
    tokenizer = make_tokenizer(FAMILIES[family][0], fast)
    save(folder, make_classifier(family, labels, tokenizer, **config), tokenizer)


def slow(folder: Path, family: str) -> None:
    """With a slow tokenizer, which leaves the SentencePiece file and no tokenizer.json."""
    encoder(folder, family, fast=False)
    (folder / "tokenizer.json").unlink(missing_ok=True)


def decoder(folder: Path, family: str, pad: bool = True, side: str = "right", fast: bool = True) -> None:
    """A decoder whose answers come from one text at a time: without padding, every version reads the last token."""
    tokenizer = make_tokenizer(FAMILIES[family][0], fast, padding_side=side)
    tokenizer.pad_token = tokenizer.eos_token
    model = make_classifier(family, LABELS, tokenizer)
    if not pad:
        model.config.pad_token_id = None
        tokenizer.pad_token = None
    save(folder, model, tokenizer, batch=1)


def without_tokenizer(folder: Path) -> None:
    encoder(folder)
    for pattern in ("*token*", "vocab.txt"):
        for path in folder.glob(pattern):
            path.unlink()
    write_answers(folder)


def bertweet(folder: Path) -> None:
    from transformers import BertweetTokenizer

    raw = folder.with_name("bertweet-vocabulary")
    raw.mkdir()
    words = [*common.WORDS, "GREAT", "HTTPURL", "@USER", "don't", "well", "."]
    pieces = [f"{x}@@" for x in common.LETTERS] + list(common.LETTERS) + words
    (raw / "vocab.txt").write_text("".join(f"{piece} 9\n" for piece in dict.fromkeys(pieces)), encoding="utf-8")
    merges = []
    for word in common.WORDS:
        whole = word[0]
        for i, letter in enumerate(word[1:], start=1):
            merges.append(f"{whole} {letter}{'</w>' * (i == len(word) - 1)} 9")
            whole += letter
    (raw / "bpe.codes").write_text("\n".join(dict.fromkeys(merges)) + "\n", encoding="utf-8")
    tokenizer = BertweetTokenizer(str(raw / "vocab.txt"), str(raw / "bpe.codes"), normalization=True)
    save(folder, make_classifier("roberta", LABELS, tokenizer), tokenizer)
    shutil.rmtree(raw)


def refused(folder: Path, maker: Any, *arguments: Any, **options: Any) -> None:
    """The same folder without answers, because there are no right ones."""
    maker(folder, *arguments, **options)
    write_answers(folder)


def added_token_without_row(folder: Path) -> None:
    encoder(folder)
    tokenizer = make_tokenizer("Bert")
    tokenizer.add_tokens(["<user>", "<url>"])
    tokenizer.save_pretrained(folder)
    write_answers(folder)


def added_tokens(folder: Path, **options: Any) -> None:
    tokenizer = make_tokenizer("Bert")
    tokenizer.add_tokens(["<user>", "xyzzy"], **options)
    save(folder, make_classifier("bert", LABELS, tokenizer), tokenizer)


def nli(folder: Path, family: str = "bert", **config: Any) -> None:
    tokenizer = make_tokenizer(FAMILIES[family][0])
    model = make_classifier(family, ("contradiction", "entailment", "neutral"), tokenizer, **config)
    save(folder, model, tokenizer, pairs())


def with_prefix(folder: Path, prefix: str) -> None:
    """The state dictionary of a compiled or a parallel model, written by hand as training loops do."""
    from safetensors.torch import load_file, save_file

    encoder(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + name: value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def trained(folder: Path, save_model: bool) -> None:
    """A folder of Trainer: checkpoints, and at the root the final model if it was saved."""
    from transformers import Trainer, TrainingArguments

    tokenizer = make_tokenizer("Bert")
    model = make_classifier("bert", LABELS, tokenizer)
    spread(model, tokenizer)
    data = common.rows("mood", 200)
    encoded = [tokenizer(row["text"]) | {"labels": int(row["label"] == "up")} for row in data]
    settings = TrainingArguments(
        str(folder), max_steps=20, save_steps=10, learning_rate=1e-4, report_to=[], disable_tqdm=True, use_cpu=True
    )
    trainer = Trainer(model, settings, train_dataset=encoded, processing_class=tokenizer)
    trainer.train()
    if save_model:
        trainer.save_model()
    write_answers(folder, {"label": answer(model, tokenizer)})


def contradicting(folder: Path) -> None:
    """tokenizer_config.json says otherwise than tokenizer.json, and is obeyed."""
    encoder(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"do_lower_case": False}
    path.write_text(json.dumps(settings), encoding="utf-8")
    write_loaded(folder)


def casing(folder: Path, batch: int = 20, **options: Any) -> None:
    tokenizer = make_tokenizer("Bert", **options)
    save(folder, make_classifier("bert", LABELS, tokenizer), tokenizer, batch=batch)


def sharded(folder: Path) -> None:
    encoder(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")


def half(folder: Path) -> None:
    encoder(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).bfloat16()
    model.save_pretrained(folder)
    write_loaded(folder)


def kind(maker: Any, *arguments: Any, **options: Any) -> Any:
    return lambda folder: maker(folder, *arguments, **options)


DECODERS = (
    "gpt2",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "opt",
    "gpt_neox",
    "bloom",
)
SLOW = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "deberta-v2", "t5", "xlnet", "mbart", "rembert")
MAKERS = {
    **{family: kind(encoder, family) for family in FAMILIES if family not in DECODERS},
    "big_bird-sparse": kind(encoder, "big_bird", attention_type="block_sparse"),
    **{family: kind(decoder, family) for family in DECODERS},
    **{f"{family}-no-pad": kind(decoder, family, pad=False) for family in ("gpt2", "qwen2", "llama")},
    "gpt2-left": kind(decoder, "gpt2", side="left"),
    # SentencePiece and other vocabularies without tokenizer.json
    **{f"slow-{family}": kind(slow, family) for family in SLOW},
    "slow-llama": kind(decoder, "llama", fast=False),
    "bertweet": bertweet,
    # tokenizers
    "without-tokenizer": without_tokenizer,
    "added-token-without-row": added_token_without_row,
    "added-tokens": added_tokens,
    "added-special-tokens": kind(added_tokens, special_tokens=True),
    "contradicting": contradicting,
    "cased": kind(casing, do_lower_case=False),
    "accents-kept": kind(casing, strip_accents=False),
    "cut-left": kind(casing, truncation_side="left", model_max_length=16),
    "padded-left": kind(casing, padding_side="left", batch=1),
    # what version 5 dropped
    "relative-key": kind(refused, encoder, position_embedding_type="relative_key"),
    "relative-key-query": kind(refused, encoder, position_embedding_type="relative_key_query"),
    "relative-key-roberta": kind(refused, encoder, "roberta", position_embedding_type="relative_key"),
    "relative-key-electra": kind(refused, encoder, "electra", position_embedding_type="relative_key"),
    "is-decoder": kind(encoder, is_decoder=True),
    # heads
    "three-labels": kind(encoder, labels=("x", "y", "z")),
    "multi-label": kind(encoder, labels=("a", "b", "c"), problem_type="multi_label_classification"),
    "one-output": kind(encoder, labels=("toxic",)),
    "one-output-named": kind(encoder, labels=("toxic",), problem_type="multi_label_classification"),
    "regression": kind(refused, encoder, labels=("toxic",), problem_type="regression"),
    # pairs
    "nli-bert": nli,
    "nli-roberta": kind(nli, "roberta"),
    "nli-bart": kind(nli, "bart"),
    "nli-deberta-v2": kind(nli, "deberta-v2", type_vocab_size=2),
    # layouts
    "compiled": kind(with_prefix, "_orig_mod."),
    "parallel": kind(with_prefix, "module."),
    "trainer": kind(trained, True),
    "trainer-checkpoints": kind(trained, False),
    "sharded": sharded,
    "bfloat16": half,
}

if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    if transformers.__version__ >= "5":  # it has no slow tokenizers
        MAKERS = {name: maker for name, maker in MAKERS.items() if not name.startswith("slow-")}
    common.main(MAKERS)
