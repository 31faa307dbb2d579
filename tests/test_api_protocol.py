"""What a server reads of a connection before it knows who asks: limits to heads, and only valid HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import FAKES, PATIENCE_S, Served, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="memory is read from /proc")
GET = b"GET /api/live HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
LIVE = GET + HOST + b"\r\n"
POST = b"POST /api/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"text":"good"}'
CHUNK = b"f\r\n" + BODY + b"\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


def post(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def patched(folder: Path, first: str) -> list[str]:
    """The command of a server over fakes that runs this Python first: a limit of a minute is no limit for a test."""
    code = (
        "import sys; sys.path[:0] = ['.', 'tests']; from inference.api import protocol, server;"
        f"{first}; sys.argv = ['served.py', {str(folder)!r}]; import served; served.main()"
    )
    return [sys.executable, "-c", code]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served([*FAKES, str(tmp_path_factory.mktemp("served"))]) as server:
        yield server


def connect(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionError:
        pass
    return received


def ask(server: Served, *pieces: bytes) -> bytes:
    """All answers to these bytes, followed by a request after which the server closes."""
    with connect(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.sendall(LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        except ConnectionError:
            pass
        return read_all(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3}) ", answers)]


INVALID = {
    "no Host": GET + b"\r\n",
    "two Hosts": GET + HOST + HOST + b"\r\n",
    "empty Host": GET + b"Host: \r\n\r\n",
    "Host with a space": GET + b"Host: a b\r\n\r\n",
    "Host with a user": GET + b"Host: u@a\r\n\r\n",
    "Host with a path": GET + b"Host: a/b\r\n\r\n",
    "two names in Host": GET + b"Host: a,b\r\n\r\n",
    "Host with a port of letters": GET + b"Host: a:x\r\n\r\n",
    "Host with a port above 65535": GET + b"Host: a:65536\r\n\r\n",
    "Host with a broken address": GET + b"Host: [::1::]\r\n\r\n",
    "Host that is no ASCII": GET + b"Host: \xe9\r\n\r\n",
    "two Hosts of HTTP/1.0": b"GET /api/live HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/0.9": b"GET /api/live\r\n\r\n",
    "HTTP/0.9 without an empty line": b"GET /api/live\r\n",
    "HTTP/0.9 with headers": b"GET /api/live\r\nHost: a\r\n\r\n",
    "HTTP/0.9 by name": b"GET /api/live HTTP/0.9\r\nHost: a\r\n\r\n",
    "RTSP": b"GET /api/live RTSP/1.0\r\nHost: a\r\n\r\n",
    "RTSP after a line": b"\r\nGET /api/live RTSP/1.1\r\nHost: a\r\n\r\n",
    "two spaces": b"GET /api/live  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /api/live#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET *": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "another host in the target": b"GET http://b/api/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "a user in the target": b"GET http://u:p@a/api/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "FTP": b"GET ftp://a/api/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT /api/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "chunks of HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + CHUNK + b"0\r\n\r\n",
    "an upgrade with a length": POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(LIVE),
    "an upgrade with chunks": POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    # What the parser refuses by itself.
    "two lengths": POST + b"Content-Length: 15\r\nContent-Length: 15\r\n\r\n" + BODY,
    "a length and chunks": POST + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "a signed length": POST + b"Content-Length: +15\r\n\r\n" + BODY,
    "bare CR": GET + HOST + b"X: a\rb\r\n\r\n",
    "bare LF": b"GET /api/live HTTP/1.1\nHost: a\n\n",
    "NUL": GET + HOST + b"X: a\0b\r\n\r\n",
    "a folded line": GET + HOST + b"X: a\r\n b\r\n\r\n",
    "a space before the colon": GET + b"Host : a\r\n\r\n",
    "a chunk that ends early": CHUNKED + b"f\r\n" + BODY + b"0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", INVALID.values(), ids=INVALID)
def test_invalid_request_gets_400_and_the_connection_ends(server: Served, request_bytes: bytes) -> None:
    answers = ask(server, request_bytes)
    assert statuses(answers) == [400]
    head, _, body = answers.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_line_of_http_0_9_is_answered_at_once(server: Served) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /api/live\r\n")
        assert statuses(read_all(connection)) == [400]


def test_request_that_comes_byte_by_byte_is_answered(server: Served) -> None:
    request = b"\r\n\r\n" + LIVE
    assert statuses(ask(server, *(request[i : i + 1] for i in range(len(request))))) == [200, 200]


def test_unsupported_version_and_coding_are_named(server: Served) -> None:
    assert statuses(ask(server, b"GET /api/live HTTP/2.0\r\nHost: a\r\n\r\n")) == [505]
    gzip = POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
    assert statuses(ask(server, gzip + CHUNK + b"0\r\n\r\n")) == [501]


VALID = {
    "a port": GET + b"Host: a:80\r\n\r\n",
    "an address": GET + b"Host: [::1]:8000\r\n\r\n",
    "an underscore": GET + b"Host: my_service\r\n\r\n",
    "empty lines before": b"\r\n\r\n" + LIVE,
    "the whole address": b"GET http://A/api/live HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab and a byte in a value": GET + HOST + b"X: a\tb\xff\r\n\r\n",
    "spaces around a length": POST + b"Content-Length: \t15\t \r\n\r\n" + BODY,
    "chunks with an extension": CHUNKED + b"f;a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a trailer": CHUNKED + CHUNK + b"0\r\nHost: b\r\n\r\n",
    "an upgrade that is ignored": GET + HOST + UPGRADE + b"\r\n",
    "chunks of a byte": CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
    "100 lines": GET + HOST + b"a: b\r\n" * 99 + b"\r\n",
    "60 KB": GET + HOST + b"X: " + b"a" * 60_000 + b"\r\n\r\n",
    "a target of 60 KB": b"GET /api/live?" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", VALID.values(), ids=VALID)
def test_valid_request_is_answered(server: Served, request_bytes: bytes) -> None:
    assert statuses(ask(server, request_bytes)) == [200, 200]
    assert (
        statuses(ask(server, *(request_bytes[i : i + 1000] for i in range(0, len(request_bytes), 1000)))) == [200] * 2
    )


def test_http_1_0_needs_no_host(server: Served) -> None:
    assert statuses(ask(server, b"GET /api/live HTTP/1.0\r\n\r\n")) == [200]


TOO_LARGE = {
    "101 lines": (GET + HOST + b"a: b\r\n" * 100 + b"\r\n", 431),
    "a head of 70 KB": (GET + HOST + b"X: " + b"a" * 35_000 + b"\r\nY: " + b"a" * 35_000 + b"\r\n\r\n", 431),
    "an unfinished line": (GET + b"X: " + b"a" * 90_000, 431),
    "an unfinished name": (GET + b"a" * 90_000, 431),
    "empty lines": (b"\r\n" * 50_000, 431),
    "a target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "an unfinished target": (b"GET /" + b"a" * 90_000, 414),
    "101 trailers": (CHUNKED + CHUNK + b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
    "an unfinished trailer": (CHUNKED + CHUNK + b"0\r\nX: " + b"a" * 90_000, 431),
    "a chunk extension": (CHUNKED + b"f;" + b"a" * 90_000, 400),
    "a chunk size": (CHUNKED + b"0" * 90_000, 400),
    "an extension a byte": (CHUNKED + (b"1;" + b"a" * 9_000 + b"\r\na\r\n") * 12, 400),
    "many chunks of a byte": (CHUNKED + b"1\r\na\r\n" * 30_000, 400),
}


@pytest.mark.parametrize(("request_bytes", "status"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_head_trailers_and_chunk_framing_have_a_limit(server: Served, request_bytes: bytes, status: int) -> None:
    answers = ask(server, request_bytes)
    assert statuses(answers) == [status]
    codes = {431: "head_too_large", 414: "target_too_long", 400: "bad_request"}
    assert json.loads(answers.partition(b"\r\n\r\n")[2])["error"]["code"] == codes[status]


FLOODS = {
    "short headers": (GET, b"a:b\r\n"),
    "one line": (GET + b"X: ", b"a"),
    "a target": (b"GET /", b"a"),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n"),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"a"),
    "requests": (b"", LIVE),
}


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        pytest.param(*flood, id=name, marks=() if name in ("one line", "trailers") else pytest.mark.slow)
        for name, flood in FLOODS.items()
    ],
)
def test_60_mb_of_one_thing_take_no_memory_and_delay_no_request(tmp_path: Path, first: bytes, repeated: bytes) -> None:
    with Served([*FAKES, str(tmp_path)]) as server, connect(server) as connection:
        server.ask("/api/predict", {"text": "good"})
        before_kb = server.peak_kb()
        piece = repeated * (200_000 // len(repeated))
        connection.settimeout(2)  # a server that reads no further is as good as one that closes
        try:
            connection.sendall(first)
            for _ in range(300):
                connection.sendall(piece)
        except OSError:
            pass
        assert server.ask("/api/live")[0] == 200
        assert server.peak_kb() - before_kb < 20_000
        assert server.end()[2] == ""


def test_body_of_an_answered_request_is_read_within_a_limit(server: Served) -> None:
    with connect(server) as connection, pytest.raises(ConnectionError):
        connection.sendall(CHUNKED.replace(b"/api/predict", b"/api/nothing"))
        for _ in range(1000):
            connection.sendall(b"ffff\r\n" + b"a" * 65_535 + b"\r\n")


def test_trailer_is_not_taken_for_a_header(server: Served) -> None:
    head = CHUNKED.replace(b"Content-Type: application/json\r\n", b"")
    request = head + CHUNK + b"0\r\nContent-Type: application/json\r\n\r\n"
    assert statuses(ask(server, request)) == [415, 200]


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    missing = LIVE.replace(b"/live", b"/nothing")
    assert statuses(ask(server, LIVE + missing + post(BODY) + LIVE + missing)) == [200, 404, 200, 200, 404, 200]
    assert statuses(ask(server, post(BODY) + missing)) == [200, 404, 200]
    assert statuses(ask(server, post(BODY)[:-5], post(BODY)[-5:] + missing)) == [200, 404, 200]
    assert statuses(ask(server, CHUNKED + CHUNK + b"0\r\n\r\n" + missing)) == [200, 404, 200]


def test_connection_closes_after_too_many_pipelined_requests(server: Served) -> None:
    with connect(server) as connection:
        connection.sendall(LIVE * 5000)
        assert statuses(read_all(connection)) == [200] * 17


def test_malformed_request_is_refused_after_the_answer_to_the_one_before(tmp_path: Path) -> None:
    with Served([*FAKES, str(tmp_path)]) as server, connect(server) as connection:
        connection.sendall(post(b'{"text":"book"}') + LIVE + b"nonsense\r\n\r\n")
        wait_until((tmp_path / "asked").exists)
        (tmp_path / "gate").touch()
        assert statuses(read_all(connection)) == [200, 200, 400]


def test_client_that_goes_away_after_two_requests_leaves_the_queue(tmp_path: Path) -> None:
    with Served([*FAKES, str(tmp_path)]) as server, connect(server) as first:

        def waiting() -> float:
            connection = server.connect()
            connection.request("GET", "/api/metrics")
            return float(connection.getresponse().read().split(b"\ntriptych_waiting_texts ")[1].split()[0])

        first.sendall(post(b'{"text":"book"}'))
        wait_until((tmp_path / "asked").exists)
        alone = waiting()
        with connect(server) as second:
            second.sendall(post(BODY) + LIVE)
            wait_until(lambda: waiting() == alone + 1)
        wait_until(lambda: waiting() == alone)
        (tmp_path / "gate").touch()


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (GET + b"Ho", [408]),
        (LIVE + b"\r\n", [200]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (CHUNKED + b"f", [408]),
                (b"", []),
                (b"\r\n", []),
                (POST + b"Content-Length: 15\r\n\r\n{", [408]),
                (LIVE + b"GET", [200, 408]),
            )
        ),
    ],
)
def test_silent_client_is_disconnected_and_waiting_client_is_not(
    tmp_path: Path, begun: bytes, status: list[int]
) -> None:
    with Served(patched(tmp_path, "protocol.SILENCE_S = 1")) as server, connect(server) as waiting:
        waiting.sendall(post(b'{"text":"book"}'))
        wait_until((tmp_path / "asked").exists)
        with connect(server) as silent:
            silent.sendall(begun)
            assert statuses(read_all(silent)) == status
        (tmp_path / "gate").touch()
        assert statuses(waiting.recv(65_536)) == [200]


def test_client_that_reads_nothing_is_disconnected(tmp_path: Path) -> None:
    with Served(patched(tmp_path, "server.STALLED_S = 1")) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", server.port))
        ends = b":%04X 0100007F:%04X 01 " % (server.port, client.getsockname()[1])  # of an open connection
        assert ends in Path("/proc/net/tcp").read_bytes()
        body = json.dumps({"texts": ["good"] * 512, "return_scores": True}).encode()
        client.sendall(post(body) * 16)
        wait_until(lambda: ends not in Path("/proc/net/tcp").read_bytes())
        assert len(statuses(read_all(client))) < 16


def test_silent_connections_lock_no_one_out(tmp_path: Path) -> None:
    with Served(patched(tmp_path, "server.CONNECTIONS = 20")) as server:
        silent = [connect(server) for _ in range(50)]
        silent[-1].sendall(b"GET /api/li")
        assert server.ask("/api/live")[0] == 200
        for connection in silent:
            connection.close()


ABORTED = {
    "half a head": GET + b"Ho",
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": CHUNKED + b"f\r\n{",
    "a body that is too large": POST + b"Content-Length: 3000000\r\n\r\n{",
    "a request": post(b'{"text":"good"}'),
    "an explanation": post(b'{"text":"good bad"}').replace(b"predict", b"explain"),
    "many requests": LIVE * 500,
    "a long answer": post(json.dumps({"texts": ["good"] * 512}).encode()),
    "nonsense": b"nonsense\r\n" * 100,
}


def reset(connection: socket.socket) -> None:
    """Close it so that the other side sees a connection reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_aborted_requests_leave_nothing_in_the_log(tmp_path: Path) -> None:
    with Served([*FAKES, str(tmp_path)]) as server:
        for sent in ABORTED.values():
            connection = connect(server)
            connection.sendall(sent)
            assert server.ask("/api/live")[0] == 200
            reset(connection)
        assert server.ask("/api/predict", {"text": "good"})[0] == 200
        assert server.end() == (0, "stopped\n", "")


def test_requests_cut_off_at_shutdown_get_503_without_a_traceback(tmp_path: Path) -> None:
    first = "server.GRACE_S = server.END_S = 1"
    with Served(patched(tmp_path, first)) as server, connect(server) as half, connect(server) as slow:
        half.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        slow.sendall(post(b'{"text":"book"}'))
        wait_until((tmp_path / "asked").exists)
        code, _, log = server.end()  # the model does not come to an end by itself
        assert statuses(read_all(half)) == statuses(read_all(slow)) == [503]
        assert code == 1
        assert log.splitlines() == [
            "ERROR:    Cancel 2 running task(s), timeout graceful shutdown exceeded",
            "The model is still running; ending the process without it.",
        ]
