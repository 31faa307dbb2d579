"""Run where sentence-transformers and SetFit are installed: save small models, and write what they answer.

Usage: original_sentence.py FOLDER [KIND …]
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import FAMILIES, LABELS, make_classifier, make_tokenizer, pairs, rows, texts, write_answers, write_encoder
from sentence_transformers import CrossEncoder, SentenceTransformer, models
from setfit import SetFitHead, SetFitModel
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.svm import SVC


def body(folder: Path, pooling: str = "mean", max_length: int = 128, more: Any = (), family: str = "bert") -> Any:
    encoder = folder.with_name(f"{folder.name}-encoder")
    write_encoder(encoder, family)
    transformer = models.Transformer(str(encoder), max_seq_length=max_length)
    shutil.rmtree(encoder)
    torch.manual_seed(1)
    return SentenceTransformer(modules=[transformer, models.Pooling(32, pooling_mode=pooling), *more], device="cpu")


def setfit(
    folder: Path,
    head: Any,
    labels: Any = LABELS,
    task: str = "mood",
    strategy: str | None = None,
    normalize: bool = False,
    names: bool = True,
    targets: Any = None,
    **options: Any,
) -> None:
    encoder = body(folder, **options)
    data = rows(task, 240)
    known = sorted(common.KEYWORDS[task])
    y = np.array([known.index(row["label"]) for row in data]) if targets is None else targets(data)
    model = SetFitModel(
        model_body=encoder,
        model_head=head,
        labels=list(labels) if names else None,
        normalize_embeddings=normalize,
        multi_target_strategy=strategy,
    )
    if isinstance(head, torch.nn.Module):
        torch.nn.init.normal_(head.linear.weight)
    else:
        head.fit(model.encode([row["text"] for row in data]), y)
    model.save_pretrained(folder)
    loaded = SetFitModel.from_pretrained(folder)
    scores = np.asarray(loaded.predict_proba(texts(), as_numpy=True))
    if strategy == "multi-output":  # (texts, labels, 2), or the other way round before 1.0.2
        scores = scores[..., 1]
    shown = list(labels) if names else [str(i) for i in range(scores.shape[1])]
    write_answers(folder, {"label": {"labels": shown, "scores": scores.tolist(), "multi": strategy is not None}})


def has_words(data: Any) -> Any:
    """Several labels a text: which of three fillers are in it."""
    return np.array([[word in row["text"] for word in ("the", "a", "it")] for row in data]).astype(int)


def named(data: Any) -> Any:
    return np.array([row["label"] for row in data])


def refused_setfit(folder: Path, head: Any, **options: Any) -> None:
    setfit(folder, head, **options)
    write_answers(folder)


def sentence_transformer(folder: Path) -> None:
    """Embeddings alone: there is no head to answer with."""
    body(folder).save_pretrained(str(folder))
    write_answers(folder)


def cross_encoder(folder: Path, labels: Any, family: str = "bert", activation: Any = None) -> None:
    source = folder.with_name(f"{folder.name}-source")
    tokenizer = make_tokenizer(FAMILIES[family][0])
    model = make_classifier(family, labels, tokenizer)
    common.spread(model, tokenizer, pairs())
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    encoder = CrossEncoder(
        str(source), device="cpu", max_length=128, **({"activation_fn": activation} if activation else {})
    )
    encoder.save_pretrained(str(folder))
    shutil.rmtree(source)
    loaded = CrossEncoder(str(folder), device="cpu")
    identity = torch.nn.Identity()
    logits = np.asarray(loaded.predict(pairs(), activation_fn=identity, convert_to_numpy=True)).reshape(
        len(pairs()), -1
    )
    write_answers(folder, {"label": {"labels": list(labels), "scores": common.scores_of(logits.tolist())}}, pairs=True)


def kind(maker: Any, *arguments: Any, **options: Any) -> Any:
    return lambda folder: maker(folder, *arguments, **options)


TOPICS = ("food", "other", "travel")
FLAGS = ("the", "a", "it")
LOGISTIC = LogisticRegression
MAKERS = {
    "setfit": kind(setfit, LOGISTIC()),
    "setfit-three": kind(setfit, LOGISTIC(), TOPICS, "topic"),
    "setfit-named-classes": kind(setfit, LOGISTIC(), TOPICS, "topic", targets=named),
    "setfit-without-names": kind(setfit, LOGISTIC(), names=False),
    "setfit-normalized": kind(setfit, LOGISTIC(), normalize=True),
    "setfit-cls": kind(setfit, LOGISTIC(), pooling="cls"),
    "setfit-max": kind(setfit, LOGISTIC(), pooling="max"),
    "setfit-sqrt": kind(setfit, LOGISTIC(), pooling="mean_sqrt_len_tokens"),
    "setfit-short": kind(setfit, LOGISTIC(), max_length=16),
    "setfit-normalize-module": kind(setfit, LOGISTIC(), more=[models.Normalize()]),
    "setfit-dense-module": kind(setfit, LOGISTIC(), more=[models.Dense(32, 16)]),
    "setfit-roberta": kind(setfit, LOGISTIC(), family="roberta"),
    "setfit-one-vs-rest": kind(
        setfit, OneVsRestClassifier(LOGISTIC()), FLAGS, strategy="one-vs-rest", targets=has_words
    ),
    "setfit-multi-output": kind(
        setfit, MultiOutputClassifier(LOGISTIC()), FLAGS, strategy="multi-output", targets=has_words
    ),
    "setfit-chain": kind(setfit, ClassifierChain(LOGISTIC()), FLAGS, strategy="classifier-chain", targets=has_words),
    "setfit-one-vs-rest-single": kind(setfit, OneVsRestClassifier(LOGISTIC()), TOPICS, "topic"),
    "setfit-dense": kind(setfit, SetFitHead(32, 2)),
    "setfit-dense-three": kind(setfit, SetFitHead(32, 3), TOPICS, "topic"),
    "setfit-dense-temperature": kind(setfit, SetFitHead(32, 3, temperature=2.0), TOPICS, "topic"),
    "setfit-dense-multi": kind(
        setfit, SetFitHead(32, 3, multitarget=True), FLAGS, strategy="one-vs-rest", targets=has_words
    ),
    "setfit-svc": kind(refused_setfit, SVC(probability=True)),
    "sentence-transformer": sentence_transformer,
    "cross-encoder": kind(cross_encoder, ("LABEL_0",)),
    "cross-encoder-identity": kind(cross_encoder, ("LABEL_0",), activation=torch.nn.Identity()),
    "cross-encoder-three": kind(cross_encoder, ("contradiction", "entailment", "neutral")),
    "cross-encoder-roberta": kind(cross_encoder, ("LABEL_0",), "roberta"),
    "cross-encoder-two": kind(cross_encoder, ("no", "yes")),
}

if __name__ == "__main__":
    import transformers

    transformers.utils.logging.set_verbosity_error()
    common.main(MAKERS)
