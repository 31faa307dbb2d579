"""The OpenAPI document of the API: every request, answer and status, with examples of the model that is served."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from inference.api import schemas
from inference.api.errors import JSON
from inference.api.service import Service
from inference.backends import runtime

MODELS: tuple[type[BaseModel], ...] = (
    schemas.PredictRequest,
    schemas.Results,
    schemas.OneResult,
    schemas.ExplainRequest,
    schemas.Explained,
    schemas.ModelInfo,
    schemas.Index,
    schemas.Live,
    schemas.Ready,
    schemas.Problem,
)
# Status -> when it comes, and the words that `error.code` may be.
ERRORS = {
    400: ("The body is no JSON.", "invalid_json"),
    401: ("No key, or a wrong one.", "no_key"),
    408: ("The body did not arrive in time.", "slow_body"),
    413: ("The body is too large.", "too_large"),
    415: ("The body is not said to be JSON, or is compressed.", "no_json, compressed"),
    422: (
        "The JSON is not what this address takes, or a text cannot be read.",
        "invalid_request, unknown_task, unknown_label, unknown_backend, unreadable_text, cannot_explain, "
        "method_unavailable",
    ),
    429: ("Too many texts wait. The header Retry-After says when to ask again.", "overloaded"),
    500: ("The model gave no usable numbers, or the server failed.", "model_error, internal"),
    503: (
        "No answer in time, no memory for one, a backend that cannot be opened, or a server that is being stopped.",
        "timed_out, overloaded, out_of_memory, backend_unavailable, model_changed, not_ready, stopping",
    ),
}
# Words that some addresses alone give; the rest may come from any that has the status.
ONLY = {
    **dict.fromkeys(("unknown_label", "cannot_explain", "method_unavailable"), ("explain",)),
    "unreadable_text": ("predict",),
    "not_ready": ("ready",),
    **dict.fromkeys(
        ("timed_out", "overloaded", "out_of_memory", "backend_unavailable", "model_changed"), ("predict", "explain")
    ),
    "model_error": ("predict", "explain"),
}
EXAMPLE = "what a lovely film"
NUMBERS = "Prometheus text format"


def describe(app: FastAPI, service: Service, keyed: bool, prefix: str) -> None:
    """Let `app` give this document for its own."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_about(service))
            made["paths"] = _paths(service, keyed, prefix)
            made["components"] = {"schemas": _schemas(service)}
            if keyed:
                made["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                made["security"] = [{"bearer": []}, {"header": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _about(service: Service) -> str:
    return (
        f"Text classification by {service.bundle.name}. Requests that wait are answered together; the order of texts "
        'is kept. Errors are `{"error": {"code", "message"}}` and never quote the request.'
    )


def _schemas(service: Service) -> dict[str, Any]:
    _, made = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = made["$defs"]
    asked = found["PredictRequest"]["properties"]
    asked["tasks"]["anyOf"][0]["items"] = {"type": "string", "enum": list(service.bundle.tasks)}
    asked["backend"]["anyOf"][0] = {"type": "string", "enum": service.backends}
    _describe_explain(found["ExplainRequest"], service)
    return found


def _describe_explain(asked: dict[str, Any], service: Service) -> None:
    """Which labels a task has, and what can be explained here."""
    fields, tasks = asked["properties"], service.bundle.tasks
    fields["backend"]["anyOf"][0] = {"type": "string", "enum": service.backends}
    fields["task"] = {"type": "string", "enum": list(tasks)}
    if not any(runtime(name) == "pytorch" for name in service.backends):
        fields["method"]["enum"] = ["occlusion"]
    if len(tasks) > 1:
        asked["required"].append("task")
    asked["anyOf"] = [
        {"properties": {"task": {"enum": [name]}, "label": {"enum": [*task.labels, None]}}}
        for name, task in tasks.items()
    ]


def _paths(service: Service, keyed: bool, prefix: str) -> dict[str, Any]:
    task, spec = next(iter(service.bundle.tasks.items()))
    label, shares = spec.labels[0], dict.fromkeys(spec.labels, 0.0) | {spec.labels[0]: 1.0}
    answer = {"label": label, "confidence": 1.0, "uncertain": False}
    result = {"predictions": {task: answer}, "truncated": False, "prediction": label, "confidence": 1.0}
    scored = result | {"predictions": {task: answer | {"probabilities": shares}}, "probabilities": shares}
    about = {"model": service.bundle.name, "backend": service.backends[0]}
    predict = _operation(
        "Label and confidence of each text, for each task",
        "predict",
        {"anyOf": [_ref("Results"), _ref("OneResult")]},
        (400, 408, 413, 415, 422, 429, 500, 503),
        {
            "texts": about | {"results": [result]},
            "text, with scores": about | scored,
        },
    )
    predict["requestBody"] = {
        "required": True,
        "content": {
            JSON: {
                "schema": _ref("PredictRequest"),
                "examples": {
                    "texts": {"value": {"texts": [EXAMPLE], "tasks": [task]}},
                    "text, with scores": {"value": {"text": EXAMPLE, "tasks": [task], "return_scores": True}},
                },
            }
        },
    }
    explain = _operation(
        "What each word does to a label", "explain", _ref("Explained"), (400, 408, 413, 415, 422, 429, 500, 503)
    )
    explain["requestBody"] = {
        "required": True,
        "content": {JSON: {"schema": _ref("ExplainRequest"), "example": {"text": EXAMPLE, "task": task}}},
    }
    found = {
        "/": {"get": _operation("What is where", "index", _ref("Index"), ())},
        "/predict": {"post": predict},
        "/explain": {"post": explain},
        "/model": {"get": _operation("What is served, and within which limits", "model", _ref("ModelInfo"), ())},
        "/live": {"get": _operation("The process answers", "live", _ref("Live"), (), {"live": {"status": "live"}})},
        "/ready": {"get": _operation("A text goes through the model now", "ready", _ref("Ready"), (503,))},
        "/metrics": {"get": _operation("Figures for Prometheus", "metrics", {"type": "string"}, (), kind="text/plain")},
    }
    for path, methods in found.items():
        for operation in methods.values():
            if path in ("/live", "/ready"):
                operation["security"] = []
            elif keyed:
                operation["responses"]["401"] = _error(401, operation["operationId"])
    return {f"{prefix}{path}": methods for path, methods in found.items()}


def _operation(
    summary: str,
    name: str,
    schema: dict[str, Any],
    statuses: tuple[int, ...],
    examples: dict[str, Any] | None = None,
    kind: str = JSON,
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if examples:
        content["examples"] = {title: {"value": value} for title, value in examples.items()}
    answers: dict[str, Any] = {"200": {"description": summary, "content": {kind: content}}}
    answers |= {str(status): _error(status, name) for status in sorted({*statuses, 413, 500})}
    return {"summary": summary, "operationId": name, "responses": answers}


def _error(status: int, operation: str) -> dict[str, Any]:
    when, every = ERRORS[status]
    words = [word for word in every.split(", ") if operation in ONLY.get(word, (operation,))]
    example = {"error": {"code": words[0], "message": when}}
    made: dict[str, Any] = {
        "description": f"{when} `error.code`: {', '.join(words)}.",
        "content": {JSON: {"schema": _ref("Problem"), "example": example}},
    }
    if status in (429, 503):
        made["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}, "required": False}}
    return made


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
