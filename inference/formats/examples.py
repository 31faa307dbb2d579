"""A model's own examples: texts that its owner publishes with it, in `examples.json` of its folder.

    {"examples": [{"text": "the soup was cold", "name": "A complaint", "labels": {"mood": "bad"}}]}

A pair has a `text_pair` too. `name` and `labels` are optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.calls.texts import Text, check_texts
from inference.errors import InferenceError
from inference.formats.files import inside, read_json

if TYPE_CHECKING:
    from inference.formats.bundle import Bundle

FILE = "examples.json"
MAX_EXAMPLES = 1000
MAX_NAME_LETTERS = 60
_KEYS = {"text", "text_pair", "name", "labels"}


@dataclass(frozen=True)
class Example:
    """A text or a pair, and what its owner says about it."""

    text: Text
    name: str | None = None
    """What it shows, for a button."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Task -> the right label."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as `examples.json` holds it."""
        first, *second = [self.text] if isinstance(self.text, str) else self.text
        values = {"text": first, "text_pair": "".join(second), "name": self.name, "labels": dict(self.labels)}
        return {key: value for key, value in values.items() if value}


def read_examples(folder: Path, bundle: Bundle) -> tuple[Example, ...]:
    """Return the examples in a model's folder; none if it has no `examples.json`.

    Raises:
        InferenceError: the file is damaged or does not fit the model; with the number of the example.
    """
    if not (folder / FILE).exists():
        return ()
    entries = read_json(inside(folder, FILE)).get("examples")
    if not isinstance(entries, list) or len(entries) > MAX_EXAMPLES:
        raise InferenceError(f'it must be {{"examples": […]}} with at most {MAX_EXAMPLES:,} of them')
    examples = []
    for number, entry in enumerate(entries, start=1):
        try:
            examples.append(_example(entry, bundle))
        except (ValueError, InferenceError) as error:
            raise InferenceError(f"example {number}: {error}") from None
    return tuple(examples)


def _example(entry: Any, bundle: Bundle) -> Example:
    if not isinstance(entry, dict) or not {"text"} <= set(entry) <= _KEYS:
        raise ValueError(f"it must be an object with a text, and may have {', '.join(sorted(_KEYS - {'text'}))}")
    text = (entry["text"], entry["text_pair"]) if "text_pair" in entry else entry["text"]
    example = Example(text, entry.get("name"), entry.get("labels", {}))
    check_example(example, bundle)
    return example


def check_example(example: Example, bundle: Bundle) -> None:
    """Raise ValueError or InputError unless the model can answer the text, and has the labels."""
    check_texts([example.text])
    if bundle.pairs != isinstance(example.text, tuple):
        raise ValueError("it is not a pair, which the model takes" if bundle.pairs else "the model takes no pairs")
    name = "a name" if example.name is None else example.name
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= MAX_NAME_LETTERS:
        raise ValueError(f"its name must be one line of 1 to {MAX_NAME_LETTERS} characters")
    if not isinstance(example.labels, dict):
        raise ValueError("its labels must be an object of task and label")
    for task, label in example.labels.items():
        if task not in bundle.tasks or label not in bundle.tasks[task].labels:
            raise ValueError(f"{str(label)[:60]!r} is not a label of {str(task)[:60]!r} in this model")


def offered(examples: Sequence[Example], count: int = 10) -> list[Example]:
    """Return the examples to offer to a visitor, each with a name of its own: those with names, else the first."""
    chosen = [example for example in examples if example.name] or list(examples[:count])
    named: dict[str, Example] = {}
    for example in chosen:
        text = " ".join((example.text if isinstance(example.text, str) else " / ".join(example.text)).split())
        name = example.name or (text if len(text) <= MAX_NAME_LETTERS else f"{text[: MAX_NAME_LETTERS - 1]}…")
        named.setdefault(name, replace(example, name=name))
    return list(named.values())[: 3 * count]
