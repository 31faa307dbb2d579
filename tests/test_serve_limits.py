"""Page and dashboard on one port: what a server withstands from start to end, each test with one of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from test_api_protocol import post, read_all, reset, statuses
from test_serve import BINARY, HANDSHAKE, PATIENCE_S, Started, connect, frame, open_websocket, started

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
RERUN = bytes.fromhex("5a00")  # the message by which Streamlit's page asks for the dashboard
UPLOAD = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    b"Content-Length: 5000000\r\n\r\n"
    b'--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"a" * 300_000
)


@pytest.mark.slow
def test_handshake_is_refused_while_there_are_too_many_connections(tmp_path: Path) -> None:
    with started(tmp_path, first="from inference.api import server; server.CONNECTIONS = 3") as server:
        websockets = [open_websocket(server) for _ in range(2)]
        with connect(server, HANDSHAKE, b"\r\n") as connection:
            assert statuses(read_all(connection)) == [503]
        for websocket in websockets:
            websocket.close()


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


@pytest.mark.slow
def test_explanations_do_not_block_other_visitors(tmp_path: Path) -> None:
    explain = json.dumps({"data": ["book good", "sentiment", None, "occlusion", "int8"]})

    def answers(server: Started) -> http.client.HTTPResponse:
        with server.ask("/gradio_api/call/explain", "POST", explain) as queued:
            event = json.load(queued)["event_id"]
        return server.ask(f"/gradio_api/call/explain/{event}")

    with started(tmp_path) as server:
        for _ in range(80):  # that nobody listens to: they are never run
            assert server.status("/gradio_api/call/explain", "POST", explain) == 200
        with ThreadPoolExecutor(3) as pool:
            streams = [pool.submit(answers(server).read) for _ in range(3)]
            refused = next(as_completed(streams))  # whichever came third: the others have the two places
            assert b"Too many explanations are waiting" in refused.result()
            server.wait_until((server.folder / "asked").exists)
            assert b"event: complete" in server.classify("good").read()
            server.let_go()
            assert all(b"event: complete" in stream.result() for stream in streams if stream is not refused)


@pytest.mark.slow
@pytest.mark.parametrize("listening", [True, False])
def test_full_queue_does_not_delay_the_end_of_the_server(tmp_path: Path, listening: bool) -> None:
    with started(tmp_path) as server:
        answers = [server.classify_slowly()]
        for _ in range(100):
            with server.ask("/gradio_api/call/predict", "POST", '{"data": ["good", "int8", null]}') as queued:
                event = json.load(queued)["event_id"]
            if listening:
                answers.append(server.ask(f"/gradio_api/call/predict/{event}"))
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: not server.listens())
        server.let_go()
        out, err = server.process.communicate(timeout=PATIENCE_S)
        assert (server.process.returncode, out, err) == (0, "Triptych stops.\n", "")


@pytest.mark.slow
def test_client_that_disconnects_leaves_no_traceback(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        answer = server.classify_slowly()
        answer.close()
        for head in (
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
            b'Content-Length: 9000\r\n\r\n--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc',
            b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n{",
            b"POST /api/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
            b"GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head)
                time.sleep(0.2)  # until it is being handled: nothing in the answer says so
        server.let_go()
        assert server.status("/api/ready") == 200
        server.process.send_signal(signal.SIGTERM)
        _, err = server.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in err
        assert err.count("\n") <= 5
