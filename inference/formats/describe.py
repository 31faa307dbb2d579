"""`describe`: from a model folder or a Hub id to a `Bundle`, whatever the format. The formats are a table.

Nothing here opens weights, but for the header of a safetensors file, and nothing runs what a folder brings along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.errors import BundleError, InputError
from inference.formats.adapters import ADAPTER, check_adapter, read_adapter
from inference.formats.architectures import ARCHITECTURES, check_size, check_tokenizer, max_positions, read_config
from inference.formats.bundle import ENCODER, Base, Bundle, Task, check_labels
from inference.formats.exported import (
    check_export,
    pad_token_id,
    shared_max_length,
    tokenizer_max_length,
    with_threshold,
)
from inference.formats.files import (
    TOKENIZERS,
    VOCABULARIES,
    check_file,
    check_folder,
    count_stored,
    digest,
    inside,
    read_json,
    refuse_code,
    tensors,
)
from inference.formats.hub import fetch, find_base, hub_id, is_folder

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
TASK = "label"  # what the one task of a plain classifier is called where it does not say
MAX_LABELS = 10_000
# Tokens a model is taken to read where its tokenizer does not say: the length both source guides train with is 128,
# and a model that reads more than it was trained on is worse, not better.
MAX_TOKENS = 128
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


@dataclass(frozen=True)
class Format:
    """One layout of a model folder."""

    name: str
    title: str
    marks: tuple[str, ...]
    """Globs that must each match a file."""
    read: Callable[[Path, Path | None], Bundle]


def describe(model: str | Path, base: str | Path | None = None, *, four_bit: bool = False) -> Bundle:
    """The model in a folder, or with a Hub id: its tasks, limits and files. No weights are opened.

    Args:
        model: a folder; else "OWNER/NAME" on the Hugging Face Hub, which is fetched.
        base: folder of the base model, for an adapter whose own is elsewhere.
        four_bit: PyTorch is to hold the base in 4-bit NF4, as QLoRA trains it. For adapters.

    Raises:
        BundleError: no such folder, no format that is known, or something in it that is wrong.
    """
    folder = Path(model)
    if not is_folder(folder):
        folder = fetch(str(model) if isinstance(model, str) else folder.as_posix())
    check_folder(folder)
    for one in FORMATS:
        if all(any(folder.glob(mark)) for mark in one.marks):
            found = one.read(folder, Path(base) if base is not None else None)
            if four_bit and not found.adapters:
                raise InputError(f"{model} is {one.title}; a base in 4 bits is for PEFT adapters.")
            return replace(found, four_bit=four_bit or found.four_bit)
    known = "; ".join(f"{', '.join(one.marks)} ({one.title})" for one in FORMATS if one.name != "refused")
    held = sorted(path.name for path in folder.iterdir())
    names = f"{', '.join(map(repr, held[:3]))}{' and more' if len(held) > 3 else ''}"
    what = f"holds {names}, which is no model" if held else "is empty"
    raise BundleError(f"{folder} {what}. A model folder has one of these: {known}. Name such a folder.")


# --- The readers, one a format


def _read_bundle(folder: Path, base: Path | None) -> Bundle:
    found = Bundle.read(folder)
    if found.adapter_folder is not None:
        check_folder(found.adapter_folder)
        refuse_code(found.adapter_folder)
        check_adapter(read_json(inside(folder, f"adapter/{ADAPTER[0]}")), found.adapter_folder / ADAPTER[0])
    if found.base is None or found.base.folder is None:
        return found  # what is elsewhere is looked at when it is found
    inside(folder, f"{ENCODER}/config.json")
    config = read_config(folder / ENCODER)
    _weight_files(folder / ENCODER)
    return replace(found, vocab_size=config.get("vocab_size"))


def _read_adapter(folder: Path, base: Path | None) -> Bundle:
    return _adapters(folder, {TASK: "."}, base)


def _read_adapters(folder: Path, base: Path | None) -> Bundle:
    found = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    if saved := [name for name in found if re.fullmatch(r"checkpoint-\d+", name)]:
        raise BundleError(
            f"{folder} holds checkpoints of one training ({', '.join(saved)}) and not one adapter per task. Name the "
            f"one to serve: {folder / saved[-1]}"
        )
    adapters = {_task_name(name): name for name in found}
    if len(adapters) < len(found):
        raise BundleError(
            f"{folder} holds adapters whose folders have names that are the same but for signs: {', '.join(found)}. "
            "Rename them: each is the name of a task."
        )
    return _adapters(folder, adapters, base)


def _adapters(folder: Path, adapters: Mapping[str, str], given: Path | None) -> Bundle:
    configs = {task: read_adapter(folder, name) for task, name in adapters.items()}
    bases = {(config["base_model_name_or_path"], config.get("revision")) for config in configs.values()}
    check_tokenizer(folder)
    if len(bases) > 1:
        raise BundleError(
            f"The adapters in {folder} belong to different bases: {', '.join(sorted(str(one[0]) for one in bases))}. "
            "Serve each from a folder of its own."
        )
    name, revision = next(iter(bases))
    home = find_base(folder, name, revision, given)
    config = read_config(home)
    architecture = ARCHITECTURES[config["model_type"]]
    tasks = {}
    for task, at in adapters.items():
        header = tensors(inside(folder / at, ADAPTER[1]))
        head = next((shape for key, (_, shape, _) in header.items() if key.endswith(architecture.head)), None)
        if head is None or len(head) != 2:
            raise BundleError(
                f"The adapter in {folder / at} has no classification head (no tensor …{architecture.head}), so its "
                "answers would be random. Save it with modules_to_save=['classifier'], or with task_type='SEQ_CLS'."
            )
        own = folder / at / "config.json"  # PEFT keeps no label names: this is where they can be written
        named = read_json(inside(folder / at, "config.json")) if own.exists() else config
        tasks[task] = _task(folder / at, named, head[0])
    tokenizer = _adapters_tokenizer(folder, adapters, home)
    files = [f"{at}/{file}".removeprefix("./") for at in adapters.values() for file in ADAPTER]
    files += [
        f"{at}/config.json".removeprefix("./") for at in adapters.values() if (folder / at / "config.json").exists()
    ]
    if tokenizer != home:
        inner = tokenizer.relative_to(folder).as_posix()
        files += [f"{inner}/{name}".removeprefix("./") for name in _tokenizer_files(tokenizer)]
    return Bundle(
        folder=folder,
        name=_model_name(folder),
        tasks=tasks,
        pooling=None,
        max_tokens=_max_tokens(tokenizer, config),
        base=Base(hub_id(name), revision, _digests(home, _weight_files(home)), home),
        files=_digests(folder, files),
        format="peft",
        pad_id=_pad_id(config),
        vocab_size=config.get("vocab_size"),
        adapters=dict(adapters),
        tokenizer=tokenizer,
        four_bit=_is_four_bit(config, home),
    )


def _adapters_tokenizer(folder: Path, adapters: Mapping[str, str], home: Path) -> Path:
    """The folder of the tokenizer: one beside the adapters, the same one in their own folders, or the base's."""
    places = [folder, *(folder / at for at in adapters.values())]
    own = [place for place in places if any((place / name).is_file() for name in VOCABULARIES)]
    kinds = {tuple(sorted(_digests(place, _tokenizer_files(place)).items())) for place in own}
    if len(kinds) > 1:
        raise BundleError(
            f"The adapters in {folder} bring different tokenizers, and one text is read for all of them at once. Serve "
            "each from a folder of its own."
        )
    return own[0] if own else home


def _read_classifier(folder: Path, base: Path | None) -> Bundle:
    config = read_config(folder)
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or len(architectures) > 9:
        raise BundleError(f"{folder / 'config.json'}: architectures must be a list of names. Restore it.")
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        raise BundleError(
            f"{folder} is a {', '.join(map(str, architectures)) or 'model'} without a classification head: its answers "
            "would be random. Fine-tune it first: python -m training --help"
        )
    if config.get("quantization_config"):
        raise BundleError(
            f"{folder} stores its weights quantised ({_quant_method(config)}). Serve the full-precision model: "
            "INT8 is made from it here."
        )
    task = config.get("finetuning_task")
    labels = _task(folder, config, None)
    return Bundle(
        folder=folder,
        name=_model_name(folder),
        tasks={_task_name(task) if isinstance(task, str) and task else TASK: labels},
        pooling=None,
        max_tokens=_max_tokens(folder, config),
        base=None,
        files=_digests(folder, _weight_files(folder)),
        format="transformers",
        pad_id=_pad_id(config),
        vocab_size=config.get("vocab_size"),
    )


def _read_onnx(folder: Path, base: Path | None) -> Bundle:
    configs = {path.name.removesuffix("_config.json"): path.name for path in sorted(folder.glob("*_config.json"))}
    tasks, read, files = {}, {}, []
    for task, name in configs.items():
        if _task_name(task) != task or not (folder / f"{task}.onnx").exists():
            raise BundleError(f"{folder / name} belongs to no graph: {task}.onnx is missing. Export the model again.")
        read[name] = read_json(inside(folder, name))
        tasks[task] = with_threshold(folder / name, read[name], _task(folder / name, read[name], None))
        graphs = (f"{task}.onnx", f"{task}_weights.bin", f"{task}_int8.onnx", f"{task}_int8_weights.bin")
        files += [name, *(graph for graph in graphs if (folder / graph).exists())]
    tokenizer = folder / "tokenizer"
    inside(folder, "tokenizer/tokenizer.json")
    check_folder(tokenizer)
    said = (shared_max_length(folder, read), tokenizer_max_length(tokenizer))
    limit = int(min((length for length in said if length is not None), default=MAX_TOKENS))
    digests = _digests(folder, [*files, *(f"tokenizer/{name}" for name in _tokenizer_files(tokenizer))])
    check_export(folder, digests)
    return Bundle(
        folder=folder,
        name=_model_name(folder),
        tasks=tasks,
        pooling=None,
        max_tokens=max(8, min(limit, 8192)),
        base=None,
        files=digests,
        format="onnx",
        tokenizer=tokenizer,
        pad_id=pad_token_id(tokenizer),
        backends=("onnx", "int8"),
    )


def _read_refused(folder: Path, base: Path | None) -> Bundle:
    if (folder / "task_heads.pt").exists():
        raise BundleError(
            f"{folder} is a RapidFit checkpoint, whose heads are a pickle: opening one can run code. If you trust it, "
            f"convert it once: python -m inference import rapidfit {folder} OUT"
        )
    raise BundleError(
        f"{folder} has its weights as a pickle (*.bin): opening one can run code. If you trust it, convert it once: "
        f"python -m inference import weights {folder} OUT"
    )


# In the order in which they are tried. A folder that is two of them is the first.
FORMATS = (
    Format("bundle", "a Triptych bundle", ("bundle.json",), _read_bundle),
    Format("refused", "", ("task_heads.pt",), _read_refused),
    Format("peft", "a PEFT adapter", ADAPTER, _read_adapter),
    Format("refused", "", ("adapter_config.json", "adapter_model.bin"), _read_refused),
    Format("transformers", "a Hugging Face classifier", ("config.json", "*.safetensors"), _read_classifier),
    Format("refused", "", ("config.json", "*.bin"), _read_refused),
    Format("onnx", "exported ONNX files", ("*.onnx", "*_config.json", "tokenizer/tokenizer.json"), _read_onnx),
    Format("adapters", "several PEFT adapters of one base", tuple(f"*/{name}" for name in ADAPTER), _read_adapters),
)


# --- What the readers share


def _task(folder: Path, config: Mapping[str, Any], count: int | None) -> Task:
    """The labels that a config names, checked against the `count` that the weights have."""
    kind = config.get("problem_type")
    if kind not in (None, SINGLE, MULTI, "regression"):
        raise BundleError(f"{folder}: problem_type {str(kind)[:60]!r} is not known. Known: {SINGLE}, {MULTI}.")
    names = config.get("id2label")
    if names is None:
        size = config.get("num_labels", 2) if count is None else count
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_LABELS:
            raise BundleError(f"{folder}: num_labels is {str(size)[:60]}; it must be from 2 to {MAX_LABELS:,} labels.")
        names = {str(i): f"LABEL_{i}" for i in range(size)}
    if not isinstance(names, dict) or len(names) > MAX_LABELS:
        raise BundleError(f"{folder}: id2label must be an object of at most {MAX_LABELS:,} labels.")
    if count is not None and len(names) != count:
        if any(not re.fullmatch(r"LABEL_\d+", str(name)) for name in names.values()):
            raise BundleError(
                f"{folder}: id2label names {len(names)} labels, and the head has {count}. Correct config.json."
            )
        names = {str(i): f"LABEL_{i}" for i in range(count)}  # the base's own placeholders, which mean nothing
    if kind == "regression" or len(names) < 2:
        raise BundleError(
            f"{folder} gives one number and no label (regression, or a head with one output). There is nothing to "
            "classify. Use a model with two labels or more."
        )
    try:
        labels = tuple(names[str(i)] if str(i) in names else names[i] for i in range(len(names)))
    except KeyError as missing:
        raise BundleError(f"{folder}: id2label has no entry {missing}; it must count from 0 without a gap.") from None
    try:
        check_labels(labels)
    except ValueError as error:
        raise BundleError(f"{folder}: in id2label {error} Correct config.json.") from None
    return Task(labels, kind or SINGLE, 0.5 if kind == MULTI else 0.0)


def _max_tokens(tokenizer: Path, config: Mapping[str, Any]) -> int:
    """Tokens to cut at: what the tokenizer says, never more than there are positions."""
    said = tokenizer_max_length(tokenizer)
    return max(8, int(min(MAX_TOKENS if said is None else said, max_positions(config))))


def _pad_id(config: Mapping[str, Any]) -> int:
    found = config.get("pad_token_id", 0)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0


def _quant_method(config: Mapping[str, Any]) -> str:
    stored = config["quantization_config"]
    return str(stored.get("quant_method", "unknown") if isinstance(stored, dict) else stored)[:60]


def _is_four_bit(config: Mapping[str, Any], home: Path) -> bool:
    stored = config.get("quantization_config") or {}
    if not stored:
        return False
    if not isinstance(stored, dict) or stored.get("quant_method") != "bitsandbytes" or not stored.get("load_in_4bit"):
        raise BundleError(
            f"The base in {home} is stored quantised ({_quant_method(config)}) in a way that cannot be undone here. "
            "Known: bitsandbytes in 4 bits."
        )
    return True


def _weight_files(folder: Path) -> list[str]:
    """The files of a whole model: config, weights (in one file or in shards), tokenizer."""
    if not (folder / "model.safetensors").exists() and (folder / INDEX).exists():  # transformers tries them so too
        index = read_json(inside(folder, INDEX), 20_000_000).get("weight_map")
        if not isinstance(index, dict) or not all(_SHARD.fullmatch(str(name)) for name in index.values()):
            raise BundleError(f"{folder / INDEX} is no list of weight files. Fetch the model again.")
        weights = [INDEX, *sorted(set(index.values()))]
    else:
        weights = ["model.safetensors"]
    stored = count_stored(inside(folder, name) for name in weights if name != INDEX)
    check_size(read_json(inside(folder, "config.json")), stored, folder / "config.json")
    return ["config.json", *weights, *_tokenizer_files(folder)]


def _tokenizer_files(folder: Path) -> list[str]:
    return [name for name in TOKENIZERS if (folder / name).exists()]


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: digest(check_file(folder, name)) for name in names}


def _task_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64] or TASK


def _model_name(folder: Path) -> str:
    """The folder's name, or the Hub's for a snapshot in its cache."""
    home = folder.resolve()
    name = home.parents[1].name.rpartition("--")[2] if home.parent.name == "snapshots" else home.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-_")[:64] or "model"
