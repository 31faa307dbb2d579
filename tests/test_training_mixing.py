"""Texts without labels that are made out of others."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from inference.errors import InputError
from training.mixing import main, mix

TEXTS = [f"the film number {i} is a {word} one" for i in range(30) for word in ("good", "bad", "dull")]


def test_mixed_texts_are_new_and_different_and_of_every_kind() -> None:
    mixed = mix(TEXTS, 300)
    assert len(mixed) == len(set(mixed)) == 300
    assert not set(mixed) & set(TEXTS)
    assert sum("not" in text.split() or "n't" in text for text in mixed) >= 60  # 90 texts can be negated, some twice
    assert sum(any(word in text for word in (" but ", "though", "however", " . ")) for text in mixed) > 90
    lengths = {len(text.split()) for text in mixed}
    assert min(lengths) < 8 < max(lengths)
    assert mix(TEXTS, 300) == mixed
    assert mix(TEXTS, 300, seed=1) != mixed


def test_contractions_are_those_of_users_and_of_data_sets_split_into_words() -> None:
    mixed = " ".join(mix([f"it is number {i} of all" for i in range(200)], 600))
    assert "is not number" in mixed
    assert "isn't number" in mixed
    assert "is n't number" in mixed


def test_few_texts_give_as_many_as_they_can() -> None:
    assert 0 < len(mix(["it is good enough"], 1000)) < 100
    with pytest.raises(InputError, match="more than 3 words"):
        mix(["yes", "no", "all right"], 10)


def test_the_command_writes_a_table_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "train.csv", tmp_path / "mixed.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "x"] for text in TEXTS)])
    assert main(["--data", str(source), "--rows", "50", "--out", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["text"]
    assert [row[0] for row in rows[1:]] == mix(TEXTS, 50)
    assert "50 texts" in capsys.readouterr().out
    assert main(["--data", str(tmp_path / "none.csv"), "--out", str(out)]) == 2
    assert main(["--data", str(source), "--rows", "0", "--out", str(out)]) == 2
    assert "--rows 0" in capsys.readouterr().err


def test_a_contraction_is_made_of_whole_words_and_long_texts_need_no_short_ones() -> None:
    long = "this note of thanks was written by somebody who likes long and winding sentences a lot"
    mixed = mix([f"{long} {i}" for i in range(40)], 60)
    assert len(mixed) == 60
    assert all("this note" in text or "note" not in text for text in mixed if "not" in text.split())
    assert not [text for text in mixed if "thisn't" in text or "this n't" in text]
    assert not [text for text in mixed if " but " in text]
