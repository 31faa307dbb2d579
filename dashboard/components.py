"""Parts that pages share. What came from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard import served
from dashboard.charts.formatting import asked, many, mb, ms, percent, points
from dashboard.charts.style import Chart, named
from inference import cpu
from inference.backends import RUNTIMES, TITLES
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, ShipLimits, Verdict

Receipt = Mapping[str, Any]
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$^=&\"'])")
# A word, a shape and a colour: whoever misses one has the others. The colours are readable on both backgrounds.
KPIS = {
    "p50": "Half of the texts take at most this long, one at a time.",
    "p95": "95 of 100 texts take at most this long.",
    "accuracy": "The share of rows with the right label. The change is in percentage points, on the same rows; it is "
    "grey where its interval holds zero.",
    "model": "The files of the model. The libraries that run it are not counted; see Size & memory.",
}
INKS = {"light": "#31333F", "dark": "#FAFAFA"}  # Streamlit's own text colours
DECISIONS = {SHIP: ("✔", "#009E73"), NO: ("✘", "#D5480B"), INCONCLUSIVE: ("?", "#B97A00")}


def plain(text: str) -> str:
    """Any text as Streamlit's markdown shows it letter by letter: no link, no HTML, no formula, no icon."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    # `:red[x]`, `:smile:` and `:material/x:` are read even where the colon is escaped; a word joiner ends that.
    escaped = re.sub(r":(?=\S)", ":\u2060", escaped)
    # What looks like an address becomes a link after all escapes are read.
    return re.sub(r"(?i)(www|@)(?=\S)", "\\1\u2060", escaped)


def page(title: str, receipt: Receipt, about: str = "") -> None:
    """The page's heading, the warning if the receipt is from another processor, and where its numbers are from."""
    st.header(title, anchor=False)
    if about:
        st.markdown(plain(about))
    model_banner(receipt)
    cpu_banner(receipt)
    provenance(receipt)


def chart(one: Chart, key: str) -> None:
    """The takeaway, the picture with its alt text, the note, and the table behind it."""
    st.markdown(f"###### {plain(one.takeaway)}")
    st.plotly_chart(_themed(one.figure), width="stretch", key=key, alt=one.alt, config={"displayModeBar": False})
    if one.note:
        st.caption(plain(one.note))
    with st.expander("Table"):
        st.dataframe(one.table, hide_index=True, width="stretch")


def _themed(figure: go.Figure) -> go.Figure:
    """A copy with words in the theme's own ink: the grey that Streamlit gives to axes is hard to read."""
    ink = INKS.get(st.context.theme.type or "")
    if ink is None:
        return figure
    copy = go.Figure(figure)
    copy.update_layout(font={"color": ink}, legend={"font": {"color": ink}})
    copy.update_traces(textfont={"color": ink}, selector={"type": "heatmap"})
    copy.update_traces(error_x={"color": ink}, error_y={"color": ink}, selector={"type": "bar"})
    for update in (copy.update_xaxes, copy.update_yaxes):
        update(tickfont={"color": ink}, title_font={"color": ink})
    return copy


def verdict(found: Verdict, limits: ShipLimits | None = None) -> None:
    """What a manager can quote, and below it each backend's decision with its reasons; the limits it is judged by."""
    decisions = "".join(
        f'<span style="white-space:nowrap"><span style="color:{RUNTIMES[name].color}" aria-hidden="true">'
        f"{RUNTIMES[name].glyph}</span> "
        f"{TITLES[name]} "
        f'<b style="border:1.5px solid {DECISIONS[one.decision][1]};border-radius:1rem;padding:.1rem .6rem">'
        f'<span aria-hidden="true">{DECISIONS[one.decision][0]}</span> {one.decision}</b></span>'
        for name, one in found.backends.items()
    )
    st.html(
        '<div role="status" style="border-left:4px solid #808080;background:rgba(128,128,128,.1);padding:1rem 1.2rem">'
        '<p style="font-size:1.2rem;line-height:1.5;margin:0 0 .8rem;overflow-wrap:anywhere">'
        f"{escape(found.sentence)}</p>"
        f'<div style="display:flex;flex-wrap:wrap;gap:.7rem 1.6rem">{decisions}</div></div>'
    )
    if limits is not None:
        st.caption(f"To ship, a backend must keep these limits: {asked(limits)}. Change them in the sidebar.")
    why, where = st.columns(2)
    with why.expander("Why"):
        for name, one in found.backends.items():
            reasons = "".join(f"\n- {DECISIONS[r.decision][0]} {plain(r.text)}" for r in one.reasons)
            st.markdown(f"**{named(name)}: {one.decision}**{reasons}")
    with where.expander("Which for what"):
        for situation, pick in found.recommended.items():
            st.markdown(f"**{situation}**: {named(pick.backend) if pick.backend else 'none'}. {plain(pick.why)}")
    if found.caveats:
        st.caption("  \n".join(f"⚠ {plain(caveat)}" for caveat in found.caveats))


def kpis(receipt: Receipt, task: str) -> None:
    """A card per backend: median, tail, accuracy, size, each against the reference."""
    names, reference = receipt["settings"]["backends"], receipt["settings"]["reference"]
    for column, name in zip(st.columns(len(names)), names, strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{named(name)}**" + (" · the reference" if name == reference else ""))
            with st.container(horizontal=True, gap="small"):
                for what in KPIS:
                    value, change, color = _kpi(receipt, task, name, what)
                    arrow: Literal["auto", "off"] = "off" if color == "off" else "auto"
                    st.metric(what, value, change, delta_color=color, delta_arrow=arrow, width=104, help=KPIS[what])


def _kpi(
    receipt: Receipt, task: str, name: str, what: str
) -> tuple[str, str | None, Literal["normal", "inverse", "off"]]:
    """A figure in words, its change against the reference if it has one, and whether more of it is better."""
    figures, reference = receipt["results"], receipt["settings"]["reference"]
    if what == "accuracy":
        value = percent(figures["accuracy"][task][name]["accuracy"]["value"])
        if name == reference:
            return value, None, "off"
        change = figures["paired"][task][name]["delta_accuracy"]
        differs = figures["paired"][task][name]["mcnemar_p"] < 0.05
        return value, points(change["value"]).replace("−", "-"), "normal" if differs else "off"
    if what == "model":
        size, whole = (figures["size"][one]["model_bytes"] for one in (name, reference))
        if name == reference or round(size / whole, 2) == 1:
            return mb(size), None, "off"
        return mb(size), f"{(size / whole - 1) * 100:+.0f} %", "inverse"
    found, base = (figures["latency"][one].get(f"{what}_ms") for one in (name, reference))
    if found is None:
        return "too few", None, "off"
    if name == reference or base is None:
        return ms(found["value"]), None, "off"
    noise = figures["control"]["noise"]
    settled = found["high"] * noise < base["low"] or found["low"] > base["high"] * noise
    if what == "p50":
        settled = figures["speedup"][name]["different"]
    return ms(found["value"]), f"{(found['value'] / base['value'] - 1) * 100:+.0f} %", "inverse" if settled else "off"


def provenance(receipt: Receipt) -> None:
    """One line: where, when and on what the numbers were taken."""
    settings, data, machine = receipt["settings"], receipt["data"], receipt["machine"]
    tokens = sorted(data["tokens"])
    calls = receipt["results"]["latency"][settings["reference"]]["calls"]
    warm = min(one["calls"] for launch in receipt["latency"]["warm_up"] for one in launch.values())
    told = [
        f"{data['name']}, {many(len(tokens), 'row')}",
        f"{tokens[0]}–{tokens[-1]} tokens, median {tokens[len(tokens) // 2]}",
        f"{machine['cpu']}, {many(settings['threads'], 'thread')}",
        "one text at a time",
        f"{calls:,} timed calls per backend after {warm:,} or more to warm up",
        many(settings["launches"], "start"),
        *(["quick run"] if settings["quick"] else []),
        receipt["created"].replace("T", " ").removesuffix("Z") + " UTC",
        *(f"{name} {receipt['versions'][name]}" for name in ("torch", "onnxruntime") if name in receipt["versions"]),
    ]
    st.caption(" · ".join(plain(str(one)) for one in told))


def lead_to_measuring(kind: Literal["info", "warning"], text: str, label: str, key: str) -> None:
    """A message in markdown, and beside it the button that leads to "Your data"."""
    message, button = st.columns([4, 1], vertical_alignment="center")
    (message.info if kind == "info" else message.warning)(text)
    if button.button(label, key=key, width="stretch"):
        st.switch_page("views/your_data.py")


def model_banner(receipt: Receipt) -> None:
    """A warning, and the way to measure the model that is served, where the receipt is of another one."""
    bundle = served.named()
    if bundle is None or served.is_of(receipt, bundle):
        return
    lead_to_measuring(
        "warning",
        f"This receipt is of another model ({plain(receipt['model']['name'])}) than the one that is served "
        f"({plain(bundle.name)}). Measure that one, or choose a receipt of it.",
        "Measure it",
        "measure_it",
    )


def cpu_banner(receipt: Receipt) -> None:
    """A warning, and the way to measure here, where the receipt comes from another processor than this one."""
    machine = receipt["machine"]
    if cpu.matches(machine):
        return
    lacking = [flag for flag in machine["flags"] if flag not in cpu.int8_flags()]
    lead_to_measuring(
        "warning",
        f"Measured on another processor ({plain(machine['cpu'])}; this is {plain(cpu.model())})."
        + (f" This one lacks {plain(', '.join(lacking))}." if lacking else "")
        + " Times will differ here, and INT8 answers may.",
        "Measure here",
        "measure_here",
    )


def reader() -> Callable[[], bool]:
    """Whether this session is still connected, to be asked from another thread."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return lambda: True
    here, session = runtime.get_instance(), context.session_id
    return lambda: here.is_active_session(session)
