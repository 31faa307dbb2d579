"""PEFT adapters: checks of their settings, which PEFT obeys whatever they say, and their base model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.bundle import Base, locate_base
from inference.formats.files import TOKENIZERS, check_folder, inside, read_json, refuse_code
from inference.formats.hub import hub_id, is_folder

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# The types that PEFT can merge into the weights. Prompt and prefix tuning leave nothing to merge; BOFT compiles code.
MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "HRA", "VERA")
MAX_RANK = 4096
BASE_PATTERNS = ("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_REVISION = re.compile(r"\w[\w./-]{0,199}")
_MODULES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "target_parameters")


def read_adapter(folder: Path, at: str = ".") -> dict[str, Any]:
    """Return the settings of the classifier's adapter in `folder / at`."""
    check_folder(folder / at)
    refuse_code(folder / at)
    path = folder / at / ADAPTER[0]
    config = read_json(inside(folder, f"{at}/{ADAPTER[0]}"))
    check_adapter(config, path)
    task = config.get("task_type")
    if task != "SEQ_CLS":
        raise BundleError(
            f"{path}: task_type is {str(task)[:60]!r}, so the adapter has no labels. Train it as 'SEQ_CLS'."
        )
    if config.get("auto_mapping"):  # in an adapter on a bare encoder it is a note that nothing reads
        raise BundleError(f"{path}: auto_mapping names a custom class for the base. Remove it.")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not 0 < len(base) <= 4096 or not base.isprintable():
        raise BundleError(f"{path} does not name its base (base_model_name_or_path). Write it there, or give base=.")
    revision = config.get("revision")
    valid = revision is None or (isinstance(revision, str) and _REVISION.fullmatch(revision) and ".." not in revision)
    if not valid:
        raise BundleError(f"{path}: invalid revision {str(revision)[:60]!r}. Write a branch, a tag, a commit or null.")
    return config


def check_adapter(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError if these settings load code, use unlimited memory or never finish."""
    kind = config.get("peft_type")
    if kind not in MERGEABLE:
        raise BundleError(
            f"{path}: an adapter of type {str(kind)[:60]!r} cannot be merged into its base, so it cannot be exported "
            f"to ONNX. Known: {', '.join(MERGEABLE)}."
        )
    dangerous = [name for name in ("megatron_config", "auto_map", "layer_replication") if config.get(name)]
    if dangerous:
        raise BundleError(
            f"{path}: {', '.join(dangerous)} asks for custom code or for layers that are not in the folder. Remove it."
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
            raise BundleError(
                f"{path}: {name}={str(rank)[:60]!r} is not a rank. It must be from 0 (none) to {MAX_RANK}."
            )
    for name in _MODULES:
        value = config.get(name) or []
        patterns = [value] if isinstance(value, str) else value if name == "layers_pattern" else []
        if not isinstance(value, str | list) or not all(isinstance(module, str) for module in value):
            raise BundleError(f"{path}: {name} must be a list of names. Restore the adapter.")
        for pattern in patterns:
            _check_pattern(pattern, name, path)


def _check_pattern(pattern: str, name: str, path: Path) -> None:
    """Raise BundleError unless matching takes a time that is a small power of the length of a module's name.

    Python's engine has no time limit: a repeated group with a repetition inside tries 2**length ways.
    """
    try:
        re.compile(pattern)
        safe = len(pattern) <= 500 and not re.search(r"\)[*+{]|\(\?P?[=>]|\\[1-9]", pattern)
        safe = safe and len(re.findall(r"[*+{]", pattern)) <= 4
    except (re.error, RecursionError, OverflowError):
        safe = False
    if not safe:
        raise BundleError(
            f"{path}: {name} has an invalid or possibly endless pattern: {pattern[:60]!r}. Name the modules in a list."
        )


def find_base(folder: Path, name: str, revision: str | None, given: Path | None) -> Path:
    """Return the folder of the base that the adapter in `folder` names by a path or a Hub id."""
    remedy = "Name the folder that holds it: base=…, or --base on the command line."
    if given is None and is_folder(folder / name):
        home = folder / name
    else:
        local = Path(name) if is_folder(Path(name)) else None
        if given is None and local is None and hub_id(name) is None:
            raise BundleError(
                f"The base of the adapter in {folder} is neither a folder nor a Hub id: {name[:200]!r}. {remedy}"
            )
        home = locate_base(Base(hub_id(name), revision, dict.fromkeys((*BASE_PATTERNS, *TOKENIZERS), ""), local), given)
    if not (home / "config.json").exists():
        raise BundleError(
            f"{home}, the base of the adapter in {folder}, has no config.json, so it is not a model. {remedy}"
        )
    return home
