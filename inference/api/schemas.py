"""What requests and answers look like. Requests are validated by these; answers are written to match, and documented.

No string of a caller's gets into a message: `parse` says where something is wrong and what would be right.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference.api.errors import ApiError
from inference.classifier import MAX_CHARS

MAX_TEXTS = 512

# What no tokenizer takes is refused here; which other texts it reads nothing of, only `Classifier` can say. These are
# the letters that Python calls white space, written out: \s is another set in each language's regular expressions.
BLANK = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARS, pattern=f"[^{BLANK}]")]
Name = Annotated[str, Field(max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _closed(schema: dict[str, Any]) -> None:
    """No field but these: `_check_names` sees to it, as pydantic keeps an error, and the value, for every other one."""
    schema["additionalProperties"] = False


def _either(schema: dict[str, Any]) -> None:
    """One of `texts` and `text`, which pydantic has no words for."""
    _closed(schema)
    schema["oneOf"] = [{"required": ["texts"]}, {"required": ["text"]}]
    for name in ("texts", "text"):
        schema["properties"][name].pop("default")


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True, json_schema_extra=_closed)


class PredictRequest(_Request):
    """Texts to classify: either `texts` or `text`."""

    model_config = ConfigDict(json_schema_extra=_either)

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS, description="answered in their order")] = []
    text: Annotated[Text, Field(description="one text, in place of `texts`; the answer is then one result")] = ""
    tasks: Annotated[
        list[Name] | None, Field(min_length=1, max_length=64, description="those to answer; all if left out")
    ] = None
    return_scores: Annotated[bool | None, Field(description="add the probability of every label")] = False
    threshold: Annotated[
        Probability | None, Field(description="confidence below which an answer is uncertain; else each task's own")
    ] = None
    backend: Annotated[Name | None, Field(description="the runtime; the server's first if left out")] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> PredictRequest:
        if ("texts" in self.model_fields_set) == self.single:
            raise ValueError("give either texts, a list of strings, or text, a string")
        return self

    @property
    def single(self) -> bool:
        """`text` was given."""
        return "text" in self.model_fields_set


class ExplainRequest(_Request):
    """One text, and which answer to account for."""

    text: Text
    task: Annotated[Name | None, Field(description="may be left out where the model has one task")] = None
    label: Annotated[Name | None, Field(description="the label to explain; the predicted one if left out")] = None
    method: Annotated[Literal["occlusion", "integrated_gradients"], Field(description="how")] = "occlusion"
    backend: Annotated[Name | None, Field(description="the runtime; the server's first if left out")] = None


class Predicted(BaseModel):
    """One task's answer to one text."""

    label: str
    confidence: Probability
    uncertain: Annotated[bool, Field(description="the confidence is below the threshold")]
    probabilities: Annotated[dict[str, float], Field(description="of every label; with return_scores")] = {}


class Result(BaseModel):
    """The answers to one text; `prediction`, `confidence`, `probabilities` where one task was answered."""

    predictions: Annotated[dict[str, Predicted], Field(description="by task")]
    truncated: Annotated[bool, Field(description="the text was longer than the model reads; the rest was not seen")]
    prediction: Annotated[str, Field(description="the label")] = ""
    confidence: Annotated[Probability, Field(description="of that label")] = 0
    probabilities: Annotated[dict[str, float], Field(description="of every label; with return_scores")] = {}


class Results(BaseModel):
    """The answer to `texts`."""

    model: str
    backend: str
    results: Annotated[list[Result], Field(description="one for each text, in the order of the texts")]


class OneResult(Result):
    """The answer to `text`."""

    model: str
    backend: str


class WordAttribution(BaseModel):
    """One word, or several neighbours taken together."""

    text: str
    start: Annotated[int, Field(description="its place in the text, in characters")]
    end: int
    attribution: Annotated[float | None, Field(description="what it adds to the log-odds; null: time was up before")]
    without: Annotated[float | None, Field(description="the label's probability without it; occlusion only")]
    unknown: Annotated[
        bool, Field(description="the model's vocabulary lacks it: it reads the same for every such word")
    ]


class Explained(BaseModel):
    """Why the text gets the label. `notes` say what to know before it is believed."""

    text: str
    task: str
    label: Annotated[str, Field(description="the one that is explained")]
    predicted: Annotated[str, Field(description="the one that the model gives")]
    score: Annotated[Probability, Field(description="of `label`")]
    log_odds: Annotated[float, Field(description="of `label`: ln(p / (1 - p))")]
    backend: str
    method: str
    words: Annotated[list[WordAttribution], Field(description="in the order of the text")]
    read: Annotated[list[int], Field(description="start and end of the part that the model read")]
    truncated: bool
    grouped: Annotated[int, Field(description="words taken together as one, at most")]
    baseline_log_odds: Annotated[float | None, Field(description="integrated gradients only, as the next three")]
    convergence_delta: float | None
    n_steps: int | None
    converged: bool | None
    seconds: float
    notes: list[str]


class TaskInfo(BaseModel):
    """What a task is."""

    labels: list[str]
    problem_type: str
    threshold: Annotated[float | None, Field(description="confidence below which an answer is uncertain")]


class LimitsInfo(BaseModel):
    """What one request may hold, and how much may wait."""

    texts: int
    characters: Annotated[int, Field(description="of one text")]
    body_bytes: int
    waiting_texts: Annotated[int, Field(description="of all requests together; past it there is 429")]
    timeout_s: float


class ModelInfo(BaseModel):
    """What is served."""

    name: str
    backends: Annotated[list[str], Field(description="the first is asked where a request names none")]
    tasks: dict[str, TaskInfo]
    max_tokens: Annotated[int, Field(description="a longer text is cut there")]
    limits: LimitsInfo
    version: Annotated[str, Field(description="of Triptych")]


class Index(BaseModel):
    """What is where."""

    model: str
    addresses: list[str]


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"]


class Ready(BaseModel):
    """A text went through the model just now."""

    status: Literal["ready"]
    backend: str
    answered_ms: Annotated[float, Field(description="from the question to the answer, what went before it included")]


class ErrorBody(BaseModel):
    """Why there is no answer."""

    code: Annotated[str, Field(description="a fixed word for programs")]
    message: Annotated[str, Field(description="one line for people; never quotes the request")]


class Problem(BaseModel):
    """Every answer that is an error."""

    error: ErrorBody


R = TypeVar("R", bound=_Request)


def parse(kind: type[R], body: bytes) -> R:
    """The request that this JSON holds.

    Raises:
        ApiError: 400 where it is no JSON, 422 where it is not what this address takes.
    """
    try:
        made = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refused(kind, body, error) from None
    _check_names(kind, body)
    return made


def _refused(kind: type[_Request], body: bytes, error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        place = first["msg"].removeprefix("Invalid JSON: ")  # what was expected, and the column
        return ApiError(400, "invalid_json", f"The body is no JSON in UTF-8: {place}.")
    place = "".join(f"[{one}]" if isinstance(one, int) else str(one) for one in first["loc"]) or "The request"
    if first["type"] in ("string_pattern_mismatch", "string_too_short"):
        said = "is empty: give it at least one word"
    elif first["type"] == "value_error":
        _check_names(kind, body)  # a name that is spelt wrong is the likely reason
        said = f"is refused: {first['msg'].removeprefix('Value error, ')}"
    else:
        # "Input should be a valid string", "List should have at most 512 items after validation, not 513"
        said = re.sub(r"^\w+ should", "should", first["msg"].partition(" after validation")[0])
    return ApiError(422, "invalid_request", f"{place} {said}.")


def _check_names(kind: type[_Request], body: bytes) -> None:
    """Refuse a JSON object with a field that this request does not have, or with one that stands twice.

    Readers differ in which of two they take, so one in between may have checked the other.
    """
    repeated = False

    def look(pairs: list[tuple[str, Any]]) -> set[str]:
        nonlocal repeated
        names = {name for name, _ in pairs}
        repeated = repeated or len(names) < len(pairs)
        return names

    names: set[str] = json.loads(body, object_pairs_hook=look)  # what `look` makes of the outermost object
    if not names <= kind.model_fields.keys():
        known = ", ".join(kind.model_fields)
        raise ApiError(422, "invalid_request", f"The request has a field that is not known. Known: {known}.")
    if repeated:
        raise ApiError(422, "invalid_request", "A field stands twice in the request: which one is meant?")
