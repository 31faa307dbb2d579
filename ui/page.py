"""The page: its widgets, what they do, and its public endpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from inference import InferenceError
from inference.api import ApiLimits
from inference.backends import TITLES
from inference.calls.reading import reading
from inference.calls.texts import Text
from inference.formats.examples import offered
from inference.jobs import Cancelled, Lane
from inference.loading import Models
from ui import render, why
from ui.answer import Details
from ui.asking import PASSES, Answers, Newest, Timed, ask_all
from ui.endpoints import address_of, as_text, publish
from ui.recorded import RECEIPTS, find_recorded
from ui.scoring import ScoreTab
from ui.what_if import Api, WhatIf
from ui.zero_gpu import INFO, PYTORCH, LentGpu

LIMITS = ApiLimits()  # the page has the API's limits for explanations
MAX_EXPLANATIONS_PER_ADDRESS = 2  # leaves room for others
ANSWERING = 3  # questions that Gradio handles at the same time
KEPT_TIMES = 3  # after which the example's answers stay, although the machine was too busy for all passes
# Not a link: its address would be one below Gradio's <base>, another page.
_FOCUS = "document.querySelector('#side-by-side .triptych')?.focus()"
SKIP = f'<button class="skip" onclick="{_FOCUS}">Go to the answers</button>'
INVITATION = '<p class="invitation">Type a text and press Enter{}.</p>'
ASK = Path(__file__).with_name("ask.js").read_text(encoding="utf-8")
# A refused question has no answers, and those before it are of another text.
FAILED = """() => {
  const waiting = document.querySelector("#side-by-side .prose:has(.waiting, .coming)");
  if (!waiting) return;
  waiting.innerHTML = '<p class="message" role="alert">The server did not answer. Try again in a few seconds.</p>';
  for (const place of document.querySelectorAll("#why .waiting")) place.remove();
}"""
# A change of a setting is a question too, but leaves the last answers visible until the next ones come.
NUMBER = "(...inputs) => [...inputs.slice(0, -1), (window.triptychAsked = (window.triptychAsked ?? 0) + 1)]"


def build(
    models: Models,
    backend: str = "int8",
    dashboard: str | None = None,
    lent: LentGpu | None = None,
    receipts: Sequence[Path] = (RECEIPTS,),
    api: Api | None = None,
) -> gr.Blocks:
    """Build the page over these models. Its public endpoints are /predict, /compare and /explain.

    Args:
        backend: the runtime selected at the start.
        dashboard: the address of the dashboard; None shows no link.
        lent: answers on ZeroGPU.
        receipts: folders of recorded measurements, of which that of this model is shown.
        api: where copied requests go; the page's own endpoint if it is left out.
    """
    # After every event Gradio summarises its last 10,000 with pandas, for a monitoring page that is off here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    # Closed: otherwise requests can skip the queue and its limits.
    return Page(models, backend, dashboard, lent, receipts, api).blocks.queue(api_open=False)


@dataclass(frozen=True)
class Question:
    """What the page asks: a text and the settings."""

    text: Text
    backend: str
    """The runtime of the details and of the explanation."""
    limits: Mapping[str, float]
    """The threshold of each task that has not the model's own."""
    wants_why: bool
    reason: tuple[str, ...]
    """Of the explanation: task, method, and the label selected for each task."""
    number: float
    """The browser counts its questions."""
    pinned: tuple[str, ...]
    """The text or the pair to compare with; empty strings for none."""


class Page:
    """The widgets of the page and what they do."""

    def __init__(
        self,
        models: Models,
        backend: str,
        dashboard: str | None = None,
        lent: LentGpu | None = None,
        receipts: Sequence[Path] = (RECEIPTS,),
        api: Api | None = None,
    ) -> None:
        self._models = models
        self._backend = backend
        self._lent = lent
        self._explaining = Lane(LIMITS.max_explanations, MAX_EXPLANATIONS_PER_ADDRESS, why.BUSY)
        self._newest = Newest()
        recorded = find_recorded(models.bundle, receipts)
        self._recorded_ms = recorded.p50_ms if recorded else {}
        backends = models.bundle.backends  # the most exact first, which is the slowest, as far as known
        self._order = sorted(backends, key=lambda name: (self._recorded_ms.get(name, 0.0), -backends.index(name)))
        examples = offered(models.bundle.examples)
        self._samples = [[one.text] if isinstance(one.text, str) else list(one.text) for one in examples]
        self._sample_names = [str(one.name) for one in examples]
        self._kept_passes = self._kept_times = 0  # of the answers that the page opens with, those of the first example
        # `Models` runs one pass at a time. More events may run at once, because explanations take long and wait for
        # each other: some are always left for the rest.
        self._lane = {"concurrency_limit": LIMITS.max_explanations + ANSWERING, "concurrency_id": "inference"}
        with gr.Blocks(title="Triptych", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.what_if = WhatIf(models, api or Api())
            overall = recorded.overall if recorded else None
            gr.HTML(render.strip(models.bundle, overall, dashboard), elem_id="headline")
            with gr.Tabs(elem_id="views"):
                with gr.Tab("Try", id="try"):
                    self._draw_question()
                    self._draw_answers()
                    self._draw_settings()
                    self._draw_why()
                with gr.Tab("Score a file", id="file"):
                    ScoreTab(models, backend, self.thresholds)
            heading = "About this model: sizes and how far the runtimes agree"
            with gr.Accordion(heading, open=False, elem_id="about"):
                gr.HTML(render.about(models.bundle, models.sizes, models.parity))
            self._connect()
            answer = lent.answer if lent else models.answer
            publish(models, backend, answer, self._explaining, self._is_wanted, self._lane)

    def _draw_question(self) -> None:
        takes_pairs = self._models.bundle.pairs
        first = [*(self._samples[0] if self._samples else []), "", ""]
        gr.HTML(render.fill("opened"), elem_id="opened", padding=False)
        with gr.Row(elem_id="ask"):
            box = partial(gr.Textbox, lines=1, max_lines=8, scale=6, min_width=280, container=takes_pairs)
            keys = "Enter classifies it, Shift+Enter starts a new line."
            self.text = box(
                first[0],
                label="First text: a premise, a question" if takes_pairs else "Text",
                placeholder=f"Type or paste a text. {keys}",
                autofocus=True,
                elem_id="text",
            )
            self.texts: list[gr.Textbox] = [self.text]
            if takes_pairs:
                label = "Second text: a hypothesis, an answer"
                second = box(first[1], label=label, placeholder="The text to compare it with.", elem_id="second")
                self.texts.append(second)
            self.classify = gr.Button("Classify", variant="primary", scale=1, min_width=140, elem_id="classify")
        gr.HTML(SKIP, elem_id="skip")
        self.examples = gr.Dataset(
            label="Examples",
            components=self.texts,
            samples=self._samples,
            sample_labels=self._sample_names,
            layout="gallery",
            elem_id="examples",
            visible=bool(self._samples),
        )

    def _draw_answers(self) -> None:
        bundle = self._models.bundle
        places = render.side_by_side(bundle, dict.fromkeys(bundle.backends))
        gr.HTML(f"<template>{places}</template>", elem_id="places")
        self.comparison = gr.HTML(places if self._samples else INVITATION.format(""), elem_id="side-by-side")
        self.what_if.draw()

    def _draw_settings(self) -> None:
        bundle = self._models.bundle
        with gr.Accordion("Thresholds and runtime", open=False, elem_id="settings"):
            self.runtime = gr.Radio(
                [(TITLES[name], name) for name in bundle.backends],
                value=self._backend,
                label="Runtime of the explanation and of the details",
                info=INFO if self._lent else None,
                elem_id="runtime",
                min_width=280,
            )
            self.thresholds: list[gr.Slider] = []
            with gr.Row(elem_id="thresholds"):
                for name, task in bundle.tasks.items():
                    own = f"The model's own is {task.threshold:.3g}." if task.threshold else "The model has none."
                    label = f"{name}: uncertain below"
                    self.thresholds.append(
                        gr.Slider(0, 1, task.threshold, step=0.001, label=label, info=own, min_width=240)
                    )
            self.reset = gr.Button("Use the model's own thresholds", size="sm", elem_id="own")

    def _draw_why(self) -> None:
        with gr.Accordion("Why", open=True, elem_id="reasons") as self.reasons:
            self.why = why.WhyTab(self._models.bundle)
        self.details = Details(self._models.bundle)

    def _connect(self) -> None:
        private: dict[str, Any] = {**self._lane, "api_visibility": "private", "show_progress": "hidden"}
        # Components and not gr.State, because the browser writes them.
        self.wants_why = gr.Checkbox(True, visible="hidden")
        self.settled = gr.Checkbox(not self._samples, visible="hidden")
        self.again = gr.Textbox("", visible="hidden", elem_id="again")  # another value asks again
        number = gr.Number(0, visible="hidden")
        settings = [self.runtime, *self.thresholds, self.wants_why, *self.why.inputs, number]
        self.inputs = [*self.texts, *self.what_if.pinned, *settings]
        shown = [self.comparison, self.why.result, *self.details.outputs, *self.what_if.outputs]
        # Of a generator that yields nothing, Gradio sets every output to null, at which its Label stops the page.
        self._nothing: dict[Any, Any] = {self.comparison: gr.skip()}
        # Each replaces the question before: `always_last`, Gradio's way, would wait for its answer.
        newest: dict[str, Any] = {**private, "trigger_mode": "multiple"}
        asking = [*(box.submit for box in self.texts), self.classify.click, self.again.change]
        asked = gr.on(asking, self._ask, self.inputs, shown, js=ASK, **newest)
        fill = f"(index) => {json.dumps([one if len(one) > 1 else one[0] for one in self._samples])}[index]"
        picked = self.examples.click(None, self.examples, self.texts, js=fill, api_visibility="private")
        asked_example = picked.then(self._ask, self.inputs, shown, js=ASK, **newest)
        for event in (asked, asked_example):
            event.failure(None, None, None, js=FAILED, api_visibility="private")
        moved = [self.runtime.input, *(slider.change for slider in self.thresholds)]
        gr.on(moved, self._ask_again, self.inputs, shown, js=NUMBER, trigger_mode="always_last", **private)
        own = json.dumps([task.threshold for task in self._models.bundle.tasks.values()])
        self.reset.click(None, None, self.thresholds, js=f"() => {own}", api_visibility="private")
        explain = partial(gr.on, fn=self._explain_again, inputs=self.inputs, outputs=[self.why.result], js=NUMBER)
        explain(self.why.changes, **newest)
        self.reasons.collapse(None, None, self.wants_why, js="() => false", api_visibility="private")
        opened = self.reasons.expand(None, None, self.wants_why, js="() => true", api_visibility="private")
        opened.then(self._explain_again, self.inputs, [self.why.result], js=NUMBER, **newest)
        # The page opens with an example and its answers, or with the text in its address. Until there are good answers
        # to the example, a page that is opened asks again.
        opened_with = [*self.texts, self.why.inputs[0], *self.thresholds, self.again]
        begin = "(settled) => window.triptych.open(settled)"
        self.blocks.load(None, self.settled, opened_with, js=begin, api_visibility="private")
        # For a row of a file, and for Back and Forward: its text with its task, which only an event of Gradio can set.
        asked_for = gr.Button(visible="hidden", elem_id="ask-for")
        asked_for.click(None, None, opened_with, js="() => window.triptych.askFor()", api_visibility="private")
        self.what_if.connect()

    def _is_wanted(self, request: gr.Request) -> bool:
        """Return whether anybody still waits for the answers of this session."""
        return request.session_hash in self.blocks._queue.pending_messages_per_session

    def _question(self, request: gr.Request, values: Sequence[Any]) -> tuple[Question, Callable[[], bool]]:
        """Return what the page asks, and whether it is still wanted."""
        count = len(self.texts)
        texts, pinned, rest = values[:count], values[count : 2 * count], list(values[2 * count :])
        tasks = self._models.bundle.tasks
        backend, *rest = rest
        thresholds, (wants_why, *reason, number) = rest[: len(tasks)], rest[len(tasks) :]
        limits = {
            name: limit
            for (name, task), limit in zip(tasks.items(), thresholds, strict=True)
            if limit != task.threshold
        }
        kept = tuple(text or "" for text in pinned)
        question = Question(as_text(*texts), backend, limits, wants_why, tuple(reason), number or 0, kept)

        def is_wanted() -> bool:
            return self._is_wanted(request) and self._newest.is_newest(str(request.session_hash), question.number)

        return question, is_wanted

    def _ask(self, request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        """Show the answer of each runtime as it comes, then the explanation; or why that is impossible."""
        question, is_wanted = self._question(request, values)
        self._newest.note(str(request.session_hash), question.number)
        shown: dict[Any, Any] = {}  # yielded whole: of a component that is left out, Gradio's client spoils the value
        passes = 0
        try:
            for answers in ask_all(self._models, question.text, question.limits, self._order, is_wanted):
                shown[self.comparison] = self._table(question, answers)
                chosen = answers[question.backend]
                if isinstance(chosen, Timed) and self.details.panels not in shown:
                    lent = self._lent if question.backend == PYTORCH else None
                    answer = lent.answer(question.text, PYTORCH, question.limits, is_wanted) if lent else chosen.answer
                    shown |= self.details.show(question.backend, answer)
                elif isinstance(chosen, InferenceError):
                    shown |= self.details.hide()
                passes = min(one.passes if isinstance(one, Timed) else 0 for one in answers.values())
                yield dict(shown)
            shown |= self._what_if(question, answers, is_wanted)
            yield dict(shown)
            if question.wants_why:
                shown |= self._explain(question, is_wanted, request)
                yield dict(shown)
            self._keep(question, passes, shown)
        except Cancelled:
            if not shown:
                yield self._nothing
        except InferenceError as error:
            html = f'<div data-asked="{question.number}">{render.message(error)}</div>'
            shown |= {self.comparison: html, self.why.result: ""}
            shown |= self.details.hide() | self.what_if.hide(question.number)
            yield shown

    def _ask_again(self, request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        """Ask again after a change of a setting; without a text, do nothing."""
        if any(text and text.strip() for text in values[: len(self.texts)]):
            yield from self._ask(request, *values)
        else:
            yield self._nothing

    def _explain_again(self, request: gr.Request, *values: Any) -> dict[Any, Any]:
        """Explain again after a change of what is to be explained; without a text, or closed, do nothing."""
        question, is_wanted = self._question(request, values)
        nothing: dict[Any, Any] = gr.skip()
        if not question.wants_why or not "".join(question.text or "").strip():
            return nothing
        try:
            return self._explain(question, is_wanted, request)
        except Cancelled:
            return nothing

    def _explain(self, question: Question, is_wanted: Callable[[], bool], request: gr.Request) -> dict[Any, Any]:
        limit = question.limits.get(question.reason[0])
        session = f"{request.session_hash} why"  # a newer explanation replaces this one, and no answers
        self._newest.note(session, question.number)

        def is_newest() -> bool:
            return is_wanted() and self._newest.is_newest(session, question.number)

        try:
            with self._explaining.turn(is_newest, address_of(request)):
                html = why.explain(self._models, question.text, question.backend, limit, is_newest, *question.reason)
        except Cancelled:
            raise
        except InferenceError as error:
            html = render.message(error)
        return {self.why.result: f'<div data-asked="{question.number}">{html}</div>'}

    def _table(self, question: Question, answers: Answers) -> str:
        """Return the answers that have come so far, side by side."""
        given = {name: one for name, one in answers.items() if isinstance(one, Timed)}
        read = None
        if given:
            classifier = self._models.get(next(iter(given)))
            read = reading(question.text, classifier.encode(question.text), classifier.unknown_token)
        return render.side_by_side(
            self._models.bundle,
            {name: one.answer if isinstance(one, Timed) else one for name, one in answers.items()},
            times={n: render.Times(one.median_ms, one.passes, self._recorded_ms.get(n)) for n, one in given.items()},
            limits=question.limits,
            reading=read,
            asked=question.number,
        )

    def _what_if(self, question: Question, answers: Answers, is_wanted: Callable[[], bool]) -> dict[Any, Any]:
        given = {name: one.answer for name, one in answers.items() if isinstance(one, Timed)}
        asked = (question.text, question.pinned, given, question.backend, question.limits, question.number)
        return self.what_if.show(*asked, is_wanted)

    def _keep(self, question: Question, passes: int, shown: dict[Any, Any]) -> None:
        """Let the page open with these answers, if they are those of its example with the settings of the start."""
        is_first = bool(self._samples) and question.text == as_text(*self._samples[0])
        is_plain = not question.limits and question.backend == self._backend and question.wants_why
        is_plain = is_plain and list(question.reason) == [widget.value for widget in self.why.inputs]
        if self.settled.value or not is_first or not is_plain or any(question.pinned) or not passes:
            return
        self._kept_times += 1
        self.settled.value = passes >= PASSES or self._kept_times >= KEPT_TIMES
        if passes > self._kept_passes:
            self._kept_passes = passes
            for component, value in shown.items():
                if isinstance(value, dict) and value.get("__type__") == "update":
                    component.visible = value["visible"]
                else:
                    content = component.postprocess(value)
                    component.value = content.model_dump() if hasattr(content, "model_dump") else content
        self.blocks.config = self.blocks.get_config_file()
