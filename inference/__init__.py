"""One fine-tuned text classifier on three runtimes: PyTorch, ONNX Runtime and INT8.

>>> from inference import load
>>> classifier = load("assets/models/demo", backend="int8")
>>> classifier.predict("what a lovely film", task="sentiment").label
'positive'
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Since 1.29 ONNX Runtime reports to Microsoft and writes a device identifier to the user's cache. Its own
# `disable_telemetry_events()` comes after the first event; only this variable, read while its library loads, prevents
# that. It is set here because this file runs before all others of the package, also in subprocesses. A value that the
# user has set stays. If onnxruntime was imported before `inference`, it is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# PyTorch's threads (libgomp, on Linux) spin while they wait for each other, longer than the system lets a thread run.
# With another program on one of two cores, a pass takes many times as long, and training hardly moves. 10,000 turns
# take less than a millisecond; on an idle machine, no difference was measured. Read only while the library loads, too.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from inference.version import __version__

if TYPE_CHECKING:
    from inference.artifacts.export import quantize_onnx
    from inference.calls.predictions import to_frame
    from inference.classifier import Answer, Classifier, Prediction, Timing
    from inference.errors import BundleError, ExportError, InferenceError, InputError, MissingDependencyError
    from inference.explain.explanation import Explanation
    from inference.loading import load

__all__ = [
    "Answer",
    "BundleError",
    "Classifier",
    "Explanation",
    "ExportError",
    "InferenceError",
    "InputError",
    "MissingDependencyError",
    "Prediction",
    "Timing",
    "__version__",
    "load",
    "quantize_onnx",
    "to_frame",
]

# Imported on demand: the package must open without any library, so that a program can name the one that is missing.
_HOMES = {
    "inference.artifacts.export": ("quantize_onnx",),
    "inference.calls.predictions": ("to_frame",),
    "inference.classifier": ("Answer", "Classifier", "Prediction", "Timing"),
    "inference.errors": ("BundleError", "ExportError", "InferenceError", "InputError", "MissingDependencyError"),
    "inference.explain.explanation": ("Explanation",),
    "inference.loading": ("load",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            globals()[name] = getattr(import_module(module), name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
