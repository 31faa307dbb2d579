"""The outermost layer of every server: trusted proxies, allowed hosts, origins, and security headers.

Plain ASGI, because it runs for every request: it costs a few microseconds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from inference.api.errors import ApiError
from inference.api.middleware import SEGMENT, path_of, refuse, refuse_websocket
from inference.api.protocol import NO_HOST, PASS_HOST, is_host

log = logging.getLogger(__name__)

API = "/api/"  # where every server of this project has it
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORWARDED_HOST, FORWARDED_PROTO, FORWARDED_PREFIX = b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix"
# Any client can send these headers: only those of a trusted proxy count. (Gradio trusts X-Gradio-Server from anyone.)
PROXY_HEADERS = frozenset(
    {FORWARDED_HOST, FORWARDED_PROTO, FORWARDED_PREFIX, b"x-forwarded-for", b"x-forwarded-port"}
    | {b"forwarded", b"x-gradio-server", b"x-real-ip"}
)
NOTHING_LOADS = "default-src 'none'"  # the API answers JSON: a browser that shows it loads nothing
DENIED = ("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "microphone", "payment", "usb")
ROOT_PATH = re.compile(rf"(/{SEGMENT}){{1,8}}")
A_PATH = "a path such as /demo, of at most 8 parts of letters, digits and . _ @ + ~ -"
OWN = frozenset({"api", "assets", "dashboard", "docs", "gradio_api", "static", "svelte"})  # of this server's addresses
FOREIGN = f"This server accepts no requests from pages of other sites. If this is its own page, {PASS_HOST}."
DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


@dataclass(frozen=True)
class Access:
    """Which requests are answered at all, and what browsers may do with the responses.

    Args:
        allowed_hosts: accepted values of the Host header, without a port; "*.example.org" matches every subdomain.
            Empty: any host.
        trusted_proxies: addresses or networks whose X-Forwarded-{For,Host,Proto,Prefix} are trusted; "*" for all.
        root_path: the path below which a proxy shows this server, such as "/demo", and which it removes from requests.
            X-Forwarded-Prefix of a trusted proxy replaces it.
        frame_ancestors: Content-Security-Policy sources whose pages may embed these in a frame.
        content: the rest of the Content-Security-Policy.
        cors_origins: sites whose pages may send requests to the API (not to the pages beside it); "*" for every site.
    """

    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    root_path: str = ""
    frame_ancestors: str = "'none'"
    content: str = NOTHING_LOADS
    cors_origins: tuple[str, ...] = ()

    @property
    def has_foreign_frames(self) -> bool:
        """Whether pages of other sites may embed these in a frame."""
        return self.frame_ancestors not in ("'self'", "'none'")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The security headers that every response gets."""
        values = {
            "Content-Security-Policy": f"{self.content}; frame-ancestors {self.frame_ancestors}",
            "Permissions-Policy": ", ".join(f"{name}=()" for name in DENIED),
            # Not "no-referrer": with it, browsers send "Origin: null" when a form is posted to this very server.
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        return [(name.lower().encode(), value.encode()) for name, value in values.items()]


class Front:
    """Reject other hosts and foreign origins, trust only named proxies, and add the security headers.

    A websocket, or a request with another method than GET, HEAD or OPTIONS, gets 403 if its Origin is not this server,
    nor, for the API, one of `Access.cors_origins`.
    Behind a trusted proxy, Host, scheme and client become those the proxy reports, so that no application needs to
    know about proxies.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._allowed = [_without_port(host.lower()) for host in access.allowed_hosts]
        self._headers = access.headers
        self._cors_origins = frozenset(access.cors_origins)
        self._root_path = access.root_path
        self._has_warned = False
        self._has_proxies = bool(access.trusted_proxies)
        self._proxied: Any = ProxyHeadersMiddleware(self._answer, list(access.trusted_proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif self._has_proxies and scope["client"] and scope["client"][0] in self._proxied.trusted_hosts:
            scope["headers"] = _from_last_proxy(scope["headers"])
            scope["root_path"] = _root_path(scope["headers"], self._root_path)
            await self._proxied(scope, receive, send)
        else:
            scope["root_path"] = self._root_path
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_root = _add_root(scope)
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

        if host and not is_host(host):  # from a proxy: `HttpProtocol` has checked what clients send
            error = ApiError(400, "bad_request", "The header X-Forwarded-Host is not a host name or an address.")
        elif not has_root:
            error = ApiError(400, "bad_request", f"The header X-Forwarded-Prefix is not {A_PATH}.")
        elif self._allowed and not self._is_allowed(host):
            error = ApiError(400, "unknown_host", "This server does not answer for the host in the Host header.")
        elif (
            origins
            and scope.get("method") not in SAFE_METHODS
            and (origins > 1 or not (is_own(origin, host) or self._is_cors(origin, scope)))
        ):
            error = ApiError(403, "foreign_origin", FOREIGN)
            if not self._has_warned:
                self._has_warned = True  # once: anybody can cause it
                log.warning(FOREIGN)
        elif not host and not path_of(scope).startswith(API):  # HTTP/1.0: a page has to know its address
            error = ApiError(400, "bad_request", NO_HOST)
        else:
            await self.app(scope, receive, with_headers)
            return
        if scope["type"] == "websocket":
            await refuse_websocket(receive, send)
        else:
            await refuse(error, receive, with_headers)

    def _is_cors(self, origin: bytes, scope: Scope) -> bool:
        if not self._cors_origins or scope["type"] != "http" or not path_of(scope).startswith(API):
            return False
        return "*" in self._cors_origins or origin.decode("latin-1") in self._cors_origins

    def _is_allowed(self, host: bytes) -> bool:
        name = _without_port(host.decode("latin-1").lower())
        return any(
            name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern for pattern in self._allowed
        )


def is_own(origin: bytes, host: bytes) -> bool:
    """Return whether an Origin header names the server in the Host header. The scheme may differ: a proxy adds TLS."""
    scheme, separator, site = origin.decode("latin-1").lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    if not separator or port is None:
        return False
    return bool(site) and site.removesuffix(port) == host.decode("latin-1").lower().removesuffix(port)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host if host.count(":") > 1 else host.partition(":")[0]  # an IPv6 address, as a user may write it


def _root_path(headers: Iterable[tuple[bytes, bytes]], default: str) -> str:
    """Return the last X-Forwarded-Prefix without a slash at its end, as it came; the default without one."""
    prefixes = [value.split(b",")[-1].strip() for name, value in headers if name == FORWARDED_PREFIX]
    return prefixes[-1].decode("latin-1").removesuffix("/") if prefixes else default


def _add_root(scope: Scope) -> bool:
    """Put the root path before the path, as ASGI has it, unless the proxy has left it there; False if it is none."""
    root: str = scope["root_path"]
    if root and not ROOT_PATH.fullmatch(root):
        return False
    if root and not (scope["path"].startswith(f"{root}/") and root.split("/")[1] not in OWN):
        scope["path"] = root + scope["path"]
        scope["raw_path"] = root.encode() + scope["raw_path"]
    return True


def _from_last_proxy(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Replace Host by X-Forwarded-Host, and reduce X-Forwarded-Proto to one value.

    If several proxies added a value, the last one counts: only that proxy is trusted.
    """
    pairs = list(headers)
    last = {name: value.split(b",")[-1].strip() for name, value in pairs if name in (FORWARDED_HOST, FORWARDED_PROTO)}
    replaced = {FORWARDED_PROTO: last.get(FORWARDED_PROTO)}
    if last.get(FORWARDED_HOST):
        replaced[b"host"] = last[FORWARDED_HOST]
    return [*((name, value) for name, value in replaced.items() if value), *(p for p in pairs if p[0] not in replaced)]
