"""Websockets of the dashboard: uvicorn's protocol with limits on what a client can make the server hold."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MESSAGE_BYTES = 1_000_000  # Streamlit sends the state of its widgets; files are uploaded over HTTP
MESSAGES = 1_000  # that wait for the application, and fragments of one message


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One websocket: binary messages only, bounded in number and fragments; no pongs to a client that does not read."""

    def handle_text(self, event: Any) -> None:
        self._fail("no text messages")  # Streamlit uses none, and would log a traceback

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= MESSAGES:
            self._fail("too many fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.queue.qsize() >= MESSAGES:
            self._fail("too many messages")
        else:
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))

    def _fail(self, reason: str) -> None:
        self.frames = []
        if not self.close_sent:
            self.conn.fail(1008, reason)
            self.handle_parser_exception()
