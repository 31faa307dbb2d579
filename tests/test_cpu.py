"""How many threads a process may have, from the files of a container's control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from inference import cpu
from inference.cpu import cores  # not that of `cpu`, which conftest.py replaces

V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = "32 23 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "33 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def v1(quota: int, folder: str = "cpu,cpuacct") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        (V2.format(top="/"), "0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        (V2.format(top="/"), "0::/\n", {}, math.inf),
        # nested: the smallest counts, wherever it is
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "max 1\n", "a/b/cpu.max": "20000 10000", "cpu.max": "9 1"}, 2),
        # the host's path, and a container's own group as the top or without its name space
        (V2.format(top="/docker/x"), "0::/docker/x/y\n", {"y/cpu.max": "300000 100000\n"}, 3),
        (V2.format(top="/"), "0::/../../kubepods/x\n", {"cpu.max": "100000 100000\n"}, 1),
        (V1.format(top="/docker/x"), "4:cpu,cpuacct:/docker/x\n0::/\n", v1(50_000), 0.5),
        (V1.format(top="/"), "4:cpu,cpuacct:/docker/x\n", v1(50_000), 0.5),
        (V1.format(top="/"), "4:cpu,cpuacct:/a/b\n", v1(-1) | v1(250_000, "cpu,cpuacct/a"), 2.5),
        (V1.format(top="/"), "4:cpu,cpuacct:/a\n", v1(-1), math.inf),
        (OTHER + V1.format(top="/") + V2.format(top="/"), "7:memory:/x\n4:cpu,cpuacct:/\n0::/\n", v1(400_000), 4),
        (OTHER, "7:memory:/\n", {"memory/cpu.max": "1 100000"}, math.inf),
        # nothing that can be read
        (V2.format(top="/"), "0::/\n", {"cpu.max": "\n"}, math.inf),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "half 100000\n"}, math.inf),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "50000 0\n"}, math.inf),
        ("nonsense\n", "0::/\n", {"cpu.max": "50000 100000\n"}, math.inf),
        (V2.format(top="/"), "nonsense\n", {"cpu.max": "50000 100000\n"}, 0.5),
    ],
)
def test_quota_is_the_smallest_of_the_control_groups_around_a_process(
    mounts: str, groups: str, files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    assert cpu.quota(machine(tmp_path, mounts, groups, files)) == quota


def test_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu.quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (2.5, 2), (16.0, 16), (99.0, 16), (math.inf, 16)])
def test_threads_fit_into_the_quota(quota: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(cpu, "quota", lambda: quota)
    assert cores() == threads
