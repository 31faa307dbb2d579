"""One fine-tuned text classifier on three runtimes: PyTorch, ONNX Runtime and INT8.

>>> from inference import load
>>> classifier = load("assets/models/demo", backend="int8")
>>> classifier.predict("what a lovely film", task="sentiment").label
'positive'
"""

from typing import TYPE_CHECKING, Any

from inference.classifier import Answer, Classifier, Prediction, Timing
from inference.errors import BundleError, ExportError, InferenceError, InputError, MissingDependencyError
from inference.explain.explanation import Explanation
from inference.loading import load

if TYPE_CHECKING:
    from inference.onnx.files import quantize_onnx

__version__ = "0.3.0"

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
    "load",
    "quantize_onnx",
]


def __getattr__(name: str) -> Any:
    # Not imported above: it needs the library onnx, without which ONNX and INT8 are served all the same.
    if name == "quantize_onnx":
        from inference.onnx.files import quantize_onnx

        return quantize_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
