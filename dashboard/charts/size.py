"""What a backend takes: bytes of the model by kind, libraries to install, memory."""

from __future__ import annotations

from dashboard.charts.formatting import Estimate, Receipt, each, many
from dashboard.charts.style import Chart, Rows, limit
from dashboard.charts.traces import grouped, stacked
from inference.backends import TITLES
from inference.calls.formatting import joined, mb, percent, times

MB = 1e6
TOP_LIBRARIES = 4
MIN_SHARE = 0.01  # a type of weights below this share of its backend's is drawn among "other types"


def _say(megabytes: float) -> str:
    return mb(megabytes * MB)


def model(receipt: Receipt, max_size_mb: float | None = None) -> Chart:
    """Bytes of the model's files by kind, and the limit on them if there is one."""
    sizes = receipt["results"]["size"]
    values = {
        name: [(kind, size / MB) for kind, size in sorted(of["by_kind_bytes"].items(), key=lambda pair: -pair[1])]
        for name, of in sizes.items()
    }
    figure = stacked(values, x="MB of model files", say=_say)
    limit(figure, "limit", x=max_size_mb)
    table: Rows = [
        {"runtime": TITLES[name], "file": path, "kind": file["kind"], "bytes": file["bytes"], "SHA-256": file["sha256"]}
        for name in sizes
        for path, file in receipt["backends"][name]["files"].items()
    ]
    alt = f"Bars of the size of the model's files: {joined(each(sizes, lambda of: mb(of['model_bytes'])))}."
    details = "What a deployment must carry. A graph contains its weights. 1 MB is 1,000,000 bytes."
    return Chart(figure, _against(receipt, "model_bytes", "model files"), alt, table, details=details)


def _against(receipt: Receipt, key: str, what: str) -> str:
    """Compare the smallest backend with the reference."""
    sizes, reference = receipt["results"]["size"], receipt["settings"]["reference"]
    size, whole = min(of[key] for of in sizes.values()), sizes[reference][key]
    if size == whole:
        return f"No runtime needs less than {TITLES[reference]}: {mb(whole)} of {what}."
    smallest = [TITLES[name] for name in sizes if sizes[name][key] == size]
    return (
        f"{joined(smallest)} {'needs' if len(smallest) == 1 else 'need'} {mb(size)} of {what}, "
        f"{percent(size / whole, 0)} of {TITLES[reference]}'s {mb(whole)}."
    )


def dtypes(receipt: Receipt) -> Chart | None:
    """Bytes of the weights by type; None if no backend's types are known."""
    backends = {name: of["dtypes"] for name, of in receipt["backends"].items() if of["dtypes"]}
    if not backends:
        return None
    values: dict[str, list[tuple[str, float]]] = {}
    main = []
    for name, types in backends.items():
        whole = sum(of["bytes"] for of in types.values())
        values[name] = [(kind, of["bytes"] / MB) for kind, of in types.items() if of["bytes"] >= MIN_SHARE * whole]
        if rest := sum(of["bytes"] for of in types.values() if of["bytes"] < MIN_SHARE * whole):
            values[name].append(("other types", rest / MB))
        kind, of = next(iter(types.items()))
        main.append(f"{percent(of['bytes'] / whole, 0)} {kind} in {TITLES[name]}")
    table: Rows = [
        {"runtime": TITLES[name], "type": kind, "tensors": of["tensors"], "bytes": of["bytes"]}
        for name, types in backends.items()
        for kind, of in types.items()
    ]
    takeaway = f"The weights are {joined(main)}."
    unknown = [TITLES[name] for name in receipt["backends"] if name not in backends]
    note = f"Unknown for {joined(unknown)}: the library onnx was not installed." if unknown else ""
    figure = stacked(values, x="MB of weights", say=_say)
    return Chart(figure, takeaway, f"Bars of the weights by type. {takeaway}", table, note)


def libraries(receipt: Receipt) -> Chart:
    """Bytes of the libraries that serving needs, the largest by name."""
    backends = {
        name: sorted(of["libraries"].items(), key=lambda pair: -pair[1]) for name, of in receipt["backends"].items()
    }
    values: dict[str, list[tuple[str, float]]] = {}
    for name, ranked in backends.items():
        values[name] = [(library, size / MB) for library, size in ranked[:TOP_LIBRARIES]]
        if rest := ranked[TOP_LIBRARIES:]:
            values[name].append((f"{len(rest)} more", sum(size for _, size in rest) / MB))
    table: Rows = [
        {"runtime": TITLES[name], "library": library, "bytes": size}
        for name, ranked in backends.items()
        for library, size in ranked
    ]
    totals = each(backends, lambda ranked: f"{mb(sum(size for _, size in ranked))} in {len(ranked)} libraries")
    details = "What serving imports, with all requirements, as installed on the machine of the measurement."
    alt = f"Bars of installed libraries: {joined(totals)}."
    figure = stacked(values, x="MB of installed libraries", say=_say)
    return Chart(figure, _against(receipt, "libraries_bytes", "libraries"), alt, table, details=details)


def memory(receipt: Receipt) -> Chart:
    """Resident and peak memory of a serving process."""
    memory = receipt["results"]["memory"]
    kinds = {"resident_bytes": "after the batches", "peak_bytes": "peak"}
    values: dict[str, list[Estimate | None]] = {
        name: [{"value": of[key] / MB, "low": of[key] / MB, "high": of[key] / MB} for key in kinds]
        for name, of in memory.items()
    }
    figure = grouped(list(kinds.values()), values, y="MB of the process", height=340)
    table: Rows = [
        {"runtime": TITLES[name], **{f"{kind}, bytes": of[key] for key, kind in kinds.items()}}
        for name, of in memory.items()
    ]
    peaks = {name: float(of["peak_bytes"]) for name, of in memory.items()}
    least, most = min(peaks, key=peaks.__getitem__), max(peaks, key=peaks.__getitem__)
    takeaway = f"{TITLES[least]} peaks at {mb(peaks[least])} of memory"
    if least != most:
        takeaway += f"; {TITLES[most]} needs {times(peaks[most] / peaks[least])} as much, {mb(peaks[most])}"
    amounts = each(memory, lambda of: f"{mb(of['resident_bytes'])} after the batches, {mb(of['peak_bytes'])} peak")
    starts = many(receipt["settings"]["launches"], "start")
    details = f"Of the process, Python and libraries included, after single texts and batches. Median of {starts}."
    return Chart(figure, f"{takeaway}.", f"Bars of memory: {'; '.join(amounts)}.", table, details=details)
