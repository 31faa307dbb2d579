"""Models that take two texts: tokens, segments, recognition, and equality with the libraries' own code."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import fakes
import foreign
import numpy as np
import pytest
from conftest import Tiny
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from inference import BundleError, InputError, load
from inference.calls.texts import tokens_read
from inference.classifier import Classifier
from inference.formats.describe import describe
from inference.formats.identity import content_key

NLI = ("entailment", "neutral", "contradiction")
PAIRS = [
    ("it was so good", "a bad lamp, twice!"),
    ("soup", "why did the bus not come at 7.30?"),
    ("fine " * 40, "good"),
    ("bad", "fine " * 40),
    ("so " * 40, "it was fine " * 40),
]
KINDS = [
    "bert",
    "roberta",
    "deberta-v2",
    pytest.param("albert", marks=pytest.mark.slow),
    pytest.param("electra", marks=pytest.mark.slow),
]


def write_tokenizer(folder: Path, kind: str = "bert", **settings: Any) -> None:
    """A letter-by-letter tokenizer with a template for pairs, as transformers 4 saved it."""
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(foreign.WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    types = not kind.startswith("roberta")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1" if types else "[CLS] $A [SEP] [SEP] $B:0 [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **names, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def classifier(folder: Path, kind: str = "bert", **fields: Any) -> Path:
    """A tiny classifier of pairs."""
    labels = fields.pop("labels", NLI)
    foreign.classifier(folder, kind, labels, **({"type_vocab_size": 1} if kind == "roberta" else {}), **fields)
    write_tokenizer(folder, kind)
    return folder


def by_hand(folder: Path, pairs: list[tuple[str, str]] = PAIRS, types: bool | None = None) -> Any:
    """Probabilities of pairs as transformers gives them, one by one. `types` forces token_type_ids."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for pair in pairs:
        fed = tokenizer(*pair, return_tensors="pt", truncation=True, max_length=32, return_token_type_ids=types)
        with torch.no_grad():
            rows.append(torch.softmax(model(**fed).logits.double(), -1)[0].numpy())
    return np.array(rows)


def scores(model: Classifier, pairs: Any = PAIRS) -> Any:
    return np.array([list(p.scores.values()) for p in model.predict(pairs)])


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("pairs") / "nli")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


# --- Equality


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_answered_as_by_transformers_on_every_runtime(kind: str, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "model", kind)
    expected = by_hand(folder, types=kind in ("bert", "albert", "electra"))
    for backend, tolerance in (("pytorch", 1e-5), ("onnx", 1e-5), ("int8", 0.1)):
        model = load(folder, backend, cache=tmp_path / "cache", threads=1)
        assert np.abs(scores(model) - expected).max() <= tolerance, backend
        alone = np.array([list(model.predict(pair).scores.values()) for pair in PAIRS])
        assert np.abs(alone - scores(model)).max() < 1e-5


def test_segments_reach_the_model(nli: Path, cache: Path) -> None:
    swapped = [(second, first) for first, second in PAIRS]
    expected = by_hand(nli, swapped, types=True)
    assert np.abs(expected - by_hand(nli, swapped, types=False)).max() > 1e-2
    assert np.abs(scores(load(nli, "int8", cache=cache), swapped) - expected).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "types"),
    [
        ({}, True),
        ({"backend": "tokenizers"}, False),  # transformers 5, whose class gives none
        ({"model_input_names": ["input_ids", "attention_mask"]}, False),
        ({"tokenizer_class": "BertTokenizer", "backend": "tokenizers"}, True),
    ],
)
def test_segments_are_those_that_the_tokenizer_of_the_training_gives(
    settings: dict[str, Any], types: bool, nli: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((nli / name).read_bytes())
    write_tokenizer(folder, **settings)
    model = load(folder, cache=tmp_path)
    assert np.abs(scores(model) - by_hand(folder, types=types)).max() < 1e-5


def test_pairs_are_cut_as_transformers_cuts_them(nli: Path) -> None:
    from transformers import AutoTokenizer

    draw = random.Random(0)
    tokenizer = Tokenizer.from_file(str(nli / "tokenizer.json"))
    for side in ("right", "left"):
        theirs = AutoTokenizer.from_pretrained(nli, truncation_side=side)
        for limit in (8, 9, 16):
            for _ in range(60):
                pair = tuple("".join(draw.choices("abc ", k=draw.randint(1, 24))) + "a" for _ in range(2))
                encoding = tokenizer.encode(*pair)
                ids = [encoding.ids[i] for i in tokens_read(encoding, limit, side == "left")]
                assert ids == theirs(*pair, truncation=True, max_length=limit)["input_ids"]


def test_a_single_text_is_cut_as_the_tokenizer_cuts_it(nli: Path) -> None:
    ours, theirs = (Tokenizer.from_file(str(nli / "tokenizer.json")) for _ in range(2))
    for side in ("right", "left"):
        theirs.enable_truncation(10, direction=side)
        for text in ("a", "abcdefgh", "abcdefghi", "abc def ghi jkl"):
            encoding = ours.encode(text)
            read = [encoding.ids[i] for i in tokens_read(encoding, 10, side == "left")]
            assert read == theirs.encode(text).ids


def test_two_long_texts_take_little_memory_and_time(nli: Path) -> None:
    # The tokenizers library would keep every combination of what it cuts off: here some hundred thousand.
    model = load(nli)
    assert model.predict(("ab " * 6_000, "cd " * 6_000)).truncated


# --- Recognition


@pytest.mark.parametrize(
    ("fields", "labels", "expected"),
    [
        ({}, NLI, True),
        ({}, ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), True),
        ({}, ("entailment", "not entailment"), True),
        ({}, ("negative", "neutral", "positive"), False),
        ({"pairs": True}, ("bad", "good"), True),
        ({"pairs": False}, NLI, False),
        ({"finetuning_task": "mrpc"}, ("LABEL_0", "LABEL_1"), True),
        ({"finetuning_task": "sst2"}, ("LABEL_0", "LABEL_1"), False),
        ({"sentence_transformers": {"version": "5.1.0"}}, ("no", "yes"), True),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, ("no", "yes"), True),
    ],
)
def test_models_of_pairs_are_recognized(
    fields: dict[str, Any], labels: tuple[str, ...], expected: bool, nli: Path, tmp_path: Path
) -> None:
    for path in nli.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((nli / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"id2label": dict(enumerate(labels)), "label2id": {}} | fields)
    )
    bundle = describe(tmp_path)
    assert (bundle.pairs, bundle.token_types) == (expected, expected)
    assert describe(tmp_path, pairs=not expected).pairs is not expected
    assert content_key(describe(tmp_path, pairs=True)) != content_key(describe(tmp_path, pairs=False))


def test_pairs_that_is_no_boolean_is_refused(nli: Path, tmp_path: Path) -> None:
    for path in nli.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((nli / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pairs": "yes"}))
    with pytest.raises(BundleError, match="pairs is 'yes'; it must be true or false"):
        describe(tmp_path)


# --- What may be asked


def of_pairs(pairs: bool = True) -> Classifier:
    from dataclasses import replace

    tokenizer = fakes.tokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return Classifier(replace(fakes.bundle(max_tokens=16), pairs=pairs), fakes.FakeBackend(), tokenizer)


def test_a_tuple_is_a_pair_and_a_list_is_several_texts() -> None:
    model = of_pairs()
    assert model.predict(("good", "bad good"), "sentiment").label == "positive"
    assert [p.label for p in model.predict([("good", "good"), ("bad", "bad")], "sentiment")] == ["positive", "negative"]
    assert len(model.predict(["good", "bad"], "sentiment")) == 2
    assert model.predict_all_tasks(("glad", "glad"))["emotion"].label == "joy"
    assert set(model.classify(("glad", "sad")).predictions) == {"sentiment", "emotion"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            [("good", "bad"), "good"],
            r"texts\[0\] is a pair and texts\[1\] is a single text\. Pass a list of either kind",
        ),
        (["good", ("good", "bad")], r"texts\[0\] is a single text and texts\[1\] is a pair"),
        (("good", "bad", "sad"), "The text is a tuple of 3; a pair has two texts. Pass several texts as a list"),
        (("good", " "), "The second text is empty"),
        ([("good", "bad"), ("", "bad")], r"texts\[1\]\[0\] is empty"),
        ([("good", "bad"), ("good", None)], r"texts\[1\]\[1\] must be a string, not NoneType"),
        (("good", "a" * 20_001), "The second text has 20,001 characters"),
        ([("good", "bad"), ("\x00", "bad")], r"texts\[1\]\[0\] has nothing to classify"),
        (("bad", "\x00"), "The second text has nothing to classify"),
    ],
)
def test_input_that_is_not_a_pair_is_refused(texts: Any, message: str) -> None:
    model = of_pairs()
    if "nothing" in message:
        model.tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("\x00", "")
    with pytest.raises(InputError, match=message):
        model.predict(texts, "sentiment")


def test_a_model_of_single_texts_refuses_a_pair_with_the_remedy() -> None:
    with pytest.raises(
        InputError, match="pair, and nothing says that fake takes pairs.*--pairs .in Python: pairs=True"
    ):
        of_pairs(False).predict(("good", "bad"), "sentiment")


def test_a_single_text_for_a_model_of_pairs_is_answered_and_marked() -> None:
    model = of_pairs()
    assert model.predict("good", "sentiment").unpaired
    assert not model.predict(("good", "bad"), "sentiment").unpaired
    assert not of_pairs(False).predict("good", "sentiment").unpaired


def test_a_text_of_a_pair_without_a_known_word_is_marked() -> None:
    model = of_pairs()
    assert [model.predict(pair, "sentiment").unknown for pair in (("good", "☃"), ("☃ ☃", "bad"), ("good", "bad"))] == [
        True,
        True,
        False,
    ]


# --- Other formats


def test_exported_pairs_are_served_from_their_onnx_files(nli: Path, cache: Path, tmp_path: Path) -> None:
    load(nli, "onnx", cache=cache).export_onnx(tmp_path / "files")
    swapped = [(second, first) for first, second in PAIRS]
    served = load(tmp_path / "files", "onnx", cache=tmp_path / "cache", threads=1)
    assert served.bundle.pairs
    assert np.abs(scores(served, swapped) - by_hand(nli, swapped, types=True)).max() < 1e-5
    tokenizer = json.loads((tmp_path / "files" / "tokenizer" / "tokenizer_config.json").read_text())
    assert "token_type_ids" in tokenizer["model_input_names"]


def test_exported_single_texts_stay_single_although_their_labels_look_like_pairs(
    nli: Path, cache: Path, tmp_path: Path
) -> None:
    load(nli, "onnx", cache=cache, pairs=False).export_onnx(tmp_path / "files")
    assert not describe(tmp_path / "files").pairs


@pytest.mark.slow
def test_adapters_on_pairs_are_those_of_peft_alone_together_and_merged(tmp_path: Path) -> None:
    import shutil

    import torch
    from transformers import AutoTokenizer

    from inference.artifacts.merging import export_merged

    base = foreign.base(tmp_path / "base")
    write_tokenizer(base)
    first = foreign.adapter(tmp_path / "both" / "first", base, labels=3)
    (first / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NLI))}))
    model, tokenizer = foreign.peft_model(first, num_labels=3).eval(), AutoTokenizer.from_pretrained(base)
    rows = []
    for pair in PAIRS:
        fed = tokenizer(*pair, return_tensors="pt", truncation=True, max_length=32, return_token_type_ids=True)
        with torch.no_grad():
            rows.append(torch.softmax(model(**fed).logits.double(), -1)[0].numpy())
    shutil.copytree(first, tmp_path / "alone")
    second = foreign.adapter(tmp_path / "both" / "second", base, labels=3, seed=9)
    with pytest.raises(BundleError, match="of its tasks first, second, only first read pairs of texts"):
        describe(tmp_path / "both", base)
    (second / "config.json").write_text(json.dumps({"id2label": dict(enumerate("xyz")), "pairs": True}))
    for folder in ("alone", "both"):
        for backend in ("pytorch", "onnx"):
            served = load(tmp_path / folder, backend, base=base, cache=tmp_path / "cache", threads=1)
            answers = served.predict(PAIRS, next(iter(served.tasks)))
            assert np.abs(np.array([list(answer.scores.values()) for answer in answers]) - rows).max() < 1e-5
    export_merged(tmp_path / "alone", tmp_path / "merged", base=base)
    assert np.abs(scores(load(tmp_path / "merged", cache=tmp_path)) - rows).max() < 1e-5
    assert np.abs(by_hand(tmp_path / "merged") - rows).max() < 1e-5


def test_a_bundle_of_pairs_reads_segments_if_its_base_has_them(tiny: Tiny, tmp_path: Path) -> None:
    import shutil

    import torch

    from inference.pytorch.network import load_network

    folder = Path(shutil.copytree(tiny.folder, tmp_path / "bundle"))
    described = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(described | {"pairs": True}))
    bundle = describe(folder)
    assert (bundle.pairs, bundle.token_types) == (True, True)
    # The tokenizer of this base has no template for pairs: the second text follows the first, in segment 1.
    model = load(folder, base=tiny.base, threads=1)
    pair = ("it was fine", "so bad")
    encoding = model.encode(pair).encoding
    assert set(encoding.type_ids) == {0, 1}
    network, task = load_network(bundle, tiny.base), next(iter(bundle.tasks))
    with torch.inference_mode():
        ids, types = (torch.tensor([row]) for row in (encoding.ids, encoding.type_ids))
        expected = torch.softmax(network(ids, torch.ones_like(ids), types)[0].double(), -1)[0]
        zeros = torch.softmax(network(ids, torch.ones_like(ids))[0].double(), -1)[0]
    answer = list(model.predict(pair, task).scores.values())
    assert np.allclose(answer, expected, atol=1e-6)
    assert not np.allclose(answer, zeros, atol=1e-6)
    (folder / "bundle.json").write_text(json.dumps(described | {"pairs": "yes"}))
    with pytest.raises(BundleError, match="pairs 'yes' must be true or false"):
        describe(folder)
