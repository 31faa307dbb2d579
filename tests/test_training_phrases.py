"""Splits of data that is made of sentences and their phrases."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from inference.compare.rows import LabelledRows
from inference.errors import InputError
from training.card import write_card
from training.data import TaskData, split
from training.phrases import Phrases, _matches, overlapping
from training.sources import Request, Source, read_sources

LABELS = ("down", "up")
VOWELS = "aeiou"


def sentences(count: int = 60, seed: int = 3) -> list[tuple[str, str]]:
    """Sentences of nonsense words with three of their phrases each, of which some are in several sentences."""
    draw = random.Random(seed)
    words = [f"{a}{v}{b}" for a in "bdfklmn" for v in VOWELS for b in "prst"]
    rows = []
    for i in range(count):
        drawn = [draw.choice(words) for _ in range(draw.randint(8, 14))]
        for start, end in ((0, len(drawn)), (0, 5), (4, 6), (5, len(drawn))):
            rows.append((" ".join(drawn[start:end]), LABELS[i % 2]))
    return rows + [(f"{word}", draw.choice(LABELS)) for word in words[:20]]


def source(rows: list[tuple[str, str]]) -> Source:
    texts, labels = zip(*rows, strict=True)
    known = tuple(sorted(set(labels)))
    numbers = list(range(1, len(rows) + 1))
    ids = [known.index(label) for label in labels]
    return Source("rows.csv", LabelledRows(list(texts), {"mood": ids}, {"mood": known}, row_numbers=numbers))


def leaks(data: TaskData) -> list[tuple[str, str]]:
    """Pairs of a fitted row and a row to tune on of which one is a substring of the other."""
    return [(f, t) for f in set(data.fit.texts) for t in set(data.tuning.texts) if f in t or t in f]


@pytest.mark.parametrize("seed", range(5))
def test_no_phrase_of_a_tuning_sentence_is_fitted_and_none_of_a_fitted_one_is_tuned_on(seed: int) -> None:
    rows = sentences(seed=seed)
    data = split(source(rows), 0.1, seed)
    assert leaks(data) == []
    assert data.phrases["moved"] > 0
    assert data.phrases["left_out"] > 0
    assert len(data.fit) + len(data.tuning) + data.phrases["left_out"] == len(rows)
    whole = Phrases([text for text, _ in rows]).whole
    assert data.phrases["moved"] == sum(text not in whole for text in data.tuning.texts)
    assert set(data.fit.label_ids) == set(data.tuning.label_ids) == {0, 1}
    drawn = {text for text in data.tuning.texts if text in whole}
    assert len(drawn) == pytest.approx(0.1 * len(whole), abs=2)
    assert data == split(source(rows), 0.1, seed)


def test_a_row_that_is_left_out_is_a_phrase_of_both_sides() -> None:
    rows = sentences()
    data = split(source(rows), 0.1, 1)
    kept = {*data.fit.texts, *data.tuning.texts}
    left_out = [text for text, _ in rows if text not in kept]
    assert left_out
    for text in left_out:
        assert any(text in row for row in data.fit.texts)
        assert any(text in row for row in data.tuning.texts)


@pytest.mark.parametrize(
    ("phrase", "sentence"),
    [
        ("A fine film", "it is a fine film ."),
        ("fine, film!", "a FINE film"),
        ("like", "a dislikeable film"),  # no phrase, but a substring
        ("...", "well ... no"),
        ("好い映画", "これは好い映画です"),
        (("a", "b"), ("not a", "b or c")),
    ],
)
def test_phrases_are_found_whatever_their_case_and_signs(phrase: object, sentence: object) -> None:
    others = [f"other sentence of {i} words" for i in "abcdefg"] + [f"sentence of {i}" for i in "abcdefg"]
    phrases = Phrases([phrase, sentence, *others])  # type: ignore[list-item]
    assert phrases.are_many
    assert phrase not in phrases.whole
    only, shared = phrases.of({sentence})  # type: ignore[arg-type]
    assert phrase in only | shared
    assert not {text for text in others if isinstance(text, str)} & (only | shared)


def test_messages_that_are_part_of_others_by_chance_stay_where_they_are() -> None:
    rows = [(f"yes {i} please come to number {i}", "yes") for i in range(20)] + [("yes", "yes"), ("please", "no")]
    rows += [(f"no {i} never", "no") for i in range(20)]
    data = split(source(rows), 0.3, 1)
    assert data.phrases == {"moved": 0, "left_out": 0}
    assert len(data.fit) + len(data.tuning) == len(rows)


def test_phrases_are_those_that_a_search_in_every_sentence_finds() -> None:
    draw = random.Random(0)
    for _ in range(100):
        texts = {tuple(draw.choice("abc") for _ in range(draw.randint(1, 9))) for _ in range(draw.randint(0, 30))}
        longer = {text for text in texts if draw.random() < 0.5}
        pairs = [(text, other) for text in texts for other in longer if len(other) > len(text)]
        matches = [(text, other) for text, other in pairs if "".join(text) in "".join(other)]
        assert _matches(texts, longer) == ({text for text, _ in matches}, {other for _, other in matches})


def test_texts_overlap_with_those_held_out_in_either_direction() -> None:
    texts = ["A fine film.", "fine", "it is a fine film, but long", "nothing in common", "..."]
    assert overlapping(texts, ["a fine film", "..."]) == set(texts[:3])


def test_a_label_that_has_only_phrases_is_fitted_or_refused() -> None:
    rows = [(f"{a} {b} c", "up") for a in "pqrs" for b in "xyz"] + [("p x", "down"), ("q y", "down")]
    rows += [(f"{a} {b}", "up") for a in "rs" for b in "xyz"]
    data = split(source(rows), 0.1, 1)
    assert leaks(data) == []
    assert 0 in data.fit.label_ids
    with pytest.raises(InputError, match="every row of 'down' is a phrase of a sentence to tune on"):
        split(source(rows), 0.9, 1)
    with pytest.raises(InputError, match="phrases of one sentence per label. Add rows to tune on"):
        split(source([("a b c", "up"), ("a b", "up"), ("d e f", "down"), ("e f", "down")]), 0.1, 1)


def test_rows_split_off_for_validation_have_no_phrase_in_training(tmp_path: Path) -> None:
    rows = sentences()
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    read, split_off = read_sources(Request(str(tmp_path / "rows.csv")))
    train, validation = read["label"].train, read["label"].validation
    assert validation is not None
    assert len(split_off) == len(validation) > 0.1 * len(rows)
    assert not [t for t in train.texts for v in validation.texts if t in v or v in t]
    missing = len(rows) - len(train) - len(validation)
    assert missing > 0
    assert any(remark.startswith(f"{missing} rows are left out: phrases") for remark in train.remarks)


def test_the_card_says_how_many_rows_changed_sides(tmp_path: Path) -> None:
    from conftest import DEMO

    described = json.loads((DEMO / "bundle.json").read_text())

    def card(**phrases: dict[str, int]) -> str:
        for task, data in described["data"].items():
            data.pop("phrases", None)
            data |= {"phrases": phrases[task]} if task in phrases else {}
        (tmp_path / "bundle.json").write_text(json.dumps(described))
        write_card(tmp_path)
        return (tmp_path / "README.md").read_text()

    none = {"moved": 0, "left_out": 0}
    of_older_models = "Where a training file holds overlapping phrases"
    assert of_older_models in card()
    written = card(sentiment={"moved": 3523, "left_out": 1680}, emotion=none, intent=none)
    assert of_older_models not in written
    assert written.count("changed sides") == 1
    assert "3,523 rows that are phrases of them changed sides with them, and 1,680 were left out" in written
