"""Processes of peers that take turns: all but the one that is asked are stopped, so that no thread disturbs it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

from bench import BenchError
from bench.environments import environment, run
from bench.plan import Entry
from inference import cpu

ROOT = Path(__file__).resolve().parents[1]
REPLY_TIMEOUT_S = 900


class Process:
    """A peer in a process of its own, stopped between two orders.

    Raises:
        BenchError: the peer cannot be installed, converted or opened.
    """

    def __init__(self, entry: Entry, model: Path, cache: Path, threads: int) -> None:
        python = environment(entry.environment, cache)
        settings = {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of processes beside this one
            "PYTHONPATH": str(ROOT),
        }
        order = {"module": entry.module, "options": entry.options, "model": str(model), "threads": threads}
        command = [str(python), "-m", "bench.worker"]
        built = _built([*command], order, model, cache, settings)
        variables = library_defaults() | settings
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, json.dumps(order | {"built": str(built), "build": False})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=cpu.asking_for_huge_pages(variables) if entry.huge_pages else cpu.without_huge_pages(variables),
        )
        self._handle = psutil.Process(self._process.pid)
        try:
            self.versions: dict[str, str] = self._reply()
            self._handle.suspend()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **details: Any) -> Any:
        """Let it work on an order, a method of `bench.worker.Worker`; return the reply.

        Raises:
            BenchError: the process ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, psutil.NoSuchProcess):  # `_reply` says why it ended
            self._handle.resume()
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        reply = self._reply()
        self._handle.suspend()
        return reply

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(REPLY_TIMEOUT_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        raise BenchError((self._log.read().strip().splitlines() or ["it ended without a message"])[-1][:300])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()


def library_defaults() -> dict[str, str]:
    """Return this environment without what `inference` sets for its own PyTorch: a peer has its libraries' defaults."""
    return {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}


def _built(command: list[str], order: dict[str, Any], model: Path, cache: Path, settings: dict[str, str]) -> Path:
    """Return the folder with what the peer's `build` writes, in a process that ends before anything is measured."""
    module = ROOT / "bench" / "peers" / f"{order['module']}.py"
    options = {name: value for name, value in order["options"].items() if name != "hint"}  # of running only
    about = [module.read_text(encoding="utf-8"), options, model.name, command[0]]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / "built" / f"{order['module']}-{key}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run([*command, json.dumps(order | {"built": str(folder), "build": True})], settings)
        (folder / "complete").touch()
    return folder
