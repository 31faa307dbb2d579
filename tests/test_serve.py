"""Page, dashboard and API on one port: all are there, no answer holds up another, and a signal cuts none off."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fakes
import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray
from ports import free_port
from test_api_protocol import read_all, statuses

from inference import Classifier
from inference.loading import Models

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
SLOW = fakes.WORDS.index("book")  # a text with this word is answered once the file `gate` is there
PATIENCE_S = 300  # a busy machine is no broken server
HANDSHAKE = (
    b"GET /dashboard/_stcore/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CONT, TEXT, BINARY, PING = 0, 1, 2, 9


class Slow(fakes.FakeBackend):
    """A fake that says when it was given a slow text, and answers it when it may."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder

    def logits(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        if SLOW in input_ids:
            (self.folder / "asked").touch()
            while not (self.folder / "gate").exists():
                time.sleep(0.02)
        return super().logits(input_ids, attention_mask)


def models(folder: str) -> Models:
    def open_one(name: str) -> Classifier:
        return fakes.classifier(Slow(name, Path(folder)))

    return Models(fakes.bundle(), open_one)


class Started:
    """serve.py over fakes in a process of its own, and what a test asks of it.

    Args:
        environment: further variables of this process.
        first: Python that it runs before it serves.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, first: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        code = (
            "import sys; sys.path[:0] = ['.', 'tests']; import serve, test_serve; from ui import start;"
            f"{first or 'pass'};"
            f"start.Models.of_folder = lambda *_, **__: test_serve.models({str(folder)!r});"
            "sys.exit(start.run(serve.serve))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PORT": str(self.port), "GRADIO_SERVER_NAME": "127.0.0.1"} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.said = [self.process.stdout.readline() for _ in range(3)]

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        return connection.getresponse()

    def status(self, *arguments: str, **headers: str) -> int:
        with self.ask(*arguments, **headers) as response:
            return response.status

    def classify(self, text: str) -> http.client.HTTPResponse:
        """The answer of /predict, which is there as soon as it can be read."""
        with self.ask("/gradio_api/call/predict", "POST", json.dumps({"data": [text, "int8", None]})) as queued:
            event = json.load(queued)["event_id"]
        return self.ask(f"/gradio_api/call/predict/{event}")

    def classify_slowly(self) -> http.client.HTTPResponse:
        """The same for a text that is being classified right now, until `let_go`."""
        answer = self.classify("book")
        self.wait_until((self.folder / "asked").exists)
        return answer

    def let_go(self) -> None:
        (self.folder / "gate").touch()

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return False
        return True

    @staticmethod
    def wait_until(true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end
            time.sleep(0.02)


@contextmanager
def started(folder: Path, environment: Mapping[str, str] | None = None, first: str = "") -> Iterator[Started]:
    server = Started(folder, environment, first)
    try:
        yield server
    finally:
        server.let_go()
        server.process.kill()
        server.process.communicate()


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


def test_server_prints_its_addresses_once_it_answers(server: Started) -> None:
    assert server.said == [
        f"Triptych serves fake at {server.url}\n",
        f"The dashboard is at {server.url}/dashboard/\n",
        f"The API is at {server.url}/api\n",
    ]
    assert server.status("/") == 200
    assert server.status("/dashboard/") == 200
    assert server.status("/dashboard/_stcore/health") == 200


def test_api_answers_beside_the_page(server: Started) -> None:
    assert server.status("/api/live") == 200
    assert server.status("/api/ready") == 200
    with server.ask("/api/predict", "POST", '{"text": "good", "tasks": ["sentiment"]}') as response:
        answer = json.load(response)
    assert (answer["backend"], answer["prediction"]) == ("int8", "positive")
    with server.ask("/api/predict", "POST", '{"text": "good", "backend": "onnx"}') as response:
        assert json.load(response)["backend"] == "onnx"
    with server.ask("/api/openapi.json") as response:
        assert "/predict" in json.load(response)["paths"]
    with server.ask("/api/nothing") as response:
        assert json.load(response)["error"]["code"] == "not_found"


@pytest.mark.parametrize(("path", "most"), [("/api/predict", 2_000_000), ("/gradio_api/call/predict", 8_000_000)])
def test_bodies_above_the_limit_are_not_read(server: Started, path: str, most: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(most + 1))
    connection.endheaders()
    with connection.getresponse() as response:
        assert response.status == 413


@pytest.mark.parametrize(
    ("asked", "leads_to"), [("/dashboard?receipt=demo", "dashboard/?receipt=demo"), ("/api", "api/")]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_address_without_trailing_slash_redirects(server: Started, method: str, asked: str, leads_to: str) -> None:
    with server.ask(asked, method) as response:
        assert (response.status, response.headers["Location"]) == (307, leads_to)


def test_documentation_answers_head(server: Started) -> None:
    assert server.status("/docs", "HEAD") == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("call/nothing", '{"data": []}', 404),
        ("call/predict", '{"data": NaN}', 400),
        ("run/predict", '{"data": []}', 404),
    ],
)
def test_page_refuses_the_same_requests_as_alone(server: Started, path: str, body: str, status: int) -> None:
    assert server.status(f"/gradio_api/{path}", "POST", body) == status


def test_page_is_as_closed_as_alone(server: Started) -> None:
    assert server.status("/monitoring") == 404
    assert server.status("/gradio_api/file=app.py") == 404
    upload = (
        '--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + "a" * 6_000_000 + "\r\n--a--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=a"}
    assert server.status("/gradio_api/upload", "POST", upload, **kind) == 413
    with server.ask("/config") as response:
        config = json.load(response)
    assert (config["run_history"], config["analytics_enabled"], config["show_error"]) == (False, False, False)
    for origin in ("null", "http://elsewhere.example"):
        with server.ask("/config", Origin=origin) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


def test_websocket_from_another_site_is_refused(server: Started) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    stream = "/dashboard/_stcore/stream"
    assert server.status(stream, **handshake, Origin=server.url) == 101
    assert server.status(stream, **handshake, Origin="http://elsewhere.example") == 403


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


def test_dashboard_settings_are_found_from_any_working_directory(tmp_path: Path) -> None:
    names = ["client.showErrorDetails", "server.maxUploadSize", "browser.gatherUsageStats", "server.enableCORS"]
    names += ["theme.chartCategoricalColors"]
    code = (
        "import json, sys, streamlit as st; from streamlit import config; st.App(sys.argv[1]);"
        "print(json.dumps([config.get_option(name) for name in sys.argv[2:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "dashboard/main.py"), *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    *output, colours = json.loads(done.stdout)
    assert output == ["none", 5, False, True]
    assert colours[:3] == ["#0072B2", "#D55E00", "#009E73"]
    assert len(set(colours)) == 10  # with fewer, Streamlit 1.67 breaks the colours of Plotly


def test_other_requests_are_answered_while_a_text_is_classified(server: Started) -> None:
    answer = server.classify_slowly()
    assert server.status("/") == 200
    assert server.status("/dashboard/") == 200
    server.let_go()
    assert b"event: complete" in answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_are_answered_before_the_server_ends(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as server:
        page = server.ask("/gradio_api/heartbeat/open")  # as every open page holds one
        answer = server.classify_slowly()
        server.process.send_signal(number)
        server.wait_until(lambda: not server.listens())
        assert server.process.poll() is None
        server.let_go()
        event = answer.read().decode()
        assert "event: complete" in event
        assert '"label":"negative"' in event.replace(" ", "")
        page.close()
        out, err = server.process.communicate(timeout=PATIENCE_S)
        assert (server.process.returncode, out, err) == (0, "Triptych stops.\n", "")


@pytest.mark.slow
def test_port_in_use_gives_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "serve.py"],
            cwd=ROOT,
            env=os.environ | {"PORT": port, "GRADIO_SERVER_NAME": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Triptych cannot start: Cannot listen on 127.0.0.1:{port} (")
    assert done.stderr.count("\n") == 1


@pytest.mark.browser
def test_page_and_dashboard_link_to_each_other(server: Started) -> None:
    from chromium import Visit, chromium

    with chromium() as browser:
        visit = Visit(browser, server.url)
        streams: list[str] = []
        visit.page.on("websocket", lambda stream: streams.append(stream.url))
        visit.ask("good")
        visit.answered()
        visit.page.get_by_role("link", name="Compare", exact=True).click()
        visit.page.locator(".answer").wait_for()  # comes over the stream; the link is on both pages
        back = visit.page.get_by_role("link", name="Try", exact=True)
        assert visit.page.url.startswith(f"{server.url}/dashboard/")
        assert back.evaluate("link => link.href") == f"{server.url}/"
        assert streams == [f"ws://127.0.0.1:{server.port}/dashboard/_stcore/stream"]
        assert visit.outside == []
