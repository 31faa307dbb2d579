"""The OpenAPI document of the API: requests, responses and errors, with examples for the served model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from inference.api import schemas
from inference.api.errors import JSON
from inference.api.service import Service
from inference.backends import RUNTIMES

HEALTH = ("/live", "/ready")
"""Paths that need no API key."""
MODELS: tuple[type[BaseModel], ...] = (
    *(schemas.PredictRequest, schemas.Results, schemas.OneResult),
    *(schemas.ExplainRequest, schemas.Explained),
    *(schemas.ModelInfo, schemas.Index, schemas.Live, schemas.Ready, schemas.Problem),
)
# Status -> the reason, and the values of `error.code`.
ERRORS = {
    400: ("The body is not valid JSON, or not the gzip that it claims to be.", "invalid_json, invalid_gzip"),
    401: ("The API key is missing or wrong.", "no_key"),
    408: ("The body did not arrive in time.", "slow_body"),
    413: ("The body is too large.", "too_large"),
    415: ("The Content-Type is not JSON, or the Content-Encoding is not gzip.", "no_json, compressed"),
    422: (
        "The JSON does not match the schema, or a text is unreadable.",
        "invalid_request, unknown_task, unknown_label, unknown_backend, unreadable_text, cannot_explain, "
        "method_unavailable",
    ),
    429: ("Too many texts are waiting. Retry-After says when to try again.", "overloaded"),
    500: ("The output of the model is not usable, or the server failed.", "model_error, internal"),
    503: (
        "No answer in time, not enough memory, a runtime that cannot be opened, or a server that is shutting down.",
        "timed_out, overloaded, out_of_memory, backend_unavailable, model_changed, not_ready, stopping",
    ),
}
# Codes that only some operations return.
ONLY = {
    **dict.fromkeys(("unknown_label", "cannot_explain", "method_unavailable"), ("explain",)),
    "unreadable_text": ("predict",),
    "not_ready": ("ready",),
    **dict.fromkeys(
        ("timed_out", "overloaded", "out_of_memory", "backend_unavailable", "model_changed", "model_error"),
        ("predict", "explain"),
    ),
}
TEXT, PAIR = "a text", ["a text", "another text"]  # of a model without examples


def add_openapi(app: FastAPI, service: Service, has_key: bool, prefix: str) -> None:
    """Make the application serve this document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = {
                "openapi": app.openapi_version,
                "info": {
                    "title": app.title,
                    "version": app.version,
                    "description": f"Text classification with the model {service.bundle.name}. Waiting requests "
                    "are answered in batches; the order of texts is kept. Bodies may be compressed with "
                    "Content-Encoding: gzip. "
                    'Errors are `{"error": {"code", "message"}}` and never '
                    "quote the request.",
                },
                "paths": _paths(service, has_key, prefix),
                "components": {"schemas": _schemas(service)},
            }
            if has_key:
                app.openapi_schema["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                app.openapi_schema["security"] = [{"bearer": []}, {"header": []}]
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas(service: Service) -> dict[str, Any]:
    """Return the schemas, with the tasks, labels, runtimes and methods of this server."""
    _, document = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    components: dict[str, Any] = document["$defs"]
    tasks = service.bundle.tasks
    predict, explain = (components[name]["properties"] for name in ("PredictRequest", "ExplainRequest"))
    predict["tasks"]["anyOf"][0]["items"] = explain["task"] = {"type": "string", "enum": list(tasks)}
    for fields in (predict, explain):
        fields["backend"]["anyOf"][0] = {"type": "string", "enum": service.backends}
    if not any(name in RUNTIMES and RUNTIMES[name].has_gradients for name in service.backends):
        explain["method"]["enum"] = ["occlusion"]
    if len(tasks) > 1:
        components["ExplainRequest"]["required"].append("task")
    _describe_texts(predict, explain, service.bundle.pairs)
    components["ExplainRequest"]["anyOf"] = [
        {"properties": {"task": {"enum": [name]}, "label": {"enum": [*task.labels, None]}}}
        for name, task in tasks.items()
    ]
    return components


def _describe_texts(predict: dict[str, Any], explain: dict[str, Any], pairs: bool) -> None:
    """Say whether the texts of requests are strings or pairs: pydantic's schemas allow both, and mixed lists."""
    single, pair = predict["text"].pop("oneOf")
    explain["text"].pop("oneOf")
    item = predict["texts"].pop("items")
    item.pop("oneOf")
    for fields in (predict, explain):
        fields["text"] |= {"anyOf": [single, pair]} if pairs else single
    lists = [{"type": "array", "items": kind} for kind in (single, pair)]
    predict["texts"] |= {"anyOf": lists} if pairs else lists[0]


def _paths(service: Service, has_key: bool, prefix: str) -> dict[str, Any]:
    task, spec = next(iter(service.bundle.tasks.items()))
    label, scores = spec.labels[0], dict.fromkeys(spec.labels, 0.0) | {spec.labels[0]: 1.0}
    answer = {"label": label, "confidence": 1.0, "uncertain": False}
    result = {
        "predictions": {task: answer},
        "truncated": False,
        "unknown": False,
        "unpaired": False,
        "prediction": label,
        "confidence": 1.0,
    }
    with_scores = result | {"predictions": {task: answer | {"probabilities": scores}}, "probabilities": scores}
    about = {"model": service.bundle.name, "backend": service.backends[0]}
    example: Any = PAIR if service.bundle.pairs else TEXT
    if service.bundle.examples:
        text = service.bundle.examples[0].text
        example = text if isinstance(text, str) else list(text)
    requests = {
        "texts": {"texts": [example], "tasks": [task]},
        "text, with scores": {"text": example, "tasks": [task], "return_scores": True},
    }
    operations = {
        "/": _operation("index", "List the endpoints", _json("Index")),
        "/predict": _operation(
            "predict",
            "Predict label and confidence of each text for each task",
            {
                "schema": {"anyOf": [_ref("Results"), _ref("OneResult")]},
                "examples": _examples(
                    {"texts": about | {"results": [result]}, "text, with scores": about | with_scores}
                ),
            },
            body=_json("PredictRequest") | {"examples": _examples(requests)},
        ),
        "/explain": _operation(
            "explain",
            "Show what each word adds to a label",
            _json("Explained"),
            body=_json("ExplainRequest") | {"example": {"text": example, "task": task}},
        ),
        "/model": _operation("model", "Describe the model and the limits", _json("ModelInfo")),
        "/live": _operation("live", "Check that the process responds", _json("Live")),
        "/ready": _operation("ready", "Check that the model answers a text", _json("Ready"), extra=(503,)),
        "/metrics": _operation("metrics", "Metrics for Prometheus", {"schema": {"type": "string"}}, kind="text/plain"),
    }
    for path, operation in operations.items():
        if path in HEALTH:
            operation["security"] = []
        elif has_key:
            operation["responses"]["401"] = _error(401, operation["operationId"])
    return {
        f"{prefix}{path}": {"post" if "requestBody" in operation else "get": operation}
        for path, operation in operations.items()
    }


def _operation(
    name: str,
    summary: str,
    content: dict[str, Any],
    body: dict[str, Any] | None = None,
    extra: tuple[int, ...] = (),
    kind: str = JSON,
) -> dict[str, Any]:
    statuses = (400, 408, 413, 415, 422, 429, 500, 503) if body else (413, 500, *extra)
    responses: dict[str, Any] = {"200": {"description": summary, "content": {kind: content}}}
    responses |= {str(status): _error(status, name) for status in statuses}
    operation = {"summary": summary, "operationId": name, "responses": responses}
    return operation | ({"requestBody": {"required": True, "content": {JSON: body}}} if body else {})


def _error(status: int, operation: str) -> dict[str, Any]:
    reason, listed = ERRORS[status]
    codes = [code for code in listed.split(", ") if operation in ONLY.get(code, (operation,))]
    example = {"error": {"code": codes[0], "message": reason}}
    response: dict[str, Any] = {
        "description": f"{reason} `error.code`: {', '.join(codes)}.",
        "content": {JSON: _json("Problem") | {"example": example}},
    }
    if status in (429, 503):
        header = {"description": "seconds", "schema": {"type": "integer"}, "required": False}
        response["headers"] = {"Retry-After": header}
    return response


def _examples(values: dict[str, Any]) -> dict[str, Any]:
    return {title: {"value": value} for title, value in values.items()}


def _json(name: str) -> dict[str, Any]:
    return {"schema": _ref(name)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
