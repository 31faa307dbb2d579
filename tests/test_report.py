"""The report: one file that asks no network for anything and shows text from outside as text."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import made
import pytest
from markupsafe import escape
from test_overall import measured, slow

from dashboard.answer import counting
from dashboard.method import method
from dashboard.report import main
from dashboard.report_page import basic_plotly, report
from dashboard.report_summary import summary
from inference.assets import ASSETS
from inference.compare.overall import decide_overall
from inference.compare.receipt import peek_receipt, seal, write_receipt
from inference.compare.verdict import ShipLimits, decide
from inference.errors import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def receipt(**changes: Any) -> dict[str, Any]:
    """200 rows of which INT8 breaks two and fixes one."""
    true, first = made.answers(200, 20)
    wrong = [i for i in range(200) if true[i] != first[i]]
    right = [i for i in range(200) if true[i] == first[i]]
    second = made.flip(first, [wrong[0], *right[:2]])
    return made.receipt(true, {"pytorch": first, "onnx": first, "int8": second}, **changes)


def test_verdict_comes_first_with_its_reasons() -> None:
    one = receipt()
    verdict = decide(one)
    html = report([one])
    places = [html.index(verdict.sentence), html.index("Where it will run"), html.index("The figures")]
    assert places == sorted(places)
    assert all(reason.text in html for judged in verdict.backends.values() for reason in judged.reasons)


def test_further_runtime_has_its_column_and_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_runtime(monkeypatch)
    true, first = made.answers(200, 20)
    html = report([made.receipt(true, dict.fromkeys(made.FOUR, first), ms=made.FOUR)])
    heads = re.findall(r'<th><span class="backend">.*?</span> ([^<]+)</span></th>', html)
    assert heads[:4] == ["PyTorch", "ONNX", "INT8", "Fourth"]
    assert "Fourth: fourth.bin" in html


def test_limits_are_shown_and_decide() -> None:
    html = report([receipt()], ShipLimits(max_drop=0.2, max_p95_ms=1.0))
    assert "accuracy falls by at most 20 pp and p95 is at most 1 ms" in html
    assert "limit 1 ms" in html


def test_hostile_text_is_never_markup() -> None:
    one = receipt(labels=(HOSTILE, "yes"), texts=[HOSTILE] * 200)
    one["data"]["name"] = HOSTILE + ".csv"
    one["model"]["name"] = HOSTILE
    html = report([one])
    assert "<script>document" not in html
    assert "<img src=x" not in html
    assert html.count("<script") - html.count("\\u003cscript") >= 3
    assert "&lt;script&gt;document" in html


def test_texts_are_shown_only_if_the_receipt_has_them() -> None:
    assert "a text of row" in report([receipt(texts=[f"a text of row {i}" for i in range(200)])])
    assert "The texts are not in the measurement" in report([receipt()])


def test_each_receipt_has_a_section_and_differences_are_named() -> None:
    one, two = receipt(), receipt()
    two["model"]["name"], two["machine"]["cpu"], two["data"]["sha256"] = "other", "Other CPU", "9" * 64
    html = report([one, two])
    assert len(re.findall(r'<section id="receipt-\d">', html)) == 2
    for words in ("of different models", "different processors", "of different rows", "In short"):
        assert words in html
    two = receipt()
    two["machine"]["flags"] = ["asimddp"]
    assert "different processors" in report([one, two])
    assert "Compare runtimes within a section" not in report([one, one])
    assert 'class="answer"' not in html + report([one])


def test_report_of_one_model_opens_with_the_answer_for_it() -> None:
    html = report([measured("mood", rows=2000), measured("topic", rows=2000)])
    places = [
        html.index('class="answer"'),
        html.index("on mood and topic (tone not measured)"),
        html.index("The measurements behind"),
    ]
    assert places == sorted(places)


@pytest.mark.slow
def test_full_report_gives_the_answer_of_the_overview_that_it_comes_from() -> None:
    limits = ShipLimits(max_p95_ms=3)
    overall = decide_overall({"mine": measured("mood", calls=150), "quick": slow()}, limits)
    assert overall.headline == "Nothing to ship under these limits"
    html = report(list(counting(overall).values()), limits, library="", overall=overall)
    assert len(re.findall(r'<section id="receipt-\d">', html)) == 1
    assert re.findall(r"<h2>(?:<span.*?</span> )?(Ship|Nothing).*?</h2>", html) == ["Nothing"]
    assert re.search(r"<li>INT8: p95 is [^<]+; limit 3 ms \(measurement quick\)\.</li>", html)
    assert html.index("Nothing to ship") < html.index("By all measurements: <b>Nothing to ship")
    assert "</b>. By this measurement alone:</p>" in html


def test_report_keeps_the_measurement_that_the_reader_chose() -> None:
    receipts = {"chosen": measured("mood", rows=400, broken=20), "large": measured("mood", rows=2000)}
    overall = decide_overall(receipts, ShipLimits(), "chosen")
    html = report(list(counting(overall).values()), overall.limits, library="", overall=overall)
    assert str(escape(overall.because)) in html and "mood: 400 rows of mood.csv" in html


def test_receipt_of_one_backend_gives_a_report() -> None:
    true, given = made.answers(60, 6)
    assert "Where they differ" not in report([made.receipt(true, {"pytorch": given})])


def test_method_has_the_values_of_the_receipt() -> None:
    sections = {one.heading: " ".join(one.paragraphs) + str(one.facts) for one in method(receipt())}
    assert "4 starts of each, in every start 2 rounds of 20 texts" in sections["Latency"]
    assert "64 texts for p90, 130 for p95 and 662 for p99" in sections["Percentiles and their intervals"]
    assert "On ONNX and INT8, several batches run side by side, one per core" in sections["Throughput"]
    assert "p99 would be a guess" in sections["Percentiles and their intervals"]
    assert "2 broken, 1 fixed" in sections["The difference in accuracy, and the verdict"]
    assert "2" * 64 in sections["Hashes"]


def test_report_can_link_back_and_carry_another_library() -> None:
    html = report([receipt()], library="window.Plotly = 7", home="./")
    assert '<a href="./">← Try the classifier</a>' in html
    assert "<script>window.Plotly = 7</script>" in html
    assert len(html) < 500_000


@pytest.mark.browser
@pytest.mark.parametrize("is_small", [False, True])
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_report_opens_offline_draws_every_chart_and_prints(tmp_path: Path, is_small: bool) -> None:
    from playwright.sync_api import sync_playwright

    path = tmp_path / "report.html"
    try:
        library = basic_plotly() if is_small else None
    except InputError as error:
        pytest.skip(str(error))
    path.write_text(report([receipt(labels=(HOSTILE, "yes"))], library=library), encoding="utf-8")
    asked, printed = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
        page.on("request", lambda request: asked.append(request.url[:60]))
        page.on("console", lambda message: printed.append(message.text))
        page.on("pageerror", lambda error: printed.append(str(error)))
        page.on("dialog", lambda dialog: printed.append(dialog.message))
        page.goto(path.as_uri())
        page.evaluate("window.drawn")
        plots = page.locator(".plot").count()
        assert plots >= 4
        assert page.locator(".plot > div .main-svg").count() >= plots
        assert page.locator('.plot > img[src^="data:image/svg"]').count() == plots
        assert "owned" not in page.title() or "script" in page.title()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.emulate_media(media="print")
        assert page.locator(".plot > img").first.is_visible()
        assert not page.locator(".plot > div").first.is_visible()
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert printed == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_summary_prints_on_exactly_one_page(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    recorded = {path.stem: peek_receipt(path) for path in sorted((ASSETS / "receipts").glob("*.json"))}
    long = "a very long name of something " * 8
    tasks = [f"{long} {number}" for number in range(12)]
    twelve = {f"{long} {task}": measured(task, rows=300) for task in tasks}
    for receipt in twelve.values():
        receipt["model"] |= {"name": long, "tasks": dict.fromkeys(tasks, receipt["model"]["tasks"]["mood"])}
        receipt["data"] |= {"name": long, "notes": [f"{long} {receipt['data']['name']}"]}
    strict = ShipLimits(0.006, 3, 50, 20, 5)
    pages = [summary(decide_overall(of, limits)) for of in (recorded, twelve) for limits in (ShipLimits(), strict)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        for html in pages:
            page.set_content(html)
            printed = page.pdf(prefer_css_page_size=True, print_background=True)
            assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()


def test_summary_of_files_is_of_one_model(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.json" for name in ("one", "two")]
    for path, task in zip(paths, ("mood", "topic"), strict=True):
        write_receipt(seal(measured(task, rows=400)), path)
    assert main([*map(str, paths), "--summary", "--out", str(tmp_path / "page.html")]) == 0
    assert "topic.csv" in (tmp_path / "page.html").read_text(encoding="utf-8")
    other = measured("topic", rows=400)
    other["model"]["files"] = {"heads.safetensors": "9" * 64}
    write_receipt(seal(other), paths[1])
    assert main([*map(str, paths), "--summary", "--out", str(tmp_path / "page.html")]) == 2
