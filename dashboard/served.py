"""The model that the page beside this dashboard serves, and whether a receipt is of that model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from inference.artifacts.cache import changed, check_content, check_same, content_key, default_cache
from inference.assets import DEMO_MODEL
from inference.errors import InferenceError, without_folders
from inference.formats.bundle import Bundle
from inference.formats.describe import describe

Written = tuple[tuple[str, int, int], ...]
"""Name, time and bytes of each file of a folder and of the folders in it."""


def model() -> Path:
    """The folder of the model that is served, and measured on "Your data"."""
    return Path(os.environ.get("TRIPTYCH_MODEL") or DEMO_MODEL)


def base() -> Path | None:
    """The folder of its base model, where that is not where the model says."""
    given = os.environ.get("TRIPTYCH_BASE")
    return Path(given) if given else None


def bundle() -> Bundle:
    """The model that is served. Its files are hashed once.

    Raises:
        ChangedModelError: the folder no longer holds the model that the page beside this dashboard serves.
        InferenceError: it cannot be read, or fetched. The next call tries again.
    """
    found: Bundle | InferenceError = _described(*_now())
    started_with = os.environ.get("TRIPTYCH_CONTENT")
    if isinstance(found, InferenceError):
        _described.clear(*_now())  # whoever reads what is wrong will mend it
        raise changed(model().name) if started_with else found
    check_content(found, started_with)
    return found


def unchanged() -> Bundle:
    """The same for a process that is about to open it: where a page serves it, its weights are checked too.

    Raises:
        InferenceError: as `bundle`.
    """
    described = bundle()
    if os.environ.get("TRIPTYCH_CONTENT"):
        check_same(described, base())
    return described


def shown(error: InferenceError | str) -> str:
    """A message as a visitor may read it: without the folders in which files of this server lie."""
    return without_folders(str(error), *filter(None, (model(), base(), default_cache())))


def described() -> Bundle | None:
    """The same; None where it cannot be read here. What is wrong with it is told on "Your data"."""
    if not model().is_dir():
        return None  # an id of the Hub: fetched where it is measured, and not to look at a receipt
    found: Bundle | InferenceError = _described(*_now())
    if isinstance(found, InferenceError):
        return None
    started_with = os.environ.get("TRIPTYCH_CONTENT")
    return found if started_with in (None, content_key(found)) else None


def named() -> Bundle | None:
    """The same where TRIPTYCH_MODEL names it; None where nothing does."""
    return described() if os.environ.get("TRIPTYCH_MODEL") else None


def is_of(receipt: Mapping[str, Any], bundle: Bundle) -> bool:
    """The receipt was measured on these very files."""
    files: Mapping[str, str] = receipt["model"]["files"]
    return dict(files) == dict(bundle.files)


@st.cache_resource(max_entries=4, show_spinner=False)  # type: ignore[untyped-decorator,unused-ignore]
def _described(folder: str, base: Path | None, written: Written) -> Bundle | InferenceError:
    """The model as its files are `written` now, or what is wrong with it: that too is worth finding out only once."""
    try:
        return describe(folder, base)
    except InferenceError as error:
        return error


def _now() -> tuple[str, Path | None, Written]:
    """What `_described` is asked about."""
    given = base()
    return str(model()), given, _written(model()) + (_written(given) if given else ())


def _written(folder: Path) -> Written:
    if not folder.is_dir():
        return ()
    paths = [*folder.glob("*"), *folder.glob("*/*")]  # adapters and tokenizers have folders of their own
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in paths if path.is_file()}
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in sorted(stats.items()))
