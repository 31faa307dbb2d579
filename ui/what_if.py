"""What follows from an answer: keep its text beside the next one, link to it, copy it as code, say that it is wrong.

All of it happens in the browser (`what_if.js`), except the comparison with the pinned text. Corrections never reach the
server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from inference import Answer, InferenceError, Prediction
from inference.backends import TITLES
from inference.calls.texts import MAX_CHARS, Text
from inference.classifier import Threshold
from inference.formats.bundle import SINGLE, Bundle, Task
from inference.formats.identity import content_key
from inference.jobs import Cancelled
from inference.loading import Models
from ui import render
from ui.answer import MANY, TOP


@dataclass(frozen=True)
class Api:
    """Where requests of other programs go: the HTTP API, or the page's own endpoint where that is not served."""

    path: str = "gradio_api/call/predict"
    """Relative to the page."""
    has_key: bool = False
    is_gradio: bool = True


class WhatIf:
    """The widgets and what they show.

    Attributes:
        pinned: the pinned text, or the two of a pair; empty without one. The browser writes them.
        outputs: what `show` and `hide` update.
    """

    def __init__(self, models: Models, api: Api) -> None:
        self._models = models
        self._api = api
        count = 2 if models.bundle.pairs else 1
        self.pinned = [gr.Textbox("", visible="hidden", elem_id=f"pinned-{number}") for number in range(count)]
        self._shown = gr.HTML(visible="hidden", elem_id="shown")

    def draw(self) -> None:
        """Draw the buttons below the answers, the form of a correction, and the place of the comparison."""
        bundle = self._models.bundle
        single = {name: task.labels for name, task in bundle.tasks.items() if task.problem_type == SINGLE}
        page = {
            "key": f"triptych corrections {content_key(bundle)}",
            "tasks": single,
            "names": list(bundle.tasks),
            "own": {name: task.threshold for name, task in bundle.tasks.items()},
            "boxes": len(self.pinned),
            "titles": {name: TITLES[name] for name in bundle.backends},
            "api": {"path": self._api.path, "hasKey": self._api.has_key, "isGradio": self._api.is_gradio},
        }
        gr.HTML(render.fill("actions", page=json.dumps(page), tasks=single), elem_id="actions", padding=False)
        gr.HTML(render.fill("pinned"), elem_id="pinned", padding=False)
        self._result = gr.HTML(elem_id="changes", padding=False)
        self.outputs = [self._shown, self._result]

    def connect(self) -> None:
        """Let the browser know of every answer: the address follows it, and so does an open form."""
        self._shown.change(None, None, None, js="() => window.triptych.answered()", api_visibility="private")

    def show(
        self,
        text: Text,
        pinned: Sequence[str],
        answers: Mapping[str, Answer],
        backend: str,
        limits: Mapping[str, float],
        number: float,
        is_wanted: Callable[[], bool],
    ) -> dict[Any, Any]:
        """Return the updates for a text that has been answered.

        Args:
            pinned: the values of `self.pinned`.
            answers: by runtime, of those that have one.
            backend: the runtime of the details.
            limits: the threshold of each task that has not the model's own.
            number: of the question. Gradio reports no change of an equal value, so the same answer to a second
                question would not reach the browser.
        """
        labels = {
            task: {name: answer.predictions[task][0].label for name, answer in answers.items()}
            for task in self._models.bundle.tasks
        }
        same = set(limits.values()) if len(limits) == len(labels) else set()
        threshold = same.pop() if len(same) == 1 else None
        shown = {
            "number": number,
            "text": text,
            "backend": backend,
            "threshold": threshold,
            "limits": dict(limits),
            "isExact": not limits or threshold is not None,
            "labels": labels,
        }
        return {
            self._shown: render.fill("shown", shown=json.dumps(shown)),
            self._result: self._compared(text, pinned, answers, limits, is_wanted),
        }

    def hide(self, number: float) -> dict[Any, Any]:
        """Return the updates for a question of this number that has no answer."""
        return {self._shown: render.fill("shown", shown=json.dumps({"number": number})), self._result: ""}

    def _compared(
        self,
        text: Text,
        pinned: Sequence[str],
        answers: Mapping[str, Answer],
        limits: Threshold,
        is_wanted: Callable[[], bool],
    ) -> str:
        if not any(map(str.strip, pinned)) or max(map(len, pinned)) > MAX_CHARS:
            return ""
        before: Text = pinned[0] if len(pinned) < 2 or not pinned[1].strip() else (pinned[0], pinned[1])
        if before == text:
            return render.fill("what_if", changes=[], backends=[])
        try:
            earlier = {name: self._models.answer(before, name, limits, is_wanted) for name in answers}
        except Cancelled:
            raise
        except InferenceError as error:
            return render.message(error)
        return render.fill(
            "what_if",
            changes=changes(self._models.bundle, earlier, answers),
            backends=list(answers),
            notable=render.NOTABLE,
        )


@dataclass(frozen=True)
class Change:
    """What changed for one task, by runtime."""

    task: str
    predictions: Mapping[str, tuple[Prediction, Prediction]]
    """The prediction for the pinned text, and the one now."""
    labels: list[str]
    """Those to show, the one that moved most first, and every predicted one; none if no label moved."""
    rest: int = 0
    """The number of the other labels."""
    rest_moved: float = 0.0
    """The most that the probability of any of them moved."""

    @property
    def moved(self) -> bool:
        """Whether the probability of any label is another one."""
        return bool(self.labels)


def changes(bundle: Bundle, earlier: Mapping[str, Answer], now: Mapping[str, Answer]) -> list[Change]:
    """Compare the answers to two texts, runtime by runtime."""
    return [
        _change(
            name,
            task,
            {backend: (earlier[backend].predictions[name][0], now[backend].predictions[name][0]) for backend in now},
        )
        for name, task in bundle.tasks.items()
    ]


def _change(name: str, task: Task, predictions: Mapping[str, tuple[Prediction, Prediction]]) -> Change:
    pairs = predictions.values()
    moved = {
        label: max((abs(now.scores[label] - before.scores[label]) for before, now in pairs), default=0.0)
        for label in task.labels
    }
    if not any(moved.values()):
        return Change(name, predictions, [])
    ranked = sorted(task.labels, key=lambda label: -moved[label])
    predicted = {prediction.label for pair in pairs for prediction in pair}
    top = set(ranked if len(ranked) <= MANY else ranked[:TOP]) | predicted
    rest = [label for label in ranked if label not in top]
    return Change(
        name,
        predictions,
        [label for label in ranked if label in top],
        len(rest),
        max((moved[label] for label in rest), default=0.0),
    )
