"""Run backends in processes of their own: orders to a worker, its replies, and its end."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import cpu
from inference.errors import InferenceError

ROOT = Path(__file__).resolve().parents[2]
REPLY_TIMEOUT_S = 1800
POLL_S = 0.2  # between two looks at whether a reply is still wanted


class Process:
    """A worker process with one backend, see `worker`.

    Args:
        pinned: bind it to as many cores as it has threads.
        watch: called before a reply is awaited, and then every `POLL_S`; an exception that it raises ends the wait.
        options: arguments of `load`.
    """

    def __init__(
        self,
        model: Path,
        backend: str,
        *,
        pinned: bool = True,
        watch: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        self.backend = backend
        self.watch = watch
        self.tokens: dict[str, list[int]] = {}  # the reply of `Worker.read` for its texts
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        options = {name: str(v.resolve()) if isinstance(v, Path) else v for name, v in options.items()}
        arguments = {"model": str(model.resolve()), "backend": backend, "pinned": pinned, **options}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "inference.compare.worker", json.dumps(arguments), str(time.time_ns())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=cpu.asking_for_huge_pages(),
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.ready = self._reply()
        except BaseException:
            self.close()
            raise

    def ask(self, order: str, **details: Any) -> Any:
        """Return the reply to an order, the name of a method of `worker.Worker`.

        Raises:
            InferenceError: the worker reported an error or ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_reply` reports why it ended
            self._process.stdin.write(json.dumps({"order": order, **details}) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _reply(self) -> Any:
        until = time.monotonic() + REPLY_TIMEOUT_S
        self.watch()
        while True:
            try:
                line = self._lines.get(timeout=POLL_S)
                break
            except Empty:
                self.watch()
                if time.monotonic() > until:
                    self._process.kill()
        if not line:
            self._process.wait()
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["no message"])[-1]
            raise InferenceError(
                f"The measuring process of runtime {self.backend!r} ended ({self._process.returncode}): {last}."
                if self._process.returncode >= 0
                else f"The measuring process of runtime {self.backend!r} was killed: memory may have run out."
            )
        reply = json.loads(line)
        if isinstance(reply, dict) and "error" in reply:
            raise InferenceError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process at once: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()


def scores(reply: Mapping[str, str], tasks: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """Decode the reply of `Worker.answer` to shape (rows, labels) per task; `tasks` has the number of labels."""
    return {
        task: np.frombuffer(base64.b64decode(reply[task]), "<f4").reshape(-1, labels) for task, labels in tasks.items()
    }
