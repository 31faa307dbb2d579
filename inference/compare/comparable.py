"""Which measurements are of one model, and which have figures that belong in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.backends import TITLES
from inference.formats.identity import weights

Receipt = Mapping[str, Any]


def is_one_model(a: Receipt, b: Receipt) -> bool:
    """Return whether two receipts are of the same weights; labels and settings may differ."""
    return _weights(a) == _weights(b)


def _weights(receipt: Receipt) -> tuple[dict[str, str], dict[str, str]]:
    model, base = receipt["model"], receipt["model"]["base"]
    return weights(model["files"]), weights(base["files"]) if base else {}


def model_of(receipt: Receipt) -> dict[str, Any]:
    """Return the model with its labels and settings."""
    return {key: value for key, value in receipt["model"].items() if key != "name"}  # a folder may be renamed


def difference(first: Receipt, other: Receipt) -> str:
    """Return why the figures of two measurements do not belong in one table; "" if they do."""
    if model_of(first) != model_of(other):
        another = f"another model, {other['model']['name']}"
        return "labels or settings have changed since" if is_one_model(first, other) else another
    if reason := machine_difference(first, other):
        return reason
    threads = other["settings"]["threads"]
    if first["settings"]["threads"] != threads:
        return f"{threads} thread{'s' * (threads > 1)} instead of {first['settings']['threads']}"
    if first["settings"]["reference"] != other["settings"]["reference"]:
        return f"compared with {TITLES[other['settings']['reference']]}"
    if first["settings"].get("dtypes") != other["settings"].get("dtypes"):
        return "other number formats"
    for library in ("torch", "onnxruntime", "openvino"):
        now, then = (receipt["versions"].get(library) for receipt in (first, other))
        if now and then and now != then:
            return f"{library} {then} instead of {now}"
    for name, entry in other["backends"].items():
        if name in first["backends"] and _built(entry) != _built(first["backends"][name]):
            return f"other files of {TITLES[name]}"
    return ""


def huge_pages(receipt: Receipt) -> str:
    """Return whether the processes of a receipt had huge pages: "yes", "no", or "unknown" (older, from Linux)."""
    machine = receipt["machine"]
    recorded = machine.get("huge_pages", None if machine["system"] == "Linux" else False)
    return {True: "yes", False: "no", None: "unknown"}[recorded]


def machine_difference(first: Receipt, other: Receipt) -> str:
    """Return what of the other's machine keeps times from being compared; "" if nothing does."""
    if any(first["machine"][key] != other["machine"][key] for key in ("cpu", "flags")):
        return f"another processor, {other['machine']['cpu']}"
    if huge_pages(first) != huge_pages(other):
        return {"yes": "with huge pages", "no": "without huge pages"}.get(huge_pages(other), "huge pages not recorded")
    return ""


def _built(entry: Mapping[str, Any]) -> dict[str, str]:
    return {name: file["sha256"] for name, file in entry["files"].items() if file["kind"] in ("weights", "graph")}
