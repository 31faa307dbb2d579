"""The words of a text: their positions in it, and their tokens."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

# \X in word mode is one segment of UAX #29, Unicode's word boundaries: "don't", "7.30" and a family emoji are one each.
_SEGMENTS = Split(Regex(r"(?y{w})\X"), "isolated")
_HYPHENS = "-\u2010\u2011"
MAX_WORD_LETTERS = 1_000  # Oniguruma needs quadratic time for a run of flags


@dataclass(frozen=True)
class WordSpan:
    """One word of a text."""

    start: int
    """Index of its first character in the original text."""
    end: int
    """Index after its last character."""
    pieces: tuple[int, ...]
    """Positions of its tokens among those of the text."""
    text: int = 0
    """0, or 1 for a word of the second text of a pair."""


def segments(text: str) -> list[tuple[int, int]]:
    """Return start and end of every word and punctuation mark, in the order of the text and without overlaps.

    The rules are those of UAX #29, plus compounds such as "well-known". In scripts without spaces between words, such
    as Han and Thai, each character is a word. White space belongs to none. A word ends after 1,000 characters.
    """
    spans: list[tuple[int, int]] = []
    for run in re.finditer(rf"\S{{1,{MAX_WORD_LETTERS}}}", text):
        at = run.start()
        parts = [(at + start, at + end) for _, (start, end) in _SEGMENTS.pre_tokenize_str(run[0])]
        i = 0
        while i < len(parts):
            start, end = parts[i]
            while _compound(text, parts[i : i + 3]):
                i += 2
                end = parts[i][1]
            spans.append((start, end))
            i += 1
    return spans


def _compound(text: str, parts: Sequence[tuple[int, int]]) -> bool:
    """Return whether these segments are a word, a hyphen and a word."""
    if len(parts) < 3:
        return False
    (first, _), (hyphen, end), (second, _) = parts
    return text[hyphen:end] in _HYPHENS and text[first].isalnum() and text[second].isalnum()


def words_of(
    text: str,
    offsets: Sequence[tuple[int, int]],
    special: Sequence[int],
    read: tuple[int, int] | None = None,
    number: int = 0,
) -> list[WordSpan]:
    """Return the words that a tokenizer read, in the order of the text and without overlaps.

    Every token belongs to exactly one word. Segments that share a token are one word; a token of white space belongs to
    the word after it. Characters without a token, such as control characters, belong to no word.

    Args:
        offsets: per token its start and end in the text, as `tokenizers` gives them.
        special: per token 1 if it does not come from the text.
        read: start and end of the part that was read; words end there. Default: all of it.
        number: of the text in its pair.
    """
    low, high = read or (0, len(text))
    parts = [(max(a, low), min(b, high)) for a, b in segments(text) if a < high and b > low]
    starts, ends = [a for a, _ in parts], [b for _, b in parts]
    pieces = [i for i, is_special in enumerate(special) if not is_special]
    touched: dict[int, tuple[int, int]] = {}  # token -> its first and its last segment
    for i in pieces:
        start, end = offsets[i]
        first, last = bisect_right(ends, start), bisect_left(starts, end) - 1
        if start < end and first <= last:
            touched[i] = (first, last)
    if not touched:
        return [WordSpan(starts[0], ends[-1], tuple(pieces), number)] if parts and pieces else []
    known = sorted({first for first, _ in touched.values()})
    for i in pieces:
        if i not in touched:
            after = bisect_left(known, bisect_right(ends, offsets[i][0]))
            touched[i] = (known[min(after, len(known) - 1)],) * 2
    groups: list[tuple[int, int, list[int]]] = []
    for i, (first, last) in sorted(touched.items(), key=lambda item: item[1]):
        if groups and first <= groups[-1][1]:
            before, until, tokens = groups[-1]
            groups[-1] = (before, max(until, last), [*tokens, i])
        else:
            groups.append((first, last, [i]))
    return [WordSpan(starts[first], ends[last], tuple(sorted(tokens)), number) for first, last, tokens in groups]


def grouped(words: Sequence[WordSpan], limit: int) -> list[WordSpan]:
    """Return at most `limit` words, each of as many neighbours as that takes; more if a pair has a text without any."""
    size = -(-len(words) // max(limit, 1))
    if size <= 1:
        return list(words)
    return [
        WordSpan(some[0].start, some[-1].end, tuple(sorted(i for word in some for i in word.pieces)), number)
        for number in (0, 1)
        for of_text in [[word for word in words if word.text == number]]
        for some in (of_text[at : at + size] for at in range(0, len(of_text), size))
    ]
