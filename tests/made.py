"""Receipts made by hand: every answer and every time is given, so that every figure can be worked out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from inference.backends import RUNTIMES, TITLES
from inference.compare.benchmark import BATCH_SIZES, CONTROL, SHAPES, Plan, padded_share, timed_rows
from inference.compare.receipt import FORMAT, VERSION, Receipt, seal
from inference.compare.results import results

MS = {"pytorch": 12.0, "onnx": 4.0, "int8": 2.0}
FOUR = MS | {"fourth": 7.0}


def add_runtime(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Add the runtime "fourth" to the table, as somebody would who writes one."""
    fourth = replace(
        RUNTIMES["int8"], title="Fourth", color="#A0522D", glyph="◆", marker="diamond", dash="longdash", hatching="-"
    )
    monkeypatch.setitem(RUNTIMES, "fourth", replace(fourth, **fields))
    monkeypatch.setitem(TITLES, "fourth", "Fourth")


def receipt(
    true: Sequence[int],
    given: Mapping[str, Sequence[int]],
    *,
    labels: Sequence[str] = ("no", "yes"),
    confidence: Mapping[str, Sequence[float]] | None = None,
    ms: Mapping[str, float] = MS,
    jitter: float = 0.02,
    launches: int = 4,
    rounds: int = 2,
    calls: int = 20,
    tokens: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    task: str = "mood",
    out_of_scope: str | None = None,
) -> Receipt:
    """A sealed receipt of one task.

    Args:
        true: position of each row's label; -1 for none.
        given: backend -> position of the label it gives to each row.
        ms: backend -> milliseconds of a text; each call is off by a random share of the size of `jitter`.
        calls: texts in a round.
    """
    names = [name for name in TITLES if name in given]
    rng = np.random.default_rng(seed)
    rows = len(true)
    plan = Plan(launches, rounds, calls, 1, calls, 1, 10, True, 60.0)
    lengths = list(tokens) if tokens else [8 + 4 * (i % 8) for i in range(rows)]
    max_tokens = max(64, *lengths)
    timed = timed_rows(plan, rows, np.random.default_rng(0))
    swept = [[lengths[row] for one in each for row in one][:calls] for each in timed]

    def times(name: str, count: int) -> list[int]:
        return (ms[name] * 1e6 * np.exp(rng.normal(0, jitter, count))).astype(int).tolist()

    blocks = []
    for launch in range(launches):
        for number in range(rounds):
            for arm in [*names, CONTROL]:
                total = times(names[0] if arm == CONTROL else arm, calls)
                blocks.append(
                    {
                        "launch": launch,
                        "round": number,
                        "arm": arm,
                        "total_ns": total,
                        "tokenize_ns": [t // 10 for t in total],
                        "forward_ns": [t * 8 // 10 for t in total],
                        "steal": 0.0,
                        "slowdown": 1.0,
                        "disturbed": False,
                    }
                )
    sweep = [
        {
            "launch": launch,
            "round": 0,
            "arm": name,
            "batch_size": size,
            "total_ns": int(calls * ms[name] * 1e6 / (1 + 0.1 * i)),
            "padded_share": padded_share(swept[launch], size),
        }
        for launch in range(launches)
        for name in names
        for i, size in enumerate(BATCH_SIZES)
    ]
    kept = [block for block in blocks if block["launch"] == 0 and block["round"] < 2 and block["arm"] != CONTROL]
    made: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "created": "2026-01-02T03:04:05Z",
        "seconds": 1.5,
        "settings": {
            "backends": names,
            "reference": names[0],
            "threads": 2,
            "quick": False,
            "seed": 0,
            **asdict(plan),
        },
        "model": {
            "name": "made",
            "files": {"heads.safetensors": "1" * 64},
            "base": {"hub_id": "nobody/base", "revision": "0" * 40, "files": {}},
            "max_tokens": max_tokens,
            "tasks": {
                task: {
                    "labels": list(labels),
                    "problem_type": "single_label_classification",
                    "threshold": 0.6,
                    "out_of_scope": out_of_scope,
                }
            },
        },
        "data": {
            "name": "rows.csv",
            "sha256": "2" * 64,
            "rows_in_file": rows,
            "row_numbers": list(range(1, rows + 1)),
            "tokens": lengths,
            "truncated": 0,
            "labels": {task: list(true)},
            "texts": list(texts) if texts else None,
            "copies": 0,
            "notes": [],
        },
        "machine": {
            "cpu": "Made CPU",
            "cores": 2,
            "flags": ["avx2"],
            "system": "Linux",
            "architecture": "x86_64",
            "memory_bytes": 8_000_000_000,
            "before": {"load": 0.1, "mhz": 2000},
            "after": {"load": 1.0, "mhz": 2000},
            "steal_share": 0.0,
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "backends": {
            name: {
                "files": {f"{name}.bin": {"kind": "graph", "sha256": "3" * 64, "bytes": int(ms[name] * 8_000_000)}},
                "dtypes": {"float32": {"tensors": 2, "bytes": 1000}},
                "libraries": {"numpy": int(ms[name] * 90_000_000)},
                "starts": [
                    {
                        "import_s": 0.1 * ms[name],
                        "load_s": 0.2,
                        "first_answer_s": 0.05,
                        "resident_bytes": 1,
                        "peak_bytes": 2,
                    }
                    for _ in range(launches * (2 if name == names[0] else 1))
                ],
                "memory": [{"resident_bytes": 10, "peak_bytes": int(ms[name] * 50_000_000)}] * launches,
                "predictions": {
                    task: {
                        "label_ids": list(given[name]),
                        "confidence": list(confidence[name]) if confidence else [0.9] * rows,
                        "max_abs_dp": 0.0 if name == names[0] else 0.01,
                    }
                },
                "batch_flips": {"rows": min(10, rows), "tasks": {task: 0}},
            }
            for name in names
        },
        "latency": {
            "rows": timed,
            "warm_up": [{name: {"calls": 12, "plateau": True} for name in [*names, CONTROL]} for _ in range(launches)],
            "blocks": blocks,
            "cores": [0, 1],
            "waited_s": 1.5,
        },
        "throughput": {"texts": calls, "samples": sweep},
        "shapes": [
            {"launch": launch, "round": 0, "arm": name, "texts": size, "tokens": length, "forward_ns": times(name, 3)}
            for launch in range(launches)
            for size, length in SHAPES
            if length <= max_tokens
            for name in names
        ],
        "other_threads": [{"threads": 1, "blocks": kept}],
    }
    made["results"] = figures(made)
    return seal(made)


def without_speed(one: Receipt, reason: str = "busy") -> Receipt:
    """The same measurement without its times: only sizes and answers."""
    kept = deepcopy(one)
    kept["settings"] |= {"launches": 0, "alone_rows": 0, "best_threads": False}
    for entry in kept["backends"].values():
        entry |= {"starts": [], "memory": []}
        entry["batch_flips"] = {"rows": 0, "tasks": dict.fromkeys(entry["batch_flips"]["tasks"], 0)}
    kept["latency"] |= {"rows": [], "warm_up": [], "blocks": [], "unmeasured": reason}
    kept["throughput"]["samples"], kept["shapes"], kept["other_threads"] = [], [], []
    kept["results"] = {key: kept["results"][key] for key in ("size", "accuracy", "paired")}
    return seal(kept)


_KNOWN: dict[str, Any] = {}


def figures(receipt: Mapping[str, Any]) -> Any:
    """Return `results` of a receipt, computed once for equal ones: its bootstraps take longer than most tests."""
    measured = {name: value for name, value in receipt.items() if name not in ("results", "checksum")}
    key = hashlib.sha256(json.dumps(measured).encode()).hexdigest()
    if key not in _KNOWN:
        _KNOWN[key] = results(receipt)
    return deepcopy(_KNOWN[key])


def answers(rows: int, wrong: int, seed: int = 0, labels: int = 2) -> tuple[list[int], list[int]]:
    """Right labels in turn, and answers of which exactly `wrong`, drawn at random, are not right."""
    true = np.arange(rows) % labels
    given = true.copy()
    given[np.random.default_rng(seed).permutation(rows)[:wrong]] += 1
    return true.tolist(), (given % labels).tolist()


def flip(given: Sequence[int], rows: Sequence[int], labels: int = 2) -> list[int]:
    """The same answers with the next label at these rows."""
    return [(one + (i in rows)) % labels for i, one in enumerate(given)]


def encoded(receipt: Receipt) -> bytes:
    return json.dumps(receipt).encode()
