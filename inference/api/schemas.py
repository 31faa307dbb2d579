"""The schemas of requests and responses. Requests are validated with them; responses match them and are documented.

Error messages never quote the request: `parse` says where something is wrong and what would be right.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from inference.api.errors import ApiError
from inference.calls.texts import MAX_CHARS

MAX_TEXTS = 512

# Blank texts are refused here; whether a tokenizer finds nothing in another text, only `Classifier` knows. These are
# Python's white-space characters, written out because \s differs between languages.
BLANK = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
Single = Annotated[str, Field(min_length=1, max_length=MAX_CHARS, pattern=f"[^{BLANK}]")]
# The tags keep an error to the alternative that was meant: pydantic would report both.
Text = Annotated[
    Annotated[Single, Tag("text")] | Annotated[tuple[Single, Single], Tag("pair")],
    Discriminator(lambda value: "pair" if isinstance(value, list | tuple) else "text"),
]
Name = Annotated[str, Field(max_length=200)]
Runtime = Annotated[Name | None, Field(description="the runtime; default: the server's first")]
Scores = Annotated[dict[str, float], Field(description="by label; with return_scores")]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _closed(schema: dict[str, Any]) -> None:
    """Document that other fields are refused. `_check_names` does it: pydantic would collect an error for each."""
    schema["additionalProperties"] = False


def _either(schema: dict[str, Any]) -> None:
    """Document that either `texts` or `text` is required, which pydantic cannot express."""
    _closed(schema)
    schema["oneOf"] = [{"required": ["texts"]}, {"required": ["text"]}]
    for name in ("texts", "text"):
        schema["properties"][name].pop("default")


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, json_schema_extra=_closed)


class PredictRequest(_Request):
    """Texts to classify: either `texts` or `text`. A pair of texts is an array of two, for a model that takes pairs."""

    model_config = ConfigDict(json_schema_extra=_either)

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS, description="answered in order")] = []
    text: Annotated[Text, Field(description="one text instead of `texts`; the response is then one result")] = ""
    tasks: Annotated[
        list[Name] | None, Field(min_length=1, max_length=64, description="tasks to answer; default: all")
    ] = None
    return_scores: Annotated[bool | None, Field(description="add the probability of every label")] = False
    threshold: Annotated[
        Probability | None, Field(description="answers with a lower confidence are uncertain; default: each task's own")
    ] = None
    backend: Runtime = None

    @model_validator(mode="after")
    def _one_of_two(self) -> PredictRequest:
        if ("texts" in self.model_fields_set) == self.is_single:
            raise ValueError("pass either texts (a list) or text (a single one)")
        if len({isinstance(text, tuple) for text in self.texts}) > 1:
            raise ValueError("texts has single texts and pairs; pass a list of either kind")
        return self

    @property
    def is_single(self) -> bool:
        """Whether the request has `text`."""
        return "text" in self.model_fields_set


class ExplainRequest(_Request):
    """One text, and the answer to explain."""

    text: Text
    task: Annotated[Name | None, Field(description="required if the model has several")] = None
    label: Annotated[Name | None, Field(description="the label to explain; default: the predicted one")] = None
    method: Annotated[Literal["occlusion", "integrated_gradients"], Field(description="the method")] = "occlusion"
    backend: Runtime = None


class Predicted(BaseModel):
    """One task's answer to one text."""

    label: str
    confidence: Probability
    uncertain: Annotated[bool, Field(description="the confidence is below the threshold")]
    probabilities: Scores = {}


class Result(BaseModel):
    """The answers to one text. With one task also `prediction`, `confidence` and `probabilities`."""

    predictions: Annotated[dict[str, Predicted], Field(description="by task")]
    truncated: Annotated[bool, Field(description="the text is longer than the model reads; the rest was ignored")]
    unknown: Annotated[bool, Field(description="no word is in the model's vocabulary: the answer is meaningless")]
    unpaired: Annotated[bool, Field(description="a single text, and the model was trained on pairs")]
    prediction: Annotated[str, Field(description="the predicted label")] = ""
    confidence: Annotated[Probability, Field(description="of that label")] = 0
    probabilities: Scores = {}


class Results(BaseModel):
    """The response to `texts`."""

    model: str
    backend: str
    results: Annotated[list[Result], Field(description="one per text, in the same order")]


class OneResult(Result):
    """The response to `text`."""

    model: str
    backend: str


class WordAttribution(BaseModel):
    """One word, or several adjacent words treated as one."""

    text: str
    start: Annotated[int, Field(description="position in the text, in characters")]
    end: int
    attribution: Annotated[float | None, Field(description="what it adds to the log-odds; null if time ran out")]
    without: Annotated[float | None, Field(description="the label's probability without it; occlusion only")]
    unknown: Annotated[bool, Field(description="not in the model's vocabulary: all such words look the same to it")]
    in_text: Annotated[int, Field(description="1 for a word of the second text of a pair, else 0")]


class Explained(BaseModel):
    """Why the text gets the label. `notes` are caveats."""

    text: str
    task: str
    label: Annotated[str, Field(description="the label that is explained")]
    predicted: Annotated[str, Field(description="the label that the model predicts")]
    score: Annotated[Probability, Field(description="probability of `label`")]
    log_odds: Annotated[float, Field(description="of `label`: ln(p / (1 - p))")]
    backend: str
    method: str
    words: Annotated[list[WordAttribution], Field(description="in the order of the text")]
    read: Annotated[list[int], Field(description="start and end of the part of the text that the model read")]
    truncated: bool
    grouped: Annotated[int, Field(description="the largest number of words treated as one")]
    baseline_log_odds: Annotated[float | None, Field(description="integrated gradients only, like the next three")]
    convergence_delta: float | None
    n_steps: int | None
    converged: bool | None
    seconds: float
    second_text: Annotated[str | None, Field(description="of a pair")]
    second_read: Annotated[list[int] | None, Field(description="as `read`, of the second text")]
    unpaired: bool
    notes: list[str]


class TaskInfo(BaseModel):
    """The labels of a task and how they are decided."""

    labels: list[str]
    problem_type: str
    threshold: Annotated[float | None, Field(description="answers with a lower confidence are uncertain")]


class LimitsInfo(BaseModel):
    """The limits of one request, and of all that wait."""

    texts: int
    characters: Annotated[int, Field(description="of one text")]
    body_bytes: int
    waiting_texts: Annotated[int, Field(description="of all requests together; beyond it 429")]
    timeout_s: float


class ModelInfo(BaseModel):
    """The model and the limits of the server."""

    name: str
    backends: Annotated[list[str], Field(description="the first answers requests that name none")]
    tasks: dict[str, TaskInfo]
    pairs: Annotated[bool, Field(description="the model takes pairs of texts")]
    max_tokens: Annotated[int, Field(description="longer texts are truncated")]
    limits: LimitsInfo
    version: Annotated[str, Field(description="of Triptych")]


class Index(BaseModel):
    """The endpoints."""

    model: str
    addresses: list[str]


class Live(BaseModel):
    """The process responds."""

    status: Literal["live"]


class Ready(BaseModel):
    """The model has just answered a text."""

    status: Literal["ready"]
    backend: str
    answered_ms: Annotated[float, Field(description="for one short text, including its wait in the queue")]


class ErrorBody(BaseModel):
    """Code and message of an error."""

    code: Annotated[str, Field(description="a fixed identifier for programs")]
    message: Annotated[str, Field(description="one line for people; never quotes the request")]


class Problem(BaseModel):
    """Every error response."""

    error: ErrorBody


R = TypeVar("R", bound=_Request)


def parse(kind: type[R], body: bytes) -> R:
    """Return the request in a JSON body, with or without a byte order mark.

    Raises:
        ApiError: 400 if the body is not JSON, 422 if it does not match the schema.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(kind, body, error) from None
    _check_names(kind, body)
    return request


def _api_error(kind: type[_Request], body: bytes, error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")  # what was expected, and the column
        return ApiError(400, "invalid_json", f"The body is not JSON in UTF-8: {reason}.")
    names = (key for number, key in enumerate(first["loc"]) if number == 0 or key not in ("text", "pair"))  # no tags
    place = "".join(f"[{key}]" if isinstance(key, int) else str(key) for key in names) or "The request"
    if first["type"] in ("string_pattern_mismatch", "string_too_short"):
        reason = "is empty: give it at least one word"
    elif first["type"] == "missing" and isinstance(first["loc"][-1], int):
        reason = "is missing: a pair has two texts"
    elif first["type"] == "too_long" and "pair" in first["loc"][1:]:
        reason = "has more than two texts: a pair has two"
    elif first["type"] == "value_error":
        _check_names(kind, body)  # a misspelt name is the likely reason
        reason = f"is invalid: {first['msg'].removeprefix('Value error, ')}"
    else:
        # "Input should be a valid string", "List should have at most 512 items after validation, not 513"
        reason = re.sub(r"^\w+ should", "should", first["msg"].partition(" after validation")[0])
    return ApiError(422, "invalid_request", f"{place} {reason}.")


def _check_names(kind: type[_Request], body: bytes) -> None:
    """Refuse a JSON object with an unknown or a repeated field.

    Parsers differ in which of two values they use, so a proxy may have checked the other one.
    """
    has_repeats = False

    def names_of(pairs: list[tuple[str, Any]]) -> set[str]:
        nonlocal has_repeats
        names = {name for name, _ in pairs}
        has_repeats = has_repeats or len(names) < len(pairs)
        return names

    names: set[str] = json.loads(body, object_pairs_hook=names_of)  # of the outermost object
    if not names <= kind.model_fields.keys():
        raise ApiError(422, "invalid_request", f"Unknown field in the request. Known: {', '.join(kind.model_fields)}.")
    if has_repeats:
        raise ApiError(422, "invalid_request", "The request repeats a field.")
