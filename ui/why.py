"""The tab that says why: which words of the text speak for a label, and which against it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from inference.assets import FAITHFULNESS
from inference.backends import RUNTIMES
from inference.errors import InferenceError, InputError
from inference.explain.explanation import GRADIENTS, METHOD_TITLES, OCCLUSION, Attribution, Explanation, signed
from inference.explain.faithfulness import FIGURES, faithfulness_sentences, find_record
from inference.formats.bundle import Bundle
from inference.loading import Models
from ui.render import breakable, message, title

PREDICTED = ""  # the choice that stands for the label that the model gives
MIN_WEIGHT = 0.05  # of the largest attribution: what is below has its figure in the table only
MAX_QUOTED_CHARS = 60  # of a word that the headline names
MAX_UNREAD = 200  # characters that are shown of a part that was not read
BUSY = "Other explanations are waiting already. Try again in a few seconds."
OTHER_RUNTIME = (
    "Integrated gradients need the gradients of PyTorch. Choose PyTorch as the runtime of the answer, or let each word "
    "be left out: that works on every runtime."
)


@dataclass(frozen=True)
class Panel:
    """The widgets of the tab."""

    task: gr.Dropdown
    labels: dict[str, gr.Dropdown]
    """One of each task, of which one is seen. One whose choices change would be refused by Gradio with the label of
    the task before: an event that was sent before the change is checked after it."""
    method: gr.Radio
    found: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """What an explanation depends on beside the text and the runtime, in the order that `explained` takes it."""
        return [self.task, self.method, *self.labels.values()]


def panel(bundle: Bundle) -> Panel:
    """Draw them."""
    first = next(iter(bundle.tasks))
    methods = [("Leave out one word at a time", OCCLUSION)]
    if "pytorch" in bundle.backends:
        methods.append(("Integrated gradients (PyTorch)", GRADIENTS))
    with gr.Row(elem_id="why-asked"):
        task = gr.Dropdown(list(bundle.tasks), value=first, label="Task", min_width=140, elem_id="why-task")
        labels = {
            name: gr.Dropdown(
                [("the one that the model gives", PREDICTED), *((label, label) for label in spec.labels)],
                value=PREDICTED,
                label="Label",
                visible=name == first,
                min_width=200,
                elem_classes="why-label",
            )
            for name, spec in bundle.tasks.items()
        }
        method = gr.Radio(methods, value=OCCLUSION, label="Method", min_width=280, elem_id="why-method")
    return Panel(task, labels, method, gr.HTML(elem_id="why"))


def show_labels(bundle: Bundle) -> str:
    """JavaScript from the name of a task to updates of `Panel.labels`, which shows those of this task alone."""
    names = json.dumps(list(bundle.tasks))
    return f'(task) => {names}.map((name) => ({{ __type__: "update", visible: name === task }}))'


def explained(
    models: Models,
    text: str,
    backend: str,
    threshold: float | None,
    is_wanted: Callable[[], bool],
    task: str,
    method: str,
    *labels: str,
) -> str:
    """The explanation of one text as HTML.

    Args:
        threshold: score below which an answer is uncertain; None for the model's own.
        is_wanted: whether anybody still waits for it.
        labels: the one chosen of each task, in their order.

    Raises:
        InferenceError: there is none for this text.
    """
    if method == GRADIENTS and not RUNTIMES[backend].has_gradients:
        return message(InputError(OTHER_RUNTIME))
    label = dict(zip(models.bundle.tasks, labels, strict=True)).get(task)  # of no such task: `explain` says so
    found = models.explain(text, backend, task, label or None, method, is_wanted)
    limit = models.bundle.tasks[task].threshold if threshold is None else threshold
    return html(found, _record(models.bundle, found), limit)


def html(found: Explanation, record: Mapping[str, Any] | None = None, threshold: float = 0.0) -> str:
    """An explanation: the text with its words marked, what to know, every figure, and how far such are to be believed.

    Args:
        record: of the check of this model, backend and method, if there is one.
        threshold: score below which the model's answer is uncertain.
    """
    given = f" (the model says {breakable(found.predicted)})"
    if found.label == found.predicted:
        given = " (uncertain)" if found.score < threshold else ""
    # A word of another direction must not turn the sentence that quotes it.
    told = (re.sub("“(.*?)”", r"“<bdi>\1</bdi>”", escape(note)) for note in found.notes)
    notes = "".join(f'<p class="cut"><b>Note:</b> {note}</p>' for note in told)
    struck = ' <span class="unread">Struck through</span>: not read.' if found.read != (0, len(found.text)) else ""
    return (
        f'<div class="why {escape(found.backend)}"><p class="summary" role="status">Why '
        f'<b>{breakable(found.label)}</b> <span class="figure">{found.score:.4f}</span>{given}: {_sentence(found)}</p>'
        f'{notes}<p class="legend"><span class="word for">word <small>+1.2</small></span> speaks for it, '
        f'<span class="word against">word <small>−1.2</small></span> against it; the deepest colour is the largest '
        f"figure in this text. What has no colour moves it too little to be drawn: its figure is in the table.{struck}"
        f'</p><p class="words">{_marked(found)}</p>'
        f'<details class="table"><summary>Every word as a table</summary>{_table(found)}</details>'
        f'<p class="small">{_about(found)}</p>{_badge(record, found.task)}</div>'
    )


def _sentence(found: Explanation) -> str:
    """The words that count most on either side, in words."""
    ranked = sorted(found.words, key=lambda word: -abs(word.attribution or 0.0))
    most = abs(ranked[0].attribution or 0.0) if ranked else 0.0
    sides = {
        "for": [word for word in ranked if (word.attribution or 0.0) > MIN_WEIGHT * most],
        "against": [word for word in ranked if (word.attribution or 0.0) < -MIN_WEIGHT * most],
    }
    much = "most" if found.shared is None else "a little"
    told = [] if found.shared is None else ["no single word carries it"]
    for side, words in sides.items():
        if named := list(dict.fromkeys(_short(word.text) for word in words))[:2]:
            told.append(f"{side} it {much} {' and '.join(f'<q><bdi>{escape(word)}</bdi></q>' for word in named)}")
    return f"{'; '.join(told)}." if told else "no word of the text moves it."


def _short(word: str) -> str:
    return word if len(word) <= MAX_QUOTED_CHARS else f"{word[: MAX_QUOTED_CHARS - 1]}…"


def _marked(found: Explanation) -> str:
    """The text as it was given, word by word, in the order in which any text box would show it."""
    most = max((abs(word.attribution or 0.0) for word in found.words), default=0.0)
    low, high = found.read
    parts, at = [_unread(found.text[:low], is_start=True)], low
    usual = direction = direction_of(found.text) or "ltr"
    for word in found.words:
        between = found.text[at : word.start]
        if "\n" in between:
            direction = usual
        own = direction_of(word.text)
        # A number goes on in the direction of the word before it.
        direction = own or direction
        is_neutral = own is None and not any(letter.isnumeric() for letter in word.text)
        parts.append(escape(between) + _word(word, most, direction, is_neutral))
        at = word.end
    parts += [escape(found.text[at:high]), _unread(found.text[high:], is_start=False)]
    return "".join(parts)


def _unread(text: str, is_start: bool) -> str:
    """A part of the text that was not read: what of it lies beside the part that was, and how much more there is."""
    if not text:
        return ""
    more = f"{len(text) - MAX_UNREAD:,} more characters that were not read" if len(text) > MAX_UNREAD else ""
    if is_start:
        shown = (f"<small>{more} …</small> " if more else "") + escape(text[-MAX_UNREAD:])
    else:
        shown = escape(text[:MAX_UNREAD]) + (f" <small>… {more}</small>" if more else "")
    return f'<span class="unread">{shown}</span>'


def direction_of(text: str) -> str | None:
    """The direction of the first letter that has one, "ltr" or "rtl"; None where none has (rule P2 of UAX #9)."""
    kinds = map(unicodedata.bidirectional, text)
    return next(("ltr" if kind == "L" else "rtl" for kind in kinds if kind in ("L", "R", "AL")), None)


def _word(word: Attribution, most: float, direction: str, is_neutral: bool) -> str:
    """A word and its figure in a box, which counts among its neighbours as its letters did: see `.as-ltr`."""
    weight = abs(word.attribution or 0.0) / most if most else 0.0
    if word.attribution is None:
        return f'<span class="word untried">{escape(word.text)}</span>'
    if weight < MIN_WEIGHT:
        return escape(word.text)
    side = "for" if word.attribution > 0 else "against"
    box = (
        f'<span class="word {side}" dir="{direction}" style="--weight:{weight:.2f}">{escape(word.text)}'
        f'<small dir="ltr">{signed(word.attribution, 2)}</small></span>'
    )
    return box if is_neutral else f'<span class="as-{direction}">{box}</span>'


def _table(found: Explanation) -> str:
    measured = found.method == OCCLUSION
    heads = ["word", "log-odds", *(["probability without it"] if measured else [])]
    rows = []
    for word in found.words:
        cells = ["not tried" if word.attribution is None else signed(word.attribution, 4)]
        if measured:
            cells.append("" if word.without is None else f"{word.without:.4f}")
        rows.append(
            f'<tr><th scope="row"><bdi>{escape(word.text)}</bdi></th>'
            + "".join(f'<td class="figure">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _about(found: Explanation) -> str:
    """What the figures are, and how they came about."""
    what = (
        "A figure is what a word adds to the log-odds of the label, ln(p / (1 − p)): 0.7 doubles the odds, −0.7 halves "
        f"them. {title(found.backend)}, {METHOD_TITLES[found.method]}, {found.seconds * 1000:,.0f} ms."
    )
    if found.convergence_delta is None:
        return f"{what} Each word was left out in turn, and the rest answered anew."
    return (
        f"{what} From padding ({signed(found.baseline_log_odds or 0.0, 2)}) to the text "
        f"({signed(found.log_odds, 2)}) in {found.n_steps} steps; the figures miss the difference by "
        f"{signed(found.convergence_delta, 4)}."
    )


def _badge(record: Mapping[str, Any] | None, task: str) -> str:
    if record is None or task not in record["tasks"]:
        return ""
    good = all(record["tasks"][task][name]["difference"]["low"] > 0 for name in FIGURES)
    mark = "✓ beats random words" if good else "? no better than random words"
    sentences = " ".join(escape(sentence) for sentence in faithfulness_sentences(record, task))
    return f'<p class="small"><span class="badge{" good" if good else ""}">{mark}</span> {sentences}</p>'


def _record(bundle: Bundle, found: Explanation) -> dict[str, Any] | None:
    try:
        return find_record(FAITHFULNESS, bundle, found.backend, found.method)
    except InferenceError:  # a file that somebody damaged is no reason to give no explanation
        return None
