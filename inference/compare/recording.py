"""What a receipt holds beside the figures: model, rows, machine, versions and settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inference import cpu
from inference.artifacts.cache import tool_versions
from inference.backends import RUNTIMES
from inference.compare import benchmark
from inference.compare.answering import Given
from inference.compare.receipt import FORMAT, VERSION, Receipt
from inference.compare.rows import LabelledRows
from inference.formats.bundle import Bundle
from inference.version import __version__


def _load_and_clock() -> dict[str, Any]:
    import psutil

    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "mhz": round(frequency.current) if frequency else None,
    }


@dataclass(frozen=True)
class Clock:
    """The start of a measurement, and what the machine did then."""

    load: Mapping[str, Any] = field(default_factory=_load_and_clock)
    cpu_times: tuple[float, float] = field(default_factory=lambda: benchmark.cpu_times([]))
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Recorder:
    """Makes the receipts of one measurement: of its parts, without times, and of the whole."""

    bundle: Bundle
    settings: Mapping[str, Any]
    keep_texts: bool
    clock: Clock
    backend_entries: Callable[[], Mapping[str, Mapping[str, Any]]]
    """Returns backend -> its entry, but for answers and times; may wait for it."""

    def receipt(self, data: LabelledRows, given: Given, plan: benchmark.Plan, raw: Mapping[str, Any]) -> Receipt:
        """Return a receipt without `results` and checksum.

        Args:
            data, given: the rows, and what the backends answered to them.
            plan, raw: as from `Timing`.
        """
        entries, names = self.backend_entries(), given.names
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - self.clock.started, 1),
            "settings": {"backends": names, "reference": names[0], **self.settings, **asdict(plan)},
            "model": _model_entry(self.bundle),
            "data": _data_entry(data, given, self.keep_texts),
            "machine": _machine_entry()
            | {"before": self.clock.load, "after": _load_and_clock()}
            | {"steal_share": round(benchmark.steal_share([], self.clock.cpu_times), 5)},
            "versions": _versions(names),
            **raw,
            "backends": {
                name: {**entries[name], "predictions": given.predictions[name], **raw["backends"][name]}
                for name in names
            },
        }


def _data_entry(data: LabelledRows, given: Given, keep_texts: bool) -> dict[str, Any]:
    return {
        "name": data.name,
        "sha256": data.sha256,
        "rows_in_file": data.rows_in_file,
        "row_numbers": data.row_numbers,
        "tokens": given.tokens,
        "truncated": given.truncated,
        "labels": {task: list(ids) for task, ids in data.labels.items()},
        "texts": data.texts_as_strings if keep_texts else None,
        **({} if data.pair_column is None else {"pair_column": data.pair_column}),
        "copies": data.copies,
        "notes": data.notes,
    }


def _model_entry(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "files": dict(bundle.files),
        "base": bundle.base and {name: getattr(bundle.base, name) for name in ("hub_id", "revision", "files")},
        "max_tokens": bundle.max_tokens,
        "tasks": {
            name: {"labels": list(task.labels)}
            | {field: getattr(task, field) for field in ("problem_type", "threshold", "out_of_scope")}
            for name, task in bundle.tasks.items()
        },
    }


def _machine_entry() -> dict[str, Any]:
    import psutil

    return {
        "cpu": cpu.model(),
        "cores": cpu.cores(),
        "flags": cpu.int8_flags(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "huge_pages": cpu.has_huge_pages(cpu.asking_for_huge_pages()),  # as the processes of `processes`
    }


def _versions(backends: Sequence[str]) -> dict[str, str]:
    """Return the versions of Triptych, of what builds models, and of what is timed or computes the figures."""
    libraries = {name: importlib.metadata.version(name) for name in ("tokenizers", "numpy", "scipy", "scikit-learn")}
    tools = tool_versions() | tool_versions(library for name in backends for library in RUNTIMES[name].made_with)
    return {"triptych": __version__, "python": platform.python_version(), **tools, **libraries}
