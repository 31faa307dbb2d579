"""The model that the page beside this dashboard serves, and whether a measurement is of that model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from inference.artifacts.cache import default_cache
from inference.assets import DEMO_MODEL
from inference.backends import read_optional
from inference.compare.receipt import is_of as is_of
from inference.errors import ChangedModelError, InferenceError, without_folders
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.identity import check_content, check_same, content_key
from inference.formats.identity import weights as weights
from inference.formats.pairs import read_pairs

Written = tuple[tuple[str, int, int], ...]
"""Name, time and bytes of each file in a folder and its direct subfolders."""


def model() -> Path:
    """Return the folder of the served model, which "Your data" measures."""
    return Path(os.environ.get("TRIPTYCH_MODEL") or DEMO_MODEL)


def base() -> Path | None:
    """Return the folder of its base model, if set in the environment."""
    folder = os.environ.get("TRIPTYCH_BASE")
    return Path(folder) if folder else None


def cache() -> Path:
    """Return the folder of built models."""
    folder = os.environ.get("TRIPTYCH_CACHE")
    return Path(folder) if folder else default_cache()


def options() -> list[str]:
    """Return the options with which `python -m inference` reads this model as it is served here."""
    is_set = {None: [], True: ["--pairs"], False: ["--no-pairs"]}[read_pairs(os.environ)]
    return [f"--model={model()}", *([f"--base={folder}"] if (folder := base()) else []), *is_set]


def bundle() -> Bundle:
    """Return the served model. Its files are hashed once.

    Raises:
        ChangedModelError: the folder no longer contains the model that the page serves.
        InferenceError: it cannot be read or fetched. The next call tries again.
    """
    described: Bundle | InferenceError = _described(*_now())
    started_with = os.environ.get("TRIPTYCH_CONTENT")
    if isinstance(described, InferenceError):
        _described.clear(*_now())  # it may be repaired
        raise ChangedModelError.of_model(model().name) if started_with else described
    check_content(described, started_with)
    return described.with_runtimes(read_optional("TRIPTYCH_RUNTIMES", os.environ.get("TRIPTYCH_RUNTIMES")))


def unchanged() -> Bundle:
    """Return the served model for a process that will open it: if a page serves it, its weights are checked too.

    Raises:
        InferenceError: as `bundle`.
    """
    described = bundle()
    if os.environ.get("TRIPTYCH_CONTENT"):
        check_same(described, base())
    return described


def shown(error: InferenceError | str) -> str:
    """Return a message that visitors may read: without the folders of this server."""
    return without_folders(str(error), *filter(None, (model(), base(), cache())))


def described() -> Bundle | None:
    """Return the served model; None if it cannot be read here. "Your data" shows why."""
    if not model().is_dir():
        return None  # an id of the Hub: fetched to measure it, but not to look at a measurement
    described: Bundle | InferenceError = _described(*_now())
    if isinstance(described, InferenceError):
        return None
    started_with = os.environ.get("TRIPTYCH_CONTENT")
    return described if started_with in (None, content_key(described)) else None


def named() -> Bundle | None:
    """Return the served model if TRIPTYCH_MODEL names it, else None."""
    return described() if os.environ.get("TRIPTYCH_MODEL") else None


def renamed_labels(receipt: Mapping[str, Any], bundle: Bundle) -> list[tuple[str, str]]:
    """Return the labels (then, now) that were renamed since; empty if more than labels or nothing has changed."""
    then, now = _labels_then(receipt), _labels_now(bundle)
    same_weights = weights(bundle.files) == weights(receipt["model"]["files"])
    counts, counts_now = ({name: len(labels) for name, labels in tasks.items()} for tasks in (then, now))
    if not same_weights or counts != counts_now:
        return []
    return [pair for name in then for pair in zip(then[name], now[name], strict=True) if pair[0] != pair[1]]


def _labels_then(receipt: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: list(task["labels"]) for name, task in receipt["model"]["tasks"].items()}


def _labels_now(bundle: Bundle) -> dict[str, list[str]]:
    return {name: list(task.labels) for name, task in bundle.tasks.items()}


@st.cache_resource(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _described(folder: str, base: Path | None, pairs: str, written: Written) -> Bundle | InferenceError:
    """Return the model as its files are `written` now, or what is wrong with it, which is cached too."""
    try:
        return describe(folder, base, pairs=read_pairs({"TRIPTYCH_PAIRS": pairs}))
    except InferenceError as error:
        return error


def _now() -> tuple[str, Path | None, str, Written]:
    """Return the arguments of `_described`."""
    pairs = os.environ.get("TRIPTYCH_PAIRS", "")
    return str(model()), base(), pairs, _written(model()) + (_written(folder) if (folder := base()) else ())


def _written(folder: Path) -> Written:
    if not folder.is_dir():
        return ()
    paths = [*folder.glob("*"), *folder.glob("*/*")]  # adapters and tokenizers have folders of their own
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in paths if path.is_file()}
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in sorted(stats.items()))
