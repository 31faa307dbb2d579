"""Errors a user can act on: what is wrong, with which value, and what to do. And imports that report them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InferenceError(Exception):
    """Base of every error that this package raises on purpose.

    The message is one printable line, whatever untrusted names it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message))


class InputError(InferenceError):
    """The caller passed something invalid (HTTP 422, exit code 2)."""


class BundleError(InferenceError):
    """A model folder, or the base model that it names, is missing, damaged or not what it claims to be."""


_ABSOLUTE = re.compile(r"""(?<![\w.:/\\~-])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'"`:;,()]+[/\\])*(?=[^/\\\s'"`:;,()])""")


def without_folders(message: str, *folders: Path) -> str:
    """Shorten every absolute path of a message to its last name, for readers who must not learn about folders.

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

    @classmethod
    def of_model(cls, name: str) -> ChangedModelError:
        """Return the error for the model of this name."""
        return cls(
            f"The folder of the model {name}, or that of its base, has changed since the start. Restart, or restore "
            "its files."
        )


class ExportError(InferenceError):
    """ONNX or INT8 files could not be built, or do not agree with their source."""


class NoGraphError(ExportError):
    """An architecture cannot be exported to ONNX, or its graph answers differently: a fact, not a failure."""


class MissingDependencyError(InferenceError):
    """A library is not installed or cannot be imported."""


MAX_QUOTED = 60  # characters of a value that a message quotes


def shown(value: object) -> str:
    """Format an untrusted value for a message: a short string or number as it is, anything else by its type."""
    if isinstance(value, str):
        return repr(value) if len(value) <= MAX_QUOTED else f"a string of {len(value):,} characters"
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def counted(number: int, noun: str) -> str:
    """Return "1 row", "2 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# A half-imported library looks broken to another thread, and after a failed import the next one may fail differently.
# So torch, transformers, PEFT, safetensors and ONNX Runtime are all imported under one lock.
import_lock = threading.RLock()
"""Held while a library is imported, and while one loads weights: transformers and PEFT import more of themselves then,
and change settings of the whole process."""


@contextmanager
def importing(what: str, install: str) -> Iterator[None]:
    """Import libraries in the block, while no other thread does.

    Args:
        what: the subject of the message, which needs them.
        install: arguments of `pip install`.

    Raises:
        MissingDependencyError: an import failed, whatever it raised.
    """
    with import_lock:
        try:
            yield
        except InferenceError:
            raise
        except Exception as error:  # a broken library may raise anything: RuntimeError, OSError, AttributeError
            if failure := import_failure(error, what, install):
                raise failure from error
            raise


def import_failure(error: BaseException, what: str, install: str) -> MissingDependencyError | None:
    """Return the error to raise if `error` comes from an import, else None."""
    cause: BaseException | None = error
    while cause is not None:
        library = _library(cause)
        if library is not None:
            if isinstance(cause, ModuleNotFoundError):
                state, remedy = "is not installed", "Install it"
            else:
                reason = " ".join(str(cause).split())[:300]
                state, remedy = f"cannot be imported ({type(cause).__name__}: {reason})", "Install it again"
            return MissingDependencyError(f"{what} needs {library}, which {state}. {remedy}: pip install {install}")
        cause = cause.__cause__
    return None


def _library(error: BaseException) -> str | None:
    """Return the library whose import raised this error; None for other errors, and for own modules."""
    names = [error.name or ""] if isinstance(error, ImportError) else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":  # the code of a module runs while it is imported
            names.append(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    if isinstance(error, ImportError) and names[0].partition(".")[0] == "inference":
        return None
    named = [name for name in names if name and name != "inference"]
    if named:
        return f"the library {named[0]!r}"
    return "a library" if isinstance(error, ImportError) else None
