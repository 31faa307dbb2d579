"""The tokenizer of the static page against the real one. Node runs it: the parts of a page that need no browser."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tokenizers import Tokenizer, normalizers

from deploy.static_tokenizer import tokenizer_tables
from inference.errors import BundleError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe

NODE = shutil.which("node")
PIECES = [
    "[SEP]",
    "[MASK]",
    " ",
    "\t",
    "the",
    "movie",
    "Ünï",
    "ΑΣ",
    "ς",
    "İ",
    "👩\u200d🚀",
    "e\u0301",
    "\u00ad",
    "ﬁ",
    "x" * 101,
]
RANGES = [
    (0, 0xD800),
    (0xE000, 0x110000),
    (0x20, 0x7F),
    (0xA0, 0x600),
    (0x300, 0x370),
    (0x4E00, 0xA000),
    (0xAC00, 0xD7A4),
]
SCRIPT = """
import { readFileSync } from "node:fs";
const { Tokenizer } = await import(process.argv[1]);
const { tables, texts } = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = new Tokenizer(tables);
console.log(JSON.stringify(texts.map((text) => tokenizer.encode([[...text]]))));
"""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return describe("assets/models/demo")


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    real = Tokenizer.from_file(str(bundle.base_folder() / "tokenizer.json"))
    real.no_padding()
    real.no_truncation()
    return real


@pytest.fixture(scope="module")
def tables(bundle: Bundle, tokenizer: Tokenizer) -> dict[str, Any]:
    return tokenizer_tables(bundle, tokenizer)


def in_javascript(tables: dict[str, Any], texts: list[str], folder: Path) -> list[dict[str, Any]]:
    """What `static/tokenizer.js` makes of these texts."""
    if NODE is None:
        pytest.skip("no Node on this machine")
    module = folder / "tokenizer.mjs"  # Node takes a .js file outside of a package for CommonJS
    shutil.copyfile(ROOT / "static/tokenizer.js", module)
    command = [NODE, "--input-type=module", "-e", SCRIPT, module.as_uri()]
    sent = json.dumps({"tables": tables, "texts": texts})
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def awkward(count: int) -> list[str]:
    draw = random.Random(5)
    letters = [lambda: draw.choice(PIECES), *(lambda r=r: chr(draw.randrange(*r)) for r in RANGES)]
    return ["".join(draw.choice(letters)() for _ in range(draw.randrange(1, 40))) for _ in range(count)]


def test_ids_and_offsets_of_5000_awkward_texts_equal_those_of_the_real_tokenizer(
    tables: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = awkward(5000)
    wrong = [
        (text, answer)
        for text, answer in zip(texts, in_javascript(tables, texts, tmp_path), strict=True)
        for real in [tokenizer.encode(text)]
        if (answer["ids"], [tuple(place) for place in answer["offsets"]]) != (real.ids, real.offsets)
        or answer["special"] != [bool(special) for special in real.special_tokens_mask]
    ]
    assert len(wrong) == 0, wrong[:2]


def test_other_normalizer_is_refused_with_its_name(bundle: Bundle, tokenizer: Tokenizer) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    other.normalizer = normalizers.NFC()
    with pytest.raises(BundleError, match="has the normalizer NFC, and the static page reads BertNormalizer only"):
        tokenizer_tables(bundle, other)
