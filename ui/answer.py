"""The tab with the answer of one runtime: the best labels of each task, where the time went, and every score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from inference import Answer
from inference.formats.bundle import Bundle
from ui import render

MANY, TOP = 8, 5  # a task with more labels shows the best five; the rest are in the tables


class AnswerTab:
    """The widgets of the tab and what they show. Draw it within the tab."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.verdicts: dict[str, gr.HTML] = {}
        self.labels: dict[str, gr.Label] = {}
        self.tables: dict[str, gr.Dataframe] = {}
        with gr.Column(visible=False) as self.panels:
            with gr.Row():
                for name, task in bundle.tasks.items():
                    with gr.Column(min_width=280, elem_classes="panel"):
                        self.verdicts[name] = gr.HTML()
                        self.labels[name] = gr.Label(
                            label=f"{name}: most likely labels",
                            show_heading=False,
                            num_top_classes=TOP if len(task.labels) > MANY else len(task.labels),
                        )
            self.timing = gr.HTML(elem_id="timing")
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
        self.outputs = [self.panels, *self.verdicts.values(), *self.labels.values(), *self.tables.values(), self.timing]

    def show(self, backend: str, answer: Answer, threshold: float | None) -> dict[Any, Any]:
        """Return the updates that show an answer. A threshold of None means the model's own."""
        updates = {
            self.panels: gr.update(visible=True),
            self.timing: render.timing(backend, answer, self._bundle.max_tokens),
        }
        for name, task in self._bundle.tasks.items():
            (prediction,) = answer.predictions[name]
            limit = task.threshold if threshold is None else threshold
            updates[self.verdicts[name]] = render.verdict(name, task, prediction, limit)
            updates[self.labels[name]] = dict(prediction.scores)
            updates[self.tables[name]] = by_score(prediction.scores)
        return updates


def by_score(scores: Mapping[str, float]) -> list[list[Any]]:
    """Return rows of label and probability to six digits, the most likely first."""
    return [[label, round(score, 6)] for label, score in sorted(scores.items(), key=lambda pair: -pair[1])]
