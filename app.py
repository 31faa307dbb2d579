"""The Gradio page: a text in, the answers of PyTorch, ONNX and INT8 out. Widgets to `Models` and back.

Run it: python app.py. With the dashboard beside it: python serve.py. What the environment sets: `ui/start.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from inference import Answer, InferenceError
from inference.api import ApiLimits, server
from inference.assets import showcase_texts
from inference.backends import TITLES
from inference.jobs import Lane
from inference.loading import Models
from ui import render, scoring, why
from ui.files import TemporaryFiles
from ui.site import mount_page
from ui.start import ServerSettings, run

LIMITS = ApiLimits()  # of the API: the page has the same for explanations
EXPLANATIONS_EACH = 2  # of one address, so that there is room for another
INVITATION = '<p class="invitation">Type a text and press Enter, or pick an example.</p>'
SHOW_ANSWER = (Path(__file__).parent / "ui" / "show_answer.js").read_text(encoding="utf-8")
ANSWERING = 3  # questions that Gradio handles at the same time
MANY = 8  # a task with more labels than this shows its best five; the rest are in the tables
# The showcase rows offered as examples: what each one tries, and how its text begins. The hard ones come last.
EXAMPLES = {
    "A happy request": "finally going to see my sister",
    "A frightened request": "my account got blocked",
    "A plain command": "set a timer for 12 minutes",
    "A film review": "A warm, wise and very funny",
    "A surprise": "Wait, the delivery came",
    "Disgust": "there was a cockroach IN",
    "Irony": "Oh wonderful, another update",
    "Sad but praised": "A heartbreaking, beautiful novel",
    "Typing errors": "teh screen brok",
    "Two languages": "Ich hab selten",
}


def build(models: Models, backend: str = "int8", dashboard: str | None = None) -> gr.Blocks:
    """The page over these models. Its public endpoints: /predict, /compare and /explain.

    Args:
        backend: the runtime chosen at first.
        dashboard: where the dashboard is; no link is shown to one that is not served.
    """
    tasks = models.bundle.tasks
    # `Models` makes one pass at a time. More events than that may run, because those that explain take long and wait
    # for each other: some are always left for the others.
    inference = {"concurrency_limit": LIMITS.max_explanations + ANSWERING, "concurrency_id": "inference"}
    explaining = Lane(LIMITS.max_explanations, EXPLANATIONS_EACH, why.BUSY)
    private: dict[str, Any] = {**inference, "api_visibility": "private"}
    # After every event Gradio sums up its last 10,000 with pandas, for a monitoring page that is off here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

    with gr.Blocks(title="Triptych", analytics_enabled=False, delete_cache=(3600, 3600)) as demo:
        gr.HTML(render.header(models.bundle, models.sizes, dashboard))
        with gr.Row(elem_id="ask"):
            text = gr.Textbox(
                label="Text",
                placeholder="Type or paste a text. Enter classifies it, Shift+Enter starts a new line.",
                lines=1,
                max_lines=8,
                autofocus=True,
                scale=6,
                min_width=280,
                elem_id="text",
            )
            classify = gr.Button("Classify", variant="primary", scale=1, min_width=140, elem_id="classify")
        texts = example_texts()
        examples = gr.Dataset(
            label="Examples",
            components=[text],
            samples=[[example] for example in texts.values()],
            sample_labels=list(texts),
            layout="gallery",
            elem_id="examples",
        )
        with gr.Row(elem_id="settings"):
            runtime = gr.Radio(
                [(TITLES[name], name) for name in models.bundle.backends],
                value=backend,
                label="Runtime of the answer",
                elem_id="runtime",
                min_width=280,
            )
            with gr.Column(min_width=280, elem_id="thresholds"):
                own = gr.Checkbox(
                    True,
                    label="Use the model's own thresholds",
                    elem_id="own",
                    info="; ".join(f"{name}: {render.uncertain_below(task)}" for name, task in tasks.items()) + ".",
                )
                threshold = gr.Slider(
                    0,
                    1,
                    0.5,
                    step=0.01,
                    label="Or move this one, for every task",
                    elem_id="threshold",
                )
        message = gr.HTML(INVITATION, elem_id="message")
        # Where a wait is shown: on every output, as Gradio would have it, the page flickers with each answer.
        private |= {"show_progress": "full", "show_progress_on": message}
        # The tab that is open: Enter fills this one. A component and no gr.State, for the browser writes it: tabs are
        # "selected" while the page loads, and an event sent then can close the stream that a first question waits on.
        view = gr.Textbox("answer", visible="hidden")
        with gr.Tabs():
            with gr.Tab("Answer", id="answer") as answer_tab:
                verdicts, labels, tables = {}, {}, {}
                with gr.Column(visible=False) as panels:
                    with gr.Row():
                        for name, task in tasks.items():
                            with gr.Column(min_width=280, elem_classes="panel"):
                                verdicts[name] = gr.HTML()
                                labels[name] = gr.Label(
                                    label=f"{name}: most likely labels",
                                    show_heading=False,
                                    num_top_classes=5 if len(task.labels) > MANY else len(task.labels),
                                )
                    spent = gr.HTML(elem_id="timing")
                    with gr.Accordion("Every score", open=False), gr.Row():
                        for name, task in tasks.items():
                            tables[name] = gr.Dataframe(
                                headers=["label", "probability"],
                                datatype=["str", "number"],
                                interactive=False,
                                label=f"{name}: all {len(task.labels)} labels",
                                column_widths=["62%", "38%"],
                                max_height=320,
                                min_width=280,
                            )
            with gr.Tab("Side by side", id="compare") as compare_tab:
                table = gr.HTML(elem_id="side-by-side")
            with gr.Tab("Why", id="why") as why_tab:
                reasons = why.panel(models.bundle)
            with gr.Tab("Score a file", id="file") as file_tab:
                scoring.ScoreTab(models, [runtime, own, threshold])
        heading = "About this model: sizes and how far the three runtimes agree"
        with gr.Accordion(heading, open=False, elem_id="about"):
            gr.HTML(render.about(models.bundle, models.sizes, models.parity))

        shown = [message, panels, *verdicts.values(), *labels.values(), *tables.values(), spent, table, reasons.found]
        keep = [gr.skip()] * len(shown)

        def is_unknown(answer: Answer) -> bool:
            return any(one.unknown for predictions in answer.predictions.values() for one in predictions)

        def is_wanted(request: gr.Request) -> bool:
            """Whether anybody still listens for the answers of this session."""
            return request.session_hash in demo._queue.pending_messages_per_session

        def run(
            request: gr.Request, given: str, at: str, chosen: str, use_own: bool, limit: float, *reason: str
        ) -> list[Any]:
            """The open tab filled for this text, in the order of `shown`; or the message why not."""
            applied = None if use_own else limit
            wanted = partial(is_wanted, request)
            try:
                if at == "why":
                    with explaining.turn(wanted, address_of(request)):
                        reasons_html = why.explained(models, given, chosen, applied, wanted, *reason)
                    return ["", *keep[1:-1], reasons_html]
                if at == "compare":
                    found = models.compare(given, applied, wanted)
                    unknown = any(is_unknown(one) for one in found.values() if isinstance(one, Answer))
                    return ["", *keep[1:-2], render.side_by_side(models.bundle, found, unknown), gr.skip()]
                answer = models.answer(given, chosen, applied, wanted)
                unknown = is_unknown(answer)
            except InferenceError as error:
                return [render.message(error), gr.update(visible=False), *keep[2:-2], "", ""]
            first = {name: predictions[0] for name, predictions in answer.predictions.items()}
            limits = {name: task.threshold if applied is None else applied for name, task in tasks.items()}
            return [
                "",
                gr.update(visible=True),
                *(render.verdict(name, tasks[name], first[name], limits[name]) for name in verdicts),
                *(dict(first[name].scores) for name in labels),
                *(by_score(first[name].scores) for name in tables),
                render.timing(chosen, answer, models.bundle.max_tokens, unknown),
                *keep[-2:],
            ]

        def run_again(request: gr.Request, given: str, *settings: Any) -> list[Any]:
            """`run` where a setting changed: without a text, or where files are scored, there is nothing to do."""
            return run(request, given, *settings) if (given or "").strip() and settings[0] != "file" else keep

        def move(request: gr.Request, given: str, at: str, chosen: str, limit: float, *reason: str) -> list[Any]:
            return [False, *run_again(request, given, at, chosen, False, limit, *reason)]

        def pick(request: gr.Request, sample: list[str], *settings: Any) -> list[Any]:
            return [sample[0], *run(request, sample[0], *settings)]

        settings = [view, runtime, own, threshold, *reasons.inputs]
        # Who asks again, or drags on, before the answer has come, wants it for what is there then.
        private |= {"trigger_mode": "always_last"}
        asked = gr.on([text.submit, classify.click], run, [text, *settings], shown, **private)
        gr.on([runtime.input, own.input], run_again, [text, *settings], shown, **private)
        moved = [text, view, runtime, threshold, *reasons.inputs]
        threshold.change(move, moved, [own, *shown], **private)
        # A Dropdown sends its input twice for one choice by the mouse, and its select not at all for one by the keys.
        picks = [reasons.method.input, reasons.task.change, *(label.change for label in reasons.labels.values())]
        gr.on(picks, run_again, [text, *settings], shown, **private)
        # In the browser and at once: by then the labels of the task before may be open.
        lists = list(reasons.labels.values())
        reasons.task.change(None, reasons.task, lists, js=why.show_labels(models.bundle), api_visibility="private")
        picked = examples.click(pick, [examples, *settings], [text, *shown], **private)
        for event in (asked, picked):
            event.then(None, js=SHOW_ANSWER)
        for tab in (answer_tab, compare_tab, why_tab, file_tab):
            tab.select(None, None, view, js=f"() => {json.dumps(tab.id)}", api_visibility="private")
        view.change(run_again, [text, *settings], shown, **private)

        default = backend

        def predict(
            request: gr.Request, text: str, backend: str = default, threshold: float | None = None
        ) -> dict[str, Any]:
            """Label, confidence, every score and whether it is uncertain, per task, and the timing of the call.

            Args:
                text: what to classify.
                backend: "pytorch", "onnx" or "int8".
                threshold: confidence below which an answer is uncertain; null for the model's own per task.
            """
            try:
                return as_json(models.answer(text, backend, threshold, partial(is_wanted, request)))
            except InferenceError as error:
                raise gr.Error(str(error), print_exception=False) from error

        def compare(request: gr.Request, text: str, threshold: float | None = None) -> dict[str, Any]:
            """What /predict gives, per backend; {"error": …} for one that cannot answer.

            Args:
                text: what to classify.
                threshold: confidence below which an answer is uncertain; null for the model's own per task.
            """
            try:
                answers = models.compare(text, threshold, partial(is_wanted, request))
                return {name: as_json(found) for name, found in answers.items()}
            except InferenceError as error:
                raise gr.Error(str(error), print_exception=False) from error

        def explain(
            request: gr.Request,
            text: str,
            task: str | None = None,
            label: str | None = None,
            method: str = "occlusion",
            backend: str = default,
        ) -> dict[str, Any]:
            """What each word of the text adds to the log-odds of a label, and what to know about it.

            Args:
                text: what to explain.
                task: may be left out where the model has one.
                label: null for the one that the model gives.
                method: "occlusion", or "integrated_gradients" on PyTorch.
                backend: "pytorch", "onnx" or "int8".
            """
            wanted = partial(is_wanted, request)
            try:
                with explaining.turn(wanted, address_of(request)):
                    return models.explain(text, backend, task, label, method, wanted).to_dict()
            except InferenceError as error:
                raise gr.Error(str(error), print_exception=False) from error

        gr.api(explain, api_name="explain", **inference)
        gr.api(predict, api_name="predict", **inference)
        gr.api(compare, api_name="compare", **inference)

    # Closed: without it, requests can skip the queue and its limits.
    return demo.queue(api_open=False)


def address_of(request: gr.Request) -> str:
    """The address that a question comes from."""
    return request.client.host if request.client else ""


def as_json(found: Answer | InferenceError) -> dict[str, Any]:
    """One backend's answer to one text in plain types: `predictions` per task, and `timing` in milliseconds."""
    if not isinstance(found, Answer):
        return {"error": str(found)}
    predictions = {task: one.to_dict() for task, (one,) in found.predictions.items()}
    return {"predictions": predictions, "timing": asdict(found.timing) | {"total_ms": found.timing.total_ms}}


def by_score(scores: Mapping[str, float]) -> list[list[Any]]:
    """Rows of label and probability to six digits, the most likely first."""
    return [[label, round(score, 6)] for label, score in sorted(scores.items(), key=lambda pair: -pair[1])]


def example_texts() -> dict[str, str]:
    """The texts of the showcase that `EXAMPLES` points to, by what they try."""
    texts = showcase_texts()
    return {trait: text for trait, start in EXAMPLES.items() for text in texts if text.startswith(start)}


def serve(settings: ServerSettings, models: Models, files: TemporaryFiles, ready: Callable[[], None]) -> None:
    """Serve the page alone until a signal comes; then no new requests, and those that run are answered."""
    site = FastAPI(openapi_url=None)
    page = mount_page(site, build(models, settings.backend), files)
    server.serve(site, settings.bind(), ready, page.stop_event.set, settings.access, abandon=files.remove)


if __name__ == "__main__":
    sys.exit(run(serve, sys.argv[1:]))
