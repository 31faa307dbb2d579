"""A classifier whose every number can be worked out by hand: no weights, no runtime, no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from inference.backends import Backend
from inference.classifier import Classifier
from inference.formats.bundle import Base, Bundle, Task
from inference.formats.examples import Example

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "bad", "good", "sad", "glad", "book", "cancel"]
SINGLE = "single_label_classification"
TASKS = {
    "sentiment": Task(("negative", "positive"), SINGLE, 0.6),
    "emotion": Task(("joy", "sadness", "neutral"), SINGLE, 0.4),
}
# What each word adds to the logits of a task: the logits of a text are the sum over its words.
WEIGHTS: dict[str, dict[str, list[float]]] = {
    "sentiment": {"bad": [2.0, 0.0], "good": [0.0, 2.0]},
    "emotion": {"glad": [3.0, 0.0, 0.0], "sad": [0.0, 3.0, 0.0]},
}


def tokenizer() -> Tokenizer:
    """One token a word, [CLS] before and [SEP] after; unknown words are [UNK]."""
    built = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    built.normalizer = Lowercase()
    built.pre_tokenizer = Whitespace()
    built.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    built.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return built


def bundle(tasks: Mapping[str, Task] = TASKS, max_tokens: int = 8) -> Bundle:
    examples = (Example("Oh wonderful, good and bad at once", "Irony"),)
    return Bundle(
        Path("fake"), "fake", tasks, "mean", max_tokens, Base("fake/base", "0" * 40, {}), {}, examples=examples
    )


class FakeBackend:
    """Adds up `WEIGHTS` over the words of each text, and remembers the shape of every batch it was given."""

    device = "cpu"
    threads = 1

    def __init__(self, name: str = "pytorch", tasks: Mapping[str, Task] = TASKS) -> None:
        self.name = name
        self.shapes: list[tuple[int, int]] = []
        self._tables = {}
        for task, spec in tasks.items():
            table = np.zeros((len(WORDS), len(spec.labels)), np.float32)
            for word, row in WEIGHTS.get(task, {}).items():
                table[WORDS.index(word)] = row
            self._tables[task] = table

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        self.shapes.append(input_ids.shape)  # type: ignore[arg-type]
        mask = attention_mask[..., None].astype(np.float32)
        return {task: (table[input_ids] * mask).sum(1) for task, table in self._tables.items()}

    def single_threaded(self) -> Backend | None:
        return None


def classifier(backend: FakeBackend | None = None, tasks: Mapping[str, Task] = TASKS, **options: int) -> Classifier:
    return Classifier(bundle(tasks), backend or FakeBackend(tasks=tasks), tokenizer(), **options)


def feed(rows: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    """Random ids; the last row is half as long."""
    ids = np.random.default_rng(rows * 100 + tokens).integers(4, 40, (rows, tokens))
    mask = np.ones((rows, tokens), np.int64)
    mask[-1, tokens // 2 + 1 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
