"""Which websockets reach Streamlit, and that it has no Origin left to judge, for which it would ask another machine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import streamlit as st
from asgi import Client

from dashboard.gate import NO_WEBSOCKET, DashboardGate
from dashboard.origin import OwnOrigin

HOST = (b"host", b"here.example:8501")


def reached(*headers: tuple[bytes, bytes], kind: str = "websocket") -> tuple[list[Any], list[Any]]:
    """The headers that Streamlit would see of each request, and what was answered before it."""
    seen: list[Any] = []
    sent: list[Any] = []

    async def streamlit(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(OwnOrigin(streamlit)({"type": kind, "headers": [*headers]}, None, send))  # type: ignore[arg-type]
    return seen, sent


def origin(value: str) -> tuple[bytes, bytes]:
    return b"origin", value.encode()


@pytest.mark.parametrize("headers", [[], [origin("http://here.example:8501")], [origin("https://here.example:8501")]])
def test_own_page_and_program_without_origin_get_through(headers: list[tuple[bytes, bytes]]) -> None:
    assert reached(HOST, *headers) == ([[HOST]], [])


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, origin("http://elsewhere.example")],
        [HOST, origin("http://here.example")],
        [HOST, origin("http://localhost:8501")],
        [HOST, origin("null")],
        [HOST, origin("")],
        [HOST, origin("http://[")],
        [HOST, origin("http://elsewhere.example/http://here.example:8501")],
        [HOST, origin("http://here.example:8501"), origin("http://elsewhere.example")],
        [HOST, (b"host", b"elsewhere.example"), origin("http://elsewhere.example")],
        [(b"host", b""), origin("null")],
        [origin("http://elsewhere.example")],
    ],
)
def test_other_origins_are_refused_before_streamlit(headers: list[tuple[bytes, bytes]]) -> None:
    assert reached(*headers) == ([], ["websocket.close"])


def test_origin_that_the_administrator_allows_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    # Behind a proxy that sends another Host, a page's own Origin is one that Streamlit has to be given.
    monkeypatch.setattr(st, "get_option", {"server.corsAllowedOrigins": ["https://public.example"]}.__getitem__)
    assert reached(HOST, origin("https://public.example")) == ([[HOST]], [])
    assert reached(HOST, origin("http://public.example")) == ([], ["websocket.close"])


def test_requests_that_are_no_websocket_are_left_as_they_are() -> None:
    headers = [HOST, origin("http://elsewhere.example")]
    assert reached(*headers, kind="http") == ([headers], [])


def test_stream_asked_for_without_a_websocket_says_what_a_proxy_does_not_pass_on() -> None:
    client = Client(DashboardGate(None, ["method"], False))  # type: ignore[arg-type]
    reply = client.get("/_stcore/stream")
    assert (reply.status, reply.headers["upgrade"], reply.json()["detail"]) == (426, "websocket", NO_WEBSOCKET)
    client.loop.close()
