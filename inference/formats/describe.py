"""`describe`: from a model folder or a Hub id to a `Bundle`, whatever the format. The formats are a table.

Nothing here opens weights, except the header of a safetensors file, or runs anything that a folder contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from inference.errors import BundleError, InferenceError, InputError
from inference.formats import examples, layouts
from inference.formats.adapters import (
    check_adapter,
    check_four_bit,
    check_names,
    find_base,
    read_adapter,
    share_base,
    table_rows,
)
from inference.formats.architectures import (
    SHORTEST,
    check_padding,
    check_tokenizer,
    max_positions,
    read_config,
    segments,
)
from inference.formats.bundle import ENCODER, Base, Bundle, Finding, Task
from inference.formats.exported import read_exported
from inference.formats.files import (
    JSON_BYTES,
    VOCABULARIES,
    check_folder,
    digest_files,
    inside,
    model_name,
    read_json,
    read_json_in,
    refuse_code,
    tensors,
    tokenizer_files,
)
from inference.formats.hub import fetch, hub_id, is_folder
from inference.formats.labels import TASK, adapter_task, read_task, shapes_in, task_name
from inference.formats.pairs import shared_pairs, takes_pairs
from inference.formats.tokenizer import CONTEXT, LONGEST, MAX_TOKENS, check_tokenizer_class, tokenizer_max_length
from inference.formats.weights import ADAPTER, INDEX, WEIGHTS, embedding_rows, weight_names

ROOT_TASK = "default"  # PEFT's own name of the adapter beside whose files the others have folders
OPTIMUM = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
_CHECKPOINT = re.compile(r"checkpoint-\d+")


class Format(NamedTuple):
    """One layout of a model folder."""

    title: str
    marks: tuple[str, ...]
    """Globs that must each match a file."""
    read: Callable[[Path, Path | None], Bundle]


def describe(
    model: str | Path, base: str | Path | None = None, *, four_bit: bool = False, pairs: bool | None = None
) -> Bundle:
    """Read the tasks, limits and files of the model in a folder, or with a Hub id. No weights are opened.

    Args:
        model: a folder; else "OWNER/NAME" on the Hugging Face Hub, which is downloaded.
        base: folder of the base model, for an adapter whose own is elsewhere.
        four_bit: let PyTorch hold the base in 4-bit NF4, as QLoRA trains it. For adapters.
        pairs: it was trained on pairs of texts; default: as the folder says (`formats.pairs.takes_pairs`).

    Raises:
        BundleError: no such folder, an unknown format, or invalid content.
    """
    folder = Path(model)
    if not is_folder(folder):
        layouts.refuse_file(folder)
        folder = fetch(str(model) if isinstance(model, str) else folder.as_posix())
    check_folder(folder)
    for layout in FORMATS:
        if all(any(folder.glob(mark)) for mark in layout.marks):
            bundle = layout.read(folder, Path(base) if base is not None else None)
            if four_bit and not bundle.adapters:
                raise InputError(f"{model} is {layout.title}; a base in 4 bits is for PEFT adapters.")
            bundle = replace(bundle, four_bit=four_bit or bundle.four_bit)
            if bundle.four_bit:
                check_four_bit(folder, bundle.adapters.values())
            pairs = bundle.pairs if pairs is None else pairs
            bundle = replace(bundle, pairs=pairs, token_types=bundle.token_types and (pairs or bundle.typed))
            return _with_examples(bundle)
    layouts.refuse_layout(folder)
    known = "; ".join(f"{', '.join(layout.marks)} ({layout.title})" for layout in FORMATS if layout.title)
    content = sorted(path.name for path in folder.iterdir())
    names = f"{', '.join(map(repr, content[:3]))}{' and more' if len(content) > 3 else ''}"
    state = f"holds {names}, which is not a model" if content else "is empty"
    raise BundleError(f"{folder} {state}. A model folder has one of these: {known}. Name such a folder.")


def _with_examples(bundle: Bundle) -> Bundle:
    """Add the examples in the folder; what is wrong with them is a finding, since it changes no answer."""
    try:
        return replace(bundle, examples=examples.read_examples(bundle.folder, bundle))
    except InferenceError as error:
        what, do = f"{bundle.folder / examples.FILE} is not used", "correct or delete it"
        return replace(bundle, findings=(*bundle.findings, Finding("warning", what, str(error).removesuffix("."), do)))


# --- The readers, one per format


def _read_bundle(folder: Path, base: Path | None) -> Bundle:
    bundle = replace(Bundle.read(folder), token_types=True)  # used if its base distinguishes segments
    if bundle.adapter_folder is not None:
        check_folder(bundle.adapter_folder)
        refuse_code(bundle.adapter_folder)
        check_adapter(read_json(inside(folder, f"adapter/{ADAPTER[0]}")), bundle.adapter_folder / ADAPTER[0])
    if bundle.base is None or bundle.base.folder is None:
        return bundle  # a base elsewhere is checked when it is located
    inside(folder, f"{ENCODER}/config.json")
    config = read_config(folder / ENCODER)
    _weight_files(folder / ENCODER)
    return replace(bundle, vocab_size=embedding_rows(folder / ENCODER) or config.get("vocab_size"))


def _read_adapter(folder: Path, base: Path | None) -> Bundle:
    names = [name for name in _adapter_folders(folder) if not _CHECKPOINT.fullmatch(name)]
    if not names:
        return _adapters(folder, {TASK: "."}, base)
    # save_pretrained of a model with several adapters writes the one called default into the folder itself
    bundle = _adapters(folder, {ROOT_TASK: ".", **_task_names(folder, names)}, base)
    root = Finding(
        "note",
        f"the adapter in {folder} itself is the task {ROOT_TASK}, beside those of its subfolders",
        "PEFT saves several adapters of one model like this",
        "move it into a folder of its own if the others do not belong to it",
    )
    return replace(bundle, findings=(*bundle.findings, root))


def _read_adapters(folder: Path, base: Path | None) -> Bundle:
    layouts.refuse_checkpoints(folder)
    return _adapters(folder, _task_names(folder, _adapter_folders(folder)), base)


def _adapter_folders(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER[0]}"))


def _task_names(folder: Path, names: list[str]) -> dict[str, str]:
    adapters = {task_name(name): name for name in names}
    if len(adapters) < len(names) or (ROOT_TASK in adapters and (folder / ADAPTER[0]).exists()):
        raise BundleError(
            f"{folder} has adapter folders whose names differ only in punctuation, or one called {ROOT_TASK} beside an "
            f"adapter of its own: {', '.join(names)}. Rename them: each is the name of a task."
        )
    return adapters


def _adapters(folder: Path, adapters: Mapping[str, str], given: Path | None) -> Bundle:
    settings = {task: read_adapter(folder, at, named=given is None) for task, at in adapters.items()}
    bases = {(config["base_model_name_or_path"], config.get("revision")) for config in settings.values()}
    check_tokenizer(folder)
    if len(bases) > 1:
        raise BundleError(
            f"The adapters in {folder} belong to different bases: {', '.join(sorted(str(name) for name, _ in bases))}. "
            "Serve each from a folder of its own."
        )
    name, revision = next(iter(bases))
    home = find_base(folder, name, revision, given)
    config = read_config(home)
    tokenizer = _adapters_tokenizer(folder, adapters, home)
    base = Base(hub_id(name), revision, digest_files(home, _weight_files(home)), home)
    shapes = shapes_in(home, [file for file in base.files if file.endswith(".safetensors")])
    headers = {task: shapes_in(folder / at, [ADAPTER[1]]) for task, at in adapters.items()}
    tasks, files, findings, pairs = {}, [], [], {}
    for task, at in adapters.items():
        check_names(headers[task], folder / at / ADAPTER[1])
        own = read_json_in(folder / at, "config.json", JSON_BYTES)
        tasks[task], doubts = adapter_task(folder / at, own, headers[task], config, shapes)
        pairs[task] = takes_pairs(folder / at, own or config, tasks[task])
        findings += doubts
        files += [f"{at}/{file}" for file in (*ADAPTER, "config.json") if (folder / at / file).exists()]
    if tokenizer != home:
        files += [f"{tokenizer.relative_to(folder).as_posix()}/{file}" for file in tokenizer_files(tokenizer)]
    names = [file.removeprefix("./") for file in files]
    bundle = _plain_bundle(folder, tasks, config, tokenizer, names, home)
    rows = bundle.vocab_size or 0
    tables = {task: table_rows(settings[task], embedding_rows(folder / at), rows) for task, at in adapters.items()}
    shares = share_base([(settings[task], headers[task]) for task in adapters])
    shares = shares and len({len(task.outputs) for task in tasks.values()}) == 1
    if len(adapters) > 1 and not shares:
        findings.append(
            Finding(
                "note",
                f"each of the {len(adapters)} adapters in {folder} has a base of its own in memory",
                "one of them changes its base or has another head, so they cannot be switched on a single one; only "
                "equal weights are shared",
            )
        )
    return replace(
        bundle,
        format="peft",
        base=base,
        adapters=dict(adapters),
        shares_base=shares,
        table_rows={task: number for task, number in tables.items() if number != rows},
        vocab_size=min(tables.values()) or None,
        findings=tuple(findings),
        tokenizer=tokenizer,
        four_bit=_is_four_bit(config, home),
        pairs=shared_pairs(folder, pairs, "config.json beside the adapter"),
    )


def _adapters_tokenizer(folder: Path, adapters: Mapping[str, str], home: Path) -> Path:
    """Return the folder of the tokenizer: beside the adapters, in their own folders if all agree, or the base's."""
    places = [folder, *(folder / at for at in adapters.values())]
    own = [place for place in places if any((place / name).is_file() for name in VOCABULARIES)]
    kinds = {tuple(sorted(digest_files(place, tokenizer_files(place)).items())) for place in own}
    if len(kinds) > 1:
        raise BundleError(
            f"The adapters in {folder} bring different tokenizers, but a text is tokenized once for all of them. Serve "
            "each from a folder of its own."
        )
    return own[0] if own else home


def _read_classifier(folder: Path, base: Path | None) -> Bundle:
    config = _classifier_config(folder)
    if config.get("quantization_config"):
        raise BundleError(
            f"{folder} stores its weights quantised ({_quant_method(config)}). Serve the full-precision model: "
            "INT8 is made from it here."
        )
    return _classifier_bundle(folder, config, _weight_files(folder))


def _read_optimum(folder: Path, base: Path | None) -> Bundle:
    graph = next((name for name in OPTIMUM if (folder / name).exists()), None)
    if graph is None:
        layouts.refuse_layout(folder)
        raise BundleError(f"{folder} has no model.onnx. Export the model again.")
    config = _classifier_config(folder)
    beside = [at.relative_to(folder).as_posix() for mark in ("_data*", ".data") for at in folder.glob(graph + mark)]
    bundle = _classifier_bundle(folder, config, ["config.json", graph, *sorted(beside), *tokenizer_files(folder)])
    return replace(
        bundle,
        format="optimum",
        backends=("onnx", "int8"),
        graphs=dict.fromkeys(bundle.tasks, graph),
        token_types=True,
    )


def _classifier_config(folder: Path) -> dict[str, Any]:
    """Return the config of a model, which must be one with a classification head."""
    config = read_config(folder)
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or len(architectures) > 9:
        raise BundleError(f"{folder / 'config.json'}: architectures must be a list of names. Restore it.")
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        layouts.refuse_embedder(folder)
        if not architectures:
            raise BundleError(
                f"{folder / 'config.json'} names no architecture, so its head may not be for classifying texts. Write "
                'the name of its class there, if that is so: "architectures": ["…ForSequenceClassification"].'
            )
        raise BundleError(
            f"{folder} is a {', '.join(map(str, architectures))[:200]}, which has no classification head for texts (a "
            "…ForSequenceClassification has one). Fine-tune it first: python -m training --help"
        )
    return config


def _classifier_bundle(folder: Path, config: Mapping[str, Any], files: list[str]) -> Bundle:
    name = config.get("finetuning_task")
    tasks = {task_name(name) if isinstance(name, str) and name else TASK: read_task(folder, config, None)}
    bundle = _plain_bundle(folder, tasks, config, folder, files, folder)
    return replace(bundle, pairs=takes_pairs(folder, config, *tasks.values()))


def _plain_bundle(
    folder: Path, tasks: Mapping[str, Task], config: Mapping[str, Any], tokenizer: Path, files: list[str], home: Path
) -> Bundle:
    """Return the bundle of a model of transformers whose config and weights are in `home`."""
    check_tokenizer_class(tokenizer)
    rows, pad_id = embedding_rows(home) or config.get("vocab_size"), config.get("pad_token_id", 0)
    check_padding(config, rows, home / "config.json")
    length = tokenizer_max_length(tokenizer) or MAX_TOKENS
    return Bundle(
        folder=folder,
        name=model_name(folder),
        tasks=tasks,
        pooling=None,
        max_tokens=max(SHORTEST, int(min(length if length <= CONTEXT else LONGEST, max_positions(config)))),
        base=None,
        files=digest_files(folder, files),
        format="transformers",
        pad_id=pad_id if isinstance(pad_id, int) and not isinstance(pad_id, bool) and pad_id >= 0 else 0,
        vocab_size=rows,
        **segments(config),
    )


def _read_refused(folder: Path, base: Path | None) -> Bundle:
    raise layouts.pickle_error(folder)


# In the order in which they are tried: a folder that fits two of them is read as the first.
FORMATS = (
    Format("a Triptych bundle", ("bundle.json",), _read_bundle),
    Format("", ("task_heads.pt",), _read_refused),
    Format("", ("model_head.pkl", "modules.json"), _read_refused),
    Format("a PEFT adapter", ADAPTER, _read_adapter),
    Format("", ("adapter_config.json", "adapter_model.bin"), _read_refused),
    Format("a Hugging Face classifier", ("config.json", "*.safetensors"), _read_classifier),
    Format("exported ONNX files", ("*.onnx", "*_config.json", "tokenizer/tokenizer.json"), read_exported),
    Format("an ONNX classifier of Optimum", ("config.json", "model*.onnx"), _read_optimum),
    Format("", ("config.json", "onnx/model*.onnx"), _read_optimum),
    Format("", ("config.json", "pytorch_model*.bin"), _read_refused),
    Format("several PEFT adapters of one base", tuple(f"*/{name}" for name in ADAPTER), _read_adapters),
)


# --- Shared by the readers


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
    """Return the files of a whole model: config, weights (one file or shards) and tokenizer."""
    weights = weight_names(folder)
    if not weights:
        layouts.refuse_weights(folder)
    for name in weights:
        tensors(inside(folder, name))  # raises if the file is not complete
    index = [] if weights == [WEIGHTS] else [INDEX]
    return ["config.json", *index, *weights, *tokenizer_files(folder)]
