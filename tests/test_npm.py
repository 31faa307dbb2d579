"""Packages of the npm registry: only the pinned archive is used, it is fetched once, and its size is bounded."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inference.artifacts import npm
from inference.errors import InputError


def archive(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as members:
        for name in ("package/dist/a.mjs", "package/../../outside", "package/other.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return packed.getvalue()


PINNED = archive(b"export {};")
PACKAGE = npm.Package(
    "@scope/some", "1.2.3", base64.b64encode(hashlib.sha512(PINNED).digest()).decode(), ("package/dist/a.mjs",)
)


class Registry(ThreadingHTTPServer):
    """A registry on this machine, which sends `content`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.content = PINNED


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200 if self.server.content else 404)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with Registry() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()


def test_package_is_fetched_once_and_only_its_named_files_are_read(registry: Registry, tmp_path: Path) -> None:
    for _ in range(2):
        assert npm.fetch_package(PACKAGE, tmp_path) == {"a.mjs": b"export {};"}
    assert registry.asked == ["/@scope/some/-/some-1.2.3.tgz"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["some-1.2.3.tgz"]


def test_another_archive_is_refused_and_not_kept(registry: Registry, tmp_path: Path) -> None:
    registry.content = archive(b"steal()")
    with pytest.raises(InputError, match=r"from the npm registry 127.0.0.1 is not the archive whose SHA-512 is pinned"):
        npm.fetch_package(PACKAGE, tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_damaged_archive_in_the_cache_is_fetched_again(registry: Registry, tmp_path: Path) -> None:
    npm.fetch_package(PACKAGE, tmp_path)
    (kept,) = (path for path in tmp_path.rglob("*.tgz"))
    kept.write_bytes(PINNED[:-1])
    assert npm.fetch_package(PACKAGE, tmp_path) == {"a.mjs": b"export {};"}
    assert kept.read_bytes() == PINNED


def test_endless_answer_is_cut_off(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm, "MAX_BYTES", len(PINNED) - 1)
    with pytest.raises(InputError, match="sends more than"):
        npm.fetch_package(PACKAGE, tmp_path)


def test_cache_that_cannot_be_written_does_not_prevent_fetching(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert npm.fetch_package(PACKAGE, tmp_path / "file") == {"a.mjs": b"export {};"}


def test_failure_names_the_registry_without_its_password_and_the_place_for_the_archive(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.content = b""
    with pytest.raises(
        InputError, match=r"Cannot fetch @scope/some 1.2.3 .*Not Found.*put the archive at .*some-1.2.3.tgz"
    ):
        npm.fetch_package(PACKAGE, tmp_path)
    monkeypatch.setenv("npm_config_registry", "http://me:secret@127.0.0.1:1/")
    with pytest.raises(InputError, match="Cannot fetch") as refused:
        npm.fetch_package(PACKAGE, tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["file:///etc/", "ftp://127.0.0.1/", "registry.npmjs.org", "http://", "http://[::1"]
)
def test_registry_must_be_a_web_address(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", address)
    with pytest.raises(InputError, match="npm_config_registry is not an address"):
        npm.fetch_package(PACKAGE, tmp_path)
