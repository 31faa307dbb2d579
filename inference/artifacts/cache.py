"""The ONNX and INT8 files of a bundle: built once per content, found by its hash, verified when read.

An artefact is a folder `<content>-<recipe>` in the cache. `<content>` hashes the model itself (weights, adapter,
config, tokenizer, labels); `<recipe>` hashes how it is built: the source of the export, its texts, the versions of the
libraries, and whether the processor needs 7-bit weights. If those libraries are installed, both must match. If not
(ONNX Runtime alone), the newest folder with the right content is used: it could not be rebuilt there anyway.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import cpu
from inference.artifacts.build import build
from inference.artifacts.manifest import MANIFEST, REBUILD, read_manifest, write_manifest
from inference.assets import CALIBRATION, SHOWCASE
from inference.backends import RUNTIMES
from inference.errors import (
    BundleError,
    ExportError,
    InferenceError,
    InputError,
    MissingDependencyError,
    importing,
)
from inference.formats.bundle import Bundle
from inference.formats.files import check_digest, sha256, sync
from inference.formats.identity import check_same, content_key, digest
from inference.formats.tokenizer import TOKENIZER
from inference.jobs import Progress

if TYPE_CHECKING:
    from inference.onnx import Graph

log = logging.getLogger(__name__)

NAME_CACHE = "Name another folder with --cache or XDG_CACHE_HOME."
TOOLS = ("torch", "transformers", "peft", "onnx", "onnxruntime")
TOKENIZER_TOOLS = ("tokenizers", "sentencepiece")  # another version can read the same files differently
# The source that the files depend on, and the parity report (the last two): a change of it makes a new artefact.
RECIPE = (
    "artifacts/build.py",
    "assets.py",
    "formats/architectures.py",
    "formats/tokenizer.py",
    "onnx/backend.py",
    "onnx/io.py",
    "pytorch/backend.py",
    "pytorch/network.py",
    "pytorch/huggingface.py",
    "pytorch/proof.py",
    "onnx/export.py",
    "onnx/join.py",
    "onnx/graph.py",
    "onnx/weights.py",
    "onnx/quantize.py",
    "onnx/recipes.py",
    "artifacts/parity.py",
    "classifier.py",
    "calls/texts.py",
)


@dataclass(frozen=True)
class Artifact:
    """A built folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    def read(self, backend: str) -> Graph:
        """Read the model for "onnx" or "int8"; the bytes that were verified are the bytes that run."""
        from inference.onnx import Graph

        if backend in self.missing:
            raise ExportError(f"This model has no {RUNTIMES[backend].title}: {self.missing[backend]}")
        path = self.folder / RUNTIMES[backend].file
        digests = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        if f"{path.stem}_weights.bin" in digests:
            with importing("A model above 2 GB", "-r requirements-onnx.txt"):
                from inference.onnx.io import read_graph
            return read_graph(path, self.folder, digests)
        try:
            data = path.read_bytes()
        except OSError:
            raise BundleError(f"{path} is missing. {REBUILD}") from None
        if hashlib.sha256(data).hexdigest() != digests[path.name]:
            raise BundleError(f"{path} is damaged: its SHA-256 is not the one recorded. {REBUILD}")
        return Graph(data)

    @property
    def missing(self) -> dict[str, str]:
        """The runtimes for which the build made no file that answers as PyTorch does, and the reasons."""
        return dict(self.manifest.get("missing", {}))

    def served(self, bundle: Bundle) -> Bundle:
        """Return the bundle with the runtimes that it has files for."""
        backends = tuple(name for name in bundle.backends if name not in self.missing)
        return replace(bundle, backends=backends, missing=self.missing)

    def tokenizer_file(self) -> Path:
        """Return the path of the tokenizer, verified."""
        self._verify(TOKENIZER)
        return self.folder / TOKENIZER

    def verify(self) -> None:
        """Raise BundleError if a file is missing or was altered."""
        for name in self.manifest["files"]:
            self._verify(name)

    def _verify(self, name: str) -> None:
        check_digest(self.folder / name, self.manifest["files"][name]["sha256"], REBUILD)

    def size_bytes(self, backend: str) -> int:
        names = (RUNTIMES[backend].file, f"{Path(RUNTIMES[backend].file).stem}_weights.bin")
        return sum(int(self.manifest["files"][name]["size_bytes"]) for name in names if name in self.manifest["files"])

    @property
    def parity(self) -> dict[str, Any]:
        """How far ONNX and INT8 agreed after the build: `texts`, `reference`, `backends` as from `parity.judge`."""
        return dict(self.manifest["parity"])


def default_cache() -> Path:
    """Return the default folder of artefacts: `triptych` in the user's cache folder.

    If that cannot be written, it is a folder in the system's temporary one, and the log says so.

    Raises:
        InputError: neither can be written.
    """
    try:
        return _writable(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triptych")
    except RuntimeError:
        return _temporary("This user has no home folder")


@functools.cache  # says so once, and stays where it is when the temporary folder changes
def _writable(folder: Path) -> Path:
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if _is_folder(folder, os.R_OK) or _is_folder(nearest, os.W_OK):
        return folder  # perhaps read-only, with all that is needed
    return _temporary(f"Cannot write to {folder}")


def _is_folder(path: Path, mode: int) -> bool:
    # Asked in this order: `is_dir` raises an error where a folder around it must not be entered.
    return os.access(path, mode | os.X_OK) and path.is_dir()


@functools.cache
def _temporary(reason: str) -> Path:
    """Return a folder that nobody else can write to: files built by others would be run."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"triptych-cache-{user}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
            folder = Path(tempfile.mkdtemp(prefix="triptych-cache-"))
    except OSError:
        raise InputError(f"{reason}, and to no temporary folder. {NAME_CACHE}") from None
    log.warning("%s: built files go to %s, which the system may empty. %s", reason, folder, NAME_CACHE)
    return folder


def tool_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that a build uses."""
    versions = {}
    for name in (*TOOLS, *TOKENIZER_TOOLS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _recipe_key() -> str:
    root = Path(__file__).parents[1]
    sources = {name: sha256(root / name) for name in RECIPE} | {p.name: sha256(p) for p in (CALIBRATION, SHOWCASE)}
    return digest(
        {
            "sources": sources,
            "tools": tool_versions(),
            # A processor without VNNI gets 7-bit weights, which are another file.
            "reduce_range": cpu.saturates(),
        }
    )


def missing_tools(bundle: Bundle) -> list[str]:
    """Return the libraries that a build of this model needs and that are not installed."""
    needed = ("onnx", "onnxruntime") if bundle.graphs else TOOLS
    return sorted(set(needed) - set(tool_versions()))


def find(bundle: Bundle, cache: Path) -> Artifact | None:
    """Return the artefact of this bundle if it is in the cache, else None. Its files are verified when read.

    Raises:
        BundleError: it is in the cache, and its manifest is damaged.
    """
    content = content_key(bundle)
    if not missing_tools(bundle):
        candidates = [cache / f"{content}-{_recipe_key()}"]
    else:
        finished = [path for path in cache.glob(f"{content}-*/{MANIFEST}") if ".tmp-" not in path.parent.name]
        finished.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        candidates = [path.parent for path in finished]
    damage: BundleError | None = None
    for folder in candidates:
        try:
            manifest = read_manifest(folder / MANIFEST)
        except FileNotFoundError:
            continue
        except BundleError as error:
            damage = damage or error
            continue
        if manifest["reduce_range"] or not cpu.saturates():  # otherwise INT8 would overflow on this processor
            return Artifact(folder, manifest)
    if damage is not None:
        raise damage
    return None


def obtain(bundle: Bundle, cache: Path, progress: Progress | None = None, base: Path | None = None) -> Artifact:
    """Return the artefact of this bundle, built first if it is missing or damaged.

    Several processes can call this at once: one builds, the others wait for the result.

    Args:
        progress: also called with the damage that is the reason for a new build.

    Raises:
        BundleError: the bundle is damaged; or the artefact is, and it cannot be built again here.
        ExportError: the build failed or its result does not agree with PyTorch.
        MissingDependencyError: a build is needed and its libraries are not installed.
    """
    if missing := ", ".join(missing_tools(bundle)):
        artifact = find(bundle, cache)
        if artifact is not None:
            return artifact  # a damaged file cannot be built again here: reading it says what is wrong
        raise MissingDependencyError(
            f"No ONNX or INT8 model was built for {bundle.folder} and this processor (looked in {cache}), and building "
            f"one needs {missing}. Build it where requirements.txt is installed (python -m inference build --model "
            f"{bundle.folder}) and copy that folder here."
        )
    artifact, _ = _intact(bundle, cache)
    if artifact is not None:
        return artifact
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise ExportError(f"Cannot write built files to {cache}: {error.strerror}. {NAME_CACHE}") from None
    progress = progress or (lambda step, share: None)
    target = cache / f"{content_key(bundle)}-{_recipe_key()}"
    with FileLock(f"{target}.lock"):
        artifact, damage = _intact(bundle, cache)
        if artifact is not None:
            return artifact
        if damage:
            progress(f"building again: {damage}", 0.0)
        for stray in cache.glob(f"{target.name}.tmp-*"):  # of a killed build; we hold its lock
            shutil.rmtree(stray, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache))
        try:
            _fill(bundle, folder, progress, base)
            folder.chmod(0o755)  # mkdtemp makes it private, but the server can be another user
            shutil.rmtree(target, ignore_errors=True)  # a damaged one
            folder.replace(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Artifact(target, read_manifest(target / MANIFEST))


def _intact(bundle: Bundle, cache: Path) -> tuple[Artifact | None, str]:
    """Return the artefact if all of its files are intact, else None; and the damage, empty if there is none."""
    try:
        artifact = find(bundle, cache)
        if artifact is not None:
            artifact.verify()
    except BundleError as error:
        return None, str(error).partition(REBUILD)[0].rstrip(" :.")
    return artifact, ""


def _fill(bundle: Bundle, folder: Path, progress: Progress, base: Path | None) -> None:
    """Build into `folder`, write its manifest, and flush all of it to disk before a rename makes it visible."""
    started = time.perf_counter()
    result = build(bundle, folder, progress, base)
    check_same(bundle, base)  # otherwise files of another model would get this one's key
    paths = sorted(folder.iterdir())
    manifest = {
        "model": bundle.name,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build_seconds": round(time.perf_counter() - started, 1),
        "tools": tool_versions(),
        "reduce_range": cpu.saturates(),
        **result,
        "files": {path.name: {"sha256": sha256(path), "size_bytes": path.stat().st_size} for path in paths},
    }
    write_manifest(folder / MANIFEST, manifest)
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def deployed_files(
    bundle: Bundle, artifact: Artifact | None, backend: str, base: Path | None = None, *, offline: bool = False
) -> dict[str, Path]:
    """Return what must be deployed to run a backend, by its name in a measurement: model, tokenizer, configuration.

    Raises:
        BundleError: the base of the model is not here.
    """
    if not (file := RUNTIMES[backend].file):
        paths = bundle.paths(base, offline=offline)
    elif artifact is None or backend in artifact.missing:
        raise BundleError(f"{bundle.name} has no {RUNTIMES[backend].title} file.")
    else:
        weights = f"{Path(file).stem}_weights.bin"  # exists if the weights exceed 2 GB
        names = [file, *({weights} & set(artifact.manifest["files"])), TOKENIZER]
        paths = {name: artifact.folder / name for name in names}
    return paths | ({"bundle.json": bundle.folder / "bundle.json"} if bundle.format == "bundle" else {})


def model_sizes(bundle: Bundle, artifact: Artifact | None, base: Path | None = None) -> dict[str, int]:
    """Return the bytes of what must be deployed for each of the model's backends whose files are here."""
    sizes: dict[str, int] = {}
    for backend in bundle.backends:
        try:
            paths = deployed_files(bundle, artifact, backend, base, offline=True).values()
            sizes[backend] = sum(path.stat().st_size for path in paths)
        except (InferenceError, OSError):
            continue  # not built, or without the base
    return sizes
