"""Say what a staged Space makes public, before it is uploaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.card import front_matter
from inference.errors import counted
from inference.formats.bundle import Bundle
from training.licence import unnamed

MAX_LABELS = 12  # shown per task


def publication(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """Return what everybody can read in a staged Space: the model, its labels, and texts."""
    card = front_matter(folder)
    data = {path.name: json.loads(path.read_bytes())["data"] for path in sorted(folder.glob("assets/receipts/*.json"))}
    receipts = {name: (len(one["row_numbers"]), len(one.get("texts") or ())) for name, one in data.items()}
    texts: dict[str, int] = {}
    if examples := _examples(folder):
        texts["examples"] = examples
    if (folder / "site.json").is_file():  # of a static Space
        site, page = (json.loads((folder / name).read_bytes()) for name in ("site.json", "page.json"))
        texts |= {name: len(site[name]) for name in ("examples", "showcase") if site.get(name)}
        receipts |= (page["recorded"] or {}).get("receipts", {})
    texts |= {name: count for name, (_, count) in receipts.items() if count}
    return {
        "model": bundle.name,
        "base": bundle.base.hub_id if bundle.base else None,
        "licence": card.get("license"),
        "language": card.get("language"),
        "tasks": {
            name: {"labels": list(task.labels), "threshold": task.threshold} for name, task in bundle.tasks.items()
        },
        "receipts": {name: rows for name, (rows, _) in receipts.items()},
        "texts": texts,
    }


def _examples(folder: Path) -> int:
    paths = folder.glob("assets/models/*/examples.json")
    return sum(len(json.loads(path.read_bytes())["examples"]) for path in paths)


def lines(public: dict[str, Any]) -> Iterator[str]:
    """Yield the same for people, and warnings about what is not said."""
    yield "Everyone will be able to read:"
    base = f", fine-tuned from {public['base']}" if public["base"] else ""
    language = ", ".join(public["language"] or ["none"])
    yield f"  the model {public['model']}{base}; licence: {public['licence'] or 'none'}; language: {language}"
    for name, task in public["tasks"].items():
        labels = ", ".join(task["labels"][:MAX_LABELS]) + (", …" if len(task["labels"]) > MAX_LABELS else "")
        count = counted(len(task["labels"]), "label")
        limit = f"; uncertain below {task['threshold']:g}" if task["threshold"] else ""
        yield f"  the {count} of {name}: {labels}{limit}"
    for name, rows in public["receipts"].items():
        texts = "with their texts" if name in public["texts"] else "without texts"
        yield f"  the measurement {name} on {counted(rows, 'row')}, {texts}"
    for name, count in public["texts"].items():
        if name not in public["receipts"]:
            yield f"  {counted(count, 'text')} in {name}"
    for warning in unnamed(public["licence"], public["language"]):
        yield f"warning: {warning}"
    if "examples" not in public["texts"]:
        yield "warning: The page has no examples to click. Name some with --examples FILE."


def agreement(folder: Path) -> Iterator[str]:
    """Yield how many labels of a static page are those of Python, if it was started and has a showcase."""
    if parity := json.loads((folder / "parity.json").read_bytes()):
        equal = ", ".join(f"{task} {answers['equal']:,}" for task, answers in parity["tasks"].items())
        yield f"Same label in {parity['browser']} as in Python, of {parity['texts']:,} showcase texts: {equal}."
