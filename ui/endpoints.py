"""The public endpoints of the page, for programs: /predict, /compare and /explain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import gradio as gr

from inference import Answer, InferenceError
from inference.calls.texts import Text
from inference.jobs import Lane
from inference.loading import Models
from ui.answer import as_json


def publish(
    models: Models,
    default: str,
    answer: Callable[..., Answer],
    explaining: Lane,
    is_wanted: Callable[[gr.Request], bool],
    lane: Mapping[str, Any],
) -> None:
    """Add the endpoints to the page that is being drawn. Gradio shows their docstrings under "Use via API".

    Args:
        default: the runtime that answers if a request names none.
        answer: answers on a runtime, as `Models.answer` does.
        explaining: takes turns between explanations.
        is_wanted: whether anybody still waits for the answer.
        lane: the settings of Gradio's events.
    """

    def predict(
        request: gr.Request,
        text: str,
        backend: str = default,
        threshold: float | None = None,
        second_text: str | None = None,
    ) -> dict[str, Any]:
        """Classify a text: label, confidence, every score and whether it is uncertain, per task; and the timing.

        Args:
            text: the text to classify.
            backend: "pytorch", "onnx" or "int8"; also "openvino" where the page offers it.
            threshold: confidence below which an answer is uncertain; null for the model's own per task.
            second_text: of a pair, for a model that takes pairs.
        """
        with client_errors():
            asked = as_text(text, second_text)
            return as_json(answer(asked, backend, threshold, partial(is_wanted, request)))

    def compare(
        request: gr.Request, text: str, threshold: float | None = None, second_text: str | None = None
    ) -> dict[str, Any]:
        """Classify a text on every backend, each as in /predict; {"error": …} for one that cannot answer.

        Args:
            text: the text to classify.
            threshold: confidence below which an answer is uncertain; null for the model's own per task.
            second_text: of a pair, for a model that takes pairs.
        """
        with client_errors():
            answers = models.compare(as_text(text, second_text), threshold, partial(is_wanted, request))
            return {name: as_json(answer) for name, answer in answers.items()}

    def explain(
        request: gr.Request,
        text: str,
        task: str | None = None,
        label: str | None = None,
        method: str = "occlusion",
        backend: str = default,
        second_text: str | None = None,
    ) -> dict[str, Any]:
        """Explain a label: what each word of the text adds to its log-odds, and what to know about the figures.

        Args:
            text: the text to explain.
            task: optional if the model has only one.
            label: null for the predicted label.
            method: "occlusion", or "integrated_gradients" on PyTorch.
            backend: "pytorch", "onnx" or "int8"; also "openvino" where the page offers it.
            second_text: of a pair, for a model that takes pairs.
        """
        wanted = partial(is_wanted, request)
        with client_errors(), explaining.turn(wanted, address_of(request)):
            return models.explain(as_text(text, second_text), backend, task, label, method, wanted).to_dict()

    for endpoint in (explain, predict, compare):
        gr.api(endpoint, api_name=endpoint.__name__, **lane)


def as_text(first: str, second: str | None = None) -> Text:
    """Return what two text boxes hold: a pair, or a single text if the second is empty."""
    return first if second is None or (isinstance(second, str) and not second.strip()) else (first, second)


@contextmanager
def client_errors() -> Iterator[None]:
    """Send the message of an InferenceError to the client."""
    try:
        yield
    except InferenceError as error:
        raise gr.Error(str(error), print_exception=False) from error


def address_of(request: gr.Request) -> str:
    """Return the address that a question comes from."""
    return request.client.host if request.client else ""
