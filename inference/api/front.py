"""What every request passes first, whichever application answers it: proxies, hosts, origins, and safe headers.

One layer of plain ASGI, because it runs for every request: it costs a few microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from inference.api.errors import ApiError
from inference.api.middleware import refuse, refuse_websocket
from inference.api.protocol import is_host

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Who may add these is whoever stands between the client and this server: they count only from a proxy that was named.
# Gradio believes X-Gradio-Server too, from anybody.
PROXY_HEADERS = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-gradio-server",
        b"x-real-ip",
    }
)
NOTHING_LOADS = "default-src 'none'"  # the API answers JSON: a browser that shows it loads nothing
DENIED = ("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "microphone", "payment", "usb")
DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


@dataclass(frozen=True)
class Access:
    """Which requests are answered at all, and what browsers may do with the answers.

    Args:
        allowed_hosts: values of the Host header that are answered, without a port; "*.example.org" stands for every
            subdomain. Empty: any host.
        trusted_proxies: addresses or networks whose X-Forwarded-For, -Host and -Proto are believed; "*" for all.
        frame_ancestors: sources, in the words of Content-Security-Policy, whose pages may show these in a frame.
        content: the rest of the Content-Security-Policy.
    """

    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    frame_ancestors: str = "'none'"
    content: str = NOTHING_LOADS

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every answer gets."""
        values = {
            "Content-Security-Policy": f"{self.content}; frame-ancestors {self.frame_ancestors}",
            "Permissions-Policy": ", ".join(f"{name}=()" for name in DENIED),
            # Not "no-referrer": with it, browsers say "Origin: null" where a form is sent to this very server.
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        return [(name.lower().encode(), value.encode()) for name, value in values.items()]


class Front:
    """Refuses requests for other hosts and from other sites, believes named proxies alone, and adds safe headers.

    A request that changes something, and a websocket, is refused with 403 if it has an Origin header that is not this
    server's own address. Behind a named proxy, Host, scheme and client become those that the proxy reports, so that
    nothing behind this layer has to know about proxies.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._allowed = [_without_port(host.lower()) for host in access.allowed_hosts]
        self._headers = access.headers
        self._named = bool(access.trusted_proxies)
        self._proxied: Any = ProxyHeadersMiddleware(self._answer, list(access.trusted_proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif self._named and scope["client"] and scope["client"][0] in self._proxied.trusted_hosts:
            scope["headers"] = _as_the_last_proxy_says(scope["headers"])
            await self._proxied(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = origin = b""
        origins = forwarded = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
                origins += 1
            elif name in PROXY_HEADERS:
                forwarded += 1
        if forwarded:
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in PROXY_HEADERS]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        if host and not is_host(host):  # a proxy said so: any other was refused before
            error = ApiError(400, "bad_request", "The header X-Forwarded-Host is not a host name or an address.")
        elif self._allowed and not self._is_allowed(host):
            error = ApiError(400, "unknown_host", "This server does not answer for the host in the Host header.")
        elif origins and scope.get("method") not in SAFE_METHODS and (origins > 1 or not is_own(origin, host)):
            error = ApiError(403, "foreign_origin", "This server takes no requests from pages of other sites.")
        else:
            await self.app(scope, receive, with_headers)
            return
        if scope["type"] == "websocket":
            await refuse_websocket(receive, send)
        else:
            await refuse(error, receive, with_headers)

    def _is_allowed(self, host: bytes) -> bool:
        name = _without_port(host.decode("latin-1").lower())
        return any(
            name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern for pattern in self._allowed
        )


def is_own(origin: bytes, host: bytes) -> bool:
    """Whether an Origin header names the server that a Host header names. The scheme is left to a proxy with TLS."""
    scheme, separator, site = origin.decode("latin-1").lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    if not separator or port is None:
        return False
    return bool(site) and site.removesuffix(port) == host.decode("latin-1").lower().removesuffix(port)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host if host.count(":") > 1 else host.partition(":")[0]  # an IPv6 address, as a user may write it


def _as_the_last_proxy_says(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers, with the host that a proxy was asked for in the place of the one that the proxy asks for.

    Where several proxies added to X-Forwarded-Host and -Proto, the last one is believed: it is the one that was named.
    """
    pairs = list(headers)
    last = {
        name: value.split(b",")[-1].strip()
        for name, value in pairs
        if name in (b"x-forwarded-host", b"x-forwarded-proto")
    }
    kept = [pair for pair in pairs if pair[0] != b"x-forwarded-proto"]
    if proto := last.get(b"x-forwarded-proto"):
        kept.append((b"x-forwarded-proto", proto))
    if host := last.get(b"x-forwarded-host"):
        kept = [(b"host", host), *(pair for pair in kept if pair[0] != b"host")]
    return kept
