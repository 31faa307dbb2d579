"""Score a Parquet file on a Ray cluster of this machine while its worker is killed; says in JSON what happened.

python tests/killed_ray.py SOURCE OUT FOLDER

Each worker leaves its process id in FOLDER when it opens the model. The first waits in the midst of its work until it
is killed, so that neither a slow machine nor a quick one can miss the moment.
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
from ports import listening  # noqa: E402

from inference.score import ray_data  # noqa: E402
from inference.score.run import ScoreJob  # noqa: E402

CALLS = 5  # that the first worker answers
AT_WORK = "at-work"
PATIENCE_S = 60  # of a worker that nobody kills: the run ends, and the test sees it


class Doomed(fakes.FakeBackend):
    """A fake that answers some calls, says that it is at work, and waits for its end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.left = CALLS

    def logits(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if not self.left:
            (self.folder / AT_WORK).touch()
            time.sleep(PATIENCE_S)
        return super().logits(*arguments, **named)


def open_one(pids: str) -> Any:
    folder = Path(pids)
    first = not any(folder.iterdir())
    (folder / str(os.getpid())).touch()
    return fakes.classifier(Doomed(folder) if first else fakes.FakeBackend())


def main(source: str, out: str, folder: str) -> None:
    killed: list[int] = []
    addresses: list[str] = []
    trouble: list[str] = []

    def kill() -> None:
        try:
            kill_the_first()
        except BaseException as error:  # else nobody hears of it: it is the end of a thread
            trouble.append(repr(error))

    def kill_the_first() -> None:
        while not Path(folder, AT_WORK).exists():
            time.sleep(0.05)
        addresses.extend(sorted({address for address, _ in listening(os.getpid())}))
        (first,) = workers()
        os.kill(first, signal.SIGKILL)
        killed.append(first)

    def workers() -> list[int]:
        return [int(path.name) for path in Path(folder).iterdir() if path.name != AT_WORK]

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    job = ScoreJob(Path(source), Path(out), block_rows=50)
    report = ray_data.score(job, scored.model(open_one=partial(open_one, folder)), 1)
    thread.join(PATIENCE_S)
    outcome = {
        "rows": report.tally.rows,
        "killed": len(killed),
        "opened": len(workers()),
        "addresses": addresses,
        "auth": os.environ["RAY_AUTH_MODE"],
        "trouble": next(iter(trouble), None),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
