"""Words and their places: whatever the text and whatever the tokenizer does to it, the spans are those of the text."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from inference import Classifier, InputError
from inference.explain import explain
from inference.explain.words import (
    MAX_WORD_LETTERS,
    WordSpan,
    grouped,
    segments,
    words_of,
)
from inference.formats.tokenizer import is_unknown, unknown_token

FAMILY, WAVE, FLAGS = "👩‍👩‍👧", "👋🏽", "🇩🇪🇫🇷"
CORPUS = [
    "don't you think it's a well-known film, isn't it? naïve café 7.30",
    "das ist schön und gut, aber nicht heute; ﬁne ½ Ⅷ",
    "שלום עולם مرحبا بالعالم 東京タワーは高い 한국어 हिन्दी",
    f"{FAMILY} {WAVE} {FLAGS} so good!!! e\u0301te\u0301",
]


def wordpiece() -> Tokenizer:
    """As BERT's: lower case, accents stripped, Chinese characters apart, the pieces of a word without spaces."""
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    built.train_from_iterator(CORPUS, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return built


def byte_level(trim: bool) -> Tokenizer:
    """As RoBERTa's or ModernBERT's: bytes, a space belongs to the word after it."""
    built = Tokenizer(models.BPE())
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(CORPUS, trainer)
    built.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=trim)
    built.decoder = decoders.ByteLevel()
    return built


def unigram() -> Tokenizer:
    """As XLM-R's or DeBERTa-v3's: ▁ in place of spaces, compatibility characters rewritten."""
    built = Tokenizer(models.Unigram())
    built.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", " ")])
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    built.train_from_iterator(CORPUS, trainer)
    built.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return built


TOKENIZERS = {
    "wordpiece": wordpiece(),
    "byte-level": byte_level(False),
    "byte-level, trimmed": byte_level(True),
    "unigram": unigram(),
}
TRICKY = st.sampled_from(
    [
        FAMILY,
        WAVE,
        FLAGS,
        "don't",
        "l’été",
        "well-known",
        "שָׁלוֹם",
        "مرحبا",
        "東京",
        "e\u0301",
        "ﬁ",
        "½",
        "\u200b",
        "\u00ad",
        "…",
    ]
)
TEXTS = st.lists(
    st.one_of(
        TRICKY, st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.sampled_from([" ", "\n", "\t"])
    ),
    max_size=12,
).map("".join)


def spelled(text: str) -> list[str]:
    return [text[start:end] for start, end in segments(text)]


def words(text: str, tokenizer: Tokenizer) -> list[str]:
    encoded = tokenizer.encode(text)
    return [text[word.start : word.end] for word in words_of(text, encoded.offsets, encoded.special_tokens_mask)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't, it’s fine", ["I", "don't", ",", "it’s", "fine"]),
        ("a well-known - thing-", ["a", "well-known", "-", "thing", "-"]),
        ("at 7.30 for 1,000", ["at", "7.30", "for", "1,000"]),
        (f"{FAMILY}{WAVE} {FLAGS}", [FAMILY, WAVE, "🇩🇪", "🇫🇷"]),
        ("e\u0301te\u0301 été", ["e\u0301te\u0301", "été"]),
        ("שָׁלוֹם عالم", ["שָׁלוֹם", "عالم"]),
        ("東京へ", ["東", "京", "へ"]),
        (" \n\t", []),
        ("", []),
    ],
)
def test_segments_are_words_as_a_reader_sees_them(text: str, expected: list[str]) -> None:
    assert spelled(text) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text", ["I don't know", "a well-known café", f"so {FAMILY} good {WAVE}", "שלום עולם", "e\u0301te\u0301 it's"]
)
def test_the_pieces_of_a_word_make_it_up_whole_with_every_tokenizer(name: str, text: str) -> None:
    assert words(text, TOKENIZERS[name]) == spelled(text)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_and_gaps_give_the_text_back_and_every_piece_has_one_word(name: str, text: str) -> None:
    encoding = TOKENIZERS[name].encode(text)
    made = words_of(text, encoding.offsets, encoding.special_tokens_mask)
    edges = [0, *(edge for word in made for edge in (word.start, word.end)), len(text)]
    assert edges == sorted(edges)
    assert "".join(text[a:b] for a, b in pairwise(edges)) == text
    assert all(text[word.start : word.end].strip() == text[word.start : word.end] != "" for word in made)
    pieces = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if text.strip():
        assert sorted(i for word in made for i in word.pieces) == pieces


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_a_piece_is_made_of_characters_of_its_word(name: str, text: str) -> None:
    encoding = TOKENIZERS[name].encode(text)
    for word in words_of(text, encoding.offsets, encoding.special_tokens_mask):
        for i in word.pieces:
            start, end = encoding.offsets[i]
            assert text[start:end].strip() == "" or (start < word.end and end > word.start)


def test_a_token_that_spans_two_segments_makes_one_word_of_them() -> None:
    assert words_of("東京 is", [(0, 0), (0, 2), (3, 5), (0, 0)], [1, 0, 0, 1]) == [
        WordSpan(0, 2, (1,)),
        WordSpan(3, 5, (2,)),
    ]


def test_a_token_of_white_space_goes_with_the_word_after_it_and_at_the_end_with_the_one_before() -> None:
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert words_of("a b ", offsets, [0, 0, 0, 0]) == [WordSpan(0, 1, (0,)), WordSpan(2, 3, (1, 2, 3))]


def test_last_word_ends_where_the_text_was_cut() -> None:
    assert words_of("good badly", [(0, 4), (5, 8)], [0, 0], (0, 8)) == [WordSpan(0, 4, (0,)), WordSpan(5, 8, (1,))]


def test_characters_without_a_token_belong_to_no_word() -> None:
    assert words_of("a \x00 b", [(0, 1), (4, 5)], [0, 0]) == [WordSpan(0, 1, (0,)), WordSpan(4, 5, (1,))]


def test_neighbours_are_grouped_evenly_and_in_order() -> None:
    single = [WordSpan(i, i + 1, (i,)) for i in range(10)]
    assert grouped(single, 10) == single
    assert grouped(single, 4) == [
        WordSpan(0, 3, (0, 1, 2)),
        WordSpan(3, 6, (3, 4, 5)),
        WordSpan(6, 9, (6, 7, 8)),
        WordSpan(9, 10, (9,)),
    ]
    assert grouped(single, 1) == [WordSpan(0, 10, tuple(range(10)))]


@pytest.mark.parametrize("letter", ["a", "🇩", "\u0301", "'", "a\u200d", "1,", "\u200b", "א״", "\u202e"])
def test_the_longest_of_hostile_texts_is_split_into_short_runs(letter: str) -> None:
    text = letter * (20_000 // len(letter))
    runs = segments(text)
    assert max(end - start for start, end in runs) <= MAX_WORD_LETTERS
    assert "".join(text[a:b] for a, b in runs) == text


def test_text_cut_down_to_white_space_has_no_words_to_explain() -> None:
    class Even(fakes.FakeBackend):
        def logits(self, input_ids: Any, attention_mask: Any) -> Any:
            return {
                name: np.zeros((len(input_ids), len(task.labels)), np.float32) for name, task in fakes.TASKS.items()
            }

    made = Classifier(fakes.bundle(), Even(), byte_level(False))
    assert made.predict("\n" * 50 + "hello", "sentiment").truncated
    with pytest.raises(InputError, match="is white space, so there is no word to explain"):
        explain(made, "\n" * 50 + "hello", "sentiment")


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_word_without_any_piece_in_the_vocabulary_is_unknown(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    text = "☃ well ☃ 東京☃ don't"
    encoding = tokenizer.encode(text)
    lacking = {
        text[word.start : word.end]: is_unknown(encoding, unknown_token(tokenizer), word.pieces)
        for word in words_of(text, encoding.offsets, encoding.special_tokens_mask)
    }
    assert lacking["☃"]
    assert not lacking["well"]
    assert not lacking["don't"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte-level"])
def test_text_without_any_known_word_is_detected(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert is_unknown(tokenizer.encode("☃ ☃☃"), unknown_token(tokenizer)) is (kind != "byte-level")
    assert not is_unknown(tokenizer.encode("☃ well"), unknown_token(tokenizer))


def test_a_vocabulary_of_bytes_lacks_nothing() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    encoding = tokenizer.encode("☃ well")
    words = words_of("☃ well", encoding.offsets, encoding.special_tokens_mask)
    assert not any(is_unknown(encoding, unknown_token(tokenizer), word.pieces) for word in words)


@pytest.mark.parametrize("name", ["<unk>", "[UNK]"])
def test_the_unknown_token_of_a_unigram_model_is_found_by_its_names(name: str) -> None:
    model = models.Unigram([("<pad>", 0.0), (name, 0.0), ("▁good", -1.0)], unk_id=1)
    assert unknown_token(Tokenizer(model)) == 1
