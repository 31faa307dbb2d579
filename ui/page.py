"""The page: its widgets, what they do, and its public endpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from inference import Answer, InferenceError
from inference.api import ApiLimits
from inference.backends import TITLES
from inference.calls.texts import Text
from inference.formats.examples import offered
from inference.jobs import Lane
from inference.loading import Models
from ui import render, why
from ui.answer import AnswerTab
from ui.scoring import ScoreTab
from ui.zero_gpu import INFO, LentGpu

LIMITS = ApiLimits()  # the page has the API's limits for explanations
MAX_EXPLANATIONS_PER_ADDRESS = 2  # leaves room for others
ANSWERING = 3  # questions that Gradio handles at the same time
INVITATION = '<p class="invitation">Type a text and press Enter{}.</p>'
SHOW_ANSWER = Path(__file__).with_name("show_answer.js").read_text(encoding="utf-8")


def build(
    models: Models, backend: str = "int8", dashboard: str | None = None, lent: LentGpu | None = None
) -> gr.Blocks:
    """Build the page over these models. Its public endpoints are /predict, /compare and /explain.

    Args:
        backend: the runtime selected at the start.
        dashboard: the address of the dashboard; None shows no link.
        lent: answers on ZeroGPU.
    """
    # After every event Gradio summarises its last 10,000 with pandas, for a monitoring page that is off here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    # Closed: otherwise requests can skip the queue and its limits.
    return Page(models, backend, dashboard, lent).blocks.queue(api_open=False)


class Page:
    """The widgets of the page and what they do."""

    def __init__(self, models: Models, backend: str, dashboard: str | None, lent: LentGpu | None) -> None:
        self._models = models
        self._lent = lent
        self._answer = lent.answer if lent else models.answer
        self._explaining = Lane(LIMITS.max_explanations, MAX_EXPLANATIONS_PER_ADDRESS, why.BUSY)
        # `Models` runs one pass at a time. More events may run at once, because explanations take long and wait for
        # each other: some are always left for the rest.
        self._lane = {"concurrency_limit": LIMITS.max_explanations + ANSWERING, "concurrency_id": "inference"}
        with gr.Blocks(title="Triptych", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            gr.HTML(render.header(models.bundle, models.sizes, dashboard))
            self._draw_question()
            self._draw_settings(backend)
            choice = ", or pick an example" if models.bundle.examples else ""
            self.message = gr.HTML(INVITATION.format(choice), elem_id="message")
            self._draw_tabs()
            heading = "About this model: sizes and how far the runtimes agree"
            with gr.Accordion(heading, open=False, elem_id="about"):
                gr.HTML(render.about(models.bundle, models.sizes, models.parity))
            self._connect()
            self._publish(backend)

    def _draw_question(self) -> None:
        with gr.Row(elem_id="ask"):
            takes_pairs = self._models.bundle.pairs
            box = partial(gr.Textbox, lines=1, max_lines=8, scale=6, min_width=280)
            keys = "Enter classifies it, Shift+Enter starts a new line."
            self.text = box(
                label="First text: a premise, a question" if takes_pairs else "Text",
                placeholder=f"Type or paste a text. {keys}",
                autofocus=True,
                elem_id="text",
            )
            self.texts: list[gr.Textbox] = [self.text]
            if takes_pairs:
                label = "Second text: a hypothesis, an answer"
                self.texts.append(box(label=label, placeholder="The text to compare it with.", elem_id="second"))
            self.classify = gr.Button("Classify", variant="primary", scale=1, min_width=140, elem_id="classify")
        examples = offered(self._models.bundle.examples)
        self.examples = gr.Dataset(
            label="Examples",
            components=self.texts,
            samples=[[one.text] if isinstance(one.text, str) else list(one.text) for one in examples],
            sample_labels=[str(one.name) for one in examples],
            layout="gallery",
            elem_id="examples",
            visible=bool(examples),
        )

    def _draw_settings(self, backend: str) -> None:
        bundle = self._models.bundle
        with gr.Row(elem_id="settings"):
            self.runtime = gr.Radio(
                [(TITLES[name], name) for name in bundle.backends],
                value=backend,
                label="Runtime of the answer",
                info=INFO if self._lent else None,
                elem_id="runtime",
                min_width=280,
            )
            with gr.Column(min_width=280, elem_id="thresholds"):
                uncertain = [f"{name}: {render.uncertain_below(task)}" for name, task in bundle.tasks.items()]
                label = "Use the model's own thresholds"
                self.own = gr.Checkbox(True, label=label, elem_id="own", info=f"{'; '.join(uncertain)}.")
                self.threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Or set one for every task", elem_id="threshold")

    def _draw_tabs(self) -> None:
        # The open tab: Enter fills this one. A component and not gr.State, because the browser writes it: tabs are
        # "selected" while the page loads, and an event sent then can close the stream that a first question waits on.
        self.view = gr.Textbox("answer", visible="hidden")
        with gr.Tabs():
            with gr.Tab("Answer", id="answer") as answer:
                self.answer = AnswerTab(self._models.bundle)
            with gr.Tab("Side by side", id="compare") as compare:
                self.comparison = gr.HTML(elem_id="side-by-side")
            with gr.Tab("Why", id="why") as reasons:
                self.why = why.WhyTab(self._models.bundle)
            with gr.Tab("Score a file", id="file") as file:
                ScoreTab(self._models, [self.runtime, self.own, self.threshold])
        self.tabs = (answer, compare, reasons, file)

    def _connect(self) -> None:
        private: dict[str, Any] = {
            **self._lane,
            "api_visibility": "private",
            "show_progress": "full",
            "show_progress_on": self.message,  # on every output, Gradio's default, the page flickers with each answer
            "trigger_mode": "always_last",  # a question asked before the last answer has come replaces those between
        }
        shown = [self.message, *self.answer.outputs, self.comparison, self.why.result]
        settings = [self.view, self.runtime, self.own, self.threshold, *self.why.inputs]
        events = [*(box.submit for box in self.texts), self.classify.click]
        asked = gr.on(events, self._taking(self._run), [*self.texts, *settings], shown, **private)
        picked = self.examples.click(self._pick, [self.examples, *settings], [*self.texts, *shown], **private)
        for event in (asked, picked):
            event.then(None, js=SHOW_ANSWER)
        changes = [self.runtime.input, self.own.input, self.view.change, *self.why.changes]
        gr.on(changes, self._taking(self._run_again), [*self.texts, *settings], shown, **private)
        move = self._taking(self._move_threshold)
        self.threshold.change(move, [*self.texts, *settings], [self.own, *shown], **private)
        for tab in self.tabs:
            tab.select(None, None, self.view, js=f"() => {json.dumps(tab.id)}", api_visibility="private")

    def _is_wanted(self, request: gr.Request) -> bool:
        """Return whether anybody still waits for the answers of this session."""
        return request.session_hash in self.blocks._queue.pending_messages_per_session

    def _taking(self, run: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
        """Return an event handler that takes the text boxes one by one, of a handler that takes one text or pair."""
        if len(self.texts) == 1:
            return run

        def run_pair(request: gr.Request, first: str, second: str, *settings: Any) -> dict[Any, Any]:
            return run(request, as_text(first, second), *settings)

        return run_pair

    def _run(
        self, request: gr.Request, text: Text, tab: str, backend: str, use_own: bool, threshold: float, *reason: str
    ) -> dict[Any, Any]:
        """Fill the open tab for this text, or show why that is impossible."""
        limit = None if use_own else threshold
        is_wanted = partial(self._is_wanted, request)
        try:
            if tab == "why":
                with self._explaining.turn(is_wanted, address_of(request)):
                    return {
                        self.message: "",
                        self.why.result: why.explain(self._models, text, backend, limit, is_wanted, *reason),
                    }
            if tab == "compare":
                answers = self._models.compare(text, limit, is_wanted)
                return {self.message: "", self.comparison: render.side_by_side(self._models.bundle, answers)}
            answer = self._answer(text, backend, limit, is_wanted)
            return {self.message: "", **self.answer.show(backend, answer, limit)}
        except InferenceError as error:
            hidden = {self.answer.panels: gr.update(visible=False), self.comparison: "", self.why.result: ""}
            return {self.message: render.message(error), **hidden}

    def _update(self, request: gr.Request, text: Text, tab: str, *settings: Any) -> dict[Any, Any]:
        """Run again after a change of a setting; without a text, or where files are scored, do nothing."""
        return self._run(request, text, tab, *settings) if "".join(text or "").strip() and tab != "file" else {}

    def _run_again(self, request: gr.Request, text: Text, *settings: Any) -> dict[Any, Any]:
        return self._update(request, text, *settings) or gr.skip()

    def _move_threshold(
        self, request: gr.Request, text: Text, tab: str, backend: str, use_own: bool, *settings: Any
    ) -> dict[Any, Any]:
        return {self.own: False, **self._update(request, text, tab, backend, False, *settings)}

    def _pick(self, request: gr.Request, sample: list[str], *settings: Any) -> dict[Any, Any]:
        return {**dict(zip(self.texts, sample, strict=True)), **self._run(request, as_text(*sample), *settings)}

    def _publish(self, default: str) -> None:
        """Add the public endpoints. Gradio shows their docstrings under "Use via API"."""
        models, answer = self._models, self._answer

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
                backend: "pytorch", "onnx" or "int8".
                threshold: confidence below which an answer is uncertain; null for the model's own per task.
                second_text: of a pair, for a model that takes pairs.
            """
            with client_errors():
                asked = as_text(text, second_text)
                return as_json(answer(asked, backend, threshold, partial(self._is_wanted, request)))

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
                answers = models.compare(as_text(text, second_text), threshold, partial(self._is_wanted, request))
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
                backend: "pytorch", "onnx" or "int8".
                second_text: of a pair, for a model that takes pairs.
            """
            is_wanted = partial(self._is_wanted, request)
            with client_errors(), self._explaining.turn(is_wanted, address_of(request)):
                return models.explain(as_text(text, second_text), backend, task, label, method, is_wanted).to_dict()

        for endpoint in (explain, predict, compare):
            gr.api(endpoint, api_name=endpoint.__name__, **self._lane)


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


def as_json(answer: Answer | InferenceError) -> dict[str, Any]:
    """Return one backend's answer to one text in plain types: `predictions` per task, `timing` in ms, any `note`."""
    if not isinstance(answer, Answer):
        return {"error": str(answer)}
    predictions = {task: prediction.to_dict() for task, (prediction,) in answer.predictions.items()}
    timing = asdict(answer.timing) | {"total_ms": answer.timing.total_ms}
    return {"predictions": predictions, "timing": timing} | ({"note": answer.note} if answer.note else {})
