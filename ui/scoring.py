"""The tab "Score a file": a table in, the same table with the model's answers out, by the scorer of the command line.

A file is scored in a thread, block by block, so that it can be stopped and says how far it is. One file is answered at
a time, in the order they came, and who waits is told so. A single question does not wait for a file, it only shares the
cores with it.
What is uploaded, what is under way and what comes of it lie in the server's own folder of temporary files: see
`ui/files.py`.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from inference import InferenceError, InputError
from inference.backends import check_backend
from inference.loading import Models
from inference.score.run import Model, Report, ScoreJob, doubtful_header, score
from inference.score.writing import FORMATS, as_text
from inference.tables.reading import FORMATS as READ
from inference.tables.reading import SPREADSHEETS, open_upload
from inference.tables.table import NoTextColumn, Source, Table
from ui import figures, render
from ui.files import MAX_UPLOAD_MB
from ui.render import fill

MAX_ROWS = 20_000  # a minute or so
MAX_WAITING = 16  # files that are scored or wait, each of another session
MAX_PER_ADDRESS = 4  # of one address
FULL = "Many files are waiting already. Try again in a few minutes."
COMMAND = "python -m inference score"
GONE = "The server has deleted the file. Upload it again."
BLOCK_ROWS = 250  # half a second: as often is progress shown, and so soon is a file stopped
PATIENCE_S = 20  # a reader who was not seen for so long has left
PREVIEW_ROWS, PREVIEW_COLUMNS = 5, 12
_log = logging.getLogger(__name__)

INTRO = fill("score_intro", max_mb=MAX_UPLOAD_MB, max_rows=MAX_ROWS)


class _Stopped(Exception):
    """Raised where the scorer reports progress; so it ends."""


@dataclass(eq=False)
class Scoring:
    """A file that is being scored: how far it is, and in the end its report or what went wrong.

    Attributes:
        line: the files of all visitors that are not done. The first is scored, the others wait.
    """

    job: ScoreJob
    model: Model
    line: list[Scoring]
    address: str
    step: str = "Starting"
    share: float = 0.0
    report: Report | None = None
    error: InferenceError | None = None
    stopped: bool = False
    _seen: float = field(default_factory=time.monotonic)
    _started: float = field(default_factory=time.monotonic)

    def follow(self) -> Iterator[str]:
        """Score it; what to show meanwhile, every moment."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        while thread.is_alive():
            self._seen = time.monotonic()
            yield progress(self.step, self.share, self.seconds)
            thread.join(0.3)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def _run(self) -> None:
        self.line.append(self)
        try:
            while (before := self.line.index(self)) > 0:
                whose = "the file of another visitor" if before == 1 else f"the files of {before} other visitors"
                self._tell(f"Waiting for {whose}. Yours begins by itself.", 0.0)
                time.sleep(0.1)
            self._started = time.monotonic()
            self._tell("Starting", 0.0)
            examine(self.job.source, self.job.text_column)  # what the browser says was looked at, need not be
            self.report = score(self.job, self.model, progress=self._tell)
        except _Stopped:
            self.stopped = True
        except InferenceError as error:
            self.error = error
        except Exception:  # a thread that dies in silence would look as if it had been stopped
            if not self.stopped:  # else its folder has gone
                _log.exception("scoring an uploaded file failed")
                self.error = InferenceError("Scoring the file failed; the server's log says why.")
        finally:
            self.line.remove(self)

    def _tell(self, step: str, share: float) -> None:
        if self.stopped or time.monotonic() - self._seen > PATIENCE_S:
            raise _Stopped
        self.step, self.share = step, share


def panel(models: Models, runtime: gr.Radio, own: gr.Checkbox, threshold: gr.Slider) -> None:
    """The widgets of the tab, within it. They answer on the runtime and by the threshold that the page has chosen."""
    running: dict[str, Scoring] = {}  # session -> its file
    line: list[Scoring] = []
    tasks = models.bundle.tasks
    gr.HTML(INTRO)
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            # A spreadsheet is taken, to be refused in words that say what to do with it.
            kinds = [*READ, *SPREADSHEETS]
            label = f"File: {', '.join(READ)}, at most {MAX_UPLOAD_MB} MB"
            file = gr.File(label=label, file_types=kinds, height=130, elem_id="score-file")
        with gr.Column(scale=2, min_width=280):
            column = gr.Dropdown(
                label="Column with the texts",
                choices=[],
                interactive=True,
                # Checked against the file and not here: the choices may be those of the next file by then.
                allow_custom_value=True,
                elem_id="score-column",
            )
            formats = [("CSV", "csv"), ("JSONL", "jsonl"), ("Parquet", "parquet")]
            format = gr.Radio(formats, value="csv", label="Format of the answers")
            every = gr.Checkbox(False, label="Also the probability of every label")
    preview = gr.HTML(elem_id="score-preview")
    with gr.Row():
        begin = gr.Button("Score the file", variant="primary", interactive=False, elem_id="score-begin")
        stop = gr.Button("Stop", interactive=False, elem_id="score-stop")
    status = gr.HTML(elem_id="score-status")
    download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="score-download")
    plots: list[gr.Plot] = []
    in_figures: list[gr.HTML] = []  # what the pictures show, for those who do not see them
    with gr.Column(visible=False, elem_id="score-plots") as pictures:
        for task in tasks:
            with gr.Row():
                for what in ("share of each label", "confidence of the answers"):
                    with gr.Column(min_width=280):
                        plots.append(gr.Plot(label=f"{task}: {what}"))
                        in_figures.append(gr.HTML())

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    result = [status, download, pictures, *plots, *in_figures, begin, stop]
    nothing = [gr.update(visible=False), gr.update(visible=False), *[gr.skip()] * (len(plots) + len(in_figures))]

    def look(path: str | None) -> list[Any]:
        """The columns and first rows of an upload, or why it cannot be scored."""
        if path is None:
            return [gr.update(choices=[], value=None), "", gr.update(interactive=False), "", *nothing[:2]]
        try:
            if not Path(path).is_file():
                raise InputError(GONE)
            table, chosen, doubt = looked_at(Path(path))
        except InferenceError as error:
            return [
                gr.update(choices=[], value=None),
                render.message(error),
                gr.update(interactive=False),
                "",
                *nothing[:2],
            ]
        kind = gr.update(choices=list(dict.fromkeys(table.columns)), value=chosen)
        told = (render.message(InputError(doubt)) if doubt else "") + rows_as_html(table)
        return [kind, told, gr.update(interactive=chosen is not None), "", *nothing[:2]]

    def begin_it(
        path: str | None,
        text_column: str | None,
        chosen: str,
        scores: bool,
        backend: str,
        use_own: bool,
        limit: float,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """The file scored; what is shown while it is, and in the end the download and the pictures."""
        session = request.session_hash or ""
        if path is None or text_column is None:
            lacks = "There is no file. Upload one first." if path is None else "Choose the column with the texts first."
            yield [render.message(InputError(lacks)), *nothing, *_buttons(False)]
            return
        address = request.client.host if request.client else ""
        if (
            session in running
            or len(line) >= MAX_WAITING
            or sum(one.address == address for one in line) >= MAX_PER_ADDRESS
        ):
            refused = "A file of yours is being scored. Stop it first." if session in running else FULL
            yield [render.message(InputError(refused)), *nothing, *_buttons(session in running)]
            return
        folder = Path(tempfile.mkdtemp(prefix="triptych-score-"))
        now: Scoring | None = None
        try:
            check_choice(chosen, FORMATS)
            check_backend(backend, models.bundle.backends)
            given = None if use_own else limit
            job = ScoreJob(
                own_copy(path, folder),
                folder / file_name(path, chosen),
                text_column=text_column,
                threshold=given,
                all_scores=bool(scores),
                format=chosen,
                block_rows=BLOCK_ROWS,
            )
            model = Model(models.bundle, backend, partial(models.get, backend))
            running[session] = now = Scoring(job, model, line, address)
            for shown in now.follow():
                yield [shown, *nothing, *_buttons(True)]
            if now.error:
                raise now.error
            if now.report is None:
                yield ['<p class="small" role="status">Stopped.</p>', *nothing, *_buttons(False)]
                return
            limits = {name: task.threshold if given is None else given for name, task in tasks.items()}
            made, told = [], []
            for name, counts in now.report.tally.tasks.items():
                made += [figures.label_shares(counts), figures.confidence(counts, limits[name])]
                told += [figures.shares_table(name, counts), figures.confidence_table(name, counts, limits[name])]
            yield [
                figures.summary(now.report, now.seconds, backend),
                gr.update(visible=True, value=str(now.report.out), label=f"Download {now.report.out.name}"),
                gr.update(visible=True),
                *made,
                *told,
                *_buttons(False),
            ]
        except InferenceError as error:
            yield [render.message(error), *nothing, *_buttons(False)]
        finally:
            if now is not None:
                now.stopped = True
                if running.get(session) is now:
                    del running[session]
            shutil.rmtree(folder, ignore_errors=True)  # Gradio has a copy of what is to be downloaded

    def stop_it(request: gr.Request) -> None:
        if (now := running.get(request.session_hash or "")) is not None:
            now.stopped = True

    shown = [column, preview, begin, status, download, pictures]
    gr.on([file.upload, file.clear], look, [file], shown, concurrency_id="look", concurrency_limit=4, **quiet)
    at_once: dict[str, Any] = {"concurrency_id": "at once", "concurrency_limit": 4, **quiet}
    column.input(lambda given: gr.update(interactive=given is not None), column, begin, **at_once)
    begin.click(
        begin_it,
        [file, column, format, every, runtime, own, threshold],
        result,
        concurrency_id="score",
        concurrency_limit=MAX_WAITING + 2,  # the last two are for refusals
        **quiet,
    )
    stop.click(stop_it, None, None, **at_once)


def own_copy(path: str, folder: Path) -> Path:
    """The upload in a folder of the visitor's: Gradio writes its file again when anybody uploads the same one.

    Raises:
        InputError: it is no longer there, or there is no room for it.
    """
    try:
        (folder / "in").mkdir()  # the result may have the same name
        return Path(shutil.copyfile(path, folder / "in" / Path(path).name))
    except FileNotFoundError:
        raise InputError(GONE) from None
    except OSError as error:
        raise InputError("The server has no room for the file now. Try again later.") from error


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
    count = f"{row_count:,} rows; the first {PREVIEW_ROWS}" if row_count > PREVIEW_ROWS else f"All {row_count} rows"
    if row_count == 1:
        count = "The only row"
    if len(table.columns) > PREVIEW_COLUMNS:
        count += f", and {PREVIEW_COLUMNS} of the {len(table.columns)} columns"
    lines = [table.columns, *([as_text(cell) for cell in cells] for cells in next(table.blocks(PREVIEW_ROWS)).cells())]
    columns, *rows = [[_cut(cell) for cell in cells[:PREVIEW_COLUMNS]] for cells in lines]
    return fill("score_preview", count=count, columns=columns, rows=rows)


def progress(step: str, share: float, seconds: float) -> str:
    """A bar, what is done, and the time that is left."""
    left_s = seconds * (1 - share) / share if 0.05 < share < 1 else None
    return fill("score_progress", step=step, share=share, left_s=left_s)


def file_name(path: str, format: str) -> str:
    """What the download of an upload is called: its name in plain letters."""
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem, flags=re.ASCII).strip("._")[:60]
    return f"{stem or 'file'}.scored.{format}"


def check_choice(value: object, known: tuple[str, ...]) -> None:
    """Raise InputError unless a browser chose something that there is."""
    if value not in known:
        raise InputError(f"There is no such format. Known: {', '.join(known)}.")


def _cut(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"


def _buttons(busy: bool) -> list[Any]:
    """The two buttons: while a file is scored, it can be stopped and no other begun."""
    return [gr.update(interactive=not busy), gr.update(interactive=busy)]
