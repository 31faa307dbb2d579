"""The tab "Why": which words of the text speak for a label, and which against it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from inference.assets import FAITHFULNESS
from inference.backends import RUNTIMES
from inference.calls.texts import Text
from inference.errors import InferenceError
from inference.explain.explanation import GRADIENTS, METHOD_TITLES, OCCLUSION, Attribution, Explanation, signed
from inference.explain.faithfulness import FIGURES, faithfulness_sentences, find_record
from inference.formats.bundle import Bundle
from inference.loading import Models
from ui.render import TEMPLATES, fill, shorten

PREDICTED = ""  # the choice of the label that the model predicts
MIN_WEIGHT = 0.05  # of the largest attribution: smaller ones are only in the table
MAX_QUOTED_CHARS = 60  # of a word in the headline
MAX_UNREAD = 200  # characters shown of a part that was not read
BUSY = "Too many explanations are waiting. Try again in a few seconds."


class WhyTab:
    """The widgets of the tab. Draw it within the tab.

    Attributes:
        inputs: what an explanation depends on beside the text and the runtime, in the order that `explain` takes it.
        changes: events after which the explanation must be made again.
    """

    def __init__(self, bundle: Bundle) -> None:
        first = next(iter(bundle.tasks))
        methods = [("Leave out one word at a time", OCCLUSION)]
        if any(RUNTIMES[name].has_gradients for name in bundle.backends):
            methods.append(("Integrated gradients (PyTorch)", GRADIENTS))
        with gr.Row(elem_id="why-asked"):
            task = gr.Dropdown(list(bundle.tasks), value=first, label="Task", min_width=140, elem_id="why-task")
            # One per task, of which one is visible. Gradio would refuse a label of the task before if it changed the
            # choices of one dropdown instead: an event sent before the change is checked after it.
            labels = [
                gr.Dropdown(
                    [("the predicted label", PREDICTED), *((label, label) for label in spec.labels)],
                    value=PREDICTED,
                    label="Label",
                    visible=name == first,
                    min_width=200,
                    elem_classes="why-label",
                )
                for name, spec in bundle.tasks.items()
            ]
            method = gr.Radio(methods, value=OCCLUSION, label="Method", min_width=280, elem_id="why-method")
        self.result = gr.HTML(elem_id="why")
        self.inputs = [task, method, *labels]
        # A Dropdown sends its input twice for one choice by the mouse, and its select not at all for one by the keys.
        self.changes = [method.input, task.change, *(label.change for label in labels)]
        # In the browser and at once: after a round trip the labels of the task before may already be open.
        names = json.dumps(list(bundle.tasks))
        show_labels = f'(task) => {names}.map((name) => ({{ __type__: "update", visible: name === task }}))'
        task.change(None, task, labels, js=show_labels, api_visibility="private")


def explain(
    models: Models,
    text: Text,
    backend: str,
    threshold: float | None,
    is_wanted: Callable[[], bool],
    task: str,
    method: str,
    *labels: str,
) -> str:
    """Explain a text; return the HTML.

    Args:
        threshold: score below which an answer is uncertain; None for the model's own.
        is_wanted: whether anybody still waits for it.
        labels: the one selected for each task, in their order.

    Raises:
        InferenceError: the text cannot be explained.
    """
    label = dict(zip(models.bundle.tasks, labels, strict=True)).get(task)  # an unknown task is refused by `explain`
    runtime = _runtime(models.bundle, backend, method)
    if runtime != backend and not label and task in models.bundle.tasks:
        label = models.answer(text, backend, None, is_wanted).predictions[task][0].label  # the one that is shown
    explanation = models.explain(text, runtime, task, label or None, method, is_wanted)
    limit = models.bundle.tasks[task].threshold if threshold is None else threshold
    return html(explanation, _record(models.bundle, explanation), limit, backend)


def _runtime(bundle: Bundle, backend: str, method: str) -> str:
    """Return the runtime that explains an answer of `backend`: this one, or another if it has no gradients."""
    able = [name for name in bundle.backends if method != GRADIENTS or RUNTIMES[name].has_gradients]
    return backend if backend in able or not able else able[0]


def html(
    explanation: Explanation,
    record: Mapping[str, Any] | None = None,
    threshold: float = 0.0,
    backend: str | None = None,
) -> str:
    """Return an explanation: the text with its words marked, what to know, every figure, and whether to trust it.

    Args:
        record: the check of this model, backend and method, if there is one.
        threshold: score below which the model's answer is uncertain.
        backend: whose answer it is about, if another runtime explains it.
    """
    is_checked = record is not None and explanation.task in record["tasks"]
    return fill(
        "why",
        explanation=explanation,
        answered=backend or explanation.backend,
        headline=_headline(explanation),
        parts=_parts(explanation),
        threshold=threshold,
        max_unread=MAX_UNREAD,
        min_weight=MIN_WEIGHT,
        check=faithfulness_sentences(record, explanation.task) if record and is_checked else [],
        beats_random=record is not None and is_checked and _beats_random(record["tasks"][explanation.task]),
    )


def _headline(explanation: Explanation) -> list[tuple[str, list[str]]]:
    """Return the parts of a sentence about the words that matter most on either side, each with the words it names."""
    ranked = sorted(explanation.words, key=lambda word: -abs(word.attribution or 0.0))
    most = abs(ranked[0].attribution or 0.0) if ranked else 0.0
    how = "most" if explanation.shared is None else "slightly"
    parts: list[tuple[str, list[str]]] = [] if explanation.shared is None else [("no single word decides it", [])]
    for verb, sign in (("supported", 1), ("opposed", -1)):
        words = (
            shorten(word.text, MAX_QUOTED_CHARS)
            for word in ranked
            if sign * (word.attribution or 0.0) > MIN_WEIGHT * most
        )
        if named := list(dict.fromkeys(words))[:2]:
            parts.append((f"{verb} {how} by", named))
    return parts


@dataclass(frozen=True)
class _Piece:
    """A word of the text, with what stands between it and the word before."""

    before: str
    word: Attribution
    weight: float
    """Of its attribution, beside the largest of the text."""
    direction: str
    is_neutral: bool
    """Has neither a direction of its own nor that of a number."""


@dataclass(frozen=True)
class _Part:
    """The text, or one of the texts of a pair."""

    title: str
    """Empty if it is the only one."""
    text: str
    number: int
    """0, or 1 for the second text of a pair."""
    pieces: list[_Piece]
    unread_start: str
    rest: str
    """What was read after the last word."""
    unread_end: str


def _parts(explanation: Explanation) -> list[_Part]:
    most = max((abs(word.attribution or 0.0) for word in explanation.words), default=0.0)
    titles = ("First text", "Second text") if explanation.second_text is not None else ("",)
    parts = []
    for number, (title, (text, (low, high), words)) in enumerate(zip(titles, explanation.texts, strict=True)):
        pieces, end = _pieces(text, low, words, most)
        parts.append(_Part(title, text, number, pieces, text[:low], text[end:high], text[high:]))
    return parts


def _pieces(text: str, low: int, words: Sequence[Attribution], most: float) -> tuple[list[_Piece], int]:
    """Return the words in the order in which any text box would show them, and where the last one ends."""
    pieces, end = [], low
    usual = direction = direction_of(text) or "ltr"
    for word in words:
        before = text[end : word.start]
        if "\n" in before:
            direction = usual
        own = direction_of(word.text)
        direction = own or direction  # a number goes on in the direction of the word before it
        is_neutral = own is None and not any(letter.isnumeric() for letter in word.text)
        weight = abs(word.attribution or 0.0) / most if most else 0.0
        pieces.append(_Piece(before, word, weight, direction, is_neutral))
        end = word.end
    return pieces, end


def direction_of(text: str) -> str | None:
    """Return the direction of the first letter that has one, "ltr" or "rtl", else None (rule P2 of UAX #9)."""
    kinds = map(unicodedata.bidirectional, text)
    return next(("ltr" if kind == "L" else "rtl" for kind in kinds if kind in ("L", "R", "AL")), None)


def _beats_random(figures: Mapping[str, Any]) -> bool:
    return all(figures[name]["difference"]["low"] > 0 for name in FIGURES)


def _isolated(note: str) -> Markup:
    """Escape a note so that a quoted word of another direction does not turn the sentence around it."""
    return Markup(re.sub("“(.*?)”", r"“<bdi>\1</bdi>”", str(escape(note))))


def _record(bundle: Bundle, explanation: Explanation) -> dict[str, Any] | None:
    try:
        return find_record(FAITHFULNESS, bundle, explanation.backend, explanation.method)
    except InferenceError:  # a damaged file must not prevent an explanation
        return None


TEMPLATES.globals |= {"METHOD_TITLES": METHOD_TITLES, "OCCLUSION": OCCLUSION}
TEMPLATES.filters |= {"isolated": _isolated, "signed": signed}
