"""What to ship, and why: of the model, by all its measurements."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import answer, components, state
from dashboard.charts import overview
from dashboard.charts.formatting import many, requirements
from dashboard.components import plain
from dashboard.report_page import report
from dashboard.report_summary import summary
from dashboard.templating import DECISIONS, render
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import joined
from inference.compare.overall import MAX_NAMED, Overall, decide_overall, is_timed
from inference.compare.verdict import recommendations

ANSWER_HEIGHT, ROW_HEIGHT, TASK_HEIGHT, HEAD_HEIGHT = 286, 55, 40, 90  # pixels, on a screen

PREFERRED = "_preferred"  # name of a measurement -> whether it decides though others usually would
SWITCH = "decides"

selection = state.current()


def page() -> None:
    """Draw the answer first, then every task and backend, then the charts, and below what they rest on."""
    measurements, limits = state.of_this_model()
    usual, chosen = decide_overall(measurements, limits), decide_overall(measurements, limits, selection.name)
    overall = chosen if usual.used == chosen.used or prefers_selected() else usual
    components.model_banner(selection.receipt)
    reserved("answer_place", ANSWER_HEIGHT).html(render("answer.html", **answer.shown(overall)))
    with st.container(horizontal=True, vertical_alignment="center"):
        downloads(overall)
        state.limits_here()
        st.caption(f"Limits: {requirements(overall.limits)}.", width="stretch")
    if usual.used != chosen.used:
        choice(answer.displaced(usual, chosen))
    blocks = answer.task_lines(overall)
    height = sum(len(block.lines) * ROW_HEIGHT + TASK_HEIGHT for block in blocks) + HEAD_HEIGHT
    lines = render("lines.html", blocks=blocks, reference=overall.reference, bounds=" (each bound at 95%)")
    reserved("lines_place", height).html(lines)
    charts(overall)
    details(overall)
    components.cpu_banner(overall.receipt(next(iter(overall.used))))


def reserved(key: str, height: int) -> DeltaGenerator:
    """Return a place of about the height of what comes: Streamlit draws HTML late, and what is below must not jump.

    overview.css frees its height when that is there.
    """
    return st.container(height=height, border=False, key=key)


def prefers_selected() -> bool:
    """Return whether the selected measurement decides though others usually would: the switch, at first the list."""
    preferred: bool = st.session_state.get(PREFERRED, {}).get(selection.name, selection.is_chosen)
    return preferred


def choice(others: list[str]) -> None:
    """Draw the switch between the selected measurement and the others, which usually decide."""

    def take() -> None:
        preferred = st.session_state.setdefault(PREFERRED, {})
        preferred[selection.name] = st.session_state[SWITCH]

    rows, instead = many(len(selection.receipt["data"]["row_numbers"]), "row"), [f"“{name}”" for name in others]
    st.session_state[SWITCH] = prefers_selected()
    tasks = joined(list(selection.receipt["data"]["labels"]), MAX_NAMED)
    label = f"Base the decision on “{selection.name}” ({rows} of {tasks}) instead of {joined(instead, MAX_NAMED)}"
    st.toggle(plain(label), key=SWITCH, on_change=take)


def downloads(overall: Overall) -> None:
    name = selection.receipt["model"]["name"]
    st.download_button(
        "Download the one-page summary",
        lambda: summary(overall),
        f"{name}-summary.html",
        "text/html",
        type="primary",
        help="The answer on one A4 page, for a meeting. It needs no network.",
    )
    st.download_button(
        "Full report",
        lambda: report(list(answer.counting(overall).values()), overall.limits, overall=overall),
        f"{name}-report.html",
        "text/html",
        help="Charts, disagreements and method of every measurement that counts, in one file.",
    )


def charts(overall: Overall) -> None:
    """Draw the charts of the task that the reader chose, if it was timed."""
    task = selection.task if selection.task in overall.used else next(iter(overall.used))
    receipt = overall.receipt(task)
    if not is_timed(receipt):
        return
    st.toggle("Show tables", key=components.TABLES, bind="query-params")
    left, right = st.columns(2, gap="large")
    with left:
        components.drawing(overview.pareto(receipt, task))
    with right:
        components.drawing(overview.speedup(receipt))
        slot = st.container()  # the price is below the chart that it moves, and is needed first
        price = st.number_input(
            "Price of the machine, $ an hour", 0.001, 1e6, 0.10, 0.01, format="%.3f", key="price", bind="query-params"
        )
        with slot:
            components.drawing(overview.cost(receipt, price))
    if len(overall.used) > 1:
        st.caption(f"These charts are of {plain(task)}. Choose another task in the sidebar.")


def details(overall: Overall) -> None:
    """Draw the reasons, the use in each situation, and what was measured where."""
    with st.expander("Why"):
        for name, verdict in overall.backends.items():
            reasons = "".join(f"\n- {DECISIONS[e.reason.decision][0]} {plain(e.reason.text)}" for e in verdict.reasons)
            st.markdown(f"**{RUNTIMES[name].glyph} {TITLES[name]}: {plain(overall.status(name))}**{reasons}")
    receipt = overall.receipt(next(iter(overall.used)))
    with st.expander("Where it will run"):
        allowed = [name for name, verdict in overall.backends.items() if verdict.decision == "SHIP"]
        components.places(receipt, recommendations(receipt, allowed))
    with st.expander("What was measured, and what to know about it"):
        st.markdown("".join(f"\n- {plain(text)}" for text in [*answer.sources(overall), *overall.caveats]))


page()
