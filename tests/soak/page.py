"""The long forms of what tests/test_attacks.py does in short: malformed requests to every route, and many questions.

python tests/soak/page.py [routes] [questions] [visitors] [--requests 20000] [--questions 5000]

All where none is named; the last one at serve.py with the demo model on a machine that does nothing else, the others
over fakes. Each prints its figures; the exit code is 1 where one does not hold: no 5xx, the server answers afterwards,
its memory grows by less than 50 MB, its log holds no traceback, and all visitors are answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ports import free_port  # noqa: E402
from test_serve import Started, started  # noqa: E402

GROWTH_KB = 50_000
CLIENTS = 4
JSON, FORM = "application/json", "multipart/form-data; boundary=a"
# Method, path and kind of body of every route that the gates let through. HOLE is filled with anything.
ROUTES = [
    ("GET", "/", ""),
    ("GET", "/?HOLE=HOLE", ""),
    ("GET", "/config?page=HOLE&deep_link=HOLE", ""),
    ("GET", "/theme.css?HOLE", ""),
    ("GET", "/favicon.ico", ""),
    ("GET", "/robots.txt", ""),
    ("GET", "/manifest.json", ""),
    ("GET", "/assets/HOLE", ""),
    ("GET", "/static/HOLE", ""),
    ("GET", "/svelte/HOLE/HOLE", ""),
    ("GET", "/gradio_api/info?page=HOLE&all_endpoints=HOLE", ""),
    ("GET", "/gradio_api/startup-events", ""),
    ("GET", "/gradio_api/app_id", ""),
    ("GET", "/gradio_api/theme.css", ""),
    ("GET", "/gradio_api/heartbeat/HOLE", ""),
    ("GET", "/gradio_api/heartbeat/a", ""),
    ("GET", "/gradio_api/queue/data?session_hash=HOLE", ""),
    ("GET", "/gradio_api/call/predict/HOLE", ""),
    ("GET", "/gradio_api/file=HOLE", ""),
    ("GET", "/gradio_api/upload_progress?upload_id=HOLE", ""),
    ("POST", "/gradio_api/call/predict", JSON),
    ("POST", "/gradio_api/call/compare", JSON),
    ("POST", "/gradio_api/call/explain", JSON),
    ("POST", "/gradio_api/call/HOLE", JSON),
    ("POST", "/gradio_api/queue/join?HOLE", JSON),
    ("POST", "/gradio_api/queue/join", JSON),
    ("POST", "/gradio_api/cancel", JSON),
    ("POST", "/gradio_api/reset", JSON),
    ("POST", "/gradio_api/upload?upload_id=HOLE", FORM),
    ("GET", "/dashboard/", ""),
    ("GET", "/dashboard/HOLE", ""),
    ("GET", "/dashboard/latency?receipt=HOLE", ""),
    ("GET", "/dashboard/_stcore/health", ""),
    ("GET", "/dashboard/_stcore/host-config", ""),
    ("GET", "/dashboard/_stcore/stream", ""),
    ("GET", "/dashboard/media/HOLE", ""),
    ("GET", "/dashboard/static/HOLE", ""),
    ("PUT", "/dashboard/_stcore/upload_file/HOLE/HOLE", FORM),
    ("PUT", "/dashboard/_stcore/upload_file/a/b", FORM),
    ("DELETE", "/dashboard/_stcore/upload_file/a/HOLE", ""),
    ("HOLE", "/HOLE", JSON),
]
PIECES = [
    "a",
    "%00",
    "%ff%fe",
    "%2e%2e%2f",
    "..",
    "../../etc/passwd",
    "/etc/hostname",
    "/proc/self/environ",
    "http://127.0.0.1:9/",
    "%",
    "%zz",
    "é",
    "\udcff",
    "\\",
    ";",
    "*",
    "[",
    "a" * 300,
    "0" * 32,
    "",
    "-",
    "null",
    "%F0%9F%98%80",
    "+",
    "~",
    "$(id)",
    "index.html",
]
FILE = {"_type": "gradio.FileData"}
VALUES = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    "",
    "good",
    "int8",
    "\0",
    "😀",
    "a" * 20_001,
    [],
    {},
    [[[]]],
    {"path": "/etc/hostname", "meta": FILE},
    {"path": "a", "meta": FILE, "is_stream": True},
    {"path": {"path": "a", "meta": FILE}, "meta": FILE},
    {"__type__": "update"},
]
FIELDS = [
    "data",
    "fn_index",
    "session_hash",
    "event_id",
    "trigger_id",
    "event_data",
    "batched",
    "request",
    "oauth_token",
]
RAW = [
    b"",
    b"{",
    b"\xff",
    b"NaN",
    b'"\\ud800"',
    b"[" * 5_000,
    b'{"data": [1e999]}',
    b"null",
    b"0",
    b"{}{}",
    b"\0" * 100,
]
PARTS = [
    b'Content-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\ntext\nbook\n',
    b'Content-Disposition: form-data; name="files"; filename="../../a"\r\n\r\na',
    b'Content-Disposition: form-data; name="files"; filename="\0\xff"\r\n\r\na',
    b'Content-Disposition: form-data; name="files"; filename=""\r\n\r\n',
    b'Content-Disposition: form-data; name="files"; filename="' + b"a" * 3_000 + b'"\r\n\r\na',
    b'Content-Disposition: form-data; name="files"\r\n\r\na',
    b"Content-Disposition: form-data\r\n\r\na",
    b"Content-Disposition: \xff\r\n\r\n",
    b"\r\n",
    b"A: " + b"b" * 9_000 + b"\r\n\r\n",
]
HEADERS = [
    "Origin: http://elsewhere.example",
    "Origin: null",
    "Range: bytes=1-2-3",
    "Range: bytes=-",
    "Cookie: a=\xff; b",
    "Accept-Encoding: br;q=HOLE",
    "X-Forwarded-Host: HOLE",
    "X-Gradio-Server: HOLE",
    "Accept-Language: HOLE",
    "If-None-Match: HOLE",
    "Content-Encoding: gzip",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Expect: 100-continue",
    "Authorization: Bearer HOLE",
]


def request_of(draw: random.Random) -> bytes:
    """A request that is wrong somewhere, or nowhere."""

    def fill(text: str) -> bytes:
        while "HOLE" in text:
            text = text.replace("HOLE", draw.choice(PIECES), 1)
        return text.encode("utf-8", "surrogateescape")

    method, path, kind = draw.choice(ROUTES)
    lines = [fill(draw.choice([method] * 20 + ["OPTIONS", "HEAD", "PATCH", "POST", "GET"])) + b" "]
    lines[0] += fill(path) + b" HTTP/1.1"
    lines.append(b"Host: a")
    lines += [fill(header) for header in draw.sample(HEADERS, draw.choice([0, 0, 1, 2]))]
    body = b""
    if kind == JSON:
        body = body_of(draw)
    elif kind == FORM:
        ends = draw.choice([b"--a--\r\n", b"--a--\r\n", b"", b"--b--"])
        body = b"".join(b"--a\r\n" + draw.choice(PARTS) + b"\r\n" for _ in range(draw.choice([0, 1, 1, 2, 40]))) + ends
    if kind:
        lines.append(f"Content-Type: {draw.choice([kind] * 8 + ['text/plain', 'multipart/form-data', ''])}".encode())
        if draw.random() < 0.1:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        else:
            lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def body_of(draw: random.Random) -> bytes:
    """JSON of the shape that a question has, or of none."""
    if draw.random() < 0.2:
        return draw.choice(RAW)
    fields: dict[str, object] = {
        "data": [draw.choice(VALUES) for _ in range(draw.choice([0, 2, 3, 5, 8, 9, 40]))],
        "fn_index": draw.randrange(-2, 40),
        "session_hash": f"s{draw.randrange(10**9)}",
    }
    for name in draw.sample(FIELDS, draw.choice([0, 1, 2])):
        fields[name] = draw.choice(VALUES)
    for name in draw.sample(list(fields), draw.choice([0, 0, 1])):
        del fields[name]
    return json.dumps(fields).encode()


def status_of(port: int, request: bytes) -> str:
    """The status of the answer, whose rest is not waited for; "closed" where there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.settimeout(60)
        try:
            connection.sendall(request)
            head = connection.recv(4096)
        except OSError:
            return "closed"
    return head.split(b" ", 2)[1].decode() if head.startswith(b"HTTP/1.") else "closed"


def resident_kb(server: Started) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def routes(args: argparse.Namespace) -> bool:
    """No malformed request to any route gets a 5xx."""
    seed = random.randrange(2**32)
    counts: Counter[str] = Counter()
    failed: list[bytes] = []
    started_at = time.monotonic()

    def attack(server: Started, number: int, requests: int) -> None:
        draw = random.Random(seed + number)
        for _ in range(requests):
            request = request_of(draw)
            status = status_of(server.port, request)
            counts[status] += 1
            if status.startswith("5"):
                failed.append(status.encode() + b": " + request[:300])

    with tempfile.TemporaryDirectory() as folder, started(Path(folder), {"TMPDIR": folder}) as server:
        attack(server, 0, args.requests // 10)  # until caches are full
        before = resident_kb(server)
        with ThreadPoolExecutor(CLIENTS) as pool:
            share = args.requests * 9 // 10 // CLIENTS
            list(pool.map(lambda number: attack(server, number, share), range(1, CLIENTS + 1)))
        growth = resident_kb(server) - before
        alive = server.status("/api/ready")
        answer = server.classify("good").read()
        server.process.terminate()
        _, log = server.process.communicate(timeout=60)
    print(
        f"routes: {sum(counts.values()):,} requests in {time.monotonic() - started_at:.0f} s, seed {seed}: "
        f"{dict(sorted(counts.items()))}; {before / 1e3:.0f} MB and {growth / 1e3:+.1f} MB, then ready {alive}"
    )
    for request in failed[:20]:
        print(request)
    print(log[-3_000:] if "Traceback" in log else "", end="")
    return not failed and growth < GROWTH_KB and alive == 200 and b"complete" in answer and "Traceback" not in log


def questions(args: argparse.Namespace) -> bool:
    """Memory does not grow with questions that name no session, whether or not anybody reads the answers."""
    with tempfile.TemporaryDirectory() as folder, started(Path(folder), {"TMPDIR": folder}) as server:
        for _ in range(300):
            server.classify("good").read()
        before = resident_kb(server)
        body = json.dumps({"data": ["good", "int8", None]})
        for number in range(args.questions):
            if number % 2:
                server.classify("good").read()
            else:
                server.status("/gradio_api/call/predict", "POST", body)
        growth = resident_kb(server) - before
    print(f"questions: {before / 1e3:.0f} MB, and {growth / 1e3:+.1f} MB after {args.questions:,} more")
    return growth < GROWTH_KB


class Visitor:
    """One who asks the page, from an address of this machine."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.port = port
        self.address = address

    def ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120, source_address=(self.address, 0))
        connection.request(method, f"/gradio_api/{path}", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.read()

    def answer(self, endpoint: str, data: list[object]) -> float:
        """The seconds until an answer was there; infinity where there is none."""
        started_at = time.monotonic()
        asked = json.loads(self.ask("POST", f"call/{endpoint}", json.dumps({"data": data})))
        stream = self.ask("GET", f"call/{endpoint}/{asked['event_id']}") if "event_id" in asked else b""
        return time.monotonic() - started_at if b"event: complete" in stream else float("inf")

    def flood(self, session: str) -> None:
        """Ask for 14 long comparisons, and read the answers."""
        question = json.dumps({"data": ["lovely film " * 1_658, None], "session_hash": session})
        for _ in range(14):
            self.ask("POST", "call/compare", question)
        self.ask("GET", f"queue/data?session_hash={session}")


QUICK: dict[str, list[object]] = {
    "predict": ["what a lovely film", "int8", None],
    "compare": ["what a lovely film", None],
}


def visitors(args: argparse.Namespace) -> bool:
    """A hundred visitors at once are answered, and one beside 30 sessions of another address that ask 420 questions."""
    port = free_port()
    environment = os.environ | {"PORT": str(port)}
    seconds: dict[str, float] = {}
    with subprocess.Popen([sys.executable, "serve.py"], cwd=ROOT, env=environment, stdout=-1, text=True) as server:
        assert server.stdout
        while not server.stdout.readline().startswith("The API is at"):
            assert server.poll() is None
        here, there = Visitor(port), Visitor(port, "127.0.0.2")
        here.answer("compare", QUICK["compare"])  # once all runtimes are open
        with ThreadPoolExecutor(130) as pool:
            for endpoint, data in QUICK.items():
                seconds[f"100 x /{endpoint}"] = max(pool.map(lambda _: here.answer(endpoint, data), range(100)))  # noqa: B023
            flood = [pool.submit(here.flood, f"flood{number}") for number in range(30)]
            time.sleep(5)
            for name, visitor in (("another address", there), ("the same address", here)):
                seconds[name] = max(visitor.answer("predict", QUICK["predict"]) for _ in range(3))
            assert not all(one.done() for one in flood)
            server.terminate()
            started_at = time.monotonic()
            server.wait(timeout=60)
            seconds["to end"] = time.monotonic() - started_at
    print("visitors:", ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    return max(seconds.values()) < 60


JOBS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "routes": routes,
    "questions": questions,
    "visitors": visitors,
}


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    p.add_argument("--requests", type=int, default=20_000)
    p.add_argument("--questions", type=int, default=5_000)
    args = p.parse_args()
    passed = [JOBS[name](args) for name in args.jobs or JOBS]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
