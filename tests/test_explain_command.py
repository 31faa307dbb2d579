"""explain on the command line and on the dashboard, and the check of whether explanations are to be believed."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import made
import pytest
from conftest import DEMO, ROOT, Tiny
from streamlit.testing.v1 import AppTest

from dashboard import jobs, receipts
from inference import InputError, load
from inference.__main__ import main
from inference.assets import FAITHFULNESS, SHOWCASE, showcase_texts
from inference.commands.explain import columns, format_explanation, printable
from inference.compare.receipt import seal, write_receipt
from inference.errors import InferenceError
from inference.explain import explain, faithfulness
from inference.explain.explanation import GRADIENTS, OCCLUSION
from inference.formats.bundle import Bundle
from inference.formats.files import sha256

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the tiny model: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        where = ["--model", str(tiny.folder), "--base", str(tiny.base), "--cache", str(tiny.cache)]
        code = main(["explain", *arguments, *where])
        out, err = capsys.readouterr()
        return code, out, err

    return command


# --- The command


def test_explain_prints_a_line_per_word(run: Run) -> None:
    code, out, _ = run("it was bad", "--task", "mood")
    assert code == 0
    head, *words = out.splitlines()
    assert head.startswith("mood: down 0.")
    assert "occlusion on PyTorch" in head
    assert [line.split()[0] for line in words] == ["it", "was", "bad"]
    for line in words:
        figure, bar = line.split()[1], line.split("without it")[0]
        assert ("█" in bar.split("│")[1]) <= (figure[0] == "+")
        assert ("░" in bar.split("│")[0]) <= (figure[0] == "-")


def test_without_a_task_every_task_is_explained(run: Run) -> None:
    _, out, _ = run("it was bad", "--json")
    output = json.loads(out)
    assert output["model"] == "tiny"
    assert [one["task"] for one in output["explanations"]] == ["mood", "topic"]


def test_convergence_delta_is_printed(run: Run) -> None:
    code, out, _ = run("it was bad", "--task", "mood", "--method", GRADIENTS)
    assert code == 0
    assert "in 32 steps; the attributions miss the difference by " in out


def test_two_backends_are_compared_on_the_label_of_the_first(run: Run) -> None:
    code, out, _ = run("it was so bad", "--task", "mood", "--compare", "onnx,int8")
    assert code == 0
    assert "INT8 against ONNX, 4 words: " in out
    _, out, _ = run("it was so bad", "--task", "mood", "--compare", "onnx,int8", "--json")
    (comparison,) = json.loads(out)["comparisons"]
    assert list(comparison["explanations"]) == ["onnx", "int8"]
    assert -1 <= comparison["agreements"]["int8"]["tau"] <= 1


def test_dash_reads_stdin_as_one_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("it was\nbad \u00e9".encode())))
    _, out, _ = run("-", "--task", "mood", "--json")
    assert json.loads(out)["explanations"][0]["text"] == "it was\nbad \u00e9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "explain needs a TEXT"),
        (("bad", "--label", "up"), "This model has 2 tasks; name one"),
        (("bad", "--task", "mood", "--label", "sad"), "has no label 'sad'. It has: down, up"),
        (("bad", "--compare", "onnx"), "pass two or more different runtimes"),
        (("bad", "--compare", "onnx,gpu"), "Unknown runtime 'gpu'"),
        (("bad", "--compare", "onnx,int8", "--backend", "onnx"), "--compare cannot be combined"),
        (("bad", "--backend", "int8", "--method", GRADIENTS), "Use method='occlusion', or load it with"),
        (("bad", "--task", "mood", "--budget", "0"), "budget_s=0.0 is not a time"),
        (("bad", "--out", "x.json"), "--out needs --check"),
        (("bad", "--check"), "leave out TEXT"),
    ],
)
def test_invalid_command_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_control_characters_are_escaped() -> None:
    text = "good\u202e\x9b31m bad \x1b]0;x\x07"
    lines = format_explanation(explain(fakes.classifier(), text, "sentiment"))
    assert all(letter.isprintable() or letter == "\n" for letter in lines)
    assert printable("\x1b[31m👩\u200d👩") == "\\x1b[31m👩\u200d👩"


def test_columns_of_wide_letters_and_marks() -> None:
    assert (columns("abc"), columns("東京"), columns("e\u0301"), columns("שָׁ")) == (3, 4, 1, 1)


# --- Faithfulness


def test_figures_equal_the_ones_computed_by_hand() -> None:
    # Four words, of which "good" alone counts: every bin takes one word, and 50% two.
    record = faithfulness.measure_faithfulness(
        fakes.classifier(), ["good this that it"], OCCLUSION, tasks=["sentiment"], draws=200
    )
    whole = 1 / (1 + math.exp(-2))
    figures = record["sentiment"]
    assert figures["comprehensiveness"]["explained"] == pytest.approx(whole - 0.5)
    assert figures["sufficiency"]["explained"] == pytest.approx(0.0)
    # A random word is "good" one time in four, two random words every other time.
    assert figures["comprehensiveness"]["random"] == pytest.approx((whole - 0.5) * (4 * 0.25 + 0.5) / 5, abs=0.03)
    assert figures["sufficiency"]["random"] == pytest.approx((whole - 0.5) * (4 * 0.75 + 0.5) / 5, abs=0.03)


def test_words_that_do_not_matter_are_no_better_than_random_ones() -> None:
    record = faithfulness.measure_faithfulness(
        fakes.classifier(), ["this that it", "it this"], OCCLUSION, tasks=["sentiment"]
    )
    assert record["sentiment"]["comprehensiveness"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    sentences = faithfulness.faithfulness_sentences(
        {"backend": "int8", "method": OCCLUSION, "tasks": record}, "sentiment"
    )
    assert all("no better than chance" in sentence for sentence in sentences)


def test_the_same_seed_gives_the_same_figures() -> None:
    asked = (fakes.classifier(), ["good this that", "bad it"], OCCLUSION)
    assert faithfulness.measure_faithfulness(*asked) == faithfulness.measure_faithfulness(*asked)


def test_record_replaces_only_its_predecessor(tmp_path: Path) -> None:
    path, classifier = tmp_path / "f.json", fakes.classifier(fakes.FakeBackend("int8"))
    for number, method in ((1, OCCLUSION), (2, GRADIENTS), (3, OCCLUSION)):
        one = faithfulness.make_record(classifier, method, {"sentiment": {"texts": number}}, "0" * 64)
        faithfulness.add_record(path, one)
    assert [one["tasks"]["sentiment"]["texts"] for one in faithfulness.read_records(path)] == [2, 3]
    record = faithfulness.find_record(path, classifier.bundle, "int8", OCCLUSION)
    assert record is not None and record["tasks"]["sentiment"]["texts"] == 3
    assert faithfulness.find_record(path, classifier.bundle, "onnx", OCCLUSION) is None


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other", "version": 1}', '{"format": 1}', "null"])
def test_file_with_other_content_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(InputError, match="holds no records of this check"):
        faithfulness.add_record(tmp_path / "f.json", {})
    assert (tmp_path / "f.json").read_text() == content


@pytest.mark.slow
def test_the_words_that_the_demo_model_names_first_matter_more_than_random_ones(demo: Path, demo_cache: Path) -> None:
    texts = showcase_texts()[::8]
    record = faithfulness.measure_faithfulness(load(demo, "int8", cache=demo_cache), texts, OCCLUSION, draws=2)
    for figures in record.values():
        for name in faithfulness.FIGURES:
            assert figures[name]["difference"]["low"] > 0


def test_the_recorded_figures_are_of_the_demo_model_and_of_the_showcase_and_beat_chance() -> None:
    records = faithfulness.read_records(FAITHFULNESS)
    bundle = Bundle.read(DEMO)
    assert {(one["backend"], one["method"]) for one in records} >= {("int8", OCCLUSION)}
    for one in records:
        assert one["model"]["digest"] == faithfulness.model_digest(bundle)
        assert one["data"]["sha256"] == sha256(SHOWCASE)
        assert set(one["tasks"]) == set(bundle.tasks)
        for figures in one["tasks"].values():
            assert figures["texts"] == len(showcase_texts())
            assert figures["comprehensiveness"]["difference"]["low"] > 0


def test_check_prints_its_record_and_adds_it_to_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.assets.showcase_texts", lambda: ["it was bad", "so fine"])
    out_file = tmp_path / "f.json"
    code, out, _ = run("--check", "--task", "mood", "--out", str(out_file))
    assert code == 0
    assert out.startswith("mood\n  On the showcase (2 texts; PyTorch, occlusion), ")
    (held,) = faithfulness.read_records(out_file)
    assert (held["model"]["name"], held["backend"], list(held["tasks"])) == ("tiny", "pytorch", ["mood"])


# --- The dashboard


@pytest.fixture
def dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """Opens the disagreements of a receipt of the demo model whose texts are held, or of another model."""
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    for name in ("TRIPTYCH_RECEIPTS", "TRIPTYCH_MODEL", "TRIPTYCH_BASE"):
        monkeypatch.delenv(name, raising=False)

    def open_page(served: bool = True) -> AppTest:
        true = [0, 1] * 10
        texts = [f"text {i} :red[x] <b>" for i in range(20)]
        one = made.receipt(
            true, {"onnx": true, "int8": made.flip(true, [3])}, labels=("negative", "positive"), texts=texts
        )
        if served:
            one["model"]["files"] = dict(Bundle.read(DEMO).files)
        write_receipt(seal(one), tmp_path / "mine.json")
        at = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300).run()
        at.switch_page("views/disagreements.py").run()
        assert not at.exception
        return at

    yield open_page
    receipts._read.clear()


def comparison() -> dict[str, Any]:
    def explanation(second: float) -> dict[str, Any]:
        words = [
            {"text": "<b>", "attribution": 1.5, "start": 0, "end": 3},
            {"text": "text", "attribution": second, "start": 4, "end": 8},
        ]
        text = {"text": "<b> text", "label": "positive", "score": 0.75}
        return text | {"words": words, "notes": ["The text is long."]}

    return {
        "explanations": {"onnx": explanation(-0.5), "int8": explanation(-1.0)},
        "agreements": {"int8": {"words": 2, "tau": 1.0, "largest_difference": -0.5, "differs_most": "text"}},
    }


def test_a_row_is_explained_on_both_backends_with_how_far_they_agree(
    dashboard: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def explain(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments[:5])
        assert arguments[5]()  # the session is still there
        arguments[6]({"int8": comparison()["explanations"]["int8"]})
        return comparison()

    monkeypatch.setattr(jobs, "explain", explain)
    at = dashboard()
    at.button(key="why_4_0").click().run()
    assert not at.exception
    assert asked == [("text 3 :red[x] <b>", "mood", "positive", "onnx", "int8")]
    sides = [one.proto.body for one in at.main.get("html") if 'class="why ' in one.proto.body]
    assert ['class="why onnx"' in sides[0], 'class="why int8"' in sides[1]] == [True, True]
    assert '<span class="word for" dir="auto" style="--weight:1.0">&lt;b&gt;<small dir="ltr">+1.50</small>' in sides[0]
    at.toggle(key="tables").set_value(True).run()
    assert len(asked) == 1
    table = next(one.value for one in at.dataframe if "Word" in one.value)
    assert list(table["Word"]) == ["<b>", "text"]
    assert list(table["Difference"]) == [0.0, -0.5]
    page_text = " ".join(one.value for one in [*at.markdown, *at.caption]).replace("\\", "").replace("\u2060", "")
    assert "Why positive: both weigh the words alike." in page_text
    assert "The text is long." in page_text
    at.button(key="why_4_1").click().run()
    assert asked[1][2] == "negative"


def test_error_is_shown_instead_of_an_explanation(
    dashboard: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(*_: Any) -> dict[str, Any]:
        raise InferenceError("Runtime 'pytorch' needs the library 'torch'.")

    monkeypatch.setattr(jobs, "explain", explain)
    at = dashboard()
    at.button(key="why_4_0").click().run()
    assert not at.exception
    assert "needs the library" in at.error[0].value


def test_rows_of_another_model_than_the_one_that_is_served_are_not_explained(
    dashboard: Callable[..., AppTest],
) -> None:
    at = dashboard(served=False)
    assert any("is of another model" in one.value for one in at.caption)
    assert not [one for one in at.button if (one.key or "").startswith("why")]


@pytest.mark.slow
def test_the_dashboard_shows_what_the_command_prints(
    demo: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIPTYCH_MODEL", raising=False)
    comparison = jobs.explain("what a lovely film", "sentiment", "positive", "onnx", "int8")
    assert [word["text"] for word in comparison["explanations"]["int8"]["words"]] == ["what", "a", "lovely", "film"]
    assert set(comparison["agreements"]) == {"int8"}
    with pytest.raises(InferenceError, match="has no label 'great'"):
        jobs.explain("what a lovely film", "sentiment", "great", "onnx", "int8")


def written(tmp_path: Path, script: str) -> str:
    """A program in place of Python's, which is asked for the explanation of one backend."""
    (program := tmp_path / "program").write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return str(program)


def test_first_explanation_is_known_while_the_other_backend_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, loaded = tmp_path / "answer.json", tmp_path / "loaded"
    explanation = explain(fakes.classifier(), "so good", "sentiment")
    answer.write_text(json.dumps({"explanations": [explanation.to_dict()]}))
    wait = f'case "$*" in *--backend=onnx*) while [ ! -e {loaded} ]; do sleep 0.05; done;; esac'
    monkeypatch.setattr(jobs, "POLL_S", 0.02)
    monkeypatch.setattr(jobs.sys, "executable", written(tmp_path, f"{wait}\ncat {answer}"))
    known = []

    def on_known(explanations: dict[str, Any]) -> None:
        known.append(explanations)
        loaded.touch()

    comparison = jobs.explain("so good", "sentiment", "positive", "onnx", "int8", on_known=on_known)
    assert list(known[0]) == ["int8"]
    assert json.dumps(comparison["explanations"]["onnx"]) == json.dumps(explanation.to_dict())
    assert comparison["agreements"]["int8"]["tau"] == pytest.approx(1)


def test_backend_that_fails_ends_the_other_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = 'case "$*" in *--backend=int8*) echo "error: No INT8 model." >&2; exit 2;; esac'
    monkeypatch.setattr(jobs, "POLL_S", 0.02)
    monkeypatch.setattr(jobs.sys, "executable", written(tmp_path, f"{fails}\nexec sleep 600"))
    with pytest.raises(InferenceError, match=r"No INT8 model\."):
        jobs.explain("so good", "sentiment", "positive", "onnx", "int8")
    assert jobs.running() is None


def test_abandoned_explanation_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setattr(jobs.sys, "executable", written(tmp_path, "exec sleep 600"))
    with pytest.raises(InferenceError, match="no longer needed"):
        jobs.explain("good", "sentiment", "positive", "onnx", "int8", lambda: False)
    assert jobs.running() is None


def test_explanation_ends_with_the_script_that_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"explanations": [explain(fakes.classifier(), "so good", "sentiment").to_dict()]}))
    hangs = 'case "$*" in *--backend=onnx*) exec sleep 600;; esac'
    monkeypatch.setattr(jobs, "POLL_S", 0.02)
    monkeypatch.setattr(jobs.sys, "executable", written(tmp_path, f"{hangs}\ncat {answer}"))

    def on_known(explanations: dict[str, Any]) -> None:
        raise KeyboardInterrupt  # Streamlit's RerunException is a BaseException too

    with pytest.raises(KeyboardInterrupt):
        jobs.explain("so good", "sentiment", "positive", "onnx", "int8", on_known=on_known)
    for _ in range(3000):
        if jobs.running() is None:
            return
        time.sleep(0.02)
    raise AssertionError("it goes on")


def test_nothing_is_explained_while_something_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "running", lambda: object())
    with pytest.raises(InputError, match="two would disturb"):
        jobs.explain("good", "sentiment", "positive", "onnx", "int8")
