"""The doctor on good folders of every kind, which it must not complain about, and on bad ones, whose fault it names."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decoders
import encoders
import foreign
import pytest
from faults import FAULTS
from hostile import Fault, drop, edit, healthy
from test_families import REFUSED

from inference.commands.doctor import Finding, examine
from inference.formats.bundle import SINGLE

Make = Callable[[Path], Path]
# What PEFT does not store.
NAMED = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}, "problem_type": SINGLE}


def family(kind: str, **fields: Any) -> Make:
    """A classifier whose config and tokenizer name the same padding token."""
    padding = {} if kind in decoders.DECODERS else {"pad_token_id": 0}
    return lambda folder: foreign.classifier(folder, kind, **padding, **fields)


def with_files(make: Make, *spoils: Callable[[Path], Any]) -> Make:
    def change(folder: Path) -> Path:
        make(folder)
        for spoil in spoils:
            spoil(folder)
        return folder

    return change


def on_base(kind: str, *names: str, **options: Any) -> Make:
    """Adapters of these names, or one in the folder itself, with named labels."""

    def make(folder: Path) -> Path:
        base = foreign.base(folder.parent / "base", kind)
        for name in names or (".",):
            foreign.adapter(folder / name, base, **options)
            edit("config.json", **NAMED)(folder / name)
        return folder

    return make


def saved_again(class_name: str, **options: Any) -> Callable[[Path], Any]:
    """Write the tokenizer files as `save_pretrained` of this class does."""

    def save(folder: Path) -> None:
        import transformers

        vocabulary = {word: i for i, word in enumerate(foreign.WORDS)}
        tokenizer = getattr(transformers, class_name)(vocab=vocabulary, model_max_length=32, **options)
        (folder / "tokenizer.json").unlink()
        tokenizer.save_pretrained(folder)

    return save


QWEN = {"head": "score", "target_modules": ["q_proj", "v_proj"]}
LARGER = len(foreign.WORDS) + 1
SAMPLE = ("bert", "electra", "deberta-v2", "bart", "fnet", "qwen2", "gpt2")
KINDS = [kind for kind in (*foreign.KINDS, *encoders.FAMILIES, *decoders.DECODERS) if kind not in REFUSED]
NO_PAD = (drop("config.json", "pad_token_id"), drop("tokenizer_config.json", "pad_token"))
OTHERS: dict[str, Make] = {
    "labels of several kinds": family("bert", problem_type="multi_label_classification"),
    "a padded vocabulary": family("bert", vocab_size=100),
    "tokenizer.json alone": with_files(family("bert"), lambda folder: (folder / "tokenizer_config.json").unlink()),
    "BertTokenizer of transformers": with_files(family("bert", vocab_size=LARGER), saved_again("BertTokenizer")),
    "BertTokenizer without an embedding of [MASK]": with_files(family("bert"), saved_again("BertTokenizer")),
    "a decoder without a padding token": with_files(family("qwen2"), *NO_PAD),
    "a decoder that pads with its last token": with_files(
        family("gpt2"), edit("tokenizer_config.json", pad_token="</s>"), edit("config.json", pad_token_id=decoders.EOS)
    ),
    "a decoder whose config lacks the padding token": with_files(family("llama"), drop("config.json", "pad_token_id")),
    "an adapter": on_base("bert"),
    "an adapter of all weights": on_base("bert", target_modules="all-linear"),
    "adapters of two tasks": on_base("bert", "mood", "topic"),
    "an adapter on a decoder": on_base("qwen2", **QWEN),
    "adapters on a decoder": on_base("qwen2", "mood", "topic", **QWEN),
    "an adapter on an encoder with other names": on_base(
        "deberta-v2", target_modules=["query_proj", "value_proj"], modules_to_save=["pooler", "classifier"]
    ),
    "files of an older transformers": with_files(
        family("bert"),
        edit("special_tokens_map.json", unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"),
        edit("added_tokens.json"),
        edit("config.json", gradient_checkpointing=False, position_embedding_type="absolute", use_cache=True),
    ),
}
PARAMS = [
    *(pytest.param(family(kind), id=kind, marks=() if kind in SAMPLE else pytest.mark.slow) for kind in KINDS),
    *(pytest.param(make, id=name) for name, make in OTHERS.items()),
]


def graver(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


@pytest.mark.parametrize("make", PARAMS)
def test_doctor_finds_nothing_wrong_with_a_good_folder(make: Make, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = make(tmp_path / "model")
    assert graver(examine(folder, cache=tmp_path / "cache")) == []


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy")
    healthy(root)
    for name in ("adapter/model", "adapters/model/mood", "adapters/model/topic"):
        edit("config.json", **NAMED)(root / name)
    return root


@pytest.mark.parametrize("kind", ["classifier", "shards", "adapter", "adapters", "bundle", "onnx"])
def test_doctor_finds_nothing_wrong_with_a_good_format(kind: str, originals: Path, tmp_path: Path) -> None:
    assert graver(examine(originals / kind / "model", cache=tmp_path)) == []


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=() if i % 20 == 0 else pytest.mark.slow) for i, fault in enumerate(FAULTS)],
    ids=lambda fault: fault.name,
)
def test_doctor_names_the_fault_of_a_bad_folder_first(fault: Fault, originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / fault.kind, tmp_path / "case", symlinks=True)
    fault.spoil(tmp_path / "case" / "model")
    first = examine(tmp_path / "case" / "model", cache=tmp_path / "cache")[0]
    assert first.severity == "error"
    assert re.search(fault.says, first.what), first.what
