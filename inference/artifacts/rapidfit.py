"""Check what RapidFit writes beside its encoder: tasks, labels, pooling, heads."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.formats.bundle import ACTIVATIONS, POOLINGS, check_name

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("task_heads", "task_num_labels", "task_label2id", "task_id2label")
OPTIONAL = (
    "head_config",
    "loss_config",
    "pooling",
    "class_weights",
)  # loss_config and class_weights concern training and are not read
DEFAULTS = {"hidden_layers": 1, "hidden_multiplier": 1.0, "activation": "gelu"}  # RapidFit's own
MAX_TASKS, MAX_LABELS, MAX_LAYERS, MAX_WIDTH = 1_000, 10_000, 8, 65_536


class RapidFitHeads(NamedTuple):
    """The heads of a checkpoint, in the form of a bundle."""

    labels: dict[str, list[str]]
    """Task -> labels, both in the order of the logits."""
    pooling: str
    hidden: list[int]
    activation: str
    weights: dict[str, Tensor]
    """float32, named as `heads.safetensors` names them."""


def read_heads(raw: Any, hidden_size: Any) -> RapidFitHeads:
    """Read the heads from the content of a `task_heads.pt`.

    Args:
        raw: its content; `task_heads` are known to be tensors.
        hidden_size: width of the encoder's vectors.

    Raises:
        ValueError: a value is missing or not one that RapidFit writes.
    """
    raw = _dictionary(raw, "the checkpoint")
    odd = [name for name in KEYS if name not in raw] + [name for name in raw if name not in KEYS + OPTIONAL]
    if odd:
        raise ValueError(f"{shown(odd[0])} is missing, or is not something that RapidFit writes")
    if type(hidden_size) is not int or not 1 <= hidden_size <= MAX_WIDTH:
        raise ValueError(f"the encoder's hidden_size is {shown(hidden_size)}")
    pooling = raw.get("pooling", "mean")
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise ValueError(f"pooling is {shown(pooling)}; known are {', '.join(POOLINGS)}")
    hidden, activation = _shape(DEFAULTS | _dictionary(raw.get("head_config", {}), "head_config"), hidden_size)
    labels = _labels(raw)
    weights = _weights(raw["task_heads"], labels, hidden_size, hidden)
    return RapidFitHeads(labels, pooling, hidden, activation, weights)


def shown(value: Any) -> str:
    """Format an untrusted value for a message."""
    return repr(value)[:80] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _shape(head: dict[Any, Any], hidden_size: int) -> tuple[list[int], str]:
    """Return the widths of the hidden layers, and the activation between them."""
    layers, multiplier, activation = head["hidden_layers"], head["hidden_multiplier"], head["activation"]
    if type(layers) is not int or not 0 <= layers <= MAX_LAYERS:
        raise ValueError(f"hidden_layers is {shown(layers)}; it is a whole number from 0 to {MAX_LAYERS}")
    if type(multiplier) not in (int, float) or not 1 <= multiplier * hidden_size <= MAX_WIDTH:
        raise ValueError(f"hidden_multiplier is {shown(multiplier)}; a hidden layer has 1 to {MAX_WIDTH:,} values")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {shown(activation)}; known are {', '.join(ACTIVATIONS)}")
    return [int(hidden_size * multiplier)] * layers, activation


def _labels(raw: dict[Any, Any]) -> dict[str, list[str]]:
    """Return the labels of each task in the order of the logits, after checking that the three tables agree."""
    sizes, numbers, names = (_dictionary(raw[key], key) for key in KEYS[1:])
    if not 1 <= len(sizes) <= MAX_TASKS or set(sizes) != set(numbers) or set(sizes) != set(names):
        raise ValueError(f"{', '.join(KEYS[1:])} must name the same tasks, 1 to {MAX_TASKS:,} of them")
    checked = {}
    for task, size in sizes.items():
        if not isinstance(task, str):
            raise ValueError(f"task {shown(task)} is not a name")
        check_name(task, "task")
        by_label = _dictionary(numbers[task], f"task_label2id of {task!r}")
        by_id = _dictionary(names[task], f"task_id2label of {task!r}")
        if type(size) is not int or not 2 <= size <= MAX_LABELS:
            raise ValueError(f"task {task!r} has {shown(size)} labels; it needs 2 to {MAX_LABELS:,}")
        if len(by_id) != size or any(type(number) is not int or not 0 <= number < size for number in by_id):
            raise ValueError(f"the labels of task {task!r} are not numbered from 0 to {size - 1}")
        labels = [by_id[number] for number in range(size)]
        if not all(isinstance(label, str) and label for label in labels):
            raise ValueError(f"the labels of task {task!r} are not all text")
        if by_label != {label: number for number, label in enumerate(labels)}:
            raise ValueError(f"task_label2id and task_id2label do not agree on task {task!r}")
        checked[task] = labels
    return checked


def _weights(
    given: dict[str, Tensor], labels: dict[str, list[str]], hidden_size: int, hidden: list[int]
) -> dict[str, Tensor]:
    """Return the tensors of every head after checking their names and shapes."""
    weights, expected = {}, set()
    for task, names in labels.items():
        for step, (inputs, outputs) in enumerate(pairwise([hidden_size, *hidden, len(names)])):
            for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                key = f"{task}.{3 * step}.{part}"  # linear, activation, dropout; here without the dropout
                expected.add(key)
                tensor = given.get(key)
                if tensor is None or tensor.shape != shape or not tensor.is_floating_point():
                    raise ValueError(f"task_heads lacks {key!r}, a tensor of numbers of shape {shape}")
                weights[f"{task}.{2 * step}.{part}" if hidden else f"{task}.{part}"] = tensor.float()
    for key in given:
        if key not in expected:
            raise ValueError(f"task_heads holds {shown(key)}, which belongs to no layer of a task")
    return weights


def _dictionary(value: Any, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a dictionary, not a {type(value).__name__}")
    return value
