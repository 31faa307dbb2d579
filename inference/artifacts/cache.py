"""The ONNX and INT8 files of a bundle: built once per content, found by its hash, verified when read.

An artefact is a folder `<content>-<recipe>` in the cache. `<content>` hashes the model itself (weights, adapter,
config, tokenizer, labels); `<recipe>` hashes how it is built: the source of the export, its texts, the versions of the
libraries, and whether the processor needs 7-bit weights. If those libraries are installed, both must match. If not
(ONNX Runtime alone), the newest folder with the right content is used: it could not be rebuilt there anyway.

The file of an optional runtime is in a folder of its own, `<runtime>-<content>-<recipe>`, and made only for a bundle
that has this runtime among its `backends`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inference import cpu
from inference.artifacts.artifact import Artifact as Artifact
from inference.artifacts.build import build
from inference.artifacts.manifest import MANIFEST, REBUILD, read_manifest, write_manifest
from inference.artifacts.optional import derive
from inference.assets import CALIBRATION, SHOWCASE
from inference.backends import RUNTIMES
from inference.errors import (
    BundleError,
    ExportError,
    InferenceError,
    InputError,
    MissingDependencyError,
)
from inference.formats.bundle import Bundle
from inference.formats.files import sha256, sync
from inference.formats.identity import check_same, content_key, digest
from inference.formats.tokenizer import TOKENIZER
from inference.jobs import Progress

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


def tool_versions(names: Iterable[str] = (*TOOLS, *TOKENIZER_TOOLS)) -> dict[str, str]:
    """Return the versions of those libraries that are installed (default: what a build uses)."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = _version(name)
    return versions


@functools.cache  # each takes a millisecond or more; one that is not installed is looked for again
def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _recipe() -> dict[str, Any]:
    root = Path(__file__).parents[1]
    sources = {name: sha256(root / name) for name in RECIPE} | {p.name: sha256(p) for p in (CALIBRATION, SHOWCASE)}
    # A processor without VNNI gets 7-bit weights, which are another file.
    return {"sources": sources, "tools": tool_versions(), "reduce_range": cpu.saturates()}


def _recipe_key() -> str:
    return digest(_recipe())


def _optional_key(artifact: Artifact, backend: str) -> str:
    """Return a hash of what determines the file of an optional runtime, besides the model itself."""
    spec = importlib.util.find_spec(RUNTIMES[backend].module)
    assert spec is not None and spec.origin is not None
    own = {path.name: sha256(path) for path in (Path(spec.origin), Path(__file__).with_name("optional.py"))}
    graph = artifact.manifest["files"][RUNTIMES["onnx"].file]["sha256"]
    return digest([_recipe(), own, tool_versions(RUNTIMES[backend].made_with), graph])


def missing_tools(bundle: Bundle) -> list[str]:
    """Return the libraries that a build of this model needs and that are not installed."""
    needed = ("onnx", "onnxruntime") if bundle.graphs else TOOLS
    return sorted(set(needed) - set(tool_versions()))


def _missing_makers(backend: str) -> list[str]:
    makers = RUNTIMES[backend].made_with
    return sorted(set(makers) - set(tool_versions(makers)))


def find(bundle: Bundle, cache: Path) -> Artifact | None:
    """Return the artefact of this bundle if all of it is in the cache, else None. Its files are verified when read.

    Raises:
        BundleError: it is in the cache, and its manifest is damaged.
    """
    artifact = _find_standard(bundle, cache)
    optional: dict[str, Artifact] = {}
    for name in _optional(bundle):
        other = artifact and _find_optional(bundle, artifact, name, cache)
        if other is None:
            return None
        optional[name] = other
    return artifact and replace(artifact, optional=optional)


def _find_standard(bundle: Bundle, cache: Path) -> Artifact | None:
    return _find(cache, content_key(bundle), None if missing_tools(bundle) else _recipe_key())


def _optional(bundle: Bundle) -> list[str]:
    return [name for name in bundle.backends if name in RUNTIMES and RUNTIMES[name].is_optional]


def _find_optional(bundle: Bundle, artifact: Artifact, backend: str, cache: Path) -> Artifact | None:
    if reason := artifact.missing.get("onnx"):  # it would be made from that file
        return replace(artifact, manifest={**artifact.manifest, "missing": {backend: reason}})
    key = None if _missing_makers(backend) else _optional_key(artifact, backend)
    return _find(cache, f"{backend}-{content_key(bundle)}", key)


def _find(cache: Path, prefix: str, key: str | None) -> Artifact | None:
    """Return the artefact in the folder `<prefix>-<key>`; without a key, in the newest one of this prefix."""
    if key is not None:
        candidates = [cache / f"{prefix}-{key}"]
    else:
        finished = [path for path in cache.glob(f"{prefix}-*/{MANIFEST}") if ".tmp-" not in path.parent.name]
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
    progress = progress or (lambda step, share: None)
    for backend in _optional(bundle):  # now, and not after a minute of building
        _check_makers(bundle, backend, cache)
    artifact = _obtain_standard(bundle, cache, progress, base)
    made = {name: _obtain_optional(bundle, artifact, name, cache, progress, base) for name in _optional(bundle)}
    return replace(artifact, optional=made)


def _obtain_standard(bundle: Bundle, cache: Path, progress: Progress, base: Path | None) -> Artifact:
    if missing := ", ".join(missing_tools(bundle)):
        artifact = _find_standard(bundle, cache)
        if artifact is not None:
            return artifact  # a damaged file cannot be built again here: reading it says what is wrong
        raise MissingDependencyError(
            f"No ONNX or INT8 model was built for {bundle.folder} and this processor (looked in {cache}), and building "
            f"one needs {missing}. Build it where requirements.txt is installed (python -m inference build --model "
            f"{bundle.folder}) and copy that folder here."
        )
    target = cache / f"{content_key(bundle)}-{_recipe_key()}"

    def fill(folder: Path) -> None:
        _fill(bundle, folder, base, lambda: build(bundle, folder, progress, base))

    return _made_once(target, partial(_find_standard, bundle, cache), fill, progress)


def _obtain_optional(
    bundle: Bundle, artifact: Artifact, backend: str, cache: Path, progress: Progress, base: Path | None
) -> Artifact:
    search = partial(_find_optional, bundle, artifact, backend, cache)
    if _missing_makers(backend) or "onnx" in artifact.missing:
        built = search()
        if built is None:  # since `_check_makers` saw it, another process has removed it
            raise MissingDependencyError(f"{RUNTIMES[backend].title} is no longer in {cache}. Build it again.")
        return built
    target = cache / f"{backend}-{content_key(bundle)}-{_optional_key(artifact, backend)}"

    def fill(folder: Path) -> None:
        _fill(bundle, folder, base, lambda: derive(bundle, artifact, backend, folder, progress))

    return _made_once(target, search, fill, progress)


def _check_makers(bundle: Bundle, backend: str, cache: Path) -> None:
    """Raise MissingDependencyError if the file of an optional runtime neither is here nor can be made."""
    runtime, missing = RUNTIMES[backend], _missing_makers(backend)
    if missing and _find(cache, f"{backend}-{content_key(bundle)}", None) is None:
        raise MissingDependencyError(
            f"{runtime.title} needs the library {missing[0]!r}, which is not installed. "
            f"Install it: pip install {runtime.requirements}"
        )


def _made_once(
    target: Path, search: Callable[[], Artifact | None], fill: Callable[[Path], None], progress: Progress
) -> Artifact:
    """Return the artefact that `search` gives if it is intact, else that of the folder `target`, filled by `fill`."""
    artifact, _ = _intact(search)
    if artifact is not None:
        return artifact
    from filelock import FileLock

    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise ExportError(f"Cannot write built files to {cache}: {error.strerror}. {NAME_CACHE}") from None
    with FileLock(f"{target}.lock"):
        artifact, damage = _intact(search)
        if artifact is not None:
            return artifact
        if damage:
            progress(f"building again: {damage}", 0.0)
        for stray in cache.glob(f"{target.name}.tmp-*"):  # of a killed build; we hold its lock
            shutil.rmtree(stray, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache))
        try:
            fill(folder)
            folder.chmod(0o755)  # mkdtemp makes it private, but the server can be another user
            shutil.rmtree(target, ignore_errors=True)  # a damaged one
            folder.replace(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Artifact(target, read_manifest(target / MANIFEST))


def _intact(search: Callable[[], Artifact | None]) -> tuple[Artifact | None, str]:
    """Return the artefact if all of its files are intact, else None; and the damage, empty if there is none."""
    try:
        artifact = search()
        if artifact is not None:
            artifact.verify()
    except BundleError as error:
        return None, str(error).partition(REBUILD)[0].rstrip(" :.")
    return artifact, ""


def _fill(bundle: Bundle, folder: Path, base: Path | None, make: Callable[[], dict[str, Any]]) -> None:
    """Let `make` write into `folder`, add a manifest, and flush all to disk before a rename makes it visible."""
    started = time.perf_counter()
    result = make()
    check_same(bundle, base)  # otherwise files of another model would get this one's key
    paths = sorted(folder.iterdir())
    makers = RUNTIMES[result["runtime"]].made_with if "runtime" in result else ()
    manifest = {
        "model": bundle.name,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build_seconds": round(time.perf_counter() - started, 1),
        "tools": tool_versions() | tool_versions(makers),
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
        own = artifact.of(backend)
        weights = f"{Path(file).stem}_weights.bin"  # an ONNX file has one if its weights exceed 2 GB
        paths = {name: own.folder / name for name in (file, weights) if name in own.manifest["files"]}
        paths[TOKENIZER] = artifact.folder / TOKENIZER
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
