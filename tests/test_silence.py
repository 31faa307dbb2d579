"""SECURITY.md: nothing is reported to anybody. Every program is recorded, with an empty home, idle and at work."""

from __future__ import annotations

import contextlib
import csv
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
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
BACKENDS = ("pytorch", "onnx", "int8")
# Ray asks a cloud that the machine may be in for its name, at an address that no router passes on, and has no switch
# for it. With RAY_USAGE_STATS_ENABLED=0, as the scorer sets it, it reports nothing.
METADATA = ("169.254.169.254", "metadata.google.internal")
NAMED = {"path": f"http://{ELSEWHERE}/a.csv", "meta": {"_type": "gradio.FileData"}}  # a file on another machine
# Endpoints of the page for programs, and what they are asked.
PUBLIC: dict[str, list[Any]] = {
    "predict": ["so fine", "int8", None],
    "compare": ["so fine", None],
    "explain": ["so fine", "mood", None, "integrated_gradients", "pytorch"],
}
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
        "address = (socket.AF_INET).to_bytes(2, 'little') + (443).to_bytes(2, 'big')\n"
        "address += bytes([203, 0, 113, 1]) + bytes(8)\n"
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


def bare(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing: not what the tests themselves run with."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def recorded(code: str, env: dict[str, str]) -> list[str]:
    with Recorder() as recorder:
        recorder.start([PYTHON, "-c", code], env, stderr=subprocess.DEVNULL, cwd=ROOT).communicate(timeout=PATIENCE_S)
    return recorder.records


@pytest.mark.parametrize("kind", TALKERS)
def test_connections_to_other_machines_are_recorded(kind: str, tmp_path: Path) -> None:
    code, expected = TALKERS[kind]
    if not NATIVE and kind != "a proxy that is obeyed":
        pytest.skip("only Linux 5.6 or newer shows what passes by a proxy")
    records = recorded(code, bare(tmp_path))
    assert records
    assert all(expected in record for record in records)


def test_connections_within_the_machine_are_not_recorded(tmp_path: Path) -> None:
    assert recorded(ON_THIS_MACHINE, bare(tmp_path)) == []


# --- The programs


@dataclass
class Program:
    """One that was started, the record of what it sent, and what it printed."""

    name: str
    process: subprocess.Popen[str]
    recorder: Recorder
    log: Path
    port: int

    def ask(
        self, path: str, fields: Any = None, method: str | None = None, timeout_s: float = PATIENCE_S, **headers: str
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
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


def page(program: Program) -> None:
    """Every public endpoint of the page, then every route and every event with what names another machine."""
    for name, arguments in PUBLIC.items():
        event = json.loads(program.ask(f"/gradio_api/call/{name}", {"data": arguments})[1])["event_id"]
        answer = program.ask(f"/gradio_api/call/{name}/{event}")[1]
        assert b"event: complete" in answer, (name, answer)
    for method, path in sorted(gradio_routes()):
        where = re.sub(r"\{.*?\}", f"http://{ELSEWHERE}/a", path)
        fields = {"data": [NAMED], "bucket_id": "a/b", "url": NAMED["path"]}
        with contextlib.suppress(TimeoutError, http.client.HTTPException):  # some answers have no end
            program.ask(where, None if method == "GET" else fields, method, 2, Authorization="Bearer hf_a")
    for event in json.loads(program.ask("/config")[1])["dependencies"]:
        named = {"data": [NAMED] * len(event["inputs"]), "fn_index": event["id"], "session_hash": str(event["id"])}
        program.ask("/gradio_api/queue/join", named)
        with contextlib.suppress(TimeoutError):
            program.ask(f"/gradio_api/queue/data?session_hash={event['id']}", timeout_s=5)


@cache
def gradio_routes() -> set[tuple[str, str]]:
    """Method and path of every route that Gradio has."""
    import gradio as gr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic about Gradio's own annotations
        app = gr.routes.App.create_app(gr.Blocks())
    routes: set[tuple[str, str]] = set()
    for route in app.routes:
        included = getattr(route, "original_router", None)
        for one in included.routes if included else [route]:
            routes |= {(method, one.path) for method in getattr(one, "methods", None) or ()}
    assert ("GET", "/gradio_api/file={path_or_url:path}") in routes
    return routes - {("GET", "/logout")}


def api(program: Program) -> None:
    """Every operation of the document, those with a body on every runtime: `serve` has one and refuses the others."""
    bodies = {"predict": {"texts": ["fine", "so bad"]}, "explain": {"text": "so fine", "task": "mood"}}
    paths = json.loads(program.ask("/api/openapi.json")[1])["paths"]
    for path, operations in paths.items():
        body = bodies[path.rpartition("/")[2]] if "post" in operations else None
        asked = [{**body, "backend": name} for name in BACKENDS] if body else [None]
        where = path if path.startswith("/api/") else f"/api{path}"  # under serve.py the document names them without
        answers = [program.ask(where, fields)[0] for fields in asked]
        assert 200 in answers, (path, answers)


def dashboard(program: Program, under: str = "") -> None:
    for path in ("", "_stcore/health", "_stcore/host-config", "_stcore/metrics", "_stcore/script-health-check", "x"):
        program.ask(f"{under}/{path}")
    stream = f"{under}/_stcore/stream"
    own = f"http://127.0.0.1:{program.port}"
    answers = [program.handshake(stream, origin) for origin in (own, None, f"http://{ELSEWHERE}", "null")]
    assert answers == [101, 101, 403, 403]
    program.draw(stream, ["", "latency", "size", "accuracy", "disagreements", "your_data", "method"])


SERVERS: dict[str, tuple[list[str], list[Callable[[Program], None]]]] = {
    "serve.py": (["serve.py"], [page, api, partial(dashboard, under="/dashboard")]),
    "app.py": (["app.py"], [page]),
    "inference serve": (["-m", "inference", "serve", "--port", "PORT"], [api]),
    "streamlit run": (
        ["-m", "streamlit", "run", str(ROOT / "dashboard/main.py"), "--server.port", "PORT"],
        [dashboard],
    ),
}
LIBRARY = (
    "import os; from inference import load, quantize_onnx\n"
    "load(os.environ['TRIPTYCH_MODEL'], 'int8', base=os.environ['TRIPTYCH_BASE']).predict('fine', task='mood')"
)
# One after another in one process: to load PyTorch for each takes longer than all of them.
MANY = (
    "import sys; from inference.__main__ import main\n"
    "for line in sys.argv[1:]:\n"
    "    assert main(line.split()) in ((0, 1, 3) if line.startswith('verdict') else (0,)), line"
)
# In this order: what one writes, a later one reads. FOLDER is one of the test.
LINES = {
    "build": "-m inference build",
    "predict": "-m inference predict --backend int8 fine",
    "compare": "-m inference compare --quick --data FOLDER/in.csv --task mood --out FOLDER/receipt.json",
    "score on Ray": "-m inference score FOLDER/in.parquet --out FOLDER/out.parquet --engine ray",
    "training": "-m training --data FOLDER/in.csv --label-columns mood --epochs 1 --out FOLDER/trained",
    "space": "-m deploy.space --kind docker --out FOLDER/space --model assets/models/demo",
}
COMMANDS = {name: line.split() for name, line in LINES.items()} | {
    "the library": ["-c", LIBRARY],
    "the other commands": [
        "-c",
        MANY,
        *(f"predict --backend {name} fine" for name in BACKENDS),
        "info",
        "doctor",
        "explain --backend int8 --task mood fine",
        "explain --backend pytorch --task mood --method integrated_gradients fine",
        "score FOLDER/in.csv --out FOLDER/out.csv --workers 2",
        "receipt show FOLDER/receipt.json",
        "verdict FOLDER/receipt.json",
    ],
    "the report": ["-m", "dashboard.report", "FOLDER/receipt.json", "--out", "FOLDER/report.html"],
}


@dataclass(frozen=True)
class Run:
    """What was recorded of every program, the exit codes of those that end, and the files that all of them left."""

    records: Mapping[str, list[str]]
    exits: Mapping[str, tuple[int, str]]
    files: list[str]


@pytest.fixture(scope="module")
def ran(tiny: Tiny, demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All programs, with an empty home: the servers idle while the commands run, and are then set to work at once."""
    folder = tmp_path_factory.mktemp("silence")
    home = folder / "home"
    home.mkdir()
    write_rows(folder)
    gradio_routes()  # read here: warnings are filtered for all threads at once
    env = bare(home) | {"TRIPTYCH_MODEL": str(tiny.folder), "TRIPTYCH_BASE": str(tiny.base)}
    records: dict[str, list[str]] = {}
    exits: dict[str, tuple[int, str]] = {}
    with ExitStack() as stack:

        def start(name: str, arguments: Sequence[str], env: Mapping[str, str]) -> Program:
            port, log = free_port(), folder / f"{name.replace(' ', '-')}.log"
            recorder = stack.enter_context(Recorder())
            records[name] = recorder.records
            filled = [one.replace("FOLDER", str(folder)).replace("PORT", str(port)) for one in arguments]
            with log.open("w") as out:
                given = {**env, "PORT": str(port)}
                process = recorder.start([PYTHON, *filled], given, cwd=ROOT, stdout=out, stderr=out)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Program(name, process, recorder, log, port)

        def finish(program: Program) -> None:
            code = program.process.wait(timeout=300)
            exits[program.name] = code, program.log.read_text()

        finish(start("build", COMMANDS["build"], env))
        servers = {name: start(name, command, env) for name, (command, _) in SERVERS.items()}
        for server in servers.values():
            wait_until(server.answers)
        idle_since = time.monotonic()
        for name in [name for name in COMMANDS if name != "build" and (WITH_RAY or name != "score on Ray")]:
            # A Space serves the demo model, which is built already, from a folder of its own.
            own = bare(home) | {"XDG_CACHE_HOME": str(demo_cache.parent)} if name == "space" else env
            finish(start(name, COMMANDS[name], own))
        time.sleep(max(0.0, idle_since + IDLE_S - time.monotonic()))
        with ThreadPoolExecutor() as pool:
            done = [pool.submit(work, servers[name]) for name, (_, works) in SERVERS.items() for work in works]
            for one in done:
                one.result()
        for server in servers.values():
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=PATIENCE_S)
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    yield Run(records, exits, files)


def write_rows(folder: Path) -> None:
    """The same few labelled rows as CSV and as Parquet."""
    import pyarrow
    import pyarrow.parquet

    rows: Any = tiny_data()["mood"]
    labels = [TINY_TASKS["mood"][label] for label in rows.fit.label_ids]
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "mood"), *zip(rows.fit.texts, labels, strict=True)])
    pyarrow.parquet.write_table(pyarrow.table({"text": rows.fit.texts}), folder / "in.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, *SERVERS])
def test_nothing_asks_another_machine(name: str, ran: Run) -> None:
    if name == "score on Ray" and not WITH_RAY:
        pytest.skip("no ray: requirements-scale.txt")
    code, printed = ran.exits.get(name, (0, ""))
    assert code == 0, printed
    known = METADATA if name == "score on Ray" else ()
    assert [record for record in ran.records[name] if not any(host in record for host in known)] == []


@pytest.mark.slow
def test_no_file_is_left_in_the_home_folder_but_built_models(ran: Run) -> None:
    # Beside our own: the fonts of the machine, which Captum's imports list, and the token that keeps others out of Ray.
    known = (".cache/triptych/", ".cache/matplotlib/fontlist-", ".ray/auth_token")
    assert ran.files
    assert [name for name in ran.files if not name.startswith(known)] == []


@pytest.mark.slow
def test_onnx_runtime_reports_where_it_is_imported_before_the_variable_is_set(tmp_path: Path) -> None:
    with Recorder() as recorder:
        process = recorder.start([PYTHON, "-c", "import onnxruntime, time; time.sleep(600)"], bare(tmp_path))
        try:
            wait_until(lambda: bool(recorder.records))
        finally:
            process.kill()
            process.wait()
    assert any("microsoft.com" in record for record in recorder.records)
    assert list(tmp_path.rglob("deviceid"))


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_unless_the_user_sets_it(given: dict[str, str], expected: str, tmp_path: Path) -> None:
    code = "import os, inference; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=bare(tmp_path) | given, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr
