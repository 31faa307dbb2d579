"""A static page that shows nothing and offers the engine to tests in Chromium."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS, sync_api

from deploy.chromium import StaticHandler, StaticServer
from deploy.static import static_files
from inference import InputError
from inference.classifier import Classifier
from inference.explain import explain
from inference.formats.describe import describe

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "frame-src 'self'"
)
PAGE = f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
SCRIPT = """
import { Engine, expose } from "./engine.js";
import { fetchFile } from "./fetching.js";
import { Tokenizer } from "./tokenizer.js";
import { segmenter } from "./words.js";
const site = await (await fetch("site.json")).json();
const patient = new Engine({ ...site, limits: { ...site.limits, explain_s: 1e6 } });
Object.assign(window, { site, Engine, Tokenizer, fetchFile, segmenter, engine: new Engine(site), patient });
expose(window.engine);
"""
CARD = "---\nsdk: static\n---\n"


def staged(model: Path, cache: Path | None = None, base: Path | None = None) -> dict[str, bytes]:
    """The files of the page. The test is skipped where ONNX Runtime Web cannot be fetched."""
    try:
        return static_files(describe(model, base), base, CARD, cache)
    except InputError as error:
        if not str(error).startswith("Cannot fetch onnxruntime-web"):
            raise
        pytest.skip(str(error))


def write(folder: Path, model: Path, cache: Path | None = None, base: Path | None = None) -> Path:
    """The files of the page, with an index.html that shows nothing and offers the engine."""
    files = staged(model, cache, base)
    files |= {"index.html": f'{PAGE}<script type="module" src="test.js"></script>'.encode(), "test.js": SCRIPT.encode()}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@contextmanager
def opened(
    browser: sync_api.Browser,
    folder: Path,
    headers: Mapping[str, str] | None = None,
    path: str = "",
    handler: type[StaticHandler] = StaticHandler,
) -> Iterator[Callable[..., Any]]:
    """A function that runs a call in the page and gives what it returns."""
    with StaticServer(folder, headers or {}) as server:
        server.RequestHandlerClass = partial(handler, directory=str(folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://127.0.0.1:{server.server_port}/{path}index.html")
        while not page.evaluate("Boolean(window.triptych)"):
            page.wait_for_timeout(50)

        def run(call: str, *values: Any) -> Any:
            # As JSON: Playwright's own form loses a label called __proto__.
            code = (
                f"async (values) => {{ const call = {call}; return JSON.stringify((await call(...values)) ?? null) }}"
            )
            return json.loads(page.evaluate(code, [*values]))

        yield run
        page.close()
        server.shutdown()


def failure(run: Callable[..., Any], call: str, *values: Any) -> dict[str, Any]:
    """The error of a call in the page."""
    caught = "(error) => ({ message: error.message, name: error.name, kind: error.kind })"
    return dict(run(f"async (...values) => ({call})(...values).then((result) => ({{ result }}), {caught})", *values))


def same(browser: sync_api.Browser, folder: Path, model: Classifier, texts: list[Any]) -> None:
    """Answers and explanations in the browser are those of a classifier."""
    runtime = model.backend.name
    with opened(browser, folder) as run:
        answers = run("(texts, runtime) => engine.classify(texts, { runtime })", texts, runtime)["predictions"]
        words = run(
            "(text, task, runtime) => patient.explain(text, task, { runtime })",
            texts[0],
            next(iter(model.tasks)),
            runtime,
        )
    read = [tuple(text) if isinstance(text, list) else text for text in texts]
    for task, predictions in model.predict_all_tasks(read).items():
        for answer, prediction in zip(answers[task], predictions, strict=True):
            expected = prediction.to_dict()
            assert answer["scores"] == pytest.approx(expected.pop("scores"), abs=1e-4)
            assert answer["confidence"] == pytest.approx(expected.pop("confidence"), abs=1e-4)
            assert {name: answer[name] for name in expected} == expected
    expected = explain(model, read[0], next(iter(model.tasks))).to_dict()
    assert words["words"] == [
        {
            **word,
            "attribution": pytest.approx(word["attribution"], abs=1e-3),
            "without": pytest.approx(word["without"], abs=1e-3),
        }
        for word in expected["words"]
    ]
    assert (words["notes"], words["read"], words["second_read"]) == (
        expected["notes"],
        expected["read"],
        expected["second_read"],
    )
