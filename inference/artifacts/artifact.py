"""A built folder: its files, which are verified when they are read, and what its manifest says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.artifacts.manifest import REBUILD
from inference.backends import RUNTIMES
from inference.errors import BundleError, ExportError, importing
from inference.formats.bundle import Bundle
from inference.formats.files import check_digest
from inference.formats.tokenizer import TOKENIZER

if TYPE_CHECKING:
    from inference.onnx import Graph


@dataclass(frozen=True)
class Artifact:
    """A built folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]
    optional: Mapping[str, Artifact] = field(default_factory=dict)
    """Those of optional runtimes."""

    def of(self, backend: str) -> Artifact:
        """Return the artefact that has the file of this runtime."""
        return self.optional.get(backend, self)

    def read(self, backend: str) -> Graph:
        """Read the model for a runtime; the bytes that were verified are the bytes that run."""
        from inference.onnx import Graph

        if backend in self.missing:
            raise ExportError(f"This model has no {RUNTIMES[backend].title}: {self.missing[backend]}")
        if backend in self.optional:
            return self.optional[backend].read(backend)
        path = self.folder / RUNTIMES[backend].file
        digests = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        weights = f"{path.stem}_weights.bin"
        if weights in digests and path.suffix == ".onnx":
            with importing("A model above 2 GB", "-r requirements-onnx.txt"):
                from inference.onnx.io import read_graph
            return read_graph(path, self.folder, digests)
        model = self._read(path.name)
        return Graph(model, {weights: np.frombuffer(self._read(weights), np.uint8)} if weights in digests else {})

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            raise BundleError(f"{path} is missing. {REBUILD}") from None
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise BundleError(f"{path} is damaged: its SHA-256 is not the one recorded. {REBUILD}")
        return data

    @property
    def missing(self) -> dict[str, str]:
        """The runtimes for which the build made no file that answers as PyTorch does, and the reasons."""
        reasons = dict(self.manifest.get("missing", {}))
        return reasons | {name: other.missing[name] for name, other in self.optional.items() if name in other.missing}

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
        files, file = self.of(backend).manifest["files"], RUNTIMES[backend].file
        names = (file, f"{Path(file).stem}_weights.bin")
        return sum(int(files[name]["size_bytes"]) for name in names if name in files)

    @property
    def parity(self) -> dict[str, Any]:
        """How far the files agreed after the build: `texts`, `reference`, `backends` as from `parity.judge`.

        Optional runtimes have a `reference` and `texts` of their own.
        """
        parity = self.manifest["parity"]
        figures = {name: pair for other in self.optional.values() for name, pair in other.parity["backends"].items()}
        return {**parity, "backends": {**parity["backends"], **figures}}
