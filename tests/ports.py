"""Ports of this machine: free ones for programs under test, and those that their processes listen on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 3
RANGE = range(20_000, 32_000)  # below the ports that Linux, macOS and Windows give to connections
WORKERS = 8


def free_port() -> int:
    """Return a port that nothing used just now, that no other worker of this run returns, and no system hands out."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    for _ in range(1000):
        port = RANGE.start + random.SystemRandom().randrange(len(RANGE) // WORKERS) * WORKERS + worker
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port from {RANGE.start} to {RANGE.stop - 1}")


def on_a_free_port(start: Callable[[int], T], *lost: str) -> T:
    """Return `start(port)` for a free port; try another if some program took the first before it was used.

    Args:
        start: raises RuntimeError with what the program printed if it ended.
        lost: parts of what the program prints if the port is taken.
    """
    for left in reversed(range(TRIES)):
        try:
            return start(free_port())
        except RuntimeError as error:
            if not left or not any(message in str(error) for message in lost):
                raise
    raise AssertionError


def listening(pid: int) -> set[tuple[str, int]]:
    """Return address and port of everything that the children of this process listen on."""
    import psutil

    addresses = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's processes come and go
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    addresses.add((one.laddr.ip, one.laddr.port))
    return addresses
