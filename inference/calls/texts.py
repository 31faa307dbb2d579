"""What a classifier reads: texts and pairs of texts, checked; their tokens, cut to the limit; and padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from inference.errors import InputError

MAX_CHARS = 20_000  # far above any model's token limit; tokenizing more would only burn CPU
Text = str | tuple[str, str]
"""A text, or a pair of texts for a model that compares two (a premise and a hypothesis, a question and a passage)."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of each text, special tokens included; which texts are cut, and which have no known word."""

    ids: list[list[int]]
    types: list[list[int]] | None
    """Which segment each token is in, for a model that distinguishes them: 1 for the second text of a pair."""
    truncated: list[bool]
    unknown: list[bool]

    def feed(self, rows: Sequence[int], pad_id: int = 0) -> dict[str, NDArray[np.int64]]:
        """Return the padded inputs of a backend for these rows."""
        return pad(
            [self.ids[row] for row in rows], pad_id, None if self.types is None else [self.types[row] for row in rows]
        )


@dataclass(frozen=True)
class EncodedText:
    """The tokens of a text or of a pair, and which of them the model reads."""

    encoding: Encoding
    read: Sequence[int]
    """Positions of the tokens that are read; the others are beyond the limit."""

    @property
    def truncated(self) -> bool:
        return len(self.read) < len(self.encoding)


def check_texts(texts: Text | Sequence[Text]) -> list[Text]:
    """Return the texts as a list of strings, or of pairs of strings, that a tokenizer accepts.

    Raises:
        InputError: naming the index of the first text that it does not accept.
    """
    if not isinstance(texts, str | list | tuple):
        raise InputError(f"texts must be a string or a list of strings, not {type(texts).__name__}.")
    if not texts and not isinstance(texts, str):
        raise InputError("texts is empty: give at least one text.")
    checked: list[Text] = list(texts) if isinstance(texts, list) else [texts]
    of_pairs = isinstance(checked[0], tuple)
    for index, text in enumerate(checked):
        where = where_of(index, checked)
        if isinstance(text, tuple) != of_pairs and isinstance(text, str | tuple):
            kinds = ("a pair", "a single text") if of_pairs else ("a single text", "a pair")
            raise InputError(f"texts[0] is {kinds[0]} and {where} is {kinds[1]}. Pass a list of either kind.")
        if not isinstance(text, tuple):
            _check_text(text, where)
            if type(text) is not str:  # np.str_ or another subclass
                checked[index] = str.__str__(text)
            continue
        if len(text) != 2:
            raise InputError(f"{where} is a tuple of {len(text)}; a pair has two texts. Pass several texts as a list.")
        for part, side in enumerate(text):
            _check_text(side, side_of(where, part))
    return checked


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{where} must be a string, not {type(text).__name__}.")
    if not text.strip():
        raise InputError(f"{where} is empty: give it at least one word.")
    if len(text) > MAX_CHARS:
        raise InputError(f"{where} has {len(text):,} characters; the limit is {MAX_CHARS:,}. Shorten or split it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} contains a lone surrogate (U+{ord(text[error.start]):04X} at position {error.start}), not a "
            "character. Decode its source as UTF-8 with errors='replace'."
        ) from None


def where_of(index: int, texts: Sequence[Text]) -> str:
    return "The text" if len(texts) == 1 else f"texts[{index}]"


def side_of(where: str, part: int) -> str:
    """Return what messages call a text of the pair at `where`."""
    return f"The {('first', 'second')[part]} text" if where == "The text" else f"{where}[{part}]"


def letters(text: Text) -> int:
    """Return the length of a text or of both texts of a pair."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


def tokens_read(encoding: Encoding, limit: int, cuts_left: bool) -> Sequence[int]:
    """Return the positions of the tokens of a text or a pair that fit into the limit, special ones included.

    Of a pair the longer text is cut first, then both alike: `truncation=True` of transformers, "longest_first".
    """
    size = len(encoding)
    if size <= limit:
        return range(size)
    texts: tuple[list[int], list[int]] = [], []
    for i, (text, is_special) in enumerate(zip(encoding.sequence_ids, encoding.special_tokens_mask, strict=True)):
        if not is_special:
            texts[text or 0].append(i)
    first, second = map(len, texts)
    room = max(0, limit - (size - first - second))
    shorter = min(first, second)
    longer = room - shorter
    if longer < shorter:
        shorter, longer = room // 2, room - room // 2
    cut: set[int] = set()
    for positions, count in zip(texts, (shorter, longer) if first <= second else (longer, shorter), strict=True):
        cut.update(positions[: len(positions) - count] if cuts_left else positions[count:])
    return [i for i in range(size) if i not in cut]


def pad(
    rows: Sequence[Sequence[int]], pad_id: int = 0, types: Sequence[Sequence[int]] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return `input_ids` and `attention_mask`, both (rows, longest), padded on the right with `pad_id` and 0.

    With `types`, the segments of the tokens, also `token_type_ids`, padded with 0.
    """
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    feed = {"input_ids": ids, "attention_mask": mask}
    if types is not None:
        feed["token_type_ids"] = np.zeros(shape, np.int64)
        for i, row in enumerate(types):
            feed["token_type_ids"][i, : len(row)] = row
    return feed
