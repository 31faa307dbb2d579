"""How much of a text a model reads, and whether its vocabulary knows words of the script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass

from inference.calls.texts import EncodedText, Text

# Scripts with an alphabet or syllabary, other than Latin, by the names that Unicode gives to their letters.
ALPHABETS = (
    *("ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN", "GREEK", "GUJARATI"),
    *("GURMUKHI", "HEBREW", "HIRAGANA", "KANNADA", "KATAKANA", "KHMER", "LAO", "MALAYALAM", "MYANMAR", "SINHALA"),
    *("TAMIL", "TELUGU", "THAI"),
)


@dataclass(frozen=True)
class Reading:
    """How much of a text a model reads and knows."""

    tokens: int
    """Of the whole text, special ones included."""
    read: int
    """Of them, how many the model reads."""
    strange_share: float
    """Of the letters that it reads, how many the vocabulary lacks or spells out one by one."""


def reading(text: Text, encoded: EncodedText, unknown_token: int | None) -> Reading:
    """Return how much of one text or one pair is read, and how far the vocabulary covers its letters.

    A letter is spelled out if several tokens stand for it (bytes, parts of a syllable), or a token of its own where
    the script has an alphabet. In Latin letters that is no sign of anything: names and typing errors are spelled too.
    """
    texts, encoding = (text,) if isinstance(text, str) else text, encoded.encoding
    tokens_of: Counter[tuple[int, int]] = Counter()
    strange: set[tuple[int, int]] = set()
    for piece in encoded.read:
        part, (start, end) = encoding.sequence_ids[piece], encoding.offsets[piece]
        if part is None:  # a special token
            continue
        letters = [(part, at) for at in range(start, end) if texts[part][at].isalpha()]
        tokens_of.update(letters)
        is_alone = end - start == 1 and unicodedata.name(texts[part][start], "").startswith(ALPHABETS)
        if encoding.ids[piece] == unknown_token or is_alone:
            strange.update(letters)
    strange.update(letter for letter, tokens in tokens_of.items() if tokens > 1)
    return Reading(len(encoding), len(encoded.read), len(strange) / len(tokens_of) if tokens_of else 0.0)
