"""A server that ends gracefully: told to stop, it takes no new requests and answers those it has."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect

from inference.api.errors import ApiError, problem
from inference.api.front import Access, Front
from inference.api.protocol import HttpProtocol
from inference.errors import InferenceError, InputError

log = logging.getLogger(__name__)

PATIENCE_S = 6  # what is being answered when the server is told to stop may take this long
# More at a time get 503 at once, and not an answer minutes later. Below the 1,024 files that a process may often have
# open. A connection may count twice for a moment: uvicorn counts a request until its task is over, and a quick client
# has sent the next by then.
CONNECTIONS = 800
# The thread with the model asks for Python's lock between two forward passes, and the cores are idle until it has it.
# Python's own 5 ms are several passes of a short text.
SWITCH_S = 0.0005
END_S = 2.5  # what cannot be interrupted, such as a pass of the model, may take this long beyond that
STALLED_S = 60  # a client that reads nothing of its answer for so long is cut off


class Server(uvicorn.Server):
    """Uvicorn that says when it answers, and when it is told to stop.

    Args:
        ready: called once requests are answered.
        stopping: called before the requests that are left are waited for.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self.was_cut = False  # something was still being answered when patience ended
        self._stalled: dict[Any, tuple[int, int]] = {}  # connection -> bytes that wait to be sent, and for how long

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # uvicorn calls it every tenth of a second
            self._sweep()
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        """End the connections whose clients neither send nor read."""
        stalled: dict[Any, tuple[int, int]] = {}
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.tick()
            waiting = connection.transport.get_write_buffer_size()
            if waiting:
                before, seconds = self._stalled.get(connection, (0, 0))
                stalled[connection] = (waiting, seconds + 1 if waiting >= before else 0)
                if stalled[connection][1] > STALLED_S:
                    connection.transport.abort()
        self._stalled = stalled

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        stopped_at = time.monotonic()
        await super().shutdown(sockets)
        self.was_cut = time.monotonic() - stopped_at >= PATIENCE_S


class _Cut:
    """Ends what a client or the end of the server cuts off, without a traceback in the log."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if scope["type"] == "http":
                error = ApiError(503, "stopping", "The server is being stopped. Ask again in a moment.", 1)
                with contextlib.suppress(RuntimeError):  # an answer has begun
                    await problem(error, {"Connection": "close"})(scope, receive, send)


def serve(
    app: Any,
    held: socket.socket,
    ready: Callable[[], None],
    stopping: Callable[[], None],
    access: Access,
    websockets: type[asyncio.Protocol] | None = None,
    abandon: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Serve an ASGI application on this socket until a signal comes, and then until its answers are out.

    The process ends within `PATIENCE_S + END_S` of the signal, whatever still runs in it.

    Args:
        access: which requests are answered at all.
        abandon: called before the process is ended while something still runs.
        websockets: the protocol of websockets; None where the application has none.
        options: of `uvicorn.Config`.

    Raises:
        InferenceError: it did not start.
        KeyboardInterrupt: as Python's own handler raises it, where that is set for the signal that came.
    """
    is_answered = threading.Event()

    def end_process() -> None:
        if not is_answered.is_set():
            log.error("The model does not come to an end; the process ends without it.")
            logging.shutdown()
        abandon()
        os._exit(0 if is_answered.is_set() else 1)

    end = threading.Timer(PATIENCE_S + END_S, end_process)
    end.daemon = True

    def stop() -> None:
        end.start()
        stopping()

    server = Server(configure(app, access, websockets, **options), ready, stop)
    sys.setswitchinterval(SWITCH_S)
    try:
        with held:
            server.run(sockets=[held])
    finally:
        if not server.was_cut:
            is_answered.set()
    if not server.started:
        raise InferenceError("The server did not start; the lines above say why.")


def configure(
    app: Any, access: Access, websockets: type[asyncio.Protocol] | None = None, **options: Any
) -> uvicorn.Config:
    """The settings of a server that strangers may reach; the arguments are those of `serve`."""
    return uvicorn.Config(
        Front(_Cut(app), access),
        proxy_headers=False,  # `Front` reads them, from proxies that were named
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=PATIENCE_S,
        limit_concurrency=CONNECTIONS,
        http=HttpProtocol,
        ws=websockets or "none",
        **options,
    )


def bind(host: str, port: int, remedy: str) -> socket.socket:
    """The port, held and not yet listened on.

    Args:
        remedy: how to ask for another port, in the message where somebody else has this one.

    Raises:
        InputError: somebody else has it, or it is not ours to have.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just freed is refused for a minute
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EACCES:
            remedy = "Ports below 1024 need rights of their own: give one above 1023."
        elif error.errno != errno.EADDRINUSE:
            remedy = "Give an address of this machine as host: 127.0.0.1 to stay on it, 0.0.0.0 for all that it has."
        raise InputError(f"Port {port} on {host} cannot be had ({error.strerror}). {remedy}") from None
    return held


def url(host: str, port: int) -> str:
    """Where a client on this machine finds the server, without a slash at the end."""
    host = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
