"""PyTorch on ZeroGPU, the Hub's hardware that lends a GPU for a call.

Its package `spaces` runs a decorated function in a forked process, where alone there is a GPU: arguments and result are
pickled. It starts up in `gr.Blocks.launch`, which a mounted page never calls. A launch would also open port 7887, which
writes and runs code that it receives, so the start-up is called here.
"""

from __future__ import annotations

import copy
import importlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
import numpy as np
from gradio.context import LocalContext
from numpy.typing import NDArray

from inference import Answer, InferenceError
from inference.backends import Logits
from inference.calls.texts import Text
from inference.classifier import Threshold
from inference.errors import MissingDependencyError
from inference.loading import Models, check_question

if TYPE_CHECKING:
    from inference.pytorch.backend import TorchBackend

PYTORCH, DEVICE = "pytorch", "cuda"
DURATION_S = 15  # asked of the visitor's quota for an answer: a first one also starts CUDA and moves the weights
WAIT_S = 3.0  # for the answer of somebody else on the GPU; then the CPU answers
MAX_REASON_CHARS = 300
REQUIREMENTS = (
    "requirements.txt must have spaces==0.51.3 and a torch with CUDA, so not the index of torch for CPUs. Or choose "
    "other hardware for the Space."
)
INFO = (
    "The details of PyTorch are computed on a GPU in half precision if ZeroGPU lends one. The answers side by side, "
    "explanations, files, the dashboard and the API come from the CPU, in float32."
)
_log = logging.getLogger(__name__)


def import_spaces() -> None:
    """Import `spaces`, which must come before anything asks torch for a GPU.

    Raises:
        InferenceError: it is missing, or does not start.
    """
    # In a thread of its own: in the one that imports it, `spaces` also changes what every operation of torch does.
    with ThreadPoolExecutor(1) as importing:
        error = importing.submit(importlib.import_module, "spaces").exception()
    if isinstance(error, ImportError):
        raise MissingDependencyError(f"ZeroGPU needs the package spaces ({error}). {REQUIREMENTS}") from None
    if error is not None:
        message = f"The package spaces does not start ({type(error).__name__}: {error}). {REQUIREMENTS}"
        raise InferenceError(message) from None


def start(models: Models, port: int) -> LentGpu | None:
    """Let `spaces` start up; return what answers the page, or None if the model has nothing that runs on a GPU.

    Args:
        port: the server's.

    Raises:
        InferenceError: the Hub's service for GPUs does not answer.
    """
    import spaces
    import spaces.zero

    lends = PYTORCH in models.bundle.backends and not models.bundle.four_bit
    gpu = _Gpu(spaces.GPU(duration=DURATION_S), cast(Any, models.get(PYTORCH).backend) if lends else None, port)
    try:
        spaces.zero.startup()
    except Exception as error:  # HTTP's, and RuntimeError
        raise InferenceError(f"ZeroGPU does not answer ({type(error).__name__}: {error}). Restart the Space.") from None
    return LentGpu(models, gpu) if lends else None


class NoGpuError(InferenceError):
    """No GPU was lent. The message is the reason, without a full stop."""


class LentGpu:
    """Answers with PyTorch on a GPU that is lent for the answer, else on the CPU; the note of an answer says which."""

    def __init__(self, models: Models, gpu: _Gpu) -> None:
        self._models = models
        self._gpu = gpu
        self._turn = threading.Lock()
        self._classifier = copy.copy(models.get(PYTORCH))
        self._classifier.backend = gpu

    def answer(
        self, text: Text, backend: str, threshold: Threshold, is_wanted: Callable[[], bool] = lambda: True
    ) -> Answer:
        """Do as `Models.answer`."""
        if backend != PYTORCH:
            return self._models.answer(text, backend, threshold, is_wanted)
        check_question(text, threshold)
        reason = "it is busy with another answer"
        if self._turn.acquire(timeout=WAIT_S):
            try:
                answer = self._classifier.classify(text, threshold=threshold)
                note = f"On a GPU in {self._gpu.dtype}, lent by ZeroGPU; the forward pass includes the wait for it."
                return replace(answer, note=note)
            except NoGpuError as error:
                reason = str(error)
            finally:
                self._turn.release()
        answer = self._models.answer(text, backend, threshold, is_wanted)
        return replace(answer, note=f"On the CPU in float32, because ZeroGPU lent no GPU: {reason}.")


class _Gpu:
    """The backend on a GPU that is lent for each pass.

    Args:
        decorate: `spaces.GPU`. Something must be decorated, or the Hub stops the Space.
        cpu: the network on the CPU, which the forked process moves to its GPU; None if nothing is lent.
    """

    name = PYTORCH
    device = DEVICE

    def __init__(self, decorate: Callable[[Any], Any], cpu: TorchBackend | None, port: int) -> None:
        self.dtype = "half precision"
        self.threads = cpu.threads if cpu else 1
        self._cpu = cpu
        self._server = SimpleNamespace(config=SimpleNamespace(port=port))
        self._moved: TorchBackend | None = None  # in the forked process
        self._lend = decorate(self._forward)

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> Logits:
        """Return what `Backend.logits` does.

        Raises:
            NoGpuError: no GPU was lent, or the forked process failed.
        """
        # The forked process closes the connections of this port: otherwise they would stay open when the server
        # closes them. A launch would note it.
        if (page := LocalContext.blocks.get(None)) is not None:
            page.server = self._server
        logits: Logits
        try:
            self.dtype, logits = self._lend(input_ids, attention_mask, token_type_ids)
        except Exception as error:  # Gradio's, those of HTTP and pickle, and RuntimeError
            _log.warning("ZeroGPU lent no GPU: %s: %s", type(error).__name__, error)
            raise NoGpuError(_reason(error)) from error
        return logits

    def single_threaded(self) -> None:
        """Return None, as `Backend.single_threaded`: passes run one after the other."""

    def _forward(self, *inputs: NDArray[np.int64] | None) -> tuple[str, Logits]:
        """Return the dtype and the logits; runs in the forked process."""
        import torch

        from inference.pytorch.backend import TorchBackend
        from inference.pytorch.network import best_dtype

        assert self._cpu is not None
        dtype = best_dtype(torch.device(DEVICE))
        if self._moved is None:  # in this process only: the server's own weights stay on the CPU
            self._moved = TorchBackend(self._cpu.network, DEVICE, self.threads, dtype=dtype)
        return dtype, self._moved.logits(*inputs)  # type: ignore[arg-type]


def _reason(error: Exception) -> str:
    """Return the reason in one short line: what Gradio would show to the visitor, else only the kind of error."""
    if not isinstance(error, gr.Error):
        return f"{type(error).__name__}"
    title = getattr(error, "title", "Error")
    text = str(error.message) if title == "Error" else f"{title}: {error.message!s}"
    return " ".join(text.split())[:MAX_REASON_CHARS].rstrip(".")
