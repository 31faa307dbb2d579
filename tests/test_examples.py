"""A model's own examples: what is read from `examples.json`, and that no model shows the texts of another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import foreign
import pytest
from conftest import DEMO, ROOT

from inference.assets import showcase_texts
from inference.compare.rows import read_showcase
from inference.errors import InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.examples import FILE, Example, offered
from inference.loading import Models
from ui.page import Page

SOUP = {"text": "the soup was cold", "name": "A complaint", "labels": {"label": "bad"}}


@pytest.fixture(scope="module")
def soups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("examples") / "soups")


def with_examples(folder: Path, document: Any) -> Bundle:
    (folder / FILE).write_text(document if isinstance(document, str) else json.dumps(document))
    return describe(folder)


def page_of(bundle: Bundle) -> Page:
    return Page(Models(bundle, lambda name: fakes.classifier(fakes.FakeBackend(name))), "int8", None, None)


def test_the_examples_in_a_folder_are_those_of_its_page(soups: Path) -> None:
    bundle = with_examples(soups, {"examples": [SOUP, {"text": "no name"}]})
    assert bundle.examples == (Example("the soup was cold", "A complaint", {"label": "bad"}), Example("no name"))
    assert [example.to_dict() for example in bundle.examples] == [SOUP, {"text": "no name"}]
    shown = page_of(bundle).examples
    assert (shown.samples, shown.sample_labels, shown.visible) == ([["the soup was cold"]], ["A complaint"], True)


def test_requests_in_the_document_of_the_api_are_the_models_own_examples() -> None:
    from inference.api import create_app

    classifier = fakes.classifier()
    assert '"Oh wonderful, good and bad at once"' in json.dumps(create_app(classifier).openapi())
    classifier.bundle = replace(classifier.bundle, examples=())
    assert '"a text"' in json.dumps(create_app(classifier).openapi())


@pytest.mark.parametrize("pairs", [False, True])
def test_a_model_without_examples_shows_none(soups: Path, pairs: bool) -> None:
    (soups / FILE).unlink(missing_ok=True)
    page = page_of(describe(soups, pairs=pairs))
    assert (page.examples.samples, page.examples.visible) == ([], False)
    texts = json.dumps(page.blocks.get_config_file())
    assert "pick an example" not in texts
    assert not any(text in texts for text in (*showcase_texts(), "guitar"))


def test_examples_of_the_demo_model_are_rows_of_its_showcase() -> None:
    examples = describe(DEMO).examples
    assert {example.text for example in examples} <= set(showcase_texts())
    assert len(offered(examples)) == len(examples) == 10


def test_pairs_are_read_for_a_model_of_pairs(soups: Path) -> None:
    (soups / FILE).write_text(json.dumps({"examples": [{"text": "a", "text_pair": "b"}]}))
    bundle = describe(soups, pairs=True)
    assert bundle.examples == (Example(("a", "b")),)
    assert page_of(bundle).examples.samples == [["a", "b"]]
    assert offered(bundle.examples)[0].name == "a / b"
    assert "the model takes no pairs" in str(describe(soups).findings[-1])


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("[" * 100_000, "cannot be read as JSON"),
        ({"examples": {}}, "it must be"),
        ({"examples": [SOUP] * 1001}, "at most 1,000"),
        ({"examples": [SOUP, "text"]}, "example 2: it must be an object"),
        ({"examples": [{"text": 1}]}, "example 1: The text must be a string"),
        ({"examples": [{"text": " "}]}, "The text is empty"),
        ({"examples": [{"text": "x" * 30_000}]}, "30,000 characters"),
        ({"examples": [{"text": "\ud800"}]}, "lone surrogate"),
        ({"examples": [{"text": ["a", "b"]}]}, "must be a string"),
        ({"examples": [{"text": "a", "html": "b"}]}, "it must be an object with a text"),
        ({"examples": [SOUP | {"name": "two\nlines"}]}, "one line"),
        ({"examples": [SOUP | {"name": 5}]}, "one line"),
        ({"examples": [SOUP | {"labels": ["bad"]}]}, "task and label"),
        ({"examples": [SOUP | {"labels": {"label": "worse"}}]}, "'worse' is not a label of 'label'"),
        ({"examples": [SOUP | {"labels": {"label": ["bad"]}}]}, "is not a label"),
    ],
)
def test_examples_that_do_not_fit_are_a_warning_and_not_shown(soups: Path, document: Any, why: str) -> None:
    bundle = with_examples(soups, document)
    assert bundle.examples == ()
    assert bundle.findings[-1].severity == "warning"
    assert why in str(bundle.findings[-1])
    assert ".." not in str(bundle.findings[-1])
    assert len(str(bundle.findings[-1])) < 500


def test_names_are_short_and_different() -> None:
    assert [e.name for e in offered([Example("a"), Example("a"), Example("b " * 90)])] == ["a", ("b " * 30)[:59] + "…"]
    assert len(offered([Example(str(i)) for i in range(99)])) == 10
    assert [e.name for e in offered([Example("a"), Example("b", "named")])] == ["named"]


# --- The texts that a model is measured on without a file


def test_labelled_examples_are_the_showcase_of_their_model(soups: Path) -> None:
    rows = [{"text": f"soup {i}", "labels": {"label": ("bad", "good")[i % 2]}} for i in range(24)]
    data = read_showcase(with_examples(soups, {"examples": [{"text": "no label"}, *rows]}))
    assert data.texts == [f"soup {i}" for i in range(24)]
    assert data.label_ids == [0, 1] * 12
    assert (data.name, data.row_numbers[0], data.rows_in_file) == (FILE, 2, 25)
    with pytest.raises(InputError, match=r"examples.json has 3 labelled rows.*At least 20"):
        read_showcase(with_examples(soups, {"examples": rows[:3]}))


def test_no_model_is_measured_on_the_showcase_of_another(soups: Path) -> None:
    demo = describe(DEMO)
    assert len(read_showcase(demo)) == 388
    of_reviews = replace(demo, tasks={"sentiment": demo.tasks["sentiment"]}, examples=())
    with pytest.raises(InputError, match=r"demo \(sentiment\) has no labelled examples of its own"):
        read_showcase(of_reviews)
    assert (ROOT / "assets/showcase.csv").is_file()
