"""Who answers the blocks of a file: one thread of this process, or processes that each hold a model of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from inference.classifier import Classifier
from inference.errors import InferenceError
from inference.score.annotate import Answers, Wanted, answer

Opener = Callable[[], Classifier]
"""Opens the model. It travels to other processes, so it is a function of a module, or `functools.partial` of one."""
Submit = Callable[[Sequence[Any]], "Future[Answers]"]

_opened: Classifier | None = None  # the model of a worker process


@contextmanager
def answering(open_one: Opener, wanted: Wanted, workers: int) -> Iterator[Submit]:
    """A function that takes texts and promises their answers. The model is opened when the first texts come.

    Args:
        workers: 1 answers in a thread of this process, so that reading and writing go on meanwhile.

    Raises:
        InferenceError: a worker process was ended by somebody else. Asking for texts to be answered says so, and so
            does waiting for their answers within the block.
    """
    if workers == 1:
        opened: list[Classifier] = []

        def here(texts: Sequence[Any]) -> Answers:
            if not opened:
                opened.append(open_one())
            return answer(opened[0], texts, wanted)

        with _ending(ThreadPoolExecutor(1)) as pool:
            yield lambda texts: pool.submit(here, texts)
        return
    # Spawned: a runtime that has threads does not survive a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with _ending(ProcessPoolExecutor(workers, context, initializer=_start)) as pool:
        try:
            yield lambda texts: pool.submit(_there, open_one, texts, wanted)
        except BaseException as error:
            # What they have at hand nobody will keep, and it may take them half a minute.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise InferenceError(
                    "A worker process was ended from outside, perhaps because memory was short. The same command goes "
                    "on from here; take fewer --workers."
                ) from None
            raise


@contextmanager
def _ending(pool: Executor) -> Iterator[Executor]:
    """The pool; where the block raises, what has not begun is not begun any more."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started us ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed and can end nobody


def _there(open_one: Opener, texts: Sequence[Any], wanted: Wanted) -> Answers:
    global _opened
    if _opened is None:
        _opened = open_one()
    return answer(_opened, texts, wanted)
