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
from common import LABELS, SIZES, answer, make_classifier, make_tokenizer, pairs, spread, texts, write_answers

T5_SIZES = {"decoder_start_token_id": 0, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
BART_SIZES = {
    "d_model": 32,
    **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 2), ("ffn_dim", 64))},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
}
XLNET_SIZES = {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
DISTILBERT_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
DECODER = {"num_key_value_heads": 2, "head_dim": 8}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160}


def save(folder: Path, model: Any, tokenizer: Any, inputs: Any = None, **options: Any) -> None:
    """Spread the answers, save model and tokenizer, load them again and write what they answer."""
    spread(model, tokenizer, inputs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_answers(folder, {"label": answer(model, tokenizer, inputs, **options)}, pairs=inputs is not None)


def encoder(folder: Path, model_type: str, vocabulary: str, fast: bool = True, labels: Any = LABELS, **config: Any) -> None:
    tokenizer = make_tokenizer(vocabulary, fast)
    save(folder, make_classifier(model_type, labels, tokenizer, **config), tokenizer)


def without_tokenizer(folder: Path) -> None:
    encoder(folder, "bert", "Bert")
    for pattern in ("*token*", "vocab.txt"):
        for path in folder.glob(pattern):
            path.unlink()
    write_answers(folder)


def slow(folder: Path, model_type: str, vocabulary: str, **config: Any) -> None:
    """With a slow tokenizer, which leaves the SentencePiece file and no tokenizer.json."""
    encoder(folder, model_type, vocabulary, fast=False, **config)
    (folder / "tokenizer.json").unlink(missing_ok=True)


def decoder(
    folder: Path, model_type: str, vocabulary: str, pad: bool = True, side: str = "right", fast: bool = True, **config: Any
) -> None:
    """A decoder whose answers come from one text at a time: without padding, every version reads the last token."""
    tokenizer = make_tokenizer(vocabulary, fast, padding_side=side)
    tokenizer.pad_token = tokenizer.eos_token
    model = make_classifier(model_type, LABELS, tokenizer, **(DECODER if model_type in WITH_GROUPS else {}), **config)
    spread(model, tokenizer)
    expected = answer(model, tokenizer, batch=1)
    if not pad:
        model.config.pad_token_id = None
        tokenizer.pad_token = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_answers(folder, {"label": expected})


WITH_GROUPS = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3")


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
    save(folder, make_classifier("roberta", LABELS, tokenizer, type_vocab_size=1), tokenizer)
    shutil.rmtree(raw)


def multi_label(folder: Path) -> None:
    encoder(folder, "bert", "Bert", labels=("a", "b", "c"), problem_type="multi_label_classification")


def one_output(folder: Path, **config: Any) -> None:
    encoder(folder, "bert", "Bert", labels=("toxic",), **config)


def refused(folder: Path, maker: Any, *arguments: Any, **options: Any) -> None:
    """The same folder without answers, because there are no right ones."""
    maker(folder, *arguments, **options)
    write_answers(folder)


def added_token_without_row(folder: Path) -> None:
    encoder(folder, "bert", "Bert")
    tokenizer = make_tokenizer("Bert")
    tokenizer.add_tokens(["<user>", "<url>"])
    tokenizer.save_pretrained(folder)
    write_answers(folder)


def added_tokens(folder: Path, **options: Any) -> None:
    tokenizer = make_tokenizer("Bert")
    tokenizer.add_tokens(["<user>", "xyzzy"], **options)
    save(folder, make_classifier("bert", LABELS, tokenizer), tokenizer)


def nli(folder: Path, model_type: str = "bert", vocabulary: str = "Bert", **config: Any) -> None:
    tokenizer = make_tokenizer(vocabulary)
    model = make_classifier(model_type, ("contradiction", "entailment", "neutral"), tokenizer, **config)
    save(folder, model, tokenizer, pairs())


def with_prefix(folder: Path, prefix: str) -> None:
    """The state dictionary of a compiled or a parallel model, written by hand as training loops do."""
    from safetensors.torch import load_file, save_file

    encoder(folder, "bert", "Bert")
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


def contradicting_class(folder: Path) -> None:
    """tokenizer_config.json names a class that is not the one of tokenizer.json, as for CamemBERTv2."""
    encoder(folder, "bert", "Bert")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "RobertaTokenizerFast"
    path.write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    write_answers(folder, {"label": answer(model, tokenizer)})


def casing(folder: Path, batch: int = 20, **options: Any) -> None:
    tokenizer = make_tokenizer("Bert", **options)
    save(folder, make_classifier("bert", LABELS, tokenizer), tokenizer, batch=batch)


def sharded(folder: Path) -> None:
    encoder(folder, "bert", "Bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")


def half(folder: Path) -> None:
    encoder(folder, "bert", "Bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).bfloat16()
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, torch_dtype=torch.float32)
    write_answers(folder, {"label": answer(model, tokenizer)})


def kind(maker: Any, *arguments: Any, **options: Any) -> Any:
    return lambda folder: maker(folder, *arguments, **options)


RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16}
RELATIVE |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0}
SMALL_ALBERT = {"embedding_size": 16}
MAKERS = {
    # encoders, with the tokenizers that people have
    "bert": kind(encoder, "bert", "Bert"),
    "distilbert": kind(encoder, "distilbert", "DistilBert", **DISTILBERT_SIZES),
    "electra": kind(encoder, "electra", "Electra", embedding_size=16),
    "roberta": kind(encoder, "roberta", "Roberta", type_vocab_size=1),
    "xlm-roberta": kind(encoder, "xlm-roberta", "XLMRoberta", type_vocab_size=1),
    "camembert": kind(encoder, "camembert", "Camembert", type_vocab_size=1),
    "albert": kind(encoder, "albert", "Albert", **SMALL_ALBERT),
    "deberta": kind(encoder, "deberta", "Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": kind(encoder, "deberta-v2", "DebertaV2", **RELATIVE),
    "longformer": kind(encoder, "longformer", "Longformer", attention_window=[16, 16], type_vocab_size=1),
    "big_bird": kind(encoder, "big_bird", "BigBird", attention_type="original_full"),
    "big_bird-sparse": kind(encoder, "big_bird", "BigBird", block_size=4, num_random_blocks=1),
    "mobilebert": kind(encoder, "mobilebert", "MobileBert", embedding_size=16, intra_bottleneck_size=16),
    "rembert": kind(encoder, "rembert", "RemBert", input_embedding_size=16, output_embedding_size=16),
    "convbert": kind(encoder, "convbert", "ConvBert", embedding_size=16),
    "ernie": kind(encoder, "ernie", "Bert"),
    "roformer": kind(encoder, "roformer", "Bert", embedding_size=32),
    "fnet": kind(encoder, "fnet", "Bert"),
    "xlnet": kind(encoder, "xlnet", "XLNet", **XLNET_SIZES),
    "data2vec-text": kind(encoder, "data2vec-text", "Roberta", type_vocab_size=1),
    "nystromformer": kind(encoder, "nystromformer", "Bert", segment_means_seq_len=4, num_landmarks=4),
    # encoder-decoders
    "bart": kind(encoder, "bart", "Bart", **BART_SIZES, eos_token_id=2, bos_token_id=0),
    "mbart": kind(encoder, "mbart", "MBart", **BART_SIZES, eos_token_id=2),
    "t5": kind(encoder, "t5", "T5", **T5_SIZES),
    # SentencePiece without tokenizer.json
    "slow-xlm-roberta": kind(slow, "xlm-roberta", "XLMRoberta", type_vocab_size=1),
    "slow-camembert": kind(slow, "camembert", "Camembert", type_vocab_size=1),
    "slow-albert": kind(slow, "albert", "Albert", **SMALL_ALBERT),
    "slow-deberta-v2": kind(slow, "deberta-v2", "DebertaV2", **RELATIVE),
    "slow-t5": kind(slow, "t5", "T5", **T5_SIZES),
    "slow-xlnet": kind(slow, "xlnet", "XLNet", **XLNET_SIZES),
    "slow-mbart": kind(slow, "mbart", "MBart", **BART_SIZES, eos_token_id=2),
    "slow-rembert": kind(slow, "rembert", "RemBert", input_embedding_size=16, output_embedding_size=16),
    "slow-llama": kind(decoder, "llama", "Llama", fast=False),
    "slow-bert": kind(slow, "bert", "Bert"),
    "slow-roberta": kind(slow, "roberta", "Roberta", type_vocab_size=1),
    "bertweet": bertweet,
    # tokenizers
    "without-tokenizer": without_tokenizer,
    "added-token-without-row": added_token_without_row,
    "added-tokens": added_tokens,
    "added-special-tokens": kind(added_tokens, special_tokens=True),
    "contradicting-class": contradicting_class,
    "cased": kind(casing, do_lower_case=False),
    "accents-kept": kind(casing, strip_accents=False),
    "cut-left": kind(casing, truncation_side="left", model_max_length=16),
    "padded-left": kind(casing, padding_side="left", batch=1),
    # what version 5 dropped
    "relative-key": kind(refused, encoder, "bert", "Bert", position_embedding_type="relative_key"),
    "relative-key-query": kind(refused, encoder, "bert", "Bert", position_embedding_type="relative_key_query"),
    "relative-key-roberta": kind(
        refused, encoder, "roberta", "Roberta", type_vocab_size=1, position_embedding_type="relative_key"
    ),
    "relative-key-electra": kind(
        refused, encoder, "electra", "Electra", embedding_size=16, position_embedding_type="relative_key"
    ),
    "is-decoder": kind(encoder, "bert", "Bert", is_decoder=True),
    # heads
    "three-labels": kind(encoder, "bert", "Bert", labels=("x", "y", "z")),
    "multi-label": multi_label,
    "one-output": one_output,
    "one-output-named": kind(one_output, problem_type="multi_label_classification"),
    "regression": kind(refused, one_output, problem_type="regression"),
    # pairs
    "nli-bert": nli,
    "nli-roberta": kind(nli, "roberta", "Roberta", type_vocab_size=1),
    "nli-bart": kind(nli, "bart", "Bart", **BART_SIZES, eos_token_id=2, bos_token_id=0),
    "nli-deberta-v2": kind(nli, "deberta-v2", "DebertaV2", **{**RELATIVE, "type_vocab_size": 2}),
    # layouts
    "compiled": kind(with_prefix, "_orig_mod."),
    "parallel": kind(with_prefix, "module."),
    "trainer": kind(trained, True),
    "trainer-checkpoints": kind(trained, False),
    "sharded": sharded,
    "bfloat16": half,
    # decoders
    "gpt2": kind(decoder, "gpt2", "GPT2", **GPT2_SIZES),
    "gpt2-no-pad": kind(decoder, "gpt2", "GPT2", pad=False, **GPT2_SIZES),
    "gpt2-left": kind(decoder, "gpt2", "GPT2", side="left", **GPT2_SIZES),
    "qwen2": kind(decoder, "qwen2", "Qwen2"),
    "qwen2-no-pad": kind(decoder, "qwen2", "Qwen2", pad=False),
    "qwen3": kind(decoder, "qwen3", "Qwen2"),
    "llama": kind(decoder, "llama", "Llama"),
    "llama-no-pad": kind(decoder, "llama", "Llama", pad=False),
    "mistral": kind(decoder, "mistral", "Llama", sliding_window=8),
    "gemma": kind(decoder, "gemma", "Gemma"),
    "gemma2": kind(decoder, "gemma2", "Gemma"),
    "gemma3_text": kind(decoder, "gemma3_text", "Gemma"),
    "phi3": kind(decoder, "phi3", "Llama", bos_token_id=1, eos_token_id=2),
    "opt": kind(decoder, "opt", "GPT2", ffn_dim=64, word_embed_proj_dim=32),
    "gpt_neox": kind(decoder, "gpt_neox", "GPT2"),
    "bloom": kind(decoder, "bloom", "GPT2", n_layer=2, n_head=4),
}

if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    common.main(MAKERS)
