"""The details of one runtime's answer: the best labels of each task, where the time went, and every score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr

from inference import Answer, InferenceError
from inference.formats.bundle import Bundle
from ui import render

MANY, TOP = 8, 5  # a task with more labels shows the best five; the rest are in the tables


class Details:
    """The widgets and what they show. Draw it where they belong."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.labels: dict[str, gr.Label] = {}
        self.tables: dict[str, gr.Dataframe] = {}
        with gr.Column(visible=False, elem_id="details") as self.panels:
            self.timing = gr.HTML(elem_id="timing")
            with gr.Row():
                for name, task in bundle.tasks.items():
                    self.labels[name] = gr.Label(
                        label=name,
                        show_heading=False,  # it is in the column of the runtime
                        num_top_classes=TOP if len(task.labels) > MANY else len(task.labels),
                        min_width=280,
                    )
            with gr.Accordion("Every score", open=False), gr.Row():
                for name, task in bundle.tasks.items():
                    self.tables[name] = gr.Dataframe(
                        headers=["label", "probability"],
                        datatype=["str", "number"],
                        interactive=False,
                        label=f"{name}: all {len(task.labels)} labels",
                        column_widths=["62%", "38%"],
                        max_height=320,
                        min_width=280,
                    )
        self.outputs = [self.panels, *self.labels.values(), *self.tables.values(), self.timing]

    def show(self, backend: str, answer: Answer) -> dict[Any, Any]:
        """Return the updates that show an answer."""
        updates = {
            self.panels: gr.update(visible=True),
            self.timing: render.timing(backend, answer),
        }
        for name in self._bundle.tasks:
            (prediction,) = answer.predictions[name]
            updates[self.labels[name]] = dict(prediction.scores)
            updates[self.tables[name]] = by_score(prediction.scores)
        return updates

    def hide(self) -> dict[Any, Any]:
        """Return the update that shows no answer."""
        return {self.panels: gr.update(visible=False)}


def by_score(scores: Mapping[str, float]) -> list[list[Any]]:
    """Return rows of label and probability to six digits, the most likely first."""
    return [[label, round(score, 6)] for label, score in sorted(scores.items(), key=lambda pair: -pair[1])]


def as_json(answer: Answer | InferenceError) -> dict[str, Any]:
    """Return one backend's answer to one text in plain types: `predictions` per task, `timing` in ms, any `note`."""
    if not isinstance(answer, Answer):
        return {"error": str(answer)}
    predictions = {task: prediction.to_dict() for task, (prediction,) in answer.predictions.items()}
    timing = asdict(answer.timing) | {"total_ms": answer.timing.total_ms}
    return {"predictions": predictions, "timing": timing} | ({"note": answer.note} if answer.note else {})
