"""Who asks for huge pages, and that a program does so without losing anything of its call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Tiny

from inference import huge_pages
from inference.compare.processes import Process

ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a system with a recent glibc says who gets huge pages: here, who asks for them."""
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "ENABLED", file)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    return file


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ASKED),
        ({"GLIBC_TUNABLES": ""}, ASKED),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}),
        (ASKED, ASKED),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}),
    ],
)
def test_a_process_asks_unless_the_user_has_decided(before: dict[str, str], after: dict[str, str]) -> None:
    assert huge_pages.environment({"A": "1"} | before) == {"A": "1"} | after
    assert huge_pages.in_use(after) == (after["GLIBC_TUNABLES"] != "glibc.malloc.hugetlb=0")
    assert not huge_pages.in_use(before) or before == ASKED


@pytest.mark.parametrize(("content", "given"), [("[always] madvise never", True), ("always madvise [never]", False)])
def test_nobody_asks_where_that_changes_nothing(system: Path, content: str, given: bool) -> None:
    system.write_text(content)
    assert huge_pages.environment({}) == {}
    assert huge_pages.in_use({}) == huge_pages.in_use(ASKED) == given


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("library", ["glibc 2.34", "musl 1.2", "", None])
def test_nobody_asks_another_c_library(library: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert huge_pages.environment({}) == {}
    assert not huge_pages.in_use(ASKED)


def test_nobody_asks_a_system_without_huge_pages(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "no such file")
    assert huge_pages.environment({}) == {}
    monkeypatch.setattr(huge_pages, "ENABLED", system)
    monkeypatch.delattr(os, "confstr")  # as on Windows
    assert huge_pages.environment({}) == {}


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which each start of Python adds its process id, arguments and tunables."""
    lines = tmp_path / "starts"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"with open({str(lines)!r}, 'a') as file:\n"
        "    print(os.getpid(), sys.orig_argv[1:], os.environ.get('GLIBC_TUNABLES'), sep='|', file=file)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return lines


def test_a_program_restarts_once_with_its_process_arguments_and_input(system: Path, starts: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from inference import huge_pages\n"
        f"huge_pages.ENABLED = Path({str(system)!r}); os.confstr = lambda name: 'glibc 2.36'\n"
        "huge_pages.restart(); print(sys.argv[1:], sys.flags.utf8_mode, sys.stdin.read())"
    )
    command = [sys.executable, "-X", "utf8", "-c", code, "a b", ""]
    done = subprocess.run(command, cwd=ROOT, input="typed", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a b', ''] 1 typed"
    first, second = (line.split("|") for line in starts.read_text().replace("\\n", " ").splitlines())
    assert first[:2] == second[:2]
    assert (first[2], second[2]) == ("None", "glibc.malloc.hugetlb=1")


@pytest.mark.skipif(not huge_pages.environment({}), reason="this system does not give huge pages to those who ask")
@pytest.mark.parametrize(
    "program",
    [
        ["-m", "inference"],
        *(pytest.param([file], marks=pytest.mark.slow) for file in ("app.py", "serve.py")),
    ],
)
def test_programs_restart_with_huge_pages(program: list[str], starts: Path) -> None:
    done = subprocess.run([sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage:")
    assert [line.split("|")[2] for line in starts.read_text().splitlines()] == ["None", "glibc.malloc.hugetlb=1"]


@pytest.mark.skipif(not huge_pages.environment({}), reason="this system does not give huge pages to those who ask")
@pytest.mark.parametrize("given", [True, False])
def test_large_arrays_are_in_huge_pages_if_asked(given: bool) -> None:
    code = "a = bytearray(64_000_000); print(*open('/proc/self/smaps'), sep='')"
    variables = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    variables = huge_pages.environment(variables) if given else variables
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    mappings = done.stdout.split("VmFlags:")
    sizes = [int(before.partition("Size:")[2].split()[0]) for before in mappings[:-1]]  # kB
    flags = [after.partition("\n")[0].split() for after in mappings[1:]]
    assert any("hg" in flag for size, flag in zip(sizes, flags, strict=True) if size > 60_000) == given


@pytest.mark.usefixtures("system")
def test_processes_that_measure_have_huge_pages(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    process = Process(tiny.folder, "int8", pinned=False, base=tiny.base, cache=tiny.cache)
    try:
        variables = Path(f"/proc/{process._process.pid}/environ").read_bytes().split(b"\0")
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in variables
    finally:
        process.close()
