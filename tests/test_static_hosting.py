"""The engine of the static page on hosts and with files that are not as staged, and calls that are aborted."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS, sync_api
from conftest import Tiny
from engine_page import failure, opened, same, staged, write

import deploy.chromium
from deploy import static
from deploy.card import HEADERS
from deploy.chromium import StaticHandler, StaticServer, start_in_chromium
from inference import BundleError, InputError, load
from inference.backends import RUNTIMES


@pytest.fixture(scope="module")
def tiny_space(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tiny-space"), tiny.folder, tiny.cache, tiny.base)


@pytest.fixture(scope="module")
def tiny_run(browser: sync_api.Browser, tiny_space: Path) -> Iterator[Callable[..., Any]]:
    with opened(browser, tiny_space) as evaluate:
        yield evaluate


def test_answers_and_explanations_are_those_of_python(browser: sync_api.Browser, tiny: Tiny, tiny_space: Path) -> None:
    for runtime in ("int8", "onnx"):
        model = load(tiny.folder, runtime, base=tiny.base, cache=tiny.cache)
        same(browser, tiny_space, model, ["it was fine, well-known soup", "bad " * 30, "日本", "lamp"])


# --- Files and hosts that are not as staged


def load_of(run: Callable[..., Any], change: str) -> dict[str, Any]:
    """The error of a load of a copy of site.json that was changed."""
    call = f"async () => {{ const copy = structuredClone(site); {change}; const engine = new Engine(copy);"
    return failure(run, call + " try { return await engine.load() } finally { engine.close() } }")


@pytest.mark.parametrize(
    "change",
    [
        'copy.files.int8.sha256 = "0".repeat(64)',
        "copy.files.int8.unpacked -= 1",
        "copy.files.int8.unpacked += 1",
        "copy.files.tokenizer.path = copy.files.wasm.path",
        'copy.files.int8.path = "site.json"',
        'copy.files.int8.path = "broken.bin"',
    ],
)
def test_files_other_than_the_staged_ones_are_not_opened(
    tiny_run: Callable[..., Any], tiny_space: Path, change: str
) -> None:
    whole = (tiny_space / "model/int8.bin").read_bytes()
    (tiny_space / "broken.bin").write_bytes(whole[: len(whole) // 2])
    error = load_of(tiny_run, change)
    assert error["kind"] == "load"
    assert "is not the file that belongs to this page" in error["message"]


def test_file_that_unfolds_without_end_is_cut_off(tiny_run: Callable[..., Any], tiny_space: Path) -> None:
    (tiny_space / "bomb.bin").write_bytes(gzip.compress(bytes(50_000_000)))
    error = load_of(tiny_run, 'copy.files.int8.path = "bomb.bin"')
    assert "bomb.bin is not the file that belongs to this page" in error["message"]


def test_missing_file_gives_the_status_and_the_next_load_works(tiny_run: Callable[..., Any], tiny_space: Path) -> None:
    path = tiny_space / "model/onnx.bin"
    path.rename(tiny_space / "away")
    error = failure(tiny_run, '() => engine.load("onnx")')
    assert (error["kind"], "onnx.bin cannot be fetched (HTTP 404)" in error["message"]) == ("load", True)
    (tiny_space / "away").rename(path)
    assert tiny_run('() => engine.load("onnx")')["runtime"] == "onnx"


def test_page_about_an_error_in_place_of_a_file_is_fetched_again(browser: sync_api.Browser, tiny_space: Path) -> None:
    asked: list[str] = []

    class Handler(StaticHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if not self.path.startswith("/model/int8.bin") or asked.count(self.path) > 1:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Cache-Control", "max-age=86400")
            self.end_headers()
            self.wfile.write(b"<h1>Too many visitors</h1>")

    with opened(browser, tiny_space, handler=Handler) as run:
        assert run('() => triptych.predict(["good"])')["mood"][0]["label"]


def test_host_that_unpacks_the_files_is_understood(browser: sync_api.Browser, tiny_space: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_space, tmp_path / "space")
    for path in (tmp_path / "space").rglob("*.bin"):
        if path.parent.name in ("engine", "model"):
            path.write_bytes(gzip.decompress(path.read_bytes()))
    with opened(browser, tmp_path / "space") as run:
        assert run('() => triptych.predict(["good"])')["mood"][0]["label"]


@pytest.fixture
def elsewhere(tiny_space: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the model on another host, which would send it to anybody, and what that host was asked for."""
    asked: list[str] = []

    class Handler(StaticHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with StaticServer(tiny_space, HEADERS | {"Access-Control-Allow-Origin": "*"}) as server:
        server.RequestHandlerClass = partial(Handler, directory=str(tiny_space))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/model/int8.bin", asked
        server.shutdown()


def test_worker_is_held_to_the_policy_of_the_page(
    tiny_run: Callable[..., Any], elsewhere: tuple[str, list[str]]
) -> None:
    address, asked = elsewhere
    error = load_of(tiny_run, f'copy.files.int8.path = "{address}"')
    assert "cannot be fetched. Check the connection" in error["message"]
    assert asked == []


def test_host_that_sends_files_from_another_address_is_named_as_the_reason(
    browser: sync_api.Browser, tiny_space: Path, elsewhere: tuple[str, list[str]]
) -> None:
    address, asked = elsewhere

    class Handler(StaticHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/model/int8.bin"):
                super().do_GET()
                return
            self.send_response(302)
            self.send_header("Location", address)
            self.end_headers()

    with opened(browser, tiny_space, handler=Handler) as run:
        error = failure(run, "() => engine.load()")
    assert "int8.bin cannot be fetched: the host sends it from another address" in error["message"]
    assert asked == []


def test_threads_are_used_where_the_page_is_isolated(browser: sync_api.Browser, tiny_space: Path) -> None:
    for headers, several in ((HEADERS, True), ({}, False)):
        with opened(browser, tiny_space, headers) as run:
            threads = run("async () => (await engine.load()).threads")
            assert run("() => crossOriginIsolated") is several
            assert threads == (run("() => Math.min(4, navigator.hardwareConcurrency)") if several else 1)
            assert run('() => triptych.predict("good")')["mood"][0]["label"]


def test_page_works_below_any_path(browser: sync_api.Browser, tiny_space: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_space, tmp_path / "some/where")
    with opened(browser, tmp_path, path="some/where/") as run:
        assert run('() => triptych.predict(["good"])')["mood"][0]["label"]


# --- Calls


def test_progress_ends_at_the_total_and_loads_are_shared(tiny_run: Callable[..., Any]) -> None:
    seen = tiny_run(
        """async () => {
            const engine = new Engine(site);
            const steps = [];
            const both = [engine.load("int8", { onProgress: (...step) => steps.push(step) }), engine.load("int8")];
            const [first, second] = await Promise.all(both);
            const before = steps.length;
            const again = await engine.load("int8");
            const fp32 = await engine.load("onnx");
            engine.close();
            return { steps: steps.slice(0, before), first, same: first === second && first === again, fp32 };
        }"""
    )
    received, totals = zip(*seen["steps"], strict=True)
    assert list(received) == sorted(received) and received[-1] == totals[0] == seen["first"]["bytes"]
    assert set(totals) == {totals[0]}
    assert seen["same"]
    assert seen["fp32"]["bytes"] < seen["first"]["bytes"]  # nothing is fetched twice


def test_aborted_calls_reject_at_once_and_the_engine_goes_on(tiny_run: Callable[..., Any]) -> None:
    aborted = tiny_run(
        """async () => {
            const engine = new Engine(site);
            const names = [];
            const note = (error) => names.push(error.name);
            const load = new AbortController();
            await engine.load("int8", { signal: load.signal, onProgress: () => load.abort() }).catch(note);
            await engine.load("int8", { signal: AbortSignal.abort() }).catch(note);
            await engine.load("int8");
            const classify = new AbortController();
            const texts = Array(2000).fill("a good text");
            let most = 0;
            const onProgress = (done) => { most = done; classify.abort(); };
            await engine.classify(texts, { signal: classify.signal, onProgress }).catch(note);
            const explain = new AbortController();
            const long = { signal: explain.signal, onProgress: () => explain.abort() };
            await engine.explain("a b c d e f g ".repeat(60), "mood", long).catch(note);
            const answer = await engine.classify(["good"]);
            const pending = engine.classify(texts).catch(note);
            engine.close();
            await pending;
            return { names, most, answers: answer.predictions.mood.length };
        }"""
    )
    assert aborted["names"] == ["AbortError"] * 5
    assert 0 < aborted["most"] < 2000
    assert aborted["answers"] == 1


def test_load_that_another_caller_waits_for_survives_an_abort(tiny_run: Callable[..., Any]) -> None:
    names = tiny_run(
        """async () => {
            const engine = new Engine(site);
            const one = new AbortController();
            const first = engine.load("int8", { signal: one.signal }).catch((error) => error.name);
            const second = engine.load("int8");
            one.abort();
            const names = [await first, (await second).runtime];
            engine.close();
            return names;
        }"""
    )
    assert names == ["AbortError", "int8"]


def test_unknown_names_are_refused(tiny_run: Callable[..., Any]) -> None:
    assert "no such runtime. It has: int8, onnx" in failure(tiny_run, '() => engine.load("__proto__")')["message"]
    assert "Unknown task" in failure(tiny_run, '() => engine.explain("a", "constructor")')["message"]
    assert "no such label" in failure(tiny_run, '() => engine.explain("a", "mood", { label: "x" })')["message"]


@pytest.mark.slow
def test_page_that_offers_nothing_is_reported(tiny_space: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_space, tmp_path / "space")
    (tmp_path / "space/worker.js").write_text("throw new Error('broken')")
    with pytest.raises(InputError, match=r"does not answer in Chromium: The engine of this page cannot start"):
        start_in_chromium(tmp_path / "space", PATIENCE_MS / 1000)


# --- Staging


def test_model_without_a_graph_for_browsers_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "MAX_GRAPH_BYTES", 1000)
    with pytest.raises(BundleError, match="tiny cannot run in a browser: it has no graph of at most"):
        staged(tiny.folder, tiny.cache, tiny.base)


@pytest.mark.slow
def test_a_large_download_is_warned_of_and_the_offline_cache_is_named_by_the_content(
    tiny: Tiny, tiny_space: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(static, "WARN_BYTES", 1000)
    monkeypatch.setattr(static, "EXPLAIN_S", 1.0)
    files = staged(tiny.folder, tiny.cache, tiny.base)
    assert re.search(r"A visitor fetches \d MB before the first answer", caplog.text)
    site = json.loads(files.pop("site.json"))
    fetched = sum(len(files[site["files"][name]["path"]]) for name in ("wasm", "tokenizer", "int8"))
    assert site["runtimes"]["int8"]["bytes"] == fetched
    before = json.loads((tiny_space / "site.json").read_text())
    assert {name for name in site if site[name] != before[name]} == {"content", "limits"}
    assert site["limits"]["token_budget"] == RUNTIMES["int8"].pass_tokens
    assert [name for name in files if name != "index.html" and files[name] != (tiny_space / name).read_bytes()] == []
    assert not any(name.endswith(".gz") for name in files)


def with_examples(folder: Path, python: list[list[Any]]) -> Path:
    """Add texts to the site of a staged page, with these answers of Python."""
    site = json.loads((folder / "site.json").read_text())
    site["showcase"] = [{"text": text, "python": {"mood": answer}} for text, answer in zip("ab", python, strict=True)]
    site["tasks"] = {"mood": site["tasks"]["mood"]}
    (folder / "site.json").write_text(json.dumps(site))
    return folder


@pytest.mark.slow
def test_labels_that_differ_are_named_and_a_page_that_answers_something_else_is_refused(
    tiny: Tiny, tiny_space: Path, tmp_path: Path
) -> None:
    model = load(tiny.folder, "int8", base=tiny.base, cache=tiny.cache)
    answers = [[one.label, one.confidence] for one in model.predict(["a", "b"], "mood")]
    other = next(label for label in model.tasks["mood"].labels if label != answers[1][0])
    near = [answers[0], [other, 1 - answers[1][1]]]  # the label that is not the highest, with its own probability
    folder = with_examples(shutil.copytree(tiny_space, tmp_path / "near"), near)
    assert start_in_chromium(folder, PATIENCE_MS / 1000)
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["texts"] == 2 and re.fullmatch(r"Chromium \d+", parity["browser"])
    assert parity["tasks"]["mood"] == {"equal": 1, "differ": [{"index": 1, "python": other, "browser": answers[1][0]}]}
    far = [answers[0], [other, answers[1][1]]] if answers[1][1] > 0.6 else [[answers[0][0], 0.0], answers[1]]
    folder = with_examples(shutil.copytree(tiny_space, tmp_path / "far"), far)
    with pytest.raises(InputError, match="answers differently from Python: the probability of a label differs by"):
        start_in_chromium(folder, PATIENCE_MS / 1000)
    assert (folder / "parity.json").read_text() == "null"


@pytest.mark.slow
def test_without_a_chromium_nothing_is_started_and_nothing_claimed(
    tiny_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy.chromium, "NAMES", ("no-such-program",))
    assert start_in_chromium(tiny_space, 1) is False
    assert (tiny_space / "parity.json").read_text() == "null"
