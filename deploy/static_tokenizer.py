"""The tokenizer of a static page: tables that the real one answers, for WordPiece in `static/tokenizer.js`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Encoding, Tokenizer

from deploy import word_breaks
from inference.errors import BundleError
from inference.formats.bundle import Bundle

SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)


def tokenizer_tables(bundle: Bundle, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what `Tokenizer` in `static/tokenizer.js` reads: vocabulary, special tokens, and tables of code points.

    Raises:
        BundleError: the browser cannot cut texts as this tokenizer does.
    """
    content = json.loads(tokenizer.to_str())
    _check(bundle, content)
    model = content["model"]
    vocabulary: list[str | None] = [None] * (max(model["vocab"].values()) + 1)
    for token, number in model["vocab"].items():
        vocabulary[number] = token
    return {
        "vocabulary": vocabulary,
        "added": [
            [token["content"], token["id"], token["lstrip"], token["rstrip"]] for token in content["added_tokens"]
        ],
        "single": _parts(tokenizer.encode("a")),
        "pair": _parts(tokenizer.encode("a", "a")) if bundle.pairs else [],
        "unknown": model["vocab"][model["unk_token"]],
        "continuation": model["continuing_subword_prefix"],
        "max_letters": model["max_input_chars_per_word"],
        **_code_points(tokenizer),
        "breaks": json.loads(word_breaks.FILE.read_text(encoding="utf-8")),
    }


def _parts(sample: Encoding) -> list[dict[str, int]]:
    """Return the special tokens and the places of the texts in an encoding, each with its segment."""
    parts: list[dict[str, int]] = []
    fields = zip(sample.ids, sample.type_ids, sample.special_tokens_mask, sample.sequence_ids, strict=True)
    for number, kind, is_special, text in fields:
        part = {"id": number, "type": kind} if is_special else {"text": text or 0, "type": kind}
        if is_special or not parts or parts[-1] != part:
            parts.append(part)
    return parts


def _check(bundle: Bundle, content: dict[str, Any]) -> None:
    kinds = {part: (content.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")}
    expected = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, kind in kinds.items():
        if kind != expected[part]:
            raise BundleError(
                f"{bundle.name} cannot run in a browser: its tokenizer has the {part} {kind}, and the static page "
                f"reads {expected[part]} only. Stage it with --kind gradio or --kind docker."
            )
    odd = [token["content"] for token in content["added_tokens"] if token["normalized"] or token["single_word"]]
    if odd:
        raise BundleError(
            f"{bundle.name} cannot run in a browser: its added token {odd[0][:60]!r} is matched in a way that the "
            "static page does not have (normalized or single_word). Stage it with --kind gradio or "
            "--kind docker."
        )


def _code_points(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what normalizer and pre-tokenizer make of every code point."""
    normalize = tokenizer.normalizer.normalize_str
    dropped, apart, blank, mapped = [], [], [], {}
    outputs: set[str] = set()
    for code in range(0x110000):
        if code in SURROGATES:
            continue
        letter = chr(code)
        normal = normalize(letter)
        outputs.update(normal)
        if not normal:
            dropped.append(code)
        elif normal == f" {letter} ":
            apart.append(code)
        elif normal != letter:
            mapped[code] = normal
    hangul = all(mapped.get(code) == _syllable(code) for code in HANGUL)
    if hangul:
        mapped = {code: normal for code, normal in mapped.items() if code not in HANGUL}
    # One string answers for all: a letter stays with its neighbours, punctuation is a piece, white space is in none.
    letters = sorted(outputs)
    ends: dict[int, int] = {}
    for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str("a" + "".join(f"{letter}a" for letter in letters)):
        ends[start] = end
    punctuation = []
    for place, letter in enumerate(letters):
        if 2 * place + 2 in ends:  # a piece begins after it
            (punctuation if 2 * place + 1 in ends else blank).append(ord(letter))
    return {
        "dropped": _ranges(dropped),
        "apart": _ranges(apart),
        "blank": _ranges(blank),
        "punctuation": _ranges(punctuation),
        "mapped": sorted(mapped.items()),
        "hangul": hangul,
    }


def _syllable(code: int) -> str:
    index = code - HANGUL.start
    parts = [0x1100 + index // 588, 0x1161 + index % 588 // 28, *([0x11A7 + index % 28] if index % 28 else [])]
    return "".join(map(chr, parts))


def _ranges(codes: Iterable[int]) -> list[int]:
    """Return sorted numbers as a flat list of ranges: first, last, first, last, …"""
    ranges: list[int] = []
    for code in codes:
        if ranges and code == ranges[-1] + 1:
            ranges[-1] = code
        else:
            ranges += [code, code]
    return ranges
