"""Your data: measure the backends on this machine, on an uploaded file or the showcase, and get the verdict."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import answer, components, jobs, served
from dashboard.charts.formatting import many
from dashboard.components import browser, plain, reader
from dashboard.jobs import Measurement
from dashboard.report_page import report
from dashboard.state import SELECTION, keep_texts, of_this_model, own, show
from dashboard.upload import MAX_MB, TYPES, guess, read_upload
from inference.backends import TITLES
from inference.calls.formatting import joined, percent, points
from inference.compare import stats
from inference.compare.answering import SoFar
from inference.compare.labels import LEAVE_OUT, UnknownLabels, guesses
from inference.compare.overall import MAX_NAMED, decide_overall
from inference.compare.rows import LabelledRows, read_data, read_showcase
from inference.compare.run import QUICK_ROWS
from inference.compare.verdict import ShipLimits
from inference.errors import InferenceError, InputError
from inference.formats.bundle import Bundle
from inference.jobs import BackgroundJob
from inference.tables.source import Source

MAX_ROWS = 20_000
MAX_UNKNOWN = 50  # labels to map by hand; more are a wrong column
ACCURACY, DIFFERENCE = "Accuracy (95% interval)", "Difference (each bound at 95%)"
JOB, RESULT = "_measurement", "_measured"
MINE = "_measurement_is_mine"  # this session, or an earlier one of this browser, started it
MESSAGE = "_measurement_message"
ADDRESS = "job"  # of the running measurement, in the page's address
FILE, SHOWN = "Your file", "The showcase"
PLANS = {
    "quick": f"Quick: up to {QUICK_ROWS} rows, each runtime started once",
    "full": "Full: every row, each runtime started six times",
}
LIMITS = {
    0: "none: accuracy only",
    60: "at most 1 minute",
    180: "at most 3 minutes",
    600: "at most 10 minutes",
    1800: "at most 30 minutes",
}
USUAL_LIMITS = {"quick": 60, "full": 600}


def page() -> None:
    st.header("Your data", anchor=False)
    st.markdown("Measure the model's runtimes on this machine with your own labelled texts, and see which one to ship.")
    job: Measurement | None = st.session_state.get(JOB) or found()
    if job is not None and not job.done:
        st.fragment(progress, run_every=1.0)(job)
        # Closed, or the result is above what is in sight of somebody who has scrolled down to the button.
        with st.expander("What is measured"):
            form(False)
        return
    if job is not None:
        st.session_state.pop(JOB, None)
        collect(job)
    if (message := st.session_state.pop(MESSAGE, None)) is not None:
        st.info(message)
    has_result = result()
    jobs.prepare()  # while the visitor chooses a file
    with st.expander("Measure again") if has_result else st.container():
        form()


def found() -> Measurement | None:
    """Return the measurement that the address names, which another session started, perhaps in another browser."""
    key = st.query_params.get(ADDRESS)
    if key is None:
        return None
    job = jobs.find(key)
    if job is None:
        del st.query_params[ADDRESS]
        st.session_state[MESSAGE] = (
            "The measurement of this address is not here any more: the server was restarted, or the page was closed "
            "for longer than a minute. Measure again."
        )
        return None
    job.follow(reader())
    st.session_state[JOB] = job
    st.session_state[MINE] = job.is_of(browser())
    return job


def progress(job: Measurement) -> None:
    """Draw the progress and what is known every second; run the page again when the job is done."""
    if job.done:
        st.rerun()
    st.progress(job.share, plain(f"{job.share:.0%} · {job.step}"))
    if job.cancelled:
        st.caption("Cancelling.")
    else:
        st.caption(f"Measuring {plain(job.name)} continues while you look at other pages. Come back for the result.")
        if st.session_state.get(MINE):
            label = "Cancel" if job.accuracy is None else "Stop here and keep the accuracy"
            st.button(label, on_click=job.cancel)
    if (receipt := job.accuracy or job.part) is not None:
        selection = st.session_state.get(SELECTION)
        components.verdict(receipt, selection.limits if selection else ShipLimits())
        if receipt is not job.accuracy:
            st.caption(
                "The rows answered so far are a random sample of yours. The verdict may still change as more are "
                "answered; only the one on all rows is kept."
            )
    if (answers := job.answers) is not None:
        for task, known in answers.so_far().items():
            so_far(task, known, answers.labelled(task))


def so_far(task: str, known: SoFar, total: int) -> None:
    """Draw the accuracy of each runtime on the rows that it has answered, and the labels that it changes."""
    names = list(known.accuracy)
    lines = []
    for name, (rows, right) in known.accuracy.items():
        line = {
            "Runtime": TITLES[name],
            "Rows answered": f"{rows:,}",
            ACCURACY: "…",
            "Changed labels": "…",
            DIFFERENCE: "",
        }
        if rows:
            share = stats.share(right, rows)
            line[ACCURACY] = f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
        if name == known.reference:
            line["Changed labels"] = "the reference" if name == names[0] else "the reference so far"
        elif known.rows and name in known.paired:
            broken, fixed, changed = known.paired[name]
            change = stats.paired_difference(broken, fixed, known.rows)
            line["Changed labels"] = f"{changed:,} of {known.rows:,} ({broken:,} broken, {fixed:,} fixed)"
            line[DIFFERENCE] = f"{points(change.value)} ({points(change.low)} to {points(change.high)})"
        lines.append(line)
    st.markdown(f"**{plain(task)}**" + (", so far" if min(rows for rows, _ in known.accuracy.values()) < total else ""))
    st.table([{key: plain(value) for key, value in line.items()} for line in lines], hide_index=True)


def collect(job: Measurement) -> None:
    """Add the result of a finished job to the list, and run the page again so that everything shows it."""
    is_mine = st.session_state.pop(MINE, False)
    if is_mine:  # others leave it for the browser that started it
        jobs.forget(job.key)
    st.query_params.pop(ADDRESS, None)
    receipt = job.result or job.without_times()
    if job.error:
        st.session_state[MESSAGE] = plain(served.shown(job.error))
    elif job.result is None and receipt is None:
        st.session_state[MESSAGE] = "The measurement was cancelled; nothing of it was stored."
    if receipt is not None:
        name = f"{Path(job.name).stem} here, {time.strftime('%H:%M:%S', time.gmtime())} UTC"
        if job.texts is not None and not is_mine:
            message = "The texts of this measurement are not shown here: only the browser that started it gets them."
            st.session_state.setdefault(MESSAGE, message)
        elif job.texts is not None:
            keep_texts(receipt, [job.texts[row] for row in receipt["data"]["row_numbers"]])
        show(name, receipt)
        st.session_state[RESULT] = name
    st.rerun()


def result() -> bool:
    """Draw the verdict of this session's last measurement, if there is one, and links to the details."""
    name = st.session_state.get(RESULT)
    if name is None:
        return False
    receipt, selection = own()[name], st.session_state.get(SELECTION)
    limits = selection.limits if selection else ShipLimits()
    st.subheader("The verdict", anchor=False)
    components.verdict(receipt, limits)
    components.provenance(receipt)
    if selection and selection.name == name:
        st.markdown(f"Every page shows this measurement now, listed as **{plain(name)}**, until you choose another.")
        what_decides(name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link("views/overview.py", label="Overview")
        st.page_link("views/accuracy.py", label="Accuracy")
        st.page_link("views/disagreements.py", label="Disagreements")
        st.download_button(
            "Download the measurement",
            lambda: json.dumps(receipt, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n",
            f"{Path(receipt['data']['name']).stem}-receipt.json",
            "application/json",
        )
        st.download_button(
            "Download a report",
            lambda: report([receipt], limits),
            f"{Path(receipt['data']['name']).stem}-report.html",
            "text/html",
            help="One file with verdict, charts, disagreements and method. It needs no network.",
        )
    if receipt["data"]["texts"] is None:
        st.caption("The measurement contains labels, lengths, row numbers and the file's hash, but no texts.")
    return True


def what_decides(name: str) -> None:
    """Say which measurements the Overview decides by, if not by this one."""
    measurements, limits = of_this_model()
    usual, chosen = decide_overall(measurements, limits), decide_overall(measurements, limits, name)
    if usual.used != chosen.used:
        others = [f"**{plain(other)}**" for other in answer.displaced(usual, chosen)]
        st.markdown(
            f"The Overview decides by {joined(others, MAX_NAMED)}. A switch there lets this measurement decide."
        )


def form(ready: bool = True) -> None:
    """Draw the form. While this session measures, it is not `ready`, but keeps the choices."""
    try:
        bundle = served.bundle()
        showcase = showcase_of(bundle)
        options = [FILE] if showcase is None else [FILE, SHOWN]
        source = st.segmented_control("Measure on", options, default=FILE, required=True, key="measure_on")
        chosen = from_file(bundle) if showcase is None or source == FILE else from_showcase(showcase)
        if chosen is None:
            return
        name, data = chosen
        plan = st.radio("How thorough", list(PLANS), format_func=PLANS.__getitem__, key="plan")
        if plan == "quick" and len(data) > QUICK_ROWS:
            st.caption(f"Quick uses {QUICK_ROWS:,} of the rows, drawn at random with seed 0.")
        limit_s = st.selectbox(
            "Time for speed",
            list(LIMITS),
            list(LIMITS).index(USUAL_LIMITS[plan]),
            format_func=LIMITS.__getitem__,
            key=f"limit_{plan}",
            help="Accuracy comes first and is always complete. Speed needs a quiet machine: if it stays busy, the "
            "result says so and has no times.",
        )
        if not ready:
            return
        if (other := jobs.running()) is not None:
            st.fragment(wait_for, run_every=2.0)(other)
        # A callback: it runs before the page, which then begins with the progress and need not read the file again.
        measured = None if source == SHOWN else data
        st.button("Measure", on_click=start, args=(name, measured, plan == "quick", limit_s), type="primary")
    except InferenceError as error:
        st.error(plain(served.shown(error)))


def start(name: str, data: LabelledRows | None, quick: bool, limit_s: float) -> None:
    """Start a measurement; `data` is None for the showcase."""
    texts = None if data is None else dict(zip(data.row_numbers, data.texts_as_strings, strict=True))
    try:
        job = jobs.start_measurement(name, data, quick, reader(), limit_s, texts)
    except InputError as error:
        st.session_state[MESSAGE] = plain(str(error))
        return
    job.browser = browser()
    st.session_state[JOB] = job
    st.session_state[MINE] = True
    st.query_params[ADDRESS] = job.key


def wait_for(other: BackgroundJob[Any]) -> None:
    """Draw how many jobs of other sessions are before this one; run the page again when the first is done."""
    if other.done:
        st.rerun()
    st.info(
        f"Another visitor is measuring on this server, and two would disturb each other: {jobs.ahead()} ahead of you. "
        "Yours starts after that."
    )
    st.progress(other.share)


def showcase_of(bundle: Bundle) -> LabelledRows | None:
    """Return the labelled examples of this model; None if it has too few."""
    try:
        return read_showcase(bundle)
    except InputError:
        return None


def from_showcase(data: LabelledRows) -> tuple[str, LabelledRows]:
    st.caption(f"{many(len(data), 'short text')} that come with the model, labelled for {joined(list(data.labels))}.")
    return data.name, data


def from_file(bundle: Bundle) -> tuple[str, LabelledRows] | None:
    """Draw the uploader; return the labelled rows, or None without a file."""
    file = st.file_uploader("A table with a text column and a label column", TYPES, max_upload_size=MAX_MB, key="file")
    st.caption(
        f"CSV, Excel, JSON, JSONL or Parquet, at most {MAX_MB} MB. It stays in this server's memory for your session. "
        "The measuring processes, on the same machine, get the texts through a pipe. Nothing is written to disk or "
        "sent elsewhere."
    )
    with st.expander("Labels of this model"):
        for name, spec in bundle.tasks.items():
            st.markdown(f"**{plain(name)}**: {plain(', '.join(spec.labels))}")
    if file is None:
        return None
    name, content = file.name, file.getvalue()
    columns = read_upload(name, content)
    names, guessed = list(columns), guess(columns, bundle.tasks)
    text, label, of = st.columns(3)
    text_column = text.selectbox("Text column", names, names.index(guessed.text_column), key=f"text_{file.file_id}")
    pair_column = None
    if bundle.pairs:
        others = [name for name in names if name != text_column] or names
        pair_column = text.selectbox("Column of the second texts", others, key=f"pair_{file.file_id}")
    tasks = [task for task in bundle.tasks if task in names and task not in (text_column, pair_column)]
    if tasks:
        every = f"all: {', '.join(tasks)}"
        options = [every, *tasks] if len(tasks) > 1 else tasks
        task = label.selectbox("Labels of", options, key=f"task_{file.file_id}")
        asked = None if task == every else task
        chosen = bundle.tasks, asked, text_column, None, pair_column
    else:
        others = [name for name in names if name not in (text_column, pair_column)] or names
        index = others.index(guessed.label_column) if guessed.label_column in others else 0
        label_column = label.selectbox("Label column", others, index, key=f"label_{file.file_id}")
        known = list(bundle.tasks)
        likely = None if guessed.task is None else known.index(guessed.task)
        task = of.selectbox("Task of the labels", known, likely, key=f"of_{file.file_id}", placeholder="Choose a task")
        if task is None:
            st.info("The labels do not show which task they are of. Choose it above.")
            return None
        chosen = bundle.tasks, task, text_column, label_column, pair_column
    data = mapped(lambda label_map: read_data(Source(name, content), *chosen, label_map), chosen[1], file.file_id)
    if data is None:
        return None
    described(data, bundle)
    if len(data) > MAX_ROWS:
        st.caption(f"The file has {len(data):,} rows. This page measures {MAX_ROWS:,} of them, drawn with seed 0.")
        data = data.sample(MAX_ROWS, 0)
    return name, data


def mapped(read: Callable[[Mapping[str, str]], LabelledRows], asked: str | None, key: str) -> LabelledRows | None:
    """Read the rows; draw a table to map the labels that the model does not have, and return None until it is used.

    Args:
        asked: the task; None for all that have a column.
    """
    try:
        return read({})
    except UnknownLabels as error:
        if len(error.unknown) > MAX_UNKNOWN:
            raise
        unknown, task, labels = error.unknown, error.task, error.labels
    what = f"**{plain(task)}** does not have {many(len(unknown), 'label')} of this file."
    if asked is None:
        st.info(f"{what} Choose one task in “Labels of” to say what they mean.")
        return None
    st.markdown(f"{what} What do they mean?")
    guessed, options, label_map = guesses(unknown, labels), [*labels, LEAVE_OUT], {}
    for label, rows in unknown.items():
        label_map[label] = st.selectbox(
            plain(f"{label[:80]} ({many(rows, 'row')})"),
            options,
            options.index(guessed[label]),
            format_func=lambda name: name or "Leave these rows out",
            key=f"map_{key}_{task}_{label}",
        )
    return read(label_map) if st.checkbox("Use this mapping", key=f"mapped_{key}_{task}") else None


def described(data: LabelledRows, bundle: Bundle) -> None:
    """Draw what was read, so that a wrong column is noticed before minutes are spent on it."""
    for task, ids in data.labels.items():
        labels = bundle.tasks[task].labels
        counts = sorted(((ids.count(i), labels[i]) for i in set(ids) - {-1}), reverse=True)
        parts = ", ".join(f"{label} {count:,}" for count, label in counts[:8]) + (", …" if len(counts) > 8 else "")
        st.caption(plain(f"{many(sum(count for count, _ in counts), 'row')} labelled for {task}: {parts}."))
    if data.notes:
        notes = "".join(f"\n- {plain(note[:1].upper() + note[1:])}." for note in data.notes)
        st.caption(f"What was assumed, and what limits the result:{notes}")


page()
