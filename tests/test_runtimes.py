"""A further runtime is its module and an entry in the table: nothing else of the code names the runtimes."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import made
import pytest
from conftest import ROOT, Tiny

from inference import InputError, load
from inference.artifacts.cache import find
from inference.backends import STANDARD, LoadOptions
from inference.compare.footprint import footprint
from inference.formats.bundle import Bundle
from inference.onnx import Graph
from inference.onnx import backend as onnx_backend
from inference.onnx.backend import OnnxBackend


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A runtime of our own that runs the FP32 file, and keeps what it was opened with."""
    module: Any = ModuleType("fourth_runtime")

    def open_backend(bundle: Bundle, options: LoadOptions, graph: Graph, base: object) -> OnnxBackend:
        module.opened = options
        return OnnxBackend(options.backend, graph, options.threads)

    module.check_device = onnx_backend.check_device
    module.open_backend = open_backend
    monkeypatch.setitem(sys.modules, "fourth_runtime", module)
    made.add_runtime(monkeypatch, module="fourth_runtime", file="model.onnx", libraries=("numpy",))
    return module  # type: ignore[no-any-return]


def test_further_runtime_is_opened_through_the_table(tiny: Tiny, fourth: Any) -> None:
    expected = load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache).predict_all_tasks("it was bad")
    classifier = load(tiny.folder, "fourth", base=tiny.base, cache=tiny.cache, threads=1)
    assert classifier.backend.name == "fourth"
    assert fourth.opened == LoadOptions("fourth", threads=1)
    assert classifier.predict_all_tasks("it was bad") == expected


def test_footprint_of_a_further_runtime_comes_from_the_table(tiny: Tiny, fourth: Any) -> None:
    load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache)
    bundle = Bundle.read(tiny.folder)
    artifact = find(bundle, tiny.cache)
    assert artifact
    measured = footprint(bundle, artifact, "fourth", tiny.base)
    assert "model.onnx" in measured["files"]
    assert list(measured["libraries"]) == ["numpy"]


def test_models_have_three_runtimes_in_order_of_exactness(tiny: Tiny) -> None:
    assert STANDARD == ("pytorch", "onnx", "int8")
    assert Bundle.read(tiny.folder).backends == STANDARD


def test_runtime_that_is_gone_is_unknown() -> None:
    with pytest.raises(InputError, match=r"Unknown runtime 'pytorch-bf16'. Known: pytorch, onnx, int8, openvino."):
        load("assets/models/demo", "pytorch-bf16")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_threads_of_pytorch_spin_briefly_unless_the_user_says_how_they_wait(
    given: dict[str, str], expected: str
) -> None:
    code = "import os, inference; print(os.environ.get('GOMP_SPINCOUNT'))"
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=own | given, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == expected


def test_threads_of_onnx_spin_for_100_microseconds(tiny: Tiny) -> None:
    backend = load(tiny.folder, "int8", base=tiny.base, cache=tiny.cache).backend
    assert isinstance(backend, OnnxBackend)
    options = backend._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "100"
