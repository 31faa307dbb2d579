"""Convert checkpoints with pickles into folders without.

A pickle is a program. RapidFit stores its heads in one (`task_heads.pt`), and older Hugging Face and PEFT folders their
weights (`*.bin`). `python -m inference import`, whose user names exactly this folder, opens them after two checks:

1. The file is an uncompressed PyTorch archive, as large as its parts, and its pickle has only instructions for tensors,
   numbers, strings and dictionaries. The instructions are read, not executed.
2. `torch.load(..., weights_only=True)` refuses all but a few harmless names. It has been circumvented before
   (CVE-2025-32434), hence the first check.

The head of a SetFit model is a pickle of scikit-learn. `inference.artifacts.pickles` reads it as data.

The result is checked value by value, and written to a temporary folder that is renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import pickletools
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inference.artifacts.rapidfit import RapidFitHeads, read_heads, shown
from inference.artifacts.setfit import HEAD as SETFIT_HEAD
from inference.artifacts.setfit import by_name, layers_of, read_body, read_head, read_linear
from inference.errors import BundleError, InputError
from inference.formats.architectures import check_config, check_no_code, max_positions
from inference.formats.bundle import ENCODER, FORMAT, HEADS_FILE, MULTI, SINGLE, Bundle
from inference.formats.files import (
    TOKENIZER_CONFIG,
    TOKENIZERS,
    check_bytes,
    inside,
    read_json,
    read_json_in,
    sha256,
    tensors,
)
from inference.formats.labels import TASK
from inference.formats.tokenizer import TOKENIZER, convert_tokenizer, tokenizer_max_length
from inference.formats.weights import embedding_rows

if TYPE_CHECKING:
    from torch import Tensor

HEADS = "task_heads.pt"
MAX_LENGTH = 128  # RapidFit's default
WEIGHTS = {"pytorch_model.bin": "model.safetensors", "adapter_model.bin": "adapter_model.safetensors"}
SHARDS = "pytorch_model.bin.index.json"
CONFIGS = ("config.json", "adapter_config.json", TOKENIZER_CONFIG)
HEADS_BYTES = 1_000_000_000  # two hundred tasks, each with a hidden layer 1,024 wide
WEIGHTS_BYTES = 40_000_000_000
TOKENIZER_BYTES = 100_000_000
PICKLE_BYTES = 5_000_000  # the pickle alone, without the values of tensors: about 100 bytes for each
_SHARD = re.compile(r"[\w-][\w.-]*\.bin")
_SHARED = 4  # names that one tensor can have: a T5 gives its word embeddings that many
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
    """Convert a checkpoint of RapidFit's `MultiheadClassifier.save` to a bundle in `out`; return notes.

    Args:
        out: a new or empty folder.
        max_length: tokens of a text in training, which the checkpoint does not record. Default: the length that its
            tokenizer last cut texts to, or else 128; a note says which.

    Raises:
        InputError: `out` is not empty.
        BundleError: not a checkpoint of RapidFit, or a damaged or unsafe one.
    """
    folder = Path(folder)
    source, notes = folder / ENCODER, []
    with _new_folder(Path(out)) as target:
        encoder = target / ENCODER
        encoder.mkdir()
        path = _needed(folder, HEADS, "not a RapidFit checkpoint. Name the folder that MultiheadClassifier.save wrote")
        config = _config(_needed(source, "config.json", "not an encoder. Restore the checkpoint"))
        check_config(config, source / "config.json")
        heads = _heads(path, config)
        _copy_weights(source, encoder)
        _write_tokenizer(source, encoder)
        positions = max_positions(config)
        if max_length is None:
            max_length, note = _max_length(encoder / TOKENIZER, positions)
            notes.append(note)
        elif not 8 <= max_length <= positions:
            raise InputError(f"max_length={max_length} must be from 8 to {positions}, the positions of the encoder.")
        _save(heads.weights, target / HEADS_FILE)
        described = {
            "tasks": {
                # RapidFit has no threshold: no answer is uncertain until one is chosen.
                task: {"labels": labels, "problem_type": SINGLE, "threshold": 0.0}
                for task, labels in heads.labels.items()
            },
            "pooling": heads.pooling,
            "heads": {"hidden": heads.hidden, "activation": heads.activation},
            "max_tokens": max_length,
            "pad_id": config.get("pad_token_id") or 0,
            "imported": {"from": "rapidfit", "files": {HEADS: sha256(path)}},
        }
        _write_bundle(described, target, folder, Path(out))
    return notes


def import_setfit(folder: str | Path, out: str | Path) -> None:
    """Convert a model that SetFit saved to a bundle in `out`. Its pickled head is read as data; nothing in it is run.

    Raises:
        InputError: `out` is not empty.
        BundleError: not a model of SetFit, a damaged one, or one that a bundle cannot hold.
    """
    import torch

    folder = Path(folder)
    _needed(folder, "modules.json", "not a model of SetFit. Name the folder that save_pretrained wrote")
    path = _needed(folder, SETFIT_HEAD, "not a model of SetFit. Name the folder that save_pretrained wrote")
    body, head = read_body(folder), read_head(folder)
    with _new_folder(Path(out)) as target:
        encoder = target / ENCODER
        encoder.mkdir()
        config = _config(_needed(body.encoder, "config.json", "not an encoder. Restore the model"))
        check_config(config, body.encoder / "config.json")
        dense = []
        for at, activation in body.dense:
            copy = target / "dense"  # not its own name, which can be that of the encoder
            copy.mkdir()
            _copy_weights(at, copy)
            dense.append((read_linear(copy / "model.safetensors"), activation))
            shutil.rmtree(copy)
        layers, activation = layers_of(dense, head, path)
        _copy_weights(body.encoder, encoder)
        _write_tokenizer(body.encoder, encoder, as_transformers=True)
        if body.lower_case:
            _check_lower_case(encoder / TOKENIZER, body.encoder)
        length = body.max_length or tokenizer_max_length(body.encoder) or max_positions(config)
        _save({name: torch.tensor(values) for name, values in by_name(layers, TASK).items()}, target / HEADS_FILE)
        threshold = 0.5 if head.problem_type == MULTI else 0.0
        described = {
            "tasks": {TASK: {"labels": head.labels, "problem_type": head.problem_type, "threshold": threshold}},
            "pooling": body.pooling,
            "normalize": body.normalize,
            "heads": {"hidden": [len(bias) for _, bias in layers[:-1]], "activation": activation},
            "max_tokens": int(min(length, max_positions(config))),
            "pad_id": config.get("pad_token_id") or 0,
            "imported": {"from": "setfit", "files": {SETFIT_HEAD: sha256(path)}},
        }
        _write_bundle(described, target, folder, Path(out))


def _check_lower_case(tokenizer_file: Path, source: Path) -> None:
    """Raise BundleError if texts must be lower-cased before this tokenizer reads them, and it does not do so."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    text = "The ÄÖÜ of Every TEXT"
    if tokenizer.encode(text).ids != tokenizer.encode(text.lower()).ids:
        raise BundleError(f"{source} lower-cases texts before its tokenizer, which does not. Train it without.")


def _copy_weights(source: Path, target: Path) -> None:
    """Write config.json and model.safetensors to `target`, converted from a pickle if necessary."""
    _copy(source, target, ("config.json", "model.safetensors"))
    weights = target / "model.safetensors"
    if not weights.exists():
        stored = _needed(source, "pytorch_model.bin", "not complete: it has no model.safetensors either")
        _save(_tensors(_read(stored, WEIGHTS_BYTES), stored), weights)
    tensors(weights)  # raises if the file is not complete


def _write_bundle(described: dict[str, Any], target: Path, folder: Path, out: Path) -> None:
    """Write the bundle.json that describes what is in `target`, and load the bundle once."""
    encoder = target / ENCODER
    described = {
        "format": FORMAT,
        "name": re.sub(r"[^A-Za-z0-9]+", "-", out.resolve().name).strip("-")[:64] or "imported",
        **described,
        "base": {"folder": ENCODER, "files": {file.name: sha256(file) for file in sorted(encoder.iterdir())}},
        "files": {HEADS_FILE: sha256(target / HEADS_FILE)},
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (target / "bundle.json").write_text(text + "\n", encoding="utf-8")
    try:
        from inference.pytorch.network import load_network

        load_network(Bundle.read(target))  # finds errors such as an encoder of another shape
    except BundleError as error:
        message = str(error).replace(str(target), str(folder))
        raise BundleError(f"{folder} cannot be loaded after the import: {_line(message)}.") from None


def _heads(path: Path, config: Mapping[str, Any]) -> RapidFitHeads:
    raw = _read(path, HEADS_BYTES)
    try:
        if isinstance(raw, dict) and "task_heads" in raw:
            raw = {**raw, "task_heads": _tensors(raw["task_heads"], path)}
        return read_heads(raw, config.get("hidden_size", config.get("dim")))
    except ValueError as error:
        raise BundleError(f"{path} cannot be imported: {_line(error)}.") from None


def import_weights(folder: str | Path, out: str | Path) -> None:
    """Convert a Hugging Face or PEFT folder with `*.bin` weights to one with safetensors in `out`.

    Configuration and tokenizer are copied, and nothing else.

    Raises:
        InputError: `out` is not empty.
        BundleError: there are no such weights, they are damaged or hold more than tensors, or the folder asks for
            custom code.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"No model folder {folder}.")
    shards = (read_json_in(folder, SHARDS).get("weight_map") or {}).values()
    pickles = {name: [name] for name in WEIGHTS if (folder / name).exists()}
    if not pickles and all(isinstance(name, str) and _SHARD.fullmatch(name) for name in shards):
        pickles = {"pytorch_model.bin": sorted(set(shards))} if shards else {}
    if not pickles:
        reason = (
            "Its weights are safetensors already: no import is needed"
            if any(folder.glob("*.safetensors"))
            else "Name a folder that save_pretrained wrote"
        )
        raise BundleError(f"{folder} has neither {' nor '.join(WEIGHTS)}. {reason}.")
    with _new_folder(Path(out)) as target:
        for name in CONFIGS:
            if (folder / name).exists():
                _config(inside(folder, name))
        _copy(folder, target, (*CONFIGS, *TOKENIZERS))
        for name, parts in pickles.items():
            weights: dict[str, Tensor] = {}
            for path in (inside(folder, part) for part in parts):
                weights |= _tensors(_read(path, WEIGHTS_BYTES), path)
            _save(weights, target / WEIGHTS[name])


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out`, or is deleted if an error is raised."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty. Name a new or an empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(path: Path, limit: int) -> Any:
    """Return the content of a PyTorch archive of plain data and tensors; see the head of this file."""
    import torch

    check_bytes(path, limit)
    with path.open("rb") as file:  # opened once: what was checked is what is loaded
        try:
            _check_archive(file, path.stat().st_size)
        except Exception as error:  # a malicious file can raise any class
            raise BundleError(
                f"{path} is refused: {_line(error)}. Fetch it again from a source that you trust, or ask there "
                "for safetensors."
            ) from None
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a malicious file can raise any class
            reason = _line(error).split(". ")[0]  # the rest advises to load it without the check
            raise BundleError(f"{path} cannot be loaded as weights: {reason}. Fetch it again.") from None


def _check_archive(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the file is a PyTorch archive whose pickle can only make plain data and tensors."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise ValueError("it is truncated, or not an archive of torch.save since PyTorch 1.6") from None
    parts = archive.infolist()
    file.seek(0)
    if file.read(4) != b"PK\x03\x04" or min((part.header_offset for part in parts), default=1) != 0:
        raise ValueError("it has bytes before its archive, which would be read instead of it")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("it is compressed, which torch.save never does")
    pickles = [part for part in parts if part.filename.lower().endswith(".pkl")]
    if len(pickles) != 1 or Path(pickles[0].filename).name != "data.pkl":
        raise ValueError("it does not hold one data.pkl, as an archive of torch.save does")
    if pickles[0].file_size > PICKLE_BYTES:
        raise ValueError(f"its data.pkl has {pickles[0].file_size:,} bytes, more than any weights need")
    # The instructions are read, not executed.
    for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
        if not _OPCODES.fullmatch(opcode.name):
            raise ValueError(f"its pickle holds the instruction {opcode.name}, which weights do not need")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise ValueError(f"its pickle calls {str(argument).replace(' ', '.')!r}, which weights do not need")


def _tensors(raw: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors in a state dictionary, each with memory of its own."""
    import torch

    if not isinstance(raw, dict) or not raw:
        raise BundleError(f"{path} does not hold a state dictionary. Save the model with save_pretrained.")
    limit, total = _SHARED * path.stat().st_size, 0
    weights, seen = {}, set()
    for name, tensor in raw.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise BundleError(
                f"{path} holds {shown(name)}, which is not a tensor. Save the model with save_pretrained."
            )
        total += tensor.numel() * tensor.element_size()
        if total > limit:  # one value can be expanded to a tensor of a billion
            raise BundleError(f"{path} is refused: its tensors are many times larger than the file.")
        tensor = tensor.detach()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{path} is damaged: {shown(name)} holds NaN or infinity.")
        memory = tensor.untyped_storage().data_ptr()
        # safetensors does not store shared memory twice; transformers ties such weights again when it loads them.
        weights[name] = tensor.clone().contiguous() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return weights


def _save(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it private


def _max_length(tokenizer: Path, positions: int) -> tuple[int, str]:
    """Return the tokens that a RapidFit model reads, as far as can be known, and a note with the reason."""
    cut = (read_json(tokenizer, TOKENIZER_BYTES).get("truncation") or {}).get("max_length")
    if isinstance(cut, int) and 8 <= cut <= positions:
        length, reason = cut, "the last limit of its tokenizer"
    elif positions < MAX_LENGTH:
        length, reason = positions, "the positions of the encoder"
    else:
        length, reason = MAX_LENGTH, "RapidFit's default"
    return length, (
        f"The checkpoint does not record the maximum length; using {length} ({reason}). If it was trained with another "
        "one, import it again with --max-length."
    )


def _write_tokenizer(source: Path, encoder: Path, *, as_transformers: bool = False) -> None:
    """Write tokenizer.json to `encoder`, converted from an older format if necessary.

    Args:
        as_transformers: also heed tokenizer_config.json, as AutoTokenizer does.
    """
    from tokenizers import Tokenizer

    target = encoder / TOKENIZER
    if not as_transformers:
        _copy(source, encoder, (TOKENIZER,))
    if not target.exists():
        if (source / TOKENIZER_CONFIG).exists():
            _config(inside(source, TOKENIZER_CONFIG))
        target.write_text(convert_tokenizer(source, embedding_rows(encoder)), encoding="utf-8")
    try:
        Tokenizer.from_file(str(target))
    except Exception as error:  # tokenizers has no narrower class
        raise BundleError(f"The tokenizer in {source} cannot be read: {_line(error)}. Restore it.") from None


def _config(path: Path) -> dict[str, Any]:
    """Return a configuration after checking that it names no custom code."""
    config = read_json(path)
    check_no_code(config, path)
    return config


def _needed(folder: Path, name: str, otherwise: str) -> Path:
    if not (folder / name).exists():
        raise BundleError(f"{folder} has no {name}, so it is {otherwise}.")
    return inside(folder, name)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy those of the files that exist."""
    for name in names:
        if (source / name).exists():
            path = inside(source, name)
            if not name.endswith(".safetensors"):
                check_bytes(path, TOKENIZER_BYTES)
            shutil.copyfile(path, target / name)


def _line(error: object) -> str:
    """Return the first line of a message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
