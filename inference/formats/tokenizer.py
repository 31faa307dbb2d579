"""The tokenizer of a model, in any folder and any format."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from inference.assets import showcase_texts
from inference.errors import BundleError, ExportError, InferenceError, importing
from inference.formats.bundle import Bundle, locate_base
from inference.formats.files import (
    OTHER_BYTES,
    TOKENIZER_CONFIG,
    TOKENIZERS,
    VOCABULARIES,
    check_bytes,
    check_file,
    read_json_in,
)

TOKENIZER = "tokenizer.json"
# The token limit if a tokenizer has none: both source guides train with 128, and a model that reads more than it was
# trained on gets worse.
MAX_TOKENS = 128
# A tokenizer that keeps more tokens than CONTEXT records the window of a generative base, not the length used in
# training. Attention takes up to 12 bytes for each head and each pair of tokens: with 16 heads and LONGEST, 3 GB.
CONTEXT, LONGEST = 8192, 4096
# The classes that transformers has as Python code only: nothing that tokenizers, the library, could run. And the
# architectures whose tokenizer is one of them if the folder names none.
PYTHON_TOKENIZERS = (
    *("Bartpho", "BertGeneration", "BertJapanese", "Bertweet", "BioGpt", "BlenderbotSmall", "ByT5", "CTRL", "Canine"),
    *("Clvp", "CpmAnt", "Cpm", "Dia", "Esm", "FSMT", "FastSpeech2Conformer", "Flaubert", "GPTNeoXJapanese", "GPTSw3"),
    *("M2M100", "Marian", "Mgpstr", "MyT5", "PLBart", "Perceiver", "Phobert", "Pop2Piano", "ProphetNet", "Rag"),
    *("RoCBert", "Siglip", "Speech2Text", "SpeechT5", "Tapas", "Vits", "Wav2Vec2CTC", "Wav2Vec2PhonemeCTC", "XLM"),
)
PYTHON_KINDS = (
    *("biogpt", "canine", "ctrl", "esm", "flaubert", "perceiver", "plbart", "roc_bert", "tapas", "xlm"),
    *("bartpho", "bert-generation", "bert-japanese", "bertweet", "blenderbot-small", "byt5", "cpm", "cpmant"),
    *("gpt-sw3", "gpt_neox_japanese", "m2m_100", "marian", "myt5", "phobert", "prophetnet"),
)
_SAVE_CONVERTED = (
    "Put the tokenizer.json there that AutoTokenizer of transformers 4.57 saves, with "
    '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
)
MAX_TOKEN_ID = 10_000_000  # the tokenizers library allocates a place for every id up to the largest
PROBE = "a \U00010840"  # with a letter that no vocabulary has

# The names of special tokens, by their role.
ROLES = {
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


# Tokenizers that give token_type_ids in transformers 4, and not in 5.
TYPES_BEFORE_5 = (
    "AlbertTokenizer",
    "FunnelTokenizer",
    "RemBertTokenizer",
    "RoFormerTokenizer",
    "SplinterTokenizer",
    "TokenizersBackend",
    "XLNetTokenizer",
)


def tokenizer_source(bundle: Bundle, base: Path | None = None) -> Path:
    """Return the folder of the tokenizer that prepares texts for this model: its own, or else its base's."""
    if bundle.tokenizer is not None:
        return bundle.tokenizer
    return bundle.folder if bundle.base is None else locate_base(bundle.base, base)


def check_tokenizer_class(folder: Path) -> None:
    """Raise BundleError if transformers has the tokenizer of a folder as Python code only."""
    config = read_json_in(folder, "config.json")
    name = read_json_in(folder, TOKENIZER_CONFIG).get("tokenizer_class") or config.get("tokenizer_class")
    short = str(name).removesuffix("Fast").removesuffix("Tokenizer")
    if short in PYTHON_TOKENIZERS if name else config.get("model_type") in PYTHON_KINDS:
        _refuse_python(folder, f"a {name}" if name else f"that of {config['model_type']}")


def _refuse_python(folder: Path, what: str) -> None:
    raise BundleError(
        f"The tokenizer in {folder} is {what}, which transformers has as Python code only, without the fast form that "
        "is served here. Put a tokenizer.json that gives the same token ids there, with "
        '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json.'
    )


def write_tokenizer(bundle: Bundle, target: Path, base: Path | None = None) -> None:
    """Write the tokenizer that prepares the model's texts to the file `target`."""
    source = tokenizer_source(bundle, base)
    if is_final(bundle):
        read_tokenizer(bundle, source / TOKENIZER)  # so that an error names this file, not the copy
        shutil.copyfile(source / TOKENIZER, target)
    else:
        target.write_text(convert_tokenizer(source, bundle.vocab_size), encoding="utf-8")


def is_final(bundle: Bundle) -> bool:
    """Return whether tokenizer.json alone says how texts are read.

    In folders of transformers, other files can override it (lower case, the class, which end is cut off), and the
    tokenizer that AutoTokenizer makes of them all is served.
    """
    return bundle.format in ("bundle", "onnx")


def read_tokenizer(bundle: Bundle, path: Path) -> Tokenizer:
    """Read the tokenizer of a model from a file.

    Raises:
        BundleError: it cannot be read, or a text can give a token for which the model has no embedding.
    """
    check_bytes(path, OTHER_BYTES)
    with _reporting(f"Cannot read the tokenizer {path}", "Restore it"):
        tokenizer = Tokenizer.from_file(str(path))
        _check_ids(tokenizer, path)
        special = tokenizer.encode(PROBE)  # fails if there is no token for what the vocabulary lacks
        if bundle.vocab_size is None:
            return tokenizer
        tokens = {**dict(zip(special.tokens, special.ids, strict=True)), **tokenizer.get_vocab()}
    beyond = sorted((number, token) for token, number in tokens.items() if number >= bundle.vocab_size)
    if beyond:
        named = ", ".join(f"{token[:40]!r} ({number})" for number, token in beyond[:4])
        raise BundleError(
            f"The tokenizer of {bundle.folder} has {len(tokens):,} tokens, added ones included, and the model has "
            f"embeddings for {bundle.vocab_size:,}. Without one are {named}{', …' if len(beyond) > 4 else ''}. Use the "
            "tokenizer from training; for added tokens, train after model.resize_token_embeddings(len(tokenizer))."
        )
    return tokenizer


def _check_ids(tokenizer: Tokenizer, path: Path) -> None:
    if (largest := max(tokenizer.get_vocab().values(), default=0)) > MAX_TOKEN_ID:
        raise BundleError(
            f"The tokenizer {path} gives a token the id {largest:,}; the limit is {MAX_TOKEN_ID:,}. Restore it."
        )


def tokenizer_max_length(folder: Path) -> float | None:
    """Return how many tokens of a text the tokenizer in a folder keeps, if it says so."""
    length = read_json_in(folder, TOKENIZER_CONFIG).get("model_max_length")
    if not isinstance(length, int | float) or isinstance(length, bool) or not 0 < length < 1_000_000:
        return None  # transformers writes 1e30 for "unknown"
    return length


def pad_token_id(folder: Path) -> int:
    """Return the id of the padding token that the files of a tokenizer name; 0 if they name none."""
    named = read_json_in(folder, TOKENIZER_CONFIG).get("pad_token")
    text = named.get("content") if isinstance(named, dict) else named
    added = read_json_in(folder, TOKENIZER, OTHER_BYTES).get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and entry.get("content") == text and isinstance(entry.get("id"), int):
            return max(0, int(entry["id"]))
    return 0


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token for text that the vocabulary lacks; None if the tokenizer spells out every byte."""
    model = tokenizer.model
    # A Unigram model does not say: SentencePiece uses the first name, DeBERTa the second.
    names = [model.unk_token] if hasattr(model, "unk_token") else ["<unk>", "[UNK]"]
    ids = [tokenizer.token_to_id(name) for name in names if name]
    return next((number for number in ids if number is not None), None)


def is_unknown(encoding: Encoding, unknown: int | None, pieces: Iterable[int] | None = None) -> bool:
    """Return whether the vocabulary has nothing for a text, or for some of its pieces.

    Args:
        encoding: of the text.
        unknown: `unknown_token` of its tokenizer.
        pieces: positions of the tokens to look at; all but the special ones by default.
    """
    if unknown is None or unknown not in encoding.ids:
        return False
    if pieces is None:
        pieces = (piece for piece, special in enumerate(encoding.special_tokens_mask) if not special)
    # SentencePiece puts the space before a word into a piece of its own if it has no other.
    return {encoding.ids[piece] for piece in pieces if encoding.tokens[piece].strip("\u2581")} == {unknown}


def save_tokenizer(source: Path, folder: Path, max_tokens: int, pad_id: int, *, pairs: bool = False) -> None:
    """Write a tokenizer with these limits into a folder, for both `AutoTokenizer` and the tokenizers library.

    Args:
        pairs: the model takes pairs of texts, whose segments it may distinguish.

    Raises:
        ExportError: it has no token `pad_id`.
    """
    tokenizer = Tokenizer.from_file(str(source))
    pad_token = tokenizer.id_to_token(pad_id)
    if pad_token is None:
        raise ExportError(f"{source} has no token {pad_id}, the model's padding token.")
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(max_tokens, direction=direction)
    tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=pad_token)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    # Only tokens that are special in the tokenizer's own file: `AutoTokenizer` would read any other differently.
    roles = {role: name for role, names in ROLES.items() for name in names if name in special}
    if pad_token in special:  # a decoder may be padded with any token
        roles["pad_token"] = pad_token
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        # One text is one segment.
        "model_input_names": ["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        "padding_side": "right",
        "truncation_side": direction,
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    for name, content in (("special_tokens_map.json", roles), (TOKENIZER_CONFIG, config)):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def check_transformers_config(folder: Path) -> None:
    """Raise BundleError, naming the setting, if transformers has this model_type and cannot read its config.json."""
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    if read_json_in(folder, "config.json").get("model_type") not in CONFIG_MAPPING:
        return
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the class of an architecture raises
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise BundleError(
            f"{folder / 'config.json'}: transformers {__version__} cannot read it ({reason}). Correct that setting."
        ) from None


def convert_tokenizer(folder: Path, rows: int | None = None) -> str:
    """Return the tokenizer of a folder, as transformers reads it, in the format of the tokenizers library.

    Args:
        rows: of the embedding table, if known: special tokens beyond it that have only a role, such as a padding token
            that training never used, become ordinary text.
    """
    # Only the files that a content key covers: transformers looks for more, such as any *.model.
    with tempfile.TemporaryDirectory() as copied:
        for name in ("config.json", *TOKENIZERS):
            if (folder / name).exists():
                shutil.copyfile(check_file(folder, name), Path(copied) / name)
        try:
            return _convert(Path(copied), rows)
        except BundleError as error:
            raise BundleError(str(error).replace(copied, str(folder))) from None


def _convert(folder: Path, rows: int | None) -> str:
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would invent one
        raise BundleError(
            f"{folder} has no tokenizer: none of {', '.join(VOCABULARIES)}. Save it beside the model "
            "(tokenizer.save_pretrained)."
        )
    versions = read_json_in(folder, TOKENIZER_CONFIG).get("fast_tokenizer_files")
    if versions and versions != [TOKENIZER]:  # paths, which transformers follows out of the folder
        raise BundleError(
            f"{folder / TOKENIZER_CONFIG} names a tokenizer for each version of transformers (fast_tokenizer_files: "
            f"{str(versions)[:60]}). Rename the one from training to {TOKENIZER}, and remove that setting."
        )
    with importing("This tokenizer", "-r requirements.txt"):
        pieces = _sentencepiece(folder)
        check_transformers_config(folder)
    remedy = "Save it beside the model" if pieces is None else _SAVE_CONVERTED
    with _reporting(f"Cannot read the tokenizer in {folder}", remedy):
        with importing("This tokenizer", "-r requirements.txt"), quiet_transformers(), warnings.catch_warnings():
            from transformers import AutoTokenizer

            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_fast=True
            )
        if not hasattr(tokenizer, "backend_tokenizer"):
            _refuse_python(folder, f"a {type(tokenizer).__name__}")
        if pieces is not None:
            _check_pieces(folder, tokenizer, pieces)
        backend = tokenizer.backend_tokenizer
        _check_ids(backend, folder)
        # Recorded for the caller, who chooses the length but not the end that is cut off.
        backend.enable_truncation(512, direction=tokenizer.truncation_side)
        content = json.loads(backend.to_str())
        roles, always = tokenizer.special_tokens_map.values(), backend.encode("").ids
        content["added_tokens"] = [
            token
            for token in content["added_tokens"]
            if not (token["special"] and tokenizer.split_special_tokens)
            and (rows is None or token["id"] < rows or token["content"] not in roles or token["id"] in always)
        ]
        if not ("token_type_ids" in tokenizer.model_input_names or _gave_types(folder, type(tokenizer).__name__)):
            _drop_types(content)
        return json.dumps(content, ensure_ascii=False)


def _gave_types(folder: Path, name: str) -> bool:
    """Return whether a model in `folder` got token_type_ids in training that its tokenizer no longer gives."""
    settings = read_json_in(folder, TOKENIZER_CONFIG)
    is_newer = "backend" in settings  # transformers 5 writes it
    return name in TYPES_BEFORE_5 and not is_newer and "model_input_names" not in settings


def _drop_types(content: dict[str, Any]) -> None:
    """Let the JSON of a tokenizer put both texts of a pair into one segment."""
    waiting = [content.get("post_processor")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "type_id" in value:
                value["type_id"] = 0
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _sentencepiece(folder: Path) -> Any:
    """Return the SentencePiece model that transformers converts if a folder has no tokenizer.json, else None."""
    path = next((folder / name for name in VOCABULARIES if name.endswith(".model") and (folder / name).is_file()), None)
    if path is None or (folder / TOKENIZER).is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    with _reporting(f"Cannot read the SentencePiece model {path}", "Restore it"):
        return SentencePieceProcessor(model_file=str(path))


def _check_pieces(folder: Path, tokenizer: Any, pieces: Any) -> None:
    """Raise BundleError unless transformers' conversion cuts plain texts as SentencePiece does.

    For some classes it loses the space before the first word, or all special tokens. Plain are lower-case ASCII texts:
    what a class does to case and accents is its own setting.
    """
    texts = [" ".join(text.lower().split()) for text in showcase_texts() if text.isascii()]
    text = next((text for text in texts if tokenizer.tokenize(text) != pieces.encode(text, out_type=str)), None)
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    if text is not None or (tokenizer.cls_token is not None and not any(special)):
        from transformers import __version__

        reason = "adds no special tokens" if text is None else f"reads {text!r} differently from it"
        raise BundleError(
            f"The tokenizer in {folder} is a SentencePiece model, and what transformers {__version__} makes of it "
            f"({type(tokenizer).__name__}) {reason}. {_SAVE_CONVERTED}."
        )


@contextlib.contextmanager
def _reporting(problem: str, remedy: str) -> Iterator[None]:
    """Turn every error of a tokenizer library into a BundleError; the Rust one panics with a BaseException."""
    try:
        yield
    except (InferenceError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(f"{problem} ({reason[:200]}). {remedy}.") from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers; what matters in them is reported by this package."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
