"""Score a Parquet file on a Ray cluster of this machine while its worker is killed; says in JSON what happened.

python tests/killed_ray.py SOURCE OUT FOLDER

Each worker leaves its process id in FOLDER when it opens the model. The first is killed a second later, at work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fakes  # noqa: E402
import scored  # noqa: E402

from inference.score import cluster  # noqa: E402
from inference.score.run import Job  # noqa: E402


class Patient(fakes.FakeBackend):
    """A fake that takes its time, so that it can be killed at work."""

    def logits(self, *arguments: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return super().logits(*arguments, **named)


def open_one(folder: str) -> Any:
    Path(folder, str(os.getpid())).touch()
    return fakes.classifier(Patient())


def listening() -> list[str]:
    """Addresses on which processes of Ray accept connections."""
    import psutil

    found = set()
    for process in psutil.Process().children(recursive=True):
        for one in process.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN:
                found.add(one.laddr.ip)
    return sorted(found)


def main(source: str, out: str, folder: str) -> None:
    killed: list[int] = []
    addresses: list[str] = []

    def kill() -> None:
        while not (files := list(Path(folder).iterdir())):
            time.sleep(0.05)
        time.sleep(1)
        addresses.extend(listening())
        os.kill(int(files[0].name), signal.SIGKILL)
        killed.append(int(files[0].name))

    thread = threading.Thread(target=kill)
    thread.start()
    job = Job(Path(source), Path(out), block_rows=50)
    report = cluster.score(job, scored.model(open_one=partial(open_one, folder)), 1)
    thread.join()
    told = {
        "rows": report.tally.rows,
        "killed": len(killed),
        "opened": len(list(Path(folder).iterdir())),
        "addresses": addresses,
        "auth": os.environ["RAY_AUTH_MODE"],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
