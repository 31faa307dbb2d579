"""The dashboard as a reader uses it: pages, choices, receipts that are fine and receipts that are not."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import made
import pytest
from conftest import ROOT, Tiny
from opened import charts, html, one, opened, words
from ports import on_a_free_port

from dashboard import jobs, receipts, served, state
from inference.compare.receipt import read_receipt, seal, write_receipt
from inference.formats.describe import describe

PAGES = ("overview", "leaderboard", "latency", "size", "accuracy", "disagreements", "your_data", "method")
MINE = ("latency", "size", "accuracy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one receipt, the only one that the dashboard sees."""
    monkeypatch.setattr(receipts, "RECORDED", tmp_path / "none")
    monkeypatch.setenv("TRIPTYCH_RECEIPTS", str(tmp_path))
    monkeypatch.delenv("TRIPTYCH_PAGE_URL", raising=False)
    write_receipt(one(), tmp_path / "good.json")
    yield tmp_path
    receipts._read.clear()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(folder: Path, page: str) -> None:
    test = opened(page)
    assert not test.exception
    assert test.main.header or "<h2>" in html(test)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page == "accuracy" else pytest.mark.slow) for page in PAGES]
)
def test_every_page_shows_a_further_runtime(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_runtime(monkeypatch)
    true, base = made.answers(200, 20)
    given = {name: made.flip(base, [number]) for number, name in enumerate(made.FOUR)}
    write_receipt(made.receipt(true, given, ms=made.FOUR), folder / "good.json")
    test = opened(page)
    assert not test.exception
    if page in MINE:
        assert all("Fourth" in proto.spec for proto in charts(test) if '"heatmap"' not in proto.spec)
    if page == "overview":
        assert "◆</span> <b>Fourth" in html(test)


@pytest.mark.parametrize("page", MINE)
def test_every_chart_has_an_alt_text_and_a_drawable_figure(folder: Path, page: str) -> None:
    drawn = charts(opened(page))
    assert len(drawn) >= 3
    for proto in drawn:
        assert len(proto.alt) > 20
        assert json.loads(proto.spec)["data"]


@pytest.mark.parametrize("page", MINE)
def test_every_chart_has_a_takeaway_and_one_switch_shows_every_table(folder: Path, page: str) -> None:
    test = opened(page)
    takeaways = [element for element in test.main.markdown if element.value.startswith("###")]
    assert len(takeaways) == len(charts(test))
    assert not test.main.dataframe
    test.toggle(key="tables").set_value(True).run()
    assert len(test.main.dataframe) == len(charts(test))


def test_overview_says_what_to_ship_and_why(folder: Path) -> None:
    test = opened()
    page = html(test)
    assert page.index("Stay with PyTorch") < page.index("No other runtime is known to meet") < page.index("<table")
    assert "not settled: accuracy<span" in page
    assert "would settle whether accuracy on mood stays within the limit; would pass with a drop of" in page
    assert "accuracy falls by at most 0.5 pp" in words(test)
    assert next(button.label for button in test.main.get("download_button")) == "Download the one-page summary"
    assert not charts(test)  # drawn without a library


def test_limit_changes_the_verdict_at_once(folder: Path) -> None:
    test = opened()
    test.sidebar.slider[0].set_value(3.0).run()
    assert "Ship INT8" in html(test)
    test.sidebar.number_input[0].set_value(1.0).run()  # no backend answers within a millisecond
    assert "Nothing to ship under these limits" in html(test)
    assert "ruled out by p95" in html(test)
    assert "p95 is at most 1 ms" in words(test)


def test_selection_comes_from_the_address_and_stays_on_every_page(folder: Path) -> None:
    write_receipt(one(task="other"), folder / "second.json")
    test = opened("accuracy", receipt="second", max_drop="2.5", max_flips="3")
    assert [box.value for box in test.sidebar.selectbox] == ["second", "other"]
    assert test.sidebar.slider[0].value == 2.5
    assert [field.value for field in test.sidebar.number_input] == [None, None, 3, None]


@pytest.mark.parametrize(
    ("key", "value"),
    [("receipt", "none such"), ("max_drop", "-7"), ("max_p95", "x"), ("task", "?"), ("price", "1e308")],
)
def test_invalid_values_in_the_address_are_ignored(folder: Path, key: str, value: str) -> None:
    test = opened(**{key: value})
    assert not test.exception
    assert test.sidebar.selectbox[0].value == "good"


def test_receipt_of_this_session_is_selected_and_not_written(folder: Path) -> None:
    test = opened(receipt="good")
    # What `state.show` leaves behind; the page that calls it has tests of its own.
    test.session_state[state.OWN] = {"mine <b>": one(task="mine")}
    test.session_state[state.NEXT] = "mine <b>"
    test.run()
    assert not test.exception
    assert [box.value for box in test.sidebar.selectbox] == ["mine <b>", "mine"]
    assert test.sidebar.selectbox[0].options == ["mine <b>", "good"]
    assert [path.name for path in folder.iterdir()] == ["good.json"]


def test_price_and_threshold_are_in_the_address(folder: Path) -> None:
    assert "$0." not in html(opened(price="250"))
    assert any("threshold of 0.25" in proto.alt for proto in charts(opened("accuracy", more="true", threshold="0.25")))


def test_page_without_receipts_says_how_to_make_one(folder: Path) -> None:
    (folder / "good.json").unlink()
    for page in ("overview", *MINE):
        test = opened(page)
        assert not test.exception
        assert "python -m inference compare" in test.info[0].value
        assert not charts(test) and "<table" not in html(test)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ('{"format": "other"}', "not a measurement"),
        (json.dumps(seal({**one(), "version": 99})), "Update Triptych"),
        (json.dumps({**one(), "created": "2020-01-01T00:00:00Z"}), "checksum does not match"),
    ],
)
def test_invalid_receipt_gets_a_message_and_hides_no_other(folder: Path, content: str, says: str) -> None:
    (folder / "bad.json").write_text(content, encoding="utf-8")
    test = opened()
    assert not test.exception
    assert says in test.warning[0].value
    assert "bad\\.json" in test.warning[0].value and str(folder) not in test.warning[0].value
    assert test.sidebar.selectbox[0].options == ["good"]
    assert "<table" in html(test)


def test_repaired_receipt_is_read_again(folder: Path) -> None:
    (folder / "bad.json").write_text("{", encoding="utf-8")
    test = opened()
    assert test.warning
    write_receipt(one(), folder / "bad.json")
    test.run()
    assert not test.warning
    assert test.sidebar.selectbox[0].options == ["bad", "good"]


def test_only_receipts_that_are_shown_are_checked_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = one(seed=1)
    other["model"]["files"] = {"heads.safetensors": "9" * 64}
    write_receipt(seal(other), folder / "other.json")
    write_receipt(one(seed=1), folder / "third.json")
    checked: list[str] = []
    monkeypatch.setattr(receipts, "read_receipt", lambda path: (checked.append(Path(path).stem), read_receipt(path))[1])
    test = opened()
    assert test.sidebar.selectbox[0].options == ["good", "other", "third"]
    assert checked == ["good", "third"]  # what to ship depends on every measurement of the model
    test.switch_page("views/leaderboard.py").run()
    assert checked == ["good", "third", "other"]


def forged(path: Path) -> None:
    """A receipt that looks whole, but whose figures do not follow from its samples."""
    receipt = one()
    receipt["results"]["size"]["int8"]["model_bytes"] += 1
    write_receipt(seal(receipt), path)


@pytest.mark.parametrize("asked", ["", "a forged one"])
def test_receipt_whose_figures_do_not_follow_is_never_shown(folder: Path, asked: str) -> None:
    forged(folder / "a forged one.json")  # the first in the list
    test = opened(receipt=asked) if asked else opened()
    assert not test.exception
    (warning,) = test.warning
    assert "a forged one" in warning.value and "is inconsistent" in warning.value.replace("\\", "")
    assert test.sidebar.selectbox[0].value == "good"
    assert test.sidebar.selectbox[0].options == ["good"]
    assert "<table" in html(test)


def test_selecting_a_receipt_whose_figures_do_not_follow_shows_another(folder: Path) -> None:
    forged(folder / "other.json")
    test = opened()
    test.sidebar.selectbox[0].set_value("other").run()
    assert not test.exception
    assert "is inconsistent" in test.warning[0].value.replace("\\", "")
    assert test.sidebar.selectbox[0].value == "good"
    test.switch_page("views/leaderboard.py").run()
    assert "is inconsistent" in test.main.warning[-1].value.replace("\\", "")


def test_leaderboard_lists_every_measurement_and_filters_it(folder: Path) -> None:
    write_receipt(one(task="topic"), folder / "second.json")
    write_receipt(one(seed=1), folder / "third.json")
    test = opened("leaderboard", receipt="good")
    rows = test.dataframe[0].value
    assert sorted(set(rows["measurement"])) == ["good", "second", "third"]
    assert len(rows) == 9
    (chart,) = charts(test)
    assert chart.alt.endswith("accuracy on mood, for 2 measurements.")
    test.text_input(key="filter").set_value("second int8").run()
    rows = test.dataframe[0].value
    assert [tuple(row) for row in rows[["measurement", "runtime"]].to_numpy()] == [("second", "INT8")]
    test.text_input(key="filter").set_value("nothing of it").run()
    assert not test.exception
    assert len(test.dataframe[0].value) == 0


def test_receipt_of_another_processor_leads_to_measuring_here(folder: Path) -> None:
    write_receipt(one(here=False), folder / "good.json")
    test = opened()
    assert "another processor" in test.main.warning[0].value and "Made CPU" in test.main.warning[0].value
    assert [button.label for button in test.main.button] == ["Measure here"]
    test.main.button[0].click().run()
    assert not test.exception
    assert [element.value for element in test.main.header] != ["Overview"]


def test_labels_renamed_since_the_measurement_are_named(
    folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", str(tiny.folder))
    ours, bundle = one(), describe(tiny.folder)
    ours["model"]["files"] = dict(bundle.files) | {"config.json": "0" * 64}
    write_receipt(seal(ours), folder / "old.json")
    (info,) = opened().main.info
    assert "has other labels or settings than when it was measured" in info.value
    assert "the measurement old" in info.value
    renamed = [("LABEL_0", bundle.tasks["mood"].labels[0])]
    ours["model"]["tasks"] = {
        name: {"labels": [dict(map(reversed, renamed)).get(label, label) for label in task.labels]}
        for name, task in bundle.tasks.items()
    }
    assert served.renamed_labels(ours, bundle) == renamed
    assert not served.is_of(ours, bundle)


def test_receipt_of_another_model_leads_to_measuring_the_served_one(
    folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", str(tiny.folder))
    name = describe(tiny.folder).name
    test = opened()
    assert [element.value for element in test.main.info] == [
        f"The served model, **{name}**, has not been measured yet. Measure it, or choose a measurement of another "
        "model in the sidebar."
    ]
    assert [button.label for button in test.main.button] == ["Measure it"]
    test = opened(receipt="good")
    (warning,) = test.main.warning
    assert "is of another model" in warning.value and name in warning.value
    assert [button.label for button in test.main.button] == ["Measure it"]
    ours = one(labels=("down", "up"))
    ours["model"]["files"] = dict(describe(tiny.folder).files)
    write_receipt(seal(ours), folder / "ours.json")
    test = opened()
    assert not test.main.warning
    assert test.sidebar.selectbox(key="receipt").options == ["ours", "good"]


def test_served_model_is_read_once_and_again_after_a_repair(
    folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder / "model"
    model.mkdir()
    monkeypatch.setenv("TRIPTYCH_MODEL", str(model))
    monkeypatch.setattr(jobs, "prepare", lambda: None)  # reads the model too, in a thread
    read: list[object] = []
    monkeypatch.setattr(served, "describe", lambda *given, **named: (read.append(given), describe(*given, **named))[1])
    test = opened()
    assert len(read) == 1 and not test.main.error
    test.switch_page("views/your_data.py").run()
    (error,) = test.main.error
    assert "model" in error.value and len(read) == 1
    shutil.copytree(tiny.folder, model, dirs_exist_ok=True)
    test.run()
    assert not test.main.error and test.main.segmented_control
    test.run()
    assert len(read) == 2


def test_receipt_folders_are_searched_once_per_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    monkeypatch.setattr(receipts, "folders", lambda: (looked.append(True), [folder])[1])
    test = opened("method")
    looked.clear()
    test.run()
    assert len(looked) == 1


def test_receipt_of_this_processor_has_no_warning(folder: Path) -> None:
    assert not opened().main.warning


@pytest.mark.slow
def test_hostile_names_and_labels_are_shown_literally(folder: Path) -> None:
    hostile = "<img src=x onerror=alert(1)> [a](b) :red[c] $d$"
    receipt = one(task=hostile, labels=["<script>alert(1)</script>", "**b**"])
    receipt["data"]["name"] = hostile
    write_receipt(seal(receipt), folder / "good.json")
    (folder / "<b>[x](y).json").write_text("{", encoding="utf-8")
    for page in ("overview", *MINE):
        test = opened(page)
        assert not test.exception
        # In markdown a backslash stands before each.
        assert not re.search(r"(?<!\\)(<img|<script|\[a\]|\[x\]|\$d)|(?<!\\):red\[", words(test))
        assert "<img" not in html(test)


def test_no_folder_is_named_pages() -> None:
    assert not (ROOT / "dashboard" / "pages").exists()


@pytest.mark.slow
def test_the_dashboard_needs_none_of_the_runtimes() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "dashboard").rglob("*.py")
        if path.name not in ("__init__.py", "main.py") and path.parent.name != "views"
    ]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print([n for n in ('torch', 'transformers', 'onnxruntime', 'onnx', 'gradio', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("command", [["-m", "streamlit"], ["-c", "import streamlit.web.cli as c; c.main()"]])
@pytest.mark.slow
def test_it_starts_from_the_root_and_from_elsewhere(command: list[str], tmp_path: Path) -> None:
    # With -c the working folder, not the project's, is on the path: as with the `streamlit` command.
    where = ROOT if command[0] == "-m" else tmp_path
    arguments = ["run", str(ROOT / "dashboard/main.py"), "--server.headless=true"]
    environment = {**os.environ, "PYTHONPATH": ""}

    def answers(port: int) -> bool:
        whole = [sys.executable, *command, *arguments, f"--server.port={port}"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(whole, cwd=where, stdout=log, stderr=log, env=environment)
        try:
            return _answers(f"http://127.0.0.1:{port}/_stcore/health", process, tmp_path / "log")
        finally:
            process.terminate()
            process.wait(timeout=300)

    assert on_a_free_port(answers, "is not available")  # as Streamlit says it


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                if reply.read() == b"ok":
                    return True
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.25)
    raise RuntimeError(log.read_text())
