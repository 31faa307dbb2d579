"""Tokenizers of every kind: served as AutoTokenizer and SentencePiece read texts, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from hostile import both, drop, edit, exported, remove
from tokenizers import Tokenizer

from inference import load
from inference.assets import calibration_texts, showcase_texts
from inference.commands.doctor import Finding, examine
from inference.errors import BundleError
from inference.formats import tokenizer as tokenizer_module
from inference.formats.describe import describe
from inference.formats.files import sha256
from inference.formats.tokenizer import PYTHON_KINDS, PYTHON_TOKENIZERS, convert_tokenizer, unknown_token

CONFIG, SETTINGS = "config.json", "tokenizer_config.json"
ODD = ["WHY did the 7.30 bus not come?!", "a  b\tc", " leading", "naïve café", "日本語", "😀 ok", "x" * 300]
ROWS = len(foreign.WORDS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def graver(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


def save(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Change the tokenizer as somebody would with transformers, and save it again."""

    def spoil(folder: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)

    return spoil


def automatic(folder: Path, text: str, length: int = 32) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=length)["input_ids"]
    return ids


# --- Tokens and embeddings


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            save(lambda t: t.add_tokens(["covid"])),
            rf"has 87 tokens, added .*for {ROWS}\. Without one are 'covid' \(86\)",
        ),
        (save(lambda t: t.add_tokens([f"new{i}" for i in range(9)])), r"'new0' \(86\), .*'new3' \(89\), …\."),
        (save(lambda t: t.add_special_tokens({"additional_special_tokens": ["<e1>"]})), r"'<e1>' \(86\)"),
        (edit(SETTINGS, cls_token="<start>", tokenizer_class="BertTokenizer"), r"'<start>' \(8"),
        (edit(CONFIG, pad_token_id=ROWS), rf"pad_token_id is {ROWS}, .*for {ROWS} tokens, from 0 to 85"),
    ],
)
def test_token_without_an_embedding_is_refused_at_load_and_by_the_doctor(
    spoil: Callable[[Path], Any], reason: str, model: Path, tmp_path: Path
) -> None:
    spoil(model)
    with pytest.raises(BundleError, match=reason):
        load(model, cache=tmp_path / "cache")
    errors = [finding.what for finding in examine(model, cache=tmp_path / "cache") if finding.severity == "error"]
    assert any("embeddings for 86" in error for error in errors)


def test_token_ids_that_would_fill_the_memory_are_refused(model: Path, tmp_path: Path) -> None:
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["covid"] = 100_000_000
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="gives a token the id 100,000,000; the limit is 10,000,000"):
        load(model, cache=tmp_path / "cache")
    assert any(finding.severity == "error" for finding in examine(model, cache=tmp_path / "cache"))


def test_rows_are_counted_in_the_weights(model: Path, tmp_path: Path) -> None:
    both(drop(CONFIG, "vocab_size"), save(lambda t: t.add_tokens(["covid"])))(model)
    assert describe(model).vocab_size == ROWS


@pytest.mark.parametrize("token", ["[MASK]", "<image>"])
def test_special_token_that_training_never_used_is_ordinary_text(token: str, model: Path, tmp_path: Path) -> None:
    """As the padding token that people add to a decoder, or Gemma 3's token for images: both have no embedding."""
    without = load(model, cache=tmp_path / "cache").predict(f"a {token} lamp")
    save(lambda t: setattr(t, "mask_token", token))(model)
    assert automatic(model, token) == [2, ROWS, 3]
    assert load(model, cache=tmp_path / "cache").predict(f"a {token} lamp") == without
    assert graver(examine(model, cache=tmp_path / "cache")) == []


def test_added_tokens_with_embeddings_are_served(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", vocab_size=ROWS + 1)
    save(lambda t: t.add_tokens(["covid"]))(folder)
    classifier = load(folder, cache=tmp_path / "cache")
    assert classifier.tokenize(["a covid test"]).ids == [automatic(folder, "a covid test")]
    assert ROWS in classifier.tokenize(["a covid test"]).ids[0]
    assert graver(examine(folder, cache=tmp_path / "cache")) == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: save(lambda t: t.add_tokens(["covid"]))(folder / "tokenizer"), r"'covid' \(86\): .*idx=86"),
        (both(edit("label_config.json", max_length=100), drop(f"tokenizer/{SETTINGS}", "model_max_length")), "100 tok"),
    ],
)
def test_graph_without_room_for_a_token_or_a_length_is_refused(
    spoil: Callable[[Path], Any], reason: str, original: Path, tmp_path: Path
) -> None:
    exported(original, tmp_path / "onnx" / "model")
    spoil(tmp_path / "onnx" / "model")
    with pytest.raises(BundleError, match=rf"cannot read .*{reason}"):
        load(tmp_path / "onnx" / "model", "onnx", cache=tmp_path / "cache")
    assert "cannot read" in examine(tmp_path / "onnx" / "model", cache=tmp_path / "cache")[0].what


def test_tokenizer_without_a_token_for_unknown_text_is_refused(model: Path, tmp_path: Path) -> None:
    raw = json.loads((model / "tokenizer.json").read_text())
    raw["model"]["unk_token"] = "<none>"
    (model / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="Cannot read the tokenizer .*Missing"):
        load(model, cache=tmp_path / "cache")


# --- What AutoTokenizer makes of the files


@pytest.mark.parametrize(
    "spoil",
    [
        remove(SETTINGS),
        edit(SETTINGS, tokenizer_class="BertTokenizer", do_lower_case=False),
        edit(SETTINGS, split_special_tokens=True),
        edit(SETTINGS, truncation_side="left", padding_side="left"),
        edit(SETTINGS, add_bos_token=True, add_eos_token=False, bos_token="[CLS]"),
        edit("added_tokens.json", e=8),
        edit("special_tokens_map.json", unk_token="a"),
    ],
)
def test_texts_are_read_as_auto_tokenizer_reads_them(spoil: Callable[[Path], Any], model: Path, tmp_path: Path) -> None:
    spoil(model)
    classifier = load(model, cache=tmp_path / "cache")
    texts = [*showcase_texts()[:20], *ODD, "[CLS] a [SEP] b"]
    length = classifier.bundle.max_tokens
    assert classifier.tokenize(texts).ids == [automatic(model, text, length) for text in texts]


def test_the_doctor_says_which_of_two_tokenizers_is_served(model: Path, tmp_path: Path) -> None:
    edit(SETTINGS, tokenizer_class="BertTokenizer", do_lower_case=False)(model)
    (finding,) = graver(examine(model, cache=tmp_path / "cache"))
    assert finding.severity == "warning"
    assert "tokenizer.json and transformers' AutoTokenizer (served) read 'It was" in finding.what
    edit(SETTINGS, do_lower_case=True)(model)
    assert graver(examine(model, cache=tmp_path / "cache")) == []


# --- Tokenizers that are Python code


def python_classes() -> Iterator[tuple[str, str]]:
    """Every architecture of transformers whose tokenizer the tokenizers library cannot run, and the class."""
    from transformers import TokenizersBackend
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    for kind, name in TOKENIZER_MAPPING_NAMES.items():
        if name and not issubclass(tokenizer_class_from_name(name) or TokenizersBackend, TokenizersBackend):
            yield kind, name


def test_the_list_of_python_tokenizers_is_that_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    classes = dict(python_classes())
    assert {name.removesuffix("Tokenizer") for name in classes.values()} <= set(PYTHON_TOKENIZERS)
    assert {kind for kind in classes if kind in CLASSIFIERS} <= set(PYTHON_KINDS)
    assert set(PYTHON_KINDS) <= set(classes)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (edit(SETTINGS, tokenizer_class="BertweetTokenizer"), "a BertweetTokenizer"),
        (edit(SETTINGS, tokenizer_class="PhobertTokenizerFast"), "a PhobertTokenizerFast"),
        (both(remove(SETTINGS), edit(CONFIG, tokenizer_class="BertJapaneseTokenizer")), "a BertJapaneseTokenizer"),
        (both(remove(SETTINGS), edit(CONFIG, model_type="canine")), "that of canine"),
    ],
)
def test_python_tokenizer_is_refused_with_its_name(
    spoil: Callable[[Path], Any], what: str, model: Path, tmp_path: Path
) -> None:
    spoil(model)
    with pytest.raises(BundleError, match=f"is {what}, which transformers has as Python code only"):
        describe(model)
    assert f"is {what}, which" in examine(model, cache=tmp_path)[0].what


def test_python_tokenizer_of_any_name_is_refused_by_the_conversion(model: Path) -> None:
    from transformers import BertTokenizerLegacy

    (model / "vocab.txt").write_text("\n".join(foreign.WORDS))
    both(remove("tokenizer.json"), edit(SETTINGS, tokenizer_class=BertTokenizerLegacy.__name__))(model)
    with pytest.raises(BundleError, match="is a BertTokenizerLegacy, which transformers has as Python code only"):
        convert_tokenizer(model)


def test_tokenizer_of_another_name_or_another_folder_is_refused(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(model / "tokenizer.json", elsewhere / "tokenizer.4.0.0.json")
    for name in ("tokenizer.4.0.0.json", "../elsewhere/tokenizer.4.0.0.json"):
        edit(SETTINGS, fast_tokenizer_files=["tokenizer.json", name])(model)
        with pytest.raises(BundleError, match="names a tokenizer for each version of transformers"):
            load(model, cache=tmp_path / "cache")
        assert "fast_tokenizer_files" in examine(model, cache=tmp_path)[0].what


def test_files_beside_those_of_a_tokenizer_are_not_read(model: Path) -> None:
    (model / "vocab.txt").write_text("\n".join(foreign.WORDS))
    both(remove("tokenizer.json"), edit(SETTINGS, tokenizer_class="BertTokenizer"))(model)
    expected = convert_tokenizer(model)
    for name in ("tekken.json", "tiktoken.model", "any.model"):
        (model / name).write_text("{}")
    assert convert_tokenizer(model) == expected


# --- SentencePiece models without tokenizer.json

CLS = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "add_dummy_prefix": False, "model_type": "bpe", **PLAIN}
XLNET = {"unk_id": 0, "control_symbols": ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]}
LLAMA = {"model_type": "bpe", **PLAIN}
# Architecture -> name of the file, how it was trained, tokenizer_config.json, and by how much ids exceed the model's.
SENTENCEPIECE: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "deberta-v2": ("spm.model", CLS | {"pad_piece": "[PAD]", "unk_piece": "[UNK]"}, {"do_lower_case": False}, 0),
    "xlm-roberta": ("sentencepiece.bpe.model", {}, {}, 1),
    "camembert": ("sentencepiece.bpe.model", {}, {}, 4),
    "albert": ("spiece.model", CLS, {"do_lower_case": False}, 0),
    "t5": ("spiece.model", T5, {}, 0),
    "mt5": ("spiece.model", T5, {}, 0),
    "xlnet": ("spiece.model", XLNET, {}, 0),
    "mbart": ("sentencepiece.bpe.model", {}, {}, 1),
    "llama": ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer"}, 0),
    "gemma": ("tokenizer.model", GEMMA, {"tokenizer_class": "GemmaTokenizer"}, 0),
}
# What transformers makes of these is not what SentencePiece reads, or it makes nothing of them.
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "rembert": ("sentencepiece.model", CLS, {}, "adds no special tokens"),
    "mistral": ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer"}, "reads .* differently from it"),
    "umt5": ("spiece.model", T5, {"tokenizer_class": "T5Tokenizer"}, "Couldn't instantiate"),
}


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a SentencePiece model of some hundred pieces, once for each kind."""
    from sentencepiece import SentencePieceTrainer

    folder, trained = tmp_path_factory.mktemp("sentencepiece"), dict[str, Path]()

    def train(**options: Any) -> Path:
        key = json.dumps(options)
        if key not in trained:
            prefix = folder / str(len(trained))
            SentencePieceTrainer.train(
                sentence_iterator=iter(calibration_texts()),
                model_prefix=str(prefix),
                vocab_size=400,
                hard_vocab_limit=False,
                minloglevel=2,
                **options,
            )
            trained[key] = prefix.with_suffix(".model")
        return trained[key]

    return train


def write(folder: Path, kind: str, name: str, model: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir()
    shutil.copyfile(model, folder / name)
    (folder / CONFIG).write_text(json.dumps({"model_type": kind}))
    if settings:
        (folder / SETTINGS).write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_sentencepiece_model_is_read_as_transformers_and_sentencepiece_read_it(
    kind: str, sentencepiece: Callable[..., Path], tmp_path: Path
) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    name, options, settings, offset = SENTENCEPIECE[kind]
    folder = write(tmp_path / "model", kind, name, sentencepiece(**options), settings)
    served, transformers = Tokenizer.from_str(convert_tokenizer(folder)), AutoTokenizer.from_pretrained(folder)
    for text in [*showcase_texts(), *ODD]:
        ids = transformers(text, truncation=True, max_length=512)["input_ids"]
        assert served.encode(text).ids == ids, text
    unknown = unknown_token(served)
    original = SentencePieceProcessor(model_file=str(folder / name))
    for text in showcase_texts():
        pieces = [number + offset if number != original.unk_id() else unknown for number in original.encode(text)]
        special = served.encode(text).special_tokens_mask
        ids = [number for number, hidden in zip(served.encode(text).ids, special, strict=True) if not hidden]
        assert ids == pieces or not text.isascii(), text


@pytest.mark.parametrize("kind", REFUSED)
def test_sentencepiece_model_that_transformers_converts_wrongly_is_refused(
    kind: str, sentencepiece: Callable[..., Path], tmp_path: Path
) -> None:
    name, options, settings, reason = REFUSED[kind]
    folder = write(tmp_path / "model", kind, name, sentencepiece(**options), settings)
    with pytest.raises(BundleError, match=rf"{reason}.* AutoTokenizer of transformers 4.57 saves"):
        convert_tokenizer(folder)


def test_damaged_sentencepiece_model_is_refused_by_its_name(sentencepiece: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "deberta-v2", "spm.model", sentencepiece(), {})
    (folder / "spm.model").write_bytes(b"a tokenizer" * 99)
    with pytest.raises(BundleError, match=r"Cannot read the SentencePiece model .*spm\.model .*Restore it"):
        convert_tokenizer(folder)


def test_classifier_with_a_sentencepiece_model_answers_as_transformers_does(
    sentencepiece: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    name, options, settings, _ = SENTENCEPIECE["deberta-v2"]
    folder = foreign.classifier(tmp_path / "model", "deberta-v2", vocab_size=500)
    remove("tokenizer.json")(folder)
    shutil.copyfile(sentencepiece(**options), folder / name)
    (folder / SETTINGS).write_text(json.dumps(settings | {"model_max_length": 32}))
    expected = foreign.by_hand(AutoModelForSequenceClassification.from_pretrained(folder), folder)
    for backend in ("pytorch", "onnx"):
        predictions = load(folder, backend, cache=tmp_path / "cache").predict(foreign.TEXTS)
        scores = [list(prediction.scores.values()) for prediction in predictions]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert graver(examine(folder, cache=tmp_path / "cache")) == []


def test_converted_tokenizer_in_the_cache_belongs_to_one_version_of_the_conversion(model: Path, tmp_path: Path) -> None:
    load(model, cache=tmp_path / "cache")
    (converted,) = (tmp_path / "cache" / "tokenizers").iterdir()
    assert sha256(Path(tokenizer_module.__file__))[:16] in converted.name
