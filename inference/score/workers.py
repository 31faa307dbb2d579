"""Answer blocks in one thread of this process, or in processes that each hold their own model."""

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
from inference.formats.files import Remembered, digests, remember
from inference.score.annotate import AnswerOptions, Answers, answer

Opener = Callable[[], Classifier]
"""Opens the model. It is sent to other processes, so it is a module's function or a `functools.partial` of one."""
Submit = Callable[[Sequence[Any]], "Future[Answers]"]

_opened: Classifier | None = None  # the model of a worker process


@contextmanager
def answering(open_one: Opener, options: AnswerOptions, workers: int) -> Iterator[Submit]:
    """Yield a function that takes texts and returns a future of their answers. The first texts open the model.

    Args:
        workers: with 1, texts are answered in a thread of this process, while others are read and written.

    Raises:
        InferenceError: a worker process was killed; raised by the function, or by a future within the block.
    """
    if workers == 1:
        opened: list[Classifier] = []

        def here(texts: Sequence[Any]) -> Answers:
            if not opened:
                opened.append(open_one())
            return answer(opened[0], texts, options)

        with _ending(ThreadPoolExecutor(1)) as pool:
            yield lambda texts: pool.submit(here, texts)
        return
    # Spawned: a runtime that has threads does not survive a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with _ending(ProcessPoolExecutor(workers, context, initializer=_start, initargs=(digests(),))) as pool:
        try:
            yield lambda texts: pool.submit(_there, open_one, texts, options)
        except BaseException as error:
            # Nobody needs their answers, which may take half a minute.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise InferenceError(
                    "A worker process was killed, perhaps for lack of memory. The same command with fewer "
                    "--workers continues from here."
                ) from None
            raise


@contextmanager
def _ending(pool: Executor) -> Iterator[Executor]:
    """Yield the pool; at the end, cancel what has not started."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start(known: Remembered) -> None:
    remember(known)  # or each process would hash these files again before its first text
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent process ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the parent was killed and cannot end this process


def _there(open_one: Opener, texts: Sequence[Any], options: AnswerOptions) -> Answers:
    global _opened
    if _opened is None:
        _opened = open_one()
    return answer(_opened, texts, options)
