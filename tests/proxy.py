"""A small reverse proxy, as nginx would be before the server: TLS, a path that it removes, and headers that it sets."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def certificate(folder: Path) -> ssl.SSLContext:
    """A context of a server that has signed its certificate itself."""
    key, signed = folder / "key.pem", folder / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test.example"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(signed)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    return context


@contextmanager
def proxy(
    port: int, prefix: str = "", headers: Mapping[str, str | None] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Run a proxy before the server at this port of this machine, for as long as the block lasts.

    Args:
        prefix: removed from the paths of requests.
        headers: set on every request; None takes one away.

    Yields:
        Its port, and the paths that it was asked for elsewhere than below its prefix.
    """
    outside: list[str] = []
    given = {name.lower(): value for name, value in (headers or {}).items()}

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                browser = stack.enter_context(tls.wrap_socket(self.request, server_side=True) if tls else self.request)
                head, rest = _read_head(browser)
                method, path, version = head[0].split(" ")
                if not path.startswith(f"{prefix}/"):
                    outside.append(path)
                    browser.sendall(NOT_FOUND)
                    return
                is_upgrade = any(line.lower().startswith("upgrade:") for line in head)
                changed = given if is_upgrade else {"connection": "close", **given}  # one request per connection
                lines = [f"{method} {path.removeprefix(prefix)} {version}"]
                lines += [line for line in head[1:] if line.partition(":")[0].lower() not in changed]
                lines += [f"{name}: {value}" for name, value in changed.items() if value is not None]
                server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                server.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + rest)
                back = threading.Thread(target=_copy, args=(server, browser), daemon=True)
                back.start()
                _copy(browser, server)
                back.join()

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Proxy(("127.0.0.1", 0), Connection) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield listening.server_address[1], outside
        finally:
            listening.shutdown()
            thread.join()


def _read_head(browser: socket.socket) -> tuple[list[str], bytes]:
    """The lines of the head of a request, and what has come of its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (piece := browser.recv(65536)):
            raise OSError
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until the end, and end both."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
