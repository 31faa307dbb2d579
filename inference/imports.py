"""Import heavy libraries, one thread at a time, and tell a library that fails to import from damaged weights.

A library that is half imported by one thread looks broken to another, and after an import that failed the next one may
fail in another way. So every import of torch, transformers, PEFT, safetensors and ONNX Runtime happens under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from inference.errors import InferenceError, MissingDependencyError

lock = threading.RLock()
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
    with lock:
        try:
            yield
        except InferenceError:
            raise
        except Exception as error:  # a library that is broken raises anything: RuntimeError, OSError, AttributeError
            if failure := import_failure(error, what, install):
                raise failure from error
            raise


def import_failure(error: BaseException, what: str, install: str) -> MissingDependencyError | None:
    """Return the error to raise where `error` comes from an import; None where it comes from anything else."""
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
    """The library whose import raised this error, as far as it tells; None for any other error, and for own modules."""
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
