"""Write `word_breaks.json`: which code points are of which kind in UAX #29, asked of the splitter of explanations.

    python -m deploy.word_breaks

It takes a minute. Run it after an upgrade of tokenizers; tests/test_word_breaks.py says when.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

FILE = Path(__file__).with_name("word_breaks.json")
_SEGMENTS = Split(Regex(r"(?y{w})\X"), "isolated")


def kinds(letter: str) -> set[str]:
    """Return the kinds of a code point: those whose rules of UAX #29 join it with what stands around it."""
    if _joins("!", letter):
        return {"extend"}
    names = set()
    if _joins("\U0001f1e6", letter):
        names.add("flag")
    if _joins("\U0001f600\u200d", letter):
        names.add("picture")
    if _joins("ア", letter) and _joins("א", letter):
        names.add("underscore")
    elif _joins("ア", letter):
        names.add("katakana")
    elif _joins("1,", letter):
        names.add("numeric")
    elif _joins("a:", letter):
        names.add("hebrew" if _joins('א"', letter) else "letter")
    in_word, in_number = _joins("a", letter, "a"), _joins("1", letter, "1")
    if not names & {"underscore", "numeric", "hebrew", "letter"}:
        if _joins("א", letter, "א") and not in_word:
            names.add("double_quote")
        elif in_word and in_number:
            names.add("quote" if _joins("א", letter) else "mid_both")
        elif in_word:
            names.add("mid_letter")
        elif in_number:
            names.add("mid_number")
    return names


def table(codes: Iterable[int]) -> dict[str, list[int]]:
    """Return the first and the last code point of each range of a kind, for these code points in order."""
    ranges: dict[str, list[int]] = {}
    for code in codes:
        if 0xD800 <= code <= 0xDFFF or chr(code).isspace():
            continue
        for kind in kinds(chr(code)):
            ends = ranges.setdefault(kind, [])
            if ends and ends[-1] == code - 1:
                ends[-1] = code
            else:
                ends += [code, code]
    return dict(sorted(ranges.items()))


def _joins(*parts: str) -> bool:
    return len(_SEGMENTS.pre_tokenize_str("".join(parts))) == 1


if __name__ == "__main__":
    FILE.write_text(json.dumps(table(range(0x110000)), separators=(",", ":")), encoding="utf-8")
