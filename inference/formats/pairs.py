"""Whether a model was trained on pairs of texts, such as premise and hypothesis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError, InputError, shown
from inference.formats.bundle import Task
from inference.formats.files import read_json_in

# What says that a classifier was trained on pairs of texts: its labels, or the task of run_glue.py.
PAIR_LABELS = ({"entailment", "neutral", "contradiction"}, {"entailment", "not_entailment"})
PAIR_TASKS = ("mnli", "mrpc", "qnli", "qqp", "rte", "wnli")
PAIRS_REMEDY = (  # for those who ask by Python, the command line, the API and the page alike
    'Send single texts; if the model was trained on pairs, put "pairs": true into its config.json, or start with '
    "--pairs (in Python: pairs=True)."
)


def read_pairs(environment: Mapping[str, str]) -> bool | None:
    """Return what TRIPTYCH_PAIRS says, as --pairs and --no-pairs; None if it is unset or empty.

    Raises:
        InputError: it is neither 1 nor 0.
    """
    value = environment.get("TRIPTYCH_PAIRS") or None
    if value not in ("1", "0", None):
        raise InputError(f"TRIPTYCH_PAIRS={shown(value)} is neither 1 (pairs of texts) nor 0 (single texts). Set one.")
    return None if value is None else value == "1"


def takes_pairs(folder: Path, config: Mapping[str, Any], task: Task) -> bool:
    """Return whether a classifier was trained on pairs of texts.

    `pairs` in its config decides. Without it, cross-encoders of sentence-transformers are, and models whose labels or
    task are those of natural language inference.
    """
    declared = config.get("pairs")
    if declared is not None:
        if not isinstance(declared, bool):
            raise BundleError(f"{folder}: pairs is {str(declared)[:60]!r}; it must be true or false. Correct it.")
        return declared
    kind = read_json_in(folder, "config_sentence_transformers.json").get("model_type")
    if kind == "CrossEncoder" or "sentence_transformers" in config or "sbert_ce_default_activation_function" in config:
        return True
    labels = {re.sub(r"[^a-z]+", "_", label.lower()) for label in task.labels}
    trained_for = str(config.get("finetuning_task")).lower().removeprefix("glue:")
    return labels in PAIR_LABELS or trained_for in PAIR_TASKS


def pairs_entry(folder: Path, config: Mapping[str, Any], task: Task, pairs: bool) -> dict[str, bool]:
    """Return what `config`, which is to be written into `folder`, must say so that `takes_pairs` gives `pairs`."""
    return {"pairs": pairs} if pairs or takes_pairs(folder, config, task) else {}


def shared_pairs(folder: Path, pairs: Mapping[str, bool], file: str) -> bool:
    """Return whether the tasks of a folder take pairs, which must be the same for all of them.

    Args:
        file: where each task can say so.
    """
    if len(set(pairs.values())) > 1:
        of_pairs = [task for task, takes in pairs.items() if takes]
        raise BundleError(
            f"{folder}: of its tasks {', '.join(pairs)}, only {', '.join(of_pairs)} read pairs of texts, but a text is "
            f'tokenized once for all of them. If that is wrong, write "pairs": true or false into the {file} of each '
            "task; if not, serve each from a folder of its own."
        )
    return next(iter(pairs.values()))
