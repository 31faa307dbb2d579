"""Uploads to the page over HTTP: one file each, within bounds, and nothing is left of what breaks off."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT
from served import wait_until
from test_attacks import Target, target

__all__ = ["target"]


def test_upload_is_served_as_a_download_and_links_are_not_followed(target: Target) -> None:
    status, text = target.upload("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    assert status == 200
    (path,) = json.loads(text)
    status, headers, _ = target.ask("GET", f"/gradio_api/file={path}", Range="bytes=1-2-3")
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")
    link = Path(path).with_name("link")
    link.symlink_to(ROOT / "README.md")
    assert target.ask("GET", f"/gradio_api/file={link}")[0] == 404


def test_incomplete_upload_leaves_nothing(target: Target) -> None:
    before = target.files()
    with socket.create_connection(("127.0.0.1", target.port)) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
            b"Content-Length: 5000000\r\n\r\n"
            b'--a\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n' + b"a" * 3_000_000
        )
    assert target.is_alive()
    assert target.files() == before


PART = b'--a\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\ntext\n'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--a--",
        PART + b"\r\n" + PART + b"\r\n--a--\r\n",
        PART,
        b'--a\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n--a--\r\n',
        b'--a\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\na\r\n--a--\r\n',
    ],
)
def test_upload_must_be_one_file(target: Target, body: bytes) -> None:
    before = target.files()
    kind = {"Content-Type": "multipart/form-data; boundary=a"}
    assert target.ask("POST", "/gradio_api/upload", body, **kind)[0] == 400
    assert target.ask("POST", "/gradio_api/upload", body, **{"Content-Type": "text/plain"})[0] == 400
    assert target.files() == before


def test_unfinished_uploads_of_one_address_do_not_block_others(target: Target) -> None:
    head = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
        b"Content-Length: 5000\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", target.port)))
            connection.sendall(head + PART)
        wait_until(lambda: target.upload("a.csv", b"text\n")[0] == 429)
        connection = stack.enter_context(
            socket.create_connection(("127.0.0.1", target.port), source_address=("127.0.0.2", 0))
        )
        connection.sendall(head.replace(b"5000", b"%d" % (len(PART) + 9)) + PART + b"\r\n--a--\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["../../a.csv", "/etc/passwd", "\0", "", ".", "..", "a" * 300, "é\n<b>.csv", "a/b\\c"])
def test_upload_stays_in_its_folder_whatever_its_name(target: Target, name: str) -> None:
    status, text = target.upload(name, b"text\n")
    if status == 200:
        path = Path(json.loads(text)[0])
        assert path.is_file()
        assert path.resolve().is_relative_to(target.temporary.resolve())
        assert path.parent.parent.name == "uploads"
    else:
        assert (status, name) in [(400, ""), (400, "\0")]
