"""Answers as HTML: pure functions that fill the templates in `ui/templates`, which escape every value."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from inference import Answer, InferenceError, Prediction
from inference.backends import RUNTIMES, TITLES
from inference.calls.formatting import fixed, mb, ms, percent
from inference.calls.reading import Reading
from inference.compare.overall import Overall, left_out_in_words, others_in_words
from inference.formats.bundle import MULTI, Bundle, Task
from ui.look import look, tokens

STRANGE = 0.5  # a larger share of letters that the vocabulary does not know is worth a note
NOTABLE = 0.01  # a confidence that moved by this much is worth a mark

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def fill(template: str, **values: Any) -> str:
    """Fill the template of this name."""
    return TEMPLATES.get_template(f"{template}.html").render(values)


@dataclass(frozen=True)
class Difference:
    """The answer of one runtime for one task beside the reference's."""

    prediction: Prediction
    expected: Prediction

    @property
    def delta(self) -> float:
        """The probability of the reference's label here minus its probability there."""
        return self.prediction.scores[self.expected.label] - self.expected.confidence

    @property
    def other_label(self) -> bool:
        return self.prediction.label != self.expected.label

    @property
    def other_certainty(self) -> bool:
        return self.prediction.uncertain != self.expected.uncertain


@dataclass(frozen=True)
class Times:
    """How long a runtime took for a text, in milliseconds."""

    median_ms: float
    passes: int
    """Of which this is the median."""
    recorded_ms: float | None = None
    """Median of the recorded measurement."""


def head(current: str, links: Mapping[str, str], tag: str = "b") -> str:
    """Return the top of every page: the mark, and the places to go with their addresses.

    Args:
        tag: the element of the name; h1 on a page without another heading.
    """
    return fill("head", current=current, links=links, tag=tag)


def docs(api: Mapping[str, Any], address: str, links: Mapping[str, str]) -> str:
    """Return the documentation of the API as a page: each address with a command to try it.

    Args:
        api: its OpenAPI document.
        address: of this server, with a slash at the end.
    """
    key = ["-H", "X-API-Key: KEY"] if api.get("security") else []
    commands: dict[str, list[tuple[str, str]]] = {}
    for path, methods in api["paths"].items():
        (operation,) = methods.values()
        curl = ["curl", "-sS", *(key if "security" not in operation else []), f"{address}api{path}"]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = body.get("examples") or ({"": {"value": body["example"]}} if body else {})
        commands[path] = [
            (title, shlex.join([*curl, "-H", "Content-Type: application/json", "-d", json.dumps(example["value"])]))
            for title, example in examples.items()
        ] or [("", shlex.join(curl))]
    return fill("docs", api=api, commands=commands, head=Markup(head("Docs", links)), look=Markup(tokens() + look()))


def message(error: InferenceError) -> str:
    """Return an error's message; it is written for people."""
    return fill("message", text=error)


def strip(bundle: Bundle, recorded: Overall | None, proof: str | None) -> str:
    """Return one line: what to ship by the recorded measurements, and why, or how to measure.

    Args:
        recorded: the decision; None without a measurement of this model.
        proof: the address of the measurements, if a dashboard shows them.
    """
    others = f"{others_in_words(recorded)} {left_out_in_words(recorded)}".strip() if recorded else ""
    return fill("strip", bundle=bundle, recorded=recorded, others=others, proof=proof)


def timing(backend: str, answer: Answer) -> str:
    """Return where the time of one answer went."""
    return fill("timing", backend=backend, answer=answer)


def side_by_side(
    bundle: Bundle,
    answers: Mapping[str, Answer | InferenceError | None],
    *,
    times: Mapping[str, Times] | None = None,
    limits: Mapping[str, float] | None = None,
    reading: Reading | None = None,
    asked: float = 0,
) -> str:
    """Return a table with a column per runtime: label, confidence, time, and what differs from the reference.

    Args:
        answers: per backend its answer to one text, why it has none, or None while it is still to come.
        times: per backend; that of a single pass if it is left out.
        limits: per task its threshold, if it is not the model's own.
        reading: how much of the text the model reads and knows.
        asked: the number of the question, for the browser to see that this is another answer.
    """
    first = bundle.backends[0]
    given = {name: answer for name, answer in answers.items() if isinstance(answer, Answer)}
    differences = {
        (name, task): Difference(answer.predictions[task][0], given[first].predictions[task][0])
        for name, answer in given.items()
        for task in bundle.tasks
        if first in given and name != first
    }
    return fill(
        "side_by_side",
        bundle=bundle,
        answers={name: answer for name, answer in answers.items() if name not in bundle.missing},
        waiting=[name for name, answer in answers.items() if answer is None],
        first=first,
        predictions=_predictions(given.values()),
        out_of_scope=[
            name
            for name, task in bundle.tasks.items()
            if task.out_of_scope in {answer.predictions[name][0].label for answer in given.values()}
        ],
        reading=reading,
        differences=differences,
        differing={pair: it for pair, it in differences.items() if it.other_label or it.other_certainty},
        largest=max(differences, key=lambda pair: abs(differences[pair].delta), default=None),
        notable=NOTABLE,
        strange=STRANGE,
        times={name: Times(answer.timing.total_ms, 1) for name, answer in given.items()} | dict(times or {}),
        limits={name: task.threshold for name, task in bundle.tasks.items()} | dict(limits or {}),
        asked=asked,
    )


def about(bundle: Bundle, sizes: Mapping[str, int], parity: Mapping[str, Any] | None) -> str:
    """Return the model in sentences: what it is made of, how large each version is, how far they agree."""
    return fill("about", bundle=bundle, sizes=sizes, parity=parity)


def uncertain_below(task: Task) -> str:
    """Say which answers of a task are called uncertain."""
    return f"an answer below {task.threshold:.3g} is called Uncertain" if task.threshold else "no threshold of its own"


def delta_text(delta: float) -> str:
    """Format a difference in probability with its sign, to four digits; nothing is rounded to a false zero."""
    if abs(delta) < 0.0001:
        return "Δ < 0.0001" if delta else "Δ 0"
    return f"Δ {fixed(delta, 4, '+')}"


def small(value: float) -> str:
    """Format a small positive number without an exponent, to its first two digits."""
    return f"{value:.{max(0, 1 - floor(log10(value)))}f}" if value > 0 else "0"


def shorten(text: str, max_chars: int) -> str:
    """Cut a text that is too long, and mark that with an ellipsis."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def breakable(label: str) -> Markup:
    """Escape a label and let it wrap after an underscore: `replacement_card_duration` is wider than a column."""
    return escape(label).replace("_", Markup("_<wbr>"))


def _predictions(answers: Iterable[Answer]) -> list[Prediction]:
    return [prediction for answer in answers for (prediction,) in answer.predictions.values()]


TEMPLATES.globals |= {"MULTI": MULTI, "RUNTIMES": RUNTIMES, "TITLES": TITLES}
TEMPLATES.tests["failed"] = lambda answer: isinstance(answer, InferenceError)
TEMPLATES.filters |= {
    "delta": delta_text,
    "label": breakable,
    "ms": ms,
    "number": format,
    "mb": mb,
    "percent": percent,
    "small": small,
    "uncertain_below": uncertain_below,
}
