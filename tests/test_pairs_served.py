"""Pairs of texts on the command line, in files, over HTTP and in explanations."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import test_app
from conftest import ROOT
from fastapi.testclient import TestClient
from test_pairs import classifier, of_pairs

from dashboard import served
from deploy import space
from inference import InputError, load
from inference.api import create_app
from inference.classifier import Classifier
from inference.commands.main import main
from inference.compare.benchmark import Plan
from inference.compare.disagreements import attach_texts
from inference.compare.receipt import read_receipt, write_receipt
from inference.compare.rows import read_data
from inference.compare.run import measure
from inference.explain.agreement import agreement
from inference.explain.explanation import GRADIENTS
from inference.explain.faithfulness import measure_faithfulness
from inference.explain.run import explain
from inference.formats.describe import describe
from inference.formats.examples import Example
from inference.formats.identity import content_key
from inference.loading import Models
from ui import why
from ui.endpoints import as_text
from ui.start import ServerSettings

PREMISE, HYPOTHESIS = "it was so good", "a bad lamp, twice!"
ROWS = [
    {"premise": f"it was {i}", "hypothesis": f"a lamp {i % 3}", "label": ("entailment", "neutral")[i % 2]}
    for i in range(24)
]


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("pairs") / "nli")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


# --- Command line


def test_predict_takes_the_second_text_from_pair_or_after_a_tab(
    nli: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    model = ["--model", str(nli), "--cache", str(cache), "--json"]
    assert main(["predict", PREMISE, "--pair", HYPOTHESIS, *model]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["text"] == [PREMISE, HYPOTHESIS]
    assert row["predictions"]["label"] == load(nli).predict((PREMISE, HYPOTHESIS)).to_dict()
    lines = io.TextIOWrapper(io.BytesIO(f"{PREMISE}\t{HYPOTHESIS}\n".encode()))
    monkeypatch.setattr(sys, "stdin", lines)
    assert main(["predict", "-", *model]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == [row]
    assert main(["predict", PREMISE, "--model", str(nli), "--cache", str(cache)]) == 0
    assert "a single text, and the model was trained on pairs" in capsys.readouterr().out
    assert main(["predict", PREMISE, "--pair", "a", "b", *model]) == 2
    assert "--pair requires one text for each TEXT: 1, not 2" in capsys.readouterr().err
    assert main(["predict", f"{PREMISE}\t{HYPOTHESIS}", "good", *model]) == 2
    assert "Text 2 has no tab, which separates the two texts" in capsys.readouterr().err
    assert main(["predict", PREMISE, "--pair", HYPOTHESIS, "--no-pairs", *model]) == 2
    assert "nothing says that nli takes pairs" in capsys.readouterr().err


def test_info_and_doctor_say_that_a_model_reads_pairs(
    nli: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(nli), "--cache", str(cache)]
    main(["info", *where])
    assert "reads   pairs of texts" in capsys.readouterr().out
    main(["doctor", *where])
    assert "it reads pairs of texts" in capsys.readouterr().out


def test_explain_shows_the_words_of_both_texts(nli: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", PREMISE, "--pair", HYPOTHESIS, "--model", str(nli), "--cache", str(cache)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = lines.index(" first text"), lines.index(" second text")
    assert [line.split()[0] for line in lines[first + 1 : second]] == ["it", "was", "so", "good"]
    assert [line.split()[0] for line in lines[second + 1 : second + 4]] == ["a", "bad", "lamp"]


# --- Files


def test_score_answers_pairs_of_two_columns(
    nli: Path, cache: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = table.with_name("out.jsonl")
    columns = ["--text-column", "premise", "--pair-column", "hypothesis"]
    where = ["--model", str(nli), "--cache", str(cache), "--backend", "pytorch", "--workers", "1"]
    assert main(["score", str(table), "--out", str(out), *columns, *where, "--all-scores", "--tasks", "label"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = load(nli).predict([(row["premise"], row["hypothesis"]) for row in ROWS])
    assert [row["predicted_label"] for row in rows] == [answer.label for answer in expected]
    assert rows[0]["predicted_label_confidence"] == pytest.approx(expected[0].confidence, abs=1e-5)
    capsys.readouterr()
    assert main(["score", str(table), "--out", str(out), "--text-column", "premise", *where]) == 0
    assert "Name the column of the second texts: --pair-column NAME" in capsys.readouterr().err
    assert main(["score", str(table), "--out", str(out), *columns, *where, "--no-pairs"]) == 2
    assert "There is a pair column ('hypothesis')" in capsys.readouterr().err
    assert main(["score", str(table), "--out", str(out), *columns[:3], "answer", *where]) == 2
    assert "no column 'answer'" in capsys.readouterr().err
    assert main(["score", str(table), "--out", str(out), *columns[:3], "premise", *where]) == 2
    assert "both texts of every pair would come from the column 'premise'" in capsys.readouterr().err


def test_a_row_without_a_second_text_has_an_error(nli: Path, cache: Path, table: Path) -> None:
    table.write_text("premise,hypothesis\ngood,bad\ngood,\n")
    out = table.with_name("out.jsonl")
    columns = ["--text-column", "premise", "--pair-column", "hypothesis"]
    where = ["--model", str(nli), "--cache", str(cache), "--backend", "pytorch", "--workers", "1"]
    assert main(["score", str(table), "--out", str(out), *columns, *where]) == 0
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["error"] is None
    assert second["error"].startswith("The second text is empty")


@pytest.mark.slow
def test_a_receipt_of_pairs_names_the_column_and_holds(nli: Path, cache: Path, table: Path) -> None:
    bundle = describe(nli)
    with pytest.raises(InputError, match="both texts of every pair would come from the column 'premise'"):
        read_data(table, bundle.tasks, None, "premise", None, "premise")
    rows = read_data(table, bundle.tasks, None, "premise", None, "hypothesis")
    assert rows.texts[0] == ("it was 0", "a lamp 0")
    plan = Plan(1, 1, 4, 1, 4, 0, 4, False, 0.0)
    receipt = measure(bundle, rows, backends=["pytorch"], quick=True, cache=cache, threads=1, plan=plan)
    assert receipt["data"]["pair_column"] == "hypothesis"
    answers = load(nli, threads=1).predict(rows.texts)
    labels = receipt["model"]["tasks"]["label"]["labels"]
    predictions = receipt["backends"]["pytorch"]["predictions"]["label"]
    assert [labels[i] for i in predictions["label_ids"]] == [answer.label for answer in answers]
    complete = attach_texts(receipt, "rows.csv", table.read_bytes(), "premise")
    assert complete["data"]["texts"][0] == "it was 0\na lamp 0"
    write_receipt(complete, table.with_name("receipt.json"))
    assert read_receipt(table.with_name("receipt.json"))["data"]["copies"] == 0
    with pytest.raises(InputError, match="pair column .'hypothesis'., and nothing says that nli takes pairs"):
        measure(describe(nli, pairs=False), rows, cache=cache)


# --- Explanations


@pytest.mark.parametrize("method", ["occlusion", GRADIENTS])
def test_words_of_both_texts_get_attributions(method: str, nli: Path) -> None:
    pytest.importorskip("captum")
    explanation = explain(load(nli, threads=1), (PREMISE, HYPOTHESIS), method=method)
    texts = (PREMISE, HYPOTHESIS)
    assert all(texts[word.in_text][word.start : word.end] == word.text for word in explanation.words)
    assert [len(words) for _, _, words in explanation.texts] == [4, 6]
    assert explanation.second_text == HYPOTHESIS
    assert agreement(explanation, explanation).words == 10
    if method == GRADIENTS:
        assert abs(explanation.convergence_delta or 1) < 0.1


def test_occlusion_of_a_pair_keeps_separators_and_segments(nli: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    explanation = explain(load(nli, threads=1), (PREMISE, HYPOTHESIS), label="neutral")
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(nli).eval(),
        AutoTokenizer.from_pretrained(nli),
    )
    fed = tokenizer(PREMISE, HYPOTHESIS, return_token_type_ids=True, return_offsets_mapping=True)
    word = explanation.words[-1]  # the mark at the end, the last token before [SEP]
    keep = [i for i in range(len(fed["input_ids"])) if i != len(fed["input_ids"]) - 2]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([[fed["input_ids"][i] for i in keep]]),
            token_type_ids=torch.tensor([[fed["token_type_ids"][i] for i in keep]]),
        ).logits
    assert (word.text, word.in_text) == ("!", 1)
    assert word.without == pytest.approx(float(torch.softmax(logits, -1)[0, 1]), abs=1e-5)


def test_an_explanation_of_a_cut_pair_says_which_text_was_cut(nli: Path) -> None:
    explanation = explain(load(nli, threads=1), ("good", "fine " * 40))
    assert [read for _, read, _ in explanation.texts] == [(0, 4), (0, 31)]
    assert "characters 0 to 31 of the second text" in explanation.notes[0]
    single = explain(load(nli, threads=1), "good fine lamp")
    assert single.notes[0].startswith("This model was trained on pairs of texts and was given a single one")


def test_a_pair_that_special_tokens_cut_off_has_no_words_to_explain(nli: Path, tmp_path: Path) -> None:
    model = load(nli, threads=1, cache=tmp_path)
    model.bundle = replace(model.bundle, max_tokens=4)  # [CLS], twice [SEP], and one token
    assert {word.in_text for word in explain(model, ("good", "fine lamp")).words} == {1}


def test_faithfulness_is_measured_on_pairs() -> None:
    figures = measure_faithfulness(of_pairs(), [("good glad", "bad book"), ("bad", "good sad")], "occlusion", draws=1)
    assert figures["sentiment"]["texts"] == 2


# --- HTTP


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"texts": [["good", "bad"], ["glad", "sad"]]}, 200, ""),
        ({"text": ["good", "bad"]}, 200, ""),
        ({"texts": ["good", ["good", "bad"]]}, 422, "texts has single texts and pairs"),
        ({"texts": [["good"]]}, 422, "texts[0][1] is missing: a pair has two texts"),
        ({"texts": [["good", " "]]}, 422, "texts[0][1] is empty"),
        ({"texts": [["a", "b", "c"]]}, 422, "texts[0] has more than two texts: a pair has two"),
        ({"text": ["a", "b" * 20_001]}, 422, "text[1] should have at most 20000 characters"),
        ({"texts": [3]}, 422, "texts[0] should be a valid string"),
    ],
)
def test_api_accepts_pairs_and_rejects_malformed_ones(body: dict[str, Any], status: int, message: str) -> None:
    with TestClient(create_app(of_pairs())) as client:
        response = client.post("/api/predict", json=body | {"tasks": ["sentiment"]})
        assert response.status_code == status
        assert message in response.text
        assert status == 422 or not response.json().get("unpaired", False)


def test_the_api_of_a_model_of_single_texts_refuses_pairs() -> None:
    with TestClient(create_app(of_pairs(False))) as client:
        for path, body in (("predict", {"texts": [["a", "b"]]}), ("explain", {"text": ["a", "b"], "task": "emotion"})):
            response = client.post(f"/api/{path}", json=body)
            assert response.status_code == 422
            assert "nothing says that" in response.json()["error"]["message"]
        assert client.get("/api/model").json()["pairs"] is False


def test_the_api_explains_a_pair_and_marks_a_single_text() -> None:
    with TestClient(create_app(of_pairs())) as client:
        words = client.post("/api/explain", json={"text": ["good", "bad"], "task": "sentiment"}).json()["words"]
        assert [(word["text"], word["in_text"]) for word in words] == [("good", 0), ("bad", 1)]
        assert client.post("/api/predict", json={"text": "good"}).json()["unpaired"] is True
        assert client.get("/api/model").json()["pairs"] is True


def test_singles_and_pairs_of_several_requests_do_not_share_a_batch() -> None:
    import concurrent.futures

    model = of_pairs()
    with TestClient(create_app(model)) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = [{"text": "good"}, {"text": ["good", "good"]}] * 20
        answers = list(pool.map(lambda body: client.post("/api/predict", json=body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer["unpaired"] is isinstance(body["text"], str)
    assert np.isclose(answers[1]["predictions"]["sentiment"]["confidence"], 1 / (1 + np.exp(-4)))


# --- The page


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    def open_one(name: str) -> Classifier:
        model = of_pairs()
        model.backend.name = name
        return model

    examples = (Example(("A man is playing.", "Nobody is playing."), "It contradicts"),)
    with test_app.served(Models(replace(of_pairs().bundle, examples=examples), open_one)) as address:
        yield address


def test_the_pages_endpoints_take_a_second_text(page: str) -> None:
    from gradio_client import Client

    client = Client(page, verbose=False, analytics_enabled=False)
    answer = client.predict("good", second_text="good", api_name="/predict")["predictions"]["sentiment"]
    assert answer["confidence"] == pytest.approx(1 / (1 + np.exp(-4)))
    assert not answer["unpaired"]
    assert client.predict("good", api_name="/predict")["predictions"]["sentiment"]["unpaired"]
    both = client.predict("good", second_text="bad", api_name="/compare")
    assert {name: answer["predictions"]["sentiment"]["confidence"] for name, answer in both.items()} == dict.fromkeys(
        ("pytorch", "onnx", "int8"), 0.5
    )
    words = client.predict("good", task="sentiment", second_text="bad", api_name="/explain")["words"]
    assert [(word["text"], word["in_text"]) for word in words] == [("good", 0), ("bad", 1)]
    client.close()


def test_why_shows_each_text_of_a_pair_with_its_own_words() -> None:
    html = why.html(explain(of_pairs(), ("good <b>", "bad sad"), "sentiment"))
    first, second = html.index("First text"), html.index("Second text")
    assert first < html.index(">good<", first) < second < html.index(">bad<", second)
    assert "<b>&" not in html
    assert "First text" not in why.html(explain(of_pairs(False), "good bad", "sentiment"))


def test_a_second_box_and_a_second_column_are_on_the_page_of_a_model_of_pairs(
    page: str, browser: Any, tmp_path: Path
) -> None:
    from chromium import Visit

    visit = Visit(browser, page)
    second = visit.page.get_by_role("textbox", name="Second text")
    visit.box.fill("good")
    second.fill("good")
    second.press("Enter")
    visit.cell("sentiment").get_by_text("0.9820").wait_for()
    second.fill("")
    visit.ask("good")
    visit.see("was given a single one")
    visit.page.get_by_role("button", name="It contradicts").click()
    visit.page.wait_for_function("document.querySelector('#second textarea').value.startsWith('Nobody')")
    path = tmp_path / "rows.csv"
    path.write_text("text,answer\ngood,good\n")
    visit.page.get_by_role("tab", name="Score a file").click()
    visit.page.locator("#score-file input[type=file]").set_input_files(path)
    visit.page.locator(".preview").wait_for()
    visit.page.get_by_role("button", name="Score the file").click()
    visit.see("Choose the column of the second texts first")
    column = visit.page.locator("#score-second input")
    column.fill("answer")
    column.press("Enter")
    visit.page.get_by_role("button", name="Score the file").click()
    visit.page.locator("#score-report .card[data-task=sentiment] .bars li").get_by_text("100%").wait_for()
    visit.page.locator("#score-rows .body [role=row]").click()
    visit.page.wait_for_function("document.querySelector('#second textarea').value === 'good'")
    visit.cell("sentiment").get_by_text("0.9820").wait_for()
    assert visit.errors == []


def test_the_public_endpoints_ignore_no_second_text_but_an_empty_one() -> None:
    assert [as_text("good", second) for second in (None, "", " ")] == ["good"] * 3
    assert as_text("good", "bad") == ("good", "bad")
    with pytest.raises(InputError, match="The second text must be a string, not int"):
        of_pairs().predict_all_tasks(as_text("good", 5))  # type: ignore[arg-type]


# --- The dashboard


def test_the_upload_of_the_dashboard_asks_for_the_column_of_the_second_texts(
    nli: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.testing.v1 import AppTest

    from dashboard import jobs

    measured: list[Any] = []
    monkeypatch.setattr(jobs, "start_measurement", lambda name, data, *_: measured.append(data))
    monkeypatch.setenv("TRIPTYCH_MODEL", str(nli))
    at = AppTest.from_file(str(ROOT / "dashboard" / "main.py"), default_timeout=300).run()
    at.switch_page("views/your_data.py").run()
    at.file_uploader(key="file").set_value(("rows.csv", table.read_bytes(), "text/csv")).run()
    boxes = {box.label: box for box in at.selectbox}
    boxes["Text column"].set_value("premise").run()
    {box.label: box for box in at.selectbox}["Column of the second texts"].set_value("hypothesis").run()
    next(button for button in at.button if button.label == "Measure").click().run()
    assert measured[0].texts[:2] == [("it was 0", "a lamp 0"), ("it was 1", "a lamp 1")]
    assert measured[0].pair_column == "hypothesis"


# --- Servers of a model whose folder says nothing of pairs


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("silent") / "model")


@pytest.mark.parametrize(
    ("value", "arguments", "pairs"),
    [("", [], None), ("1", [], True), ("0", [], False), ("1", ["--no-pairs"], False), ("", ["--pairs"], True)],
)
def test_servers_take_pairs_by_option_or_environment(value: str, arguments: list[str], pairs: bool | None) -> None:
    assert ServerSettings.read({"TRIPTYCH_PAIRS": value}, arguments).pairs is pairs


def test_unclear_environment_for_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="TRIPTYCH_PAIRS='yes' is neither 1"):
        ServerSettings.read({"TRIPTYCH_PAIRS": "yes"})


def test_page_and_dashboard_read_the_model_alike(silent: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", str(silent))
    monkeypatch.delenv("TRIPTYCH_BASE", raising=False)
    keys = []
    for value, option in (("1", "--pairs"), ("0", "--no-pairs")):
        models = Models.of_folder(silent, cache, pairs=value == "1")
        monkeypatch.setenv("TRIPTYCH_PAIRS", value)
        monkeypatch.setenv("TRIPTYCH_CONTENT", content_key(models.bundle))
        assert served.bundle().pairs is (value == "1")
        assert served.options() == [f"--model={silent}", option]
        assert main(["build", *served.options(), "--cache", str(cache), "--content", content_key(models.bundle)]) == 0
        keys.append(content_key(models.bundle))
    assert keys[0] != keys[1]
    monkeypatch.setenv("TRIPTYCH_PAIRS", "")
    assert served.options() == [f"--model={silent}"]


def test_score_refuses_a_pair_column_before_it_builds(
    silent: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(table), "--model", str(silent), "--cache", str(tmp_path / "cache")]
    command += ["--text-column", "premise", "--pair-column", "hypothesis", "--out", str(tmp_path / "out.csv")]
    assert main(command) == 2
    assert "nothing says that model takes pairs" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_space_refuses_what_it_could_not_serve(
    silent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert space.main(["--model", str(silent), "--pairs", "--out", str(tmp_path / "out")]) == 2
    assert 'put "pairs": true into its config.json' in capsys.readouterr().err
