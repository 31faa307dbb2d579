"""The whole static page with the demo model: staged, opened, used in every view, and used again without its server."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from chromium import sync_api
from conftest import ROOT
from engine_page import write
from static_site import Visiting, ask, card, downloaded, served

from deploy.static_page import page_files
from inference import InputError, load
from inference.assets import showcase_texts
from inference.compare.overall import decide_overall
from inference.compare.receipt import read_receipt
from inference.compare.verdict import ShipLimits
from inference.formats.describe import describe

ROWS = 300
MAX_MOVED = 0.05  # of a confidence: texts are in other batches than in Python


@pytest.mark.slow
@pytest.mark.browser
def test_every_view_works_and_the_next_visit_needs_no_server(
    browser: sync_api.Browser, demo: Path, demo_cache: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path, demo)
    shutil.copyfile(ROOT / "static" / "index.html", folder / "index.html")
    texts = (showcase_texts() * 2)[:ROWS]
    with served(folder) as (url, server), Visiting(browser) as page:
        page.goto(url)
        page.locator("#answer .timing").wait_for()
        page.locator("#why .word.for").first.wait_for()
        page.get_by_role("link", name="Measure here").click()
        page.get_by_role("button", name="Measure").click()
        page.locator("#measured .summary").get_by_text("in this browser").wait_for()
        lines = io.StringIO()
        csv.writer(lines).writerows([["text"], *([text] for text in texts)])
        rows = list(csv.DictReader(io.StringIO(downloaded(page, "a.csv", lines.getvalue()).decode(), newline="")))
        server.shutdown()
        server.server_close()
        page.goto(f"{url}#tab=try")
        page.reload()
        ask(page, "what a wonderful film")
        card(page, "sentiment").get_by_text("positive").first.wait_for()
        page.locator("#why .word.for").first.wait_for()
    expected = load(demo, "int8").classify(texts).predictions
    for task, predictions in expected.items():
        differing = sum(row[task] != prediction.label for row, prediction in zip(rows, predictions, strict=True))
        assert differing <= 2, task
        moved = [
            abs(float(row[f"{task}_confidence"]) - prediction.confidence)
            for row, prediction in zip(rows, predictions, strict=True)
            if row[task] == prediction.label
        ]
        assert max(moved) < MAX_MOVED


@pytest.mark.slow
def test_recorded_comparison_is_that_of_the_same_model_alone(tmp_path: Path) -> None:
    source = ROOT / "assets" / "receipts" / "showcase.json"
    (tmp_path / "receipts").mkdir()
    bundle = describe(ROOT / "assets" / "models" / "demo")
    assert sorted(page_files(bundle, tmp_path / "receipts")) == ["corrections.js", "csv.js", "page.json", "tokens.css"]
    shutil.copyfile(source, tmp_path / "receipts" / "showcase.json")
    try:
        files = page_files(bundle, tmp_path / "receipts")
    except InputError as error:
        pytest.skip(str(error))
    recorded = json.loads(files["page.json"])["recorded"]
    overall = decide_overall({"showcase": read_receipt(source)}, ShipLimits())
    assert recorded["sentence"].startswith(f"{overall.headline}: {overall.because} INT8 (")
    assert recorded["receipts"] == {"showcase.json": [388, 388]}
    assert [row["runtime"] for row in recorded["rows"]] == ["pytorch", "onnx", "int8"]
    assert "Try the classifier" in files["comparison.html"].decode()
    assert len(files["comparison.html"]) < 2_000_000
    other = dataclasses.replace(bundle, files={**bundle.files, "heads.safetensors": "0" * 64})
    assert sorted(page_files(other, tmp_path / "receipts")) == ["corrections.js", "csv.js", "page.json", "tokens.css"]
