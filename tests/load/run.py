"""Requests a second and their times: this API, and infinity-emb's /classify on the same model, in turns.

    python tests/load/run.py --out assets/load.json --infinity ENV/bin/python

Single texts and batches of 8, at 1, 8 and 32 connections. Every cell is measured in rounds, in an order that is
reversed each time; only one server works at a time. Texts are those of the showcase, in the same order for all. The
client is a process of its own; its share of a core is in the output, and so is what it reaches against a server that
does nothing.
Without --infinity the API alone is measured. requirements-infinity.txt makes the environment for it.
"""

from __future__ import annotations

import argparse
import json
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import uvicorn  # noqa: E402
from client import Run  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from served import Served  # noqa: E402

from bench.processes import library_defaults  # noqa: E402
from inference import cpu  # noqa: E402
from inference.assets import showcase_texts  # noqa: E402

CONNECTIONS = (1, 8, 32)
TEXTS = (1, 8)
START_S = 300
GOALS = {32: 3.0, 1: 6.0}  # times the requests/s of the better engine of infinity-emb, with single texts


class Infinity:
    """infinity-emb's own server with one of its engines, at a free port."""

    def __init__(self, python: Path, engine: str, model: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._log = log
        if engine == "optimum":
            model = exported(python, model, log.with_suffix(""))
        # By a relative name: it looks for ONNX files of an absolute one in vain.
        command = [str(python.absolute().with_name("infinity_emb")), "v2", "--model-id", ".", "--engine", engine]
        command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"]
        # Its own warming up fails on ONNX, for it cuts no texts there. The first round is thrown away anyhow.
        command += ["--served-model-name", "default", "--no-model-warmup"]
        quiet = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        with log.open("w") as file:
            variables = cpu.asking_for_huge_pages(library_defaults() | quiet)  # as this API
            self.process = subprocess.Popen(command, cwd=model, env=variables, stdout=file, stderr=file)

    def __enter__(self) -> Infinity:
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise RuntimeError(f"infinity-emb did not start:\n{self._log.read_text()[-3000:]}") from None
                time.sleep(0.5)

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()


def exported(python: Path, model: Path, out: Path) -> Path:
    """The folder `out` with the model as the ONNX file that Optimum makes of it."""
    command = [str(python.with_name("optimum-cli")), "export", "onnx", "--task", "text-classification"]
    subprocess.run([*command, "--model", str(model), str(out)], check=True, capture_output=True)
    return out


def bodies(kind: str, texts: int) -> list[str]:
    """Requests with so many texts each: all texts of the showcase, in its order."""
    showcase = showcase_texts()
    groups = [showcase[i : i + texts] for i in range(0, len(showcase) - texts + 1, texts)]
    if kind == "infinity":
        return [json.dumps({"model": "default", "input": group}) for group in groups]
    return [json.dumps({"texts": group}) for group in groups]


def measure(port: int, kind: str, texts: int, connections: int, seconds: float) -> dict[str, Any]:
    """One round of one cell, by a client process of its own."""
    path = "/classify" if kind == "infinity" else "/api/predict"
    run = Run("127.0.0.1", port, path, bodies(kind, texts), connections, seconds, least=connections)
    done = subprocess.run(
        [sys.executable, str(HERE / "client.py")], input=json.dumps(asdict(run)), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    measurement: dict[str, Any] = json.loads(done.stdout)
    return measurement


def summary(rounds: list[dict[str, Any]], texts: int) -> dict[str, Any]:
    """Figures of a cell: medians of the rounds for rates, percentiles of all answers together."""
    times = sorted(time for one in rounds for time in one["latencies_ms"])
    rates = [len(one["latencies_ms"]) / one["wall_s"] for one in rounds]
    statuses: Counter[str] = Counter()
    for one in rounds:
        statuses.update(one["statuses"])
    return {
        "requests_per_s": round(statistics.median(rates), 1),
        "requests_per_s_by_round": [round(rate, 1) for rate in rates],
        "texts_per_s": round(statistics.median(rates) * texts, 1),
        **{f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 2) for q in (50, 95, 99)},
        "requests": len(times),
        "failures": sum(count for status, count in statuses.items() if status != "200"),
        "statuses": dict(statuses),
        "client_share_of_a_core": round(statistics.median(one["client_cpu_s"] / one["wall_s"] for one in rounds), 3),
    }


def compare(servers: dict[str, tuple[int, str]], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Every cell of every server; the order of the servers is reversed each round."""
    cells = [(connections, texts) for texts in TEXTS for connections in CONNECTIONS]
    by_cell: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for number in range(-1, rounds):  # the first one warms up and is thrown away
        for connections, texts in cells:
            names = list(servers) if number % 2 else list(reversed(servers))
            for name in names:
                one = measure(*servers[name], texts, connections, seconds if number >= 0 else min(seconds, 1))
                if number >= 0:
                    by_cell.setdefault((name, connections, texts), []).append(one)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [
        {"server": name, "connections": connections, "texts_per_request": texts} | summary(runs, texts)
        for (name, connections, texts), runs in sorted(by_cell.items(), key=lambda pair: (pair[0][2], pair[0][1]))
    ]


def ceiling(seconds: float) -> float:
    """Requests/s that the client reaches at 32 connections against a server that answers at once."""
    with Served([sys.executable, str(HERE / "nothing.py")]) as server:
        one = measure(server.port, "triptych", 1, 32, seconds)
    return round(len(one["latencies_ms"]) / one["wall_s"], 1)


def ratios(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Times the requests/s of the better engine of infinity-emb, with single texts, by connections."""
    rate = {
        (one["server"], one["connections"]): one["requests_per_s"] for one in cells if one["texts_per_request"] == 1
    }
    shares = {}
    for connections in CONNECTIONS:
        others = [value for (name, at), value in rate.items() if at == connections and name.startswith("infinity")]
        if others:
            shares[str(connections)] = round(rate["triptych int8", connections] / max(others), 2)
    return shares


def table(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| connections | texts a request | server | requests/s | texts/s | p50, ms | p95, ms | p99, ms | failures |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in cells:
        lines.append(
            f"| {one['connections']} | {one['texts_per_request']} | {one['server']} | {one['requests_per_s']:,.0f} | "
            f"{one['texts_per_s']:,.0f} | {one['p50_ms']:,.1f} | {one['p95_ms']:,.1f} | {one['p99_ms']:,.1f} | "
            f"{one['failures']} |"
        )
    return "\n".join(lines)


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--out", type=Path, default=Path("load.json"), help="(default: %(default)s)")
    p.add_argument("--infinity", type=Path, metavar="PYTHON", help="of an environment with infinity-emb")
    p.add_argument("--engines", default="torch,optimum", help="of infinity-emb (default: %(default)s)")
    p.add_argument("--backends", default="int8,onnx", help="of the API (default: %(default)s)")
    p.add_argument("--model", type=Path, help="a plain Hugging Face classifier (default: made for the purpose)")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=4, help="of a cell in a round (default: %(default)s)")
    args = p.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = args.model or folder / "plain"
        if args.model is None:
            subprocess.run([sys.executable, str(HERE / "model.py"), str(model)], check=True, capture_output=True)
        servers: dict[str, tuple[int, str]] = {}
        for backend in args.backends.split(","):
            command = [sys.executable, "-m", "inference", "serve", str(model), "--backend", backend, "--port", "0"]
            servers[f"triptych {backend}"] = (stack.enter_context(Served([*command, "--json"])).port, "triptych")
        versions = {}
        for engine in args.engines.split(",") if args.infinity else []:
            started = Infinity(args.infinity, engine, model, folder / f"{engine}.log")
            servers[f"infinity {engine}"] = (stack.enter_context(started).port, "infinity")
            versions = installed(args.infinity)
        most = ceiling(min(args.seconds, 3))
        cells = compare(servers, args.rounds, args.seconds)
    document = {
        "machine": {"cpu": cpu.model(), "cores": cpu.cores(), "system": platform.system()},
        "settings": {"rounds": args.rounds, "seconds": args.seconds, "texts": "assets/showcase.csv"},
        "server": reads_with(),
        "infinity": versions,
        "client_alone_requests_per_s": most,
        "times_the_requests_of_infinity": ratios(cells),
        "goals": {str(connections): goal for connections, goal in GOALS.items()},
        "cells": cells,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(cells))
    for connections, times in document["times_the_requests_of_infinity"].items():
        goal = f" (the goal: {GOALS[int(connections)]:g})" if int(connections) in GOALS else ""
        print(f"{connections} connections, single texts: {times} times infinity-emb's better engine{goal}")
    print(f"The client alone reaches {most:,.0f} requests/s. Everything is in {args.out}.")
    return int(any(one["failures"] for one in cells))


def reads_with() -> dict[str, str]:
    """Which event loop and which reader of HTTP uvicorn takes here, as it does in the servers of this API."""
    config = uvicorn.Config(FastAPI())
    config.load()
    loop: Any = config.get_loop_factory()
    return {"event_loop": loop.__module__, "http": config.http_protocol_class.__module__}


def installed(python: Path) -> dict[str, str]:
    """Versions of what serves there."""
    names = ["infinity_emb", "torch", "transformers", "optimum", "onnxruntime", "numpy"]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


if __name__ == "__main__":
    sys.exit(main())
