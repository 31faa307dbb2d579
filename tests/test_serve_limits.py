"""Page and dashboard on one port: limits to websockets, and clients that go away in the midst of something."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_api_protocol import post, read_all, reset, statuses
from test_serve import PATIENCE_S, Started, started

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
HANDSHAKE = (
    b"GET /dashboard/_stcore/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CONT, TEXT, BINARY, PING = 0, 1, 2, 9
RERUN = bytes.fromhex("5a00")  # the message by which Streamlit's page asks for the dashboard
UPLOAD = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    b"Content-Length: 5000000\r\n\r\n"
    b'--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"a" * 300_000
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("serve")) as server:
        yield server


def connect(server: Started, *sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    for piece in sent:
        connection.sendall(piece)
    return connection


def open_websocket(server: Started) -> socket.socket:
    connection = connect(server, HANDSHAKE, b"\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert statuses(head) == [101]
    return connection


def frame(opcode: int, payload: bytes = b"", is_last: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([128 + size])
    else:
        length = b"\xfe%b" % size.to_bytes(2) if size < 65_536 else b"\xff%b" % size.to_bytes(8)
    return bytes([opcode + 128 * is_last]) + length + b"\0\0\0\0" + payload  # the mask is zeros


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HANDSHAKE + b"Cookie: " + b"a" * 9_000 + b"\r\n\r\n", 431),
        (HANDSHAKE + b"a: b\r\n" * 100 + b"\r\n", 431),
        (HANDSHAKE + b"Cookie: " + b"a" * 90_000, 431),
        (HANDSHAKE.replace(b"stream", b"stream?" + b"a" * 9_000) + b"\r\n", 414),
        (HANDSHAKE + b"Content-Length: 3\r\n\r\nabc", 400),
        (HANDSHAKE.replace(b"GET", b"POST") + b"\r\n", 400),
        (HANDSHAKE.replace(b"Host: a\r\n", b"") + b"\r\n", 400),
    ],
)
def test_handshake_with_a_head_beyond_the_limits_is_refused(server: Started, request_bytes: bytes, status: int) -> None:
    with connect(server, request_bytes) as connection:
        assert statuses(read_all(connection)) == [status]


@pytest.mark.slow
def test_handshake_is_refused_while_there_are_too_many_connections(tmp_path: Path) -> None:
    with started(tmp_path, first="from inference.api import server; server.CONNECTIONS = 3") as server:
        websockets = [open_websocket(server) for _ in range(2)]
        with connect(server, HANDSHAKE, b"\r\n") as connection:
            assert statuses(read_all(connection)) == [503]
        for websocket in websockets:
            websocket.close()


@pytest.mark.parametrize(
    ("first", "repeated", "code"),
    [
        (frame(BINARY, b"a" * 1_000_001), b"", 1009),
        (frame(BINARY, is_last=False), frame(CONT, b"a" * 60_000, is_last=False), 1009),
        (frame(BINARY, is_last=False), frame(CONT, is_last=False) * 5_000, 1008),
        (frame(BINARY, is_last=False), frame(CONT, b"a", is_last=False) * 5_000, 1008),
        (frame(BINARY) * 100_000, b"", 1008),
        (frame(TEXT, b"text"), b"", 1008),
    ],
)
def test_websocket_with_messages_beyond_the_limits_is_closed(
    server: Started, first: bytes, repeated: bytes, code: int
) -> None:
    with open_websocket(server) as websocket:
        try:
            websocket.sendall(first)
            for _ in range(1_000 if repeated else 0):
                websocket.sendall(repeated)
        except ConnectionError:
            pass
        received = read_all(websocket)
    assert re.search(rb"\x88.%b" % re.escape(code.to_bytes(2)), received, re.DOTALL)
    assert server.status("/dashboard/_stcore/health") == 200


@pytest.mark.slow
def test_pings_of_a_client_that_reads_no_pongs_take_no_memory(server: Started) -> None:
    def peak_kb() -> int:
        return int(Path(f"/proc/{server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0])

    with open_websocket(server) as websocket:
        before_kb = peak_kb()
        for _ in range(300):
            websocket.sendall(frame(PING, b"a" * 100) * 2_000)
        assert peak_kb() - before_kb < 20_000


@pytest.mark.slow
def test_disconnecting_clients_leave_nothing_in_the_log(tmp_path: Path) -> None:
    with started(tmp_path) as server:

        def event(text: str) -> bytes:
            with server.ask("/gradio_api/call/predict", "POST", json.dumps({"data": [text, "int8", None]})) as queued:
                path = f"/gradio_api/call/predict/{json.load(queued)['event_id']}"
            return b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()

        running = connect(server, event("book"))
        server.wait_until((tmp_path / "asked").exists)
        reset(running)
        server.let_go()
        heartbeat = b"GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: a\r\n\r\n"
        queue = b"GET /gradio_api/queue/data?session_hash=a HTTP/1.1\r\nHost: a\r\n\r\n"
        with server.ask("/config") as response:
            numbers = [entry["id"] for entry in json.load(response)["dependencies"] if entry["api_name"] == "predict"]
        joined = {"session_hash": "a", "data": ["good", "int8", None, None], "fn_index": numbers[0]}
        assert server.status("/gradio_api/queue/join", "POST", json.dumps(joined)) == 200
        half = post(b"{" * 100)[:-50]
        requests = [event("good"), heartbeat, queue, heartbeat + heartbeat, UPLOAD]
        requests += [half.replace(b"/api/predict", b"/gradio_api/call/predict"), half]
        for sent in requests:
            connection = connect(server, sent)
            assert server.status("/api/live") == 200
            reset(connection)
        for message in (b"", frame(BINARY, RERUN), frame(BINARY, RERUN)[:-1], frame(BINARY, RERUN) * 3):
            websocket = open_websocket(server)
            websocket.sendall(message)
            assert server.status("/api/live") == 200
            reset(websocket)
        assert server.status("/") == 200
        server.process.send_signal(signal.SIGTERM)
        out, err = server.process.communicate(timeout=PATIENCE_S)
        assert (server.process.returncode, out, err) == (0, "Triptych stops.\n", "")


@pytest.mark.slow
def test_unfinished_bodies_and_websockets_do_not_delay_the_end_of_the_server(tmp_path: Path) -> None:
    with started(tmp_path, first="from inference.api import server; server.GRACE_S = 1") as server:
        half = post(b"{" * 100)[:-50]
        connections = [connect(server, half), connect(server, b"GET /"), connect(server)]
        connections += [connect(server, half.replace(b"/api/predict", b"/gradio_api/call/predict"))]
        connections += [open_websocket(server) for _ in range(2)]
        connections[-1].sendall(frame(BINARY, RERUN) + frame(BINARY, RERUN)[:-1])
        assert server.status("/api/live") == 200
        server.process.send_signal(signal.SIGTERM)
        out, err = server.process.communicate(timeout=PATIENCE_S)
        assert (server.process.returncode, out) == (0, "Triptych stops.\n")
        assert err == "Cancel 2 running task(s), timeout graceful shutdown exceeded\n"
        assert [statuses(read_all(connection)) for connection in connections[:4]] == [[503], [], [], [503]]
