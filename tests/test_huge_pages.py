"""Who asks for huge pages, and that a program does so without losing anything of its call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import made
import pytest
from conftest import ROOT, Tiny

from bench.plan import Entry
from bench.processes import Process as Peer
from inference import cpu
from inference.compare import comparable, recording
from inference.compare.diff import setting_changes
from inference.compare.processes import Process

ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
REFUSED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a system says who gets huge pages, here: who asks for them. Its glibc is recent."""
    folder = tmp_path / "transparent_hugepage"
    folder.mkdir()
    (folder / "enabled").write_text("always [madvise] never\n")
    (folder / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(cpu, "HUGE_PAGES", folder)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    return folder


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ASKED),
        ({"GLIBC_TUNABLES": ""}, ASKED),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}),
        (ASKED, ASKED),
        (REFUSED, REFUSED),
    ],
)
def test_a_process_asks_unless_the_user_has_decided(before: dict[str, str], after: dict[str, str]) -> None:
    assert cpu.asking_for_huge_pages({"A": "1"} | before) == {"A": "1"} | after
    assert cpu.has_huge_pages(after) == (after != REFUSED)
    assert cpu.has_huge_pages(before) == (before == ASKED)


@pytest.mark.usefixtures("system")
def test_another_kind_of_huge_page_is_not_taken_for_this_one() -> None:
    other = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=16777216"}
    assert cpu.asking_for_huge_pages(other) == other
    assert not cpu.has_huge_pages(other)


@pytest.mark.parametrize(("content", "given"), [("[always] madvise never", True), ("always madvise [never]", False)])
def test_no_process_asks_where_that_changes_nothing(system: Path, content: str, given: bool) -> None:
    (system / "enabled").write_text(content)
    assert cpu.asking_for_huge_pages({}) == {}
    assert cpu.has_huge_pages({}) == cpu.has_huge_pages(ASKED) == given


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("library", ["glibc 2.34", "glibc", "musl 1.2", "", None])
def test_other_c_libraries_are_not_asked(library: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert cpu.asking_for_huge_pages({}) == {}
    assert not cpu.has_huge_pages(ASKED)


@pytest.mark.parametrize("size", ["536870912", "", None])
def test_no_process_asks_for_pages_of_another_size(system: Path, size: str | None) -> None:
    (system / "hpage_pmd_size").unlink() if size is None else (system / "hpage_pmd_size").write_text(size)
    assert cpu.asking_for_huge_pages({}) == {}


def test_no_process_asks_on_another_system(tmp_path: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "HUGE_PAGES", tmp_path / "nothing")
    assert cpu.asking_for_huge_pages({}) == {}
    monkeypatch.setattr(cpu, "HUGE_PAGES", system)
    monkeypatch.delattr(os, "confstr")  # as on Windows
    assert cpu.asking_for_huge_pages({}) == {}


@pytest.fixture
def starts(tmp_path: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which each start of Python adds its process id, arguments and tunables; all are on that system."""
    lines = tmp_path / "starts"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"with open({str(lines)!r}, 'a') as file:\n"
        "    print(os.getpid(), sys.orig_argv[1:], os.environ.get('GLIBC_TUNABLES'), sep='|', file=file)\n"
        "if os.environ.get('SCRUBBED'):\n"
        "    os.environ.pop('GLIBC_TUNABLES', None)\n"
        "from pathlib import Path\n"
        "os.confstr = lambda name: 'glibc 2.36'\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from inference import cpu\n"
        f"cpu.HUGE_PAGES = Path({str(system)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return lines


def started(*command: str, **options: str) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120, **options
    )
    return done.stdout


@on_linux
def test_a_program_restarts_once_with_its_process_arguments_and_input(starts: Path) -> None:
    code = (
        "import os, sys; from inference import cpu; cpu.restart_with_huge_pages()\n"
        "print(sys.argv[1:], sys.flags.utf8_mode, sys.stdin.read(), 'TRIPTYCH_RESTARTED' in os.environ)"
    )
    printed = started("-X", "utf8", "-c", code, "a b", "", input="typed")
    assert printed.strip() == "['a b', ''] 1 typed False"
    first, second = (line.split("|") for line in starts.read_text().splitlines())
    assert first[:2] == second[:2]
    assert (first[2], second[2]) == ("None", "glibc.malloc.hugetlb=1")


@on_linux
def test_a_program_restarts_once_even_if_something_takes_the_tunable_away(
    starts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRUBBED", "1")
    assert started("-c", "from inference import cpu; cpu.restart_with_huge_pages(); print('here')") == "here\n"
    assert len(starts.read_text().splitlines()) == 2


@on_linux
def test_a_mark_of_another_process_prevents_no_restart(starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_RESTARTED", str(os.getpid()))
    assert started("-c", "from inference import cpu; cpu.restart_with_huge_pages(); print('here')") == "here\n"
    assert len(starts.read_text().splitlines()) == 2


@on_linux
@pytest.mark.parametrize(
    "host",
    [
        "import runpy, sys; sys.argv = ['x', '--help']; runpy.run_module('inference', run_name='__main__')",
        "import runpy, sys, threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); "
        "sys.argv = ['x']; runpy.run_module('inference', run_name='__main__')",
    ],
)
def test_a_program_within_another_restarts_nothing(host: str, starts: Path) -> None:
    subprocess.run([sys.executable, "-c", host], cwd=ROOT, capture_output=True, timeout=120)
    assert len(starts.read_text().splitlines()) == 1


@on_linux
@pytest.mark.parametrize("option", [[], ["-"]])
def test_a_program_from_stdin_is_not_restarted(option: list[str], starts: Path) -> None:
    code = "from inference import cpu; cpu.restart_with_huge_pages(); print('here')"
    assert started(*option, input=code) == "here\n"
    assert len(starts.read_text().splitlines()) == 1


@on_linux
def test_a_program_that_may_not_restart_goes_on(starts: Path) -> None:
    code = (
        "import os, sys; from inference import cpu; sys.executable = '/no such file'\n"
        "cpu.restart_with_huge_pages(); print('here')"
    )
    assert started("-c", code) == "here\n"
    assert len(starts.read_text().splitlines()) == 1


@on_linux
@pytest.mark.parametrize(
    "program",
    [["-m", "inference"], *(pytest.param([file], marks=pytest.mark.slow) for file in ("app.py", "serve.py"))],
)
def test_programs_restart_with_huge_pages(program: list[str], starts: Path) -> None:
    assert started(*program, "--help").startswith("usage:")
    assert [line.split("|")[2] for line in starts.read_text().splitlines()] == ["None", "glibc.malloc.hugetlb=1"]


@pytest.mark.skipif(not cpu.gives_huge_pages_on_request(), reason="huge pages of 2 MB are not given on request here")
@pytest.mark.parametrize("variables", [ASKED, REFUSED])
def test_large_arrays_are_in_huge_pages_if_asked(variables: dict[str, str]) -> None:
    code = "a = bytearray(64_000_000); print(*open('/proc/self/smaps'), sep='')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    mappings = done.stdout.split("VmFlags:")
    sizes = [int(before.partition("Size:")[2].split()[0]) for before in mappings[:-1]]  # kB
    flags = [after.partition("\n")[0].split() for after in mappings[1:]]
    assert any("hg" in flag for size, flag in zip(sizes, flags, strict=True) if size > 60_000) == (variables == ASKED)


def variables_of(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/environ").read_text().split("\0")


@on_linux
@pytest.mark.usefixtures("system")
def test_processes_that_measure_ask_for_huge_pages(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    process = Process(tiny.folder, "int8", pinned=False, base=tiny.base, cache=tiny.cache)
    try:
        assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in variables_of(process._process)
    finally:
        process.close()


@on_linux
@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("asks", [True, False])
def test_peers_ask_for_huge_pages_too(asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    config = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    peer = Peer(Entry("floor", "floor", "floor", "ours", huge_pages=asks), tmp_path, tmp_path, 1)
    try:
        assert f"GLIBC_TUNABLES=glibc.malloc.hugetlb={int(asks)}" in variables_of(peer._process)
    finally:
        peer.close()


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(("tunables", "recorded"), [("", True), ("glibc.malloc.hugetlb=0", False)])
def test_a_measurement_records_whether_it_had_huge_pages(
    tunables: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert recording._machine_entry()["huge_pages"] is recorded


@pytest.mark.parametrize(
    ("machine", "had"),
    [
        ({"system": "Linux", "huge_pages": True}, "yes"),
        ({"system": "Linux", "huge_pages": False}, "no"),
        ({"system": "Linux"}, "unknown"),
        ({"system": "Darwin"}, "no"),
    ],
)
def test_it_is_unknown_whether_older_measurements_from_linux_had_huge_pages(machine: dict[str, Any], had: str) -> None:
    assert comparable.huge_pages({"machine": machine}) == had


def test_a_change_of_huge_pages_is_named() -> None:
    before, after = (made.receipt([0, 1], {"pytorch": [0, 1]}) for _ in range(2))
    after["machine"]["huge_pages"] = True
    assert [(c.what, c.before, c.after) for c in setting_changes(before, after)] == [("huge pages", "unknown", "yes")]
