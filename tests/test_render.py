"""The HTML of the page: what it says of answers that differ, and that nothing from outside gets into it unescaped."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import unescape

import fakes
from test_app import HOSTILE, PARITY, SCRIPT, models
from test_overall import measured

from inference import InputError
from inference.calls.reading import Reading
from inference.compare.overall import decide_overall
from inference.compare.verdict import ShipLimits
from inference.formats.bundle import Task
from inference.loading import Models
from ui import render


def side_by_side(given: Models, text: str, threshold: float | None = None) -> str:
    return render.side_by_side(given.bundle, given.compare(text, threshold))


def test_head_links_to_what_is_served_and_marks_where_one_is() -> None:
    assert "places" not in render.head("Try", {"Try": "./"})
    html = render.head("Compare", {"Try": "../", "Compare": "./", "Docs": "../docs?a=1&b"})
    assert re.findall('<a href="([^"]*)" target="_self"( aria-current="page")?>(.*?)</a>', html) == [
        ("../", "", "Try"),
        ("./", ' aria-current="page"', "Compare"),
        ("../docs?a=1&amp;b", "", "Docs"),
    ]


def test_strip_says_how_the_runtimes_compare_or_how_to_measure_them() -> None:
    bundle = models().bundle
    overall = decide_overall({"mood": measured("mood", broken=150)}, ShipLimits())
    html = render.strip(bundle, overall, "dashboard/")
    assert "Model <b>fake</b>" in html
    assert "<b>Ship ONNX:</b> 3.0× as fast as PyTorch, " in html
    assert "<span>INT8 (6.0× as fast and 6.0× smaller) is ruled out by accuracy. <a" in html
    assert '<a href="dashboard/"' in html
    assert "See the measurement <" in html
    elsewhere = measured("topic") | {"settings": overall.receipt("mood")["settings"] | {"threads": 1}}
    overall = decide_overall({"mood": overall.receipt("mood"), "topic": elsewhere}, ShipLimits())
    html = render.strip(bundle, overall, "dashboard/")
    assert "ruled out by accuracy. Not counted: 1 measurement (1 thread instead of 2). <a" in html
    assert "See the measurements <" in html
    assert "<a " not in render.strip(bundle, overall, None)
    assert "Measure them on your data" in render.strip(bundle, None, "dashboard/")
    assert "python -m inference compare" in render.strip(bundle, None, None)
    assert "nothing to compare" in render.strip(replace(bundle, backends=("pytorch",)), None, None)


def test_documentation_gives_a_command_for_each_address_of_the_api() -> None:
    body = {"content": {"application/json": {"examples": {"a text": {"value": {"text": "it's"}}}}}}
    paths = {
        "/predict": {"post": {"summary": "Predict", "requestBody": body}},
        "/live": {"get": {"summary": "Check", "security": []}},
    }
    api = {"info": {"title": "T", "description": "D"}, "paths": paths, "security": [{"bearer": []}]}
    html = unescape(render.docs(api, "http://127.0.0.1:7860/", {"Docs": "docs"}))
    assert "curl -sS http://127.0.0.1:7860/api/live\n" in html.replace("</pre>", "\n")
    command = shlex.split(re.findall("<pre[^>]*>(curl.*predict.*)</pre>", html)[0])
    assert command[2:4] == ["-H", "X-API-Key: KEY"]
    assert json.loads(command[-1]) == {"text": "it's"}


def test_equal_answers_are_called_equal() -> None:
    html = side_by_side(models(), "good glad")
    assert "predict the same label for every task" in html
    assert "the confidences are identical" in html
    assert "≠" not in html


def test_small_difference_is_shown_but_no_label_is_called_different() -> None:
    html = side_by_side(models(int8=0.1), "good glad")
    assert "predict the same label for every task" in html
    assert "largest difference in confidence" in html
    assert "≠" not in html


def test_different_label_is_marked_in_words_and_by_a_sign() -> None:
    html = side_by_side(models(int8=2.0), "good")
    assert "INT8 predicts a different label for emotion: <b>neutral</b> instead of <b>joy</b>." in html
    assert '<span aria-hidden="true">≠</span> PyTorch: joy' in html
    assert html.count("changed") == 1


def test_many_differences_are_counted() -> None:
    tasks = {f"task {number}": Task(("a", "b"), fakes.SINGLE, 0.0) for number in range(12)}
    assert "INT8 differs from PyTorch in 12 of 12 tasks." in side_by_side(models(int8=2.0, tasks=tasks), "book")


def test_answer_uncertain_on_one_runtime_only_is_marked() -> None:
    html = side_by_side(models(int8=-1.7), "good")
    assert "INT8 is uncertain about sentiment and PyTorch is not." in html


def test_truncated_text_gets_a_note() -> None:
    assert "Only 8 tokens were read" in side_by_side(models(), "good " * 20)
    assert "tokens were read" not in side_by_side(models(), "good")


def test_text_without_a_known_word_gets_a_warning() -> None:
    given = models()
    for text, warned in (("🤮 😡", True), ("good 🤮", False)):
        warning = "No word of this text is in the model's vocabulary, so this answer is meaningless."
        assert (warning in side_by_side(given, text)) is warned


def test_notes_say_what_was_read_and_whether_the_script_is_known() -> None:
    given = models()
    answers = given.compare("good " * 20, None)
    html = render.side_by_side(given.bundle, answers, reading=Reading(1_340, 8, 0.9))
    assert "Only 8 of 1,340 tokens were read" in html
    assert "barely covers this text: 90.0% of its letters" in html
    assert "barely" not in render.side_by_side(given.bundle, answers, reading=Reading(22, 8, 0.4))


def test_out_of_scope_is_explained() -> None:
    task = Task(("oos", "other"), fakes.SINGLE, 0.6, "oos")
    given = models(int8=9.0, tasks={"intent": task})
    html = side_by_side(given, "good")
    assert "intent: <b>oos</b> means out of scope" in html
    assert "out of scope" not in side_by_side(models(int8=9.0), "good")


def test_answers_still_to_come_have_their_places_and_no_difference_is_claimed() -> None:
    given = models(int8=2.0)
    answers = given.compare("good", None) | {"pytorch": None}
    html = render.side_by_side(given.bundle, answers)
    assert "Asking PyTorch …" in html
    assert html.count('class="pytorch coming"') == 3  # two tasks and the time
    assert "Δ" not in html
    assert "different label" not in html


def test_times_say_how_many_passes_and_what_was_measured() -> None:
    given = models()
    times = {"int8": render.Times(1.8531, 5, 1.853), "onnx": render.Times(912.3, 1, None)}
    html = render.side_by_side(given.bundle, given.compare("good", None), times=times)
    int8, onnx = (re.findall(rf'<td class="{name}">.*?</td>', html, re.DOTALL)[-1] for name in ("int8", "onnx"))
    assert "1.85 ms" in int8
    assert "median of 5" in int8
    assert "recorded: 1.85\u00a0ms" in int8
    assert "912 ms" in onnx
    assert "first pass, so slow" in onnx
    assert "recorded" not in onnx


def test_hostile_labels_and_texts_are_escaped_everywhere() -> None:
    given = models(int8=5.0, tasks=HOSTILE)
    answer = given.answer("bad", "int8", None)
    pages = [
        side_by_side(given, "bad"),
        render.timing("int8", answer),
        render.message(InputError(f"Unknown: {SCRIPT}")),
        render.about(given.bundle, given.sizes, PARITY),
    ]
    for html in pages:
        assert "<script" not in html
        assert "<img" not in html
    assert "&lt;img src=x onerror=window.hacked=1&gt;" in pages[0]


def test_uncertain_is_a_word_beside_the_best_guess_and_its_threshold() -> None:
    given = models()
    for threshold, is_uncertain in ((0.6, False), (0.99, True)):
        limits = {"sentiment": threshold}
        html = render.side_by_side(given.bundle, given.compare("good", limits), limits=limits)
        (row,) = re.findall(r'<td class="int8" data-task="sentiment">.*?</td>', html, re.DOTALL)
        assert ("Uncertain" in row) is is_uncertain
        assert ("below 0.99" in row) is is_uncertain
        assert "positive" in row
        assert "0.8808" in row
        assert f"left:{threshold:.2%}" in row


def test_page_shows_model_sizes_and_parity() -> None:
    given = models()
    html = render.about(given.bundle, given.sizes, given.parity)
    assert "on 388 texts, same label: sentiment 100%; all tasks together 99.9%" in html  # 0.9996 is not all of them
    assert "largest difference in any probability is 0.034" in html
    assert "1 label changed" in html
    assert "was not measured" in render.about(given.bundle, given.sizes, None)


def test_a_difference_is_never_rounded_to_a_false_zero() -> None:
    assert [render.delta_text(d) for d in (0, 3e-7, -0.0041, 0.5)] == ["Δ 0", "Δ < 0.0001", "Δ −0.0041", "Δ +0.5000"]
