"""HTTP/1.1 connections: uvicorn's protocol with limits that apply before the application sees a request.

Uvicorn's parser, httptools, accepts a head of any length, keeps an unfinished line of any length, and adds trailers to
the headers. Here every message has limits, and what RFC 9112 calls invalid is refused: with one small response in the
form of every error of the API, after which the connection is closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 65_536  # of request line and headers, and of trailers; chunk framing may add this and the size of its data
HEAD_LINES = 100
PIECE_BYTES = 16_384  # parsed between two checks of the limits
PIPELINED = 16  # requests that wait for an earlier response; with more, the connection closes after these
SILENCE_S = 30  # to send a head, and the longest pause within a body
DRAINED_BYTES = 8_000_000  # read after a refusal: closing at once would reset the connection before the client reads it
DRAINED_S = 2
WEBSOCKET_LINE_BYTES = 8_192  # the limit of the library websockets for a handshake

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~-]+)(?::([0-9]{0,5}))?", re.ASCII)
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)[/?].*", re.IGNORECASE)
PASS_HOST = "a proxy must pass on the Host header of the browser (nginx: proxy_set_header Host $http_host;)"
NO_HOST = f"The header Host is missing. Before this server, {PASS_HOST}."
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding"})
_TOO_LONG = (431, "head_too_large", f"The headers exceed {HEAD_BYTES:,} bytes or {HEAD_LINES} lines.")
_TARGET_TOO_LONG = (414, "target_too_long", f"The request target is too long: a head has at most {HEAD_BYTES:,} bytes.")
_MALFORMED = (400, "bad_request", "The request is not valid HTTP/1.1.")
_OVERHEAD = (400, "bad_request", "The chunked body has too much framing for its data.")
_SLOW = (408, "slow_request", f"The request did not arrive within {SILENCE_S} s.")
_FULL = (503, "overloaded", "Too many connections. Try again later.")


class _Refused(Exception):
    """Raised in a callback of the parser, with status, code and message of the response."""


def _bad(message: str) -> _Refused:
    return _Refused(400, "bad_request", message)


@lru_cache(maxsize=64)
def is_host(host: bytes) -> bool:
    """Return whether this is a host name or an address, with or without a port."""
    match = _HOST.fullmatch(host.decode("latin-1"))
    if match is None or int(match[2] or 0) > 65_535:
        return False
    try:
        return match[1] is None or bool(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return False


class HttpProtocol(HttpToolsProtocol):
    """One connection, read within the limits above."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = False
        self._has_line = False  # the whole request line has arrived
        self._in_body = False
        self._in_trailers = False  # or within the first bytes of a chunk
        self._raw = bytearray()  # parsed since the last piece that ended outside a head
        self._position = 0  # in `_raw`: the end of the last headers
        self._has_body = False  # a body, or the end of one, follows there
        self._fed = 0  # bytes since the message, or its body, began
        self._data = 0  # of which body
        self._trailers = 0
        self._single: dict[bytes, bytes] = {}
        self._answering: RequestResponseCycle | None = None
        self._deaf = False  # what arrives is discarded
        self._refusal: bytes | None = None  # sent after the responses to earlier requests
        self._discarded = 0
        self._silent_s = 0
        self._abort: asyncio.TimerHandle | None = None

    # --- Called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_full():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        # Uvicorn disconnects the newest request; the one being answered may be an earlier one.
        if self._answering is not None and not self._answering.response_complete:
            _disconnect(self._answering)
        if self._abort is not None:
            self._abort.cancel()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        if len(data) <= PIECE_BYTES:
            self._feed(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            if self._deaf:
                return
            self._feed(view[start : start + PIECE_BYTES])

    def _feed(self, piece: bytes | memoryview) -> None:
        self._raw += piece
        self._fed += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._deaf = True
                self.handle_websocket_upgrade()
            else:
                self._forget_raw()
                self._feed(piece[upgrade.args[0] :])  # an upgrade to anything else is ignored
            return
        except httptools.HttpParserError as error:
            reason = error.__context__
            self._refuse(*(reason.args if isinstance(reason, _Refused) else _MALFORMED))
            return
        if not self._in_head:
            self._forget_raw()
        elif not self._has_line and b"\n" in bytes(piece):
            # HTTP/0.9 has no headers: such a client sends nothing more.
            line, end, _ = bytes(self._raw[self._position :]).lstrip(b"\r\n").partition(b"\n")
            self._has_line = bool(end)
            if end and not self._has_body and b" HTTP/" not in line:
                self._refuse(*_MALFORMED)
                return
        if self._fed > HEAD_BYTES + 2 * self._data:
            if self._in_body and not self._in_trailers:
                self._refuse(*_OVERHEAD)
            else:
                self._refuse(*(_TARGET_TOO_LONG if self._in_head and 2 * len(self.url) > HEAD_BYTES else _TOO_LONG))
        elif self._in_body and self.cycle.response_complete:
            self._discard(len(piece))

    def _forget_raw(self) -> None:
        self._raw.clear()
        self._position = 0
        self._has_body = self._in_body

    # --- Called by the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise _Refused
        super().on_message_begin()
        self._in_head = True
        self._has_line = False
        self._single = {}
        self._fed = self._data = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # A trailer: the application already has the headers, which no trailer may change.
            self._trailers += 1
            if self._trailers > HEAD_LINES:
                raise _Refused(*_TOO_LONG)
            return
        if len(self.headers) >= HEAD_LINES:
            raise _Refused(*_TOO_LONG)
        name = name.lower()
        if name in _SINGLE:
            if name in self._single:
                raise _bad("Host, Content-Length and Transfer-Encoding must not be repeated.")
            self._single[name] = value = value.rstrip(b" \t")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        self._in_head, self._in_body, self._in_trailers = False, True, False
        self._fed = self._data = self._trailers = self._silent_s = 0

    def on_chunk_header(self) -> None:
        self._in_trailers = self._has_body = True

    def on_body(self, body: bytes) -> None:
        self._in_trailers = False
        self._has_body = True
        self._data += len(body)
        if not self.cycle.response_complete:
            self._silent_s = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._fed = self._data = 0
        super().on_message_complete()

    def _check_head(self) -> None:
        """Raise `_Refused` if RFC 9112 calls the head invalid and the parser does not."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            status = 505 if version > "1.1" else 400
            raise _Refused(status, "bad_request", "The request line must name HTTP/1.0 or HTTP/1.1.")
        # The parser accepts RTSP/1.0 as HTTP/1.0, and several spaces as one.
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())
        start = self._position
        if self._has_body:
            start = self._raw.find(line, start)
        while self._raw.startswith((b"\r", b"\n"), start):
            start += 1
        if start < 0 or not self._raw.startswith(line, start):
            raise _bad("The request line must be METHOD TARGET HTTP/1.1 with single spaces.")
        self._position = self._raw.find(b"\r\n\r\n", start) + 4
        self._has_body = False
        size = self._position - start
        if size > HEAD_BYTES:
            raise _Refused(*(_TARGET_TOO_LONG if 2 * len(line) > size else _TOO_LONG))
        host = self._single.get(b"host")
        if host is None and version == "1.1":
            raise _bad(NO_HOST)
        if host is not None and not (len(host) < 300 and is_host(host)):
            raise _bad("The header Host is not a host name or an address, with or without a port.")
        if self.url[:1] != b"/" or b"#" in self.url or method == b"CONNECT":
            self._check_target(method, host)
        coding = self._single.get(b"transfer-encoding")
        if coding is not None:
            if version == "1.0":
                raise _bad("HTTP/1.0 has no Transfer-Encoding.")
            if not coding.lower().endswith(b"chunked"):
                raise _bad("The last coding of Transfer-Encoding must be chunked: else the body has no end.")
            if coding.lower() != b"chunked":
                raise _Refused(501, "bad_request", "The only supported Transfer-Encoding is chunked.")
        if self.parser.should_upgrade():
            if coding is not None or self._single.get(b"content-length", b"").strip(b"0"):
                raise _bad("A request to upgrade the protocol must have no body.")
            if self._should_upgrade():
                self._check_websocket(method, version, line)

    def _check_target(self, method: bytes, host: bytes | None) -> None:
        """Check a request target that is not simply a path."""
        if self.url[:1] == b"/" and method != b"CONNECT":
            raise _bad("The request target must have no fragment.")
        if self.url == b"*" and method == b"OPTIONS":
            return
        if not (absolute := _ABSOLUTE.fullmatch(self.url)) or method == b"CONNECT":
            raise _bad("The request target must be a path or an http:// or https:// URL.")
        if absolute[1].lower() != (host if host is not None else absolute[1]).lower():
            raise _bad("The request target and the header Host name different hosts.")

    def _check_websocket(self, method: bytes, version: str, line: bytes) -> None:
        """Raise `_Refused` if the library websockets would fail on this handshake."""
        if method != b"GET" or version != "1.1" or self._is_answering():
            raise _bad("A websocket handshake must be a GET over HTTP/1.1, after the responses to earlier requests.")
        if len(line) > WEBSOCKET_LINE_BYTES:
            raise _Refused(*_TARGET_TOO_LONG)
        if any(len(name) + len(value) + 4 > WEBSOCKET_LINE_BYTES for name, value in self.headers):
            raise _Refused(431, "head_too_large", f"A header exceeds {WEBSOCKET_LINE_BYTES:,} bytes.")
        if self._is_full():
            raise _Refused(*_FULL)

    # --- Refusing requests and closing the connection

    def _refuse(self, status: int = 0, code: str = "", message: str = "") -> None:
        """Send this error, or nothing without a status, after the responses to earlier requests; then close."""
        self._deaf = True
        answer = self._answer(status, code, message) if status else b""
        if not self._is_answering():
            self._close(b"" if self._in_body else answer)  # the request of this body has its response
        elif self._in_body and not (self.pipeline and self.pipeline[0][0] is self.cycle):
            _disconnect(self.cycle)
            self._close(b"" if self.cycle.response_started else answer)
        else:
            if self._in_body:
                self.pipeline.popleft()
            self._refusal = answer

    def _answer(self, status: int, code: str, message: str) -> bytes:
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        headers = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), b"".join(lines), body)

    def _close(self, answer: bytes) -> None:
        """Send this and close, at the latest after `DRAINED_S`."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._abort = self.loop.call_later(DRAINED_S, self.transport.abort)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > DRAINED_BYTES:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def run(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:  # the server ends in the middle of a response
                _disconnect(cycle)  # else uvicorn logs an error for each
                self.transport.close()

        self._answering = cycle
        super()._start_asgi_task(cycle, run)

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._refusal is not None:
            self._close(self._refusal)

    # --- Silent clients, and the number of connections

    def tick(self) -> None:
        """Count a second of silence; close the connection after `SILENCE_S`."""
        if self._deaf or (self._is_answering() and (not self._in_body or self.flow.read_paused)):
            return
        self._silent_s += 1
        if self._silent_s > SILENCE_S:
            if self._in_head or self._in_body:
                self._refuse(*_SLOW)
            else:
                self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_full(self) -> bool:
        return self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, if any."""
        others = (other for other in self.connections if isinstance(other, HttpProtocol) and other is not self)
        idle = [other for other in others if not other._is_answering() and not other.transport.is_closing()]
        if idle:
            longest = max(idle, key=lambda other: other._silent_s)
            self.connections.discard(longest)  # `connection_lost` comes later, maybe after the next request
            longest.transport.abort()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Let the application see that its client has gone."""
    cycle.disconnected = True
    cycle.message_event.set()
