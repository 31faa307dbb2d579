"""The ONNX and INT8 files of a bundle: built once per content, found by its hash, checked when read.

An artefact is a folder `<content>-<recipe>` in the cache. `<content>` hashes what the model is (weights,
adapter, config, tokenizer, labels); `<recipe>` hashes how it is built: the source of the export, its
texts, the versions of the libraries, and whether the processor wants 7-bit weights. Where those
libraries are installed both must match. Where they are not (ONNX Runtime alone), the newest folder with
the right content is taken: it could not be rebuilt there anyway.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference import cpu
from inference.bundle import Bundle, locate_base
from inference.errors import BundleError, ExportError, InferenceError, InputError, MissingDependencyError
from inference.files import check_digest, sha256

ASSETS = Path(__file__).resolve().parents[1] / "assets"
DEMO_MODEL = ASSETS / "models" / "demo"
SHOWCASE = ASSETS / "showcase.csv"  # texts of the parity check
CALIBRATION = ASSETS / "calibration.txt"  # texts that set the INT8 ranges; none of them is in the showcase
FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx"}
TOKENIZER = "tokenizer.json"
TOKENIZER_BYTES = 200_000_000
MANIFEST = "manifest.json"
TOOLS = ("torch", "transformers", "peft", "onnx", "onnxruntime")
# Their source is the recipe, the last two that of the parity report: a change of it makes a new artefact.
RECIPE = ("network.py", "sequence.py", "export.py", "quantize.py", "parity.py", "classifier.py")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Artifact:
    """A built folder and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    def read(self, backend: str) -> bytes:
        """The bytes of the model for "onnx" or "int8", equal to those that were built.

        Raises:
            BundleError: the file is missing or was altered.
        """
        return self._verified(FILES[backend])

    def tokenizer_file(self) -> Path:
        """Path of the tokenizer, checked like a model file."""
        self._verified(TOKENIZER)
        return self.folder / TOKENIZER

    def size_bytes(self, backend: str) -> int:
        return int(self.manifest["files"][FILES[backend]]["size_bytes"])

    @property
    def parity(self) -> dict[str, Any]:
        """What `inference.parity.report` found right after the build."""
        return dict(self.manifest["parity"])

    def _verified(self, name: str) -> bytes:
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            raise BundleError(f"{self.folder / name} is missing. {_REBUILD}") from None
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise BundleError(f"{self.folder / name} is damaged: its SHA-256 is not the one recorded. {_REBUILD}")
        return data


_REBUILD = "Build it again: python -m inference build --model (its folder)"


def default_cache() -> Path:
    """Where artefacts go unless the caller says otherwise: `triptych` in the user's cache folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triptych"
    except RuntimeError:
        raise InputError("This user has no home folder to keep built files in. Name a cache folder.") from None


def content_key(bundle: Bundle) -> str:
    """Hash of everything that determines what the built files must compute, as the bundle names it.

    The files themselves are not opened: ONNX and INT8 are served without them, and a build verifies them.
    """
    return _digest(
        {
            "files": dict(bundle.files),
            "base": dict(bundle.base.files) if bundle.base else None,
            "tasks": {name: [task.labels, task.problem_type] for name, task in bundle.tasks.items()},
            "pooling": bundle.pooling,
            "max_tokens": bundle.max_tokens,
            "four_bit": bundle.four_bit,
        }
    )


def tool_versions() -> dict[str, str]:
    """Versions of the libraries a build uses, of those that are installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _recipe_key() -> str:
    sources = [*(Path(__file__).parent / name for name in RECIPE), CALIBRATION, SHOWCASE]
    return _digest(
        {
            "sources": {path.name: sha256(path) for path in sources},
            "tools": tool_versions(),
            # A processor without VNNI gets weights of 7 bits: another file, though all else is the same.
            "reduce_range": cpu.saturates(),
        }
    )


def can_build() -> bool:
    """Whether every library that a build needs is installed."""
    return len(tool_versions()) == len(TOOLS)


def find(bundle: Bundle, cache: Path) -> Artifact | None:
    """The artefact of this bundle if it was built here, else None. Its files are checked when read."""
    content = content_key(bundle)
    if can_build():
        candidates = [cache / f"{content}-{_recipe_key()}"]
    else:
        finished = [path for path in cache.glob(f"{content}-*/{MANIFEST}") if ".tmp-" not in path.parent.name]
        finished.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        candidates = [path.parent for path in finished]
    for folder in candidates:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if set(manifest["files"]) != {*FILES.values(), TOKENIZER}:
                continue
            if manifest["reduce_range"] or not cpu.saturates():  # else INT8 would clip on this processor
                return Artifact(folder, manifest)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no manifest that can be read: not an artefact
    return None


def obtain(bundle: Bundle, cache: Path, progress: Progress | None = None, base: Path | None = None) -> Artifact:
    """The artefact of this bundle, built first if it is missing or damaged.

    Any number of processes may call this at once: one builds, the others wait and take the result.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: the build failed or its result does not agree with PyTorch.
        MissingDependencyError: a build is needed and its libraries are not installed.
    """
    found = find(bundle, cache)
    if found is not None and (not can_build() or _intact(found)):
        return found  # damaged but not to be mended here: reading it says what is wrong
    if not can_build():
        missing = ", ".join(sorted(set(TOOLS) - set(tool_versions())))
        raise MissingDependencyError(
            f"No ONNX or INT8 model was built for {bundle.folder} and this processor (looked in {cache}), and "
            f"building one needs {missing}. "
            f"Build it where requirements.txt is installed (python -m inference build --model {bundle.folder}) and "
            "copy that folder here."
        )
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"Built files cannot be kept in {cache}: {error.strerror}. Name another folder as cache."
        ) from None
    target = cache / f"{content_key(bundle)}-{_recipe_key()}"
    with FileLock(f"{target}.lock"):
        found = find(bundle, cache)
        if found is not None and _intact(found):
            return found
        for stray in cache.glob(f"{target.name}.tmp-*"):  # left by a build that was killed; we hold its lock
            shutil.rmtree(stray, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache))
        try:
            _build(bundle, folder, progress or (lambda step, share: None), base)
            folder.chmod(0o755)  # mkdtemp keeps others out; what is built as root is served as somebody else
            shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been returned
            folder.replace(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    built = find(bundle, cache)
    if built is None:
        raise ExportError(f"The artefact vanished from {target} right after it was built.")
    return built


def _intact(artifact: Artifact) -> bool:
    try:
        for name, entry in artifact.manifest["files"].items():
            check_digest(artifact.folder / name, entry["sha256"], _REBUILD)
    except (BundleError, KeyError, TypeError):
        return False
    return True


def _build(bundle: Bundle, folder: Path, progress: Progress, base: Path | None) -> None:
    from inference import parity
    from inference.classifier import Classifier, pad
    from inference.export import export_onnx
    from inference.onnx_backend import OnnxBackend
    from inference.quantize import quantize
    from inference.sequence import load_merged, load_served
    from inference.torch_backend import TorchBackend

    started = time.perf_counter()
    threads = cpu.cores()
    progress("loading the model in PyTorch", 0.0)
    network = load_served(bundle, base)
    tokenizer_file = folder / TOKENIZER
    write_tokenizer(bundle, tokenizer_file, base)

    def classifier(backend: Any) -> Classifier:
        return Classifier(bundle, backend, read_tokenizer(bundle, tokenizer_file))

    reference = classifier(TorchBackend(network, tokenizer_file, threads=threads))
    progress("exporting to ONNX", 0.1)
    plain = load_merged(bundle, base) if hasattr(network, "switches") else network
    fused = export_onnx(plain, folder / FILES["onnx"])
    progress("quantising to INT8", 0.3)
    texts = CALIBRATION.read_text(encoding="utf-8").splitlines()
    feeds = [pad([ids]) for ids in reference.tokenize(texts).ids]
    quantized = quantize(folder / FILES["onnx"], folder / FILES["int8"], feeds, reduce_range=cpu.saturates())
    progress("comparing the three on the showcase", 0.6)
    built = [
        classifier(OnnxBackend(name, (folder / file).read_bytes(), tokenizer_file, threads=threads))
        for name, file in FILES.items()
    ]
    found = parity.report(reference, built, showcase_texts())
    exact = found["backends"]["onnx"]
    if exact["max_abs_dp"] > parity.FP32_TOLERANCE or exact["label_agreement"] < 1:
        raise ExportError(
            f"The ONNX model does not agree with PyTorch: largest |Δprobability| {exact['max_abs_dp']:.1e} (allowed "
            f"{parity.FP32_TOLERANCE:.0e}), equal labels {exact['label_agreement']:.2%}. It was not kept."
        )
    flips = found["backends"]["int8"]["batch_flips"]
    if flips:
        raise ExportError(
            f"{flips} INT8 labels depend on the texts beside them, which INT8 here never may. It was not kept."
        )
    manifest = {
        "model": bundle.name,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build_seconds": round(time.perf_counter() - started, 1),
        "tools": tool_versions(),
        "reduce_range": cpu.saturates(),
        "fused": fused,
        "quantized": quantized,
        "parity": found,
        "files": {
            name: {"sha256": sha256(folder / name), "size_bytes": (folder / name).stat().st_size}
            for name in [*FILES.values(), TOKENIZER]
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in folder.iterdir():  # on disk before the rename makes them visible
        _sync(path)
    _sync(folder)
    progress("done", 1.0)


def tokenizer_source(bundle: Bundle, base: Path | None = None) -> Path:
    """The folder whose tokenizer prepares the texts of this model: its own where it has one, else its base's."""
    own = (
        bundle.folder
        if any(name.startswith(("tokenizer", "vocab", "spiece", "spm")) for name in bundle.files)
        else None
    )
    if own or bundle.base is None:
        return own or bundle.folder
    return locate_base(bundle.base, base)


def write_tokenizer(bundle: Bundle, target: Path, base: Path | None = None) -> None:
    """Put the model's tokenizer into the file `target`, converted where it is in an older format.

    Raises:
        BundleError: there is none that can be read.
    """
    source = tokenizer_source(bundle, base)
    if (source / TOKENIZER).is_file():
        shutil.copyfile(source / TOKENIZER, target)
        return
    from inference.sequence import convert_tokenizer

    target.write_text(convert_tokenizer(source), encoding="utf-8")


def read_tokenizer(bundle: Bundle, path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        BundleError: it cannot be read, or knows more tokens than the model has embeddings.
    """
    if path.stat().st_size > TOKENIZER_BYTES:
        raise BundleError(f"{path} has {path.stat().st_size:,} bytes; {TOKENIZER_BYTES:,} are the most. Restore it.")
    try:
        found = Tokenizer.from_file(str(path))
        size = found.get_vocab_size(with_added_tokens=False)  # an added [MASK] never comes out of a text
    except BaseException as error:  # the Rust library panics on some of what it cannot read, past Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise BundleError(f"{path} is no tokenizer that can be read ({str(error)[:200]}). Restore it.") from None
    if bundle.vocab_size is not None and size > bundle.vocab_size:
        raise BundleError(
            f"The tokenizer of {bundle.folder} knows {size:,} tokens, and the model has embeddings for "
            f"{bundle.vocab_size:,}. It belongs to another model: put the right one there."
        )
    return found


def model_sizes(bundle: Bundle, artifact: Artifact | None, base: Path | None = None) -> dict[str, int]:
    """Bytes of the weight files that each backend reads, of the backends whose files are here."""
    sizes: dict[str, int] = {}
    try:
        paths = bundle.paths(base, offline=True)
        sizes["pytorch"] = sum(
            path.stat().st_size for name, path in paths.items() if name in bundle.files or name.endswith(".safetensors")
        )
    except (InferenceError, OSError):
        pass  # ONNX and INT8 are served without the base
    if artifact:
        sizes.update({name: artifact.size_bytes(name) for name in FILES})
    return sizes


def showcase_texts() -> list[str]:
    """The texts of the showcase, in file order."""
    with SHOWCASE.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def _sync(path: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and a read-only handle cannot be flushed
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
