"""The fields of "Score a file" that say which columns hold right labels, and what labels mean that the model lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from inference import InferenceError
from inference.errors import counted
from inference.formats.bundle import Task
from inference.tables.table import Table, shortened
from ui import render
from ui.scored import MAX_UNKNOWN, RightLabels, label_tasks, map_as_text, named_columns, read_map, read_right_labels

NONE = ""  # no column


class LabelFields:
    """The fields, and what they say. Draw them within a row.

    Attributes:
        note: what was found in the columns; to be rendered below the row.
        inputs: what `read` and `check` take: column, map and whether to use it, for each task.
        columns, uses: of these, the choices of a column, and the boxes to tick.
        outputs: what `guess` and `check` update.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        self._names = label_tasks(tasks)
        self.columns: list[gr.Dropdown] = []
        self.maps: list[gr.Textbox] = []
        self.uses: list[gr.Checkbox] = []
        self.note = gr.HTML(render=False)
        for name in self._names:
            with gr.Column(min_width=200):
                self._draw(name)
        self.inputs = [field for fields in zip(self.columns, self.maps, self.uses, strict=True) for field in fields]
        self.outputs = [self.note, *self.inputs]

    def _draw(self, name: str) -> None:
        label = f"Right {name} label" if len(self._names) > 1 else "Column with the right labels"
        # Checked against the file and not here: the choices may be those of the next file by then.
        self.columns.append(
            gr.Dropdown(label=label, choices=[("none", NONE)], value=NONE, interactive=True, allow_custom_value=True)
        )
        info = "A line per label: in the file = here. Nothing after the = leaves its rows out."
        self.maps.append(gr.Textbox(label=f"What the {name} labels mean", info=info, max_lines=8, visible=False))
        self.uses.append(gr.Checkbox(False, label="Use this mapping", visible=False))

    def guess(self, table: Table, guessed: Mapping[str, str]) -> dict[Any, Any]:
        """Return the updates for another file, whose label columns are probably these."""
        choices = [("none", NONE), *((render.shorten(column, 60), column) for column in named_columns(table))]
        shown: dict[Any, Any] = {
            column: gr.update(choices=choices, value=guessed.get(name, NONE))
            for name, column in zip(self._names, self.columns, strict=True)
        }
        values = [value for name in self._names for value in (guessed.get(name, NONE), "", False)]
        return shown | self.check(table, values, is_new=True)

    def check(self, table: Table, values: Sequence[Any], is_new: bool) -> dict[Any, Any]:
        """Return the updates that say what the labels are, with a map to fill in where the model lacks some.

        Args:
            is_new: another column was chosen, so that a map in the fields is of another one.
        """
        if is_new:
            values = [value for column, *_ in _triples(values) for value in (column, "", False)]
        try:
            right = self.read(table, values)
        except InferenceError as error:
            return {self.note: render.message(error)}
        shown: dict[Any, Any] = {self.note: render.fill("score_labels", lines=[_line(*item) for item in right.items()])}
        for name, text, use in zip(self._names, self.maps, self.uses, strict=True):
            unknown = right[name].unknown if name in right else {}
            if is_new or unknown:
                is_shown = 0 < len(unknown) <= MAX_UNKNOWN
                shown[use] = gr.update(visible=is_shown)
                shown[text] = gr.update(visible=is_shown)
                if is_new:
                    shown[use]["value"] = False
                    shown[text]["value"] = map_as_text(unknown, self._tasks[name]) if is_shown else ""
        return shown

    def read(self, table: Table, values: Sequence[Any]) -> dict[str, RightLabels]:
        """Return the right labels of each task that has a column.

        Raises:
            InputError: as in `read_right_labels` and `read_map`.
        """
        chosen = {name: fields for name, fields in zip(self._names, _triples(values), strict=True) if fields[0]}
        maps = {name: read_map(text or "") for name, (_, text, use) in chosen.items() if use}
        return read_right_labels(table, self._tasks, {name: column for name, (column, *_) in chosen.items()}, maps)


def _triples(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[at : at + 3] for at in range(0, len(values), 3)]


def _line(task: str, right: RightLabels) -> tuple[bool, str]:
    """Return whether the labels can be used, and a sentence about them."""
    if right.problem is not None:
        return False, f"{task}: {right.problem}"
    labelled = counted(sum(position >= 0 for position in right.ids), "row")
    return True, ". ".join(
        [f"{task}: {labelled} with a right label in column {shortened(right.column)}", *right.remarks]
    ) + "."
