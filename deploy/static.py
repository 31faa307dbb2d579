"""The files of a static Space: a page that runs the model in the visitor's browser, without a server."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.card import ROOT, hub, is_demo
from deploy.privacy import publishable
from deploy.static_page import page_files
from deploy.static_tokenizer import tokenizer_tables
from inference.artifacts.cache import Artifact, default_cache, model_sizes, obtain
from inference.artifacts.npm import MIT, ORT, fetch_package
from inference.assets import showcase_texts
from inference.backends import RUNTIMES, TITLES
from inference.calls.texts import MAX_CHARS
from inference.classifier import Classifier
from inference.errors import BundleError
from inference.explain.occlusion import MAX_PASSES
from inference.formats.bundle import Bundle
from inference.formats.examples import offered
from inference.jobs import Progress
from inference.loading import BATCHING, EXPLAIN_S, open_described
from inference.version import __version__

PAGES = ("*.html", "*.css", "*.js", "*.svg")  # of the folder `static`
IN_BROWSER = ("int8", "onnx")  # the runtimes that a browser has, the first one that a model has answers
WARN_BYTES = 50_000_000  # to fetch before the first answer
# Of a graph: a browser holds it several times while it opens it, and gives a page some gigabytes.
MAX_GRAPH_BYTES = 500_000_000
SMALL_KEYS = ("threshold", "out_of_scope", "one_output")
_log = logging.getLogger(__name__)


def static_files(
    bundle: Bundle, base: str | Path | None, card: str, cache: Path | None = None, progress: Progress | None = None
) -> dict[str, bytes]:
    """Return the files of the page by their names. ONNX and INT8 are built first if they are not in the cache.

    Args:
        card: the README of the Space, whose licence the page repeats.
        cache: folder of built files (default: `default_cache()`).
        progress: called with the step and the share done during a build.

    Raises:
        BundleError: a browser cannot run this model or read texts as it does.
        InputError: ONNX Runtime Web cannot be fetched.
    """
    base = Path(base) if base is not None else None
    cache = cache or default_cache()
    artifact = obtain(bundle, cache, progress, base)
    bundle = artifact.served(bundle)
    graphs = _graphs(bundle, artifact)
    default = next(iter(graphs))
    classifier = open_described(bundle, default, base=base, cache=cache)
    tables = tokenizer_tables(bundle, classifier.tokenizer)
    files = {path.name: path.read_bytes() for pattern in PAGES for path in (ROOT / "static").glob(pattern)}
    files |= page_files(bundle)
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    library = fetch_package(ORT)
    packed: dict[str, dict[str, Any]] = {}
    for name, path, content in (
        ("wasm", "engine/ort-wasm-simd-threaded.bin", library.pop("ort-wasm-simd-threaded.wasm")),
        ("tokenizer", "model/tokenizer.bin", json.dumps(tables, ensure_ascii=False, separators=(",", ":")).encode()),
        *((name, f"model/{name}.bin", graph) for name, graph in graphs.items()),
    ):
        # No name ends in .gz: hosts would add headers to those, or unpack them.
        files[path] = gzip.compress(content, 6, mtime=0)
        digest = hashlib.sha256(content).hexdigest()
        packed[name] = {"path": path, "bytes": len(files[path]), "unpacked": len(content), "sha256": digest}
    files |= {f"engine/{name}": content for name, content in library.items()} | {"engine/LICENSE": MIT.encode()}
    site = _site(bundle, classifier, packed, model_sizes(bundle, artifact), hub().SpaceCard(card).data.get("license"))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    site["content"] = hashlib.sha256(json.dumps([digests, site]).encode()).hexdigest()
    files["site.json"] = json.dumps(site, ensure_ascii=False).encode()
    files["parity.json"] = b"null"  # until the page was started in a browser
    return files


def _graphs(bundle: Bundle, artifact: Artifact) -> dict[str, bytes]:
    """Return the ONNX graphs that a browser can open, by runtime."""
    graphs: dict[str, bytes] = {}
    paths: dict[str, Path] = {}
    for name in (name for name in IN_BROWSER if name in bundle.backends):
        if (size := artifact.size_bytes(name)) > MAX_GRAPH_BYTES:
            _log.warning(
                "The page has no %s: no browser can be relied on to open its %.0f MB.", TITLES[name], size / 1e6
            )
            continue
        paths[name] = artifact.folder / RUNTIMES[name].file
        graphs[name] = artifact.read(name).model
    if not graphs:
        reasons = "; ".join(f"{TITLES[name]}: {reason}" for name, reason in artifact.missing.items())
        raise BundleError(
            f"{bundle.name} cannot run in a browser: it has no graph of at most {MAX_GRAPH_BYTES / 1e6:.0f} MB"
            f"{f' ({reasons})' if reasons else ''}. Stage it with --kind gradio or --kind docker."
        )
    return graphs | publishable(paths, {})  # a graph can hold notes of the machine it was exported on


def _site(
    bundle: Bundle, classifier: Classifier, packed: Mapping[str, Any], sizes: Mapping[str, int], licence: str | None
) -> dict[str, Any]:
    """Return what the page must know about the model, in plain types."""
    shared = packed["wasm"]["bytes"] + packed["tokenizer"]["bytes"]
    shared_unpacked = packed["wasm"]["unpacked"] + packed["tokenizer"]["unpacked"]
    runtimes = {
        name: {
            "title": RUNTIMES[name].title,
            "bytes": shared + file["bytes"],
            "model_bytes": sizes[name],
            "unpacked": shared_unpacked + file["unpacked"],
        }
        for name, file in packed.items()
        if name in IN_BROWSER
    }
    default = next(iter(runtimes))
    if (size := runtimes[default]["bytes"]) > WARN_BYTES:
        _log.warning(
            "A visitor fetches %.0f MB before the first answer. On phones and slow lines that is too much: consider "
            "a smaller model, or --kind gradio or docker.",
            size / 1e6,
        )
    return {
        "format": 1,
        "version": __version__,
        "model": {"name": bundle.name, "base": bundle.base.hub_id if bundle.base else None, "licence": licence},
        "tasks": {
            name: {
                "labels": list(task.labels),
                "problem_type": task.problem_type,
                **{key: getattr(task, key) for key in SMALL_KEYS},
            }
            for name, task in bundle.tasks.items()
        },
        "max_tokens": bundle.max_tokens,
        "pairs": bundle.pairs,
        "token_types": bundle.token_types,
        "pad_id": bundle.pad_id,
        "cuts_left": classifier.cuts_left,
        "limits": {
            "max_chars": MAX_CHARS,
            "batch_size": BATCHING["cpu"][0],
            "token_budget": RUNTIMES[default].pass_tokens,
            "explain_s": EXPLAIN_S,
            "rows": MAX_PASSES,
        },
        "runtimes": runtimes,
        "default_runtime": default,
        "files": packed,
        "examples": _examples(classifier),
        "showcase": _showcase(classifier),
    }


def _examples(classifier: Classifier) -> list[dict[str, Any]]:
    """Return the examples to offer; the first one with its answers, which are shown before the model is there."""
    examples = offered(classifier.bundle.examples)
    if not examples:
        return []
    answers = classifier.classify(examples[0].text).predictions
    described: list[dict[str, Any]] = [{"name": example.name, "text": example.text} for example in examples]
    described[0]["answer"] = {name: answer[0].to_dict() for name, answer in answers.items()}
    return described


def _showcase(classifier: Classifier) -> list[dict[str, Any]]:
    """Return texts to measure with, and Python's answers."""
    bundle = classifier.bundle
    texts = showcase_texts() if is_demo(bundle) else [example.text for example in bundle.examples]
    if not texts:
        return []
    answers = classifier.classify(texts).predictions
    return [
        {
            "text": text,
            "python": {name: [answer[i].label, round(answer[i].confidence, 6)] for name, answer in answers.items()},
        }
        for i, text in enumerate(texts)
    ]
