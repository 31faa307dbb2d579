"""What the API answers where it has no answer: a status, a fixed word for programs, one line for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from inference.backends import OutOfMemory
from inference.errors import InferenceError

log = logging.getLogger(__name__)

MEMORY_AGAIN_S = 5
JSON = "application/json"
# HTTP status -> the word for it, where the server itself refuses a request.
CODES = {404: "not_found", 405: "method_not_allowed"}


class ApiError(InferenceError):
    """A request that gets an error for an answer. Its message never quotes the request."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def internal() -> ApiError:
    """What a caller is told of a failure that is none of its own."""
    return ApiError(500, "internal", "The server failed at this request; its log says why.")


def failure(error: BaseException) -> ApiError:
    """What a caller is told of what went wrong in the model; the whole of it goes to the log, paths and numbers too."""
    log.error("The model failed.", exc_info=error)
    if not isinstance(error, InferenceError):
        return internal()
    if isinstance(error, OutOfMemory):
        message = "There is no memory for this request now. Ask again later, or with fewer and shorter texts."
        return ApiError(503, "out_of_memory", message, MEMORY_AGAIN_S)
    return ApiError(
        500,
        "model_error",
        "The model gave no answer to a text: its numbers are NaN or infinite, or its files are damaged. The server's "
        "log says more.",
    )


def problem(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The response that says so."""
    body = orjson.dumps({"error": {"code": error.code, "message": str(error)}})
    return Response(body, error.status, {**error.headers, **(headers or {})}, JSON)


def addresses(request: Request) -> list[str]:
    """All there are, with the path that the application is mounted at. A proxy that adds one of its own is not seen."""
    return [request.scope.get("root_path", "") + path for path in request.app.state.addresses]


def install(app: FastAPI) -> None:
    """Let every error of this application be answered as a `Problem`."""

    async def refused(request: Request, error: Exception) -> Response:
        return problem(error) if isinstance(error, ApiError) else problem(internal())

    async def by_server(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return problem(internal())
        known = ", ".join(addresses(request))
        message = {
            404: f"There is nothing at this address. There are: {known}.",
            405: f"This address takes {(error.headers or {}).get('Allow', 'another method')}.",
        }.get(error.status_code, "The request cannot be answered.")
        return problem(ApiError(error.status_code, CODES.get(error.status_code, "refused"), message), error.headers)

    async def malformed(request: Request, error: Exception) -> Response:
        return problem(ApiError(422, "invalid_request", "The request is not what this address takes."))

    handlers: dict[Any, Any] = {
        ApiError: refused,
        HTTPException: by_server,
        RequestValidationError: malformed,
        Exception: refused,  # and it goes on to the server, which logs it
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
