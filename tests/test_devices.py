"""GPUs and half precision as far as a CPU can tell; what only a GPU can is in test_gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import foreign
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Tiny
from fakes import feed

from inference import cpu, load
from inference.artifacts.cache import obtain
from inference.backends import LoadOptions, Logits, OutOfMemory, retry_in_smaller_batches
from inference.errors import InputError, MissingDependencyError
from inference.formats.bundle import Bundle
from inference.onnx import Graph
from inference.onnx.backend import CUDA, OnnxBackend, check_cuda
from inference.pytorch.backend import Buckets, TorchBackend
from inference.pytorch.huggingface import load_served
from inference.pytorch.network import best_dtype, cast_encoder, use_sdpa

TEXTS = ["it was fine", "a lamp", "so bad, the bus was so, so, so bad"]
Feed = dict[str, Any]


def tiny_network(tiny: Tiny) -> Any:
    return load_served(Bundle.read(tiny.folder), tiny.base)


class Small:
    """A forward pass with room for so many rows, as a GPU with little memory has it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: list[int] = []

    def __call__(self, input_ids: Any, attention_mask: Any) -> Logits:
        self.rows.append(len(input_ids))
        if len(input_ids) > self.most:
            raise OutOfMemory("full")
        return {"sum": (input_ids * attention_mask).sum(1, keepdims=True).astype(np.float32)}


def cuda_full() -> Any:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about it.")


@pytest.mark.parametrize(
    ("most", "rows"), [(100, [9]), (5, [9, 5, 4]), (3, [9, 5, 3, 3, 3]), (1, [9, 5, 3, 2, *[1] * 9])]
)
def test_a_batch_that_does_not_fit_is_answered_in_halves_in_its_order(most: int, rows: list[int]) -> None:
    given, small = feed(9, 6), Small(most)
    logits = retry_in_smaller_batches(small, **given)
    assert logits["sum"].ravel().tolist() == (given["input_ids"] * given["attention_mask"]).sum(1).tolist()
    assert small.rows == rows


def test_one_text_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OutOfMemory, match="full"):
        retry_in_smaller_batches(Small(0), **feed(4, 6))


class Cramped(torch.nn.Module):
    """A network that runs out of memory as CUDA does, above so many rows."""

    tasks = ("sentiment", "emotion")

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.fake = fakes.FakeBackend()

    def forward(self, input_ids: Any, attention_mask: Any) -> tuple[Any, ...]:
        if len(input_ids) > self.most:
            raise cuda_full()
        return tuple(map(torch.from_numpy, self.fake.logits(input_ids.numpy(), attention_mask.numpy()).values()))


def test_a_classifier_goes_on_with_smaller_batches_when_pytorch_runs_out_of_memory() -> None:
    texts = ["good", "bad sad", "glad good book", "cancel", "bad"] * 3
    expected = fakes.classifier().predict_all_tasks(texts)
    backend: Any = TorchBackend(Cramped(2))
    assert fakes.classifier(backend).predict_all_tasks(texts) == expected


def test_when_not_one_text_fits_device_auto_is_offered() -> None:
    with pytest.raises(OutOfMemory) as error:
        TorchBackend(Cramped(0)).logits(**feed(4, 6))
    assert "A text of 6 tokens does not fit" in str(error.value)
    assert "device='auto' (device_map=\"auto\")" in str(error.value)
    assert "Tried to allocate 2.00 GiB." in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_fit_is_an_error_that_offers_device_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Cramped(1)
    monkeypatch.setattr(network, "to", lambda *_: (_ for _ in ()).throw(cuda_full()))
    with pytest.raises(OutOfMemory, match=r"The model does not fit.*device='auto'"):
        TorchBackend(network)


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "compiled", "message"),
    [
        ("pytorch", "tpu", None, False, "Unknown device 'tpu'. Known: cpu, cuda, auto"),
        ("pytorch", "cuda", "int4", False, "Unknown dtype 'int4'"),
        ("int8", "cuda", None, False, "written for CPUs"),
        ("int8", "cpu", "float32", False, "whose types are fixed in its file"),
        ("onnx", "auto", None, False, "runs on one device"),
        ("onnx", "cuda", "bfloat16", False, "Use float32 or float16"),
        ("onnx", "cpu", "float16", False, "Use float32"),
        ("onnx", "cpu", None, True, "compile=True is for PyTorch"),
        ("pytorch", "auto", None, True, "compile=True is for PyTorch"),
        ("pytorch", "cpu", "float16", False, "Use float32 or bfloat16"),
    ],
)
def test_options_that_no_device_supports_are_refused_with_the_reason(
    backend: str, device: str, dtype: str | None, compiled: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LoadOptions(backend, device, dtype, compiled)


def test_bf16_is_refused_on_a_processor_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, has in (("avx2 avx512_bf16", True), ("fp asimd bf16", True), ("avx2 avx512f", False), ("", False)):
        monkeypatch.setattr(cpu, "_cpuinfo", lambda _, flags=flags: flags)
        assert cpu.has_bf16() == has
    with pytest.raises(InputError, match="no bfloat16 arithmetic"):
        LoadOptions("pytorch", "cpu", "bfloat16")
    LoadOptions("pytorch", "cuda", "bfloat16")


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes in bfloat16 on any processor; without the flag only more slowly."""
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)


@pytest.mark.usefixtures("bf16")
def test_bf16_answers_nearly_as_float32_and_in_float32(tiny: Tiny) -> None:
    expected = load(tiny.folder, base=tiny.base).predict_all_tasks(TEXTS)
    served = load(tiny.folder, base=tiny.base, dtype="bfloat16")
    assert {logits.dtype for logits in served.backend.logits(**feed(2, 8)).values()} == {np.dtype(np.float32)}
    for task, predictions in served.predict_all_tasks(TEXTS).items():
        assert [p.label for p in predictions] == [p.label for p in expected[task]]
        for one, other in zip(predictions, expected[task], strict=True):
            assert one.scores == pytest.approx(other.scores, abs=0.05)
            assert one.scores != other.scores


def test_a_bundles_heads_stay_in_float32(tiny: Tiny) -> None:
    network = tiny_network(tiny)
    cast_encoder(network, torch.bfloat16)
    assert {one.dtype for one in network.encoder.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in network.heads.parameters()} == {torch.float32}
    ids = torch.ones((1, 4), dtype=torch.int64)
    assert network.pooled(ids, ids).dtype == torch.float32


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("adapters", [0, 1, 2])
def test_other_peoples_models_are_served_in_bf16(adapters: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if adapters:
        base = foreign.base(tmp_path / "base")
        places = [folder / f"task{i}" for i in range(adapters)] if adapters > 1 else [folder]
        for seed, place in enumerate(places):
            foreign.adapter(place, base, seed=seed)
    else:
        foreign.classifier(folder)
    expected = load(folder).predict_all_tasks(foreign.TEXTS)
    answers = load(folder, dtype="bfloat16").predict_all_tasks(foreign.TEXTS)
    for task, predictions in answers.items():
        for one, other in zip(predictions, expected[task], strict=True):
            assert one.scores == pytest.approx(other.scores, abs=0.1)


def test_sdpa_answers_as_eager_does_and_only_a_gpu_takes_it(tiny: Tiny) -> None:
    network = tiny_network(tiny)
    given = feed(3, 12)
    backend = TorchBackend(network)
    assert network.config._attn_implementation == "eager"
    expected = backend.logits(**given)
    use_sdpa(network)
    assert network.config._attn_implementation == "sdpa"
    for task, logits in backend.logits(**given).items():
        assert logits == pytest.approx(expected[task], abs=1e-5)


def test_buckets_are_few_and_padded_as_the_model_wants_it() -> None:
    buckets = Buckets(max_tokens=48, pad_id=7)
    shapes = {
        buckets.fill(*feed(rows, tokens).values())[0].shape
        for rows in (1, 2, 3, 5, 8)
        for tokens in (1, 9, 16, 17, 33, 48)
    }
    assert shapes == {(rows, tokens) for rows in (1, 2, 4, 8) for tokens in (16, 32, 48)}
    assert len(shapes) <= buckets.graphs
    given = feed(3, 20)
    ids, mask = buckets.fill(*given.values())
    assert (ids[:3, :20] == given["input_ids"]).all()
    assert (ids[:, 20:] == 7).all()
    assert mask[:, 20:].sum() == 0
    assert (ids[3] == ids[0]).all()
    assert mask[3].sum() == 20  # no row without a token


@pytest.mark.slow
def test_a_compiled_network_answers_as_the_same_one_uncompiled_from_few_graphs(tiny: Tiny) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    plain = TorchBackend(tiny_network(tiny))
    compiled = TorchBackend(tiny_network(tiny), buckets=Buckets(24, 0, counter))  # type: ignore[arg-type]
    for rows, tokens in ((1, 4), (1, 9), (3, 12), (4, 16), (5, 3), (5, 20), (7, 24), (2, 30)):
        given = feed(rows, tokens)
        expected, logits = plain.logits(**given), compiled.logits(**given)
        for task in expected:
            assert logits[task].shape == expected[task].shape
            assert logits[task] == pytest.approx(expected[task], abs=1e-5)
    # Rows 1, 4 and 8 by 16 tokens, 8 rows by 24, and the one that is longer than was promised.
    assert counter.frame_count == 5


def test_compile_is_asked_for_by_load(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.append(options) or network)
    expected = load(tiny.folder, base=tiny.base).predict_all_tasks(TEXTS)
    predictions = load(tiny.folder, base=tiny.base, compile=True).predict_all_tasks(TEXTS)
    assert [one["backend"] for one in asked] == ["inductor"]
    for task in predictions:
        assert [p.label for p in predictions[task]] == [p.label for p in expected[task]]
        assert [p.confidence for p in predictions[task]] == pytest.approx(
            [p.confidence for p in expected[task]], abs=1e-5
        )


def test_adapters_that_are_switched_cannot_be_compiled(tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base")
    for seed in (0, 1):
        foreign.adapter(tmp_path / "model" / f"task{seed}", base, seed=seed)
    with pytest.raises(InputError, match="several adapters that are switched"):
        load(tmp_path / "model", compile=True)


@pytest.mark.parametrize("adapters", [0, 1])
def test_device_auto_spreads_other_peoples_models(adapters: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if adapters:
        foreign.adapter(folder, foreign.base(tmp_path / "base"))
    else:
        foreign.classifier(folder)
    expected = load(folder).predict_all_tasks(foreign.TEXTS)
    spread = load(folder, device="auto", dtype="float32")
    assert spread.backend.device == "auto"
    for task, predictions in spread.predict_all_tasks(foreign.TEXTS).items():
        assert [p.confidence for p in predictions] == pytest.approx([p.confidence for p in expected[task]], abs=1e-3)


def test_device_auto_is_not_for_bundles(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="tiny is a bundle"):
        load(tiny.folder, base=tiny.base, device="auto")


def test_default_dtype_is_float32_on_a_cpu_and_the_best_supported_one_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_dtype(torch.device("cpu")) == "float32"
    for has, dtype in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert best_dtype(torch.device("cuda")) == dtype


@pytest.fixture(scope="module")
def graph(tiny: Tiny) -> Graph:
    return obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base).read("onnx")


def test_onnx_on_a_gpu_wants_the_other_build_of_onnx_runtime(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="no CUDA provider.*pip install onnxruntime-gpu"):
        load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache, device="cuda")


def test_a_gpu_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    assert (check_cuda("cuda"), check_cuda("cuda:3")) == (0, 3)
    with pytest.raises(InputError, match="Unknown device 'cuda:x'"):
        check_cuda("cuda:x")


class Session:
    """A session of ONNX Runtime that says where it runs, and is full above so many rows."""

    asked: Any = None
    running_on = CUDA
    most = 2

    def __init__(self, model: bytes, options: Any, providers: Any) -> None:
        type(self).asked = providers
        self.model = model
        self._session = Session.real(model, options, providers=["CPUExecutionProvider"])
        self.fallback = True

    real = onnxruntime.InferenceSession

    def get_providers(self) -> list[str]:
        return [self.running_on, "CPUExecutionProvider"]

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, outputs: Any, given: Feed) -> Any:
        if len(given["input_ids"]) > self.most:
            raise RuntimeError("Non-zero status code: BFCArena: Failed to allocate memory for buffer of size 9")
        return self._session.run(outputs, given)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """ONNX Runtime as it is where onnxruntime-gpu is installed."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return Session


def test_onnx_on_a_gpu_is_float16_on_the_cuda_provider_with_no_way_back_to_the_cpu(
    tiny: Tiny, gpu_build: type[Session]
) -> None:
    served: Any = load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache, device="cuda:1").backend
    assert gpu_build.asked == [(CUDA, {"device_id": 1})]
    assert not served._session.fallback
    assert served.device == "cuda:1"
    full: Any = load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache, device="cuda", dtype="float32").backend
    assert len(served._session.model) < 0.7 * len(full._session.model)


def test_a_session_that_fell_back_to_the_cpu_is_refused(
    graph: Graph, gpu_build: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_build, "running_on", "CPUExecutionProvider")
    with pytest.raises(MissingDependencyError, match="could not start its CUDA provider"):
        OnnxBackend("onnx", graph, device="cuda")


def test_onnx_goes_on_with_smaller_batches_when_a_gpu_is_full(
    graph: Graph, gpu_build: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = feed(9, 7)
    backend = OnnxBackend("onnx", graph, device="cuda")
    answered = backend.logits(**given)
    expected = OnnxBackend("onnx", graph).logits
    for task, logits in answered.items():
        rows = [expected(given["input_ids"][i : i + 1], given["attention_mask"][i : i + 1])[task] for i in range(9)]
        assert logits == pytest.approx(np.concatenate(rows), abs=1e-4)
    monkeypatch.setattr(gpu_build, "most", 0)
    with pytest.raises(OutOfMemory, match=r"A text of 7 tokens does not fit.*device='auto'"):
        backend.logits(**given)
