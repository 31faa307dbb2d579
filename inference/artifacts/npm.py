"""Fetch the few files that a static page needs from packages of the npm registry: once, pinned, without Node."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from inference.artifacts.cache import default_cache
from inference.errors import InputError

REGISTRY = "https://registry.npmjs.org"
MAX_BYTES = 64_000_000  # of a package; the larger of the two has 33 MB
TIMEOUT_S = 60
MIT = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True)
class Package:
    """A package at one version, with the digest of its archive."""

    name: str
    version: str
    sha512: str
    """In base 64, as in a package-lock.json."""
    files: tuple[str, ...]
    """Paths in the archive."""


ORT = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    (
        "package/dist/ort.wasm.min.mjs",
        "package/dist/ort-wasm-simd-threaded.mjs",
        "package/dist/ort-wasm-simd-threaded.wasm",
    ),
)
PLOTLY = Package(
    "plotly.js-basic-dist-min",
    "4.1.1",
    "1oNF8PeQx2hv/y7tqEVWKD3JGwn/MGEMQ8mL9HUwsaqG9FGy/OU5FHUHvzqbqxN4mnwZGI9abTiE775C4kkjMQ==",
    ("package/plotly-basic.min.js", "package/LICENSE"),
)


def fetch_package(package: Package, cache: Path | None = None) -> dict[str, bytes]:
    """Return the files of a package by their base names. Its archive is kept in the cache folder.

    Args:
        cache: default: `default_cache()`.

    Raises:
        InputError: the archive is not in the cache and cannot be fetched, or is not the pinned one.
    """
    archive = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
    kept = (cache or default_cache()) / "npm" / archive
    content = _kept(kept)
    if content is None or not _is_pinned(package, content):
        content = _fetched(package, archive, kept)
        with contextlib.suppress(OSError):  # it is fetched again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                (Path(folder) / archive).write_bytes(content)
                (Path(folder) / archive).replace(kept)
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as members:
        for name in package.files:
            member = members.extractfile(name)
            files[Path(name).name] = member.read() if member else b""
    return files


def _kept(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None


def _is_pinned(package: Package, content: bytes) -> bool:
    return hashlib.sha512(content).digest() == base64.b64decode(package.sha512)


def _fetched(package: Package, archive: str, kept: Path) -> bytes:
    registry = (_configured(os.environ) or REGISTRY).rstrip("/")
    host = _host(registry)
    where = f"{package.name} {package.version} from the npm registry {host}"
    remedy = f"Allow that connection, set npm_config_registry to a mirror, or put the archive at {kept}"
    if not host:
        raise InputError("npm_config_registry is not an address that begins with https:// or http://. Correct it.")
    try:
        address = f"{registry}/{package.name}/-/{archive}"
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(MAX_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:  # `URLError` is an OSError
        reason = getattr(error, "reason", None) or type(error).__name__
        raise InputError(f"Cannot fetch {where} ({str(reason)[:200]}). {remedy}.") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{archive}: the registry {host} sends more than {MAX_BYTES:,} bytes. {remedy}.")
    if not _is_pinned(package, content):
        raise InputError(f"{where} is not the archive whose SHA-512 is pinned, so it is not used. {remedy}.")
    return content


def _host(registry: str) -> str | None:
    """Return the host of a web address, which can hold a password; None if it is no web address."""
    try:
        parts = urlsplit(registry)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def _configured(environment: Mapping[str, str]) -> str | None:
    return environment.get("npm_config_registry") or environment.get("NPM_CONFIG_REGISTRY")
