"""Error responses of the API: an HTTP status, a fixed code for programs, and one line for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from inference.backends import OutOfMemory
from inference.errors import InferenceError

log = logging.getLogger(__name__)

MEMORY_RETRY_S = 5
JSON = "application/json"


class ApiError(InferenceError):
    """An error that is sent as the response. Its message never quotes the request."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def shutting_down() -> ApiError:
    """Return the error for requests to a server that is shutting down."""
    return ApiError(503, "stopping", "The server is shutting down. Try again in a moment.", 1)


def model_failure(error: BaseException) -> ApiError:
    """Log an error of the model, with its paths and numbers, and return one without them for the client."""
    log.error("The model failed.", exc_info=error)
    if not isinstance(error, InferenceError):
        return _internal()
    if isinstance(error, OutOfMemory):
        message = "Not enough memory for this request. Try again later, or with fewer and shorter texts."
        return ApiError(503, "out_of_memory", message, MEMORY_RETRY_S)
    message = "The model failed on a text: its output is NaN or infinite, or its files are damaged. See the server log."
    return ApiError(500, "model_error", message)


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as a response in the shape of `schemas.Problem`."""
    body = orjson.dumps({"error": {"code": error.code, "message": str(error)}})
    return Response(body, error.status, {**error.headers, **(headers or {})}, JSON)


def addresses(request: Request) -> list[str]:
    """Return the path of every endpoint, with the root path and the mount path."""
    return [request.scope.get("root_path", "") + path for path in request.app.state.addresses]


def add_handlers(app: FastAPI) -> None:
    """Make the application answer every error as a `Problem`."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, ApiError):
            return error_response(error)
        if not isinstance(error, HTTPException):
            return error_response(_internal())
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            return error_response(ApiError(405, "method_not_allowed", f"This path takes {allowed}."), error.headers)
        if error.status_code == 404:
            message = f"No such path. Available: {', '.join(addresses(request))}."
            return error_response(ApiError(404, "not_found", message), error.headers)
        return error_response(ApiError(error.status_code, "refused", "The request cannot be answered."), error.headers)

    kinds: tuple[Any, ...] = (ApiError, HTTPException, Exception)  # the last goes on to the server, which logs it
    for kind in kinds:
        app.add_exception_handler(kind, handle)


def _internal() -> ApiError:
    return ApiError(500, "internal", "The server failed to process this request. See its log.")
