"""A uvicorn server with limits that shuts down gracefully: it stops listening and answers the requests it has."""

from __future__ import annotations

import asyncio
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

from inference.api.errors import error_response, shutting_down
from inference.api.front import Access, Front
from inference.api.protocol import HttpProtocol
from inference.errors import InferenceError, InputError

log = logging.getLogger(__name__)

GRACE_S = 6  # for the requests that are being answered at shutdown
END_S = 2.5  # beyond `GRACE_S`, for what cannot be interrupted, such as a forward pass
# Beyond this number, 503 at once is better than a response minutes later. Below the usual limit of 1,024 open files per
# process. A connection may count twice for a moment: uvicorn counts a request until its task ends, and a fast client
# has sent the next one by then.
CONNECTIONS = 800
# The model's thread needs Python's lock between two forward passes, and the cores idle until it gets it. Python's
# default of 5 ms is as long as several passes of a short text.
SWITCH_S = 0.0005
STALLED_S = 60  # a client that reads nothing of its response for this long is cut off


class Server(uvicorn.Server):
    """A uvicorn server with callbacks.

    Args:
        ready: called when the server listens.
        stopping: called at shutdown, before the remaining requests are awaited.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self.was_cut = False  # a request was still running after `GRACE_S`
        self._stalled: dict[Any, tuple[int, int]] = {}  # connection -> bytes to be sent, seconds without progress

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # uvicorn calls it every tenth of a second
            self._sweep()
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        """Close the connections whose clients neither send nor read."""
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
        self.was_cut = time.monotonic() - stopped_at >= GRACE_S


class _Cut:
    """Answer 503 to a request that the shutdown cancels; log nothing when a client disconnects."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if scope["type"] != "http":
                return
            try:
                await error_response(shutting_down(), {"Connection": "close"})(scope, receive, send)
            except RuntimeError:  # the response has started: `HttpProtocol` closes the connection
                raise asyncio.CancelledError from None


def serve(
    app: Any,
    listener: socket.socket,
    ready: Callable[[], None],
    stopping: Callable[[], None],
    access: Access,
    websockets: type[asyncio.Protocol] | None = None,
    abandon: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Serve an ASGI application on this socket until a signal comes, then answer the requests it has.

    The process ends within `GRACE_S + END_S` of the signal, whatever still runs in it.

    Args:
        ready: as in `Server`.
        stopping: as in `Server`.
        websockets: the websocket protocol; None for no websockets.
        abandon: called before the process is ended by force.
        options: of `uvicorn.Config`.

    Raises:
        InferenceError: the server did not start.
        KeyboardInterrupt: a signal came whose handler is Python's own.
    """
    all_answered = threading.Event()

    def end_process() -> None:
        if not all_answered.is_set():
            log.error("The model is still running; ending the process without it.")
            logging.shutdown()
        abandon()
        os._exit(0 if all_answered.is_set() else 1)

    end = threading.Timer(GRACE_S + END_S, end_process)
    end.daemon = True

    def stop() -> None:
        end.start()
        stopping()

    server = Server(configure(app, access, websockets, **options), ready, stop)
    sys.setswitchinterval(SWITCH_S)
    try:
        with listener:
            server.run(sockets=[listener])
    finally:
        if not server.was_cut:
            all_answered.set()
    if not server.started:
        raise InferenceError("The server did not start. The lines above say why.")


def configure(
    app: Any, access: Access, websockets: type[asyncio.Protocol] | None = None, **options: Any
) -> uvicorn.Config:
    """Return the settings of a server that is safe to expose; the arguments are those of `serve`."""
    return uvicorn.Config(
        Front(_Cut(app), access),
        proxy_headers=False,  # `Front` reads those of trusted proxies
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=CONNECTIONS,
        http=HttpProtocol,
        ws=websockets or "none",
        **options,
    )


def bind(host: str, port: int, remedy: str) -> socket.socket:
    """Return a socket bound to the port, not yet listening.

    Args:
        remedy: how to choose another port, for the message if this one is taken.

    Raises:
        InputError: the port is taken or not allowed, or the address is not one of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just freed is refused for a minute
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EACCES:
            remedy = "Ports below 1024 need special rights. Choose one above 1023."
        elif error.errno != errno.EADDRINUSE:
            remedy = "Use an address of this machine: 127.0.0.1 for local access only, 0.0.0.0 for all interfaces."
        raise InputError(f"Cannot listen on {host}:{port} ({error.strerror}). {remedy}") from None
    return listener


def url(host: str, port: int) -> str:
    """Return the address for a client on this machine, without a slash at the end."""
    host = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
