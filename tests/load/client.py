"""A closed loop of requests over kept-open connections, thin enough not to be what is measured.

Each connection sends a request as soon as the last one is answered. Only the status and the length of an answer are
read while the clock runs. `python client.py` as a process of its own takes one `Run` as JSON and prints what came out.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any


@dataclass(frozen=True)
class Run:
    """What to ask, of whom, how many at once and for how long."""

    host: str
    port: int
    path: str
    bodies: Sequence[str]
    """JSON, asked in turn."""
    connections: int
    seconds: float
    least: int = 0
    """Requests to be made at least, however long they take."""


class Connection(asyncio.Protocol):
    """One connection: sends, waits for the whole answer, sends again."""

    def __init__(self, requests: Iterator[bytes], record: Found) -> None:
        self._requests = requests
        self._found = record
        self._buffer = bytearray()
        self._length = -1
        self._started = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._next()

    def _next(self) -> None:
        if self._found.enough():
            self._transport.close()
            if not self.over.done():
                self.over.set_result(None)
            return
        self._started = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._length = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            self._status = int(head[9:12])
        if len(self._buffer) >= self._length:
            self._found.add(self._status, time.perf_counter() - self._started)
            self._buffer.clear()
            self._length = -1
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self._found.statuses["lost"] += 1
            self.over.set_result(None)


class Found:
    """What came back."""

    def __init__(self, seconds: float, least: int) -> None:
        self.latencies_s: list[float] = []
        self.statuses: Counter[int | str] = Counter()
        self._until = time.perf_counter() + seconds
        self._least = least

    def enough(self) -> bool:
        return time.perf_counter() >= self._until and len(self.latencies_s) >= self._least

    def add(self, status: int, seconds: float) -> None:
        self.latencies_s.append(seconds)
        self.statuses[status] += 1


async def load(run: Run) -> dict[str, Any]:
    """Latencies in ms in the order of the answers, statuses, wall time and the processor time of this client."""
    requests = cycle([_request(run, body.encode()) for body in run.bodies])
    loop = asyncio.get_running_loop()
    started, used = time.perf_counter(), _processor_s()
    record = Found(run.seconds, run.least)
    made = [
        (await loop.create_connection(lambda: Connection(requests, record), run.host, run.port))[1]
        for _ in range(run.connections)
    ]
    await asyncio.gather(*(one.over for one in made))
    wall = time.perf_counter() - started
    return {
        "latencies_ms": [round(one * 1e3, 3) for one in record.latencies_s],
        "statuses": {str(status): count for status, count in record.statuses.items()},
        "wall_s": wall,
        "client_cpu_s": _processor_s() - used,
    }


def _request(run: Run, body: bytes) -> bytes:
    head = f"POST {run.path} HTTP/1.1\r\nHost: {run.host}:{run.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    try:
        import uvloop

        runner: Any = uvloop.run
    except ImportError:
        runner = asyncio.run
    json.dump(runner(load(Run(**json.load(sys.stdin)))), sys.stdout)
