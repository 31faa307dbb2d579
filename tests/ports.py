"""Ports of this machine: free ones for programs under test, and those that their processes listen on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 3


def free_port() -> int:
    """One that nobody had just now. Whoever is quicker than the program that is given it takes it away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_a_free_port(start: Callable[[int], T], lost: str) -> T:
    """What `start` gives at a free port; at another one where a stranger took the first before it was used.

    Args:
        start: raises RuntimeError with what the program said where that ended.
        lost: what the program says, among other things, of a port that somebody else has.
    """
    for left in reversed(range(TRIES)):
        try:
            return start(free_port())
        except RuntimeError as error:
            if lost not in str(error) or not left:
                raise
    raise AssertionError


def listening(pid: int) -> set[tuple[str, int]]:
    """Address and port of everything that the processes below this one accept connections on."""
    import psutil

    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's processes come and go
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((one.laddr.ip, one.laddr.port))
    return found
