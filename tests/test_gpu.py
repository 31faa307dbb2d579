"""What only a GPU can show. Everything here is skipped where there is none.

On a machine with one: install a torch built for its CUDA, and onnxruntime-gpu in place of onnxruntime, then
python -m pytest tests/test_gpu.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from inference import load
from inference.assets import showcase_texts
from inference.errors import InputError
from inference.onnx.backend import CUDA
from inference.pytorch.backend import TorchBackend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU here"),
]
onnx_on_gpu = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers(), reason="the ONNX Runtime here has no CUDA provider"
)
NEAR = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # of a probability; on a GPU float32 may be TF32


def scores(predictions: Any) -> Any:
    """Probabilities of all tasks, a row per text."""
    return np.concatenate([[list(p.scores.values()) for p in rows] for rows in predictions.values()], axis=1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return showcase_texts()[:64]


@pytest.fixture(scope="module")
def expected(demo: Path, texts: list[str]) -> Any:
    return scores(load(demo).predict_all_tasks(texts))


@pytest.mark.parametrize("dtype", NEAR)
def test_pytorch_answers_on_a_gpu_as_on_the_cpu(demo: Path, texts: list[str], expected: Any, dtype: str) -> None:
    served = load(demo, device="cuda", dtype=dtype)
    assert np.abs(scores(served.predict_all_tasks(texts)) - expected).max() < NEAR[dtype]


def test_attention_is_sdpa_and_half_precision_the_default(demo: Path) -> None:
    backend: Any = load(demo, device="cuda").backend
    assert backend._network.config._attn_implementation == "sdpa"
    assert {one.dtype for one in backend._network.encoder.parameters()} <= {torch.bfloat16, torch.float16}
    assert {one.device.type for one in backend._network.parameters()} == {"cuda"}


def test_a_compiled_network_answers_the_same_on_a_gpu(demo: Path, texts: list[str], expected: Any) -> None:
    served = load(demo, device="cuda", dtype="float16", compile=True)
    assert np.abs(scores(served.predict_all_tasks(texts[:8])) - expected[:8]).max() < NEAR["float16"]


def test_no_work_is_left_on_the_gpu_when_logits_are_there(demo: Path) -> None:
    ids = np.full((64, 128), 2003)
    backend = load(demo, device="cuda").backend
    backend.logits(ids, np.ones_like(ids))
    assert torch.cuda.current_stream().query()


def test_a_batch_beyond_the_memory_is_answered_in_halves(demo: Path, texts: list[str], expected: Any) -> None:
    served = load(demo, device="cuda", dtype="float32", batch_size=4096, token_budget=2**24)
    served.classify(texts)
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 2**28) / total)
    try:
        answers = scores(served.predict_all_tasks(texts * 64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.abs(answers[:64] - expected).max() < NEAR["float32"]
    assert np.abs(answers[-64:] - expected).max() < NEAR["float32"]


def test_a_gpu_that_is_not_there_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="from cuda:0"):
        load(demo, device="cuda:99")


def test_device_auto_uses_the_gpu(tmp_path: Path) -> None:
    import foreign

    folder = foreign.classifier(tmp_path / "model")
    before = load(folder).predict(foreign.TEXTS)
    served = load(folder, device="auto", dtype="float32")
    assert isinstance(served.backend, TorchBackend)
    predictions = served.predict(foreign.TEXTS)
    assert [p.confidence for p in predictions] == pytest.approx([p.confidence for p in before], abs=1e-3)


@onnx_on_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_onnx_answers_on_a_gpu_as_pytorch_on_the_cpu(
    demo: Path, demo_cache: Path, texts: list[str], expected: Any, dtype: str
) -> None:
    served = load(demo, "onnx", device="cuda", dtype=dtype, cache=demo_cache)
    assert np.abs(scores(served.predict_all_tasks(texts)) - expected).max() < NEAR[dtype]
