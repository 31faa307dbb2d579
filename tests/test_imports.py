"""A library that fails to import is named, and never taken for damaged weights; no two are imported at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Tiny

from inference.artifacts.cache import obtain
from inference.formats.bundle import Bundle

BOTH = """
import sys, threading
from pathlib import Path
from inference import load
folder, base, cache, *backends = sys.argv[1:]
errors = {}
together = threading.Barrier(len(backends))
def open_one(number):
    together.wait()
    try:
        load(folder, backends[number], base=base, cache=cache)
    except BaseException as error:
        errors[number] = error
threads = [threading.Thread(target=open_one, args=[number]) for number in range(len(backends))]
for thread in threads: thread.start()
for thread in threads: thread.join()
for number in sorted(errors): print(type(errors[number]).__name__, errors[number])
"""
# Says when its import begins and ends, and leaves time for another to begin.
PLANTED = """
import sys, time
events = sys.modules.setdefault("planted_events", type(sys)("planted_events")).__dict__.setdefault("events", [])
events.append(("begin", __name__))
time.sleep(0.2)
events.append(("end", __name__))
print(*events[-2:], flush=True)
raise {error}
"""


@pytest.fixture(scope="module")
def built(tiny: Tiny) -> Tiny:
    obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)
    return tiny


def open_together(model: Tiny, planted: Path, *backends: str) -> list[str]:
    """What a process prints whose threads open these backends at once, with `planted` before all other libraries."""
    done = subprocess.run(
        [sys.executable, "-c", BOTH, model.folder, model.base, model.cache, *backends],
        cwd=ROOT,
        env={"PYTHONPATH": f"{planted}:{ROOT}", "PATH": "", "HOME": str(planted), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


ERRORS = {
    "ImportError": 'ImportError("libcudart.so.13: cannot open shared object file")',
    "RuntimeError": 'RuntimeError("function already has a docstring")',
    "AttributeError": "AttributeError(\"partially initialized module has no attribute 'x'\")",
    "OSError": 'OSError("[WinError 126] The specified module could not be found")',
}


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("torch", "ImportError"),
        ("torch", "OSError"),
        pytest.param("transformers", "ImportError", marks=pytest.mark.slow),
        pytest.param("safetensors", "ImportError", marks=pytest.mark.slow),
        pytest.param("peft", "RuntimeError", marks=pytest.mark.slow),
        pytest.param("peft", "AttributeError", marks=pytest.mark.slow),
    ],
)
def test_library_that_fails_to_import_is_named_on_every_thread(
    built: Tiny, tmp_path: Path, library: str, kind: str
) -> None:
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(f"raise {ERRORS[kind]}\n")
    lines = open_together(built, tmp_path, "pytorch", "pytorch")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("MissingDependencyError "), line
        assert f"needs the library '{library}', which cannot be imported ({kind}: " in line
        assert line.endswith("Install it again: pip install -r requirements.txt")
        assert "damaged" not in line and "do not fit" not in line and "Restore" not in line


@pytest.mark.slow
def test_library_that_is_not_installed_is_named(built: Tiny, tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("import no_such_library\n")
    for line in open_together(built, tmp_path, "pytorch", "pytorch"):
        assert "needs the library 'no_such_library', which is not installed. Install it: pip install -r" in line


def test_no_two_libraries_are_imported_at_once(built: Tiny, tmp_path: Path) -> None:
    for library in ("torch", "onnxruntime"):
        (tmp_path / f"{library}.py").write_text(PLANTED.format(error='ImportError("planted")'))
    lines = open_together(built, tmp_path, "pytorch", "int8", "onnx")
    events = [line for line in lines if line.startswith("(")]
    assert len(events) >= 2
    for event in events:
        library = "torch" if "torch" in event else "onnxruntime"
        assert event == f"('begin', '{library}') ('end', '{library}')"
    assert len([line for line in lines if line.startswith("MissingDependencyError")]) == 3


def test_damaged_weights_are_still_damaged_weights(built: Tiny, tmp_path: Path) -> None:
    import torch
    from foreign import classifier
    from safetensors.torch import load_file, save_file

    from inference import load
    from inference.errors import BundleError

    folder = classifier(tmp_path / "model")
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = torch.zeros(3, 7)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(BundleError):
        load(folder, "pytorch", cache=tmp_path / "cache")
