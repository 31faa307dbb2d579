"""`load`: from a model folder and a backend's name to a `Classifier`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from inference import cpu
from inference.artifacts import content_key, default_cache, obtain
from inference.backends import Backend, check_backend
from inference.building import FILES, Progress
from inference.bundle import Bundle, Task
from inference.classifier import Classifier
from inference.errors import InputError, MissingDependencyError
from inference.formats import describe
from inference.tokenizer import TOKENIZER, read_tokenizer, tokenizer_source, write_tokenizer

# Texts and tokens per forward pass: a CPU is busy with little, a GPU wants to be fed.
BATCHING = {"cpu": (32, 2048), "cuda": (256, 65_536)}


def load(
    model: str | Path,
    backend: str = "pytorch",
    *,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    token_budget: int | None = None,
    base: str | Path | None = None,
    load_in_4bit: bool = False,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """The model in a folder or with a Hub id, ready to answer on the backend named.

    "onnx" and "int8" are built first where they are not in the cache yet (under a minute).

    Args:
        backend: "pytorch", "onnx" or "int8".
        device: "cpu", or for "pytorch" also "cuda".
        threads: CPU threads of one forward pass; all cores this process may use if left out.
        batch_size: texts per forward pass at most (32 on a CPU, 256 on a GPU).
        token_budget: tokens per forward pass at most, padding included (2,048 / 65,536).
        base: folder of the base model, where it is neither in a wheel nor in the Hugging Face cache.
        load_in_4bit: hold the base of an adapter in 4-bit NF4, as QLoRA trained it; ONNX is made of it dequantised.
        cache: folder of built artefacts; `~/.cache/triptych` if left out.
        progress: called with the step and the share done while a build runs.

    Raises:
        InputError: unknown backend or device, or a number out of range.
        BundleError: the folder is no model, is damaged, or its base is missing or of other bytes.
        ExportError: the build failed, or its result does not agree with PyTorch.
        MissingDependencyError: naming the library and how to install it.
    """
    check_backend(backend)
    kind = device.partition(":")[0]
    if kind not in BATCHING:
        raise InputError(f"Unknown device {device!r}. Known: {', '.join(BATCHING)}.")
    if kind != "cpu" and backend != "pytorch":
        raise InputError(f"device={device!r} is not served by backend {backend!r}: it runs on device='cpu'.")
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads} must be at least 1.")
    base = Path(base) if base is not None else None
    bundle = describe(model, base, four_bit=load_in_4bit)
    check_backend(backend, bundle.backends)
    opened = _open(
        bundle, backend, device, threads or cpu.cores(), base, Path(cache) if cache else default_cache(), progress
    )
    texts, tokens = BATCHING[kind]
    return Classifier(
        bundle,
        opened,
        read_tokenizer(bundle, opened.tokenizer_file),
        texts if batch_size is None else batch_size,
        tokens if token_budget is None else token_budget,
        exporter=partial(_export, bundle, base, Path(cache) if cache else default_cache(), progress),
    )


def _open(
    bundle: Bundle, backend: str, device: str, threads: int, base: Path | None, cache: Path, progress: Progress | None
) -> Backend:
    # The runtimes are imported here and not above: each is seconds of start-up, and ONNX runs without torch.
    try:
        if backend == "pytorch":
            from inference.sequence import load_served
            from inference.torch_backend import TorchBackend

            network = load_served(bundle, base, device)
            return TorchBackend(network, _tokenizer_file(bundle, base, cache), device, threads)
        from inference.onnx_backend import OnnxBackend
    except ImportError as error:
        raise MissingDependencyError(
            f"Backend {backend!r} needs the library {error.name!r}, which is not installed or broken ({error}). "
            f"Install it: pip install -r {'requirements.txt' if backend == 'pytorch' else 'requirements-onnx.txt'}"
        ) from error
    artifact = obtain(bundle, cache, progress, base)
    return OnnxBackend(backend, artifact.read(backend), artifact.tokenizer_file(), threads)


def _export(
    bundle: Bundle,
    base: Path | None,
    cache: Path,
    progress: Progress | None,
    path: Path,
    tasks: Mapping[str, Task],
    quantize: bool,
    external_data: bool | None,
) -> list[Path]:
    try:
        from inference.onnx_files import export_files
    except ImportError as error:
        raise MissingDependencyError(
            f"Exporting needs the library {error.name!r}. Install it: pip install -r requirements.txt"
        ) from error
    artifact = obtain(bundle, cache, progress, base)
    artifact.verify()
    return export_files(
        artifact.folder / FILES["onnx"],
        artifact.tokenizer_file(),
        path,
        tasks,
        bundle.max_tokens,
        bundle.pad_id,
        int8=artifact.folder / FILES["int8"] if quantize else None,
        external_data=external_data,
    )


def _tokenizer_file(bundle: Bundle, base: Path | None, cache: Path) -> Path:
    """The tokenizer's file, converted into the cache where the model has it in an older format."""
    found = tokenizer_source(bundle, base) / TOKENIZER
    if found.is_file():
        return found
    converted = cache / "tokenizers" / f"{content_key(bundle)}.json"
    if not converted.is_file():
        converted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=converted.parent) as folder:
            write_tokenizer(bundle, Path(folder) / TOKENIZER, base)
            (Path(folder) / TOKENIZER).replace(converted)
    return converted
