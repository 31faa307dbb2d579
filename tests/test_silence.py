"""SECURITY.md: nothing is reported to anybody. Every program is run with an empty home, idle and at work, and recorded."""

from __future__ import annotations

import csv
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY_TASKS, Tiny, tiny_data
from outgoing import NATIVE, Recorder
from ports import free_port
from served import PATIENCE_S, wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

IDLE_S = 45  # ONNX Runtime 1.31 with its telemetry on reports three times in it, first after ten seconds
ELSEWHERE = "elsewhere.example"
WITH_RAY = importlib.util.find_spec("ray") is not None
PYTHON = sys.executable
# What a test is to see of another machine, and how the record names it.
TALKERS = {
    "a proxy that is obeyed": (
        f"import urllib.request; urllib.request.urlopen('http://{ELSEWHERE}/a')",
        f"GET http://{ELSEWHERE}/a",
    ),
    "a name that is looked up": (f"import socket; socket.create_connection(('{ELSEWHERE}', 443))", ELSEWHERE),
    "a native call": (
        "import ctypes, socket\n"
        "address = (socket.AF_INET).to_bytes(2, 'little') + (443).to_bytes(2, 'big') + bytes([203, 0, 113, 1]) + bytes(8)\n"
        "stream = socket.socket()\n"
        "ctypes.CDLL(None).connect(stream.fileno(), address, 16)",
        "203.0.113.1 port 443",
    ),
    "a datagram": (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('203.0.113.2', 999)); s.send(b'x')",
        "203.0.113.2 port 999",
    ),
    "a child's connection": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import socket; socket.create_connection((\"203.0.113.3\", 80))'])",
        "203.0.113.3 port 80",
    ),
}
ON_THIS_MACHINE = (
    "import socket\n"
    "server = socket.create_server(('127.0.0.1', 0))\n"
    "socket.create_connection(('localhost', server.getsockname()[1])).sendmsg([b'x'])\n"
    "probe = socket.socket(type=socket.SOCK_DGRAM)\n"
    "probe.connect(('203.0.113.4', 1)); probe.getsockname()"  # how programs learn their own address; nothing is sent
)
REPORTING = (
    "import os, onnxruntime, time\n"
    "from inference import load\n"
    "load({folder!r}, 'int8', base={base!r}).predict('it was fine', task='mood')\n"
    "time.sleep({idle_s})"
)


def bare(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing: not what the tests themselves run with."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def recorded(code: str, env: dict[str, str]) -> list[str]:
    with Recorder() as recorder:
        recorder.start([PYTHON, "-c", code], env, stderr=subprocess.DEVNULL, cwd=ROOT).communicate(timeout=PATIENCE_S)
    return recorder.records


@pytest.mark.parametrize("kind", TALKERS)
def test_what_leaves_the_machine_is_recorded(kind: str, tmp_path: Path) -> None:
    code, expected = TALKERS[kind]
    if not NATIVE and kind != "a proxy that is obeyed":
        pytest.skip("only Linux 5.6 or newer shows what passes by a proxy")
    records = recorded(code, bare(tmp_path))
    assert records
    assert all(expected in record for record in records)


def test_what_stays_on_the_machine_is_not_recorded(tmp_path: Path) -> None:
    assert recorded(ON_THIS_MACHINE, bare(tmp_path)) == []


# --- The programs


@dataclass
class Program:
    """One that runs, and what became of it."""

    name: str
    process: subprocess.Popen[str]
    recorder: Recorder
    log: Path
    port: int = 0
    exits: tuple[int, ...] = (0,)
    at_work: list[str] = field(default_factory=list)

    def ask(self, path: str, fields: Any = None, method: str | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        body = None if fields is None else json.dumps(fields)
        headers = {"Content-Type": "application/json"} | headers
        connection.request(method or ("GET" if fields is None else "POST"), path, body, headers)
        with connection.getresponse() as response:
            return response.status, response.read()

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("/")[0] < 500
        except OSError:
            return False

    def handshake(self, path: str, origin: str | None) -> int:
        try:
            with connect(f"ws://127.0.0.1:{self.port}{path}", origin=origin, proxy=None):  # type: ignore[arg-type]
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    def draw(self, path: str, pages: list[str]) -> None:
        """Open pages of the dashboard as a browser does, each until its script has run."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        origin: Any = f"http://127.0.0.1:{self.port}"
        with connect(f"ws://127.0.0.1:{self.port}{path}", origin=origin, proxy=None, max_size=None) as stream:
            for page in pages:
                wanted = BackMsg()
                wanted.rerun_script.page_name = page
                stream.send(wanted.SerializeToString())
                while ForwardMsg.FromString(bytes(stream.recv(PATIENCE_S))).WhichOneof("type") != "script_finished":
                    pass
