"""This machine's processor and its memory: cores, name, the instructions that matter here, and huge pages.

Huge pages are 2 MB in size instead of 4 KB. With them the processor looks up fewer pages, and passes take less time
(`docs/performance.md`). Linux gives them to all programs, to none, or to those that ask. ONNX Runtime never asks, and
PyTorch does not by default, but the allocator of glibc asks for a whole process if `GLIBC_TUNABLES` says so when the
process starts.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

# The flags that decide how fast, and how exact, 8-bit arithmetic is.
INT8_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")

UNREADABLE = (OSError, ValueError, IndexError, ZeroDivisionError)  # what a file of the system may lead to

TUNABLES = "GLIBC_TUNABLES"
ASK = "glibc.malloc.hugetlb"  # 1 asks, 0 does not
ASK_SINCE = (2, 35)  # the version of glibc that knows it
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
HUGE_BYTES = "2097152"  # with small pages of 64 KB, as some ARM systems have, a huge one is 512 MB
RESTARTED = "TRIPTYCH_RESTARTED"  # id of the process that restarted itself

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    A container limits the time of all cores, not their number: with 2.5 cores' worth, three threads would be stopped
    for a part of every period, and all wait for the one that is stopped. So the quota is rounded down.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(available, quota())))


def quota(root: Path = Path("/")) -> float:
    """Return the share of processor time that the control groups of this process leave it, in cores; else infinity.

    The smallest quota counts, of the group and of those around it, in version 1 and 2.

    Args:
        root: the folder of proc and sys.
    """
    quotas = [math.inf]
    with contextlib.suppress(*UNREADABLE):
        groups = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup") if line.count(":") > 1]
        for line in _lines(root / "proc/self/mountinfo"):
            mounted, _, described = line.partition(" - ")
            (top, mount), (kind, _, options) = mounted.split()[3:5], described.split()[:3]
            if kind == "cgroup2":
                paths = [path for _, controllers, path in groups if not controllers]
            elif kind == "cgroup" and "cpu" in options.split(","):
                paths = [path for _, controllers, path in groups if "cpu" in controllers.split(",")]
            else:
                continue
            folder = root / mount.lstrip("/")
            # In a container the path may be one of the host, which leads nowhere: then the folder itself counts.
            inner = [PurePosixPath(path).relative_to(top) for path in paths if PurePosixPath(path).is_relative_to(top)]
            inner = [path for path in inner if ".." not in path.parts]
            levels = {folder / level for path in inner for level in (path, *path.parents)} | {folder}
            quotas += [_quota(level) for level in levels]
    return min(quotas)


def _quota(group: Path) -> float:
    """Return the quota of one control group in cores; infinity without one."""
    with contextlib.suppress(*UNREADABLE):
        limit, period = _lines(group / "cpu.max")[0].split()
        return int(limit) / int(period) if limit != "max" else math.inf
    with contextlib.suppress(*UNREADABLE):
        microseconds = int(_lines(group / "cpu.cfs_quota_us")[0])
        return microseconds / int(_lines(group / "cpu.cfs_period_us")[0]) if microseconds > 0 else math.inf
    return math.inf


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def model() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def int8_flags() -> list[str]:
    """Return those of `INT8_FLAGS` that this processor has; empty if the system does not list flags."""
    present = _flags()
    return [flag for flag in INT8_FLAGS if flag in present]


def has_bf16() -> bool:
    """Return whether this processor is known to multiply in bfloat16."""
    return bool(set(BF16_FLAGS) & set(_flags()))


def matches(machine: Mapping[str, Any]) -> bool:
    """Return whether a machine of a receipt has the same processor name and flags as this one."""
    return bool((machine["cpu"], machine["flags"]) == (model(), int8_flags()))


def saturates() -> bool:
    """Return whether sums of products of 8-bit activations and 8-bit weights can saturate here.

    An x86 processor without VNNI adds pairs of them in 16 bits and saturates; 7-bit weights are safe. ARM does not. An
    x86 processor with unknown flags is assumed to saturate.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & set(int8_flags())


def asking_for_huge_pages(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `variables` for a new process, with a request for huge pages added where it has an effect.

    A choice already made in `variables` is kept.
    """
    if _asks(variables) is not None or not gives_huge_pages_on_request():
        return dict(variables)
    return _asking(variables, "1")


def without_huge_pages(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables` for a new process that does not ask for huge pages."""
    return _asking(variables, "0")


def has_huge_pages(variables: Mapping[str, str]) -> bool:
    """Return whether a process with these variables gets huge pages, as far as the system has any left."""
    if gives_huge_pages_on_request():
        return _asks(variables) == "1"
    return _who_gets_huge_pages() == "always"


def gives_huge_pages_on_request() -> bool:
    """Return whether a process gets huge pages if it asks, and only then."""
    return _who_gets_huge_pages() == "madvise" and _glibc() >= ASK_SINCE


def restart_with_huge_pages() -> None:
    """Start this program again if that gives it huge pages. It takes some 20 ms.

    Call it first: process id and arguments are kept; imports and open files are lost. It does nothing in a program from
    stdin, and within another one, such as a notebook that runs a script.
    """
    has_restarted = os.environ.pop(RESTARTED, "") == str(os.getpid())  # even if something removed the tunable
    program, *given = sys.argv
    is_own = sys.orig_argv[len(sys.orig_argv) - len(given) :] == given and threading.active_count() == 1
    is_read = program in ("", "-")  # from stdin, which cannot be read again
    variables = asking_for_huge_pages()
    if has_restarted or is_read or not is_own or not sys.executable or variables == os.environ:
        return
    with contextlib.suppress(OSError, ValueError):  # not allowed here: then with small pages
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**variables, RESTARTED: str(os.getpid())})


def _asks(variables: Mapping[str, str]) -> str | None:
    """Return the value of `ASK`; None if it is not set."""
    settings = dict(setting.partition("=")[::2] for setting in variables.get(TUNABLES, "").split(":"))
    return settings.get(ASK)


def _asking(variables: Mapping[str, str], value: str) -> dict[str, str]:
    others = [s for s in variables.get(TUNABLES, "").split(":") if s and not s.startswith(f"{ASK}=")]
    return {**variables, TUNABLES: ":".join([*others, f"{ASK}={value}"])}


def _who_gets_huge_pages() -> str:
    """Return which programs get huge pages of 2 MB: "always" (all), "madvise" (those that ask), "never", or ""."""
    with contextlib.suppress(*UNREADABLE):
        if _lines(HUGE_PAGES / "hpage_pmd_size") == [HUGE_BYTES]:
            return _lines(HUGE_PAGES / "enabled")[0].partition("[")[2].partition("]")[0]
    return ""


def _glibc() -> tuple[int, ...]:
    """Return the version of glibc; () with another C library."""
    with contextlib.suppress(AttributeError, *UNREADABLE):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    return ()


def _flags() -> list[str]:
    return (_cpuinfo("flags") or _cpuinfo("Features")).split()


def _cpuinfo(field: str) -> str:
    with contextlib.suppress(OSError):
        for line in _lines(Path("/proc/cpuinfo")):
            key, _, value = line.partition(":")
            if key.strip() == field:
                return value.strip()
    return ""
