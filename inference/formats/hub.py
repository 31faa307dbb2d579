"""Where a model lies: in a folder here, else on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from inference.errors import BundleError, InputError, MissingDependencyError
from inference.formats.bundle import Base, locate_base
from inference.formats.files import TOKENIZERS

# Of a model on the Hub, what is fetched: descriptions, tokenizers and safetensors. No pickle and no code.
ALLOW_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.codes", "*.onnx", "*_weights.bin")
# `*` matches a slash too: these folders repeat the model in other forms, or at other times.
IGNORE_PATTERNS = ("onnx/*", "openvino/*", "checkpoint-*/*", "runs/*", "coreml/*")
# The same of a base: one whole model and its tokenizer.
BASE_PATTERNS = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZERS,
)
DATA_SETS = "hf://datasets/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_BASE_ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")  # bert-base-uncased has no owner


def without_scheme(model: str) -> str:
    """What is left of hf://OWNER/NAME, of which a path has kept one slash; anything else as it is."""
    return re.sub("^hf:/{1,2}", "", model)


def fetch(model: str) -> Path:
    """The folder of a model on the Hub, fetched unless it is in the cache.

    Raises:
        BundleError: it is no id of the Hub, or the Hub gives none of it.
        MissingDependencyError: huggingface_hub is needed and not installed.
    """
    model = without_scheme(model)
    # "models/tickets" with a typing error in it is no wish for somebody else's model.
    if not _HUB_ID.fullmatch(model) or is_folder(Path(model).parent):
        raise BundleError(f"No model folder {model}. Name a folder that holds a model, or a Hub id: OWNER/NAME.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingDependencyError(
            f"There is no folder {model}, and to ask the Hugging Face Hub for it needs huggingface_hub. "
            "Install it: pip install -r requirements.txt"
        ) from None
    try:
        return Path(
            snapshot_download(
                model, allow_patterns=list(ALLOW_PATTERNS), ignore_patterns=list(IGNORE_PATTERNS), max_workers=4
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BundleError(
            f"No model folder {model}, and the Hugging Face Hub gave none of that id ({type(error).__name__}). Name a "
            "folder that holds a model, or an id you may read."
        ) from None


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


def find_base(folder: Path, name: str, revision: str | None, given: Path | None) -> Path:
    """The folder of the base that the adapter in `folder` names, as a folder or by its Hub id.

    Raises:
        BundleError: it is found nowhere, or is no model.
    """
    if given is None and is_folder(folder / name):
        found = folder / name
    else:
        local = Path(name) if is_folder(Path(name)) else None
        if given is None and local is None and hub_id(name) is None:
            raise BundleError(
                f"The base of the adapter in {folder} is no folder here and no Hub id: {name[:200]!r}. Name the folder "
                "that holds it: base=…, or --base on the command line."
            )
        found = locate_base(Base(hub_id(name), revision, dict.fromkeys(BASE_PATTERNS, ""), local), given)
    if not (found / "config.json").exists():
        raise BundleError(
            f"{found}, the base of the adapter in {folder}, holds no config.json, so it is no model. Name the folder "
            "that holds it: base=…, or --base on the command line."
        )
    return found


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; also for a name that no file can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def hub_id(name: str) -> str | None:
    """The name of a base, if it can be an id of the Hub."""
    return name if _BASE_ID.fullmatch(name) else None
