"""Checkpoints that hold pickles, made into folders that hold none: the one place where a pickle is opened.

A pickle is a program. RapidFit keeps its heads in one (`task_heads.pt`), and older Hugging Face and PEFT
folders their weights (`*.bin`). Nothing else in this package opens them; `python -m inference import` does,
because its user named exactly this folder, and only after two locks:

1. The file is an uncompressed PyTorch archive, as large as its parts, and every instruction of its pickle is
   one that tensors, numbers, strings and dictionaries need. The instructions are read, not carried out.
2. `torch.load(..., weights_only=True)`, which itself refuses all but a few harmless names. It has been got
   round before (CVE-2025-32434), hence the first.

What comes out is checked value by value, and written to a temporary folder that is renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickletools
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inference.artifacts.rapidfit import read_heads, shown
from inference.errors import BundleError, InputError
from inference.formats.architectures import check_config, check_size, max_positions
from inference.formats.bundle import ENCODER, FORMAT, HEADS_FILE, Bundle
from inference.formats.files import TOKENIZERS, inside, read_json, sha256, tensors

if TYPE_CHECKING:
    from torch import Tensor

HEADS = "task_heads.pt"
MAX_LENGTH = 128  # what RapidFit takes where nobody says otherwise
WEIGHTS = {"pytorch_model.bin": "model.safetensors", "adapter_model.bin": "adapter_model.safetensors"}
CONFIGS = ("config.json", "adapter_config.json", "tokenizer_config.json")
TOKENIZER = "tokenizer.json"
HEADS_BYTES = 1_000_000_000  # two hundred tasks, each with a hidden layer 1,024 wide
WEIGHTS_BYTES = 40_000_000_000
TOKENIZER_BYTES = 100_000_000
PICKLE_BYTES = 5_000_000  # the pickle alone, without the values of tensors: some 100 bytes for each
_SHARED = 4  # names that one tensor may have: a T5 gives its word embeddings that many
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(
        f"torch {kind}Storage"
        for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
    ),
}
_OPCODES = re.compile(
    "APPENDS?|BINFLOAT|BININT[12]?|BINPERSID|BINUNICODE|BUILD|EMPTY_(DICT|LIST|TUPLE)|GLOBAL|LONG1|(LONG_)?BIN(GET|PUT)"
    "|MARK|NEWFALSE|NEWTRUE|NONE|PROTO|REDUCE|SETITEMS?|STOP|TUPLE[123]?"
)


def import_rapidfit(folder: str | Path, out: str | Path, max_length: int | None = None) -> list[str]:
    """Write a checkpoint that RapidFit's `MultiheadClassifier.save` made as a bundle to `out`; returns notes.

    Args:
        out: a new or an empty folder.
        max_length: tokens that the model reads, as it was trained. The checkpoint does not hold this number;
            if left out it is the one that its tokenizer last cut texts to, else 128. A note says so.

    Raises:
        InputError: `out` holds something.
        BundleError: the checkpoint is none, is damaged, or holds what a checkpoint of RapidFit never does.
    """
    folder = Path(folder)
    source, notes = folder / ENCODER, []
    with _new_folder(Path(out)) as made:
        encoder = made / ENCODER
        encoder.mkdir()
        path = _needed(folder, HEADS, "no RapidFit checkpoint. Name the folder that MultiheadClassifier.save wrote")
        config = _config(_needed(source, "config.json", "no encoder. Restore the checkpoint"))
        check_config(config, source / "config.json")
        raw = _read(path, HEADS_BYTES)
        try:
            if isinstance(raw, dict) and "task_heads" in raw:
                raw = {**raw, "task_heads": _tensors(raw["task_heads"], path)}
            heads = read_heads(raw, config.get("hidden_size", config.get("dim")))
        except ValueError as error:
            raise BundleError(f"{path} cannot be imported: {_line(error)}.") from None
        _copy(source, encoder, ("config.json", "model.safetensors"))
        weights = encoder / "model.safetensors"
        if not weights.exists():
            stored = _needed(source, "pytorch_model.bin", "no encoder: it has no model.safetensors either")
            _save(_tensors(_read(stored, WEIGHTS_BYTES), stored), weights)
        check_size(config, sum(math.prod(shape) for _, shape, _ in tensors(weights).values()), source / "config.json")
        _write_tokenizer(source, encoder)
        if max_length is None:
            max_length, note = _max_length(encoder / TOKENIZER, max_positions(config))
            notes.append(note)
        elif not 8 <= max_length <= max_positions(config):
            raise InputError(f"max_length={max_length} must be from 8 to {max_positions(config)}, as the encoder can.")
        _save(heads.weights, made / HEADS_FILE)
        described = {
            "format": FORMAT,
            "name": re.sub(r"[^A-Za-z0-9]+", "-", Path(out).resolve().name).strip("-")[:64] or "imported",
            "tasks": {
                # RapidFit has no threshold: no answer is called uncertain until one is chosen.
                task: {"labels": labels, "problem_type": "single_label_classification", "threshold": 0.0}
                for task, labels in heads.labels.items()
            },
            "pooling": heads.pooling,
            "heads": {"hidden": heads.hidden, "activation": heads.activation},
            "max_tokens": max_length,
            "pad_id": config.get("pad_token_id") or 0,
            "base": {"folder": ENCODER, "files": {file.name: sha256(file) for file in sorted(encoder.iterdir())}},
            "files": {HEADS_FILE: sha256(made / HEADS_FILE)},
            "imported": {"from": "rapidfit", "files": {HEADS: sha256(path)}},
        }
        text = json.dumps(described, indent=1, ensure_ascii=False)
        (made / "bundle.json").write_text(text + "\n", encoding="utf-8")
        try:
            from inference.pytorch.network import load_network

            load_network(Bundle.read(made))  # finds what only shows when it runs: an encoder of another shape, say
        except BundleError as error:
            message = str(error).replace(str(made), str(folder))
            raise BundleError(f"{folder} does not load once imported: {_line(message)}.") from None
    return notes


def import_weights(folder: str | Path, out: str | Path) -> None:
    """Write a Hugging Face or PEFT folder whose weights are `*.bin` to `out`, with safetensors in their place.

    Configuration and tokenizer are copied, and nothing else is.

    Raises:
        InputError: `out` holds something.
        BundleError: there are no such weights, they are damaged, they hold more than tensors, or the folder
            wants code of its own to be run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"No model folder {folder}.")
    found = [name for name in WEIGHTS if (folder / name).exists()]
    if not found:
        reason = (
            "Its weights are safetensors already: it needs no import"
            if any(folder.glob("*.safetensors"))
            else "Weights in several parts are not read: save the model again with save_pretrained"
            if any(folder.glob("*.bin.index.json"))
            else "Name a folder that save_pretrained wrote"
        )
        raise BundleError(f"{folder} has neither {' nor '.join(WEIGHTS)}. {reason}.")
    with _new_folder(Path(out)) as made:
        for name in CONFIGS:
            if (folder / name).exists():
                _config(inside(folder, name))
        _copy(folder, made, (*CONFIGS, *TOKENIZERS))
        for name in found:
            path = inside(folder, name)
            _save(_tensors(_read(path, WEIGHTS_BYTES), path), made / WEIGHTS[name])


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` if nothing was raised, and vanishes otherwise."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already. Name a new or an empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    try:
        yield made
        made.chmod(0o755)  # mkdtemp keeps others out
        made.replace(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _read(path: Path, most_bytes: int) -> Any:
    """What a PyTorch archive holds, if that is plain data and tensors. See the head of this file."""
    import torch

    size = path.stat().st_size
    if size > most_bytes:
        raise BundleError(f"{path} has {size:,} bytes; {most_bytes:,} are the most that are read.")
    with path.open("rb") as file:  # once: what was looked at is what is loaded
        try:
            _check_archive(file, size)
        except Exception as error:  # a file made to do harm may raise anything
            raise BundleError(
                f"{path} is refused: {_line(error)}. Fetch it again from a source that you trust, or ask there for "
                "safetensors."
            ) from None
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a file made to do harm may raise anything
            reason = _line(error).split(". ")[0]  # what follows is advice to load it with the lock taken off
            raise BundleError(f"{path} cannot be loaded as weights: {reason}. Fetch it again.") from None


def _check_archive(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the file is a PyTorch archive whose pickle can only make plain data and tensors."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise ValueError("it is cut off, or no archive as torch.save has written since PyTorch 1.6") from None
    parts = archive.infolist()
    file.seek(0)
    if file.read(4) != b"PK\x03\x04" or min((part.header_offset for part in parts), default=1) != 0:
        raise ValueError("something stands before its archive, and would be read in place of it")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("it is compressed, which torch.save never does")
    pickles = [part for part in parts if part.filename.lower().endswith(".pkl")]
    if len(pickles) != 1 or Path(pickles[0].filename).name != "data.pkl":
        raise ValueError("it does not hold one data.pkl, as an archive of torch.save does")
    if pickles[0].file_size > PICKLE_BYTES:
        raise ValueError(f"its data.pkl has {pickles[0].file_size:,} bytes, more than any weights need")
    # What it would do is read here, and not done.
    for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
        if not _OPCODES.fullmatch(opcode.name):
            raise ValueError(f"its pickle holds the instruction {opcode.name}, which weights do not need")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise ValueError(f"its pickle calls {str(argument).replace(' ', '.')!r}, which is no part of weights")


def _tensors(raw: Any, path: Path) -> dict[str, Tensor]:
    """The tensors in a state dictionary, each with memory of its own."""
    import torch

    if not isinstance(raw, dict) or not raw:
        raise BundleError(f"{path} holds no state dictionary, which save_pretrained writes. Save the model with it.")
    most, total = _SHARED * path.stat().st_size, 0
    found, seen = {}, set()
    for name, tensor in raw.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise BundleError(f"{path} holds {shown(name)}, which is no tensor. Save the model with save_pretrained.")
        total += tensor.numel() * tensor.element_size()
        if total > most:  # a tensor of a billion values can be made of one
            raise BundleError(f"{path} is refused: its tensors are many times larger than the file.")
        tensor = tensor.detach()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{path} is damaged: {shown(name)} holds NaN or infinity.")
        memory = tensor.untyped_storage().data_ptr()
        # safetensors does not store one memory under two names; transformers ties such weights again when it loads.
        found[name] = tensor.clone().contiguous() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return found


def _save(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors keeps others out


def _max_length(tokenizer: Path, positions: int) -> tuple[int, str]:
    """The tokens that a RapidFit model reads, as far as its tokenizer tells, and a note that says whence."""
    cut = (read_json(tokenizer, TOKENIZER_BYTES).get("truncation") or {}).get("max_length")
    if isinstance(cut, int) and 8 <= cut <= positions:
        found, whence = cut, "to which its tokenizer last cut texts"
    elif positions < MAX_LENGTH:
        found, whence = positions, "as many as the encoder has positions"
    else:
        found, whence = MAX_LENGTH, "RapidFit's default"
    return found, (
        f"The checkpoint does not say how many tokens the model reads: {found} are taken, {whence}. "
        "If it was trained with another max_length, import it again with --max-length."
    )


def _write_tokenizer(source: Path, encoder: Path) -> None:
    """Put tokenizer.json into `encoder`, made from an older form of tokenizer if need be."""
    from tokenizers import Tokenizer

    from inference.formats.tokenizer import convert_tokenizer

    _copy(source, encoder, (TOKENIZER,))
    target = encoder / TOKENIZER
    if not target.exists():
        if (source / "tokenizer_config.json").exists():
            _config(inside(source, "tokenizer_config.json"))
        with tempfile.TemporaryDirectory() as copied:
            _copy(source, Path(copied), ("config.json", *TOKENIZERS))
            try:
                target.write_text(convert_tokenizer(Path(copied)), encoding="utf-8")
            except BundleError as error:
                raise BundleError(str(error).replace(copied, str(source))) from None
    try:
        Tokenizer.from_file(str(target))
    except Exception as error:  # tokenizers raises nothing narrower
        raise BundleError(f"The tokenizer in {source} cannot be read: {_line(error)}. Restore it.") from None


def _config(path: Path) -> dict[str, Any]:
    """A configuration, if it wants no code of its own to be run."""
    config = read_json(path)
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for key in ("auto_map", "trust_remote_code"):
                if one.get(key):
                    raise BundleError(f"{path} has {key!r}: it wants code of its own to be run, which is never done.")
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return config


def _needed(folder: Path, name: str, otherwise: str) -> Path:
    if not (folder / name).exists():
        raise BundleError(f"{folder} has no {name}, so it is {otherwise}.")
    return inside(folder, name)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy those of the files that are there."""
    for name in names:
        if (source / name).exists():
            path = inside(source, name)
            if not name.endswith(".safetensors") and path.stat().st_size > TOKENIZER_BYTES:
                raise BundleError(f"{path} has {path.stat().st_size:,} bytes; {TOKENIZER_BYTES:,} are the most.")
            shutil.copyfile(path, target / name)


def _line(error: object) -> str:
    """The first line of a message, not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
