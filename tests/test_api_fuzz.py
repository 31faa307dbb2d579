"""Any bytes at all are answered with 200 or 4xx, in the shape that is documented, and never come back.

The long forms are in `tests/soak/api.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import fakes
import pytest
from asgi import JSON, Client
from conftest import ROOT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from served import FAKES, Served

from inference.api import create_app

MARK = "m4rk3d"  # in every text that is made here: no answer may hold it
PATHS = ("/api/predict", "/api/explain")
ALLOWED = {200, 400, 413, 415, 422}
NUMBERS = [b"NaN", b"-Infinity", b"1e999", b"-0", b"1E400", b"9" * 400, b"0.5", b"1", b"00", b"0x1", b"1_0"]
TEXTS = [
    MARK.encode(),
    b"good",
    b"\\ud800",
    b"\\udfff\\ud800",
    b"\\u0000",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\x",
    b"\x00",
    b"\xf0\x9f\x98\x80",
    b"=1+1<script>",
    b" ",
    b"a" * 20_001,
]
NAMES = [b"texts", b"text", b"tasks", b"return_scores", b"threshold", b"backend", MARK.encode(), b"\\u0074ext", b""]
NAMES += [b"text", b"task", b"label", b"method"]

STRINGS = [b'"%s"' % text for text in TEXTS] + [b'"good %s"' % text for text in TEXTS]
LEAVES = [*STRINGS, *NUMBERS, b"null", b"true", b"false", b"", b'"sentiment"', b'"pytorch"', b"[]", b"{}"]
VALUES = [
    *LEAVES,
    *(b"[%s]" % leaf for leaf in LEAVES),
    *(b'["good",%s,"bad"]' % leaf for leaf in LEAVES),
    *(b'{"text":%s}' % leaf for leaf in LEAVES),
    *(b"[" * depth + b'"good"' + b"]" * depth for depth in (2, 100, 201, 5000)),
]
TOKENS = [b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\n", *(b'"%s"' % name for name in NAMES), *LEAVES]
RIGHT = (
    b'{"texts": ["good", "%s"], "tasks": ["sentiment"], "threshold": 0.5}' % MARK.encode(),
    b'{"text": "good %s", "task": "sentiment", "label": "positive"}' % MARK.encode(),
)
HEADERS = [
    *[JSON] * 12,
    {"content-type": MARK},
    {"content-type": f"application/json; charset={MARK}"},
    {},
    JSON | {"content-encoding": MARK},
]


def request_of(program: bytes) -> tuple[str, bytes, Mapping[str, str]]:
    """Where to, a body and headers, chosen by these bytes.

    A body is noise, tokens of JSON in any order, an object, or a request that was right until bytes were changed.
    """
    kind, header, *rest = program
    threes = zip(*[iter(rest)] * 3, strict=False)
    if kind % 4 == 0:
        body = bytes(rest) + MARK.encode()
    elif kind % 4 == 1:
        body = b"".join(TOKENS[one % len(TOKENS)] for one in rest)
    elif kind % 4 == 2:
        named = [(NAMES[a % len(NAMES)], VALUES[(b * 256 + c) % len(VALUES)]) for a, b, c in threes]
        body = b"{" + b",".join(b'"%s":%s' % pair for pair in named) + b"}"
    else:
        right = RIGHT[kind & 64 > 0]
        changed = bytearray(right)
        for place, cut, byte in threes:
            start = place % len(right)
            changed[start : start + cut % 3] = bytes([byte])
        body = bytes(changed)
    return PATHS[kind & 64 > 0], body, HEADERS[header % len(HEADERS)]


def check(client: Client, path: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the reply to these bytes, which is one that a request can have."""
    reply = client.post(path, body, headers)
    assert reply.status in ALLOWED, (reply.status, body)
    answer = json.loads(reply.body.decode("utf-8"))
    if reply.status == 200:
        assert {"backend"} < set(answer)
    else:
        assert MARK.encode() not in reply.body, body
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"code", "message"}
    return reply.status


def fuzz(inputs: int, derandomize: bool) -> dict[int, int]:
    """How many replies had each status."""
    client = Client(create_app(fakes.classifier()))
    counts: dict[int, int] = {}

    @settings(
        max_examples=inputs,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=2, max_size=14))
    def run(program: bytes) -> None:
        status = check(client, *request_of(program))
        counts[status] = counts.get(status, 0) + 1

    run()
    client.close()
    return counts


@pytest.mark.parametrize("inputs", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_arbitrary_bytes_give_no_5xx_and_are_not_quoted(inputs: int) -> None:
    counts = fuzz(inputs, derandomize=True)
    assert sum(counts.values()) >= inputs
    assert {200, 400, 415, 422} <= set(counts)


def schemathesis(url: str, folder: Path, cases: int, seed: int) -> subprocess.CompletedProcess[str]:
    """What Schemathesis says of the API at this address: all its checks, so many cases a route that takes any."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests" / "schemathesis.toml")),
            *("run", f"{url}/openapi.json", "--checks", "all", "--mode", "all", "--max-examples", str(cases)),
            *("--seed", str(seed), "--workers", "1", "--no-color", "--suppress-health-check", "all"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.slow
def test_api_matches_its_openapi_document(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="Schemathesis is not installed: requirements-dev.txt")
    with Served([*FAKES, str(tmp_path)]) as server:
        done = schemathesis(server.url, tmp_path, 450, seed=1)
    assert done.returncode == 0, done.stdout + done.stderr
    (generated,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) >= 1000
