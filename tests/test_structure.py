"""The arrows of the design, walked: who may import whom, and where the heavy libraries live."""

from __future__ import annotations

import ast
import graphlib
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from conftest import ROOT

# The rooms of the house by floor, from the ground up. A room imports only rooms on lower floors.
FLOORS = [
    {"inference.assets", "inference.cpu", "inference.errors", "inference.version"},
    {"inference.backends", "inference.calls", "inference.jobs", "inference.tables"},
    {"inference.formats"},
    {"inference.classifier", "inference.pytorch", "inference.onnx"},
    {"inference.artifacts", "inference.explain"},
    {"inference.loading", "inference.score"},
    {"inference", "inference.api", "inference.compare"},
    {"inference.commands", "training", "ui"},
    {"inference.__main__", "app", "dashboard"},
    {"bench", "deploy", "serve"},
]
# Heavy libraries, and the modules below `inference` that may import them.
HOMES = {
    "torch": {"pytorch.*", "onnx.export", "artifacts.importing", "explain.gradients"},
    "captum": {"explain.gradients"},
    "transformers": {"pytorch.*", "artifacts.importing", "formats.tokenizer"},
    "peft": {"pytorch.*"},
    "onnx": {"onnx.*", "artifacts.export", "compare.footprint"},
    "onnxruntime": {"onnx", "onnx.*"},
    "openvino": {"onnx.openvino"},
    "nncf": {"onnx.openvino"},
    "sklearn": {"compare.metrics", "compare.results"},
    "scipy": {"compare.stats", "compare.diff", "explain.agreement", "explain.faithfulness"},
    "jsonschema": {"compare.receipt"},
    "fastapi": {"api.*"},
    "starlette": {"api.*"},
    "uvicorn": {"api.*"},
    "httptools": {"api.protocol"},
    "pydantic": {"api.*"},
    "prometheus_client": {"api.metrics"},
    "orjson": {"api.*"},
    "ray": {"score.ray_data"},
    "gradio": set(),
    "streamlit": set(),
}


@cache
def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports anywhere, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
            # `from package import module` names the module alone.
            if any(f"{node.module}.{alias.name}" not in modules() for alias in node.names):
                imported.add(node.module)
    return imported


@cache
def modules() -> dict[str, Path]:
    """Every module of the code that is not a test, by its full name; a package is its `__init__`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sources()
    }


def sources() -> list[Path]:
    """Every file of code that is not a test."""
    folders = ("inference", "training", "ui", "dashboard", "deploy", "bench")
    return [*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))]


def room(module: str) -> str:
    """The room that a module belongs to: a top-level folder or file, in `inference` one level deeper."""
    return ".".join(module.split(".")[: 2 if module.startswith("inference.") else 1])


def arrows() -> dict[str, set[str]]:
    """Module -> the modules that it imports, anywhere in its file."""
    known = modules()
    return {
        name: {other for other in imports(path) if other in known and other != name} for name, path in known.items()
    }


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in modules()} == set.union(*FLOORS)


def test_rooms_import_only_rooms_on_lower_floors() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        (name, other)
        for name, others in arrows().items()
        for other in others
        if room(name) != room(other) and floor[room(other)] >= floor[room(name)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {o for o in others if not name.startswith(f"{o}.")} for name, others in arrows().items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_heavy_libraries_stay_at_home() -> None:
    wrong = [
        (name, library)
        for name, path in modules().items()
        for library, homes in HOMES.items()
        if name.startswith("inference.")
        and any(imported.partition(".")[0] == library for imported in imports(path))
        and not any(fnmatchcase(name.removeprefix("inference."), home) for home in homes)
    ]
    assert wrong == []


def test_inference_itself_holds_the_seam_and_little_else() -> None:
    assert len([path for path in (ROOT / "inference").glob("*.py") if path.name != "__init__.py"]) <= 9


def test_no_file_is_far_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*sources(), *(ROOT / "tests").glob("*.py")]
    }
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


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
    assert calls == {"inference/artifacts/importing.py"}
    assert "weights_only=True" in (ROOT / "inference/artifacts/importing.py").read_text(encoding="utf-8")


def test_map_in_contributing_is_that_of_the_floors() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| .+ \|$", page, re.MULTILINE)
    drawn = [(int(floor), path.removesuffix("/").removesuffix(".py").replace("/", ".")) for floor, path in rows]
    floors = [(floor, name) for floor, names in enumerate(FLOORS, 1) for name in names]
    assert sorted((floor, name.removesuffix(".__init__")) for floor, name in drawn) == sorted(floors)


def test_files_named_in_contributing_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.css|\.json|/))`", page)) - {"bundle.json"}
    assert len(named) > 50
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
