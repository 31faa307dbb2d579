"""A server in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from inference.api.front import Access
from inference.api.server import Server, bind, configure, url

PATIENCE_S = 300  # a busy machine is no broken server


@contextmanager
def running(app: Any, access: Access, stopping: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The address of an application behind everything that a server of ours has, for as long as the block lasts."""
    ready = threading.Event()
    server = Server(configure(app, access), ready.set, stopping)
    with bind("127.0.0.1", 0, "") as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(PATIENCE_S)
            yield url("127.0.0.1", listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
