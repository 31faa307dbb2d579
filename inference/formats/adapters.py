"""What the settings of a PEFT adapter may say: PEFT obeys them, whoever wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.files import check_folder, inside, read_json, refuse_code

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# What PEFT can merge into the weights. Prompt and prefix tuning leave nothing to merge, and BOFT compiles code.
MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "HRA", "VERA")
MAX_RANK = 4096
_REVISION = re.compile(r"\w[\w./-]{0,199}")
_MODULES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "target_parameters")


def read_adapter(folder: Path, at: str = ".") -> dict[str, Any]:
    """The settings of the classifier's adapter in `folder / at`.

    Raises:
        BundleError: it is no classifier's, cannot be merged, or its settings ask for what is not safe.
    """
    check_folder(folder / at)
    refuse_code(folder / at)
    path = folder / at / ADAPTER[0]
    config = read_json(inside(folder, f"{at}/{ADAPTER[0]}"))
    check_adapter(config, path)
    task = config.get("task_type")
    if task != "SEQ_CLS":
        raise BundleError(
            f"{path}: task_type is {str(task)[:60]!r}; a classifier's is 'SEQ_CLS'. It has no labels to answer with. "
            "Train it as a classifier."
        )
    if config.get("auto_mapping"):  # of an adapter on a bare encoder it is a note, and nothing reads it
        raise BundleError(f"{path}: auto_mapping names a class of its own to load the base with. Remove it.")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not 0 < len(base) <= 4096 or not base.isprintable():
        raise BundleError(f"{path} does not name its base (base_model_name_or_path). Write it there, or give base=.")
    revision = config.get("revision")
    if revision is not None and (
        not isinstance(revision, str) or not _REVISION.fullmatch(revision) or ".." in revision
    ):
        raise BundleError(f"{path}: {str(revision)[:60]!r} is no revision. Write a branch, a tag or a commit, or null.")
    return config


def check_adapter(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError where these settings would load code, take memory without end or never come to an end."""
    kind = config.get("peft_type")
    if kind not in MERGEABLE:
        raise BundleError(
            f"{path}: an adapter of type {str(kind)[:60]!r} cannot be merged into the weights it belongs to, so no "
            f"ONNX can be made of it. Known: {', '.join(MERGEABLE)}."
        )
    dangerous = [name for name in ("megatron_config", "auto_map", "layer_replication") if config.get(name)]
    if dangerous:
        raise BundleError(
            f"{path}: {', '.join(dangerous)} asks for code of its own or for layers that are not in the folder. "
            "Remove it."
        )
    ranks = {name: config[name] for name in ("r", "init_r", "target_r") if name in config}
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict):
            raise BundleError(f"{path}: {name} must be an object. Restore the adapter.")
        for key in pattern:
            _check_pattern(key, name, path)
        if name == "rank_pattern":
            ranks.update({f"{name} {key[:40]}": value for key, value in pattern.items()})
    for name, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank <= MAX_RANK:
            raise BundleError(f"{path}: {name}={str(rank)[:60]!r} is no rank. It must be from 0 (none) to {MAX_RANK}.")
    for name in _MODULES:
        value = config.get(name) or []
        if isinstance(value, str):
            _check_pattern(value, name, path)
        elif not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise BundleError(f"{path}: {name} must be a list of names. Restore the adapter.")
        elif name == "layers_pattern":
            for one in value:
                _check_pattern(one, name, path)


def _check_pattern(pattern: str, name: str, path: Path) -> None:
    """Raise BundleError unless matching takes a time that is a small power of the length of a module's name.

    Python's own engine has no limit: a repeated group in which something repeats tries 2**length ways.
    """
    try:
        re.compile(pattern)
        sound = len(pattern) <= 500 and not re.search(r"\)[*+{]|\(\?P?[=>]|\\[1-9]", pattern)
        sound = sound and len(re.findall(r"[*+{]", pattern)) <= 4
    except (re.error, RecursionError, OverflowError):
        sound = False
    if not sound:
        raise BundleError(
            f"{path}: {name} has a pattern that is none, or may take for ever: {pattern[:60]!r}. Name the modules in "
            "a list."
        )
