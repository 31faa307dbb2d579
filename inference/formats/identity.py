"""Which model a folder holds: a key of its content, and checks that it is still the one that was described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import BundleError, ChangedModelError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe


def digest(value: Any) -> str:
    """Return the first 16 digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def content_key(bundle: Bundle) -> str:
    """Return a hash of everything that determines what the built files must compute, as the bundle names it.

    The files themselves are not opened: ONNX and INT8 are served without them, and a build verifies them.
    """
    return digest(
        {
            "files": dict(bundle.files),
            "base": dict(bundle.base.files) if bundle.base else None,
            "tasks": {name: [task.labels, task.problem_type] for name, task in bundle.tasks.items()},
            "pooling": f"{bundle.pooling}, normalized" if bundle.normalize else bundle.pooling,
            "max_tokens": bundle.max_tokens,
            "four_bit": bundle.four_bit,
            "heads": [bundle.heads.hidden, bundle.heads.activation],
            "pad_id": bundle.pad_id,
        }
        | ({"pairs": [bundle.pairs, bundle.token_types]} if bundle.pairs or bundle.token_types else {})
    )


def weights(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files without each config.json, which holds labels and settings."""
    return {name: digest for name, digest in files.items() if Path(name).name != "config.json"}


def check_same(bundle: Bundle, base: Path | None = None) -> None:
    """Raise ChangedModelError unless the folder, and its base, still hold the model that `bundle` describes.

    Added files count too: libraries read some of them unasked. Digests of unchanged files are remembered, so this
    takes milliseconds.
    """
    if base is None and bundle.base is not None:
        base = bundle.base.folder  # do not locate it again, possibly on the Hub
    try:
        now = describe(bundle.folder, base, four_bit=bundle.four_bit, pairs=bundle.pairs)
        now.verify_present(base)
    except (BundleError, FileNotFoundError, NotADirectoryError) as error:
        raise ChangedModelError.of_model(bundle.name) from error
    check_content(now, content_key(bundle), bundle.name)


def check_content(bundle: Bundle, key: str | None, name: str | None = None) -> None:
    """Raise ChangedModelError if `key` is the content key of another model. None matches any.

    Args:
        name: of the model that the key belongs to, if it is known.
    """
    if key is not None and content_key(bundle) != key:
        raise ChangedModelError.of_model(name or bundle.name)
