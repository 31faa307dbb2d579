"""The gate in front of Gradio: it passes only requests that the page itself could have sent.

Gradio serves more than this page needs, and trusts requests more than a public server can: it fetches addresses and
reads files that a request names. Everything else is answered here.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import orjson
from gradio_client.utils import strip_invalid_filename_characters
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.api.middleware import SEGMENT, refuse_websocket
from inference.jobs import Busy, Lane
from ui.files import MAX_UPLOAD_MB, TemporaryFiles
from ui.waiting import BUSY, FairQueue

API = "/gradio_api"
MAX_QUESTION_BYTES = 500_000
MAX_READING_BYTES = 16_000_000  # of all questions being read at the same time
MAX_CHARS = 100_000  # of an argument: five times what the model takes, so that a long text gets a clear error
MAX_UPLOADS = 8
MAX_UPLOADS_PER_ADDRESS = 2  # of one address
MAX_UPLOAD_S = 30  # for a whole upload to arrive
RETRY = {"Retry-After": "5"}
SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")
SERVED = re.compile(
    rf"/(|config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static|svelte)(/{SEGMENT})+)"
)
SERVED_API = re.compile(rf"{API}/(info/?|startup-events|app_id|theme\.css|heartbeat/[A-Za-z0-9-]{{1,64}})")
CALL = re.compile(rf"{API}/call/(v2/)?([a-z_]{{1,64}})/?")
ANSWER = re.compile(rf"{API}/call/(?:v2/)?([a-z_]{{1,64}})/([a-z0-9]{{32}})")
NOT_FOUND = "Nothing exists at this address."
SEE = 'See "Use via API" at the foot of the page.'
MALFORMED = f"The request is not JSON of the form that this address accepts. {SEE}"
NO_ROOM = "The server has no room for more files. Try again in a minute."
UPLOADING = "Too many files are being uploaded. Try again in a few seconds."
NOT_ONE_FILE = f"An upload must be a form with one file of at most {MAX_UPLOAD_MB} MB in the field files."


class Refused(HTTPException):
    """The gate answers this request with an error."""


class PageGate:
    """ASGI middleware that passes what the page sends to Gradio, and what `gradio_client` sends to public endpoints.

    Arguments of a question are strings, numbers, booleans and null; a file must have been uploaded here, and only a
    file field accepts one.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, queue: FairQueue, files: TemporaryFiles) -> None:
        self.app = app
        self.queue = queue
        self.files = files
        functions = page.fns.values()
        self._inputs = {fn._id: fn.inputs for fn in functions if fn.fn is not None}  # others run in the browser
        described = page.get_api_info()["named_endpoints"]
        # Name -> the number of the function, and its parameters with their defaults.
        self._public = {
            str(fn.api_name): (fn._id, described[f"/{fn.api_name}"]["parameters"])
            for fn in functions
            if fn.api_visibility == "public"
        }
        self._reading = 0
        self._uploads = Lane(MAX_UPLOADS, MAX_UPLOADS_PER_ADDRESS, UPLOADING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await refuse_websocket(receive, send)
            return
        # Without an Origin Gradio adds no header that lets pages of other sites read its answers.
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"origin", b"range")]
        scope = {**scope, "headers": headers}
        try:
            await self._route(scope, receive, send)
        except Busy as busy:
            await JSONResponse({"detail": str(busy)}, 429 if busy.of_client else 503, RETRY)(scope, receive, send)
        except Refused as refused:
            answer = JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)
            await answer(scope, receive, send)
        except ClientDisconnect:
            pass  # there is nobody to answer

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope["method"]
        if method in ("GET", "HEAD"):
            await self._get(path, scope, receive, send)
        elif method != "POST":
            raise Refused(405, "This address accepts GET and POST.")
        elif path == f"{API}/upload":
            await self._upload(scope, receive, send)
        elif path == f"{API}/queue/join":
            await self._ask(scope, receive, send, self._joined)
        elif (called := CALL.fullmatch(path)) and called[2] in self._public:
            number, parameters = self._public[called[2]]
            checked = self._called_by_name if called[1] else self._called
            # Not to Gradio's route for arguments by name, which builds a description of the whole page per request.
            scope = _with_path(scope, f"{API}/call/{called[2]}")
            await self._ask(scope, receive, send, partial(checked, parameters, self._inputs[number]))
        elif path in (f"{API}/cancel", f"{API}/reset"):
            await self._ask(scope, receive, send, self._cancelled)
        else:
            raise Refused(404, f"{NOT_FOUND} Questions go to /predict, /compare and /explain. {SEE}")

    async def _get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == f"{API}/queue/data":
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
            await self._listen(session, scope, receive, send)
        elif answer := ANSWER.fullmatch(path):
            scope = _with_path(scope, f"{API}/call/{answer[1]}/{answer[2]}")
            await self._listen(self.queue.session_of(answer[2]), scope, receive, send)
        elif path.startswith(f"{API}/file="):
            file = self.files.find(path.removeprefix(f"{API}/file="))
            if file is None:
                raise Refused(404, "No such file, or it was deleted.")
            await FileResponse(file, media_type="application/octet-stream", filename=file.name)(scope, receive, send)
        elif path == f"{API}/upload_progress":
            # Gradio would keep a record of every upload that asks for progress, for ever if nobody reads it.
            await StreamingResponse(iter(['data: {"msg":"done"}\n\n']), media_type="text/event-stream")(
                scope, receive, send
            )
        elif SERVED.fullmatch(path) or SERVED_API.fullmatch(path):
            await self.app(scope, receive, send)
        else:
            raise Refused(404, NOT_FOUND)

    async def _listen(self, session: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a client read answers; the queue learns when it starts and stops listening."""
        if session is None or not self.queue.is_known(session):
            raise Refused(404, "No such question, or its answer was not fetched in time. Ask again.")
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
        """Pass on a question, rebuilt from the fields that were checked."""
        async with self._body(scope, receive) as body:
            try:
                fields = orjson.loads(bytes(body))
            except orjson.JSONDecodeError:
                raise Refused(400, MALFORMED) from None
        if not isinstance(fields, dict):
            raise Refused(400, MALFORMED)
        question = orjson.dumps(checked(fields))
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers["Content-Length"] = str(len(question))
        headers["Content-Type"] = "application/json"
        del headers["Transfer-Encoding"]
        pending: list[Message] = [{"type": "http.request", "body": question, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        async def with_wait(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                message["headers"] = [*message["headers"], (b"retry-after", RETRY["Retry-After"].encode())]
            await send(message)

        await self.app({**scope, "headers": headers.raw}, again, with_wait)

    @asynccontextmanager
    async def _body(self, scope: Scope, receive: Receive) -> AsyncIterator[bytearray]:
        """Read the body of a question, within the limits for one and for all that are being read."""
        body = bytearray()
        try:
            async for piece in Request(scope, receive).stream():
                body += piece
                self._reading += len(piece)
                if len(body) > MAX_QUESTION_BYTES:
                    raise Refused(413, f"A question has at most {MAX_QUESTION_BYTES:,} bytes.")
                if self._reading > MAX_READING_BYTES:
                    raise Refused(503, BUSY, RETRY)
            yield body
        finally:
            self._reading -= len(body)

    def _called(self, parameters: list[dict[str, Any]], inputs: list[Any], fields: dict[str, Any]) -> dict[str, Any]:
        """Check a question to a public endpoint with its arguments in order; the last ones may be left out."""
        session, data = fields.get("session_hash"), fields.get("data")
        if isinstance(data, list) and 0 < len(data) < len(parameters):
            rest = parameters[len(data) :]
            if all(parameter["parameter_has_default"] for parameter in rest):
                data = data + [parameter["parameter_default"] for parameter in rest]
        return {
            "data": self._arguments(inputs, data),
            "session_hash": None if session is None else _session(session),
        }

    def _called_by_name(
        self, parameters: list[dict[str, Any]], inputs: list[Any], fields: dict[str, Any]
    ) -> dict[str, Any]:
        """Check a question to a public endpoint with its arguments by name."""
        given = dict(fields)
        data = []
        for parameter in parameters:
            if parameter["parameter_name"] not in given and not parameter["parameter_has_default"]:
                raise Refused(400, f"The argument {parameter['parameter_name']} is missing.")
            data.append(given.pop(parameter["parameter_name"], parameter.get("parameter_default")))
        if given:
            names = ", ".join(parameter["parameter_name"] for parameter in parameters)
            raise Refused(400, f"Unknown argument. This endpoint accepts: {names}.")
        return {"data": self._arguments(inputs, data), "session_hash": None}

    def _joined(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Check a question from the page."""
        number, trigger = fields.get("fn_index"), fields.get("trigger_id")
        if isinstance(number, bool) or not isinstance(number, int):
            raise Refused(400, MALFORMED)
        if number not in self._inputs:
            raise Refused(404, "No such function.")
        return {
            "data": self._arguments(self._inputs[number], fields.get("data")),
            "fn_index": number,
            "session_hash": _session(fields.get("session_hash")),
            "trigger_id": trigger if isinstance(trigger, int) and abs(trigger) < 2**31 else None,
        }

    def _cancelled(self, fields: dict[str, Any]) -> dict[str, Any]:
        number, event = fields.get("fn_index"), fields.get("event_id")
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(event, str) or len(event) > 64:
            raise Refused(400, MALFORMED)
        return {"session_hash": _session(fields.get("session_hash")), "fn_index": number, "event_id": event}

    def _arguments(self, inputs: list[Any], data: Any) -> list[Any]:
        """Check that each argument is a value that its field on the page can hold."""
        if not isinstance(data, list):
            raise Refused(400, MALFORMED)
        if len(data) != len(inputs):
            raise Refused(400, f"Expected {len(inputs)} arguments; pass null for those you omit.")
        return [
            self._file(value) if isinstance(block, gr.File) else _checked(block, value)
            for block, value in zip(inputs, data, strict=True)
        ]

    def _file(self, value: Any) -> dict[str, Any] | None:
        """Return a reference to an upload, without anything that would make Gradio read elsewhere."""
        if value is None:
            return None
        path = value.get("path") if isinstance(value, dict) else None
        upload = self.files.find(path) if isinstance(path, str) else None
        if upload is None:
            raise Refused(400, "The file was not uploaded here, or was deleted. Upload it again.")
        return {"path": str(upload), "orig_name": upload.name, "meta": {"_type": "gradio.FileData"}}

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept one file. Gradio's own route accepts a thousand and keeps interrupted ones."""
        with self._uploads.place(scope["client"][0] if scope["client"] else ""):
            if not await asyncio.to_thread(self.files.make_room):
                raise Refused(503, NO_ROOM, RETRY)
            try:
                async with (
                    asyncio.timeout(MAX_UPLOAD_S),
                    Request(scope, receive).form(max_files=1, max_fields=1) as form,
                ):
                    file = form.get("files")
                    if not isinstance(file, UploadFile) or (file.size or 0) > MAX_UPLOAD_MB * 2**20:
                        raise Refused(413 if isinstance(file, UploadFile) else 400, NOT_ONE_FILE)
                    path = await asyncio.to_thread(self._keep, file)
            except TimeoutError:
                raise Refused(408, f"The upload did not arrive within {MAX_UPLOAD_S} s.") from None
            except Refused:
                raise
            except HTTPException:  # not a form, or an incomplete one
                raise Refused(400, NOT_ONE_FILE) from None
        await JSONResponse([str(path)])(scope, receive, send)

    def _keep(self, file: UploadFile) -> Path:
        name = strip_invalid_filename_characters(Path(file.filename or "").name.replace("\0", ""))[:200]
        folder = self.files.uploads / secrets.token_hex(16)
        folder.mkdir()
        path = folder / (name if name.strip(". ") else "file")
        path.write_bytes(file.file.read())
        return path


def _with_path(scope: Scope, path: str) -> Scope:
    """Return the same request with another path below the application's root."""
    whole = scope.get("root_path", "") + path
    return {**scope, "path": whole, "raw_path": whole.encode()}


def _checked(block: Any, value: Any) -> str | int | float | bool | None:
    """Return an argument if its field can hold it.

    In larger objects Gradio looks for files, addresses and components, and it logs a traceback for unexpected values.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not isinstance(value, str | int | float):
        raise Refused(400, "An argument must be a string, a number, true, false or null.")
    if isinstance(value, str) and len(value) > MAX_CHARS:
        raise Refused(400, f"A text has at most {MAX_CHARS:,} characters here.")
    if isinstance(block, gr.Slider) and not (is_number and block.minimum <= value <= block.maximum):
        raise Refused(400, f"This field requires a number from {block.minimum} to {block.maximum}.")
    if isinstance(block, gr.Number) and not (is_number or value is None):
        raise Refused(400, "This field requires a number.")
    if isinstance(block, gr.Checkbox) and not isinstance(value, bool):
        raise Refused(400, "This field requires true or false.")
    if isinstance(block, gr.Textbox) and not isinstance(value, str | None):
        raise Refused(400, "This field requires a string.")
    if isinstance(block, gr.Dataset) and not (is_number and value in range(len(block.raw_samples or block.samples))):
        raise Refused(400, "No such example.")
    if isinstance(block, gr.Radio | gr.Dropdown):
        is_free = isinstance(block, gr.Dropdown) and block.allow_custom_value
        if value not in (choice for _, choice in block.choices) and not (is_free and isinstance(value, str | None)):
            raise Refused(400, "This field has no such choice.")
    return value


def _session(value: Any) -> str:
    if not isinstance(value, str) or not SESSION.fullmatch(value):
        raise Refused(400, MALFORMED)
    return value
