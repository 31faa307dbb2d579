"""Exported ONNX files: a graph and a config for each task, one tokenizer, and the list of what was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.architectures import SHORTEST
from inference.formats.bundle import Bundle
from inference.formats.files import check_folder, digest_files, inside, model_name, read_json, tokenizer_files
from inference.formats.labels import read_task, task_name
from inference.formats.pairs import shared_pairs, takes_pairs
from inference.formats.tokenizer import CONTEXT, MAX_TOKENS, pad_token_id, tokenizer_max_length

EXPORT_LIST = "export.json"  # the SHA-256 of each file of an export


def read_exported(folder: Path, base: Path | None) -> Bundle:
    """Return the bundle of exported ONNX files; they have no base.

    Raises:
        BundleError: a file is missing, invalid or changed, or the tasks need different texts.
    """
    tasks, configs, files, pairs = {}, {}, [], {}
    for name in sorted(path.name for path in folder.glob("*_config.json")):
        task = name.removesuffix("_config.json")
        if task_name(task) != task or not (folder / f"{task}.onnx").exists():
            raise BundleError(f"{folder / name} belongs to no graph: {task}.onnx is missing. Export the model again.")
        configs[name] = config = read_json(inside(folder, name))
        tasks[task] = read_task(folder / name, config, None, config.get("threshold"), config.get("out_of_scope"))
        pairs[task] = takes_pairs(folder / name, config, tasks[task])
        graphs = (f"{task}.onnx", f"{task}_weights.bin", f"{task}_int8.onnx", f"{task}_int8_weights.bin")
        files += [name, *(graph for graph in graphs if (folder / graph).exists())]
    tokenizer = folder / "tokenizer"
    inside(folder, "tokenizer/tokenizer.json")
    check_folder(tokenizer)
    lengths = (_shared_max_length(folder, configs), tokenizer_max_length(tokenizer))
    limit = int(min((length for length in lengths if length is not None), default=MAX_TOKENS))
    digests = digest_files(folder, [*files, *(f"tokenizer/{name}" for name in tokenizer_files(tokenizer))])
    _check_export(folder, digests)
    return Bundle(
        folder=folder,
        name=model_name(folder),
        tasks=tasks,
        pooling=None,
        max_tokens=max(SHORTEST, min(limit, CONTEXT)),
        base=None,
        files=digests,
        format="onnx",
        tokenizer=tokenizer,
        pad_id=pad_token_id(tokenizer),
        backends=("onnx", "int8"),
        graphs={task: f"{task}.onnx" for task in tasks},
        pairs=shared_pairs(folder, pairs, "<task>_config.json"),
        token_types=True,
    )


def _shared_max_length(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Return the `max_length` of the tasks' configs (file name -> content), which must all be the same, if given."""
    lengths: dict[int, str] = {}
    for name, config in configs.items():
        length = config.get("max_length")
        if length is None:
            continue
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise BundleError(f"{folder / name}: max_length is {str(length)[:60]}; it must be a number of tokens.")
        lengths[length] = name
    if len(lengths) > 1:
        listed = ", ".join(f"{length} in {name}" for length, name in sorted(lengths.items()))
        raise BundleError(
            f"The tasks in {folder} read texts of different lengths (max_length is {listed}), but a text is cut once "
            "for all of them. Serve each from a folder of its own."
        )
    return next(iter(lengths), None)


def _check_export(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise BundleError if a file differs from its digest in the list of the export, if there is a list."""
    if not (folder / EXPORT_LIST).exists():
        return
    listed = read_json(inside(folder, EXPORT_LIST)).get("files")
    if not isinstance(listed, dict):
        raise BundleError(f"{folder / EXPORT_LIST} is not the list of an export. Export the model again, or delete it.")
    for name, value in digests.items():
        if listed.get(name, value) != value:
            raise BundleError(
                f"{folder / name} was changed since it was exported: its SHA-256 is not the one in {EXPORT_LIST}. "
                f"Export the model again; if the change is intended, delete {EXPORT_LIST}."
            )
