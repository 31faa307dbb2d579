"""The Overview: its drawings are true to the receipt, and the page answers for the model and not for one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import pytest
from conftest import ROOT
from opened import html, one, opened, words
from streamlit.testing.v1 import AppTest
from test_overall import TASKS, measured

from dashboard import receipts, state
from dashboard.charts import overview
from dashboard.report_summary import summary
from inference import cpu
from inference.assets import DEMO_MODEL
from inference.backends import RUNTIMES
from inference.compare.overall import decide_overall
from inference.compare.receipt import seal, write_receipt
from inference.compare.verdict import ShipLimits
from inference.formats.describe import describe
from ui.recorded import find_recorded

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def receipt() -> Any:
    return one()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, where the dashboard looks for receipts."""
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    monkeypatch.delenv("TRIPTYCH_RECEIPTS", raising=False)
    yield tmp_path
    receipts._read.clear()


def on_shelf(folder: Path, name: str, receipt: Any) -> None:
    """Write a receipt as one of this machine."""
    receipt["machine"] |= {"cpu": cpu.model(), "flags": cpu.int8_flags()}
    write_receipt(seal(receipt), folder / f"{name}.json")


def styles(drawing: overview.Drawing, part: str) -> list[dict[str, float]]:
    """Return the lengths in percent of each element of a class."""
    matches = re.findall(rf'class="{part}[^"]*"[^>]*style="([^"]*)"', drawing.html)
    return [{key: float(value) for key, value in re.findall(r"(\w+):([\d.]+)(?:%|px)", text)} for text in matches]


def test_every_drawing_has_a_takeaway_an_alt_text_and_a_table(receipt: Any) -> None:
    for drawing in (overview.pareto(receipt, "mood"), overview.speedup(receipt), overview.cost(receipt, 0.1)):
        assert drawing.takeaway.endswith(".")
        assert f'aria-label="{drawing.alt}"' in drawing.html
        assert len({tuple(line) for line in drawing.table}) == 1
        assert all(runtime.glyph in drawing.html for name, runtime in RUNTIMES.items() if name in ("onnx", "int8"))


def test_trade_off_has_a_logarithmic_time_and_areas_by_size(receipt: Any) -> None:
    drawing = overview.pareto(receipt, "mood")
    dots = styles(drawing, "dot")
    int8, onnx, pytorch = dots  # fastest first: 2, 4 and 12 ms
    assert (onnx["left"] - int8["left"]) / (pytorch["left"] - onnx["left"]) == pytest.approx(0.63, abs=0.03)
    sizes = [receipt["results"]["size"][name]["model_bytes"] for name in ("int8", "onnx", "pytorch")]
    assert (int8["width"] / pytorch["width"]) ** 2 == pytest.approx(sizes[0] / sizes[2], rel=0.1)
    assert all(0 <= dot["left"] <= 100 and 0 <= dot["bottom"] <= 100 for dot in dots)


def test_speed_up_is_drawn_to_scale_with_the_noise(receipt: Any) -> None:
    drawing = overview.speedup(receipt)
    bars, whiskers, (band, *_), (one_, *_) = (styles(drawing, part) for part in ("bar", "whisker", "band", "one"))
    gains = receipt["results"]["speedup"]
    assert bars[1]["width"] / bars[0]["width"] == pytest.approx(
        gains["int8"]["value"] / gains["onnx"]["value"], rel=0.01
    )
    assert all(
        w["left"] <= bar["width"] <= w["left"] + w["width"] + 0.1 for bar, w in zip(bars, whiskers, strict=False)
    )
    assert band["left"] < one_["left"] < band["left"] + band["width"]
    assert drawing.takeaway.startswith("INT8 is ")


def test_drawings_have_a_further_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_runtime(monkeypatch)
    true, base = made.answers(200, 20)
    receipt = made.receipt(true, dict.fromkeys(made.FOUR, base), ms=made.FOUR)
    for drawing in (overview.pareto(receipt, "mood"), overview.speedup(receipt), overview.cost(receipt, 0.1)):
        assert "◆" in drawing.html and "Fourth" in drawing.alt


def test_hostile_names_are_text_in_drawings_and_summary() -> None:
    receipt = measured("mood", rows=200)
    receipt["data"]["name"] = receipt["model"]["name"] = receipt["machine"]["cpu"] = HOSTILE
    receipt["results"]["accuracy"][HOSTILE] = receipt["results"]["accuracy"].pop("mood")
    receipt["results"]["paired"][HOSTILE] = receipt["results"]["paired"].pop("mood")
    receipt["data"]["labels"] = {HOSTILE: receipt["data"]["labels"]["mood"]}
    receipt["model"]["tasks"] = {HOSTILE: receipt["model"]["tasks"]["mood"]}
    for text in (overview.pareto(receipt, HOSTILE).html, summary(decide_overall({HOSTILE: receipt}, ShipLimits()))):
        assert "<script" not in text and "<img" not in text
        assert "&lt;script&gt;" in text


def test_page_has_a_row_per_task_and_backend_over_all_measurements(folder: Path) -> None:
    for task in TASKS:
        on_shelf(folder, task, measured(task, rows=2000))
    test = opened()
    assert not test.exception
    page = html(test)
    assert page.count('class="runtime"') == 9
    assert [page.index(f">{task} <small>2,000 rows of {task}.csv") for task in TASKS]
    assert "Against PyTorch (each bound at 95%)</th>" in page
    assert page.count("<h2>") == 1 and "on all 3 tasks" in page


def test_measurements_of_another_machine_are_left_out_and_named(folder: Path) -> None:
    on_shelf(folder, "here", measured("mood", rows=400))
    elsewhere = measured("topic", rows=400)
    write_receipt(seal(elsewhere), folder / "there.json")
    test = opened(receipt="here")
    assert "topic measured under other conditions, not counted; tone not measured" in html(test)
    assert "Left out: there (another processor, Made CPU)" in words(test).replace("\\", "")
    assert "mood measured under other conditions, not counted; tone not" in html(opened(receipt="there"))


def test_limits_are_in_the_page_too_and_both_places_agree(folder: Path) -> None:
    on_shelf(folder, "here", measured("mood", rows=400))
    test = opened(max_p95="50")
    assert test.number_input(key="max_p95_here").value == 50
    test.number_input(key="max_p95_here").set_value(0.5).run()
    assert not test.exception
    assert test.sidebar.number_input(key="max_p95").value == 0.5
    assert "Nothing to ship under these limits" in html(test)
    test.sidebar.number_input(key="max_p95").set_value(60.0).run()
    assert test.number_input(key="max_p95_here").value == 60


def test_measurement_without_times_shows_accuracy_and_says_that_speed_is_missing(folder: Path) -> None:
    on_shelf(folder, "busy", made.without_speed(measured("mood", rows=400), "busy"))
    test = opened()
    assert not test.exception
    assert "Speed is not measured" in html(test)
    assert html(test).count("not measured</td>") == 9


def test_measurement_of_the_reference_alone_has_a_page(folder: Path) -> None:
    on_shelf(folder, "alone", measured("mood", rows=400, backends=("pytorch",)))
    test = opened()
    assert not test.exception
    assert "Only PyTorch was measured" in html(test)


def test_summary_says_what_it_leaves_out() -> None:
    tasks = [f"task {number}" for number in range(12)]
    receipts = {task: measured(task, rows=300) for task in tasks}
    for receipt in receipts.values():
        receipt["model"]["tasks"] = dict.fromkeys(tasks, receipt["model"]["tasks"]["mood"])
    page = summary(decide_overall(receipts, ShipLimits(max_drop=0.03)))
    assert page.count('class="runtime"') == 18
    assert "6 tasks more: every limit is met there. The full report has them." in page
    page = summary(decide_overall(receipts, ShipLimits(max_p95_ms=0.1)))
    assert "limits are not met on 6. The full report" in page


@pytest.mark.slow
def test_page_and_overview_recommend_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", str(DEMO_MODEL))
    recorded = find_recorded(describe(DEMO_MODEL))
    assert recorded
    page = html(opened())
    assert f"{recorded.overall.headline}</h2>" in page
    assert f'<p class="because">{recorded.overall.because}</p>' in page
    for name in recorded.overall.backends:
        assert f"{recorded.overall.status(name)}" in page


def test_smaller_measurement_decides_only_if_it_is_chosen(folder: Path) -> None:
    on_shelf(folder, "large", measured("mood", rows=2000))
    on_shelf(folder, "small", measured("mood", rows=400))
    assert "2,000 rows of mood.csv, measurement large" in html(opened())
    test = opened(receipt="small")
    assert "400 rows of mood.csv, measurement small" in html(test)
    switch = test.toggle(key="decides")
    assert (
        switch.value
        and switch.label.replace("\\", "") == "Base the decision on “small” (400 rows of mood) instead of “large”"
    )
    switch.set_value(False).run()
    assert "2,000 rows of mood.csv, measurement large" in html(test)
    assert "decides" not in [toggle.key for toggle in opened(receipt="large").toggle]


def test_switch_names_the_measurement_that_decides_though_it_has_fewer_rows(folder: Path) -> None:
    on_shelf(folder, "timed", measured("mood", rows=200))
    on_shelf(folder, "untimed", made.without_speed(measured("mood", rows=500)))
    (label,) = [toggle.label for toggle in opened(receipt="untimed").toggle if toggle.key == "decides"]
    assert label.replace("\\", "") == "Base the decision on “untimed” (500 rows of mood) instead of “timed”"


def test_measurement_made_here_does_not_replace_a_larger_one(folder: Path) -> None:
    on_shelf(folder, "large", measured("mood", rows=2000))
    mine = made.without_speed(measured("mood", rows=100))
    test = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300)
    test.session_state[state.OWN] = {"mine here": mine}
    test.session_state[state.NEXT] = "mine here"
    test.run()
    assert not test.exception
    assert test.sidebar.selectbox(key="receipt").value == "mine here"
    assert "2,000 rows of mood.csv, measurement large" in html(test)
    test.toggle(key="decides").set_value(True).run()
    assert "100 rows of mood.csv, measurement mine here" in html(test)
    test.toggle(key="decides").set_value(False).run()
    assert "2,000 rows of mood.csv, measurement large" in html(test)
