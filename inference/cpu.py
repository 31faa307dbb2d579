"""What this machine's processor is and can do."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The flags that decide how fast, and how exact, 8-bit arithmetic is.
INT8_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def int8_flags() -> list[str]:
    """Those of `INT8_FLAGS` that this processor has; empty where the system does not tell."""
    present = _flags()
    return [flag for flag in INT8_FLAGS if flag in present]


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16; one that is not told about is taken not to."""
    return bool(set(BF16_FLAGS) & set(_flags()))


def matches(machine: Mapping[str, Any]) -> bool:
    """Whether a processor told as `cpu` and `flags` is, for all that is known, one like this."""
    return bool((machine["cpu"], machine["flags"]) == (model(), int8_flags()))


def saturates() -> bool:
    """Whether products of 8-bit activations and full 8-bit weights can overflow here.

    An x86 processor without VNNI adds pairs of them in 16 bits and clips the sum. Weights of 7 bits are
    safe there. ARM has no such instruction in its path; an x86 whose flags are not told is taken to clip.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & set(int8_flags())


def _flags() -> list[str]:
    return (_cpuinfo("flags") or _cpuinfo("Features")).split()


def _cpuinfo(field: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return value.strip()
    return ""
