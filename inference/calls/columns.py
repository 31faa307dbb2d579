"""Texts as Python has them: lists, columns of tables, arrays, generators, read without importing their libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from inference.calls.texts import Text, check_texts
from inference.errors import InputError

WINDOW = 1024  # texts sorted by length together: enough for batches of similar length, little memory
_Answer = TypeVar("_Answer")


def as_texts(texts: Any, pairs: bool) -> Text | list[Text]:
    """Return one text or one pair as it is, and many texts as a list. The texts themselves are not checked.

    Raises:
        InputError: as in `read_texts`.
    """
    given = read_texts(texts, pairs)
    return given if isinstance(given, str | tuple | list) else list(given)


def read_texts(texts: Any, pairs: bool) -> Text | Iterable[Text]:
    """Return one text or one pair as it is, and many texts as an iterable that is not read yet.

    A tuple of two strings is a pair for every model, so that a model that was loaded without `pairs=True` refuses it;
    a tuple of another length is several texts, unless the model takes pairs.

    Raises:
        InputError: not text, no order, or several columns.
    """
    if isinstance(texts, str | list):
        return texts
    if isinstance(texts, tuple):
        several = bool(texts) and (isinstance(texts[0], tuple) or (len(texts) != 2 and not pairs))
        return list(texts) if several else texts  # `check_texts` refuses other lengths
    kind = type(texts).__name__
    if isinstance(texts, np.ndarray):
        if texts.ndim > 1:
            raise InputError(
                f"texts is an array of shape {texts.shape}: pass one column, and pairs as a list of tuples."
            )
        values = texts.tolist()
        if texts.ndim == 0 and not isinstance(values, str):
            raise InputError(
                f"texts must be a string or a list of strings, not an array of one {type(values).__name__}."
            )
        return values  # type: ignore[no-any-return]
    # Looked up on the class: a Series has its row labels as attributes.
    if any(hasattr(type(texts), name) for name in ("columns", "column_names")):
        raise InputError(f'texts is a {kind}, a whole table: pass one of its columns, such as table["text"].')
    if isinstance(texts, set | frozenset):
        raise InputError(f"texts must be a string or a list of strings, not {kind}, which has no order.")
    if isinstance(texts, Mapping | bytes | bytearray | memoryview) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a string or a list of strings, not {kind}.")
    # The iteration of pyarrow gives scalars that are not strings.
    to_list = getattr(texts, "to_pylist", None) if hasattr(type(texts), "to_pylist") else None
    return to_list() if to_list else texts


def problems(texts: Sequence[Any], tokenize: Callable[[Sequence[Text]], object]) -> dict[int, str]:
    """Return the index of each text that cannot be classified with the others, and the reason."""
    reasons: dict[int, str] = {}
    of_pairs: bool | None = None
    for index, text in enumerate(texts):
        try:
            tokenize(check_texts([text]))
        except InputError as error:
            reasons[index] = str(error)
            continue
        if of_pairs is None:
            of_pairs = isinstance(text, tuple)
        elif of_pairs != isinstance(text, tuple):
            kinds = ("a single text", "a pair") if of_pairs else ("a pair", "a single text")
            reasons[index] = f"The text is {kinds[0]}, and others are {kinds[1]}: pass all in one form."
    return reasons


def windows(
    texts: Iterable[Text],
    answer: Callable[[list[Text]], list[_Answer]],
    problems: Callable[[list[Text]], Mapping[int, str]],
    skip: bool,
) -> Iterator[_Answer | None]:
    """Yield the answer of each text in order, from one window of texts after the other.

    Args:
        answer: raises InputError if it cannot read a text.
        problems: the texts that it cannot read, by their index.
        skip: the answer of such a text is None.

    Raises:
        InputError: naming the index of the first text that cannot be read, unless `skip`.
    """
    source, start = iter(texts), 0
    while window := list(islice(source, WINDOW)):
        reasons: Mapping[int, str] = {}
        try:
            answers = iter(answer(window))
        except InputError:
            reasons = problems(window)
            if not reasons:
                raise
            if not skip:
                first = min(reasons)
                raise InputError(
                    f'texts[{start + first}]: {reasons[first]} With on_error="skip", such texts have no prediction.'
                ) from None
            readable = [text for index, text in enumerate(window) if index not in reasons]
            answers = iter(answer(readable) if readable else [])
        for index in range(len(window)):
            yield None if index in reasons else next(answers)
        start += len(window)
