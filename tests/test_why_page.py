"""The tab that says why: its endpoint, its HTML, and the page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import fakes
import pytest
from chromium import Visit, sync_api
from gradio_client import Client
from gradio_client.exceptions import AppError
from test_app import HOSTILE, IMAGE, SCRIPT, models, served

from inference.explain import explain, faithfulness
from inference.explain.explanation import GRADIENTS, Explanation
from inference.loading import Models
from ui import why


@pytest.fixture(scope="module")
def given() -> Models:
    return models()


@pytest.fixture(scope="module")
def address(given: Models) -> Iterator[str]:
    with served(given) as url:
        yield url


def explained(text: str = "good film, bad", **options: Any) -> Explanation:
    return explain(fakes.classifier(**options), text, "sentiment", "positive")


def shown(html: str) -> str:
    """What a reader sees of it."""
    parts: list[str] = []
    reader = HTMLParser()
    reader.handle_data = parts.append  # type: ignore[method-assign]
    reader.feed(html)
    return "".join(parts)


# --- The endpoint


def test_explain_gives_every_word_its_figure_and_its_place(address: str) -> None:
    client = Client(address, verbose=False, analytics_enabled=False)
    answer = client.predict("good film", "sentiment", None, "occlusion", "onnx", api_name="/explain")
    assert (answer["label"], answer["backend"], answer["method"]) == ("positive", "onnx", "occlusion")
    assert [(word["text"], word["start"], word["attribution"]) for word in answer["words"]] == [
        ("good", 0, 2.0),
        ("film", 5, 0.0),
    ]
    client.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("good",), "has 2 tasks; name one"),
        (("good", "sentiment", "great"), "has no label 'great'"),
        (("good", "sentiment", None, "lime"), "Unknown method 'lime'"),
        (("good", "sentiment", None, GRADIENTS, "int8"), "needs the gradients of a PyTorch network"),
        (("good", "sentiment", None, "occlusion", "gpu"), "Unknown runtime 'gpu'"),
        (("good", 3), "Unknown task"),
    ],
)
def test_errors_of_explain_reach_the_client(address: str, arguments: tuple[Any, ...], message: str) -> None:
    client = Client(address, verbose=False, analytics_enabled=False)
    with pytest.raises(AppError, match=message):
        client.predict(*arguments, api_name="/explain")
    client.close()


# --- The HTML


def test_each_side_has_a_sign_a_figure_and_a_line_of_its_own() -> None:
    html = why.html(explained())
    assert re.search(r'class="word for"[^>]*>good<small dir="ltr">\+2.00</small>', html)
    assert re.search(r'class="word against"[^>]*>bad<small dir="ltr">−2.00</small>', html)
    assert "supported most by <q><bdi>good</bdi></q>; opposed most by <q><bdi>bad</bdi></q>." in html


def test_text_is_shown_letter_by_letter_between_the_figures() -> None:
    text = "good  <b>film</b>\n& שלום, bad"
    html = why.html(explained(text))
    words = re.sub(r"<small.*?</small>", "", re.search(r'<p class="words".*?</p>', html, re.DOTALL)[0])  # type: ignore[index]
    assert shown(words) == text


def test_unread_text_is_marked_with_a_note() -> None:
    html = why.html(explained("good " * 9))
    assert '<span class="unread"> good good good </span>' in html
    assert "were cut off" in html


def test_beginning_of_unread_text_is_shown_and_the_rest_counted() -> None:
    assert "not read" not in why.html(explained("good"))
    html = why.html(explained("good " * 6 + "x" * 1_234))
    assert f'<span class="unread"> {"x" * 199} <small>… 1,035 more characters that were not read</small></span>' in html
    assert "Struck through</span>: not read." in html
    assert html.index("were cut off") < html.index('class="words"')
    explanation = replace(explained("y" * 1_234 + " good"), read=(1_234, 1_239), words=())
    assert f"1,034 more characters that were not read …</small> {'y' * 200}</span> good" in why.html(explanation)


def test_headline_says_first_that_no_single_word_decides() -> None:
    explanation = explained("good glad")
    words = tuple(
        replace(explanation.words[0], without=explanation.score - 0.01, attribution=value) for value in (0.1, 0.2, 0.3)
    )
    html = why.html(replace(explanation, words=words))
    assert ": no single word decides it; supported slightly by <q>" in html
    assert "no single word" not in why.html(explanation)


def test_answer_below_the_threshold_is_called_uncertain() -> None:
    explanation = explained("good")
    assert "0.8808</span> (uncertain): supported" in why.html(explanation, threshold=0.9)
    assert "uncertain" not in why.html(explanation, threshold=0.8)
    assert "uncertain" not in why.html(explained("bad"), threshold=0.9)  # not the model's answer


@pytest.mark.parametrize(
    ("text", "direction"),
    [("good", "ltr"), ("12 good", "ltr"), ("“שלום” good", "rtl"), ("مرحبا", "rtl"), ("12 !? 😡", None)],
)
def test_direction_of_a_text_is_that_of_its_first_directed_letter(text: str, direction: str | None) -> None:
    assert why.direction_of(text) == direction


def test_untried_word_has_no_figure() -> None:
    explanation = explained("good bad")
    explanation = replace(
        explanation, words=(explanation.words[0], replace(explanation.words[1], attribution=None, without=None))
    )
    html = why.html(explanation)
    assert '<span class="word untried" role="button" tabindex="-1" data-at="5,8">bad</span>' in html
    assert "not tried" in html


def test_convergence_delta_of_gradients_is_shown() -> None:
    explanation = replace(
        explained(), method=GRADIENTS, baseline_log_odds=-1.0, convergence_delta=0.0123, n_steps=64, converged=False
    )
    text = shown(why.html(explanation))
    assert "in 64 steps; the sum of the figures is off by +0.0123" in text
    assert "treat them as rough" in text


def test_label_other_than_the_predicted_one_is_pointed_out() -> None:
    assert "(the model predicts negative)" in why.html(explained("bad"))


def test_repeated_word_is_named_once() -> None:
    assert shown(why.html(explained("good good"))).split(".")[1].endswith("supported most by good")


def test_text_without_effective_words_does_not_divide_by_zero() -> None:
    assert "no word has a noticeable effect" in why.html(explained("this that"))


def record(low: float) -> dict[str, Any]:
    figure = {
        "explained": 0.3,
        "random": 0.1,
        "difference": {"value": 0.2, "low": low, "high": 0.3},
        "better": 0.9,
    }
    return {
        "backend": "int8",
        "method": "occlusion",
        "tasks": {"sentiment": {"texts": 388, "comprehensiveness": figure, "sufficiency": figure}},
    }


@pytest.mark.parametrize(
    ("low", "badge"), [(0.1, "✓ these words count more than random"), (-0.1, "? these words count no more than random")]
)
def test_badge_says_whether_the_top_words_beat_random_ones(low: float, badge: str) -> None:
    text = shown(why.html(explained(), record(low)))
    assert badge in text
    assert "lowers the confidence by 0.300 on average, removing as many random words by 0.100" in text


def test_unchecked_model_has_no_badge() -> None:
    assert "badge" not in why.html(explained())


class Gradual(Models):
    """Models whose gradients are those of `explained`, about the label that is asked for."""

    def explain(
        self, text: Any, backend: str, task: str | None = None, label: str | None = None, *rest: Any
    ) -> Explanation:
        made = explain(self.get(backend), text, task, label)
        return replace(made, method=GRADIENTS, convergence_delta=0.0, n_steps=64, converged=True)


def test_gradients_of_an_int8_answer_run_on_pytorch_and_say_so() -> None:
    given = models(int8=9.0)
    gradual = Gradual(given.bundle, given.get)
    asked = ("bad", "int8", None, lambda: True, "sentiment", GRADIENTS, *[why.PREDICTED] * 2)
    text = " ".join(shown(why.explain(gradual, *asked)).split())
    assert "PyTorch explains INT8’s answer here, because INT8 has no gradients" in text
    assert "Why positive 0.1192 (PyTorch predicts negative)" in text  # the label that INT8 shows, PyTorch's figures
    assert "explains" not in shown(why.explain(gradual, "bad", "pytorch", *asked[2:]))


def test_badge_requires_a_check_of_this_model(given: Models, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(0.1) | {"model": {"name": "fake", "digest": faithfulness.model_digest(given.bundle)}}
    monkeypatch.setattr(why, "FAITHFULNESS", tmp_path / "f.json")
    asked = (given, "good", "int8", None, lambda: True, "sentiment", "occlusion", *[why.PREDICTED] * 2)
    faithfulness.add_record(tmp_path / "f.json", made)
    assert "count more than random" in why.explain(*asked)
    made["model"]["digest"] = "0" * 64
    (tmp_path / "f.json").unlink()
    faithfulness.add_record(tmp_path / "f.json", made)
    assert "count more than random" not in why.explain(*asked)
    (tmp_path / "f.json").write_text("{")
    assert "count more than random" not in why.explain(*asked)


# --- The page


def ask_why(visit: Visit, text: str) -> None:
    visit.ask(text)
    visit.page.wait_for_function(
        "text => document.querySelector('#why .why:not(.waiting) .words')?.dataset.text === text", arg=text
    )


def choose(visit: Visit, name: str, option: str) -> None:
    visit.page.get_by_role("combobox", name=name).click()
    visit.page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.smoke
def test_an_answer_is_explained_and_another_label_explains_again(visit: Visit) -> None:
    ask_why(visit, "good bad glad")
    assert "+2.00" in visit.page.locator(".why .words .for").first.inner_text()
    choose(visit, "Label", "positive")
    visit.see("Why positive")


def test_why_that_was_closed_explains_the_text_that_is_there_and_another_task_brings_its_labels(visit: Visit) -> None:
    visit.page.locator("#why .words").wait_for()
    why_button = visit.page.locator("#reasons > button")
    why_button.click()
    visit.ask("glad")
    visit.answered()
    why_button.click()
    visit.page.locator(".why .words").get_by_text("glad").wait_for()
    choose(visit, "Task", "emotion")
    visit.see("Why joy")
    visit.page.get_by_role("combobox", name="Label").click()
    visit.page.get_by_role("option", name="sadness").wait_for()


def test_a_label_of_one_task_is_never_asked_of_another(visit: Visit) -> None:
    ask_why(visit, "good bad glad")
    choose(visit, "Label", "positive")
    visit.see("Why positive")
    for task, before, label in (
        ("emotion", "the predicted label", "sadness"),
        ("sentiment", "positive", "negative"),
        ("emotion", "sadness", "joy"),
        ("sentiment", "negative", "positive"),
    ):
        choose(visit, "Task", task)  # whose labels are there without a wait for the answer
        sync_api.expect(visit.page.get_by_role("combobox", name="Label")).to_have_value(before)
        choose(visit, "Label", label)
    visit.see("Why positive")
    choose(visit, "Task", "emotion")
    visit.see("Why joy")
    assert visit.page.locator(".toast-body").count() == 0
    assert visit.errors == []


def test_moving_the_threshold_calls_the_explained_answer_uncertain(visit: Visit) -> None:
    ask_why(visit, "good")
    choose(visit, "Task", "sentiment")
    visit.see("Why positive 0.8808: supported")
    visit.open_settings()
    number = visit.page.get_by_role("spinbutton").first
    number.fill("0.99")
    number.press("Enter")
    visit.see("Why positive 0.8808 (uncertain): supported")
    visit.page.get_by_role("button", name="Use the model's own thresholds").click()
    visit.see("Why positive 0.8808: supported")


def test_task_and_label_can_be_chosen_with_the_keys(visit: Visit) -> None:
    ask_why(visit, "good bad glad")
    for name, option, heading in (("Task", "emotion", "Why joy"), ("Label", "sadness", "Why sadness")):
        box = visit.page.get_by_role("combobox", name=name)
        box.fill(option)
        box.press("ArrowDown")
        box.press("Enter")
        sync_api.expect(box).to_have_value(option)
        visit.see(heading)


def test_every_figure_can_be_reached_with_the_keyboard(visit: Visit) -> None:
    ask_why(visit, "good bad")
    visit.page.locator(".why summary").first.focus()
    visit.page.keyboard.press("Enter")
    visit.page.get_by_role("rowheader", name="bad").wait_for()


ORDER = """([element, words]) => {
  const found = [];
  for (const word of words) {
    const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const at = walk.currentNode.data.indexOf(word);
      if (at < 0) continue;
      const range = document.createRange();
      range.setStart(walk.currentNode, at);
      range.setEnd(walk.currentNode, at + word.length);
      found.push([range.getBoundingClientRect().left, word]);
      break;
    }
  }
  return found.sort((a, b) => a[0] - b[0]).map((pair) => pair[1]);
}"""


@pytest.mark.parametrize(
    "text",
    [
        "שלום good bad עולם 12 34 glad",
        "good שלום bad עולם glad 12 עולם",
        "12 שלום good 34 glad, bad",
        "שלום good, bad! עולם",
        "שלום: עולם good glad 12",
    ],
)
def test_figures_do_not_change_the_order_of_mixed_directions(visit: Visit, text: str) -> None:
    ask_why(visit, text)
    words = re.findall(r"\w+", text)
    plain = visit.page.evaluate_handle(
        """text => {
          const made = document.body.appendChild(document.createElement("p"));
          made.style.unicodeBidi = "plaintext";
          made.textContent = text;
          return made;
        }""",
        text,
    )
    marked = visit.page.locator(".why .words").element_handle()
    assert visit.page.evaluate(ORDER, [marked, words]) == visit.page.evaluate(ORDER, [plain, words])
    assert visit.page.evaluate("e => getComputedStyle(e).unicodeBidi", visit.box.element_handle()) == "plaintext"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_the_words_without_scrolling_sideways(browser: Any, address: str, theme: str) -> None:
    visit = Visit(browser, f"{address}/?__theme={theme}", width=390)
    ask_why(visit, "good " + "replacement_card_duration" * 8)
    visit.page.locator(".why .words").scroll_into_view_if_needed()
    visit.page.locator(".why summary").first.click()
    assert visit.overflow() <= 0
    visit.ask("glad " + "badly" * 40)
    visit.see("badlybadly")
    assert visit.overflow() <= 0
    assert visit.errors == []
    visit.page.close()


def test_scripts_in_texts_and_labels_are_shown_and_not_run(browser: Any) -> None:
    with served(models(tasks=HOSTILE)) as url:
        visit = Visit(browser, url)
        ask_why(visit, f"{SCRIPT} {IMAGE} bad good")
        assert visit.page.locator(".why .words").inner_text().startswith("<script>")
        assert SCRIPT in visit.page.locator(".why .summary").inner_text()
        assert visit.page.evaluate("window.hacked") is None
        assert visit.outside == []
        visit.page.close()
