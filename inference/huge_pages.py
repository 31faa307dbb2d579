"""Memory in pages of 2 MB instead of 4 KB: batches take less time, because fewer addresses have to be looked up.

Linux gives huge pages to all programs, to none, or to those that ask for them, which neither ONNX Runtime nor PyTorch
does. The allocator of glibc asks for a whole process if `GLIBC_TUNABLES` says so when the process starts. Answers are
the same, bit for bit; `docs/performance.md` has the times. Training became no faster, so it does not ask.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
SINCE = (2, 35)  # the version of glibc that knows it
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a new process that is to have huge pages.

    They are `variables` alone where asking changes nothing (another system, or one that gives huge pages to all or to
    none), or if they decide about it already.
    """
    tunables = variables.get(VARIABLE, "")
    if TUNABLE in tunables or not _may_ask():
        return dict(variables)
    return {**variables, VARIABLE: ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))}


def in_use(variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether a process with these variables has large arrays in huge pages."""
    return _policy() == "always" or (_may_ask() and f"{TUNABLE}=1" in variables.get(VARIABLE, ""))


def restart() -> None:
    """Start this program again if it can then have huge pages: some 20 ms, if nothing large was imported yet.

    Call it first in a program, and not in a function that other programs call: process id, arguments and open streams
    stay, nothing else.
    """
    wanted = environment()
    if wanted != dict(os.environ):
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def _may_ask() -> bool:
    return _policy() == "madvise" and _glibc() >= SINCE


def _policy() -> str:
    """Return to which programs the system gives huge pages: "always" (all), "madvise" (who asks), "never", or ""."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return ENABLED.read_text(encoding="ascii").partition("[")[2].partition("]")[0]
    return ""


def _glibc() -> tuple[int, ...]:
    """Return the version of glibc; () with another C library."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()
    return ()
