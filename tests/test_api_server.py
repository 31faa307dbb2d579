"""The API as a process: it starts without torch, holds no body that is too large, and cuts nobody off when it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from served import FAKES, Served, wait_until

from inference import InputError
from inference.__main__ import main
from inference.api import server as server_module

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
SERVE = [sys.executable, "-m", "inference", "serve", "--port", "0", "--json"]
ABSENT = ("torch", "transformers", "onnx", "gradio", "streamlit", "pandas")
WITHOUT_TORCH = f"""
import runpy, sys
for name in {ABSENT!r}:
    sys.modules[name] = None
sys.argv[:1] = ["inference"]
runpy.run_module("inference", run_name="__main__")
"""


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs `serve` with options that it refuses, and returns its one line on stderr."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(ROOT)

    def refused(*options: str) -> str:
        assert main(["serve", "--port", "0", "--json", *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    yield refused
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_requests_in_flight_at_shutdown_are_answered(tmp_path: Path, number: signal.Signals) -> None:
    with Served([*FAKES, str(tmp_path)]) as server:
        statuses: list[int] = []

        def ask(text: str) -> None:
            statuses.append(server.ask("/api/predict", {"text": text})[0])

        threads = [threading.Thread(target=ask, args=(text,)) for text in ["book", *["good"] * 31]]
        threads[0].start()
        wait_until((tmp_path / "asked").exists)
        for thread in threads[1:]:
            thread.start()

        def waiting() -> bool:
            connection = server.connect()
            connection.request("GET", "/api/metrics")
            return b"triptych_waiting_texts 32.0" in connection.getresponse().read()

        wait_until(waiting)
        server.process.send_signal(number)
        wait_until(lambda: not server.listens())
        assert server.process.poll() is None
        (tmp_path / "gate").touch()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 32
        assert server.finished() == (0, "stopped\n", "")


@pytest.mark.parametrize("chunked", [True, False])
def test_body_of_200_mb_takes_no_memory(tmp_path: Path, chunked: bool) -> None:
    with Served([*FAKES, str(tmp_path)]) as server:
        server.ask("/api/predict", {"text": "good"})
        before = server.peak_kb()
        head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 200000000"
        piece = b"a" * 1_000_000
        sent = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
            connection.sendall(
                f"POST /api/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode()
            )
            pushed = 0
            try:
                for _ in range(200):
                    connection.sendall(sent)
                    pushed += 1
            except OSError:  # the server has closed
                pass
        assert pushed < 200
        assert server.ask("/api/predict", {"text": "good"})[0] == 200
        assert server.peak_kb() - before < 20_000


def test_client_that_sends_a_large_body_always_gets_413(tmp_path: Path) -> None:
    with Served([*FAKES, str(tmp_path)]) as server:
        for _ in range(50):
            status, answer = server.ask("/api/predict", {"text": "a" * 3_000_000})
            assert (status, answer["error"]["code"]) == (413, "too_large")


def test_int8_is_served_without_torch(demo: Path, demo_cache: Path) -> None:
    with Served([sys.executable, "-c", WITHOUT_TORCH, *SERVE[3:], str(demo)]) as server:
        assert json.loads(server.first_line) == {"model": "demo", "backend": "int8", "url": server.url}
        assert server.ask("/api/ready")[0] == 200
        status, answer = server.ask("/api/predict", {"text": "what a lovely film", "tasks": ["sentiment"]})
        assert (status, answer["prediction"]) == (200, "positive")
        assert server.end() == (0, "", "")


@pytest.mark.parametrize(
    "library",
    [
        "fastapi",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("uvicorn", "httptools", "orjson")),
        "prometheus_client",
    ],
)
def test_missing_library_is_named_with_its_install_command(library: str) -> None:
    code = WITHOUT_TORCH.replace(repr(ABSENT), repr((library,)))
    done = subprocess.run([sys.executable, "-c", code, *SERVE[3:]], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"needs the library '{library}'" in done.stderr
    assert done.stderr.endswith("Install it: pip install -r requirements-api.txt\n")


def test_key_comes_from_a_file_or_the_environment(demo: Path, demo_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("open sesame\n")
    by_file = [*SERVE, "--backend", "onnx", "--api-key-file", str(tmp_path / "key")]
    with Served(by_file, {"TRIPTYCH_API_KEY": "another"}) as server:
        assert server.ask("/api/live")[0] == 200
        assert server.ask("/api/model")[0] == 401
        assert server.ask("/api/model", Authorization="Bearer another")[0] == 401
        assert server.ask("/api/model", Authorization="Bearer open sesame")[1]["backends"] == ["onnx"]
        assert "open sesame" not in server.first_line


def test_without_json_start_and_stop_are_printed(demo: Path, demo_cache: Path) -> None:
    with Served([one for one in SERVE if one != "--json"], {"TRIPTYCH_API_KEY": None}) as server:
        assert server.first_line == f"Triptych serves demo (int8) at {server.url}\n"
        assert server.ask("/api/model")[0] == 200
        assert server.end(signal.SIGINT) == (0, "Triptych stops.\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port 70000 is not a port number. Pass one from 0 to 65535."),
        (["--api-key-file", "nowhere"], "Cannot read --api-key-file nowhere (FileNotFoundError)."),
        (["--api-key-file", "/dev/null"], "--api-key-file /dev/null: the first line is empty. Write the key there."),
        (["nowhere"], "No model folder nowhere."),
        (["--host", "300.0.0.1"], "Cannot listen on 300.0.0.1:0 ("),
        (["--host", "192.0.2.1"], "Use an address of this machine: 127.0.0.1"),
    ],
)
def test_invalid_options_are_errors_in_one_line(refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(*options)


def test_empty_key_in_the_environment_is_refused(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEY", "")
    assert refusal() == "error: TRIPTYCH_API_KEY is set but empty. Set it to the key, or unset it to use none.\n"


@pytest.mark.parametrize("key", [None, pytest.param("k", marks=pytest.mark.slow)])
def test_server_without_a_key_on_a_public_address_warns(demo: Path, demo_cache: Path, key: str | None) -> None:
    open_to_all = (
        "No API key is set: anyone who can reach 0.0.0.0 can use this server. Set one with --api-key-file FILE.\n"
    )
    with Served([*SERVE, "--host", "0.0.0.0"], {"TRIPTYCH_API_KEY": key}) as server:
        assert server.end() == (0, "", "" if key else open_to_all)


def test_port_in_use_is_an_error_in_one_line(refusal: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refusal("--port", str(port))
    assert message.startswith(f"error: Cannot listen on 127.0.0.1:{port} (")
    assert message.endswith(f"Choose another port: --port {port + 1}\n")


def test_privileged_port_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(InputError, match=r"Cannot listen on 127.0.0.1:80 .* Choose one above 1023"):
        server_module.bind("127.0.0.1", 80, "")


@pytest.mark.slow
def test_guards_hold_without_assertions() -> None:
    """`assert` does nothing under -O: a guard that is one would be gone."""
    code = (
        "import sys; sys.path[:0] = ['.', 'tests']; import fakes; from asgi import Client, JSON;"
        "from inference.api import ApiLimits, create_app;"
        "c = Client(create_app(fakes.classifier(), api_key='k', limits=ApiLimits(body_bytes=100, waiting_texts=2)));"
        "key = JSON | {'X-API-Key': 'k'};"
        "print([c.post('/api/predict', body, headers).status for body, headers in ("
        "({'text': 'good'}, key), ({'text': 'good'}, JSON), ({'text': 'a' * 200}, key), (b'{', key),"
        "({'texts': ['a', 'b', 'c']}, key), ({'text': ' '}, key), ({'text': 1}, key))]); c.close()"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[200, 401, 413, 400, 422, 422, 422]\n", done.stderr
