"""Errors a user can act on. A message says what is wrong, with which value, and what to do."""

from __future__ import annotations

import re
from pathlib import Path


class InferenceError(Exception):
    """Base of every error this package raises on purpose.

    The message is one line that any terminal can show, whatever names and files of strangers it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message))


class InputError(InferenceError):
    """What the caller passed in cannot be answered (HTTP 422, exit code 2)."""


class BundleError(InferenceError):
    """A model folder, or the base model it names, is missing, damaged or not what it claims."""


_ABSOLUTE = re.compile(r"""(?<![\w.:/\\~-])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'"`:;,()]+[/\\])*(?=[^/\\\s'"`:;,()])""")


def without_folders(message: str, *folders: Path) -> str:
    """Cut every absolute path of a message to its last name, for readers who may not know where files lie.

    Args:
        folders: paths that the message may name; needed for those with spaces.
    """
    for path in sorted({*folders, *(folder.resolve() for folder in folders)}, key=lambda path: -len(str(path))):
        if path.name:
            message = message.replace(str(path), path.name)
    return _ABSOLUTE.sub("", message)


class ChangedModelError(BundleError):
    """The model folder, or its base, no longer holds the model that was described at the start.

    The message names no path: it may be shown to any client.
    """


class ExportError(InferenceError):
    """An ONNX or INT8 artefact could not be built, or does not agree with its source."""


class MissingDependencyError(InferenceError):
    """A library that this backend or step needs is not installed, or cannot be imported."""


MAX_QUOTED = 60  # characters of a value that a message repeats


def shown(value: object) -> str:
    """Describe a value from outside in an error message: a short string or number as it is, anything else by its type.

    Messages reach whoever sent the value, and logs: they must stay one short line, whatever was sent.
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= MAX_QUOTED else f"a string of {len(value):,} characters"
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return repr(value)
    return f"a value of type {type(value).__name__}"
