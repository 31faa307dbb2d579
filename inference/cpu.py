"""This machine's processor: cores, name, and the instructions that matter here."""

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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _flags() -> list[str]:
    return (_cpuinfo("flags") or _cpuinfo("Features")).split()


def _cpuinfo(field: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return value.strip()
    return ""
