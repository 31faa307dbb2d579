"""`Models`: the three classifiers of one model, shared by everybody who asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.artifacts import default_cache, model_sizes, obtain
from inference.backends import TITLES, check_backend
from inference.bundle import Bundle
from inference.classifier import Answer, Classifier
from inference.errors import ChangedModelError, InferenceError, InputError, shown, without_folders
from inference.explain.explanation import Explanation
from inference.formats.describe import describe
from inference.lane import Lane, Unwanted
from inference.loading import open_described

_log = logging.getLogger(__name__)
EXPLAIN_S = 10.0  # others who want to be told why wait for it


class Models:
    """The classifiers of one model by backend, each opened once, when it is first asked for. Thread-safe.

    Args:
        open_one: makes the classifier of a backend.
        sizes: bytes on disk per backend, as far as known.
        parity: as the manifest of a build has it: `texts`, `reference`, and `backends` with what `parity.judge` gives.
        folders: that errors may name and no client may know, beside the model's.
    """

    def __init__(
        self,
        bundle: Bundle,
        open_one: Callable[[str], Classifier],
        sizes: Mapping[str, int] | None = None,
        parity: Mapping[str, Any] | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        self.bundle = bundle
        self.sizes = sizes or {}
        self.parity = parity
        self._open_one = open_one
        self._folders = (bundle.folder, *folders)
        self._opened: dict[str, Classifier] = {}
        # One lock each: INT8 answers while PyTorch is still being opened.
        self._locks = {name: threading.Lock() for name in bundle.backends}
        self._lane = Lane()

    @classmethod
    def of_folder(
        cls,
        folder: str | Path,
        cache: Path | None = None,
        progress: Callable[[str, float], None] | None = None,
        base: Path | None = None,
    ) -> Models:
        """Those of a model folder or Hub id. Its ONNX and INT8 files are built first if they are missing.

        Raises:
            InferenceError: the folder is no model, or the files could not be built.
        """
        cache = cache or default_cache()
        bundle = describe(folder, base)
        artifact = obtain(bundle, cache, progress, base)
        sizes = model_sizes(bundle, artifact, base)
        # All of one description: whatever is opened later is this model, or nothing.
        return cls(
            bundle,
            lambda name: open_described(bundle, name, cache=cache, base=base),
            sizes,
            artifact.parity,
            [cache, *([base] if base else [])],
        )

    def get(self, backend: str) -> Classifier:
        """The classifier on this backend, ready and warm.

        Raises:
            InputError: there is no such backend.
            ChangedModelError: the files are no longer those of the model that was described at the start.
            InferenceError: it cannot be opened. The message names no folder, for any client may read it; that of its
                cause, which is logged, does.
        """
        check_backend(backend, self.bundle.backends)
        with self._locks[backend]:
            if backend not in self._opened:
                try:
                    classifier = self._open_one(backend)
                    classifier.classify("warm up")  # a runtime's first pass is slower than any other
                except ChangedModelError:
                    raise
                except InferenceError as error:
                    _log.error("%s cannot be opened: %s", TITLES[backend], error)
                    raise InferenceError(without_folders(str(error), *self._folders)) from error
                self._opened[backend] = classifier
            return self._opened[backend]

    def answer(
        self, text: str, backend: str, threshold: float | None, is_wanted: Callable[[], bool] = lambda: True
    ) -> Answer:
        """One text's answer for every task on one backend. A threshold of None means the model's own.

        Raises:
            InferenceError: the text, the backend or the threshold is none that can be answered.
        """
        if not isinstance(text, str):  # a list is fine for a classifier, but one text is what this page answers
            raise InputError(f"text must be a string, not {type(text).__name__}.")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float | None):
            raise InputError(f"threshold={shown(threshold)} is not a number. Give 0 to 1, or null for the model's own.")
        classifier = self.get(backend)
        with self._lane.turn(is_wanted):  # two passes at once would fight over the cores
            return classifier.classify(text, threshold=threshold)

    def explain(
        self,
        text: str,
        backend: str,
        task: str | None = None,
        label: str | None = None,
        method: str = "occlusion",
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Explanation:
        """Why one text gets a label on one backend, as `Classifier.explain` says it, in `EXPLAIN_S` seconds or so.

        Args:
            is_wanted: asked between two passes: whether anybody still waits for it.

        Raises:
            InferenceError: as `Classifier.explain`, there is no such backend, or nobody waits for it any more.
        """
        if not isinstance(task, str | None):
            raise InputError(f"Unknown task: it must be a string, not {type(task).__name__}.")

        def progress(step: str, share: float) -> None:
            if not is_wanted():
                raise Unwanted

        return self.get(backend).explain(text, task, label, method, budget_s=EXPLAIN_S, progress=progress)

    def compare(
        self, text: str, threshold: float | None, is_wanted: Callable[[], bool] = lambda: True
    ) -> dict[str, Answer | InferenceError]:
        """Per backend its answer, or why it has none.

        Raises:
            InputError: the text or the threshold is none that any backend could answer.
        """
        found: dict[str, Answer | InferenceError] = {}
        for backend in self.bundle.backends:
            try:
                found[backend] = self.answer(text, backend, threshold, is_wanted)
            except (InputError, Unwanted):
                raise
            except InferenceError as error:  # say, PyTorch is not installed: the others still answer
                found[backend] = error
        return found
