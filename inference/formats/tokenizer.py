"""The tokenizer of a model, wherever it lies and in whatever format."""

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
from inference.formats.files import VOCABULARIES

TOKENIZER = "tokenizer.json"
TOKENIZER_BYTES = 200_000_000

# What a tokenizer's special tokens are called, by what they are for.
ROLES = {
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def tokenizer_source(bundle: Bundle, base: Path | None = None) -> Path:
    """The folder whose tokenizer prepares the texts of this model: its own where it has one, else its base's."""
    if bundle.tokenizer is not None:
        return bundle.tokenizer
    return bundle.folder if bundle.base is None else locate_base(bundle.base, base)


def write_tokenizer(bundle: Bundle, target: Path, base: Path | None = None) -> None:
    """Put the model's tokenizer into the file `target`, converted where it is in an older format.

    Raises:
        BundleError: there is none that can be read.
    """
    source = tokenizer_source(bundle, base)
    if (source / TOKENIZER).is_file():
        read_tokenizer(bundle, source / TOKENIZER)  # what is wrong with it is told of this file, and not of the copy
    if is_final(bundle, source):
        shutil.copyfile(source / TOKENIZER, target)
        return
    target.write_text(convert_tokenizer(source), encoding="utf-8")


def is_final(bundle: Bundle, source: Path) -> bool:
    """Whether tokenizer.json alone says how texts are read.

    In folders of transformers, its tokenizer_config.json can say otherwise (lower case, which end is cut off).
    """
    if bundle.format in ("bundle", "onnx"):
        return True
    return (source / TOKENIZER).is_file() and not (source / "tokenizer_config.json").exists()


def read_tokenizer(bundle: Bundle, path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        BundleError: it cannot be read, or knows more tokens than the model has embeddings.
    """
    if path.stat().st_size > TOKENIZER_BYTES:
        raise BundleError(f"{path} has {path.stat().st_size:,} bytes; {TOKENIZER_BYTES:,} are the most. Restore it.")
    try:
        found = Tokenizer.from_file(str(path))
        size = found.get_vocab_size(with_added_tokens=False)  # an added [MASK] never comes out of a text
    except BaseException as error:  # the Rust library panics on some of what it cannot read, past Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise BundleError(f"{path} is no tokenizer that can be read ({str(error)[:200]}). Restore it.") from None
    if bundle.vocab_size is not None and size > bundle.vocab_size:
        raise BundleError(
            f"The tokenizer of {bundle.folder} knows {size:,} tokens, and the model has embeddings for "
            f"{bundle.vocab_size:,}. It belongs to another model: put the right one there."
        )
    return found


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


def save_tokenizer(source: Path, folder: Path, max_tokens: int, pad_id: int) -> None:
    """Write a tokenizer into a folder, its limits set, as `AutoTokenizer` and `tokenizers` both read it.

    Raises:
        ExportError: it has no token `pad_id`.
    """
    tokenizer = Tokenizer.from_file(str(source))
    pad_token = tokenizer.id_to_token(pad_id)
    if pad_token is None:
        raise ExportError(f"{source} has no token {pad_id}, which the model is said to be padded with.")
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(max_tokens, direction=direction)
    tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=pad_token)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    # Only what is special in the tokenizer's own file: any other would be read differently by `AutoTokenizer`.
    roles = {role: name for role, names in ROLES.items() for name in names if name in special}
    roles["pad_token"] = pad_token
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=1), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],  # one text is one segment
        "padding_side": "right",
        "truncation_side": direction,
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def convert_tokenizer(folder: Path) -> str:
    """The tokenizer of a folder as transformers reads it, in the format of the library tokenizers.

    Raises:
        BundleError: transformers cannot read or cannot convert it.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make one up
        raise BundleError(
            f"{folder} has no tokenizer: none of {', '.join(VOCABULARIES)}. Save it beside the model "
            "(tokenizer.save_pretrained)."
        )
    try:
        with importing("This tokenizer", "-r requirements.txt"), quiet_transformers(), warnings.catch_warnings():
            from transformers import AutoTokenizer

            warnings.simplefilter("ignore")
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
        backend = found.backend_tokenizer
        # Kept in the file for whoever cuts: the length is theirs to choose, the end is not.
        backend.enable_truncation(512, direction=found.truncation_side)
        return str(backend.to_str())
    except MissingDependencyError:
        raise
    except BaseException as error:  # whatever the many tokenizers raise; the Rust library panics past Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(
            f"{folder} has no tokenizer that can be read ({first[:200]}). Save it beside the model."
        ) from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of transformers: what matters in them is said by us."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
