"""The tab "Score a file": a table in, the same table with the model's answers out, by the scorer of the command line.

One file is scored at a time, in the order they came, in a thread. A single question does not wait for a file; it only
shares the processor with it. Uploads, work in progress and results are in the server's own temporary folder: see
`ui/files.py`.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from inference import InferenceError, InputError
from inference.backends import TITLES, check_backend
from inference.jobs import BackgroundJob, Cancelled, Lane, Progress
from inference.loading import Models
from inference.score.run import Model, Report, ScoreJob, doubtful_header, score
from inference.score.writing import FORMATS, as_text
from inference.tables.reading import EXTENSIONS, assumed, open_upload
from inference.tables.source import Source
from inference.tables.table import NoTextColumn, Table
from ui import figures, render
from ui.files import MAX_UPLOAD_MB
from ui.render import fill, shorten
from ui.right_labels import LabelFields
from ui.scored import RightLabels, ScoredRows, guess_label_columns

MAX_ROWS = 20_000  # a minute or so
MAX_WAITING = 16  # files, including the one being scored; one per session
MAX_PER_ADDRESS = 4  # of one address
FULL = "Too many files are waiting. Try again in a few minutes."
COMMAND = "python -m inference score"
GONE = "The server has deleted the file. Upload it again."
BLOCK_ROWS = 250  # half a second: how often progress is reported and a cancel noticed
PATIENCE_S = 20  # a visitor not seen for longer has left
SHOW_S = 0.3  # between two updates of the progress bar
PREVIEW_ROWS, PREVIEW_COLUMNS, MAX_CELL_CHARS = 5, 12, 120


@dataclass(frozen=True)
class Scored:
    """What became of a file."""

    report: Report
    right: Mapping[str, RightLabels]
    """Of the tasks for which a column was chosen."""
    rows: ScoredRows


class ScoreTab:
    """The widgets of the tab and what they do. Draw it within the tab.

    Args:
        backend: the runtime selected at the start.
        thresholds: the page's sliders, one of each task.
    """

    def __init__(self, models: Models, backend: str, thresholds: Sequence[Any]) -> None:
        self._models = models
        self._lane = Lane(MAX_WAITING, MAX_PER_ADDRESS, FULL)
        self._jobs: dict[str, BackgroundJob[Scored] | None] = {}  # session -> its file; None before the job starts
        self._reserving = threading.Lock()
        gr.HTML(fill("score_intro", max_mb=MAX_UPLOAD_MB, max_rows=MAX_ROWS, pairs=models.bundle.pairs))
        self._draw_question(backend)
        self._draw_result()
        self._connect(thresholds)

    def _draw_question(self, backend: str) -> None:
        bundle = self._models.bundle
        with gr.Row():
            self.file = gr.File(
                label=f"File: CSV, Excel, JSON, JSONL or Parquet, at most {MAX_UPLOAD_MB} MB",
                file_types=[*EXTENSIONS, ".xls", ".ods"],  # refused in words that say what to do with it
                height=130,
                scale=3,
                min_width=280,
                elem_id="score-file",
            )
            with gr.Column(scale=2, min_width=280):
                runtimes = [(TITLES[name], name) for name in bundle.backends]
                self.runtime = gr.Radio(runtimes, value=backend, label="Runtime", elem_id="score-runtime")
                formats = [("CSV", "csv"), ("JSONL", "jsonl"), ("Parquet", "parquet")]
                self.format = gr.Radio(formats, value="csv", label="Output format")
                self.all_scores = gr.Checkbox(False, label="Include the probability of every label")
        with gr.Row(visible=False) as self.fields:
            # Checked against the file and not here: the choices may be those of the next file by then.
            dropdown = partial(gr.Dropdown, choices=[], interactive=True, allow_custom_value=True, min_width=200)
            self.column = dropdown(label="Text column", elem_id="score-column")
            self.second = []  # the dropdown of the second texts, for a model that takes pairs
            if bundle.pairs:
                self.second.append(dropdown(label="Column of the second texts", elem_id="score-second"))
            self.labels = LabelFields(bundle.tasks)
        self.labels.note.render()
        self.preview = gr.HTML(elem_id="score-preview")
        with gr.Row(elem_id="score-buttons"):
            self.begin = gr.Button("Score the file", variant="primary", interactive=False, elem_id="score-begin")
            self.stop = gr.Button("Stop", interactive=False, elem_id="score-stop")

    def _draw_result(self) -> None:
        self.status = gr.HTML(elem_id="score-status")
        self.download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="score-download")
        with gr.Column(visible=False, elem_id="score-results") as self.results:
            self.report = gr.HTML(apply_default_css=False)
            self.table = gr.HTML(apply_default_css=False)  # the browser fills it from this file:
            self.rows = gr.File(elem_id="score-rows-file")

    def _connect(self, thresholds: Sequence[Any]) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        at_once: dict[str, Any] = {"concurrency_id": "at once", "concurrency_limit": 4, **quiet}
        looking: dict[str, Any] = {"concurrency_id": "look", "concurrency_limit": 4, **quiet}
        results = [self.status, self.download, self.results, self.report, self.table, self.rows]
        shown = [self.fields, self.column, *self.second, self.preview, self.begin, *self.labels.outputs, *results]
        gr.on([self.file.upload, self.file.clear], self._look, [self.file], shown, **looking)
        self.column.input(lambda name: gr.update(interactive=name is not None), self.column, self.begin, **at_once)
        checked = [self.file, *self.labels.inputs]
        for fields, check in ((self.labels.columns, self._check_columns), (self.labels.uses, self._check_maps)):
            if fields:
                gr.on([field.input for field in fields], check, checked, self.labels.outputs, **looking)
        # In the browser, so that a click is seen to do something on a busy machine too.
        starting = json.dumps(fill("score_progress", step="Starting", share=0.0, left_s=None))
        close = "document.querySelector('#score-preview details')?.removeAttribute('open')"
        self.begin.click(
            None, None, self.status, js=f"() => {{ {close}; return {starting}; }}", api_visibility="private"
        )
        scored = self.begin.click(
            self._score,
            [
                *(self.file, self.column, self.runtime, self.format, self.all_scores),
                *(*self.labels.inputs, *self.second, *thresholds),
            ],
            [*results, self.begin, self.stop],
            concurrency_id="score",
            concurrency_limit=MAX_WAITING + 2,  # the last two are for refusals
            **quiet,
        )
        scored.then(None, self.rows, None, js="(file) => window.showScored(file)", api_visibility="private")
        self.stop.click(self._cancel, None, self.stop, **at_once)

    def _look(self, path: str | None) -> Iterator[dict[Any, Any]]:
        """Show the columns and first rows of an upload, then its right labels; or why it cannot be scored."""
        columns: list[str] = []
        table, text_column, shown = None, None, ""
        try:
            if path is not None:
                table, text_column, doubt = looked_at(uploaded(path))
                columns = list(dict.fromkeys(table.columns))
                shown = (render.message(InputError(doubt)) if doubt else "") + rows_as_html(table)
        except InferenceError as error:
            shown = render.message(error)
        yield {
            self.column: gr.update(choices=columns, value=text_column),
            **{second: gr.update(choices=columns, value=None) for second in self.second},
            self.preview: shown,
            self.begin: gr.update(interactive=False),
            self.fields: gr.update(visible=table is not None),
            self.labels.note: "",
            **self._status(""),
        }
        if table is not None:
            taken = [table.text_column] if text_column is not None else []
            guessed = guess_label_columns(table, self._models.bundle.tasks, taken)
            begin = gr.update(interactive=text_column is not None)
            yield {**self.labels.guess(table, guessed), self.begin: begin}  # only now, or a quick click goes without

    def _check_columns(self, path: str | None, *values: Any) -> dict[Any, Any]:
        return self._check(path, values, is_new=True)

    def _check_maps(self, path: str | None, *values: Any) -> dict[Any, Any]:
        return self._check(path, values, is_new=False)

    def _check(self, path: str | None, values: Sequence[Any], is_new: bool) -> dict[Any, Any]:
        """Say what the labels of the chosen columns are."""
        try:
            return self.labels.check(examine(uploaded(path))[0], values, is_new)
        except InferenceError as error:
            return {self.labels.note: render.message(error)}

    def _score(
        self,
        request: gr.Request,
        path: str | None,
        text_column: str | None,
        backend: str,
        format: str,
        all_scores: bool,
        *rest: Any,
    ) -> Iterator[dict[Any, Any]]:
        """Score the file; show how far it is, and in the end the download, the charts and the rows."""
        labels, rest = rest[: len(self.labels.inputs)], rest[len(self.labels.inputs) :]
        pair_column, limits = (rest[0], rest[1:]) if self.second else (None, rest)
        session = request.session_hash or ""
        folder = Path(tempfile.mkdtemp(prefix="triptych-score-"))
        job: BackgroundJob[Scored] | None = None
        is_ours = False
        try:
            if path is None or text_column is None:
                missing = "Upload a file" if path is None else "Choose the text column"
                raise InputError(f"{missing} first.")
            if self.second and not pair_column:
                raise InputError("This model takes pairs of texts. Choose the column of the second texts first.")
            with self._reserving:
                if session in self._jobs:
                    raise InputError("Another file of yours is being scored. Stop it first.")
                self._jobs[session], is_ours = None, True
            check_backend(backend, self._models.bundle.backends, self._models.bundle.missing)
            if format not in FORMATS:
                raise InputError(f"Unknown format. Use one of: {', '.join(FORMATS)}.")
            task = ScoreJob(
                own_copy(path, folder),
                folder / file_name(path, format),
                text_column=text_column,
                pair_column=pair_column,
                threshold=dict(zip(self._models.bundle.tasks, limits, strict=True)),
                all_scores=bool(all_scores),
                format=format,
                block_rows=BLOCK_ROWS,
                keep_partial=True,
            )
            address = request.client.host if request.client else ""
            self._jobs[session] = job = self._start(task, backend, labels, address)
            yield self._buttons(busy=True)
            while not job.wait(SHOW_S):
                yield self._status(progress(job))
            yield self._shown(job.outcome(), limits, backend) | self._buttons(busy=False)
        except Cancelled:
            stopped = '<p class="small" role="status">Stopped.</p>'
            yield self._status(stopped) | self._buttons(busy=False)
        except InferenceError as error:
            yield self._status(render.message(error)) | self._buttons(busy=session in self._jobs and not is_ours)
        finally:
            if job is not None:
                job.cancel()
            if is_ours:
                del self._jobs[session]
            shutil.rmtree(folder, ignore_errors=True)  # Gradio has a copy of what is to be downloaded

    def _start(self, task: ScoreJob, backend: str, labels: Sequence[Any], address: str) -> BackgroundJob[Scored]:
        bundle = self._models.bundle

        def work(progress: Progress) -> Scored:
            def waiting(ahead: int) -> None:
                whose = "the file of another visitor" if ahead == 1 else f"the files of {ahead} other visitors"
                progress(f"Waiting for {whose}. Yours starts automatically.", 0.0)

            with self._lane.turn(client=address, waiting=waiting):
                progress("Starting", 0.0)
                table, _ = examine(task.source, task.text_column)  # the browser may not have asked for the preview
                right = self.labels.read(table, labels)
                texts = [table.text_column, *([] if task.pair_column is None else [task.pair_column])]
                model = Model(bundle, backend, partial(self._models.get, backend))
                path = task.out.parent / f"{task.out.parent.name}.jsonl.gz"  # a name that no other file's rows have
                with ScoredRows(path, table, texts, bundle.tasks, right) as rows:
                    report = score(task, model, progress=progress, keep=rows.add)
                return Scored(report, right, rows)

        return BackgroundJob(task.source.name, work, patience_s=PATIENCE_S)

    def _cancel(self, request: gr.Request) -> Any:
        if (job := self._jobs.get(request.session_hash or "")) is not None:
            job.cancel()
        return gr.update(interactive=False, value="Stopping …" if job else "Stop")

    def _status(self, html: str) -> dict[Any, Any]:
        """Show this in the place of a result."""
        hidden = {self.download: gr.update(visible=False), self.results: gr.update(visible=False)}
        return {self.status: html, self.rows: None, **hidden}

    def _buttons(self, busy: bool) -> dict[Any, Any]:
        """While a file is scored, it can be stopped and no other can be started."""
        return {self.begin: gr.update(interactive=not busy), self.stop: gr.update(interactive=busy, value="Stop")}

    def _shown(self, scored: Scored, limits: Sequence[float], backend: str) -> dict[Any, Any]:
        """Return the updates that show a result."""
        report, rows = scored.report, scored.rows
        thresholds = dict(zip(self._models.bundle.tasks, limits, strict=True))
        name = report.out.name.removesuffix(f"scored.{report.format}")
        return {
            self.status: figures.summary(report, backend, rows.listed),
            self.download: gr.update(visible=True, value=str(report.out), label=f"Download {report.out.name}"),
            self.results: gr.update(visible=True),
            self.report: figures.report(report, backend, self._models.bundle, thresholds, scored.right, rows),
            self.table: fill("score_rows", rows=rows.path.name, name=f"{name}rows.csv", backend=backend),
            self.rows: str(rows.path),
        }


def uploaded(path: str | None) -> Path:
    """Return the path of an upload.

    Raises:
        InputError: there is none, or it was deleted.
    """
    if path is None:
        raise InputError("Upload a file first.")
    if not Path(path).is_file():
        raise InputError(GONE)
    return Path(path)


def own_copy(path: str, folder: Path) -> Path:
    """Copy an upload into the job's folder, because uploads are deleted when others need the room.

    Raises:
        InputError: it was deleted already, or the disk is full.
    """
    try:
        (folder / "in").mkdir()  # the result may have the same name
        return Path(shutil.copyfile(path, folder / "in" / Path(path).name))
    except FileNotFoundError:
        raise InputError(GONE) from None
    except OSError as error:
        raise InputError("The server has no room for the file. Try again later.") from error


def looked_at(path: Path) -> tuple[Table, str | None, str]:
    """Open an upload; return it, its text column if that can be determined, and what to check before it is scored.

    Raises:
        InputError: as in `examine`.
    """
    table, question = examine(path)
    if question is not None:
        return table, None, f"Which column of {path.name} holds the texts? Choose it above.{question.hint}"
    return table, table.text_column, doubtful_header(table) or ""


def examine(path: Path, text_column: str | None = None) -> tuple[Table, NoTextColumn | None]:
    """Open an upload as `open_upload` does, if it is small enough for this page.

    Raises:
        InputError: it cannot be read, or is larger than this page scores.
    """
    table, question = open_upload(Source(path.name, path), COMMAND, text_column)
    if table.row_count > MAX_ROWS:
        raise InputError(
            f"{path.name} has {table.row_count:,} rows; the maximum is {MAX_ROWS:,}. Use the command line: {COMMAND}"
        )
    return table, question


def rows_as_html(table: Table) -> str:
    """Return the first rows of a table."""
    row_count = table.row_count
    count = f"First {PREVIEW_ROWS} of {row_count:,} rows" if row_count > PREVIEW_ROWS else f"All {row_count} rows"
    if row_count == 1:
        count = "The only row"
    if len(table.columns) > PREVIEW_COLUMNS:
        count += f", first {PREVIEW_COLUMNS} of {len(table.columns)} columns"
    if sentence := assumed(table):
        count += f". {sentence[:-1]}"
    lines = [table.columns, *([as_text(cell) for cell in cells] for cells in next(table.blocks(PREVIEW_ROWS)).cells())]
    columns, *rows = [[shorten(cell, MAX_CELL_CHARS) for cell in cells[:PREVIEW_COLUMNS]] for cells in lines]
    return fill("score_preview", count=count, columns=columns, rows=rows)


def progress(job: BackgroundJob[Any]) -> str:
    """Return a bar with the current step and the time that is left."""
    return fill("score_progress", step=job.step, share=job.share, left_s=job.left_s)


def file_name(path: str, format: str) -> str:
    """Return the name of the download: that of the upload, in plain letters."""
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem, flags=re.ASCII).strip("._")[:60]
    return f"{stem or 'file'}.scored.{format}"
