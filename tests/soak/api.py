"""The long forms of what the API's tests do in short: raw bytes, Schemathesis, overload, and memory.

python tests/soak/api.py [bytes] [document] [overload] [memory] [--inputs 500000] [--cases 10000] [--seconds 60]
                              [--memory-seconds 600]

All four where none is named. Each prints one line of figures; the exit code is 1 where one does not hold. Overload and
memory are measured at `python -m inference serve` with the demo model on INT8.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "load")]

from client import Run, load  # noqa: E402
from served import FAKES, Served  # noqa: E402

from inference.assets import showcase_texts  # noqa: E402

SERVE = [sys.executable, "-m", "inference", "serve", "--port", "0", "--json"]
GROWTH_KB = 20_000


def raw_bytes(args: argparse.Namespace) -> bool:
    """No input of any bytes gets a 5xx or comes back in an answer; the first that does is raised."""
    from test_api_fuzz import fuzz

    started = time.monotonic()
    counts = fuzz(args.inputs, derandomize=False)
    print(
        f"bytes: {sum(counts.values()):,} inputs in {time.monotonic() - started:.0f} s: {dict(sorted(counts.items()))}"
    )
    return sum(counts.values()) >= args.inputs


def document(args: argparse.Namespace) -> bool:
    """Schemathesis finds nothing with all its checks."""
    from test_api_fuzz import schemathesis

    seed = random.randrange(2**32)
    with tempfile.TemporaryDirectory() as folder, Served([*FAKES, folder]) as server:
        done = schemathesis(server.url, Path(folder), args.cases // 2, seed)
    (summary,) = [line.strip() for line in done.stdout.splitlines() if " generated" in line] or ["nothing generated"]
    print(f"document: {summary}, seed {seed}")
    if done.returncode:
        print("\n".join(line[:300] for line in done.stdout.splitlines()), done.stderr)
    return done.returncode == 0


def overload(args: argparse.Namespace) -> bool:
    """Five times as many texts at a time as may wait: each request gets 200, 429 or 503, and none is lost."""
    texts = showcase_texts()
    bodies = [json.dumps({"texts": (texts * 2)[i : i + 16]}) for i in range(0, len(texts), 16)]
    connections = 5 * 1024 // 16
    with Served(SERVE) as server:
        load = ask(server, bodies, connections, args.seconds)
        after = server.ask("/api/ready")[0]
    statuses = load["statuses"]
    answered = sum(statuses.values())
    print(f"overload: {connections} connections of 16 texts for {load['wall_s']:.0f} s: {statuses}, then ready {after}")
    return set(statuses) <= {"200", "429", "503"} and {"200", "429"} <= set(statuses) and answered > 0 and after == 200


def memory(args: argparse.Namespace) -> bool:
    """Memory after all that time is no more than 20 MB above that after the first tenth of it."""
    draw = random.Random(0)
    texts = showcase_texts()
    bodies = [json.dumps({"texts": draw.choices(texts, k=draw.choice([1, 1, 1, 8, 64]))}) for _ in range(500)]
    bodies += [json.dumps({"text": " ".join(draw.choices(texts, k=200)), "return_scores": True}) for _ in range(20)]
    bodies += ['{"text": 1}', "{", '{"text": "a", "tasks": ["none"]}', json.dumps({"texts": ["a"] * 600})] * 5
    draw.shuffle(bodies)
    with Served(SERVE) as server:
        ask(server, bodies, 8, args.memory_seconds / 10)
        before = server.resident_kb()
        load = ask(server, bodies, 8, args.memory_seconds * 9 / 10)
        growth = server.resident_kb() - before
    print(
        f"memory: {before / 1e3:.0f} MB, and {growth / 1e3:+.1f} MB after {load['wall_s']:.0f} s and "
        f"{len(load['latencies_ms']):,} requests more: {load['statuses']}"
    )
    return growth <= GROWTH_KB and set(load["statuses"]) <= {"200", "400", "422"}


def ask(server: Served, bodies: list[str], connections: int, seconds: float) -> dict[str, Any]:
    return asyncio.run(load(Run("127.0.0.1", server.port, "/api/predict", bodies, connections, seconds)))


JOBS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "bytes": raw_bytes,
    "document": document,
    "overload": overload,
    "memory": memory,
}


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    p.add_argument("--inputs", type=int, default=500_000)
    p.add_argument("--cases", type=int, default=10_000)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--memory-seconds", type=float, default=600)
    args = p.parse_args()
    counts = Counter(JOBS[name](args) for name in args.jobs or JOBS)
    return int(counts[False] > 0)


if __name__ == "__main__":
    sys.exit(main())
