"""Phrases and the sentences that they are parts of, so that no split has a sentence on one side and its phrases on the
other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence, Set
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from inference.calls.texts import Text

MADE_OF_PARTS = 0.2  # share of distinct texts that are parts of others: SST-2 has 88%, messages and questions 3 to 5%
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # no spaces between words
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FACTOR = 0x9E3779B97F4A7C15  # of the hash of a sequence of words; odd, so that it has an inverse modulo 2 ** 64
_INVERSE = pow(_FACTOR, -1, 2**64)
Parts = tuple[str, ...]


class Phrases:
    """Which of some texts are phrases of others, whatever the case and signs.

    Attributes:
        are_many: at least `MADE_OF_PARTS` of the texts are words that follow each other in another text. Where few are,
            none counts as a phrase: "yes" and "thanks" are then messages of their own.
        whole: the texts that are no phrase of another.
    """

    def __init__(self, texts: Sequence[Text]) -> None:
        words = {text: tuple(_words(text)) for text in texts}
        distinct = set(words.values()) - {()}
        self.are_many = len(_matches(distinct, distinct)[0]) >= MADE_OF_PARTS * max(1, len(distinct))
        self.whole: Set[Text] = set(words)
        # Letter by letter: no phrase is left that is a substring of a sentence.
        self._letters = {text: _letters(text) for text in words} if self.are_many else {}
        if self.are_many:
            distinct = set(self._letters.values()) - {()}
            whole = distinct - _matches(distinct, distinct)[0]
            self.whole = {text for text, letters in self._letters.items() if letters in whole}

    def of(self, sentences: Set[Text]) -> tuple[set[Text], set[Text]]:
        """Return the texts that are `sentences` or phrases of no others, and the phrases that others have too.

        Without the latter, which include texts without any word, neither side has a phrase of the other.
        """
        if not self.are_many:
            return set(sentences), set()
        chosen = {self._letters[text] for text in sentences}
        parts = _matches(set(self._letters.values()) - {()}, chosen)[0]
        shared = _matches(parts, {self._letters[text] for text in self.whole} - chosen)[0]
        only = chosen | parts - shared
        return (
            {text for text, letters in self._letters.items() if letters in only},
            {text for text, letters in self._letters.items() if letters in shared or not letters},
        )


def overlapping(texts: Sequence[str], held_out: Sequence[str]) -> set[str]:
    """Return those of `texts` that have the words of a text held out, are a phrase of one, or have one as a phrase."""
    others = {_letters(text) for text in held_out} - {()}
    given = {text: _letters(text) for text in texts}
    own = set(given.values()) - {()}
    both = (own & others) | _matches(own, others)[0] | _matches(others, own)[1]
    return {text for text, letters in given.items() if letters in both}


def _letters(text: Text) -> Parts:
    return tuple(" ".join(_words(text)))


def _words(text: Text) -> list[str]:
    """Return the words of a text without case and signs, those of a pair with a line break between."""
    if not isinstance(text, str):
        return [*_words(text[0]), "\n", *_words(text[1])]
    return _WORDS.findall(text.casefold())


def _matches(phrases: Collection[Parts], sentences: Collection[Parts]) -> tuple[set[Parts], set[Parts]]:
    """Return the phrases whose parts (words, or letters) follow each other in a longer sentence, and these sentences.

    No texts are compared in pairs: the hashes of all stretches of a length are looked up among those of the phrases of
    this length; for phrases of 8 to 15 parts, say, only where the first 8 parts of one of them are found. The hash is
    a polynomial of 64 bits (Karp & Rabin 1987). Should two phrases ever have the same one, a row too many is left out.
    """
    by_length: dict[int, list[Parts]] = {}
    for phrase in phrases:
        by_length.setdefault(len(phrase), []).append(phrase)
    numbers = {part: number for number, part in enumerate(dict.fromkeys(chain(*phrases, *sentences)))}
    text = _Hashes(list(sentences), numbers)
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())  # parts from here to the sentence's end
    longer = np.repeat(lengths, lengths)
    sentence_of = np.repeat(np.arange(len(lengths)), lengths)
    inside: set[Parts] = set()
    around = np.zeros(len(lengths), bool)
    for _, group in groupby(sorted(by_length), key=int.bit_length):
        of_group = list(group)
        first = 1 << of_group[0].bit_length() - 1
        beginnings = list({phrase[:first] for length in of_group for phrase in by_length[length]})
        starts = np.flatnonzero(left >= first)
        starts = starts[_places(text.of(starts, first), beginnings, numbers) >= 0]
        for length in of_group:
            starts = starts[left[starts] >= length]
            at = starts[longer[starts] > length]
            places = _places(text.of(at, length), by_length[length], numbers)
            inside.update(by_length[length][i] for i in np.unique(places[places >= 0]))
            around[sentence_of[at[places >= 0]]] = True
    return inside, {sentence for sentence, has_one in zip(sentences, around, strict=True) if has_one}


class _Hashes:
    """Hashes of stretches of some texts: the sum of value * factor ** position, divided by factor ** first position."""

    def __init__(self, texts: Sequence[Parts], numbers: Mapping[str, int]) -> None:
        parts = np.fromiter((numbers[part] for part in chain.from_iterable(texts)), np.uint64)
        # A value of 64 bits for each part, spread by the finalizer of SplitMix64 (Steele, Lea & Flood 2014).
        values = (parts + np.uint64(1)) * np.uint64(_FACTOR)
        for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
        powers, self._inverses = (
            np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(parts), factor, np.uint64)]))
            for factor in (_FACTOR, _INVERSE)
        )
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers[:-1])])

    def of(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
        hashes: NDArray[np.uint64] = (self._sums[starts + length] - self._sums[starts]) * self._inverses[starts]
        return hashes


def _places(hashes: NDArray[np.uint64], phrases: Sequence[Parts], numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the position of the phrase, all of one length, that has each of the hashes; -1 if none has."""
    length = len(phrases[0])
    own = _Hashes(phrases, numbers).of(np.arange(len(phrases)) * length, length)
    order = np.argsort(own)
    nearest = order[np.minimum(np.searchsorted(own, hashes, sorter=order), len(own) - 1)]
    return np.where(own[nearest] == hashes, nearest, -1)
