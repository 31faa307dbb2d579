"""The table by which the static page finds words is what the splitter of explanations does."""

from __future__ import annotations

import json
import random

from deploy.word_breaks import FILE, kinds, table


def test_recorded_kinds_of_code_points_are_those_of_the_splitter() -> None:
    recorded: dict[str, list[int]] = json.loads(FILE.read_text(encoding="utf-8"))
    expected: dict[int, set[str]] = {}
    for kind, ends in recorded.items():
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            for code in range(first, last + 1):
                expected.setdefault(code, set()).add(kind)
    edges = {code + step for ends in recorded.values() for code in ends for step in (-1, 0, 1)}
    sample = random.Random(0).sample(range(0x110000), 5_000)
    letters = [chr(code) for code in sorted({*edges, *sample, *range(0x600)} - {*range(0xD800, 0xE000)})]
    wrong = [letter for letter in letters if not letter.isspace() and kinds(letter) != expected.get(ord(letter), set())]
    assert wrong == []


def test_ranges_hold_their_ends() -> None:
    assert table(range(ord("0"), ord("z") + 1)) == {
        "letter": [ord("A"), ord("Z"), ord("a"), ord("z")],
        "mid_letter": [ord(":"), ord(":")],
        "mid_number": [ord(";"), ord(";")],
        "numeric": [ord("0"), ord("9")],
        "underscore": [ord("_"), ord("_")],
    }
