"""What a folder of exported ONNX files says beside its graphs: each task's limits, its tokenizer's, its own digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.bundle import Task
from inference.formats.files import inside, read_json

EXPORT_LIST = "export.json"  # the SHA-256 of each file of an export


def with_threshold(path: Path, config: Mapping[str, Any], task: Task) -> Task:
    """The task with the threshold and the label for all else that its configuration in `path` gives.

    Raises:
        BundleError: they make no sense.
    """
    threshold, out_of_scope = config.get("threshold"), config.get("out_of_scope")
    if threshold is None:
        threshold = task.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise BundleError(f"{path}: threshold is {str(threshold)[:60]}; it must be a probability between 0 and 1.")
    if out_of_scope is not None and out_of_scope not in task.labels:
        raise BundleError(f"{path}: out_of_scope {str(out_of_scope)[:60]!r} is none of its labels. Correct it.")
    return replace(task, threshold=float(threshold), out_of_scope=out_of_scope)


def shared_max_length(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The tokens of a text that the tasks read, where their configurations (file name -> content) say it.

    Raises:
        BundleError: it is no number of tokens, or differs from task to task.
    """
    found: dict[int, str] = {}
    for name, config in configs.items():
        length = config.get("max_length")
        if length is None:
            continue
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise BundleError(f"{folder / name}: max_length is {str(length)[:60]}; it must be a number of tokens.")
        found[length] = name
    if len(found) > 1:
        told = ", ".join(f"{length} in {name}" for length, name in sorted(found.items()))
        raise BundleError(
            f"The tasks in {folder} read texts of different lengths (max_length is {told}), and one text is cut for "
            "all of them at once. Serve each from a folder of its own."
        )
    return next(iter(found), None)


def tokenizer_max_length(tokenizer: Path) -> float | None:
    """What the tokenizer in a folder says of how many tokens are read, if it says anything."""
    path = tokenizer / "tokenizer_config.json"
    said = read_json(path, 20_000_000).get("model_max_length") if path.is_file() else None
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0 < said < 1_000_000:
        return None  # transformers writes 1e30 for "nobody said"
    return said


def pad_token_id(tokenizer: Path) -> int:
    """The id of the padding token that a tokenizer's own files name; 0 where they name none."""
    path = tokenizer / "tokenizer_config.json"
    named = read_json(path, 20_000_000).get("pad_token") if path.is_file() else None
    text = named.get("content") if isinstance(named, dict) else named
    added = read_json(inside(tokenizer, "tokenizer.json"), 200_000_000).get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and entry.get("content") == text and isinstance(entry.get("id"), int):
            return max(0, int(entry["id"]))
    return 0


def check_export(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise BundleError if one of these files is not the one that the list of the export names, where there is one."""
    if not (folder / EXPORT_LIST).exists():
        return
    listed = read_json(inside(folder, EXPORT_LIST)).get("files")
    if not isinstance(listed, dict):
        raise BundleError(f"{folder / EXPORT_LIST} is no list of an export. Export the model again, or delete it.")
    for name, digest in digests.items():
        if listed.get(name, digest) != digest:
            raise BundleError(
                f"{folder / name} was changed since it was exported: its SHA-256 is not the one in {EXPORT_LIST}. "
                f"Export the model again; if the change is meant, delete {EXPORT_LIST}."
            )
