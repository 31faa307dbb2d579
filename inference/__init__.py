"""One fine-tuned text classifier on three runtimes: PyTorch, ONNX Runtime and INT8.

>>> from inference import load
>>> classifier = load("assets/models/demo", backend="int8")
>>> classifier.predict("what a lovely film", task="sentiment").label
'positive'
"""

from inference.classifier import Answer, Classifier, Prediction, Timing
from inference.errors import BundleError, ExportError, InferenceError, InputError, MissingDependencyError
from inference.loading import load

__version__ = "0.3.0"

__all__ = [
    "Answer",
    "BundleError",
    "Classifier",
    "ExportError",
    "InferenceError",
    "InputError",
    "MissingDependencyError",
    "Prediction",
    "Timing",
    "load",
]
