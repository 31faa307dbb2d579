"""The calls of a classifier for Python users: many texts at once, as a stream, as a transformers pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from inference.calls.columns import as_texts, problems, read_texts, windows
from inference.calls.predictions import Answer, Prediction, pipeline_entries
from inference.calls.texts import Text, Tokens
from inference.errors import InputError, importing, shown

if TYPE_CHECKING:
    from inference.formats.bundle import Bundle


class Calls(ABC):
    """What a classifier offers on top of `classify`, which prepares every text and reads every result."""

    bundle: Bundle

    @abstractmethod
    def classify(
        self,
        texts: Text | Iterable[Text],
        tasks: Sequence[str] | None = None,
        threshold: float | None = None,
        batch_size: int | None = None,
    ) -> Answer:
        """Classify texts for these tasks."""

    @abstractmethod
    def tokenize(self, texts: Sequence[Text]) -> Tokens:
        """Return token ids, or raise InputError."""

    @abstractmethod
    def one_task(self, task: str | None) -> str:
        """Return the task of this name, or the only one."""

    @overload  # a str is also an Iterable[str]: the first match wins
    def predict(  # type: ignore[overload-overlap]
        self, texts: Text, task: str | None = ..., threshold: float | None = ..., *, batch_size: int | None = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        texts: Iterable[Text],
        task: str | None = ...,
        threshold: float | None = ...,
        *,
        batch_size: int | None = ...,
        progress: bool = ...,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        texts: Iterable[Any],
        task: str | None = ...,
        threshold: float | None = ...,
        *,
        batch_size: int | None = ...,
        progress: bool = ...,
        on_error: Literal["raise", "skip"],
    ) -> list[Prediction | None]: ...
    def predict(
        self,
        texts: Text | Iterable[Any],
        task: str | None = None,
        threshold: float | None = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Prediction | list[Prediction] | list[Prediction | None]:
        """Classify one text, or many in their order, for one task.

        Args:
            texts: one string, or any iterable of strings, even an empty one: a list, a column of a table, an array, a
                generator. A tuple of two strings is a pair, for a model of pairs; several pairs are a list of tuples.
            task: may be omitted if the model has only one.
            threshold: confidence below which an answer is uncertain (default: the task's own).
            batch_size: maximum texts per forward pass (default: the classifier's); `token_budget` limits it too.
            progress: show a progress bar (tqdm) for many texts.
            on_error: of many texts, "skip" gives None for each that cannot be read; `problems` says why.

        Raises:
            InputError: a text that cannot be read (the message names its index), or an unknown task.
        """
        task = self.one_task(task)
        _check_on_error(on_error)
        given = as_texts(texts, self.bundle.pairs)
        if isinstance(given, list) and given and (progress or on_error != "raise"):
            answers = self.stream(given, task, threshold, batch_size=batch_size, on_error=on_error)
            if progress:
                with importing("progress=True", "tqdm"):
                    from tqdm.auto import tqdm
                answers = tqdm(answers, total=len(given), unit=" texts")
            return list(answers)
        if not isinstance(given, list):
            return self.classify(given, [task], threshold, batch_size).predictions[task][0]
        try:
            return self.classify(given, [task], threshold, batch_size).predictions[task] if given else []
        except InputError as error:
            if len(given) > 1 and self.problems(given):
                raise InputError(f'{error} With on_error="skip", such texts have no prediction.') from None
            raise

    def stream(
        self,
        texts: Iterable[Any],
        task: str | None = None,
        threshold: float | None = None,
        *,
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Any]:
        """Yield the prediction of each text in order, reading at most a window of texts ahead.

        Args:
            on_error: with "skip", the answer of a text that cannot be read is None.

        Raises:
            InputError: as in `predict`.
        """
        task = self.one_task(task)
        _check_on_error(on_error)
        many = read_texts(texts, self.bundle.pairs)
        if isinstance(many, str | tuple):
            raise InputError("stream reads many texts. For one text or one pair, call predict.")

        def answer(window: list[Text]) -> list[Prediction]:
            return self.classify(window, [task], threshold, batch_size).predictions[task]

        return windows(many, answer, self.problems, on_error == "skip")

    def problems(self, texts: Text | Iterable[Any]) -> dict[int, str]:
        """Return why `predict` cannot read some of the texts: the index of each such text, and the reason."""
        given = as_texts(texts, self.bundle.pairs)
        return problems(given if isinstance(given, list) else [given], self.tokenize)

    def __call__(self, texts: Text | Iterable[Text], task: str | None = None, **options: Any) -> list[Any]:
        """Return {"label", "score"} of each text, in the shapes of a text-classification pipeline of transformers.

        Args:
            options: `top_k`, the number of labels per text, best first, or None for all: each text then has a list.
                `batch_size`, as in `predict`.

        Raises:
            InputError: as in `predict`, or another option.
        """
        if unknown := options.keys() - {"top_k", "batch_size"}:
            raise InputError(f"Unknown option {shown(min(unknown))}: the options are top_k and batch_size.")
        given = as_texts(texts, self.bundle.pairs)
        many = given if isinstance(given, list) else [given]
        predictions = self.predict(many, task, batch_size=options.get("batch_size"))
        ranked = [pipeline_entries(prediction, options.get("top_k", 1)) for prediction in predictions]
        if "top_k" not in options:
            return [entries[0] for entries in ranked]
        return ranked if isinstance(given, list) else ranked[0]

    @overload
    def predict_all_tasks(  # type: ignore[overload-overlap]
        self, texts: Text, threshold: float | None = None
    ) -> dict[str, Prediction]: ...
    @overload
    def predict_all_tasks(
        self, texts: Iterable[Text], threshold: float | None = None
    ) -> dict[str, list[Prediction]]: ...
    def predict_all_tasks(
        self, texts: Text | Iterable[Text], threshold: float | None = None
    ) -> dict[str, Prediction] | dict[str, list[Prediction]]:
        """Like `predict`, for all tasks from one pass of the encoder."""
        given = as_texts(texts, self.bundle.pairs)
        if given == []:
            return {task: list[Prediction]() for task in self.bundle.tasks}
        predictions = self.classify(given, None, threshold).predictions
        if not isinstance(given, list):
            return {task: of_task[0] for task, of_task in predictions.items()}
        return dict(predictions)


def _check_on_error(on_error: object) -> None:
    if on_error not in ("raise", "skip"):
        raise InputError(f'on_error={shown(on_error)} must be "raise" or "skip".')
