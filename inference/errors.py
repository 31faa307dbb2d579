"""Errors a user can act on. A message says what is wrong, with which value, and what to do."""


class InferenceError(Exception):
    """Base of every error this package raises on purpose.

    The message is one line that any terminal can show, whatever names and files of strangers it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message))


class InputError(InferenceError):
    """What the caller passed in cannot be answered (HTTP 422, exit code 2)."""


class BundleError(InferenceError):
    """A model folder, or the base model it names, is missing, damaged or not what it claims."""


class ExportError(InferenceError):
    """An ONNX or INT8 artefact could not be built, or does not agree with its source."""


class MissingDependencyError(InferenceError):
    """A library that this backend or step needs is not installed."""
