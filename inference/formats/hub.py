"""The Hugging Face Hub: ids, and the files that are downloaded from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.errors import BundleError, InputError, MissingDependencyError

# What is downloaded of a model: descriptions, tokenizers and safetensors. No pickle and no code.
ALLOW_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.codes", "*.onnx", "*.onnx_data", "*_weights.bin")
# `*` matches a slash too: these folders hold the model in other formats or of other times.
IGNORE_PATTERNS = ("onnx/*", "openvino/*", "checkpoint-*/*", "runs/*", "coreml/*")
ONNX_PATTERNS = ("onnx/model.onnx*",)
DATA_SETS = "hf://datasets/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_BASE_ID = re.compile(rf"({_HUB_ID.pattern}|[A-Za-z0-9][\w.-]{{0,95}})")  # bert-base-uncased has no owner


def without_scheme(model: str) -> str:
    """Remove hf:// from a Hub id; a `Path` of it has only one of the slashes."""
    return re.sub("^hf:/{1,2}", "", model)


def fetch(model: str) -> Path:
    """Return the folder of a model on the Hub, downloaded unless it is in the cache.

    Raises:
        BundleError: `model` is not a Hub id, or there is no such model that this user may read.
        MissingDependencyError: huggingface_hub is not installed.
    """
    model = without_scheme(model)
    # A mistyped "models/tickts" must not download a stranger's model.
    if not _HUB_ID.fullmatch(model) or is_folder(Path(model).parent):
        raise BundleError(f"No model folder {model}. Name a folder that holds a model, or a Hub id: OWNER/NAME.")
    folder = _fetch(model, ALLOW_PATTERNS, IGNORE_PATTERNS)
    if not any(any(folder.glob(mark)) for mark in ("*.safetensors", "*.onnx")):  # some models are a graph only
        folder = _fetch(model, ONNX_PATTERNS, ())
    return folder


def _fetch(model: str, allow_patterns: Sequence[str], ignore_patterns: Sequence[str]) -> Path:
    return snapshot(
        model,
        f"No model folder {model}, and downloading it from the Hugging Face Hub needs huggingface_hub.",
        f"No model folder {model}, and no readable model with that id on the Hugging Face Hub ({{}}). Name a model "
        "folder or an id you have access to.",
        allow_patterns=list(allow_patterns),
        ignore_patterns=list(ignore_patterns),
    )


def snapshot(hub_id: str, missing: str, unreadable: str, **options: Any) -> Path:
    """Return the folder of a repository on the Hub, downloaded unless it is in the cache.

    Args:
        missing: message if huggingface_hub is not installed.
        unreadable: message if the Hub gives nothing; {} becomes the reason.
        options: as for `snapshot_download`.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingDependencyError(f"{missing} Install it: pip install -r requirements.txt") from None
    try:
        return Path(snapshot_download(hub_id, max_workers=4, **options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, LocalEntryNotFoundError | ConnectionError):
            reason = "it is not in the cache, and the Hub cannot be reached"
        else:
            reason = f"the Hub answers {status}" if status else " ".join(str(error).split())[:200]
        raise BundleError(unreadable.format(reason)) from error


def fetch_data_file(address: str) -> Path:
    """Return the local copy of hf://datasets/OWNER/NAME[@REVISION]/PATH, downloaded unless it is in the cache.

    Raises:
        InputError: the address is malformed, or the file is neither in the cache nor readable on the Hub.
    """
    parts = address.removeprefix(DATA_SETS).split("/", 2)
    if not address.startswith(DATA_SETS) or len(parts) < 3 or not all(parts):
        raise InputError(f"{address!r} is not a file of a data set. Write {DATA_SETS}OWNER/NAME/path/to/file.parquet")
    owner, (repository, _, revision), path = parts[0], parts[1].partition("@"), parts[2]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(f"{owner}/{repository}", path, repo_type="dataset", revision=revision or None))
    except LocalEntryNotFoundError:
        raise InputError(f"{address} is not in the cache and the Hub cannot be reached. Download the file.") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"Cannot download {address} from the Hub: {error}") from None


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder, also for a name that no file can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def hub_id(name: str) -> str | None:
    """Return the name of a base if it can be a Hub id."""
    return name if _BASE_ID.fullmatch(name) else None
