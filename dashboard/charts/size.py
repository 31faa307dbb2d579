"""What a backend takes: bytes of the model and what they are, libraries to install, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.charts.formatting import Estimate, joined, many, mb, percent, times
from dashboard.charts.style import Chart, Rows, limit
from dashboard.charts.traces import grouped, stacked
from inference.backends import TITLES

Receipt = Mapping[str, Any]
MB = 1e6
TOP_LIBRARIES = 4
LEAST = 0.01  # a type of weights below this share of its backend's is counted among "other types" in the picture


def _say(megabytes: float) -> str:
    return mb(megabytes * MB)


def model(receipt: Receipt, max_size_mb: float | None = None) -> Chart:
    """Bytes of the model's files by what they are, and the limit on them if there is one."""
    found = receipt["results"]["size"]
    values = {
        name: [(kind, size / MB) for kind, size in sorted(one["by_kind_bytes"].items(), key=lambda pair: -pair[1])]
        for name, one in found.items()
    }
    figure = stacked(values, x="MB of model files", say=_say)
    limit(figure, "limit", x=max_size_mb)
    table: Rows = [
        {"backend": TITLES[name], "file": path, "kind": file["kind"], "bytes": file["bytes"], "SHA-256": file["sha256"]}
        for name in found
        for path, file in receipt["backends"][name]["files"].items()
    ]
    alt = "Bars of the size of the model's files: " + joined(
        [f"{TITLES[name]} {mb(one['model_bytes'])}" for name, one in found.items()]
    )
    note = "A graph holds its weights. 1 MB is 1,000,000 bytes."
    return Chart(figure, _against(receipt, "model_bytes", "model files"), alt + ".", table, note)


def _against(receipt: Receipt, key: str, what: str) -> str:
    """The smallest backend against the reference."""
    found, reference = receipt["results"]["size"], receipt["settings"]["reference"]
    least = min(found, key=lambda name: found[name][key])
    size, whole = found[least][key], found[reference][key]
    alike = [TITLES[name] for name in found if found[name][key] == size]
    if size == whole:
        return f"No backend takes less than {TITLES[reference]}: {mb(whole)} of {what}."
    return (
        f"{joined(alike)} {'needs' if len(alike) == 1 else 'need'} {mb(size)} of {what}, {percent(size / whole, 0)} of "
        f"{TITLES[reference]}'s {mb(whole)}."
    )


def dtypes(receipt: Receipt) -> Chart | None:
    """Bytes of the weights by type; None where no backend's types are known."""
    found = {name: one["dtypes"] for name, one in receipt["backends"].items() if one["dtypes"]}
    if not found:
        return None
    values: dict[str, list[tuple[str, float]]] = {}
    for name, types in found.items():
        whole = sum(one["bytes"] for one in types.values())
        shown = [(kind, one["bytes"] / MB) for kind, one in types.items() if one["bytes"] >= LEAST * whole]
        rest = sum(one["bytes"] for one in types.values() if one["bytes"] < LEAST * whole) / MB
        values[name] = [*shown, *([("other types", rest)] if rest else [])]
    figure = stacked(values, x="MB of weights", say=_say)
    table: Rows = [
        {"backend": TITLES[name], "type": kind, "tensors": one["tensors"], "bytes": one["bytes"]}
        for name, types in found.items()
        for kind, one in types.items()
    ]
    said = []
    for name, types in found.items():
        kind, most = next(iter(types.items()))
        said.append(
            f"{percent(most['bytes'] / sum(one['bytes'] for one in types.values()), 0)} {kind} in {TITLES[name]}"
        )
    takeaway = f"The weights are {joined(said)}."
    unknown = [TITLES[name] for name in receipt["backends"] if name not in found]
    note = f"Not known for {joined(unknown)}: the library onnx was not installed." if unknown else ""
    return Chart(figure, takeaway, f"Bars of the weights by type. {takeaway}", table, note)


def libraries(receipt: Receipt) -> Chart:
    """Bytes of what must be installed to serve, the largest by name."""
    values: dict[str, list[tuple[str, float]]] = {}
    table: Rows = []
    for name, one in receipt["backends"].items():
        ranked = sorted(one["libraries"].items(), key=lambda pair: -pair[1])
        rest = ranked[TOP_LIBRARIES:]
        values[name] = [(library, size / MB) for library, size in ranked[:TOP_LIBRARIES]]
        if rest:
            values[name].append((f"{len(rest)} more", sum(size for _, size in rest) / MB))
        table += [{"backend": TITLES[name], "library": library, "bytes": size} for library, size in ranked]
    figure = stacked(values, x="MB of installed libraries", say=_say)
    each = [
        f"{TITLES[name]} {mb(sum(one['libraries'].values()))} in {len(one['libraries'])} libraries"
        for name, one in receipt["backends"].items()
    ]
    note = "What serving imports and all that it requires, as installed on the machine that measured."
    alt = f"Bars of installed libraries: {joined(each)}."
    return Chart(figure, _against(receipt, "libraries_bytes", "libraries"), alt, table, note)


def memory(receipt: Receipt) -> Chart:
    """Resident and peak memory of a process that serves."""
    found = receipt["results"]["memory"]
    kinds = {"resident_bytes": "after the batches", "peak_bytes": "at its peak"}
    values: dict[str, list[Estimate | None]] = {
        name: [{"value": one[key] / MB, "low": one[key] / MB, "high": one[key] / MB} for key in kinds]
        for name, one in found.items()
    }
    figure = grouped(list(kinds.values()), values, y="MB of the process", height=340)
    table: Rows = [
        {
            "backend": TITLES[name],
            "after the batches, bytes": one["resident_bytes"],
            "at its peak, bytes": one["peak_bytes"],
        }
        for name, one in found.items()
    ]
    order = sorted(found, key=lambda name: int(found[name]["peak_bytes"]))
    takeaway = f"{TITLES[order[0]]} peaks at {mb(found[order[0]]['peak_bytes'])} of memory"
    if len(order) > 1:
        ratio = found[order[-1]]["peak_bytes"] / found[order[0]]["peak_bytes"]
        takeaway += f"; {TITLES[order[-1]]} at {times(ratio)} as much, {mb(found[order[-1]]['peak_bytes'])}"
    alt = "Bars of memory: " + "; ".join(
        f"{TITLES[name]} {mb(one['resident_bytes'])} after the batches, {mb(one['peak_bytes'])} at its peak"
        for name, one in found.items()
    )
    starts = many(receipt["settings"]["launches"], "start")
    note = f"Of the process, Python and libraries included, after texts one by one and in batches. Median of {starts}."
    return Chart(figure, takeaway + ".", alt + ".", table, note)
