"""Parts that the pages share. They escape the text of receipts, models and uploads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.web.server.starlette.starlette_app_utils import decode_xsrf_token_string
from streamlit.web.server.starlette.starlette_server_config import XSRF_COOKIE_NAME

from dashboard import served
from dashboard.charts.formatting import many
from dashboard.charts.overview import Drawing
from dashboard.charts.style import Chart, named
from dashboard.templating import DECISIONS, render
from inference import cpu
from inference.backends import TITLES
from inference.calls.formatting import percent
from inference.compare.results import unmeasured
from inference.compare.verdict import SITUATIONS, Recommendation, ShipLimits, decide, unknown_places

Receipt = Mapping[str, Any]
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$^=&\"'])")
TABLES = "tables"  # the switch of the page
TEXT_COLORS = {"light": "#31333F", "dark": "#FAFAFA"}  # Streamlit's own


def plain(text: str) -> str:
    """Escape a text so that Streamlit's markdown shows it letter by letter: no link, HTML, formula or icon."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    # `:red[x]`, `:smile:` and `:material/x:` are read even if the colon is escaped; a word joiner ends that.
    escaped = re.sub(r":(?=\S)", ":\u2060", escaped)
    # What looks like an address becomes a link after all escapes are read.
    return re.sub(r"(?i)(www|@)(?=\S)", "\\1\u2060", escaped)


def page(title: str, receipt: Receipt, about: str = "", *, tables: bool = False) -> None:
    """Draw the page's heading, a warning about another model, and the switch for its tables if it has some."""
    with st.container(horizontal=True, wrap=False, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.header(plain(title), anchor=False)
        if tables:
            st.toggle("Show tables", key=TABLES, bind="query-params")
    if about:
        st.markdown(plain(about))
    model_banner(receipt)


def footer(receipt: Receipt) -> None:
    """Draw where the numbers come from, and a warning if that was another processor."""
    cpu_banner(receipt)
    provenance(receipt)


def chart(chart: Chart, key: str, level: int = 3) -> None:
    """Draw the takeaway as a heading of a level, the figure, the note, and the table if the page shows tables."""
    st.markdown(f"{'#' * level} {plain(chart.takeaway)}", help=plain(chart.details) or None)
    st.plotly_chart(_themed(chart.figure), width="stretch", key=key, alt=chart.alt, config={"displayModeBar": False})
    if chart.note:
        st.caption(plain(chart.note))
    if chart.table and shows_tables():
        st.dataframe(chart.table, hide_index=True, width="stretch")


def drawing(drawing: Drawing, level: int = 3) -> None:
    """Draw what `chart` does, for a chart in HTML."""
    st.markdown(f"{'#' * level} {plain(drawing.takeaway)}")
    st.html(drawing.html)
    if drawing.note:
        st.caption(plain(drawing.note))
    if drawing.table and shows_tables():
        st.dataframe(drawing.table, hide_index=True, width="stretch")


def shows_tables() -> bool:
    """Return whether the reader switched the tables of the page on."""
    return bool(st.session_state.get(TABLES))


def against(receipt: Receipt) -> str | None:
    """Draw the choice of the backend to compare with the reference; None if there is only the reference."""
    reference = receipt["settings"]["reference"]
    others = [name for name in receipt["settings"]["backends"] if name != reference]
    if not others:
        return None
    chosen: str = st.segmented_control(
        f"Changes against {TITLES[reference]}",
        others,
        default=others[-1],
        required=True,
        format_func=TITLES.__getitem__,
        key="against",
        bind="query-params",
    )
    return chosen


def no_changes(receipt: Receipt, task: str, name: str) -> str:
    """Say that a backend gives every labelled row the reference's label, and how much that proves."""
    pair, reference = receipt["results"]["paired"][task][name], TITLES[receipt["settings"]["reference"]]
    return (
        f"{TITLES[name]} gives all {pair['rows']:,} rows the same label as {reference}. Of rows like these, at most "
        f"{percent(1 - pair['agreement']['low'])} get another label (95% confidence)."
    )


def _themed(figure: go.Figure) -> go.Figure:
    """Return a copy with text in the theme's own colour: Streamlit's grey for axes is hard to read."""
    color = TEXT_COLORS.get(st.context.theme.type or "")
    if color is None:
        return figure
    copy = go.Figure(figure)
    copy.update_layout(font={"color": color}, legend={"font": {"color": color}})
    copy.update_traces(textfont={"color": color}, selector={"type": "heatmap"})
    copy.update_traces(error_x={"color": color}, error_y={"color": color}, selector={"type": "bar"})
    for update in (copy.update_xaxes, copy.update_yaxes):
        update(tickfont={"color": color}, title_font={"color": color})
    return copy


def verdict(receipt: Receipt, limits: ShipLimits) -> None:
    """Draw the sentence that a manager can quote, and each backend's decision with its reasons."""
    verdict = decide(receipt, limits)
    st.html(render("verdict.html", verdict=verdict))
    why, where = st.columns(2)
    with why.expander("Why"):
        for name, judged in verdict.backends.items():
            reasons = "".join(f"\n- {DECISIONS[r.decision][0]} {plain(r.text)}" for r in judged.reasons)
            st.markdown(f"**{named(name)}: {verdict.in_words(name)}**{reasons}")
    with where.expander("Where it will run"):
        places(receipt, verdict.recommended)
    if verdict.caveats:
        st.caption("  \n".join(f"⚠ {plain(caveat)}" for caveat in verdict.caveats))


def places(receipt: Receipt, recommended: Mapping[str, Recommendation]) -> None:
    """Draw which backend to use where, or in a sentence why that is not known."""
    if (unknown := unknown_places(receipt)) is not None:
        st.markdown(plain(unknown))
        return
    for situation, pick in recommended.items():
        where = plain(f"({SITUATIONS[situation]})")
        st.markdown(f"**{situation}** {where}: {named(pick.backend) if pick.backend else 'none'}. {plain(pick.why)}")


def provenance(receipt: Receipt) -> None:
    """Draw one line: where, when and on what the numbers were measured."""
    settings, data, versions = receipt["settings"], receipt["data"], receipt["versions"]
    tokens = sorted(data["tokens"])
    if (missing := unmeasured(receipt)) is None:
        calls = receipt["results"]["latency"][settings["reference"]]["calls"]
        warm = min(arm["calls"] for launch in receipt["latency"]["warm_up"] for arm in launch.values())
        speed = [
            "one text at a time",
            f"{calls:,} timed calls per runtime after at least {warm:,} to warm up",
            many(settings["launches"], "start"),
            *(["quick run"] if settings["quick"] else []),
        ]
    else:
        speed = [missing]
    parts = [
        f"{data['name']}, {many(len(tokens), 'row')}",
        f"{tokens[0]}–{tokens[-1]} tokens, median {tokens[len(tokens) // 2]}",
        f"{receipt['machine']['cpu']}, {many(settings['threads'], 'thread')}",
        *speed,
        receipt["created"].replace("T", " ").removesuffix("Z") + " UTC",
        *(f"{name} {versions[name]}" for name in ("torch", "onnxruntime") if name in versions),
    ]
    st.caption(" · ".join(map(plain, parts)))


def lead_to_measuring(kind: Literal["info", "warning"], text: str, label: str, key: str) -> None:
    """Draw a message in markdown with a button that leads to "Your data"."""
    message, button = st.columns([4, 1], vertical_alignment="center")
    (message.info if kind == "info" else message.warning)(text)
    if button.button(label, key=key, width="stretch"):
        st.switch_page("views/your_data.py")


def model_banner(receipt: Receipt) -> None:
    """Warn if the receipt is of another model than the served one, and lead to measuring that."""
    bundle = served.named()
    if bundle is None or served.is_of(receipt, bundle):
        return
    if renamed := served.renamed_labels(receipt, bundle):
        pairs = ", ".join(f"{before} is now {after}" for before, after in renamed[:5])
        text = f"The labels of the served model have changed since this measurement: {pairs}. Measure it again."
        text += " Folders exported before keep the old names: export them again."
    else:
        text = (
            f"This measurement is of another model ({receipt['model']['name']}) than the served one ({bundle.name}). "
            "Measure the served model, or choose a measurement of it."
        )
    lead_to_measuring(
        "warning",
        plain(text),
        "Measure it",
        "measure_it",
    )


def cpu_banner(receipt: Receipt) -> None:
    """Warn if the receipt was made on another processor, and lead to measuring on this one."""
    machine = receipt["machine"]
    if cpu.matches(machine):
        return
    lacking = [flag for flag in machine["flags"] if flag not in cpu.int8_flags()]
    lead_to_measuring(
        "warning",
        f"Measured on another processor ({plain(machine['cpu'])}; this one is {plain(cpu.model())})."
        + (f" This one lacks {plain(', '.join(lacking))}." if lacking else "")
        + " Times will differ here, and INT8 answers may differ.",
        "Measure here",
        "measure_here",
    )


def browser() -> str | None:
    """Return the secret in this browser's cookie, by which a reloaded page is known; None if it has none."""
    secret, _ = decode_xsrf_token_string(st.context.cookies.get(XSRF_COOKIE_NAME, ""))
    return secret.hex() if secret else None


def reader() -> Callable[[], bool]:
    """Return a function that any thread can call to ask whether this session is still connected."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return lambda: True
    here, session = runtime.get_instance(), context.session_id
    return lambda: here.is_active_session(session)
