"""The arrows of the design, walked: who may import whom, and where the heavy libraries live."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from conftest import ROOT

# Lower layers know nothing of higher ones. A module may import those left of it or beside it.
LAYERS = [
    {"errors", "imports", "cpu", "spreadsheet"},
    {"lane"},
    {"formats.files", "backends"},
    {"formats.adapters", "formats.architectures", "assets", "bundle", "formats.exported", "formats.hub"},
    {"explain.words", "explain.explanation"},
    {"explain.occlusion", "explain.gradients"},
    # The classifier has a method `explain`, which imports it when it is called.
    {"formats.describe", "network", "torch_backend", "onnx.backend", "classifier", "explain.run", "tables"},
    {"explain.agreement", "explain.faithfulness"},
    {"onnx.half", "onnx.io", "onnx.plain", "onnx.merge", "sequence", "tokenizer"},
    {"evaluate", "parity", "onnx.export", "onnx.graph", "onnx.weights", "onnx.quantize", "onnx.ladder"},
    {"building"},
    {"artifacts", "manifest", "onnx.files", "merging"},
    {"loading"},
    {"models"},
    {"score.answers", "score.cutting", "score.groups", "score.reading", "score.unpacking"},
    {"score.journal", "score.workers", "score.writing"},
    {"score.run"},
    {"score.cluster"},
    {"api.protocol", "api.websocket"},
    {"api.errors", "api.metrics"},
    {"api.layers", "api.schemas", "api.batching"},
    {"api.front"},
    {"api.server"},
    {"api.service"},
    {"api.documents"},
    {"api.app"},
    {"compare.stats", "compare.rows", "compare.footprint", "compare.worker"},
    {"compare.benchmark"},
    {"compare.results"},
    {"compare.checking"},
    {"compare.receipt"},
    {"compare.disagreements", "compare.diff", "compare.summary", "compare.verdict"},
    {"compare.run"},
    {"progress"},
    {"commands", "api.commands", "compare.commands", "explain.commands", "doctor", "score.commands", "space"},
    {"formats.rapidfit"},
    {"formats.importing"},
    {"__main__"},
]
HOMES = {
    "torch": {"network", "sequence", "torch_backend", "onnx.export", "formats.importing", "explain.gradients"},
    "captum": {"explain.gradients"},
    "transformers": {"network", "sequence", "formats.importing"},
    "peft": {"network", "sequence"},
    "onnx": {
        "onnx.export",
        "onnx.graph",
        "onnx.half",
        "onnx.weights",
        "onnx.quantize",
        "onnx.io",
        "onnx.merge",
        "onnx.files",
        "compare.footprint",
    },
    "onnxruntime": {"onnx.half", "onnx.backend", "onnx.export", "onnx.quantize", "onnx.io"},
    "sklearn": {"evaluate", "compare.results"},
    "scipy": {"compare.stats", "compare.diff", "explain.agreement", "explain.faithfulness"},
    "jsonschema": {"compare.receipt"},
    "fastapi": {"api.app", "api.documents", "api.errors"},
    "starlette": {"api.errors", "api.front", "api.layers", "api.server"},
    "uvicorn": {"api.front", "api.protocol", "api.server", "api.websocket"},
    "httptools": {"api.protocol"},
    "pydantic": {"api.documents", "api.schemas"},
    "prometheus_client": {"api.metrics"},
    "orjson": {"api.app", "api.errors"},
    "ray": {"score.cluster"},
    "gradio": set(),
    "streamlit": set(),
}


@cache
def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports anywhere, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules() -> dict[str, Path]:
    """Name under `inference` -> file: "classifier", "compare.rows"."""
    folder = ROOT / "inference"
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in folder.rglob("*.py")
        if path.stem != "__init__"
    }


def sources() -> list[Path]:
    """Every file of code that is no test."""
    folders = [path for name in ("inference", "training", "ui", "dashboard") for path in (ROOT / name).rglob("*.py")]
    return [*ROOT.glob("*.py"), *folders]


def test_every_module_has_its_layer() -> None:
    assert set(modules()) == set.union(*LAYERS)


def test_no_arrow_points_upwards() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        (name, other)
        for name, path in modules().items()
        for other in level
        if f"inference.{other}" in imports(path) and level[other] > level[name]
    ]
    assert wrong == []


def test_heavy_libraries_stay_at_home() -> None:
    wrong = [
        (name, library)
        for name, path in modules().items()
        for library, homes in HOMES.items()
        if any(found.partition(".")[0] == library for found in imports(path)) and name not in homes
    ]
    assert wrong == []


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*sources(), *(ROOT / "tests").glob("*.py")]
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_nothing_dangerous_is_called() -> None:
    names = {"eval", "exec", "__import__"}
    calls = [
        (path.name, node.func.id)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    assert calls == []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, path
        assert not {"pickle", "torch.load"} & imports(path), path


def test_pickles_are_opened_where_a_user_asks_for_it_and_nowhere_else() -> None:
    calls = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"
    }
    assert calls == {"inference/formats/importing.py"}
    assert "weights_only=True" in (ROOT / "inference/formats/importing.py").read_text(encoding="utf-8")
