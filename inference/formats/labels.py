"""The labels of a task: what a config says of them, checked against the head that the files hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.errors import BundleError
from inference.formats.architectures import HEAD_WEIGHT
from inference.formats.bundle import MULTI, SINGLE, Finding, Task, check_labels, checked_task
from inference.formats.files import inside, tensors

MAX_LABELS = 10_000
PLACEHOLDER = re.compile(r"LABEL_\d+")
TASK = "label"  # the name of a plain classifier's task if it has none


def task_name(name: str) -> str:
    """Return the name of a task that is made of the name of a folder or a data set."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64] or TASK


def read_task(
    folder: Path, config: Mapping[str, Any], count: int | None, threshold: Any = None, out_of_scope: Any = None
) -> Task:
    """Return the task that a config describes, its labels checked against the `count` that the weights have."""
    kind = config.get("problem_type")
    if kind not in (None, SINGLE, MULTI, "regression"):
        raise BundleError(f"{folder}: problem_type {str(kind)[:60]!r} is not known. Known: {SINGLE}, {MULTI}.")
    names = config.get("id2label")
    if names is None:
        size = config.get("num_labels", 2) if count is None else count
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_LABELS:
            raise BundleError(f"{folder}: num_labels is {str(size)[:60]}; it must be from 1 to {MAX_LABELS:,} labels.")
        names = {str(i): f"LABEL_{i}" for i in range(size)}
    if not isinstance(names, dict) or len(names) > MAX_LABELS:
        raise BundleError(f"{folder}: id2label must be an object of at most {MAX_LABELS:,} labels.")
    if count is not None and len(names) != count:
        if any(not PLACEHOLDER.fullmatch(str(name)) for name in names.values()):
            raise BundleError(
                f"{folder}: id2label names {len(names)} labels, and the head has {count}. Correct config.json."
            )
        names = {str(i): f"LABEL_{i}" for i in range(count)}  # these are the base's own placeholders
    if kind == "regression":
        raise BundleError(
            f"{folder} was trained to predict a number (problem_type: regression), so it has no labels. Use a "
            "classifier."
        )
    if not names:
        raise BundleError(f"{folder}: id2label names no label. Correct its configuration.")
    one_output = len(names) == 1
    try:
        labels = tuple(names[str(i)] if str(i) in names else names[i] for i in range(len(names)))
        labels = tuple(str(label) if type(label) is int else label for label in labels)  # data sets number theirs
        if threshold is None:
            threshold = 0.5 if kind == MULTI or one_output else 0.0
        if one_output:
            check_labels(labels)
            task = checked_task((f"not {labels[0]}", *labels), SINGLE, threshold, out_of_scope)
            return replace(task, one_output=True)
        return checked_task(labels, kind or SINGLE, threshold, out_of_scope)
    except KeyError as missing:
        raise BundleError(f"{folder}: id2label has no entry {missing}; it must count from 0 without a gap.") from None
    except ValueError as error:
        raise BundleError(f"{folder}: {error} Correct its configuration.") from None


def shapes_in(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in these safetensors files."""
    return {name: shape for file in names for name, (_, shape, _) in tensors(inside(folder, file)).items()}


def _count_labels(header: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of labels of the head among these tensors; None without one."""
    heads = {name: shape[0] for name, shape in header.items() if HEAD_WEIGHT.search(name) and len(shape) == 2}
    return next((heads[name] for name in sorted(heads, key=lambda name: "sequence_summary" in name)), None)


def adapter_task(
    folder: Path,
    config: Mapping[str, Any],
    header: Mapping[str, tuple[int, ...]],
    base_config: Mapping[str, Any],
    base: Mapping[str, tuple[int, ...]],
) -> tuple[Task, list[Finding]]:
    """Return the task of the adapter in `folder`, and what is doubtful about its labels.

    PEFT stores neither label names nor the problem type. A config.json beside the adapter (`config`) can; what it
    leaves out counts from the base's, as in transformers. `header` and `base` are the shapes of their tensors.
    """
    count = _count_labels(header) or _count_labels(base)
    if count is None:
        raise BundleError(
            f"The adapter in {folder} has no classification head (no tensor such as classifier.weight), and its base "
            "has none either, so its answers would be random. Save it with task_type='SEQ_CLS' and without "
            "path_initial_model_for_weight_conversion, which leaves the head out; or name the head in modules_to_save."
        )
    names = base_config.get("id2label")
    if not isinstance(names, dict) or len(names) != count:
        names = None  # of another head
    named = {"problem_type": base_config.get("problem_type"), "id2label": names}
    named |= {name: value for name, value in config.items() if value is not None}
    if named["problem_type"] == "regression" != config.get("problem_type"):
        raise BundleError(
            f"The base of the adapter in {folder} predicts a number (problem_type: regression), and nothing says that "
            f"the adapter does not. If it was trained on labels, write problem_type into {folder / 'config.json'}."
        )
    task = read_task(folder, named, count)
    return task, _undeclared(folder, config, task, has_head=bool(_count_labels(header)))


def _undeclared(folder: Path, config: Mapping[str, Any], task: Task, *, has_head: bool) -> list[Finding]:
    """Return a warning of what neither the adapter in `folder` nor the `config` beside it says of its labels."""
    problems, lacking = [], []
    if all(PLACEHOLDER.fullmatch(label) for label in task.outputs):
        problems.append((f"the labels of {folder} have no names", "people cannot read the answers"))
    elif has_head and "id2label" not in config:
        names = ", ".join(task.labels[:3])
        problems.append((f"the labels of the adapter in {folder} are those of its base: {names}", "they may be wrong"))
    if problems:
        lacking.append(names_entry(len(task.outputs)))
    if has_head and not task.one_output and not config.get("problem_type"):
        assumed = f"nothing says whether a text has one or several labels; {task.problem_type} is assumed"
        problems.append((assumed, "with the wrong one every probability is wrong"))
        lacking.append(f'"problem_type": "{SINGLE}" (or "{MULTI}" if the labels were trained independently)')
    if not problems:
        return []
    whats, whys = zip(*problems, strict=True)
    path = folder / "config.json"
    do = f"{'add to' if path.exists() else 'create'} {path}: {', '.join(lacking)}"
    return [Finding("warning", ", and ".join(whats), f"PEFT does not store it, and {' and '.join(whys)}", do)]


def names_entry(count: int) -> str:
    """Return the entry of a config that names `count` labels, to be filled in."""
    names = ", ".join(f'"{i}": "…"' for i in range(min(3, count)))
    return f'"id2label": {{{names}{", …" if count > 3 else ""}}} in the order used in training'
