"""The server's own folder of temporary files: bounded, swept, and gone in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from fastapi import FastAPI
from gradio import routes
from test_app import models

from ui import files
from ui.files import TemporaryFiles, temporary_files
from ui.page import build
from ui.site import mount_page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the system's for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_all_temporary_files_are_in_one_folder_that_is_deleted(folder: Path) -> None:
    with temporary_files() as own:
        assert own.folder.parent == folder
        assert Path(tempfile.mkdtemp()).parent == own.folder
        assert os.environ["GRADIO_TEMP_DIR"] == str(own.uploads)
        (own.uploads / "a.csv").write_text("text\na\n")
    assert not own.folder.exists()
    assert tempfile.gettempdir() == str(folder)
    assert "GRADIO_TEMP_DIR" not in os.environ


@pytest.mark.slow
def test_folders_of_killed_servers_are_deleted_and_others_kept(folder: Path) -> None:
    code = (
        "import sys, tempfile; from ui.files import temporary_files\n"
        f"tempfile.tempdir = {str(folder)!r}\n"
        "with temporary_files() as own: (own.uploads / 'a').touch(); print(own.folder, flush=True); sys.stdin.read()"
    )
    servers = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(2)
    ]
    killed, running = (Path(str(server.stdout and server.stdout.readline().strip())) for server in servers)
    servers[0].kill()
    servers[0].communicate()
    link = folder / f"{files.PREFIX}link"
    link.symlink_to(ROOT)
    young = folder / f"{files.PREFIX}young"
    young.mkdir()
    for path in (killed, running):
        os.utime(path, (0, 0))
    with temporary_files():
        assert not killed.exists()
        assert (running / "uploads" / "a").exists()
        assert young.exists()
        assert (ROOT / "README.md").exists()
    servers[1].communicate("")
    assert not running.exists()


def test_old_files_are_swept(folder: Path) -> None:
    with temporary_files() as own:
        (own.uploads / "digest").mkdir()
        for path in (own.uploads / "digest" / "a.csv", own.folder / "in.csv"):
            path.touch()
        own.sweep(time.time() + files.MAX_AGE_S - 60)
        assert len(list(own.folder.rglob("*.csv"))) == 2
        own.sweep(time.time() + files.MAX_AGE_S + 60)
        assert {path.name for path in own.folder.rglob("*")} == {"uploads", files.LOCK}


def test_make_room_fails_if_files_are_too_large_or_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1_000_000)
    with temporary_files() as own:
        assert own.make_room()
        (own.uploads / "large").write_bytes(bytes(1_000_000))
        assert not own.make_room()  # it was uploaded just now
        (own.uploads / "large").unlink()
        for number in range(16):
            (own.uploads / f"{number}").touch()
        assert not own.make_room()


def test_the_oldest_uploads_make_room_for_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1_000_000)
    with temporary_files() as own:
        working = own.folder / "working"
        working.write_bytes(bytes(300_000))
        for age in (3, 2, 1):
            (path := own.uploads / str(age)).write_bytes(bytes(300_000))
            os.utime(path, (time.time() - age * 100,) * 2)
        os.utime(working, (0, 0))
        assert own.make_room()
        assert [path.name for path in sorted(own.uploads.iterdir())] == ["1", "2"]
        assert working.exists()  # only uploads go: what is under way is needed


@pytest.mark.parametrize("path", ["", "\0", "/etc/hostname", "..", ".", "nothing", "a" * 5000, "uploads/../../x"])
def test_only_uploads_are_found(folder: Path, path: str) -> None:
    own = TemporaryFiles(folder)
    (folder / "x").touch()
    inside = own.uploads / "a.csv"
    inside.touch()
    (own.uploads / "link").symlink_to("/etc/hostname")
    assert own.find(path) is None
    assert own.find(str(own.uploads / path)) is None
    assert own.find(str(own.uploads / "link")) is None
    assert own.find(str(inside)) == inside


def test_page_does_not_use_the_folder_that_gradio_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "gradio"
    shared.touch()  # nobody can make a folder in it, as in one of another user
    monkeypatch.setattr(routes, "DEFAULT_TEMP_DIR", str(shared))
    with temporary_files() as own:
        mount_page(FastAPI(), build(models()), own)
    assert shared.is_file()
