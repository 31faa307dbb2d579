"""The words of a text, where they stand in it, and which of its tokens are theirs."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

# \X in word mode is one segment of UAX #29, Unicode's word boundaries: "don't", "7.30" and a family emoji are one.
_SEGMENTS = Split(Regex(r"(?y{w})\X"), "isolated")
_HYPHENS = "-\u2010\u2011"
# Oniguruma takes a time that grows with the square of a run of flags.
MAX_WORD_LETTERS = 1_000


@dataclass(frozen=True)
class WordSpan:
    """One word of a text."""

    start: int
    """Its place in the text as it was given: characters, from 0."""
    end: int
    """One past its last character."""
    pieces: tuple[int, ...]
    """Positions of its tokens among those of the text."""


def segments(text: str) -> list[tuple[int, int]]:
    """Start and end of every word and every mark of punctuation, in the order of the text; nothing overlaps.

    They are those of UAX #29, with compounds such as "well-known" as one. Of scripts that put no spaces between words,
    Han and Thai for two, each character is one. White space is in none. A word ends after 1,000 characters.
    """
    found: list[tuple[int, int]] = []
    for run in re.finditer(rf"\S{{1,{MAX_WORD_LETTERS}}}", text):
        at = run.start()
        parts = [(at + start, at + end) for _, (start, end) in _SEGMENTS.pre_tokenize_str(run[0])]
        i = 0
        while i < len(parts):
            start, end = parts[i]
            while _compound(text, parts[i : i + 3]):
                i += 2
                end = parts[i][1]
            found.append((start, end))
            i += 1
    return found


def _compound(text: str, parts: Sequence[tuple[int, int]]) -> bool:
    """Whether these segments are a word, a hyphen and a word."""
    if len(parts) < 3:
        return False
    (first, _), (hyphen, end), (second, _) = parts
    return text[hyphen:end] in _HYPHENS and text[first].isalnum() and text[second].isalnum()


def words_of(
    text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int], read: tuple[int, int] | None = None
) -> list[WordSpan]:
    """The words that a tokenizer read, in the order of the text; nothing overlaps.

    Every token belongs to exactly one word. Segments of a text that share a token are one word; a token of white
    space goes with the word after it. What no token was made of (a control character, say) is in no word.

    Args:
        offsets: per token its start and end in the text, as `tokenizers` gives them.
        special: per token 1 where it stands for no part of the text.
        read: start and end of the part that was read, where the rest was cut off. Words end there.
    """
    low, high = read or (0, len(text))
    parts = [(max(a, low), min(b, high)) for a, b in segments(text) if a < high and b > low]
    starts, ends = [a for a, _ in parts], [b for _, b in parts]
    pieces = [i for i, none in enumerate(special) if not none]
    touched: dict[int, tuple[int, int]] = {}  # token -> the first and the last segment that it has a part in
    for i in pieces:
        start, end = offsets[i]
        first, last = bisect_right(ends, start), bisect_left(starts, end) - 1
        if start < end and first <= last:
            touched[i] = (first, last)
    if not touched:
        return [WordSpan(starts[0], ends[-1], tuple(pieces))] if parts and pieces else []
    known = sorted({first for first, _ in touched.values()})
    for i in pieces:
        if i not in touched:
            after = bisect_left(known, bisect_right(ends, offsets[i][0]))
            touched[i] = (known[min(after, len(known) - 1)],) * 2
    groups: list[tuple[int, int, list[int]]] = []
    for i, (first, last) in sorted(touched.items(), key=lambda one: one[1]):
        if groups and first <= groups[-1][1]:
            before, until, held = groups[-1]
            groups[-1] = (before, max(until, last), [*held, i])
        else:
            groups.append((first, last, [i]))
    return [WordSpan(starts[first], ends[last], tuple(sorted(held))) for first, last, held in groups]


def grouped(words: Sequence[WordSpan], most: int) -> list[WordSpan]:
    """At most `most` of them: where there are more, as many neighbours each are taken together as one."""
    size = -(-len(words) // max(most, 1))
    if size <= 1:
        return list(words)
    return [
        WordSpan(some[0].start, some[-1].end, tuple(sorted(i for word in some for i in word.pieces)))
        for some in (words[at : at + size] for at in range(0, len(words), size))
    ]
