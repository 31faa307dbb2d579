"""Check the texts of our own: users' texts without labels, and the test set of sentiment outside films."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from inference.assets import ASSETS, calibration_texts, showcase_texts

UNLABELLED = ASSETS / "unlabelled.csv"
SENTIMENT_TEST = ASSETS / "sentiment_test.csv"
SLICES = {"contrast", "irony", "mixed", "negation", "plain"}
KINDS = {"app", "chat", "place", "product", "service", "support"}
NEGATION = re.compile(
    r"\b(?:no|not|never|nor|neither|nobody|none|nothing|hardly|rarely|cannot|without|cant|dont|\w+n't)\b", re.I
)
CONTRAST = re.compile(r"\b(?:but|though|although|however|despite|yet|still)\b", re.I)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def texts(path: Path) -> list[str]:
    return [row["text"] for row in rows(path)]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def near_duplicates(new: list[str], known: list[str]) -> list[tuple[str, str]]:
    """Return the pairs, at least one of them new, that share five words in a row or half of their words."""
    split = [words(text) for text in [*new, *known]]
    with_run = defaultdict(set)
    for number, one in enumerate(split):
        for start in range(len(one) - 4):
            with_run[tuple(one[start : start + 5])].add(number)
    pairs = {pair for numbers in with_run.values() for pair in combinations(sorted(numbers), 2)}
    vocabularies = [set(one) for one in split]
    for left, right in combinations(range(len(split)), 2):
        shared = len(vocabularies[left] & vocabularies[right]) if left < len(new) else 0
        if 2 * shared >= len(vocabularies[left] | vocabularies[right]):
            pairs.add((left, right))
    everything = [*new, *known]
    return [(everything[left], everything[right]) for left, right in sorted(pairs) if left < len(new)]


@pytest.mark.parametrize("path", [UNLABELLED, SENTIMENT_TEST], ids=lambda path: path.stem)
def test_texts_are_single_lines_of_printable_utf8_between_3_and_60_words(path: Path) -> None:
    assert b"\r" not in path.read_bytes()
    for text in texts(path):
        assert text == unicodedata.normalize("NFC", text).strip()
        assert not [char for char in text if unicodedata.category(char) in {"Cc", "Cn", "Co", "Cs", "Zl", "Zp"}], text
        assert 3 <= len(words(text)) <= 60, text


@pytest.mark.slow
def test_no_two_of_our_texts_are_near_duplicates() -> None:
    new = [*texts(UNLABELLED), *texts(SENTIMENT_TEST)]
    assert near_duplicates(new, [*showcase_texts(), *calibration_texts()]) == []


def test_near_duplicates_are_pairs_with_a_long_run_or_half_of_the_words_in_common() -> None:
    text = "The soup was cold and so was the welcome."
    run = "She told us that the soup was cold and left it at that, smiling."
    reordered = "so cold: the soup, the welcome"
    assert near_duplicates([text], [run, reordered, "Cold soup, warm welcome, and nobody minded."]) == [
        (text, run),
        (text, reordered),
    ]
    assert near_duplicates(["a new text"], [text, text]) == []


def test_unlabelled_texts_are_many_and_say_no_and_but_often() -> None:
    unlabelled = texts(UNLABELLED)
    assert list(rows(UNLABELLED)[0]) == ["text"]
    assert len(unlabelled) >= 500
    assert sum(bool(NEGATION.search(text)) for text in unlabelled) / len(unlabelled) >= 0.3
    assert sum(bool(CONTRAST.search(text)) for text in unlabelled) / len(unlabelled) >= 0.15


def test_labels_are_valid_and_balanced_overall_and_in_every_slice_but_irony() -> None:
    labelled = rows(SENTIMENT_TEST)
    assert list(labelled[0]) == ["text", "sentiment", "kind", "slice"]
    assert len(labelled) >= 210
    assert {row["sentiment"] for row in labelled} == {"negative", "positive"}
    assert {row["kind"] for row in labelled} == KINDS
    assert {row["slice"] for row in labelled} == SLICES
    positive = Counter(row["slice"] for row in labelled if row["sentiment"] == "positive")
    sizes = Counter(row["slice"] for row in labelled)
    assert 0.45 <= positive.total() / sizes.total() <= 0.55
    for name in SLICES - {"irony"}:  # what people say ironically is mostly a complaint
        assert sizes[name] >= 40
        assert 0.4 <= positive[name] / sizes[name] <= 0.6


def test_a_slice_holds_what_its_name_says() -> None:
    for row in rows(SENTIMENT_TEST):
        negated, contrasted = bool(NEGATION.search(row["text"])), bool(CONTRAST.search(row["text"]))
        if row["slice"] == "negation":
            assert negated and not contrasted, row
        elif row["slice"] == "contrast":
            assert contrasted, row
        elif row["slice"] == "plain":
            assert not negated and not contrasted, row
