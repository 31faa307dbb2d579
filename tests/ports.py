"""Ports of this machine: free ones for programs under test, and those that their processes listen on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 3


def free_port() -> int:
    """Return a port that was free just now. Another program may take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's processes come and go
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((one.laddr.ip, one.laddr.port))
    return found
