"""Errors a user can act on. A message says what is wrong, with which value, and what to do."""


class InferenceError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(InferenceError):
    """What the caller passed in cannot be answered (HTTP 422, exit code 2)."""


class BundleError(InferenceError):
    """A model folder, or the base model it names, is missing, damaged or not what it claims."""


class ExportError(InferenceError):
    """An ONNX or INT8 artefact could not be built, or does not agree with its source."""


class MissingDependencyError(InferenceError):
    """A library that this backend or step needs is not installed."""
