"""What stands before Gradio and Streamlit: the routes that the two pages use, and requests of the shape they send.

Both libraries serve more than these pages need, and trust what they are sent further than a public server can: they
fetch addresses and read files that a request names. So a request gets through if the page itself could have sent it,
and anything else is answered here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import orjson
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.files import TemporaryFiles
from ui.waiting import FairQueue

API = "/gradio_api"
QUESTION_BYTES = 2_000_000
UPLOADS_AT_ONCE = 8
AGAIN_S = 5
PLAIN = r"(?!\.\.?(?:/|$))[A-Za-z0-9._@+~-]{1,128}"  # one step of a path, and neither "." nor ".."
SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")
SERVED = re.compile(rf"/(|config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static|svelte)(/{PLAIN})+)")
SERVED_API = re.compile(rf"{API}/(info/?|startup-events|app_id|theme\.css|heartbeat/[A-Za-z0-9-]{{1,64}})")
CALL = re.compile(rf"{API}/call/([a-z_]{{1,64}})/?")
ANSWER = re.compile(rf"{API}/call/[a-z_]{{1,64}}/([a-z0-9]{{32}})")
NOT_FOUND = "There is nothing at this address."
MALFORMED = "The request is not the JSON that this address takes. See ?view=api."
NO_ROOM = "The server has no room for more files now. Try again in a few minutes."

Handler = Callable[[Request], Awaitable[Response | None]]


class Refused(Exception):
    """A request that is answered here and not by the page."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def response(self) -> Response:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse({"detail": str(self)}, self.status, headers)


class PageGate:
    """Lets through to Gradio what the page sends, and `gradio_client` for the public endpoints.

    The arguments of a question are strings, numbers, booleans and null; a file is one that was uploaded here, and only
    where the page has a field for files.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, queue: FairQueue, files: TemporaryFiles) -> None:
        self.app = app
        self.queue = queue
        self.files = files
        functions = page.fns.values()
        self._public = {fn.api_name: len(fn.inputs) for fn in functions if fn.api_visibility == "public"}
        # Number of a function -> for each of its arguments whether it is a file.
        self._arguments = {fn._id: [isinstance(block, gr.File) for block in fn.inputs] for fn in functions}
        self._uploading = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        # Without an Origin Gradio adds no header that lets pages of other sites read its answers.
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"origin", b"range")]
        scope = {**scope, "headers": headers}
        try:
            await self._route(scope, receive, send)
        except Refused as refused:
            await refused.response(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is left to be answered

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope["method"]
        if method in ("GET", "HEAD"):
            await self._get(path, scope, receive, send)
        elif method != "POST":
            raise Refused(405, "This address takes GET or POST.")
        elif path == f"{API}/upload":
            await self._upload(scope, receive, send)
        elif path == f"{API}/queue/join":
            await self._ask(scope, receive, send, self._joined)
        elif (called := CALL.fullmatch(path)) and called[1] in self._public:
            await self._ask(scope, receive, send, partial(self._called, self._public[called[1]]))
        elif path in (f"{API}/cancel", f"{API}/reset"):
            await self._ask(scope, receive, send, self._cancelled)
        else:
            raise Refused(404, f"{NOT_FOUND} Questions go to /predict, /compare and /explain: see ?view=api.")

    async def _get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == f"{API}/queue/data":
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
            await self._listen(session, scope, receive, send)
        elif answer := ANSWER.fullmatch(path):
            await self._listen(self.queue.session_of(answer[1]), scope, receive, send)
        elif path.startswith(f"{API}/file="):
            found = self.files.find(path.removeprefix(f"{API}/file="))
            if found is None:
                raise Refused(404, "There is no such file, or it was deleted.")
            await FileResponse(found, media_type="application/octet-stream", filename=found.name)(scope, receive, send)
        elif path == f"{API}/upload_progress":
            # Gradio keeps a note of every upload that names one, for ever if nobody reads it. 5 MB need no progress.
            await StreamingResponse(iter(['data: {"msg":"done"}\n\n']), media_type="text/event-stream")(
                scope, receive, send
            )
        elif SERVED.fullmatch(path) or SERVED_API.fullmatch(path):
            await self.app(scope, receive, send)
        else:
            raise Refused(404, NOT_FOUND)

    async def _listen(self, session: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a client read answers, and tell the queue that and for how long somebody does."""
        if session is None or not self.queue.is_known(session):
            raise Refused(404, "There is no such question, or nobody fetched its answer in time. Ask again.")
        is_gone = True

        async def watched(message: Message) -> None:
            nonlocal is_gone
            await send(message)
            is_gone = bool(message.get("more_body", message["type"] == "http.response.start"))

        self.queue.start_listening(session)
        try:
            await self.app(scope, receive, watched)
        finally:
            self.queue.stop_listening(session, is_gone)

    async def _ask(
        self, scope: Scope, receive: Receive, send: Send, checked: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        """Hand over a question, written anew from those of its fields that are what they should be."""
        body = bytearray()
        async for piece in Request(scope, receive).stream():
            body += piece
            if len(body) > QUESTION_BYTES:
                raise Refused(413, f"A question has at most {QUESTION_BYTES:,} bytes.")
        try:
            fields = orjson.loads(bytes(body))
        except orjson.JSONDecodeError:
            raise Refused(400, MALFORMED) from None
        if not isinstance(fields, dict):
            raise Refused(400, MALFORMED)
        body = bytearray(orjson.dumps(checked(fields)))
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers["Content-Length"] = str(len(body))
        headers["Content-Type"] = "application/json"
        del headers["Transfer-Encoding"]
        pending: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        async def with_wait(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                message["headers"] = [*message["headers"], (b"retry-after", str(AGAIN_S).encode())]
            await send(message)

        await self.app({**scope, "headers": headers.raw}, again, with_wait)

    def _called(self, count: int, fields: dict[str, Any]) -> dict[str, Any]:
        data = fields.get("data")
        if not isinstance(data, list):
            raise Refused(400, MALFORMED)
        if len(data) != count:
            raise Refused(400, f"This endpoint takes {count} arguments: give null for one that you leave out.")
        session = fields.get("session_hash")
        return {
            "data": [_plain(value) for value in data],
            "session_hash": None if session is None else _session(session),
        }

    def _joined(self, fields: dict[str, Any]) -> dict[str, Any]:
        number, data = fields.get("fn_index"), fields.get("data")
        if not isinstance(data, list) or isinstance(number, bool) or not isinstance(number, int):
            raise Refused(400, MALFORMED)
        if number not in self._arguments:
            raise Refused(404, "There is no such function.")
        are_files = self._arguments[number]
        if len(data) != len(are_files):
            raise Refused(400, MALFORMED)
        trigger = fields.get("trigger_id")
        return {
            "data": [
                self._file(value) if is_file else _plain(value) for value, is_file in zip(data, are_files, strict=True)
            ],
            "fn_index": number,
            "session_hash": _session(fields.get("session_hash")),
            "trigger_id": trigger if isinstance(trigger, int) and abs(trigger) < 2**31 else None,
        }

    def _cancelled(self, fields: dict[str, Any]) -> dict[str, Any]:
        number, event = fields.get("fn_index"), fields.get("event_id")
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(event, str) or len(event) > 64:
            raise Refused(400, MALFORMED)
        return {"session_hash": _session(fields.get("session_hash")), "fn_index": number, "event_id": event}

    def _file(self, value: Any) -> dict[str, Any] | None:
        """A file that was uploaded here, with nothing that leads Gradio anywhere else."""
        if value is None:
            return None
        path = value.get("path") if isinstance(value, dict) else None
        found = self.files.find(path) if isinstance(path, str) else None
        if found is None:
            raise Refused(400, "The file was not uploaded here, or was deleted. Upload it again.")
        return {"path": str(found), "orig_name": found.name, "meta": {"_type": "gradio.FileData"}}

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._uploading.locked() or not await asyncio.to_thread(self.files.has_room):
            raise Refused(503, NO_ROOM, AGAIN_S)

        async def without_failure(message: Message) -> None:
            # Gradio fails at a form without a file; its own answer to that is 500.
            if message["type"] == "http.response.start" and message["status"] == 500:
                raise Refused(400, "The upload is not a form with one file.")
            await send(message)

        async with self._uploading:
            await self.app({**scope, "query_string": b""}, receive, without_failure)


class DashboardGate:
    """Lets through to Streamlit what the dashboard sends.

    Args:
        pages: the names of its pages in addresses, beside the first, which has none.
    """

    def __init__(self, app: ASGIApp, pages: Iterable[str]) -> None:
        self.app = app
        id_ = r"[A-Za-z0-9-]{1,64}"
        self._get = re.compile(
            rf"/(|favicon\.(png|ico)|{'|'.join(map(re.escape, pages))}|_stcore/(health|host-config)|media/{PLAIN}"
            rf"|static(/{PLAIN})+)"
        )
        self._upload = re.compile(rf"/_stcore/upload_file/{id_}/{id_}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._lets_through(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await Refused(404, NOT_FOUND).response(scope, receive, send)

    def _lets_through(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] == "websocket":
            return bool(path == "/_stcore/stream")
        if scope["method"] in ("GET", "HEAD"):
            return self._get.fullmatch(path) is not None
        return scope["method"] in ("PUT", "DELETE") and self._upload.fullmatch(path) is not None


def _plain(value: Any) -> str | int | float | bool | None:
    """An argument that is no file: Gradio reads files, addresses and components out of anything larger."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise Refused(400, "An argument is a string, a number, true, false or null.")


def _session(value: Any) -> str:
    if not isinstance(value, str) or not SESSION.fullmatch(value):
        raise Refused(400, MALFORMED)
    return value
