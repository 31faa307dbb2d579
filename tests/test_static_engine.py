"""The engine of the static page in Chromium: tokens, answers and explanations are those of Python."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
import test_pairs
from chromium import sync_api
from engine_page import CARD, failure, opened, same, write
from tokenizers import Tokenizer, models, normalizers

from deploy.card import HEADERS, front_matter
from deploy.space import main
from deploy.static import static_files
from deploy.static_tokenizer import tokenizer_tables
from inference import InputError, load
from inference.assets import showcase_texts
from inference.classifier import Classifier
from inference.errors import BundleError
from inference.explain import explain
from inference.explain.words import segments
from inference.formats.describe import describe

pytestmark = pytest.mark.slow  # the demo model; test_static_hosting.py has the tiny one
# What texts are drawn from: pieces that tokenizers treat apart, and ranges of code points.
PIECES = [
    "[SEP]",
    "[MASK]",
    " ",
    "\t",
    "the",
    "movie",
    "Ünï",
    "ΑΣ",
    "ς",
    "İ",
    "👩\u200d🚀",
    "e\u0301",
    "\u00ad",
    "ﬁ",
    "x" * 101,
]
RANGES = [
    (0, 0xD800),
    (0xE000, 0x110000),
    (0x20, 0x7F),
    (0xA0, 0x600),
    (0x300, 0x370),
    (0x4E00, 0xA000),
    (0xAC00, 0xD7A4),
]


def awkward(count: int) -> list[str]:
    draw = random.Random(5)
    letters = [lambda: draw.choice(PIECES), *(lambda r=r: chr(draw.randrange(*r)) for r in RANGES)]
    return ["".join(draw.choice(letters)() for _ in range(draw.randrange(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def space(demo: Path, demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("space"), demo)


@pytest.fixture(scope="module")
def run(browser: sync_api.Browser, space: Path) -> Iterator[Callable[..., Any]]:
    with opened(browser, space) as evaluate:
        yield evaluate


@pytest.fixture(scope="module")
def classifier(demo: Path, demo_cache: Path) -> Classifier:
    return load(demo, "int8")


# --- The same as Python


ENCODE = """async (texts, given) => {
    const { signal } = new AbortController();
    const content = await fetchFile(site.files.tokenizer, location.href, () => {}, signal);
    const tables = given ?? JSON.parse(new TextDecoder().decode(content));
    const tokenizer = new Tokenizer(tables);
    const cut = segmenter(tables.breaks);
    return texts.map((text) => {
        const { ids, offsets, special } = tokenizer.encode([[...text]]);
        return { ids, offsets, special, words: cut([...text]) };
    });
}"""


def wrong(answers: list[dict[str, Any]], texts: list[str], tokenizer: Tokenizer) -> list[Any]:
    """The texts whose tokens or words are others than those of Python."""
    return [
        (text, answer)
        for text, answer in zip(texts, answers, strict=True)
        for real in [tokenizer.encode(text)]
        if (answer["ids"], [tuple(place) for place in answer["offsets"]]) != (real.ids, real.offsets)
        or answer["special"] != [bool(special) for special in real.special_tokens_mask]
        or [tuple(place) for place in answer["words"]] != segments(text)
    ]


def test_tokens_and_words_of_5000_awkward_texts_are_those_of_python(
    run: Callable[..., Any], classifier: Classifier
) -> None:
    texts = awkward(5000)
    assert wrong(run(ENCODE, texts), texts, classifier.tokenizer) == []


def test_cased_vocabulary_and_tokens_that_take_in_white_space_are_read_as_in_python(
    run: Callable[..., Any], classifier: Classifier
) -> None:
    changed = json.loads(classifier.tokenizer.to_str())
    changed["normalizer"] |= {"lowercase": False, "strip_accents": None, "handle_chinese_chars": False}
    for token in changed["added_tokens"]:
        token |= {"lstrip": token["content"] == "[MASK]", "rstrip": token["content"] == "[SEP]"}
    other = Tokenizer.from_str(json.dumps(changed))
    texts = [text.replace("x", " [MASK] \x1c[SEP]\x85 ") for text in awkward(500)]
    assert wrong(run(ENCODE, texts, tokenizer_tables(classifier.bundle, other)), texts, other) == []


def test_staged_demo_answers_its_showcase_as_python_but_for_the_named_labels(
    demo: Path,
    demo_cache: Path,
    classifier: Classifier,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    space: Path,
) -> None:
    out = tmp_path / "staged"
    assert main(["--kind", "static", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["started"] is True
    card = front_matter(out)
    assert (card["sdk"], card["app_file"], card["custom_headers"]) == ("static", "index.html", HEADERS)
    site, parity = (json.loads((out / name).read_text(encoding="utf-8")) for name in ("site.json", "parity.json"))
    assert site["runtimes"]["int8"]["bytes"] <= 26_000_000
    assert site["examples"][0]["answer"]["sentiment"]["label"] in site["tasks"]["sentiment"]["labels"]
    texts = showcase_texts()
    assert parity["texts"] == len(texts)
    assert parity["max_difference"] < 0.05
    for task, predictions in classifier.predict_all_tasks(texts).items():
        figures = parity["tasks"][task]
        assert figures["equal"] + len(figures["differ"]) == len(texts)
        assert len(figures["differ"]) <= 4  # of 388; each is nearly a tie
        for row in figures["differ"]:
            assert predictions[row["index"]].label == row["python"] != row["browser"]


def test_predict_in_the_console_gives_what_to_dict_gives(run: Callable[..., Any], classifier: Classifier) -> None:
    texts = ["a warm, wise and very funny film", "😡😡 🤮", "long " * 300, "my card was declined"]
    answers = run("(texts) => triptych.predict(texts)", texts)
    assert list(answers) == list(classifier.tasks)
    for task, predictions in classifier.predict_all_tasks(texts).items():
        for answer, prediction in zip(answers[task], predictions, strict=True):
            expected = prediction.to_dict()
            assert answer["scores"] == pytest.approx(expected.pop("scores"), abs=0.05)
            assert answer["confidence"] == pytest.approx(expected.pop("confidence"), abs=0.05)
            assert {name: answer[name] for name in expected} == expected
    assert answers["emotion"][1]["unknown"] and answers["emotion"][2]["truncated"]


@pytest.mark.parametrize("runtime, bound", [("int8", 0.3), ("onnx", 1e-4)])
def test_explanations_have_the_words_figures_and_notes_of_python(
    run: Callable[..., Any], demo: Path, runtime: str, bound: float
) -> None:
    model = load(demo, runtime)
    for text, task, label in (
        ("I don't like this well-known film: 7.30 minutes, U.S.A. 🤮!", "sentiment", None),
        ("book a table at 7 日本語 ไทยภาษา please", "intent", None),
        ("oh wonderful, another update", "emotion", "joy"),
        ("word " * 200, "sentiment", None),
        ("qwertzuiop 𝒳 ok ok fine", "emotion", None),
    ):
        expected = explain(model, text, task, label).to_dict()
        answer = run(
            "(text, task, label, runtime) => patient.explain(text, task, { label, runtime })",
            text,
            task,
            label,
            runtime,
        )
        for key in expected.keys() - {"words", "score", "log_odds", "seconds", "notes"}:
            assert answer[key] == expected[key], key
        assert answer["log_odds"] == pytest.approx(expected["log_odds"], abs=bound)
        assert len(answer["notes"]) == len(expected["notes"])
        for word, other in zip(answer["words"], expected["words"], strict=True):
            assert word.pop("attribution") == pytest.approx(other.pop("attribution"), abs=bound)
            assert word.pop("without") == pytest.approx(other.pop("without"), abs=bound / 4)
            assert word == other
        if runtime == "onnx":
            assert answer["notes"] == expected["notes"]


UNREADABLE = ["", " \t\n\x1c\x85\u3000", "\x00", "\u200b\x01", "x" * 20_001, "😀" * 20_001, "x" * 100_000]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_unreadable_text_is_refused_as_in_python(run: Callable[..., Any], classifier: Classifier, text: str) -> None:
    with pytest.raises(InputError) as refused:
        classifier.predict_all_tasks([text])
    error = failure(run, "(text) => engine.classify([text])", text)
    assert (error["kind"], error["message"]) == ("input", str(refused.value))


def test_lone_surrogate_and_things_that_are_no_texts_are_refused(run: Callable[..., Any]) -> None:
    for value, message in (
        ('"a\\ud800b"', "The text contains a lone surrogate (U+D800 at position 1)"),
        ("7", "The text must be a string or a pair of strings."),
        ("null", "The text must be a string or a pair of strings."),
        ('["a", "b"]', "The text is a pair, and this model reads single texts."),
    ):
        assert message in failure(run, f"() => engine.classify([{value}])")["message"]
    assert "texts is empty" in failure(run, "() => engine.classify([])")["message"]
    assert "texts[1] is empty" in failure(run, '() => engine.classify(["a", ""])')["message"]


def test_skip_gives_unreadable_texts_an_error_and_the_others_an_answer(run: Callable[..., Any]) -> None:
    answer = run('() => engine.classify(["good", "", "bad"], { skip: true })')
    assert answer["errors"] == [None, "The text is empty: give it at least one word.", None]
    for predictions in answer["predictions"].values():
        assert [prediction is None for prediction in predictions] == [False, True, False]


def test_threshold_decides_what_is_uncertain(run: Callable[..., Any]) -> None:
    for threshold, uncertain in ((1, True), (0, False)):
        call = '(threshold) => engine.classify(["some film"], { threshold })'
        assert run(call, threshold)["predictions"]["emotion"][0]["uncertain"] is uncertain
    assert "is not a probability" in failure(run, '() => engine.classify(["a"], { threshold: 2 })')["message"]


# --- Other kinds of models


def test_pairs_are_cut_and_answered_as_in_python(browser: sync_api.Browser, tmp_path: Path) -> None:
    model = test_pairs.classifier(tmp_path / "nli")
    pairs = [["abc def", "ghi"], ["long words " * 9, "short"], ["a", "b c d e f " * 9], ["xyz " * 20, "zyx " * 30]]
    folder = write(tmp_path / "space", model, tmp_path / "cache")
    same(browser, folder, load(model, "onnx", cache=tmp_path / "cache"), pairs)
    same(browser, folder, load(model, "onnx", cache=tmp_path / "cache"), ["a single text"])


def test_several_labels_one_output_and_text_cut_at_its_beginning(browser: sync_api.Browser, tmp_path: Path) -> None:
    for name, fields in (
        ("multi", {"problem_type": "multi_label_classification", "labels": ("red", "__proto__", "0")}),
        ("single", {"labels": ("spam",)}),
    ):
        model = foreign.classifier(tmp_path / name, **fields)
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": "left"}))
        folder = write(tmp_path / f"{name}-space", model, tmp_path / "cache")
        same(browser, folder, load(model, "onnx", cache=tmp_path / "cache"), ["abc def " * 20, "hello", "x"])


def test_other_tokenizers_are_refused_at_staging_with_the_reason(tmp_path: Path) -> None:
    model = foreign.classifier(tmp_path / "model", "roberta")
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "[PAD]": 2}, [], unk_token="a"))
    tokenizer.save(str(model / "tokenizer.json"))
    with pytest.raises(BundleError, match="its tokenizer has the model BPE, and the static page reads WordPiece only"):
        static_files(describe(model), None, CARD, tmp_path / "cache")


def test_other_normalizer_is_refused_with_its_name(classifier: Classifier) -> None:
    other = Tokenizer.from_str(classifier.tokenizer.to_str())
    other.normalizer = normalizers.NFC()
    with pytest.raises(BundleError, match="has the normalizer NFC, and the static page reads BertNormalizer only"):
        tokenizer_tables(classifier.bundle, other)
