"""Answers as HTML. Pure functions: everything that came from outside is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from math import floor, log10
from typing import Any

from inference import Answer, InferenceError, Prediction, Timing
from inference.backends import RUNTIMES, TITLES
from inference.formats.bundle import Bundle, Task

# A shape for each runtime beside its colour (page.css): colour alone says nothing to one person in twelve.
NOTABLE = 0.01  # a confidence that moved by this much is worth a mark

INVITATION = '<p class="invitation">Type a text and press Enter, or pick an example.</p>'
UNCERTAIN = '<span class="badge uncertain"><span aria-hidden="true">?</span> Uncertain</span>'


def header(dashboard: str | None = None) -> str:
    """The page's name and what it is; with the dashboard's address, a link to it."""
    link = f'<a href="{escape(dashboard or "")}">Compare the runtimes <span aria-hidden="true">→</span></a>'
    return (
        '<header class="top"><div><h1>Triptych</h1><p>One fine-tuned text classifier on three runtimes: PyTorch, ONNX '
        f"and INT8, side by side.</p></div>{link if dashboard else ''}</header>"
    )


def message(error: InferenceError) -> str:
    """What went wrong, in the words of the error; they are written for people."""
    return f'<p class="message" role="alert"><span aria-hidden="true">⚠</span> {escape(str(error))}</p>'


def verdict(name: str, task: Task, prediction: Prediction, threshold: float) -> str:
    """One task's best guess, its exact confidence and, in words, whether that is enough."""
    side = "Below" if prediction.uncertain else "At or above"
    held = f"{side} the threshold {threshold:.3g}" if threshold else "This model has no threshold of its own"
    hint = "<br>It means: none of the other labels fits." if prediction.label == task.out_of_scope else ""
    return (
        f'<div class="verdict" role="status" data-task="{escape(name)}"><h3>{escape(name)}</h3>'
        f'<p class="guess"><b>{breakable(prediction.label)}</b> · '
        f'<span class="figure">{prediction.confidence:.4f}</span> '
        f"{UNCERTAIN if prediction.uncertain else ''}</p>"
        f'<p class="small">{held}{hint}</p></div>'
    )


def timing(backend: str, spent: Timing, note: str = "") -> str:
    """Where the milliseconds of one answer went; below it a note."""
    parts = {"tokenise": spent.tokenize_ms, "forward": spent.forward_ms, "rest": spent.rest_ms}
    bar = "".join(f'<i style="flex-grow:{ms:.4f}"></i>' for ms in parts.values())
    split = " · ".join(f"{name} {ms:.2f}" for name, ms in parts.items())
    return (
        f'<div class="timing {backend}"><p>{title(backend)} answered: '
        f'<span class="figure">{spent.total_ms:.2f} ms</span> '
        f'<span class="small">({split}; one sample, so noisy)</span></p>'
        f'<div class="bar" aria-hidden="true">{bar}</div>{note}</div>'
    )


def side_by_side(bundle: Bundle, found: Mapping[str, Answer | InferenceError], unknown: bool = False) -> str:
    """Three columns, one per runtime: label, confidence, milliseconds, and what differs from the reference.

    Args:
        found: per backend its answer to one text, or why it has none.
        unknown: the vocabulary has nothing for the text.
    """
    answers = {name: answer for name, answer in found.items() if isinstance(answer, Answer)}
    first = bundle.backends[0]
    reference = answers.get(first)
    rows = [
        "<thead><tr>"
        + "".join(f'<th scope="col" class="{name}">{title(name)}{_role(name, first)}</th>' for name in found)
        + "</tr></thead>"
    ]
    for task, spec in bundle.tasks.items():
        expected = reference.predictions[task][0] if reference else None
        cells = [
            _cell(answer.predictions[task][0], expected if name != first else None, name, TITLES[first])
            if isinstance(answer, Answer)
            else "<td>no answer</td>"
            for name, answer in found.items()
        ]
        rows.append(_group(f"{escape(task)} <small>{len(spec.labels)} labels</small>", cells))
    rows.append(_group("time of this answer", [_spent(answer) for answer in found.values()]))
    note = reading_note(bundle, answers.values(), unknown)
    return (
        f'<div class="triptych">{_sentences(found, first)}{note}'
        f"<table><caption>The same text on every runtime</caption>{''.join(rows)}</table>"
        f'<p class="small">Δ: what the label of {TITLES[first]} gets here, less what {TITLES[first]} gave it. ◆ marks '
        f"a Δ of {NOTABLE} or more. The milliseconds are one sample each, taken one after the other: they are noisy, "
        "and only a benchmark with many answers ranks the runtimes.</p></div>"
    )


def _role(backend: str, reference: str) -> str:
    return " <small>the reference</small>" if backend == reference else ""


def _group(heading: str, cells: list[str]) -> str:
    return (
        f'<tbody><tr><th class="group" colspan="{len(cells)}" scope="rowgroup">{heading}</th></tr>'
        f"<tr>{''.join(cells)}</tr></tbody>"
    )


def _cell(prediction: Prediction, expected: Prediction | None, backend: str, reference: str) -> str:
    notes = [UNCERTAIN] if prediction.uncertain else []
    changed = expected is not None and prediction.label != expected.label
    if expected is not None:
        delta = prediction.scores[expected.label] - expected.confidence
        notes.append(f'<span class="delta{" notable" if abs(delta) >= NOTABLE else ""}">{delta_text(delta)}</span>')
        if prediction.uncertain != expected.uncertain:
            notes.append(_differs(f"{reference} is {'certain' if prediction.uncertain else 'uncertain'}"))
        if changed:
            notes.insert(0, _differs(f"{reference}: {expected.label}"))
    return (
        f'<td class="{backend}{" changed" if changed else ""}"><b>{breakable(prediction.label)}</b> '
        f'<span class="figure">{prediction.confidence:.4f}</span>'
        f'<i class="meter" aria-hidden="true"><i style="width:{prediction.confidence:.2%}"></i></i>'
        f"{' '.join(notes)}</td>"
    )


def _differs(what: str) -> str:
    return f'<span class="badge differs"><span aria-hidden="true">≠</span> {breakable(what)}</span>'


def _spent(answer: Answer | InferenceError) -> str:
    if not isinstance(answer, Answer):
        return f"<td>{message(answer)}</td>"
    spent = answer.timing
    return (
        f'<td><span class="figure"><b>{spent.total_ms:.2f} ms</b></span> <span class="small">tokenise '
        f"{spent.tokenize_ms:.2f}<br>forward {spent.forward_ms:.2f}<br>rest {spent.rest_ms:.2f}</span></td>"
    )


def _sentences(found: Mapping[str, Answer | InferenceError], first: str) -> str:
    """What a person would say who had read the table: who differs from the first, and by how much."""
    reference, told = found.get(first), TITLES[first]
    if not isinstance(reference, Answer):
        return f'<p class="summary">{told} gave no answer, so there is nothing to compare the others with.</p>'
    differing: list[str] = []
    largest, where = 0.0, ""
    for name, answer in found.items():
        if name == first or not isinstance(answer, Answer):
            continue
        for task, (expected,) in reference.predictions.items():
            got = answer.predictions[task][0]
            if got.label != expected.label:
                differing.append(
                    f"{TITLES[name]} gives another label for {escape(task)}: "
                    f"<b>{breakable(got.label)}</b> instead of <b>{breakable(expected.label)}</b>."
                )
            elif got.uncertain != expected.uncertain:
                sure, unsure = (TITLES[name], told) if expected.uncertain else (told, TITLES[name])
                differing.append(f"{unsure} calls {escape(task)} Uncertain where {sure} does not.")
            delta = got.scores[expected.label] - expected.confidence
            if abs(delta) > abs(largest):
                largest, where = delta, f"{TITLES[name]}, {escape(task)}"
    if differing:
        return f'<p class="summary differ" role="status"><span aria-hidden="true">≠</span> {" ".join(differing)}</p>'
    most = f"the largest difference in confidence is {delta_text(largest)} ({where})" if where else "no digit differs"
    return (
        '<p class="summary agree" role="status"><span aria-hidden="true">=</span> All runtimes that answered give the '
        f"same label for every task; {most}.</p>"
    )


def delta_text(delta: float) -> str:
    """A difference in probability with its sign, to four digits; nothing is rounded to a false zero."""
    if delta == 0:
        return "Δ 0"
    if abs(delta) < 0.0001:
        return "Δ < 0.0001"
    return f"Δ {delta:+.4f}".replace("-", "−")


def strip(bundle: Bundle, sizes: Mapping[str, int]) -> str:
    """One line: which model this is, what it answers, how large it is."""
    tasks = ", ".join(f"{escape(name)} ({len(task.labels)} labels)" for name, task in bundle.tasks.items())
    held = "".join(f"<span>{title(name)} {size / 1e6:.1f} MB</span>" for name, size in sizes.items())
    return f'<p class="strip"><span>Model <b>{escape(bundle.name)}</b>: {tasks}</span>{held}</p>'


def uncertain_below(task: Task) -> str:
    """Which answers of a task are called uncertain, in words."""
    return f"an answer below {task.threshold:.3g} is called Uncertain" if task.threshold else "no threshold of its own"


def _made_of(bundle: Bundle) -> str:
    if bundle.base is None:
        return "a Hugging Face classifier"
    base = f"the base model {escape(bundle.base.hub_id)}" if bundle.base.hub_id else "a base model of its own"
    if bundle.adapters:
        return f"{base} with {'an adapter' if len(bundle.adapters) == 1 else f'{len(bundle.adapters)} adapters'}"
    return f"{base} with {'a fine-tuned adapter and ' if bundle.adapter_folder else ''}one head per task"


def about(bundle: Bundle, sizes: Mapping[str, int], parity: Mapping[str, Any] | None) -> str:
    """The model in sentences: what it is made of, how large each version is, how far they agree."""
    items = [
        f"It is {_made_of(bundle)}, and reads the first {bundle.max_tokens} tokens of a text.",
        *(
            f"{escape(name)}: {len(task.labels)} labels; {uncertain_below(task)}."
            for name, task in bundle.tasks.items()
        ),
        *(f"{title(name)}: {size / 1e6:.1f} MB{_contents(name)}." for name, size in sizes.items()),
    ]
    if parity is None:
        items.append("How far the three agree was not measured.")
    texts, compared = (parity["texts"], parity["backends"]) if parity else (0, {})
    first = TITLES[parity["reference"]] if parity else ""
    for name, found in compared.items():
        by_task = ", ".join(f"{escape(task)} {share(one['label_agreement'])}" for task, one in found["tasks"].items())
        items.append(
            f"{title(name)} against {first} on {texts} texts, same label: {by_task}; all tasks together "
            f"{share(found['label_agreement'])}. The largest difference in any probability is "
            f"{small(found['max_abs_dp'])}. Between a text alone and the same text in a batch, "
            f"{found['batch_flips'] or 'no'} label{'' if found['batch_flips'] == 1 else 's'} changed."
        )
    return f'<ul class="about">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _contents(backend: str) -> str:
    return " (all files that it reads)" if backend == "pytorch" else " (one file)"


def title(backend: str) -> str:
    """A runtime's shape, in its colour, and its name."""
    return f'<span class="mark {backend}" aria-hidden="true">{RUNTIMES[backend].glyph}</span> {TITLES[backend]}'


def small(value: float) -> str:
    """A small positive number without an exponent, to its first two digits."""
    return f"{value:.{max(0, 1 - floor(log10(value)))}f}" if value > 0 else "0"


def share(value: float) -> str:
    """A share in percent. Only what is whole is called 100 %."""
    return "100 %" if value == 1 else f"{min(value, 0.999):.1%}".replace("%", " %")


def reading_note(bundle: Bundle, answers: Iterable[Answer], unknown: bool) -> str:
    """What the model did not read of a text, in a line each; nothing where it read all of it.

    Args:
        unknown: the vocabulary has nothing for the text.
    """
    notes = []
    if unknown:
        notes.append(
            '<p class="cut"><span aria-hidden="true">⚠</span> The model\'s vocabulary has nothing for any word of this '
            "text: its answer says nothing about it.</p>"
        )
    if any(one.truncated for answer in answers for (one,) in answer.predictions.values()):
        notes.append(
            f'<p class="cut"><span aria-hidden="true">✂</span> Only the first {bundle.max_tokens} tokens were read; '
            "the rest of the text was not seen.</p>"
        )
    return "".join(notes)


def breakable(label: str) -> str:
    """A label, escaped, that may wrap after an underscore: `replacement_card_duration` is wider than a column."""
    return escape(label).replace("_", "_<wbr>")
