"""PEFT adapters: checks of their settings, which PEFT obeys whatever they say, and their base model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.bundle import Base, locate_base
from inference.formats.files import TOKENIZERS, check_folder, inside, read_json, refuse_code, wrapper_pattern
from inference.formats.hub import hub_id, is_folder
from inference.formats.weights import ADAPTER

# Types that PEFT merges into the weights as it runs them unmerged; the base bounds what they need.
MERGEABLE = (
    *("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "HRA", "VERA", "LN_TUNING", "TRAINABLE_TOKENS"),
    *("C3A", "FOURIERFT", "MISS", "ROAD", "SHIRA"),
)
# Types that add trained vectors to the texts or to attention, or that choose parts by the text: no weights hold that.
UNMERGEABLE = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"),
    *("LILY", "POLY", "SHADOW", "XLORA"),
)
MAX_RANK = 4096
MAX_COUNT = 1_000  # of samples, blocks, or terms of a series that PEFT adds up
# How LoRA can start. The first leave the base's weights alone; the others change them, the same way at every load.
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
CHANGES_BASE = ("pissa", "olora")
# Settings of LoRA that can have any value without a change to the base; all others must be off for a shared base.
_FREE = {
    *("peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"),
    *("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
    *("target_modules", "modules_to_save", "fan_in_fan_out", "init_lora_weights", "eva_config", "inference_mode"),
    *("megatron_core", "qalora_group_size", "runtime_config"),
}
_LORA_TENSOR = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")
BASE_PATTERNS = ("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_REVISION = re.compile(r"\w[\w./-]{0,199}")
_MODULES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "target_parameters")


def read_adapter(folder: Path, at: str, *, named: bool) -> dict[str, Any]:
    """Return the settings of the classifier's adapter in `folder / at`.

    Args:
        named: the base must be named in it, for lack of another source.
    """
    check_folder(folder / at)
    refuse_code(folder / at)
    path = folder / at / ADAPTER[0]
    config = read_json(inside(folder, f"{at}/{ADAPTER[0]}"))
    check_adapter(config, path)
    _check_task(config, path)
    base = config.get("base_model_name_or_path")
    if base is None and not named:
        config["base_model_name_or_path"] = base = "not recorded"
    if not isinstance(base, str) or not 0 < len(base) <= 4096 or not base.isprintable():
        raise BundleError(f"{path} does not name its base (base_model_name_or_path). Write it there, or give base=.")
    revision = config.get("revision")
    valid = revision is None or (isinstance(revision, str) and _REVISION.fullmatch(revision) and ".." not in revision)
    if not valid:
        raise BundleError(f"{path}: invalid revision {str(revision)[:60]!r}. Write a branch, a tag, a commit or null.")
    return config


def _check_task(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless the adapter was trained on a text classifier of transformers.

    Without a `task_type` PEFT records the class of the base in `auto_mapping`; with one, nothing reads that.
    """
    task, mapping = config.get("task_type"), config.get("auto_mapping") or {}
    if task not in ("SEQ_CLS", None):
        raise BundleError(
            f"{path}: task_type is {str(task)[:60]!r}, which is not for classifying texts. Train the adapter as "
            "'SEQ_CLS'; if it was trained on a classifier, whose head is among modules_to_save, write null there."
        )
    if not mapping:
        return
    names = [mapping.get(name) for name in ("base_model_class", "parent_library")] if isinstance(mapping, dict) else []
    model, library = map(str, names or ("", ""))
    if library.partition(".")[0] != "transformers":
        raise BundleError(
            f"{path}: auto_mapping names a custom class for the base ({library[:60]}), which is never imported here. "
            "Train the adapter on a model of transformers."
        )
    if task is None and not model.endswith("ForSequenceClassification"):
        raise BundleError(
            f"{path}: the adapter was trained on {model[:60]} (auto_mapping), which has no labels. Train it on a model "
            "for sequence classification, as 'SEQ_CLS'."
        )


def check_adapter(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError if these settings load code, use unlimited memory, never finish or cannot be served rightly."""
    _check_kind(config, path)
    _check_start(config, path)
    dangerous = [name for name in ("megatron_config", "auto_map", "layer_replication") if config.get(name)]
    if dangerous:
        raise BundleError(
            f"{path}: {', '.join(dangerous)} asks for custom code or for layers that are not in the folder. Remove it."
        )
    _check_ranks(config, path)
    _check_tokens(config, path)
    counts = {"num_cayley_neumann_terms": config.get("num_cayley_neumann_terms", 0)}
    for name in ("monteclora_config", "use_bdlora"):
        counts |= config[name] if isinstance(config.get(name), dict) else {}
    for name, count in counts.items():
        if isinstance(count, int) and count > MAX_COUNT:
            raise BundleError(f"{path}: {name[:60]} is {str(count)[:60]}; the limit is {MAX_COUNT:,}.")
    for name in _MODULES:
        value = config.get(name) or []
        patterns = [value] if isinstance(value, str) else value if name == "layers_pattern" else []
        if not isinstance(value, str | list) or not all(isinstance(module, str) for module in value):
            raise BundleError(f"{path}: {name} must be a list of names. Restore the adapter.")
        for pattern in patterns:
            _check_pattern(pattern, name, path)


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless PEFT merges adapters of this type, with these settings, into their base."""
    kind = config.get("peft_type")
    if kind in UNMERGEABLE:
        raise BundleError(
            f"{path}: a {kind} adapter cannot be merged into its base, and only merged adapters are served. Train one "
            "of another type, such as LORA."
        )
    if kind not in MERGEABLE:
        raise BundleError(
            f"{path}: adapters of type {str(kind)[:60]!r} are not served unmerged. Merge it where it was trained "
            f"(model.merge_and_unload().save_pretrained) and serve that folder. Served: {', '.join(MERGEABLE)}."
        )
    if kind == "OFT":
        _check_oft(config, path)
    if unmergeable := [name for name in ("alora_invocation_tokens", "arrow_config", "use_qalora") if config.get(name)]:
        raise BundleError(f"{path}: PEFT cannot merge an adapter with {', '.join(unmergeable)} into its base.")


def _check_ranks(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError unless every rank of an adapter is a small whole number."""
    ranks = {name: config[name] for name in ("r", "init_r", "target_r") if name in config}
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict):
            raise BundleError(f"{path}: {name} must be an object. Restore the adapter.")
        for key in pattern:
            _check_pattern(key, name, path)
        for key, value in pattern.items() if name == "rank_pattern" else ():
            # trained AdaLoRA: a mask of the ranks that are left
            is_mask = config["peft_type"] == "ADALORA" and isinstance(value, list) and set(map(type, value)) <= {bool}
            ranks[f"{name} {key[:40]}"] = len(value) if is_mask else value
    for name, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank <= MAX_RANK:
            raise BundleError(
                f"{path}: {name}={str(rank)[:60]!r} is not a rank. It must be from 0 (none) to {MAX_RANK}."
            )


def _check_start(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError if the base under this LoRA cannot be made again from the files.

    Some initializations subtract from the base's weights what they put into the adapter. PEFT repeats that when it
    loads the adapter: exactly for `CHANGES_BASE`, differently each time for pissa_niter_*, and for others not at all.
    """
    start = config.get("init_lora_weights", True)
    if start in (True, False, None) or (isinstance(start, str) and start.lower() in (*KEEPS_BASE, *CHANGES_BASE)):
        return
    raise BundleError(
        f"{path}: init_lora_weights is {str(start)[:60]!r}: the training began by changing the base's weights in a way "
        "that cannot be repeated, so the answers would not be those of the trained model. Save that model merged "
        "(model.merge_and_unload().save_pretrained); or, if you saved the changed base, name it with --base and write "
        "true there."
    )


def _check_oft(config: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError if this OFT adapter was made by a PEFT that computed it differently."""
    written_by = re.match(r"(\d+)\.(\d+)", str(config.get("peft_version")))  # PEFT names itself since 0.18
    is_old = written_by is None or (int(written_by[1]), int(written_by[2])) < (0, 18)
    if config.get("use_cayley_neumann", True) and is_old:
        raise BundleError(
            f"{path}: PEFT computes OFT with use_cayley_neumann differently since version 0.18, and an older one made "
            "this adapter, so the answers would not be those of training. Merge it with that version "
            "(model.merge_and_unload().save_pretrained)."
        )


def check_four_bit(folder: Path, adapters: Iterable[str]) -> None:
    """Raise BundleError if an adapter starts by changing its base, which one in 4 bits cannot repeat exactly."""
    for at in adapters:
        start = read_json(inside(folder, f"{at}/{ADAPTER[0]}")).get("init_lora_weights")
        if isinstance(start, str) and start.lower() in CHANGES_BASE:
            raise BundleError(
                f"{folder / at / ADAPTER[0]}: init_lora_weights is {start!r}, which changes the base's weights, and a "
                "base in 4 bits is then rounded again. Serve it on a base in full precision."
            )


def _check_tokens(config: Mapping[str, Any], path: Path) -> None:
    for name in ("trainable_token_indices", "token_indices"):
        value = config.get(name) or []
        lists = list(value.values()) if isinstance(value, dict) else [value]
        if not all(isinstance(indices, list) and all(type(i) is int and i >= 0 for i in indices) for indices in lists):
            raise BundleError(f"{path}: {name} must list the ids of tokens. Restore the adapter.")


def check_names(names: Iterable[str], path: Path) -> None:
    """Raise BundleError if the names of an adapter's tensors show that a wrapper was saved instead of the model."""
    if wrapper_pattern([name.removeprefix("base_model.model.") for name in names]):
        raise BundleError(
            f"{path}: the adapter was saved from a wrapper of torch.compile or of training on several devices, whose "
            "name is in those of its tensors, and PEFT would not find them. Save it from the model inside "
            "(accelerator.unwrap_model, model._orig_mod)."
        )


def share_base(adapters: Collection[tuple[Mapping[str, Any], Iterable[str]]]) -> bool:
    """Return whether these adapters can be switched on one base: settings and names of the tensors of each.

    A list of what leaves a base alone decides, so that an unknown setting or tensor takes the safe way.
    """
    alike = {(config.get("task_type"), bool(config.get("fan_in_fan_out")), _saved(config)) for config, _ in adapters}
    return len(alike) == 1 and all(_leaves_base_alone(config, names) for config, names in adapters)


def _leaves_base_alone(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    if config.get("peft_type") != "LORA" or config.get("init_lora_weights", True) not in KEEPS_BASE:
        return False
    if not isinstance(config.get("target_modules"), list):  # a pattern could match the layers of another adapter
        return False
    if any(value and value != "none" for name, value in config.items() if name not in _FREE):
        return False
    return all(_LORA_TENSOR.search(name) or any(f"{module}." in name for module in _saved(config)) for name in names)


def _saved(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the endings of the names of the modules that an adapter holds in full; PEFT adds the usual heads."""
    return frozenset(
        (*(config.get("modules_to_save") or ()), *(("classifier", "score") if config.get("task_type") else ()))
    )


def table_rows(config: Mapping[str, Any], stored: int | None, rows: int) -> int:
    """Return how many rows the base's table of word embeddings has under an adapter, which can bring more tokens.

    Args:
        config: of the adapter.
        stored: rows of the table in its file, if there is one.
        rows: of the base's own table.
    """
    if stored is not None:
        return stored
    value = config.get("trainable_token_indices") or config.get("token_indices") or []
    indices = {i for ids in (value.values() if isinstance(value, dict) else [value]) for i in ids}
    new = {i for i in indices if i >= rows}  # the adapter can bring these alone, but then all of them
    return rows + len(new) if new == set(range(rows, rows + len(new))) else rows


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
