"""The load bench measures what it says: every answer is counted, and so is every failure."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from served import FAKES, Served

sys.path.append(str(ROOT / "tests" / "load"))

import run as bench
from client import Run, load


def test_every_answer_is_counted_with_its_status_and_its_time(tmp_path: Path) -> None:
    bodies = ['{"text": "good"}', '{"text": 1}']
    with Served([*FAKES, str(tmp_path)]) as server:
        record = asyncio.run(load(Run("127.0.0.1", server.port, "/api/predict", bodies, 4, 0.2, least=20)))
        name = server.ask("/api/model")[1]["name"]
    assert name == "fake"
    assert set(record["statuses"]) == {"200", "422"}
    assert sum(record["statuses"].values()) == len(record["latencies_ms"]) >= 20
    assert min(record["latencies_ms"]) > 0
    cell = bench.summary([record], texts=1)
    assert cell["failures"] == record["statuses"]["422"]
    assert cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]


def test_a_connection_that_breaks_off_is_a_failure() -> None:
    async def ask() -> dict[str, object]:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            return await load(Run("127.0.0.1", server.sockets[0].getsockname()[1], "/", ["{}"], 3, 0.1))

    assert asyncio.run(ask())["statuses"] == {"lost": 3}


def test_the_client_itself_and_the_server_that_does_nothing_run() -> None:
    assert bench.ceiling(0.2) > 0


def test_ratios_are_to_the_better_engine_of_the_other() -> None:
    rates = {"triptych int8": 60, "infinity torch": 10, "infinity optimum": 20}
    cells = [
        {"server": name, "connections": at, "texts_per_request": texts, "requests_per_s": rate * texts}
        for name, rate in rates.items()
        for at in bench.CONNECTIONS
        for texts in bench.TEXTS
    ]
    assert bench.ratios(cells) == {"1": 3.0, "8": 3.0, "32": 3.0}


@pytest.mark.parametrize(("kind", "field"), [("triptych", "texts"), ("infinity", "input")])
def test_both_servers_are_asked_about_the_same_texts(kind: str, field: str) -> None:
    from inference.assets import showcase_texts

    asked = [json.loads(body)[field] for body in bench.bodies(kind, 8)]
    assert {len(one) for one in asked} == {8}
    assert [text for one in asked for text in one] == showcase_texts()[: len(asked) * 8]


def test_api_page_has_the_recorded_figures() -> None:
    record = json.loads((ROOT / "assets" / "load.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    servers = ("triptych int8", "triptych onnx", "infinity optimum", "infinity torch")
    cells = {(c["connections"], c["texts_per_request"], c["server"]): c for c in record["cells"]}
    assert sum(cell["failures"] for cell in record["cells"]) == 0
    for connections in (1, 8, 32):
        for texts in (1, 8):
            rates = " | ".join(str(round(cells[connections, texts, name]["requests_per_s"])) for name in servers)
            assert f"| {connections}, {texts} text{'s' if texts > 1 else ''} a request | {rates} |" in page
    times = record["times_the_requests_of_infinity"]
    assert f"answers {times['1']} times the requests" in page and f"{times['32']} times at 32" in " ".join(page.split())
