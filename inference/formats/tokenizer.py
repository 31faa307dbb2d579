"""The tokenizer of a model, in any folder and any format."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from inference.errors import BundleError, ExportError, MissingDependencyError, importing
from inference.formats.bundle import Bundle, locate_base
from inference.formats.files import OTHER_BYTES, TOKENIZER_CONFIG, VOCABULARIES, check_bytes, read_json_in

TOKENIZER = "tokenizer.json"

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


def write_tokenizer(bundle: Bundle, target: Path, base: Path | None = None) -> None:
    """Write the model's tokenizer to the file `target`, converted if it is in an older format."""
    source = tokenizer_source(bundle, base)
    if (source / TOKENIZER).is_file():
        read_tokenizer(bundle, source / TOKENIZER)  # so that an error names this file, not the copy
    if is_final(bundle, source):
        shutil.copyfile(source / TOKENIZER, target)
    else:
        target.write_text(convert_tokenizer(source), encoding="utf-8")


def is_final(bundle: Bundle, source: Path) -> bool:
    """Return whether tokenizer.json alone says how texts are read.

    In folders of transformers, tokenizer_config.json can override it (lower case, which end is cut off).
    """
    if bundle.format in ("bundle", "onnx"):
        return True
    return (source / TOKENIZER).is_file() and not (source / TOKENIZER_CONFIG).exists()


def read_tokenizer(bundle: Bundle, path: Path) -> Tokenizer:
    """Read the tokenizer of a model from a file."""
    check_bytes(path, OTHER_BYTES)
    with _reporting(f"Cannot read the tokenizer {path}", "Restore it"):
        tokenizer = Tokenizer.from_file(str(path))
        size = tokenizer.get_vocab_size(with_added_tokens=False)  # an added [MASK] never results from a text
    if bundle.vocab_size is not None and size > bundle.vocab_size:
        raise BundleError(
            f"The tokenizer of {bundle.folder} has {size:,} tokens, and the model has embeddings for "
            f"{bundle.vocab_size:,}. It belongs to another model: put the right one there."
        )
    return tokenizer


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


def convert_tokenizer(folder: Path) -> str:
    """Return the tokenizer of a folder, as transformers reads it, in the format of the tokenizers library."""
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would invent one
        raise BundleError(
            f"{folder} has no tokenizer: none of {', '.join(VOCABULARIES)}. Save it beside the model "
            "(tokenizer.save_pretrained)."
        )
    with _reporting(f"Cannot read the tokenizer in {folder}", "Save it beside the model"):
        with importing("This tokenizer", "-r requirements.txt"), quiet_transformers(), warnings.catch_warnings():
            from transformers import AutoTokenizer

            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_fast=True
            )
        backend = tokenizer.backend_tokenizer
        # Recorded for the caller, who chooses the length but not the end that is cut off.
        backend.enable_truncation(512, direction=tokenizer.truncation_side)
        converted = str(backend.to_str())
        if "token_type_ids" in tokenizer.model_input_names or _gave_types(folder, type(tokenizer).__name__):
            return converted
        return _without_types(converted)


def _gave_types(folder: Path, name: str) -> bool:
    """Return whether a model in `folder` got token_type_ids in training that its tokenizer no longer gives."""
    settings = read_json_in(folder, TOKENIZER_CONFIG)
    is_newer = "backend" in settings  # transformers 5 writes it
    return name in TYPES_BEFORE_5 and not is_newer and "model_input_names" not in settings


def _without_types(tokenizer: str) -> str:
    """Return the JSON of a tokenizer that puts both texts of a pair into one segment."""
    content = json.loads(tokenizer)
    waiting = [content.get("post_processor")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "type_id" in value:
                value["type_id"] = 0
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return json.dumps(content, ensure_ascii=False)


@contextlib.contextmanager
def _reporting(problem: str, remedy: str) -> Iterator[None]:
    """Turn every error of a tokenizer library into a BundleError; the Rust one panics with a BaseException."""
    try:
        yield
    except (MissingDependencyError, KeyboardInterrupt, SystemExit, MemoryError):
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
