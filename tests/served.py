"""The API over fakes, or over a real model, in a process of its own.

python tests/served.py FOLDER [--delay-ms 0] [--waiting-texts 1024]: over fakes, at a free port, which it prints. A text
with the word "book" is answered once there is a file FOLDER/gate, and leaves FOLDER/asked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # a busy machine is no broken server
START_S = 300  # for the first line: a model may have to be built first
FAKES = [sys.executable, "tests/served.py"]


class Served:
    """A process that says in its first line, as JSON or last word, at which address it serves.

    Args:
        environment: of the process beside this one's; None takes a variable away.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str | None] | None = None) -> None:
        given = os.environ | (environment or {})
        # No pipe: nobody reads it while the process runs, and a full one would block that.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `finished`
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={name: value for name, value in given.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        assert self.process.stdout
        limit = threading.Timer(START_S, self.process.kill)
        limit.start()
        self.first_line = self.process.stdout.readline()
        limit.cancel()
        if not self.first_line:
            raise RuntimeError(self.finished()[2])
        self.url = (
            json.loads(self.first_line)["url"] if self.first_line.startswith("{") else self.first_line.split()[-1]
        )
        self.port = int(urlsplit(self.url).port or 0)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        if not self._stderr.closed:
            self.finished()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, path: str, fields: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a POST with these fields, or of a GET without."""
        connection = self.connect()
        body = None if fields is None else json.dumps(fields)
        connection.request(
            "GET" if fields is None else "POST", path, body, {"Content-Type": "application/json"} | headers
        )
        with connection.getresponse() as response:
            answer = response.read()
        connection.close()
        return response.status, json.loads(answer)

    def peak_kb(self) -> int:
        """Most memory that the process has had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def resident_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return False
        return True

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, what else it printed, and what went to stderr."""
        self.process.send_signal(number)
        return self.finished()

    def finished(self) -> tuple[int, str, str]:
        """What `end` gives, of a process that ends by itself."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        with self._stderr as log:
            log.seek(0)
            return self.process.returncode, out, log.read()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import fakes

    from inference.api import ApiLimits, create_app, server
    from inference.api.front import Access

    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    p.add_argument("--delay-ms", type=float, default=0)
    p.add_argument("--waiting-texts", type=int, default=1024)
    args = p.parse_args()

    class Slow(fakes.FakeBackend):
        def logits(self, input_ids: Any, attention_mask: Any) -> Any:
            time.sleep(args.delay_ms / 1e3)
            if fakes.WORDS.index("book") in input_ids:
                (args.folder / "asked").touch()
                wait_until((args.folder / "gate").exists)
            return super().logits(input_ids, attention_mask)

    app = create_app(fakes.classifier(Slow("int8")), limits=ApiLimits(waiting_texts=args.waiting_texts))
    listener = server.bind("127.0.0.1", 0, "")
    url = f"{server.url('127.0.0.1', listener.getsockname()[1])}/api"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.serve(app, listener, lambda: print(url, flush=True), app.state.service.stop, Access())
    except KeyboardInterrupt:
        print("stopped", flush=True)


if __name__ == "__main__":
    main()
